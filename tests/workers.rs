//! Worker processes: killed, hung, grown, left alone. No caller notices.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::time::Duration;

use common::daemon::Daemon;
use common::load::Load;
use common::token::Token;
use common::{eventually, seed};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

/// Calls that hang as long as their worker is stopped.
const PATIENT: [&str; 2] = ["token.call-timeout=25s", "server.request-timeout=25s"];

#[tokio::test]
async fn a_killed_worker_fails_no_call() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let load = Load::start(&daemon.client().await, 8);
    for _ in 0..3 {
        // Both are logged in: whoever is killed while SoftHSM writes leaves half a token.
        let workers = daemon.all_workers(2).await;
        load.go_on_for(100).await;
        let ready = daemon.count("the worker is logged in");
        workers[0].signal(Signal::SIGKILL);
        eventually("a new worker", async || {
            (daemon.count("the worker is logged in") > ready).then_some(())
        })
        .await;
        assert!(!workers[0].is_alive());
    }
    load.go_on_for(100).await;
    load.finish().await;
    assert_eq!(daemon.count("the worker process"), 3);
    daemon.well().await;
    daemon.stop().await;
}

/// A call waits for the next worker, inside its deadline.
#[tokio::test]
async fn without_a_worker_a_call_waits() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    for worker in daemon.all_workers(2).await {
        worker.signal(Signal::SIGKILL);
    }
    eventually("the end of both", async || (daemon.count("the worker process") == 2).then_some(()))
        .await;
    client.round_trip(&seed(1, 32)).await.unwrap();
    daemon.well().await;
    daemon.stop().await;
}

/// The same before the daemon has noticed: the call goes to one dead worker, then to the other.
#[tokio::test]
async fn a_call_outlives_both_workers() {
    for salt in 0..20 {
        let token = Token::with_kek();
        let daemon = Daemon::start(&token).await;
        let client = daemon.client().await;
        for worker in daemon.all_workers(2).await {
            worker.signal(Signal::SIGKILL);
        }
        client.round_trip(&seed(salt, 32)).await.unwrap();
        daemon.stop().await;
    }
}

/// A module that hangs is a worker that does not answer.
#[tokio::test]
async fn a_hung_worker_is_replaced_and_its_calls_are_answered() {
    let token = Token::with_kek();
    let set = ["token.workers=1", "token.call-timeout=500ms"];
    let daemon = Daemon::start_with(&token, &set).await;
    let workers = daemon.all_workers(1).await;
    let client = daemon.client().await;
    workers[0].suspend();
    let mut calls = JoinSet::new();
    for salt in 0..20 {
        let client = client.clone();
        calls.spawn(async move { client.encrypt(&seed(salt, 32)).await });
    }
    // Status does not wait for the token.
    client.status().await.unwrap();
    for outcome in calls.join_all().await {
        outcome.unwrap();
    }
    let line = daemon.logged("the module hangs").await;
    assert!(line["message"].as_str().unwrap().contains("token.call-timeout"), "{line}");
    assert!(!workers[0].is_alive());
    daemon.well().await;
    daemon.stop().await;
}

#[tokio::test]
async fn no_worker_outlives_its_front_hung_or_not() {
    let token = Token::with_kek();
    let mut daemon = Daemon::start_with(&token, &PATIENT).await;
    let workers = daemon.all_workers(2).await;
    workers[0].suspend();
    daemon.signal(Signal::SIGKILL);
    assert!(!daemon.end().await.success());
    eventually("the end of the workers", async || {
        workers.iter().all(|worker| !worker.is_alive()).then_some(())
    })
    .await;
}

/// SoftHSM truncates and writes its token at every login.
#[tokio::test]
async fn a_front_that_is_killed_during_its_start_does_not_hurt_the_token() {
    let token = Token::with_kek();
    for round in 0..80 {
        let mut daemon = Daemon::spawn(&token, &[]);
        tokio::time::sleep(Duration::from_millis(5 + round % 20)).await;
        daemon.signal(Signal::SIGKILL);
        daemon.end().await;
        // What it left behind ends by itself.
        tokio::time::sleep(Duration::from_millis(20)).await;
        token.run(&["key", "list"]).expect(0, &[]);
    }
}

/// SoftHSM frees no session object before C_Finalize.
#[tokio::test]
async fn a_worker_that_has_grown_is_replaced_and_no_call_fails() {
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &["token.replace-after-objects=200"]).await;
    let first = daemon.all_workers(2).await;
    let load = Load::start(&daemon.client().await, 8);
    eventually("six replacements", async || {
        (daemon.count("replacing the worker") >= 6).then_some(())
    })
    .await;
    load.finish().await;
    assert_eq!(daemon.count("no worker could be started"), 0);
    eventually("the end of the first ones", async || {
        first.iter().all(|worker| !worker.is_alive()).then_some(())
    })
    .await;
    assert_eq!(daemon.well().await.healthz, "ok");
    daemon.stop().await;
}
