//! Signals, lost tokens, and what systemd is told.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use common::client::{Client, request_for};
use common::daemon::Daemon;
use common::load::Load;
use common::token::Token;
use common::{eventually, seed};
use nix::sys::signal::Signal;
use nix::unistd::getuid;
use tokio::task::JoinSet;

/// Calls that hang as long as their worker is stopped.
const PATIENT: [&str; 2] = ["token.call-timeout=25s", "server.request-timeout=25s"];

#[tokio::test]
async fn sigterm_lets_every_call_finish() {
    let token = Token::with_kek();
    let mut daemon = Daemon::start_with(&token, &PATIENT).await;
    let client = daemon.client().await;
    let workers = daemon.all_workers(2).await;
    for worker in &workers {
        worker.suspend();
    }
    let mut calls = JoinSet::new();
    for salt in 0..300 {
        let client = client.clone();
        calls.spawn(async move { client.encrypt(&seed(salt, 32)).await });
    }
    // One connection keeps the order: when Status is answered, the calls are there.
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.status().await.unwrap();

    daemon.signal(Signal::SIGTERM);
    daemon.logged("shutting down").await;
    let gone = async || (!token.path("run/kms.sock").exists()).then_some(());
    eventually("the end of the socket", gone).await;
    Client::connect(daemon.endpoint()).await.map(drop).unwrap_err();
    for worker in &workers {
        worker.signal(Signal::SIGCONT);
    }
    for outcome in calls.join_all().await {
        outcome.unwrap();
    }
    drop(client);
    assert!(daemon.end().await.success());
    assert_eq!(daemon.logged("stopped").await["drained"], "Complete");
}

/// Nobody waits for a token that hangs longer than the drain may take.
#[tokio::test]
async fn sigterm_cuts_off_calls_that_do_not_end() {
    let token = Token::with_kek();
    let mut daemon = Daemon::start_with(&token, &PATIENT).await;
    let client = daemon.client().await;
    for worker in daemon.all_workers(2).await {
        worker.suspend();
    }
    let call = tokio::spawn(async move { client.encrypt(&seed(1, 32)).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().await.success());
    assert!(call.await.unwrap().is_err(), "a stopped worker has answered");
    let line = daemon.logged("stopped").await;
    assert!(line["drained"].as_str().unwrap().starts_with("Cut"), "{line}");
}

#[tokio::test]
async fn sigterm_ends_an_idle_daemon_and_one_without_a_token() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    client.round_trip(&seed(1, 32)).await.unwrap();
    // An idle connection does not hold it up.
    daemon.stop().await;

    let away = Token::without_token();
    let daemon = Daemon::spawn(&away, &[]);
    daemon.unwell("no initialised token").await;
    daemon.stop().await;
}

#[tokio::test]
async fn sighup_reads_the_config_again() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let old_workers = daemon.all_workers(2).await;
    let client = daemon.client().await;
    let uids = format!("allow-uids = [{}]", getuid());

    // A config that is wrong changes nothing.
    token.change_config(&uids, "allow-uids = \"all\"");
    daemon.signal(Signal::SIGHUP);
    let line = daemon.logged("the old one stays").await;
    assert!(line["message"].as_str().unwrap().contains("server.allow-uids"), "{line}");
    client.round_trip(&seed(1, 32)).await.unwrap();
    assert_eq!(daemon.workers(), old_workers);

    // A new list counts at once, for open connections too.
    token.write_config(&token.usual_config().replace(&uids, "allow-uids = [12345]"));
    daemon.signal(Signal::SIGHUP);
    daemon.logged("no longer allowed").await;
    eventually("a refusal", async || client.status().await.err()).await;

    token.write_config(&token.usual_config());
    daemon.signal(Signal::SIGHUP);
    daemon.well().await;
    client.round_trip(&seed(2, 32)).await.unwrap();
    eventually("new workers", async || {
        let now = daemon.workers();
        (now.len() == 2 && now.iter().all(|worker| !old_workers.contains(worker))).then_some(())
    })
    .await;
    daemon.stop().await;
}

/// Keys of one label and the record of another would not go together.
#[tokio::test]
async fn a_changed_label_waits_for_a_restart_however_often_the_config_is_read() {
    let token = Token::with_kek();
    token.keygen("other-0007", "AES:32", common::token::GOOD);
    let daemon = Daemon::start(&token).await;
    let status = daemon.well().await;
    token.change_config("label = \"k8s-kek\"", "label = \"other\"");
    for round in 1..=2 {
        daemon.signal(Signal::SIGHUP);
        let read = || daemon.count("config and PIN are read again") == round;
        eventually("the config is read", async || read().then_some(())).await;
        let renewed = || daemon.count("the worker is logged in") >= 2 + 2 * round;
        eventually("new workers", async || renewed().then_some(())).await;
        assert_eq!(daemon.well().await.key_id, status.key_id);
        assert_eq!(daemon.count("a changed keyring.label takes effect after a restart"), round);
    }
    daemon.stop().await;
}

#[tokio::test]
async fn sighup_under_load_fails_no_call() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    daemon.all_workers(2).await;
    let load = Load::start(&daemon.client().await, 8);
    for done in 1..=3 {
        load.go_on_for(100).await;
        daemon.signal(Signal::SIGHUP);
        eventually("two new workers", async || {
            (daemon.count("the worker is logged in") >= 2 + 2 * done).then_some(())
        })
        .await;
    }
    load.go_on_for(100).await;
    load.finish().await;
    daemon.stop().await;
}

/// The directory of SoftHSM's tokens goes away, as a network HSM would.
async fn lose_the_token(token: &Token, daemon: &mut Daemon) {
    daemon.all_workers(2).await;
    let client = daemon.client().await;
    let key_id = client.status().await.unwrap().key_id;
    fs::rename(token.path("tokens"), token.path("away")).unwrap();
    let status = daemon.unwell("").await;
    assert_eq!(status.key_id, key_id, "the name stays");
    let refusal = client.encrypt(&seed(2, 32)).await.unwrap_err();
    assert!(!refusal.message().is_empty(), "{refusal:?}");
    assert!(daemon.is_running(), "a lost token is no reason to end");
    fs::rename(token.path("away"), token.path("tokens")).unwrap();
}

#[tokio::test]
async fn a_lost_token_is_told_and_sighup_brings_it_back() {
    let token = Token::with_kek();
    let mut daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    let before = client.encrypt(&seed(1, 32)).await.unwrap();
    lose_the_token(&token, &mut daemon).await;
    daemon.signal(Signal::SIGHUP);
    assert_eq!(daemon.well().await.key_id, before.key_id);
    let back = client.decrypt(request_for(&before)).await.unwrap();
    assert!(back == seed(1, 32));
    daemon.stop().await;
}

#[tokio::test]
async fn a_lost_token_comes_back_by_itself() {
    let token = Token::with_kek();
    let mut daemon = Daemon::start(&token).await;
    let before = daemon.well().await.key_id;
    lose_the_token(&token, &mut daemon).await;
    assert_eq!(daemon.well().await.key_id, before);
    daemon.client().await.round_trip(&seed(3, 32)).await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn it_starts_before_its_token() {
    let token = Token::without_token();
    let daemon = Daemon::spawn(&token, &[]);
    let status = daemon.unwell("no initialised token").await;
    assert_eq!(status.key_id, "");
    let client = daemon.client().await;
    let refusal = client.encrypt(&seed(1, 32)).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::Unavailable, "{refusal:?}");
    token.initialise();
    daemon.unwell("p11-kms key generate").await;
    daemon.all_workers(2).await;
    token.run(&["key", "generate"]).expect(0, &[]);
    daemon.well().await;
    client.round_trip(&seed(1, 32)).await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn systemd_is_told_when_the_socket_is_up_and_when_it_ends() {
    let token = Token::with_kek();
    let path = token.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut said = Vec::new();
    let mut next = |wanted: &str| {
        let mut buffer = [0; 4096];
        while let Ok(len) = socket.recv(&mut buffer) {
            said.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
        }
        let place = said.iter().position(|it| it.lines().any(|line| line.starts_with(wanted)))?;
        Some(said.drain(..=place).next_back().unwrap())
    };
    let mut command = token.command();
    command.arg("serve").env("NOTIFY_SOCKET", &path);
    let mut daemon = Daemon::run(&token, command);

    let ready = eventually("READY=1", async || next("READY=1")).await;
    assert!(token.path("run/kms.sock").exists(), "READY=1 came before the socket");
    assert!(ready.contains("STATUS="), "{ready}");
    daemon.well().await;
    daemon.signal(Signal::SIGHUP);
    let reloading = eventually("RELOADING=1", async || next("RELOADING=1")).await;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    eventually("READY=1 again", async || next("READY=1")).await;
    daemon.signal(Signal::SIGTERM);
    eventually("STOPPING=1", async || next("STOPPING=1")).await;
    assert!(daemon.end().await.success());
}
