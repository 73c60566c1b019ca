//! What the daemon keeps on the disk: what it says, and what happens when it is damaged, gone or
//! cannot be written.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::client::{Client, request_for};
use common::daemon::Daemon;
use common::keks::{
    active, found, generate, generate_meanwhile, kept, line, neighbour, next_state_file,
    spawn_neighbour, state_file,
};
use common::token::Token;
use common::worker::Worker;
use common::{eventually, hex, seed, wait_until};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use p11_kms::keyring::Record;
use tonic::Code;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn the_state_file_says_what_status_says() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    for _ in 0..2 {
        let status = daemon.well().await;
        let file = state_file(&token);
        let text = fs::read_to_string(&file).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(table["active"]["key-id"].as_str(), Some(status.key_id.as_str()), "{text}");
        assert_eq!(table["label"].as_str(), Some("k8s-kek"));
        assert_eq!(kept(&token).active.unwrap().key_id.as_str(), status.key_id);
        assert_eq!((mode(&token.path("state")), mode(&file)), (0o700, 0o600));
        let new = generate(&token);
        active(&daemon, &new).await;
    }
    daemon.stop().await;
}

async fn killed(mut daemon: Daemon) {
    daemon.signal(Signal::SIGKILL);
    assert!(!daemon.end().await.success());
}

#[tokio::test]
async fn after_a_restart_the_old_kek_is_active_at_once_and_the_newer_one_waits_anew() {
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &["keyring.activation-delay=1h"]).await;
    let old = daemon.well().await.key_id;
    let new = generate(&token);
    found(&daemon, &new).await;
    killed(daemon).await;
    let daemon = Daemon::start_with(&token, &["keyring.activation-delay=1h"]).await;
    found(&daemon, &new).await;
    assert_eq!(daemon.well().await.key_id, old);
    daemon.stop().await;

    let before = Instant::now();
    let daemon = Daemon::spawn(&token, &["keyring.activation-delay=3s"]);
    let first = daemon.status(|status| !status.key_id.is_empty()).await;
    let is_early = before.elapsed() < Duration::from_secs(3);
    assert!(first.key_id == old || !is_early, "the newer one did not wait");
    active(&daemon, &new).await;
    assert!(before.elapsed() >= Duration::from_secs(3), "after {:?}", before.elapsed());
}

/// Every key_id that Status ever says, one after the other.
struct Watcher {
    seen: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watcher {
    fn start(endpoint: String) -> Self {
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    let Ok(client) = Client::connect(&endpoint).await else { continue };
                    while let Ok(status) = client.status().await {
                        let mut seen = seen.lock().unwrap();
                        if !status.key_id.is_empty() && seen.last() != Some(&status.key_id) {
                            seen.push(status.key_id);
                        }
                    }
                }
            }
        });
        Self { seen, task }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_daemon_that_is_killed_while_it_activates_never_goes_back() {
    let token = Token::with_kek();
    let watcher = Watcher::start(token.endpoint());
    let mut daemon = Daemon::start(&token).await;
    let mut line_up = vec![daemon.well().await.key_id];
    for round in 0..6 {
        let new = generate_meanwhile(&token).await;
        match round % 3 {
            // As soon as it is on the disk: nobody may have been told yet.
            0 => {
                let is_kept = || kept(&token).active.unwrap().key_id.as_str() == new;
                while !is_kept() {
                    tokio::task::yield_now().await;
                }
            }
            // As soon as it is told.
            1 => drop(active(&daemon, &new).await),
            // As soon as it is written for the first time, whatever is written.
            _ => {
                let next = state_file(&token).with_extension("toml.new");
                let is_over = || kept(&token).active.unwrap().key_id.as_str() == new;
                while !next.exists() && !is_over() {
                    tokio::task::yield_now().await;
                }
            }
        }
        killed(daemon).await;
        let on_disk = kept(&token).active.unwrap().key_id;
        daemon = Daemon::spawn(&token, &[]);
        let first = daemon.status(|status| !status.key_id.is_empty()).await;
        let may_follow = [on_disk.as_str(), new.as_str()];
        assert!(may_follow.contains(&first.key_id.as_str()), "round {round}");
        active(&daemon, &new).await;
        daemon.all_workers(2).await;
        line_up.push(new);
    }
    daemon.stop().await;
    let seen = watcher.seen.lock().unwrap().clone();
    let place = |key_id: &String| line_up.iter().position(|it| it == key_id).unwrap();
    let places: Vec<usize> = seen.iter().map(place).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert_eq!(places.last(), Some(&6), "{places:?}");
}

/// What may be in the place of a good file, and the words that tell of it.
fn damages(good: &str, label: &str) -> Vec<(Vec<u8>, &'static str)> {
    use sha2::Digest;
    let mut flipped = good.as_bytes().to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let other = Record::parse(good, label).unwrap().to_text("other");
    let body = good.split_once('\n').unwrap().1.replace("version = 1", "version = 2");
    let newer = format!("sha256 = \"{}\"\n{body}", hex(&sha2::Sha256::digest(&body)));
    vec![
        (flipped, "it was cut or changed"),
        (good.as_bytes()[..good.len() / 2].to_vec(), "it was cut or changed"),
        (Vec::new(), "it was cut or changed"),
        (vec![0xff; 100], "it was cut or changed"),
        (other.into_bytes(), "it is of the keyring \"other\""),
        (newer.into_bytes(), "it has version 2, which only a newer p11-kms knows"),
    ]
}

#[tokio::test]
async fn a_damaged_state_file_is_named_with_the_remedy_and_the_remedy_helps() {
    let token = Token::with_kek();
    // The KEK that is active now is not the one that a node would choose by itself.
    let patient = ["keyring.activation-delay=1h"];
    let daemon = Daemon::start_with(&token, &patient).await;
    let status = daemon.well().await;
    let new = generate(&token);
    found(&daemon, &new).await;
    eventually("the token's copy", async || (token.data_objects() == 1).then_some(())).await;
    daemon.stop().await;
    let before = kept(&token).active.unwrap();

    let file = state_file(&token);
    let good = fs::read_to_string(&file).unwrap();
    let named = file.to_str().unwrap();
    let remedy = format!("mv {named} {named}.bad");
    for (bytes, why) in damages(&good, "k8s-kek") {
        fs::write(&file, &bytes).unwrap();
        let lines =
            [["serve"].as_slice(), &["key", "list"], &["key", "destroy", "1"], &["key", "rotate"]];
        for line in lines {
            let ended = token.run(line);
            ended.expect(2, &["keyring.state-dir", named, " is not to be trusted: ", why, &remedy]);
            assert_eq!(ended.stdout, "", "{line:?}");
        }
        assert_eq!(fs::read(&file).unwrap(), bytes, "nobody has repaired it behind our back");
        assert!(!token.path("run/kms.sock").exists(), "a socket is left over");
    }

    fs::rename(&file, token.path("state/moved.bad")).unwrap();
    let daemon = Daemon::start_with(&token, &patient).await;
    assert_eq!(daemon.well().await.key_id, status.key_id, "the token knows which one it was");
    assert_eq!(kept(&token).active.unwrap(), before);
    assert_eq!(line(&token, 2)["state"], "pre-active");
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_had_ends_the_start() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let elsewhere = format!("server.endpoint=unix://{}", token.path("run-2/kms.sock").display());
    let start = |set: &[&str]| {
        let line = ["--set", &elsewhere].into_iter().chain(set.iter().copied()).chain(["serve"]);
        token.run(&line.collect::<Vec<_>>())
    };
    let at = |name: &str| format!("keyring.state-dir={}", token.path(name).display());
    start(&["--set", &at("no/such")]).expect(2, &["keyring.state-dir", "no/such"]);
    fs::write(token.path("a-file"), "").unwrap();
    start(&["--set", &at("a-file")]).expect(2, &["keyring.state-dir", "a-file"]);
    fs::create_dir(token.path("open")).unwrap();
    for bits in [0o770, 0o707, 0o777] {
        fs::set_permissions(token.path("open"), Permissions::from_mode(bits)).unwrap();
        let remedy = format!("chmod 0700 {}", token.path("open").display());
        let its_mode = format!("mode {bits:04o}");
        start(&["--set", &at("open")]).expect(2, &["written by others", &its_mode, &remedy]);
    }
    if geteuid().is_root() {
        fs::set_permissions(token.path("open"), Permissions::from_mode(0o700)).unwrap();
        chown(token.path("open"), Some(12345), None).unwrap();
        start(&["--set", &at("open")]).expect(2, &["keyring.state-dir", "belongs to uid 12345"]);
    }
    daemon.stop().await;
}

#[tokio::test]
async fn with_a_full_disk_the_old_kek_stays_active_and_the_new_one_decrypts() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let old = daemon.well().await.key_id;
    let other = neighbour(&token, "other", &[]).await;
    // Not even root can write to a directory as to a file.
    let next = next_state_file(&token);
    fs::create_dir(&next).unwrap();

    let new = generate(&token);
    active(&other, &new).await;
    let logged = daemon.logged("keyring.state-dir").await;
    let message = logged["message"].as_str().unwrap();
    assert!(message.contains(state_file(&token).to_str().unwrap()), "{message}");
    let status = daemon.well().await;
    assert_eq!(status.key_id, old, "what could not be written down does not hold");
    let client = daemon.client().await;
    assert_eq!(client.encrypt(&seed(1, 32)).await.unwrap().key_id, old);
    client.round_trip(&seed(1, 32)).await.unwrap();
    let written = other.client().await.encrypt(&seed(2, 32)).await.unwrap();
    assert_eq!(written.key_id, new);
    let back = client.decrypt(request_for(&written)).await.unwrap();
    assert!(back == seed(2, 32), "a neighbour's object can be read");
    assert_eq!(kept(&token).active.unwrap().key_id.as_str(), old);

    fs::remove_dir(&next).unwrap();
    active(&daemon, &new).await;
    assert_eq!(kept(&token).active.unwrap().key_id.as_str(), new);
    daemon.stop().await;
}

#[tokio::test]
async fn a_first_start_on_a_full_disk_writes_nothing_that_it_could_forget() {
    let token = Token::with_kek();
    let next = next_state_file(&token);
    fs::create_dir_all(&next).unwrap();
    fs::set_permissions(token.path("state"), Permissions::from_mode(0o700)).unwrap();
    let daemon = Daemon::spawn(&token, &[]);
    let status = daemon.unwell("keyring.state-dir").await;
    assert_eq!(status.key_id, "", "{}", status.healthz);
    let refusal = daemon.client().await.encrypt(&seed(1, 32)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal:?}");
    assert!(refusal.message().contains("keyring.state-dir"), "{refusal:?}");
    assert_eq!(token.data_objects(), 1, "what key generate wrote, and nothing of ours");
    fs::remove_dir(&next).unwrap();
    let key_id = daemon.well().await.key_id;
    assert_eq!(kept(&token).active.unwrap().key_id.as_str(), key_id);
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
}

#[tokio::test]
async fn a_damaged_copy_on_the_token_stops_only_a_node_that_has_no_record_of_its_own() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let key_id = daemon.well().await.key_id;
    let mut worker = Worker::start(&token, &[]);
    let good = worker.notes();
    let texts: Vec<&str> = good.iter().map(String::as_str).collect();
    worker.write("no record", &texts).unwrap().unwrap();
    daemon.logged("the record on the token is not taken").await;
    assert_eq!(daemon.well().await.key_id, key_id);
    daemon.stop().await;
    let daemon = Daemon::start(&token).await;
    assert_eq!(daemon.well().await.key_id, key_id, "its own disk knows");

    let bare = spawn_neighbour(&token, "bare", &[]);
    let said = "the record of the keyring on the token is not to be trusted";
    assert_eq!(bare.unwell(said).await.key_id, "", "it guesses nothing");
    let refusal = bare.client().await.encrypt(&seed(1, 32)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal:?}");
    assert!(refusal.message().contains(said), "{refusal:?}");
    let list = ["--set", "keyring.state-dir=/no/such", "key", "list"];
    let listed = token.run(&list);
    listed.expect(0, &[]);
    assert!(listed.stdout.contains(said), "{listed:?}");
    // The good copy is there again; only what is damaged has to go.
    let copy = daemon_copy(&mut worker);
    worker.write(&copy, &["no record"]).unwrap().unwrap();
    assert_eq!(bare.well().await.key_id, key_id);
    daemon.stop().await;
    bare.stop().await;
}

/// Nobody knows then whether another node writes with a newer KEK.
#[tokio::test]
async fn a_token_that_would_not_be_searched_stops_only_a_node_that_has_no_record_of_its_own() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let one = ["token.workers=1", "token.sessions=1"];
    let daemon = Daemon::start_with(&token, &one).await;
    let key_id = daemon.well().await.key_id;
    let written = daemon.client().await.encrypt(&seed(1, 32)).await.unwrap();
    daemon.stop().await;
    // A worker looks for keys once when it starts; then a search for records follows each for keys.
    faults.set("C_FindObjectsInit after=1 every=2 return=CKR_ATTRIBUTE_TYPE_INVALID").unwrap();
    let bare = spawn_neighbour(&token, "bare", &one);
    let said = "the token would not be searched for the record of the keyring. ";
    let status = bare.unwell(said).await;
    assert_eq!(status.key_id, "", "it guesses nothing");
    assert!(status.healthz.contains("token.data-objects = false"), "{status:?}");
    let client = bare.client().await;
    let refusal = client.encrypt(&seed(2, 32)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal:?}");
    assert!(client.decrypt(request_for(&written)).await.unwrap() == seed(1, 32));
    faults.clear().unwrap();
    assert_eq!(bare.well().await.key_id, key_id);
    bare.stop().await;
}

#[tokio::test]
async fn a_token_that_takes_no_data_objects_is_told_once_and_used_all_the_same() {
    let token = Token::new();
    let faults = token.misbehaving();
    // So that nothing else makes objects.
    let ecb = "token.method=ecb";
    token.run(&["--set", ecb, "key", "generate"]).expect(0, &[]);
    faults.set("C_CreateObject return=CKR_FUNCTION_FAILED").unwrap();
    let daemon = Daemon::start_with(&token, &[ecb]).await;
    let told = daemon.logged("the token keeps no copy of the record: ").await;
    assert!(told["message"].as_str().unwrap().contains("CKR_FUNCTION_FAILED"), "{told}");
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    assert_eq!(daemon.well().await.healthz, "ok");
    // What follows is tried anew, and not told again.
    let new = generate_with(&token, ecb);
    let tries = faults.strikes();
    active(&daemon, &new).await;
    eventually("another try", async || (faults.strikes() > tries).then_some(())).await;
    daemon.client().await.round_trip(&seed(2, 32)).await.unwrap();
    faults.clear().unwrap();
    let newer = generate_with(&token, ecb);
    active(&daemon, &newer).await;
    let mut worker = Worker::start(&token, &[("token.method", "ecb")]);
    let is_it = |note: &String| {
        let record = Record::parse(note, "k8s-kek").ok();
        record.and_then(|it| it.active).is_some_and(|it| it.key_id.as_str() == newer)
    };
    wait_until("a copy", || worker.notes().iter().any(is_it).then_some(()));
    assert_eq!(daemon.count("the token keeps no copy of the record"), 1);
    daemon.stop().await;
}

fn generate_with(token: &Token, set: &str) -> String {
    let made = token.run(&["--set", set, "key", "generate", "--output", "json"]);
    made.expect(0, &[]);
    made.json()["key-id"].as_str().unwrap().to_owned()
}

/// The good one of the token's notes.
fn daemon_copy(worker: &mut Worker) -> String {
    let is_good = |note: &String| Record::parse(note, "k8s-kek").is_ok();
    wait_until("a good copy", || worker.notes().into_iter().find(is_good))
}
