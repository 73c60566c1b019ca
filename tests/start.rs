//! Starts that do not go by the book: the socket is up, Status says why, and all gets
//! well by itself.

#![allow(clippy::unwrap_used, reason = "the helpers are part of the tests")]

mod common;

use std::time::Duration;

use common::daemon::Daemon;
use common::token::Token;
use common::{eventually, seed};
use nix::sys::signal::Signal;
use tonic::Code;

/// Starts with such a token: Status says these words, calls are refused, and all is well
/// once the token behaves.
async fn refuses_and_gets_well(fault: &str, set: &[&str], words: &str) {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    faults.set(fault).unwrap();
    let daemon = Daemon::spawn(&token, set);
    daemon.unwell(words).await;
    let refusal = daemon.client().await.encrypt(&seed(1, 32)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    faults.clear().unwrap();
    daemon.well().await;
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn a_token_that_is_slow_to_start() {
    let set = ["server.request-timeout=500ms"];
    refuses_and_gets_well("C_Initialize hang", &set, "the token is being started").await;
}

/// It is given up after `start-timeout`, and the next attempt works.
#[tokio::test]
async fn a_token_that_hangs_in_its_login() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    faults.set("C_Login hang times=1").unwrap();
    let daemon = Daemon::spawn(&token, &["token.start-timeout=1s"]);
    daemon.logged("did not start and log in within 1s").await;
    daemon.well().await;
    daemon.all_workers(2).await;
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn a_token_that_is_not_there_yet() {
    let lost = "token lost return=CKR_TOKEN_NOT_PRESENT";
    refuses_and_gets_well(lost, &[], "no initialised token").await;
}

/// systemd's watchdog is for a front that is stuck, not for a token that hangs.
#[tokio::test]
async fn the_watchdog_is_fed_by_a_living_front_alone() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let path = token.path("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut command = token.command();
    command.args(["--set", "token.start-timeout=10m", "serve"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "4000000");
    let daemon = Daemon::run(&token, command);
    let fed = || {
        let mut buffer = [0; 1000];
        let mut times = 0;
        while let Ok(len) = socket.recv(&mut buffer) {
            times += usize::from(buffer[..len].starts_with(b"WATCHDOG=1"));
        }
        times
    };
    daemon.well().await;
    faults.set("* hang").unwrap();
    daemon.unwell("").await;
    fed();
    for _ in 0..3 {
        eventually("food while the token hangs", async || (fed() > 0).then_some(())).await;
    }
    daemon.signal(Signal::SIGSTOP);
    // A thread on another processor may have been on its way.
    tokio::time::sleep(Duration::from_millis(300)).await;
    fed();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(fed(), 0, "a front that stands still is not alive");
    daemon.signal(Signal::SIGCONT);
    eventually("food once it goes on", async || (fed() > 0).then_some(())).await;
    faults.clear().unwrap();
    daemon.well().await;
    daemon.stop().await;
}
