//! No seed and no PIN stays in the memory of either process, and nobody gets at it there.

#![allow(clippy::unwrap_used, reason = "the helpers are part of the tests")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::Command;
use std::time::Duration;

use common::client::{Client, request_for};
use common::daemon::Daemon;
use common::memory::Search;
use common::token::{PIN, Token};
use common::{eventually, seed};
use nix::sys::signal::Signal;
use p11_kms::proto::EncryptResponse;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// After so long no seed may be left.
const GRACE: Duration = Duration::from_secs(5);

const SEEDS: u32 = 1000;

/// Each seed there and back, many at a time, over one connection.
async fn send_all(client: &Client, seeds: &[Vec<u8>]) {
    for some in seeds.chunks(50) {
        let calls = some.iter().map(|seed| {
            let (client, seed) = (client.clone(), seed.clone());
            tokio::spawn(async move { client.round_trip(&seed).await.unwrap() })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
    }
}

/// The front and its workers.
fn processes(daemon: &Daemon) -> Vec<u32> {
    daemon.workers().iter().map(|worker| worker.id()).chain([daemon.id()]).collect()
}

/// Nobody but our requests calls the token: what they leave is not written over by others.
const ALONE: [&str; 2] = ["keyring.scan-interval=1h", "health.interval=10m"];

/// What of the secrets lies in the front or a worker.
fn assert_none(daemon: &Daemon, what: &str, secrets: &[Vec<u8>]) {
    let search = Search::new(secrets);
    for id in processes(daemon) {
        let found = search.in_process(id);
        assert!(found.bytes > 1 << 20, "only {} bytes could be looked at", found.bytes);
        assert!(found.secrets.is_empty(), "{what} in {id}: {found:?}");
    }
}

/// The connection stays in use, by what carries no secret.
async fn only_status(client: &Client) {
    let end = Instant::now() + GRACE;
    while Instant::now() < end {
        client.status().await.unwrap();
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn five_seconds_after_the_last_request_no_seed_and_no_pin_is_left() {
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &ALONE).await;
    let client = daemon.client().await;
    let mut seeds: Vec<Vec<u8>> = (0..SEEDS).map(|number| seed(number, 32)).collect();
    send_all(&client, &seeds).await;
    // Other lengths take other ways: KWP, and more than one frame of HTTP/2.
    let odd: Vec<Vec<u8>> = (1..50).map(|number| seed(SEEDS + number, 16 + 19 * 51)).collect();
    send_all(&client, &odd).await;
    seeds.extend(odd);
    // What is refused is a secret too.
    let long = seed(SEEDS, 1001);
    client.encrypt(&long).await.unwrap_err();
    seeds.push(long);
    only_status(&client).await;
    // The last one.
    seeds.push(PIN.as_bytes().to_vec());
    assert_none(&daemon, "seeds or the PIN", &seeds);
    // The search may have taken longer than the daemon waits for a sign of life.
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    daemon.stop().await;
}

/// Key wrap on the host, a block at a time, leaves other traces than the token's own.
#[tokio::test]
async fn no_seed_is_left_by_key_wrap_on_the_host() {
    let token = Token::with_kek();
    let ecb = ["token.method=ecb", "token.ecb-mechanism=aes-cbc", "token.ecb-stream=false"];
    let verified = ["token.verify-wraps=true"];
    let set = [&ALONE[..], &ecb, &verified].concat();
    let daemon = Daemon::start_with(&token, &set).await;
    let client = daemon.client().await;
    let seeds: Vec<Vec<u8>> = (0..100).map(|number| seed(number, 32)).collect();
    send_all(&client, &seeds).await;
    only_status(&client).await;
    assert_none(&daemon, "seeds", &seeds);
    daemon.stop().await;
}

#[tokio::test]
async fn what_fails_leaves_no_seed() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let set = [&ALONE[..], &["server.queue-length=20", "token.call-timeout=1s"]].concat();
    let daemon = Daemon::start_with(&token, &set).await;
    let client = daemon.client().await;
    let seeds: Vec<Vec<u8>> = (0..200).map(|number| seed(number, 32)).collect();
    let (blobs, other) = seeds.split_at(50);
    for (number, seed) in blobs.iter().enumerate() {
        let mut damaged = request_for(&client.encrypt(seed).await.unwrap());
        if number % 2 == 0 {
            damaged.ciphertext[0] ^= 1;
        } else {
            damaged.annotations.clear();
        }
        client.decrypt(damaged).await.unwrap_err();
    }
    let too_long = seed(1000, 70_000);
    client.encrypt(&too_long).await.unwrap_err();
    // Too many at a time for the queue, and half of the callers go.
    faults.set("C_WrapKey delay=50ms").unwrap();
    let calls: Vec<_> = other[..100].iter().map(|seed| ask(&client, seed)).collect();
    sleep(Duration::from_millis(100)).await;
    let mut refused = 0;
    for (number, call) in calls.into_iter().enumerate() {
        if number % 2 == 0 {
            call.abort();
        } else {
            refused += usize::from(call.await.unwrap().is_err());
        }
    }
    assert!(refused > 0, "the queue was never full");
    // A worker that hangs with them is killed.
    faults.set("C_WrapKey times=1 hang").unwrap();
    let calls: Vec<_> = other[100..].iter().map(|seed| ask(&client, seed)).collect();
    for call in calls {
        let _ = call.await.unwrap();
    }
    faults.clear().unwrap();
    daemon.logged("the module hangs").await;
    only_status(&client).await;
    let seeds = [seeds, vec![too_long]].concat();
    assert_none(&daemon, "seeds", &seeds);
    daemon.stop().await;
}

/// An Encrypt of its own task.
fn ask(client: &Client, seed: &[u8]) -> JoinHandle<Result<EncryptResponse, tonic::Status>> {
    let (client, seed) = (client.clone(), seed.to_vec());
    tokio::spawn(async move { client.encrypt(&seed).await })
}

#[tokio::test]
async fn no_pin_stays_old_new_or_in_the_wrong_place() {
    const NEW: &str = "another-pin-8152";
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &ALONE).await;
    let pins = [PIN, NEW].map(|pin| pin.as_bytes().to_vec());
    token.pkcs11_tool(["--change-pin", "--new-pin", NEW]);
    token.write_pin(NEW, 0o600);
    daemon.signal(Signal::SIGHUP);
    let logged_in = async || (daemon.count("the worker is logged in") >= 4).then_some(());
    eventually("the workers with the new PIN", logged_in).await;
    eventually("the end of the old ones", async || (daemon.workers().len() == 2).then_some(()))
        .await;
    assert_none(&daemon, "PIN", &pins);
    // Who puts it into the config is told no, and it is forgotten.
    token.change_config("pkcs11:token=test", &format!("pkcs11:token=test?pin-value={NEW}"));
    daemon.signal(Signal::SIGHUP);
    daemon.logged("the config is not taken").await;
    assert_none(&daemon, "PIN", &pins);
    assert!(!daemon.log().contains(NEW), "the PIN is in the log");
    daemon.stop().await;
}

/// The search finds what is there: a seed, while its request is held in the module.
#[tokio::test]
async fn the_search_finds_a_seed_that_is_in_use() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    // Nobody but our request calls the token.
    let set = [
        "token.workers=1",
        "token.call-timeout=25s",
        "server.request-timeout=25s",
        "keyring.scan-interval=1h",
        "health.interval=10m",
    ];
    let daemon = Daemon::start_with(&token, &set).await;
    let client = daemon.client().await;
    let secret = seed(1, 32);
    faults.set("C_WrapKey hang").unwrap();
    let call = tokio::spawn({
        let (client, secret) = (client.clone(), secret.clone());
        async move { client.round_trip(&secret).await }
    });
    eventually("the hang", async || (faults.strikes() > 0).then_some(())).await;
    let search = Search::new(&[secret]);
    for id in processes(&daemon) {
        assert_eq!(search.in_process(id).secrets.len(), 1, "in process {id}");
    }
    faults.clear().unwrap();
    call.await.unwrap().unwrap();
    daemon.stop().await;
}

fn status_line(id: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

/// As root without `CAP_IPC_LOCK`, and with this limit in bytes.
fn with_memlock(token: &Token, limit: &str) -> Command {
    let mut command = token.prepared("setpriv");
    command
        .args(["--bounding-set=-ipc_lock", "prlimit", &format!("--memlock={limit}:{limit}")])
        .arg(env!("CARGO_BIN_EXE_p11-kms"))
        .arg("--config")
        .arg(token.config())
        .arg("serve");
    command
}

#[tokio::test]
async fn memory_is_locked_where_that_has_no_limit() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let warned = daemon.count("memory is not locked") == 1;
    for id in processes(&daemon) {
        let locked = status_line(id, "VmLck") != "0 kB";
        // Who runs the tests may have a limit.
        assert!(locked != warned, "process {id}: locked {locked}, warned {warned}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_limit_on_locked_memory_is_a_warning_and_no_more() {
    let token = Token::with_kek();
    let daemon = Daemon::run(&token, with_memlock(&token, "8388608"));
    daemon.well().await;
    let line = daemon.logged("memory is not locked").await;
    assert_eq!(line["level"], "WARN");
    assert!(line["message"].as_str().unwrap().contains("LimitMEMLOCK=infinity"), "{line}");
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    daemon.stop().await;
}

/// The kernel gives what is in `/proc/PID` of a process that may not be dumped to root.
#[tokio::test]
async fn neither_process_may_be_dumped_or_looked_into() {
    const NOBODY: u32 = 65534;
    let token = Token::with_kek();
    let everything = Command::new("chown").args(["-R", "65534"]).arg(token.path("")).status();
    assert!(everything.unwrap().success());
    chown(token.path(""), Some(NOBODY), None).unwrap();
    token.change_config("allow-uids = [0]", "allow-uids = [0, 65534]");
    let mut command = token.prepared("setpriv");
    command
        .args(["--reuid=65534", "--clear-groups"])
        .arg(env!("CARGO_BIN_EXE_p11-kms"))
        .arg("--config")
        .arg(token.config())
        .arg("serve");
    let daemon = Daemon::run(&token, command);
    daemon.well().await;
    daemon.all_workers(2).await;
    for id in processes(&daemon) {
        assert!(status_line(id, "Uid").starts_with("65534"), "process {id}");
        let owner = fs::metadata(format!("/proc/{id}/mem")).unwrap().uid();
        assert_eq!(owner, 0, "process {id} may be looked into by its own user");
        let limits = fs::read_to_string(format!("/proc/{id}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
    daemon.stop().await;
}
