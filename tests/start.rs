//! Starts that do not go by the book: the socket is up, Status says why, and all gets
//! well by itself.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

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
    let manager = Manager::at(&path);
    let mut command = token.command();
    command.args(["--set", "token.start-timeout=10m", "serve"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "4000000");
    let daemon = Daemon::run(&token, command);
    let fed = || manager.fed();
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

/// What the service manager is told, for a test that plays it.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    /// Leaves no room for one message more.
    fn overwhelm(&self) {
        let place = self.0.local_addr().unwrap();
        // Each sender has a limit of its own, which may come before that of the queue.
        while UnixDatagram::unbound().is_ok_and(|sender| {
            sender.set_nonblocking(true).unwrap();
            sender.send_to_addr(b"EXTEND_TIMEOUT_USEC=1", &place).is_ok()
        }) {}
    }

    /// All that has come.
    fn heard(&self) -> Vec<String> {
        let mut buffer = [0; 1000];
        let mut next = || self.0.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec());
        let messages = std::iter::from_fn(&mut next);
        messages.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }

    /// So often the watchdog was fed since the last look.
    fn fed(&self) -> usize {
        self.heard().iter().filter(|it| it.starts_with("WATCHDOG=1")).count()
    }
}

/// One that is stuck itself, or starts anew: nobody may have to wait for it.
#[tokio::test]
async fn a_service_manager_that_does_not_read_stops_nobody() {
    let token = Token::with_kek();
    let path = token.path("notify");
    let manager = Manager::at(&path);
    manager.overwhelm();
    let mut command = token.command();
    command.arg("serve").env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    let daemon = Daemon::run(&token, command);
    daemon.well().await;
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    for reloads in 1..=2 {
        daemon.signal(Signal::SIGHUP);
        let read = || daemon.count("config and PIN are read again") == reloads;
        eventually("the config is read again", async || read().then_some(())).await;
    }
    daemon.well().await;
    // It reads again, and hears what counts.
    let ready = || manager.heard().iter().any(|it| it.starts_with("READY=1"));
    eventually("READY=1", async || ready().then_some(())).await;
    eventually("food", async || (manager.fed() > 0).then_some(())).await;
    daemon.stop().await;
}

/// However little patience it has: the accept loop is asked, and does not wait for its own time.
#[tokio::test]
async fn a_hungry_watchdog_is_fed_often_enough() {
    let token = Token::with_kek();
    let path = token.path("notify");
    let manager = Manager::at(&path);
    let mut command = token.command();
    command.arg("serve").env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    let daemon = Daemon::run(&token, command);
    daemon.well().await;
    let began = Instant::now();
    let mut fed = 0;
    while began.elapsed() < Duration::from_secs(6) {
        fed += manager.fed();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Four times a second; once a second would be too late each time.
    assert!(fed > 10, "{fed} times in {:?}", began.elapsed());
    daemon.stop().await;
}

/// A disk that hangs keeps the daemon at its start.
#[tokio::test]
async fn a_sighup_that_comes_too_early_ends_nobody() {
    let token = Token::with_kek();
    Daemon::start(&token).await.stop().await;
    let lock = File::open(token.path("state/lock")).unwrap();
    lock.lock().unwrap();
    let daemon = Daemon::spawn(&token, &[]);
    let up = || token.path("run/kms.sock").exists();
    eventually("the socket", async || up().then_some(())).await;
    daemon.signal(Signal::SIGHUP);
    lock.unlock().unwrap();
    daemon.well().await;
    daemon.logged("config and PIN are read again").await;
    daemon.stop().await;
}

/// What is only to be written down must not hold up the end for ever.
#[tokio::test]
async fn a_state_directory_that_hangs_does_not_keep_the_daemon() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    let lock = File::open(token.path("state/lock")).unwrap();
    lock.lock().unwrap();
    daemon.client().await.round_trip(&seed(2, 32)).await.unwrap();
    daemon.well().await;
    daemon.stop().await;
}
