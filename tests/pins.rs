//! A token that locks its PIN after some wrong ones is never brought nearer to that.

#![allow(clippy::unwrap_used, reason = "the helpers are part of the tests")]

mod common;

use std::time::Duration;

use common::daemon::Daemon;
use common::load::Load;
use common::token::{PIN, Token};
use common::{eventually, seed};
use faulty_module::Control;
use nix::sys::signal::Signal;
use tokio::time::sleep;

/// Long enough for several looks at the PIN file, one a second.
const A_WHILE: Duration = Duration::from_secs(3);

/// One worker logs in again by itself; with several, none does.
const ONE_WORKER: [&str; 2] = ["token.workers=1", "token.sessions=4"];

#[tokio::test]
async fn a_token_that_locks_after_three_is_not_locked() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    faults.set("token pin-tries=3").unwrap();
    token.write_pin("wrong", 0o600);
    let daemon = Daemon::spawn(&token, &["token.workers=4"]);
    daemon.unwell("CKR_PIN_INCORRECT").await;
    sleep(A_WHILE).await;
    assert_eq!(faults.failed_pins(), 1);
    // The operator corrects it, and one wrong PIN is forgiven by a right one.
    token.write_pin(PIN, 0o600);
    daemon.well().await;
    daemon.all_workers(4).await;
    assert_eq!(faults.failed_pins(), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn on_its_final_try_and_once_locked_nobody_logs_in() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    for (flag, words) in [("final-try", "FINAL_TRY"), ("locked", "PIN_LOCKED")] {
        let before = faults.count("C_Login");
        faults.set(&format!("token pin-flags={flag}")).unwrap();
        let daemon = Daemon::spawn(&token, &[]);
        let status = daemon.unwell(words).await;
        assert!(status.healthz.contains("SIGHUP"), "{status:?}");
        sleep(A_WHILE).await;
        assert_eq!(faults.count("C_Login"), before, "{flag}");
        // The operator has unlocked it, and says so.
        faults.clear().unwrap();
        daemon.signal(Signal::SIGHUP);
        daemon.well().await;
        daemon.all_workers(2).await;
        daemon.stop().await;
    }
}

/// After so many logins nobody tries again until it is asked for.
async fn the_counter_decides(daemon: &Daemon, faults: &Control, logins: u64) {
    daemon.unwell("CKF_USER_PIN_COUNT_LOW").await;
    sleep(A_WHILE).await;
    assert_eq!(faults.count("C_Login"), logins);
    faults.clear().unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.well().await;
}

/// A token may make whoever gave a wrong PIN wait. Nobody saw the answer, but the counter did.
#[tokio::test]
async fn after_a_login_that_did_not_come_back_the_counter_decides() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    faults.set("C_Login hang times=1\ntoken pin-flags=count-low").unwrap();
    let daemon = Daemon::spawn(&token, &["token.start-timeout=1s"]);
    the_counter_decides(&daemon, faults, 1).await;
    daemon.stop().await;
}

/// The same if the module has crashed in it.
#[tokio::test]
async fn after_a_login_that_crashed_the_counter_decides() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    faults.set("C_Login segv times=1\ntoken pin-flags=count-low").unwrap();
    let daemon = Daemon::spawn(&token, &[]);
    the_counter_decides(&daemon, faults, 1).await;
    daemon.stop().await;
}

/// And if a worker that had been at work crashes as it logs in again.
#[tokio::test]
async fn after_a_second_login_that_crashed_the_counter_decides() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = Daemon::start_with(&token, &ONE_WORKER).await;
    faults.set("C_Login segv times=1\ntoken pin-flags=count-low\ntoken logged-out").unwrap();
    the_counter_decides(&daemon, faults, 2).await;
    daemon.stop().await;
}

/// A crash in another call is no login: a counter that somebody else has made low does not count.
#[tokio::test]
async fn after_a_crash_at_work_the_pin_is_not_in_doubt() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = Daemon::start_with(&token, &ONE_WORKER).await;
    faults.set("C_WrapKey segv times=1\ntoken pin-flags=count-low").unwrap();
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    assert_eq!(faults.strikes(), 1);
    daemon.logged("a wrong PIN was tried before").await;
    daemon.well().await;
    daemon.stop().await;
}

/// Two workers stay two until a restart, and each of them knows that it is not alone.
#[tokio::test]
async fn a_changed_number_of_workers_gives_a_wrong_pin_no_second_attempt() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = Daemon::start(&token).await;
    token.change_config("profile = \"softhsm\"", "profile = \"softhsm\"\nworkers = 1");
    daemon.signal(Signal::SIGHUP);
    daemon.logged("a changed token.workers takes effect after a restart").await;
    eventually("two new workers", async || {
        (daemon.count("the worker is logged in") >= 4).then_some(())
    })
    .await;
    daemon.all_workers(2).await;
    faults.set("token pin-refused\ntoken pin-tries=9\ntoken logged-out").unwrap();
    let client = daemon.client().await;
    for _ in 0..50 {
        let _ = client.encrypt(&seed(1, 32)).await;
    }
    daemon.unwell("CKR_PIN_INCORRECT").await;
    sleep(A_WHILE).await;
    assert_eq!(faults.failed_pins(), 1);
    daemon.stop().await;
}

/// The login is lost, not the PIN: the worker logs in again, and no caller notices.
#[tokio::test]
async fn a_worker_that_was_logged_out_logs_in_again_by_itself() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = Daemon::start_with(&token, &ONE_WORKER).await;
    let workers = daemon.workers();
    let load = Load::start(&daemon.client().await, 8);
    load.go_on_for(100).await;
    for (fault, logins) in [("token logged-out", 2), ("token sessions-dropped", 3)] {
        faults.set(fault).unwrap();
        eventually("a new login", async || (faults.count("C_Login") == logins).then_some(())).await;
        load.go_on_for(100).await;
    }
    load.finish().await;
    assert_eq!(daemon.workers(), workers, "no worker was replaced");
    assert_eq!(faults.count("C_Login"), 3, "one login for all four sessions");
    assert_eq!(daemon.well().await.healthz, "ok");
    daemon.stop().await;
}

/// With workers beside it a worker could not know who else tries the same PIN.
#[tokio::test]
async fn where_several_workers_lose_their_login_no_caller_notices() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = Daemon::start(&token).await;
    let load = Load::start(&daemon.client().await, 8);
    load.go_on_for(100).await;
    for (fault, workers) in [("token logged-out", 4), ("token sessions-dropped", 6)] {
        faults.set(fault).unwrap();
        let logged_in = || daemon.count("the worker is logged in") >= workers;
        eventually("two new workers", async || logged_in().then_some(())).await;
        load.go_on_for(100).await;
    }
    load.finish().await;
    daemon.stop().await;
}

/// Somebody has changed the PIN on the token: that is found out with one attempt.
#[tokio::test]
async fn a_worker_that_finds_its_pin_wrong_does_not_try_it_again() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = Daemon::start_with(&token, &ONE_WORKER).await;
    faults.set("token pin-refused\ntoken pin-tries=3\ntoken logged-out").unwrap();
    let status = daemon.unwell("CKR_PIN_INCORRECT").await;
    assert!(status.healthz.contains("will not try this PIN again"), "{status:?}");
    sleep(A_WHILE).await;
    assert_eq!(faults.failed_pins(), 1);
    faults.clear().unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.well().await;
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    daemon.stop().await;
}
