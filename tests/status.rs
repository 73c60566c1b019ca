//! `check`, `status` and `probe`: how are things?

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::collections::BTreeSet;

use common::daemon::Daemon;
use common::token::{PIN, Token};
use common::{names, set};
use serde_json::{Value, json};

#[test]
fn check_when_all_is_well() {
    let token = Token::with_kek();
    let ended = token.run(&["check", "--output", "json"]);
    ended.expect(0, &[]);
    let findings = ended.json();
    let mut ids = BTreeSet::new();
    for finding in findings.as_array().unwrap() {
        assert_eq!(names(finding), set(["id", "result", "message", "remedy"]));
        let id = finding["id"].as_str().unwrap();
        // What lies around p11-kms on this machine is not this test's: see check.rs.
        let of_the_host = ["binary", "module-file", "config-file", "memory-lock", "swap"];
        assert!(finding["result"] == "pass" || of_the_host.contains(&id), "{finding}");
        ids.insert(id);
    }
    let wanted = set([
        "config",
        "profile",
        "socket-directory",
        "pin-source",
        "state",
        "module",
        "token",
        "login",
        "mechanisms",
        "kek",
        "active-kek",
        "round-trip",
    ]);
    assert!(ids.is_superset(&wanted), "{ids:?}");
    let text = token.run(&["check"]);
    text.expect(0, &[]);
    assert!(!text.stdout.contains("FAIL") && text.stdout.contains("pass  round-trip"), "{text:?}");
    assert!(!ended.stdout.contains(PIN) && !text.stdout.contains(PIN));
}

#[test]
fn check_names_what_is_wrong_and_the_remedy() {
    let token = Token::new();
    let ended = token.run(&["check", "--output", "json"]);
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    let findings = ended.json();
    let mut failed = findings.as_array().unwrap().iter().filter(|it| it["result"] == "fail");
    let finding = failed.next().unwrap();
    assert_eq!(finding["id"], "active-kek");
    assert!(finding["remedy"].as_str().unwrap().contains("p11-kms key generate"));
    assert!(failed.next().is_none(), "{findings}");
    let text = token.run(&["check"]);
    assert_eq!(text.code(), Some(1));
    assert!(text.stdout.contains("FAIL  active-kek"), "{text:?}");
    assert!(text.stdout.contains("-> make a KEK"), "{text:?}");

    // A profile that nobody has tried is worth a warning, no more.
    token.run(&["key", "generate"]).expect(0, &[]);
    let generic = ["--set", "token.profile=generic", "--set", "token.value-len=forbid", "check"];
    let warned = token.run(&generic);
    assert_eq!(warned.code(), Some(0), "{warned:?}");
    assert!(warned.stdout.contains("WARN  profile"), "{warned:?}");
}

/// What `serve` would refuse, `check` has found before.
#[test]
fn check_tries_the_state_directory_as_serve_does() {
    let token = Token::with_kek();
    let check = |dir: &str| {
        let state = format!("keyring.state-dir={}", token.path(dir).display());
        let ended = token.run(&["--set", &state, "check", "--output", "json"]);
        let findings = ended.json();
        let mut found = findings.as_array().unwrap().iter().filter(|it| it["id"] == "state");
        (ended.code(), found.next().unwrap().clone())
    };
    std::fs::create_dir(token.path("open")).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(token.path("open"), open).unwrap();
    for (dir, said) in [("open", "chmod 0700"), ("no/such", "No such file")] {
        let (code, finding) = check(dir);
        assert_eq!((code, &finding["result"]), (Some(1), &"fail".into()), "{finding}");
        assert!(finding["message"].as_str().unwrap().contains(said), "{finding}");
    }
    let (code, finding) = check("new");
    assert_eq!((code, &finding["result"]), (Some(0), &"pass".into()), "{finding}");
    assert!(!token.path("new").exists(), "a check makes nothing");
}

#[tokio::test]
async fn status_and_probe_of_a_healthy_daemon() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let list = token.run(&["key", "list", "--output", "json"]).json();
    let status = token.run(&["status", "--output", "json"]);
    status.expect(0, &[]);
    let answer = status.json();
    assert_eq!((&answer["version"], &answer["healthz"]), (&json!("v2"), &json!("ok")));
    assert_eq!(answer["key-id"], list[0]["key-id"]);
    assert_eq!(answer["key-id-hash"], list[0]["key-id-hash"]);
    assert!(answer["token-uptime-seconds"].is_u64(), "{answer}");
    let text = token.run(&["status"]);
    text.expect(0, &[]);
    for part in ["healthz       ok", "version       v2", list[0]["key-id"].as_str().unwrap()] {
        assert!(text.stdout.contains(part), "{text:?}");
    }

    let probe = token.run(&["probe", "--output", "json"]);
    probe.expect(0, &[]);
    let answer = probe.json();
    assert_eq!((&answer["broken"], &answer["ciphertext-bytes"]), (&json!([]), &json!(40)));
    for time in ["status-micros", "encrypt-micros", "decrypt-micros"] {
        assert!(answer[time].as_u64().unwrap() > 0, "{answer}");
    }
    let text = token.run(&["probe"]);
    text.expect(0, &[]);
    assert!(text.stdout.contains("the round trip is good"), "{text:?}");

    // Who names the socket needs no config.
    let mut command = token.bare_command();
    command.args(["--config", "/nonexistent", "status", "--endpoint", &token.endpoint()]);
    common::process::run(command).expect(0, &[]);
    daemon.stop().await;
}

#[tokio::test]
async fn status_and_probe_of_an_unhealthy_daemon() {
    let token = Token::new();
    let daemon = Daemon::spawn(&token, &[]);
    daemon.unwell("no KEK with the label").await;
    let status = token.run(&["status", "--output", "json"]);
    assert_eq!(status.code(), Some(1), "{status:?}");
    let answer = status.json();
    assert!(answer["healthz"].as_str().unwrap().contains("p11-kms key generate"), "{answer}");
    assert_eq!(answer["key-id-hash"], Value::Null);
    let probe = token.run(&["probe"]);
    probe.expect(3, &["FailedPrecondition", "p11-kms key generate"]);
    // A KEK that is made meanwhile makes it well.
    daemon.all_workers(2).await;
    token.run(&["key", "generate"]).expect(0, &[]);
    daemon.well().await;
    token.run(&["status"]).expect(0, &[]);
    daemon.stop().await;
}

#[test]
fn status_and_probe_without_a_daemon() {
    let token = Token::without_token();
    for command in ["status", "probe"] {
        let ended = token.run(&[command]);
        ended.expect(3, &["cannot connect", &token.endpoint()]);
        assert_eq!(ended.stdout, "");
    }
}
