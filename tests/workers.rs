//! Worker processes: killed, hung, grown, left alone. No caller notices.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::client::request_for;
use common::daemon::Daemon;
use common::load::Load;
use common::process::Process;
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

/// Waits for so many since the start. On a busy machine a call may be late, which costs one more.
async fn logins(daemon: &Daemon, count: usize) {
    let enough = || daemon.count("the worker is logged in") >= count;
    eventually("new workers", async || enough().then_some(())).await;
}

/// A module may fork a helper. It belongs to its worker's process group.
struct Helper(Child);

impl Helper {
    fn of(worker: Process) -> Self {
        let group = i32::try_from(worker.id()).unwrap();
        // It ends with this test at the latest, however that ends: then nobody holds its input.
        let mut helper = Command::new("cat");
        Self(helper.stdin(Stdio::piped()).process_group(group).spawn().unwrap())
    }

    async fn gone(mut self) {
        eventually("the end of a helper", async || self.0.try_wait().unwrap()).await;
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_the_module_has_forked_ends_with_its_worker() {
    let token = Token::with_kek();
    let set = ["token.call-timeout=500ms", PATIENT[1]];
    let daemon = Daemon::start_with(&token, &set).await;
    let client = daemon.client().await;
    let killed = daemon.all_workers(2).await;
    let helpers = [Helper::of(killed[0]), Helper::of(killed[1])];
    // One crashes, the other one hangs and is killed.
    killed[0].signal(Signal::SIGKILL);
    killed[1].suspend();
    let [crashed, hung] = helpers;
    crashed.gone().await;
    while killed[1].is_alive() {
        client.round_trip(&seed(1, 32)).await.unwrap();
    }
    hung.gone().await;
    logins(&daemon, 4).await;

    // One is let go.
    let helper = Helper::of(daemon.all_workers(2).await[0]);
    daemon.signal(Signal::SIGHUP);
    helper.gone().await;
    logins(&daemon, 6).await;

    daemon.stop().await;
}

/// Its listeners, its log files, its connections: none is the module's affair.
#[tokio::test]
async fn a_worker_inherits_none_of_the_fronts_descriptors() {
    let token = Token::with_kek();
    let tool = Path::new("/usr/bin/systemd-socket-activate");
    assert!(
        tool.exists(),
        "{} is missing: `softhsm-test/run` installs it (package systemd)",
        tool.display()
    );
    let (socket, audit) = (token.path("activated.sock"), token.path("audit.jsonl"));
    let conf = token.path("softhsm2.conf");
    let mut command = token.prepared(tool.to_str().unwrap());
    command
        .arg(format!("--listen={}", socket.display()))
        .arg(format!("--setenv=SOFTHSM2_CONF={}", conf.display()))
        .arg(env!("CARGO_BIN_EXE_p11-kms"))
        .arg("--config")
        .arg(token.config())
        .arg(format!("--set=audit.file={}", audit.display()))
        .arg(format!("--set=metrics.listen=unix://{}", token.path("metrics.sock").display()))
        .arg("serve");
    let daemon = Daemon::run(&token, command).at(&format!("unix://{}", socket.display()));
    daemon.well().await;
    let _open = daemon.client().await;
    let opened = |id: u32| -> BTreeSet<PathBuf> {
        let open = fs::read_dir(format!("/proc/{id}/fd")).unwrap();
        open.flatten().filter_map(|it| fs::read_link(it.path()).ok()).collect()
    };
    let fronts = opened(daemon.id());
    assert!(fronts.contains(&audit), "{fronts:?}");
    for worker in daemon.all_workers(2).await {
        let shared: Vec<_> = opened(worker.id()).intersection(&fronts).cloned().collect();
        // The log, and nothing.
        let known = |path: &PathBuf| {
            path == Path::new("/dev/null") || path.to_string_lossy().contains("/log-")
        };
        assert!(shared.iter().all(known), "{shared:?}");
    }
    daemon.stop().await;
}

/// One blob crashes the module: that is nobody else's trouble, however often it is asked for.
#[tokio::test]
async fn a_blob_that_crashes_the_module_harms_no_other_call() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = Daemon::start_with(&token, &PATIENT).await;
    let client = daemon.client().await;
    // SoftHSM has no RFC 5649: what is done for it is done for this one alone.
    let blob = client.encrypt(&seed(1, 33)).await.unwrap();
    faults.set("C_DecryptInit segv").unwrap();
    let load = Load::start(&daemon.client().await, 32);
    load.go_on_for(100).await;
    for _ in 0..20 {
        client.decrypt(request_for(&blob)).await.unwrap_err();
    }
    load.go_on_for(100).await;
    load.finish().await;
    let crashes = faults.strikes();
    assert!((2..=6).contains(&crashes), "{crashes} workers died of it");
    daemon
        .logged("the module crashes on one blob: it is not unwrapped again for some seconds")
        .await;
    // The module is mended: it is tried again before long.
    faults.clear().unwrap();
    let back = eventually("the seed", async || client.decrypt(request_for(&blob)).await.ok()).await;
    assert!(back == seed(1, 33));
    daemon.well().await;
    daemon.stop().await;
}

/// A search is many calls, and has more time than a caller.
#[tokio::test]
async fn nothing_waits_behind_a_search_that_hangs() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = Daemon::start(&token).await;
    let load = Load::start(&daemon.client().await, 8);
    load.go_on_for(100).await;
    faults.set("C_FindObjectsInit hang times=1").unwrap();
    eventually("a search", async || (faults.strikes() == 1).then_some(())).await;
    load.go_on_for(1000).await;
    daemon.logged("a search, or work on a key").await;
    load.go_on_for(100).await;
    load.finish().await;
    daemon.stop().await;
}

/// Each worker has many calls, some of them just begun.
#[tokio::test]
async fn under_load_no_call_is_lost_with_both_workers() {
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &PATIENT).await;
    let load = Load::start(&daemon.client().await, 64);
    for killed in 1..=10 {
        load.go_on_for(100).await;
        let workers = daemon.all_workers(2).await;
        for worker in workers {
            worker.signal(Signal::SIGKILL);
        }
        logins(&daemon, 2 + 2 * killed).await;
    }
    load.go_on_for(100).await;
    load.finish().await;
    daemon.stop().await;
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
