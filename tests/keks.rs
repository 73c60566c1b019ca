//! Which keys are KEKs, and which are refused by name.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use common::daemon::Daemon;
use common::seed;
use common::token::{GOOD, Token};
use serde_json::Value;
use tonic::Code;

const WEAK: (&str, &str) = ("[keyring]", "allow-weak-kek = true\n[keyring]");

/// `key list` of the token, by label; the first of a label if there are two.
fn listed(token: &Token, label: &str) -> Value {
    let list = token.run(&["key", "list", "--output", "json"]).json();
    let mut lines = list.as_array().unwrap().iter();
    lines.find(|line| line["label"] == label).unwrap().clone()
}

/// Nothing but this key is on the token: it is refused by name, everywhere.
async fn refused(kind: &str, flags: &[&str], why: &str) {
    let token = Token::new();
    token.keygen("k8s-kek-0001", kind, flags);
    let line = listed(&token, "k8s-kek-0001");
    assert_eq!(line["state"], "refused");
    assert!(line["problems"].to_string().contains(why), "{line}");
    assert_eq!(line["key-id"], Value::Null);

    let check = token.run(&["check"]);
    assert_eq!(check.code(), Some(1), "{check:?}");
    assert!(check.stdout.contains("k8s-kek-0001") && check.stdout.contains(why), "{check:?}");

    let daemon = Daemon::spawn(&token, &[]);
    let status = daemon.unwell(why).await;
    assert!(status.healthz.contains("\"k8s-kek-0001\""), "{status:?}");
    assert!(status.healthz.contains("p11-kms key generate"), "{status:?}");
    assert_eq!(status.key_id, "");
    let refusal = daemon.client().await.encrypt(&seed(1, 32)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    assert!(refusal.message().contains(why), "{refusal:?}");
    daemon.stop().await;
}

/// The flags without one of them.
fn good_but(flag: &str) -> Vec<&'static str> {
    GOOD.iter().copied().filter(|good| *good != flag).collect()
}

#[tokio::test]
async fn an_extractable_kek_is_refused() {
    let flags = [GOOD, &["--extractable"]].concat();
    refused("AES:32", &flags, "CKA_EXTRACTABLE is true").await;
}

#[tokio::test]
async fn a_kek_that_shows_its_value_is_refused() {
    refused("AES:32", &good_but("--sensitive"), "CKA_SENSITIVE is false").await;
}

#[tokio::test]
async fn a_kek_that_needs_no_login_is_refused() {
    refused("AES:32", &good_but("--private"), "CKA_PRIVATE is false").await;
}

#[tokio::test]
async fn a_short_kek_is_refused() {
    refused("AES:16", GOOD, "AES-128").await;
}

#[tokio::test]
async fn an_imported_kek_is_refused() {
    let token = Token::new();
    token.import("k8s-kek-0001", &seed(1, 32));
    let line = listed(&token, "k8s-kek-0001");
    assert_eq!(line["state"], "refused");
    assert!(line["problems"].to_string().contains("CKA_NEVER_EXTRACTABLE is false"), "{line}");
}

/// A KEK for method `ecb` may encrypt and not wrap.
#[tokio::test]
async fn a_kek_without_the_right_for_the_method_is_refused() {
    let token = Token::new();
    token.run(&["--set", "token.method=ecb", "key", "generate"]).expect(0, &[]);
    let line = listed(&token, "k8s-kek-0001");
    assert_eq!(line["state"], "refused");
    let problems = line["problems"].to_string();
    assert!(problems.contains("CKA_WRAP is false"), "{line}");
    assert!(problems.contains("CKA_UNWRAP is false"), "{line}");
    // It is no question of strength, so nothing allows it.
    let allowed = ["--set", "token.allow-weak-kek=true", "key", "list", "--output", "json"];
    assert_eq!(token.run(&allowed).json()[0]["state"], "refused");

    let daemon = Daemon::start_with(&token, &["token.method=ecb"]).await;
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
}

#[tokio::test]
async fn a_weak_kek_is_taken_only_when_allowed_and_then_the_log_shouts() {
    let token = Token::new();
    token.keygen("k8s-kek-0001", "AES:32", &["--extractable"]);
    token.change_config(WEAK.0, WEAK.1);
    let daemon = Daemon::start(&token).await;
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    let shout = daemon.logged("THIS KEK IS WEAK").await;
    assert_eq!(shout["level"], "ERROR");
    assert_eq!(shout["label"], "k8s-kek-0001");
    let check = token.run(&["check", "--output", "json"]);
    assert_eq!(check.code(), Some(0), "{check:?}");
    let findings = check.json();
    let warned = |id: &str| {
        let mut all = findings.as_array().unwrap().iter();
        all.any(|finding| finding["id"] == id && finding["result"] == "warn")
    };
    assert!(warned("weak-kek") && warned("kek"), "{findings}");
}
