//! The audit log: what it tells, that nobody can change it unseen, and what follows when it
//! cannot be written.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::audit::lines_of;
use common::client::{Client, request_for};
use common::daemon::Daemon;
use common::http::Watcher;
use common::keks::{active, generate, generate_meanwhile};
use common::load::Load;
use common::process::{Ended, run};
use common::token::{PIN, Token};
use common::{eventually, hex, seed};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{getpid, getuid, mkfifo};
use serde_json::{Value, json};
use tonic::Code;

/// Types a line when it is asked for the generation.
fn destroy_typing(token: &Token, generation: &str, typed: &str) -> Ended {
    let mut command = token.prepared("sh");
    command.args(["-c", r#"typed=$1; shift; printf '%s' "$typed" | "$@""#, "sh", typed]);
    command.arg(env!("CARGO_BIN_EXE_p11-kms")).arg("--config").arg(token.config());
    command.args(["key", "destroy", generation, "--without-usage-check"]);
    run(command)
}

fn is(line: &Value, expected: Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name} of {line}");
    }
}

#[tokio::test]
async fn every_use_of_a_kek_has_a_line() {
    let token = Token::with_kek().audited("");
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    let good = client.encrypt_as("uid-1", &seed(1, 32)).await.unwrap();
    let mut request = request_for(&good);
    "uid-2".clone_into(&mut request.uid);
    client.decrypt(request.clone()).await.unwrap();
    // Refused by the token, for its form, and since nobody knows its key_id.
    request.ciphertext[0] ^= 1;
    client.decrypt(request.clone()).await.unwrap_err();
    client.encrypt_as("uid-3", &[]).await.unwrap_err();
    let nasty = format!("a\n\"\u{1b}[31m{}", "\u{e4}".repeat(5000));
    client.encrypt_as(&nasty, &seed(1, 1001)).await.unwrap_err();
    request.key_id = "x".repeat(900);
    client.decrypt(request).await.unwrap_err();
    // As new key commands see them.
    let new = generate(&token);
    active(&daemon, &new).await;
    destroy_typing(&token, "1", "no").expect(4, &[]);
    destroy_typing(&token, "1", "1").expect(0, &[]);
    token.run(&["key", "rotate", "--if-older-than", "90d"]).expect(0, &[]);
    token.run(&["key", "list"]).expect(0, &[]);
    token.run(&["key", "rotate"]).expect(0, &[]);
    daemon.stop().await;

    let lines = token.audit_lines();
    let us = json!({ "peer_uid": getuid().as_raw(), "peer_pid": getpid().as_raw() });
    let encrypts = token.audit_events("encrypt");
    let decrypts = token.audit_events("decrypt");
    assert_eq!((encrypts.len(), decrypts.len()), (3, 3));
    for (line, uid, outcome) in [
        (&encrypts[0], "uid-1", "Ok"),
        (&decrypts[0], "uid-2", "Ok"),
        (&decrypts[1], "uid-2", "InvalidArgument"),
        (&encrypts[1], "uid-3", "InvalidArgument"),
        (&decrypts[2], "uid-2", "NotFound"),
    ] {
        is(line, us.clone());
        is(line, json!({ "uid": uid, "outcome": outcome }));
        assert!(line["duration_us"].as_u64().is_some(), "{line}");
        assert_eq!(line["detail"].is_string(), outcome != "Ok", "{line}");
    }
    for line in [&encrypts[0], &decrypts[0], &decrypts[1]] {
        is(line, json!({ "key_id": good.key_id, "generation": 1 }));
    }
    is(&encrypts[0], json!({ "method": "Encrypt" }));
    is(&decrypts[0], json!({ "method": "Decrypt" }));
    assert!(encrypts[2]["uid"].as_str().unwrap().starts_with("a\n\""), "{}", encrypts[2]);
    assert!(encrypts[2]["uid"].as_str().unwrap().len() <= 64);
    assert_eq!(decrypts[2]["key_id"], "x".repeat(64));

    let keys = token.audit_events("key");
    let expected = [
        json!({ "method": "generate", "generation": 2, "detail": "begun", "key_id": null }),
        json!({ "method": "generate", "generation": 2, "outcome": "ok", "key_id": new }),
        json!({ "method": "destroy", "generation": 1, "outcome": "refused", "key_id": good.key_id }),
        json!({ "method": "destroy", "generation": 1, "detail": "begun", "key_id": good.key_id }),
        json!({ "method": "destroy", "generation": 1, "outcome": "ok", "key_id": good.key_id }),
        json!({ "method": "rotate", "generation": 3, "detail": "begun" }),
        json!({ "method": "rotate", "generation": 3, "outcome": "ok" }),
    ];
    assert_eq!(keys.len(), expected.len(), "{keys:?}");
    for (line, expected) in keys.iter().zip(expected) {
        is(line, expected);
        assert_eq!(line["peer_uid"], getuid().as_raw(), "{line}");
        assert!(line["peer_pid"].as_u64().unwrap() > 0, "{line}");
    }
    let kinds: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds.iter().filter(|kind| **kind == "stop").count()), ("start", 1));
    assert!(lines[0]["detail"].as_str().unwrap().starts_with("p11-kms "), "{}", lines[0]);
    let node = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert!(lines.iter().all(|line| line["node"] == node.as_str() && line["time"].is_string()));
    assert_eq!(token.intact(&[&token.audit()]), lines.len() as u64);
    let about = fs::metadata(token.audit()).unwrap();
    assert_eq!(about.permissions().mode() & 0o777, 0o640);
}

#[tokio::test]
async fn an_import_has_its_lines() {
    let token = Token::with_kek().audited("");
    let file = token.path("plain");
    fs::write(&file, seed(9, 32)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let import = ["key", "import", file.to_str().unwrap(), "--this-file-is-the-plain-key"];
    token.run(&import).expect(0, &[]);
    fs::write(&file, "too short").unwrap();
    token.run(&import).expect(3, &[]);
    let keys = token.audit_events("key");
    for (line, expected) in keys.iter().zip([
        json!({ "method": "import", "generation": 2, "detail": "begun" }),
        json!({ "method": "import", "generation": 2, "outcome": "ok" }),
        json!({ "method": "import", "generation": 3, "detail": "begun" }),
        json!({ "method": "import", "generation": 3, "outcome": "failed" }),
    ]) {
        is(line, expected);
    }
    assert_eq!((keys.len() as u64, keys[1]["key_id"].is_string()), (4, true));
    assert_eq!(token.intact(&[&token.audit()]), 4);
    assert!(!fs::read_to_string(token.audit()).unwrap().contains(&hex(&seed(9, 32))[..32]));
}

#[tokio::test]
async fn no_secret_is_in_it() {
    let token = Token::with_kek().audited("");
    token.write_pin("a-wrong-pin-0815", 0o600);
    let daemon = Daemon::spawn(&token, &[]);
    daemon.unwell("CKR_PIN_INCORRECT").await;
    token.write_pin(PIN, 0o600);
    daemon.well().await;
    let client = daemon.client().await;
    let mut secrets = vec![PIN.as_bytes().to_vec(), b"a-wrong-pin-0815".to_vec()];
    for (salt, len) in [(1, 32), (2, 21), (3, 999)] {
        let plaintext: Vec<u8> = seed(salt, len).iter().map(|byte| b'A' + byte % 26).collect();
        let encrypted = client.encrypt(&plaintext).await.unwrap();
        let mut request = request_for(&encrypted);
        client.decrypt(request.clone()).await.unwrap();
        secrets.extend([plaintext, request.ciphertext.clone()]);
        request.ciphertext[0] ^= 1;
        client.decrypt(request.clone()).await.unwrap_err();
        request.annotations.clear();
        client.decrypt(request).await.unwrap_err();
    }
    daemon.stop().await;
    let log = fs::read_to_string(token.audit()).unwrap();
    assert!(log.lines().count() > 12);
    for (number, secret) in secrets.iter().enumerate() {
        let part = &secret[..16.min(secret.len())];
        let numbers: Vec<String> = part.iter().map(ToString::to_string).collect();
        let plain: String = part.iter().map(|byte| byte.escape_ascii().to_string()).collect();
        for form in [hex(part), numbers.join(","), plain] {
            assert!(!log.contains(&form), "secret {number} is in the audit log");
        }
    }
}

#[tokio::test]
async fn what_happens_to_the_pin_has_a_line_each() {
    let token = Token::with_kek().audited("");
    let faults = token.misbehaving();
    token.write_pin("wrong", 0o600);
    let daemon = Daemon::spawn(&token, &["token.workers=1"]);
    daemon.unwell("CKR_PIN_INCORRECT").await;
    token.write_pin(PIN, 0o600);
    daemon.well().await;
    daemon.stop().await;
    faults.set("token pin-flags=final-try").unwrap();
    let daemon = Daemon::spawn(&token, &["token.workers=1"]);
    daemon.unwell("FINAL_TRY").await;
    faults.set("token pin-flags=locked").unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.unwell("PIN_LOCKED").await;
    faults.clear().unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.well().await;
    daemon.stop().await;
    let pins = token.audit_events("pin");
    let told: Vec<_> = pins.iter().map(|line| (&line["detail"], &line["outcome"])).collect();
    let expected = [
        ("refused", "refused"),
        ("latched", "failed"),
        ("accepted", "ok"),
        ("cleared", "ok"),
        ("final-try", "failed"),
        ("latched", "failed"),
        ("locked", "failed"),
        ("latched", "failed"),
        ("accepted", "ok"),
        ("cleared", "ok"),
    ]
    .map(|(detail, outcome)| (Value::from(detail), Value::from(outcome)));
    let expected: Vec<_> = expected.iter().map(|(detail, outcome)| (detail, outcome)).collect();
    assert_eq!(told, expected);
    token.intact(&[&token.audit()]);
}

#[tokio::test]
async fn refused_peers_have_a_line_and_a_flood_of_them_has_few() {
    let token = Token::with_kek().audited("");
    let daemon = Daemon::spawn(&token, &["server.allow-uids=12345"]);
    daemon.logged("serving").await;
    let path = token.path("run/kms.sock");
    for _ in 0..500 {
        drop(UnixStream::connect(&path).unwrap());
    }
    daemon.stop().await;
    let refused = token.audit_events("refused-peer");
    assert!((2..=5).contains(&refused.len()), "{refused:?}");
    is(
        &refused[0],
        json!({
            "peer_uid": getuid().as_raw(), "peer_pid": getpid().as_raw(), "outcome": "refused", "count": null,
        }),
    );
    let counts = refused.iter().map(|line| line["count"].as_u64().unwrap_or(1));
    // A connection that nobody had accepted when the daemon went is none.
    assert!((2..=500).contains(&counts.sum::<u64>()), "{refused:?}");
    token.intact(&[&token.audit()]);
}

#[tokio::test]
async fn a_call_whose_caller_has_gone_has_its_line() {
    let token = Token::with_kek().audited("");
    let faults = token.misbehaving();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    faults.set("C_WrapKey hang").unwrap();
    let plaintext = seed(1, 32);
    let call = client.encrypt_as("uid-gone", &plaintext);
    tokio::time::timeout(Duration::from_millis(300), call).await.unwrap_err();
    let line = token.audit_line("of the caller", |line| line["uid"] == "uid-gone").await;
    is(&line, json!({ "event": "encrypt", "outcome": "Canceled" }));
    faults.clear().unwrap();
    daemon.well().await;
    // What it wanted to read with is known from the start.
    let mut request = request_for(&client.encrypt(&plaintext).await.unwrap());
    "uid-gone-too".clone_into(&mut request.uid);
    faults.set("C_UnwrapKey hang").unwrap();
    let call = client.decrypt(request.clone());
    tokio::time::timeout(Duration::from_millis(300), call).await.unwrap_err();
    let line = token.audit_line("of the caller", |line| line["uid"] == "uid-gone-too").await;
    is(&line, json!({ "event": "decrypt", "outcome": "Canceled", "key_id": request.key_id }));
    faults.clear().unwrap();
    daemon.well().await;
    daemon.stop().await;
    token.intact(&[&token.audit()]);
}

/// The token has done it, and nobody could be told.
#[test]
fn a_command_whose_printing_failed_has_done_its_work() {
    let token = Token::with_kek().audited("");
    let mut command = token.prepared("sh");
    command.args(["-c", r#"exec "$@" >/dev/full"#, "sh", env!("CARGO_BIN_EXE_p11-kms")]);
    command.arg("--config").arg(token.config()).args(["key", "generate"]);
    let ended = run(command);
    assert_ne!(ended.code(), Some(0), "{ended:?}");
    let keys = token.audit_events("key");
    is(&keys[0], json!({ "method": "generate", "detail": "begun" }));
    is(&keys[1], json!({ "method": "generate", "generation": 2, "outcome": "ok" }));
    assert!(keys[1]["detail"].is_string() && keys[1]["key_id"].is_string(), "{keys:?}");
    token.intact(&[&token.audit()]);
}

/// One that changes nothing as well: it is one attempt less.
#[test]
fn a_pin_that_a_command_tried_in_vain_has_a_line() {
    let token = Token::with_kek().audited("");
    token.run(&["key", "list"]).expect(0, &[]);
    assert_eq!(token.audit_lines(), Vec::<Value>::new());
    token.run(&["key", "generate"]).expect(0, &[]);
    token.write_pin("wrong", 0o600);
    for command in [&["check"][..], &["key", "list"], &["key", "generate"]] {
        let before = token.audit_events("pin").len();
        assert_ne!(token.run(command).code(), Some(0));
        let pins = token.audit_events("pin");
        assert_eq!(pins.len(), before + 1, "{command:?}: {pins:?}");
        is(
            pins.last().unwrap(),
            json!({ "detail": "refused", "outcome": "refused", "peer_uid": getuid().as_raw() }),
        );
    }
    token.intact(&[&token.audit()]);
    // No log is begun for it, and none is needed.
    fs::remove_dir_all(token.path("audit")).unwrap();
    token.run(&["key", "list"]).expect(3, &["PIN"]);
}

/// Every kind of line, as the numbers have it.
#[tokio::test]
async fn the_metrics_count_what_is_in_the_file() {
    let token = Token::with_kek().audited("");
    Daemon::start(&token).await.stop().await;
    let before = fs::read(token.audit()).unwrap();
    fs::write(token.audit(), [before.as_slice(), b"{\"seq\":9,"].concat()).unwrap();
    let old = lines_of(&token.audit()).len();
    let set = ["metrics.listen=127.0.0.1:0"];
    let daemon = Daemon::start_with(&token, &set).await;
    let watcher = Watcher::of(&daemon).await;
    let client = daemon.client().await;
    for salt in 0..20 {
        client.round_trip(&seed(salt, 32)).await.unwrap();
    }
    let total = |line: &str| format!("p11_kms_audit_lines_total{{event={line:?}}}");
    token.audit_line("of the last one", |_| token.audit_events("decrypt").len() == 20).await;
    let scraped = watcher.shows(&total("decrypt"), |count| count >= 20.0).await;
    let lines = token.audit_lines().split_off(old);
    for event in ["start", "stop", "encrypt", "decrypt", "refused-peer", "pin", "key", "gap"] {
        let count = lines.iter().filter(|line| line["event"] == event).count();
        assert_eq!(scraped.value(&total(event)).to_string(), count.to_string(), "{event}");
    }
    assert_eq!(lines.iter().filter(|line| line["event"] == "gap").count(), 1);
    daemon.stop().await;
    token.intact(&[&token.audit()]);
}

#[tokio::test]
async fn the_chain_goes_on_over_restarts_kills_and_other_processes() {
    let token = Token::with_kek().audited("");
    for round in 0..3 {
        let daemon = Daemon::start(&token).await;
        let client = daemon.client().await;
        let load = Load::start(&client, 16);
        load.go_on_for(200).await;
        generate_meanwhile(&token).await;
        load.go_on_for(100).await;
        load.finish().await;
        if round == 1 {
            daemon.stop().await;
        } else {
            kill_under_load(daemon, &client).await;
        }
        token.intact(&[&token.audit()]);
    }
    assert_eq!(token.audit_events("start").len(), 3);
    assert_eq!(token.audit_events("key").len(), 6);
    assert_eq!(token.audit_events("gap"), Vec::<Value>::new());
    assert!(token.audit_events("encrypt").len() > 600);
}

async fn kill_under_load(mut daemon: Daemon, client: &Client) {
    let until_it_ends = |salt| {
        let client = client.clone();
        async move { while client.round_trip(&seed(salt, 32)).await.is_ok() {} }
    };
    let callers: Vec<_> = (0..16).map(|salt| tokio::spawn(until_it_ends(salt))).collect();
    for _ in 0..20 {
        client.round_trip(&seed(99, 32)).await.unwrap();
    }
    daemon.signal(Signal::SIGKILL);
    daemon.end().await;
    for caller in callers {
        caller.await.unwrap();
    }
}

/// A loss of power tears the last line.
#[tokio::test]
async fn a_torn_line_is_cut_off_and_told() {
    let token = Token::with_kek().audited("");
    Daemon::start(&token).await.stop().await;
    let text = fs::read(token.audit()).unwrap();
    let torn = [text.as_slice(), b"{\"seq\":9,\"time\":\"20"].concat();
    fs::write(token.audit(), torn).unwrap();
    // It could be one that is being written: the end is proven all the same.
    assert_eq!(token.verify(&[&token.audit()]).code(), Some(0));
    let copy = token.path("copy.jsonl");
    fs::copy(token.audit(), &copy).unwrap();
    assert_eq!(token.verify(&[&copy]).code(), Some(1));
    Daemon::start(&token).await.stop().await;
    token.intact(&[&token.audit()]);
    let gaps = token.audit_events("gap");
    is(&gaps[0], json!({ "count": 1 }));
    assert!(gaps[0]["detail"].as_str().unwrap().contains("cut short"), "{gaps:?}");
}

/// The daemon notices it by itself; a reload is not needed.
#[tokio::test]
async fn a_rename_makes_a_new_file_and_loses_nothing() {
    let token = Token::with_kek().audited("");
    let daemon = Daemon::start(&token).await;
    let load = Load::start(&daemon.client().await, 8);
    let old: Vec<PathBuf> =
        (1..=3).rev().map(|number| token.path(&format!("audit/audit.jsonl.{number}"))).collect();
    for place in &old {
        load.go_on_for(100).await;
        fs::rename(token.audit(), place).unwrap();
        eventually("a new file", async || token.audit().exists().then_some(())).await;
    }
    load.go_on_for(100).await;
    daemon.signal(Signal::SIGHUP);
    daemon.logged("config and PIN are read again").await;
    load.go_on_for(100).await;
    load.finish().await;
    daemon.stop().await;
    let new = token.audit();
    let files: Vec<_> = old.iter().chain([&new]).map(PathBuf::as_path).collect();
    let lines = token.intact(&files);
    let each: usize = files.iter().map(|file| lines_of(file).len()).sum();
    assert_eq!(lines, each as u64);
    assert!(files.iter().all(|file| !lines_of(file).is_empty()));
    // A file alone is no whole log, and without the oldest it is one from there on.
    assert_eq!(token.verify(&files[1..]).code(), Some(0));
    let ended = token.verify(&[files[0], files[2], files[3]]);
    assert_eq!((ended.code(), &ended.json()["broken"]["kind"]), (Some(1), &json!("missing")));
    let ended = token.verify(&[files[1], files[0], files[2], files[3]]);
    assert_eq!((ended.code(), &ended.json()["broken"]["kind"]), (Some(1), &json!("moved")));
    assert_eq!(fs::metadata(token.audit()).unwrap().permissions().mode() & 0o777, 0o640);
}

/// No line is left to show it, so the daemon has to.
#[tokio::test]
async fn a_log_that_is_deleted_or_emptied_is_told() {
    let token = Token::with_kek().audited("");
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    for what in ["was emptied", "was deleted"] {
        client.encrypt(&seed(1, 32)).await.unwrap();
        if what == "was emptied" {
            drop(File::create(token.audit()).unwrap());
        } else {
            fs::remove_file(token.audit()).unwrap();
        }
        client.encrypt(&seed(2, 32)).await.unwrap();
        let is_it = |line: &Value| line["detail"].as_str().is_some_and(|it| it.contains(what));
        let gap = token.audit_line(what, is_it).await;
        assert_eq!(gap["event"], "gap");
        daemon.logged(what).await;
    }
    daemon.stop().await;
    // The chain goes on, from where the record begins now.
    assert_eq!(token.verify(&[&token.audit()]).code(), Some(0));
}

/// Somebody holds the head's lock: to the daemon that is a disk that hangs.
#[tokio::test]
async fn while_the_log_hangs_nobody_waits_but_those_who_must() {
    let token = Token::with_kek().audited("");
    let daemon = Daemon::start_with(&token, &["metrics.listen=127.0.0.1:0"]).await;
    let watcher = Watcher::of(&daemon).await;
    let client = daemon.client().await;
    let good = client.encrypt(&seed(1, 32)).await.unwrap();
    let lock = File::open(token.path("state/audit.head")).unwrap();
    lock.lock().unwrap();
    let refusal = client.encrypt_as("uid-late", &seed(2, 32)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    assert!(refusal.message().contains("audit log"), "{refusal:?}");
    let began = Instant::now();
    for _ in 0..100 {
        client.decrypt(request_for(&good)).await.unwrap();
        assert_eq!(client.status().await.unwrap().healthz, "ok");
    }
    // Each would have to wait for a second.
    assert!(began.elapsed() < Duration::from_secs(50));
    // Who watches sees it, and kube-apiserver is not taken out for it.
    let scraped = watcher.shows("p11_kms_audit_failing", |failing| failing > 0.5).await;
    assert!(scraped.value("p11_kms_healthy") > 0.5);
    let ready = watcher.get("/readyz");
    assert_eq!((ready.status, &ready.json()["reasons"][0]["id"]), (503, &json!("audit")));
    daemon.logged("the audit log cannot be written: it does not answer").await;
    client.encrypt(&seed(2, 32)).await.unwrap_err();
    assert_eq!(client.status().await.unwrap().healthz, "ok");
    lock.unlock().unwrap();
    watcher.shows("p11_kms_audit_failing", |failing| failing < 0.5).await;
    daemon.logged("the audit log is written again").await;
    assert_eq!(daemon.count("the audit log cannot be written"), 1);
    assert_eq!(watcher.get("/readyz").status, 200);
    client.encrypt(&seed(3, 32)).await.unwrap();
    daemon.stop().await;
    token.intact(&[&token.audit()]);
    assert_eq!(token.audit_events("decrypt").len(), 100);
    // The last of its lines says that it was not answered.
    let late: Vec<_> = token
        .audit_events("encrypt")
        .into_iter()
        .filter(|line| line["uid"] == "uid-late")
        .collect();
    is(late.last().unwrap(), json!({ "outcome": "Unavailable" }));
}

/// Nothing can be read then: but one slow write is no reason to take kube-apiserver out.
#[tokio::test]
async fn with_refuse_all_status_says_so_once_it_lasts() {
    let token = Token::with_kek().audited("on-failure = \"refuse-all\"");
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    let good = client.encrypt(&seed(1, 32)).await.unwrap();
    let lock = File::open(token.path("state/audit.head")).unwrap();
    lock.lock().unwrap();
    let began = Instant::now();
    let refusal = client.decrypt(request_for(&good)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    let status = client.status().await.unwrap();
    assert!(status.healthz == "ok" || began.elapsed() > Duration::from_secs(9), "{status:?}");
    let status = daemon.unwell("the audit log").await;
    assert!(status.healthz.contains("nothing is encrypted or decrypted"), "{status:?}");
    assert!(began.elapsed() > Duration::from_secs(9));
    lock.unlock().unwrap();
    daemon.well().await;
    client.decrypt(request_for(&good)).await.unwrap();
    daemon.stop().await;
    token.intact(&[&token.audit()]);
}

/// Nobody is refused, and still it shows.
#[tokio::test]
async fn with_continue_a_log_that_hangs_shows_all_the_same() {
    let token = Token::with_kek().audited("on-failure = \"continue\"");
    let daemon = Daemon::start_with(&token, &["metrics.listen=127.0.0.1:0"]).await;
    let watcher = Watcher::of(&daemon).await;
    let client = daemon.client().await;
    let lock = File::open(token.path("state/audit.head")).unwrap();
    lock.lock().unwrap();
    client.round_trip(&seed(1, 32)).await.unwrap();
    watcher.shows("p11_kms_audit_failing", |failing| failing > 0.5).await;
    assert_eq!(watcher.get("/readyz").status, 200);
    lock.unlock().unwrap();
    watcher.shows("p11_kms_audit_failing", |failing| failing < 0.5).await;
    daemon.stop().await;
    token.intact(&[&token.audit()]);
}

#[test]
fn the_daemon_does_not_start_with_a_file_that_is_wrong() {
    let token = Token::with_kek().audited("");
    let start = |said: &[&str]| token.run(&["serve"]).expect(2, &[&["audit.file"], said].concat());
    let log = token.audit();
    fs::create_dir(&log).unwrap();
    start(&["is a directory"]);
    fs::remove_dir(&log).unwrap();
    symlink(token.path("elsewhere"), &log).unwrap();
    start(&["is a symbolic link"]);
    fs::write(token.path("elsewhere"), "").unwrap();
    start(&["is a symbolic link"]);
    fs::remove_file(&log).unwrap();
    mkfifo(&log, Mode::from_bits_truncate(0o600)).unwrap();
    start(&["is a FIFO"]);
    fs::remove_file(&log).unwrap();
    for mode in [0o644, 0o660, 0o602] {
        fs::write(&log, "").unwrap();
        fs::set_permissions(&log, fs::Permissions::from_mode(mode)).unwrap();
        start(&[&format!("mode {mode:04o}"), "chmod 0640"]);
    }
    fs::remove_dir_all(token.path("audit")).unwrap();
    start(&["make the directory"]);
    // Nor do commands that change the token, and none has made a KEK.
    token.run(&["key", "generate"]).expect(2, &["audit.file", "make the directory"]);
    assert_eq!(common::keks::listed(&token).len(), 1);
}

#[tokio::test]
async fn verify_tells_what_and_where() {
    let token = Token::with_kek().audited("");
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    for salt in 0..5 {
        client.encrypt(&seed(salt, 32)).await.unwrap();
    }
    daemon.stop().await;
    let log = token.audit();
    let count = token.intact(&[&log]);
    let text = fs::read_to_string(&log).unwrap();
    let said = token.run(&["audit", "verify", log.to_str().unwrap()]);
    said.expect(0, &[]);
    assert!(said.stdout.starts_with(&format!("intact: {count} lines, 1 to {count}")), "{said:?}");

    // On another host there is no config, and no head.
    let copy = token.path("copy.jsonl");
    fs::write(&copy, text.replacen("\"outcome\":\"Ok\"", "\"outcome\":\"OK\"", 1)).unwrap();
    let mut command = token.bare_command();
    command.args(["--config", "/no/such/file", "audit", "verify"]).arg(&copy);
    let ended = run(command);
    ended.expect(1, &[]);
    let place = 1 + text.lines().position(|line| line.contains("\"outcome\":\"Ok\"")).unwrap();
    let expected = format!("BROKEN: {} line {place} (number {place}): ", copy.display());
    assert!(ended.stdout.starts_with(&expected), "{ended:?}");

    // The end is cut off: only the head shows it.
    let cut: String = text.split_inclusive('\n').take(3).collect();
    fs::write(&copy, &cut).unwrap();
    let ended = token.verify(&[&copy]);
    assert_eq!((ended.code(), &ended.json()["end_proven"]), (Some(0), &json!(false)));
    fs::write(&log, &cut).unwrap();
    let ended = token.verify(&[&log]);
    assert_eq!(ended.code(), Some(1));
    let found = ended.json();
    is(
        &found["broken"],
        json!({ "file": log.to_str().unwrap(), "line": 4, "seq": 4, "kind": "missing" }),
    );
    is(&found, json!({ "intact": false, "lines": 3, "first_seq": 1, "last_seq": 3 }));
    // A daemon that goes on does not hide it.
    Daemon::start(&token).await.stop().await;
    assert_eq!(token.verify(&[&log]).json()["broken"]["kind"], "missing");
    assert_eq!(token.audit_events("gap").len(), 1);

    let piped = format!("printf '%s' \"$1\" | {} audit verify -", env!("CARGO_BIN_EXE_p11-kms"));
    let mut command = token.prepared("sh");
    command.args(["-c", &piped, "sh", &text]).env("P11_KMS_CONFIG", token.config());
    run(command).expect(0, &[]);
    token.run(&["audit", "verify", "/no/such/file"]).expect(2, &["/no/such/file"]);
    token.run(&["audit", "verify"]).expect(2, &["FILE"]);
    let no_head = ["audit", "verify", "--head", "/no/such/head", log.to_str().unwrap()];
    token.run(&no_head).expect(2, &["/no/such/head"]);
}
