//! More work than the token can do.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::collections::HashSet;
use std::time::Duration;

use common::client::{Client, request_for};
use common::daemon::Daemon;
use common::http::Watcher;
use common::token::Token;
use common::{PATIENCE, eventually, seed};
use faulty_module::Control;
use p11_kms::client::connect;
use p11_kms::proto::{DecryptRequest, StatusResponse};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Request};

/// Nobody but the test's own requests calls the token, and those wait as long as they must.
const QUIET: [&str; 4] = [
    "keyring.scan-interval=1h",
    "health.interval=10m",
    "token.call-timeout=25s",
    "server.request-timeout=25s",
];

/// So that a test can look how many wait.
const WATCHED: &str = "metrics.listen=127.0.0.1:0";

/// One job at the token, the rest waits in the front.
const NARROW: [&str; 2] = ["token.workers=1", "token.pipeline-depth=1"];

async fn start(token: &Token, set: &[&str]) -> Daemon {
    Daemon::start_with(token, &[&QUIET[..], &NARROW, set].concat()).await
}

/// So many Decrypts, no two alike.
async fn requests(client: &Client, count: u32) -> Vec<DecryptRequest> {
    let mut requests = Vec::new();
    for number in 0..count {
        requests.push(request_for(&client.encrypt(&seed(number, 32)).await.unwrap()));
    }
    requests
}

/// How long the fastest of some calls takes: what else happens on the machine can only
/// make a call slower.
async fn fastest_status(client: &Client) -> (Duration, StatusResponse) {
    let mut fastest = None;
    for _ in 0..20 {
        let began = Instant::now();
        let status = client.status().await.unwrap();
        let took = began.elapsed();
        if fastest.as_ref().is_none_or(|(best, _)| took < *best) {
            fastest = Some((took, status));
        }
    }
    fastest.unwrap()
}

/// The same for a look at one of the paths of those who watch.
fn fastest_look(watcher: &Watcher, path: &str) -> Duration {
    let look = || {
        let began = Instant::now();
        assert_eq!(watcher.get(path).status, 200, "{path}");
        began.elapsed()
    };
    (0..20).map(|_| look()).min().unwrap()
}

/// Waits until so many jobs wait for the token.
async fn waiting(watcher: &Watcher, jobs: f64) {
    watcher.shows("p11_kms_queue_length", |waiting| waiting >= jobs).await;
}

async fn status_stays_fast(count: u32, connections: usize) {
    const AT_ONCE: Duration = Duration::from_millis(5);
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = start(&token, &[WATCHED]).await;
    let watcher = Watcher::of(&daemon).await;
    let client = daemon.client().await;
    let requests = requests(&client, count + 1).await;
    let mut clients = vec![client];
    while clients.len() < connections {
        clients.push(daemon.client().await);
    }
    let asks = daemon.client().await;
    faults.set("C_UnwrapKey hang").unwrap();
    let mut calls = JoinSet::new();
    for (request, client) in requests.into_iter().zip(clients.iter().cycle()) {
        let client = client.clone();
        calls.spawn(async move { client.decrypt(request).await });
    }
    // One is at the token.
    waiting(&watcher, count.into()).await;
    for client in [&asks, &clients[0]] {
        let (took, status) = fastest_status(client).await;
        assert!(took < AT_ONCE, "the fastest of 20 took {took:?}");
        assert_eq!(status.healthz, "ok", "a call that is under way is no trouble yet");
    }
    for path in ["/livez", "/readyz"] {
        let took = fastest_look(&watcher, path);
        assert!(took < AT_ONCE, "the fastest of 20 for {path} took {took:?}");
    }
    token.run(&["status"]).expect(0, &[]);
    waiting(&watcher, count.into()).await;
    faults.clear().unwrap();
    for answer in calls.join_all().await {
        answer.unwrap();
    }
    daemon.stop().await;
}

/// The module is well again: of all that had been asked for only the one under way was run.
async fn none_was_run_since(unwraps: u64, faults: &Control, client: &Client) {
    faults.clear().unwrap();
    client.round_trip(&seed(1, 32)).await.unwrap();
    let run = faults.count("C_UnwrapKey") - unwraps;
    assert!(run <= 3, "{run} unwraps: the one that was under way, and ours");
}

#[tokio::test]
async fn status_is_answered_at_once_while_a_thousand_decrypts_wait() {
    status_stays_fast(1000, 1).await;
}

#[tokio::test]
async fn status_is_answered_at_once_while_a_thousand_decrypts_of_many_callers_wait() {
    status_stays_fast(1000, 20).await;
}

/// kube-apiserver has one connection for all that it asks.
#[tokio::test]
async fn status_is_answered_at_once_while_thousands_of_decrypts_wait_on_its_connection() {
    status_stays_fast(3000, 1).await;
}

#[tokio::test]
async fn a_full_queue_says_so_at_once_and_goes_on() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = start(&token, &["server.queue-length=50"]).await;
    let client = daemon.client().await;
    let requests = requests(&client, 60).await;
    faults.set("C_UnwrapKey hang").unwrap();
    let mut calls = JoinSet::new();
    for request in requests {
        let client = client.clone();
        calls.spawn(async move { client.decrypt(request).await });
    }
    // Those that found no place are answered while the others wait.
    for _ in 0..9 {
        let status = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.message().contains("server.queue-length"), "{status:?}");
    }
    faults.clear().unwrap();
    let answers = calls.join_all().await;
    assert_eq!(answers.len(), 51);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_run() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = start(&token, &[]).await;
    let client = daemon.client().await;
    let requests = requests(&client, 100).await;
    faults.set("C_UnwrapKey hang").unwrap();
    let mut calls = JoinSet::new();
    for request in requests {
        let client = client.clone();
        calls.spawn(async move { client.decrypt(request).await });
    }
    let unwraps = faults.count("C_UnwrapKey");
    eventually("the hang", async || (faults.count("C_UnwrapKey") > unwraps).then_some(())).await;
    calls.shutdown().await;
    // The callers' resets are on the same connection, so they have come before this answer.
    client.status().await.unwrap();
    none_was_run_since(unwraps, faults, &client).await;
    daemon.stop().await;
}

/// A caller that was killed takes back nothing: its connection ends, and that is all.
#[tokio::test]
async fn what_a_caller_who_died_had_asked_for_is_not_run() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = start(&token, &[WATCHED]).await;
    let watcher = Watcher::of(&daemon).await;
    let client = daemon.client().await;
    let requests = requests(&client, 100).await;
    faults.set("C_UnwrapKey hang").unwrap();
    let unwraps = faults.count("C_UnwrapKey");
    let endpoint = daemon.endpoint().to_owned();
    let (gone, goes) = std::sync::mpsc::channel::<()>();
    let caller = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.spawn(async move {
            let client = Client::connect(&endpoint).await.unwrap();
            let calls = requests.into_iter().map(|request| {
                let client = client.clone();
                async move { client.decrypt(request).await }
            });
            calls.collect::<JoinSet<_>>().join_all().await;
        });
        runtime.block_on(async {
            while goes.try_recv().is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        // Nothing of it runs any more, so nothing is taken back.
        runtime.shutdown_background();
    });
    waiting(&watcher, 99.0).await;
    gone.send(()).unwrap();
    caller.join().unwrap();
    let ended = || {
        let is_ours = |line: &Value| line["method"] == "Decrypt" && line["code"] == "Canceled";
        daemon.lines().iter().filter(|line| is_ours(line)).count()
    };
    eventually("the end of each call", async || (ended() == 100).then_some(())).await;
    none_was_run_since(unwraps, faults, &client).await;
    daemon.stop().await;
}

#[tokio::test]
async fn what_comes_too_late_is_not_run() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = start(&token, &["server.request-timeout=500ms"]).await;
    let client = daemon.client().await;
    let requests = requests(&client, 100).await;
    faults.set("C_UnwrapKey hang").unwrap();
    let unwraps = faults.count("C_UnwrapKey");
    let mut calls = JoinSet::new();
    for request in requests {
        let client = client.clone();
        calls.spawn(async move { client.decrypt(request).await });
    }
    for answer in calls.join_all().await {
        assert_eq!(answer.unwrap_err().code(), Code::DeadlineExceeded);
    }
    none_was_run_since(unwraps, faults, &client).await;
    daemon.stop().await;
}

/// The one who came first had no time to lose: those who joined him have.
#[tokio::test]
async fn a_caller_in_a_hurry_takes_nobody_with_him() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = start(&token, &[WATCHED]).await;
    let watcher = Watcher::of(&daemon).await;
    let client = daemon.client().await;
    let mut requests = requests(&client, 2).await;
    let (request, other) = (requests.remove(0), requests.remove(0));
    let unwraps = faults.count("C_UnwrapKey");
    faults.set("C_UnwrapKey hang").unwrap();
    let decrypt = |request: &DecryptRequest| {
        let (client, request) = (client.clone(), request.clone());
        tokio::spawn(async move { client.decrypt(request).await })
    };
    let before = decrypt(&other);
    eventually("the hang", async || (faults.strikes() > 0).then_some(())).await;
    let mut hurried = Request::new(request.clone());
    hurried.set_timeout(Duration::from_millis(500));
    let endpoint = daemon.endpoint().parse().unwrap();
    let mut in_a_hurry = connect(&endpoint, PATIENCE).await.unwrap();
    let first = tokio::spawn(async move { in_a_hurry.decrypt(hurried).await });
    waiting(&watcher, 1.0).await;
    let second = decrypt(&request);
    client.status().await.unwrap();
    first.await.unwrap().unwrap_err();
    faults.clear().unwrap();
    assert!(second.await.unwrap().unwrap() == seed(0, 32), "another plaintext came back");
    before.await.unwrap().unwrap();
    assert_eq!(faults.count("C_UnwrapKey") - unwraps, 2, "one for each blob");
    daemon.stop().await;
}

/// An apiserver that starts asks for the same seed many times at once.
#[tokio::test]
async fn equal_decrypts_cost_one_unwrap_and_each_has_its_line_in_the_log() {
    const ALIKE: usize = 200;
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = start(&token, &[]).await;
    let client = daemon.client().await;
    let plaintext = seed(1, 32);
    let request = request_for(&client.encrypt(&plaintext).await.unwrap());
    faults.set("C_UnwrapKey hang").unwrap();
    let before = faults.count("C_UnwrapKey");
    let mut calls = JoinSet::new();
    for number in 0..ALIKE {
        let (client, mut request) = (client.clone(), request.clone());
        request.uid = format!("uid-{number}");
        calls.spawn(async move { client.decrypt(request).await });
    }
    eventually("the hang", async || (faults.strikes() > 0).then_some(())).await;
    client.status().await.unwrap();
    faults.clear().unwrap();
    for answer in calls.join_all().await {
        assert!(answer.unwrap() == plaintext, "another plaintext came back");
    }
    assert_eq!(faults.count("C_UnwrapKey") - before, 1);
    let uids = || -> HashSet<String> {
        let lines = daemon.lines().into_iter().filter(|line| line["method"] == "Decrypt");
        lines.filter_map(|line| line["uid"].as_str().map(ToOwned::to_owned)).collect()
    };
    eventually("a line for each", async || (uids().len() == ALIKE).then_some(())).await;
    daemon.stop().await;
}

/// Who came first may be in a hurry; those who joined him are not.
#[tokio::test]
async fn a_caller_who_leaves_takes_nobody_with_him() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = start(&token, &[]).await;
    let client = daemon.client().await;
    let request = request_for(&client.encrypt(&seed(1, 32)).await.unwrap());
    faults.set("C_UnwrapKey hang").unwrap();
    let decrypt = || {
        let (client, request) = (client.clone(), request.clone());
        tokio::spawn(async move { client.decrypt(request).await })
    };
    let first = decrypt();
    eventually("the hang", async || (faults.strikes() > 0).then_some(())).await;
    let second = decrypt();
    client.status().await.unwrap();
    first.abort();
    client.status().await.unwrap();
    faults.clear().unwrap();
    assert!(second.await.unwrap().unwrap() == seed(1, 32), "another plaintext came back");
    daemon.stop().await;
}
