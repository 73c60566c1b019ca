//! `key rotate`, `key list` and `key import`, and what running daemons make of them.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::thread;

use common::client::request_for;
use common::daemon::Daemon;
use common::keks::{active, found, generate, line, listed, neighbour};
use common::process::{Ended, run};
use common::token::{GOOD, Token};
use common::{eventually, hex, names, seed, set, wait_until};
use p11_kms::timestamp::Timestamp;
use serde_json::{Value, json};

const PATIENT: &str = "keyring.activation-delay=1h";

/// `key rotate`, and what it tells.
fn rotate(token: &Token, flags: &[&str]) -> Value {
    let ended = token.run(&[&["key", "rotate", "--output", "json"], flags].concat());
    ended.expect(0, &[]);
    let outcome = ended.json();
    assert_eq!(names(&outcome), set(["rotated", "reason", "kek"]));
    outcome
}

/// A Decrypt's time, once there is one that is not that.
fn last_decrypt(token: &Token, generation: u32, not: &Value) -> Option<Value> {
    let last = line(token, generation)["last-decrypt"].clone();
    (!last.is_null() && last != *not).then_some(last)
}

#[tokio::test]
async fn key_rotate_makes_one_kek_and_no_second_while_that_waits() {
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &[PATIENT]).await;
    let outcome = rotate(&token, &[]);
    assert_eq!((&outcome["rotated"], &outcome["kek"]["generation"]), (&json!(true), &json!(2)));
    assert_eq!(outcome["kek"]["state"], "pre-active");
    let said = outcome["reason"].as_str().unwrap();
    assert!(said.contains("made KEK \"k8s-kek-0002\" (generation 2)"), "{said}");
    found(&daemon, outcome["kek"]["key-id"].as_str().unwrap()).await;
    for flags in [[].as_slice(), &["--if-older-than", "1s"]] {
        let outcome = rotate(&token, flags);
        assert_eq!(
            (&outcome["rotated"], &outcome["kek"]["generation"]),
            (&json!(false), &json!(2))
        );
        let text = token.run(&[&["key", "rotate"], flags].concat());
        text.expect(0, &[]);
        let said =
            "KEK \"k8s-kek-0002\" (generation 2) is waiting to become active: nothing was made";
        assert_eq!(text.stdout.trim_end(), said);
        assert_eq!(outcome["reason"], said);
    }
    assert_eq!(listed(&token).len(), 2);
}

#[tokio::test]
async fn key_rotate_asks_how_old_the_newest_kek_is() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let young = rotate(&token, &["--if-older-than", "90d"]);
    assert_eq!((&young["rotated"], &young["kek"]["generation"]), (&json!(false), &json!(1)));
    let said = young["reason"].as_str().unwrap();
    assert!(said.ends_with("old, not more than 90 days: nothing was made"), "{said}");
    wait_until("a KEK of two seconds", || {
        (line(&token, 1)["age-seconds"].as_u64().unwrap() >= 2).then_some(())
    });
    let old = rotate(&token, &["--if-older-than", "1s"]);
    assert_eq!((&old["rotated"], &old["kek"]["generation"]), (&json!(true), &json!(2)));
    active(&daemon, old["kek"]["key-id"].as_str().unwrap()).await;
    // The new one is young again.
    assert_eq!(rotate(&token, &["--if-older-than", "1h"])["rotated"], false);
    token.run(&["key", "rotate", "--if-older-than", "soon"]).expect(2, &["--if-older-than"]);
}

#[tokio::test]
async fn key_rotate_does_not_make_the_first_kek_nor_replace_a_lost_one() {
    let token = Token::new();
    token.run(&["key", "rotate"]).expect(3, &["p11-kms key generate"]);
    assert_eq!(token.run(&["key", "list", "--output", "json"]).json(), json!([]));

    generate(&token);
    Daemon::start(&token).await.stop().await;
    token.delete("k8s-kek-0001");
    let said = ["\"k8s-kek-0001\" (generation 1) is no longer on the token", "--generation 2"];
    token.run(&["key", "rotate"]).expect(3, &said);
    assert_eq!(line(&token, 1)["state"], "missing");
    assert_eq!(listed(&token).len(), 1);
}

#[tokio::test]
async fn nodes_that_rotate_at_the_same_moment_agree_on_one_kek() {
    let token = Token::with_kek();
    let daemons = [
        Daemon::start(&token).await,
        neighbour(&token, "other", &["keyring.scan-interval=2s"]).await,
    ];
    for round in 0..4 {
        let before = daemons[0].well().await.key_id;
        let together = |_| {
            let mut command = token.command();
            command.args(["key", "rotate", "--output", "json"]);
            thread::spawn(move || run(command))
        };
        let rotations: Vec<_> = (0..3).map(together).collect();
        let ended: Vec<Ended> = rotations.into_iter().map(|it| it.join().unwrap()).collect();
        for ended in &ended {
            ended.expect(0, &[]);
        }
        let made = ended.iter().filter(|ended| ended.json()["rotated"] == true).count();
        assert!(made > 0, "round {round}: {ended:?}");
        let newest = || {
            let lines = listed(&token);
            let is_waiting = lines.iter().any(|line| line["state"] == "pre-active");
            let active = lines.into_iter().find(|line| line["state"] == "active").unwrap();
            (active["key-id"] != before.as_str() && !is_waiting).then_some(active)
        };
        // Of two of one generation, one may be active for a moment before the other is seen.
        let newest = eventually("the last one", async || newest()).await;
        for daemon in &daemons {
            active(daemon, newest["key-id"].as_str().unwrap()).await;
        }
        let keys = listed(&token);
        let count = keys.iter().filter(|line| line["generation"] == newest["generation"]).count();
        assert!(count <= made, "round {round}: {keys:?}");
    }
    // All that were made decrypt, whether they were ever written with or not.
    assert!(listed(&token).iter().all(|line| line["state"] != "refused"));
}

#[tokio::test]
async fn key_list_tells_the_life_of_each_kek() {
    let token = Token::with_kek();
    let before = Timestamp::now();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    let written = client.encrypt(&seed(1, 32)).await.unwrap();
    for _ in 2..=3 {
        let new = generate(&token);
        active(&daemon, &new).await;
    }
    let lines = listed(&token);
    for line in &lines {
        let wanted = [
            "generation",
            "label",
            "state",
            "key-id",
            "key-id-hash",
            "epoch",
            "put-back-key-id",
            "id",
            "created",
            "age-seconds",
            "active-since",
            "destroyed",
            "imported",
            "last-decrypt",
            "attributes",
            "problems",
        ];
        assert_eq!(names(line), set(wanted));
        let time: Timestamp = serde_json::from_value(line["created"].clone()).unwrap();
        assert!(time <= Timestamp::now(), "{line}");
        assert_eq!((&line["imported"], &line["destroyed"]), (&json!(false), &Value::Null));
        assert_eq!(line["active-since"].is_null(), line["state"] != "active", "{line}");
    }
    let states: Vec<_> = lines.iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["deactivated", "deactivated", "active"]);
    let since: Timestamp = serde_json::from_value(lines[2]["active-since"].clone()).unwrap();
    assert!(since >= before);

    // The first Decrypt shows soon, the last one at the end at the latest.
    assert_eq!(last_decrypt(&token, 1, &Value::Null), None);
    client.decrypt(request_for(&written)).await.unwrap();
    let first = eventually("the Decrypt", async || last_decrypt(&token, 1, &Value::Null)).await;
    let host = nix::unistd::gethostname().unwrap();
    assert_eq!(first["node"], host.to_str().unwrap());
    let at: Timestamp = serde_json::from_value(first["at"].clone()).unwrap();
    assert!(at >= before && at <= Timestamp::now(), "{first}");
    eventually("another second", async || (Timestamp::now() > at).then_some(())).await;
    client.decrypt(request_for(&written)).await.unwrap();
    daemon.stop().await;
    assert!(last_decrypt(&token, 1, &first).is_some(), "the last Decrypt is forgotten");
    assert_eq!(line(&token, 2)["last-decrypt"], Value::Null);

    // Another tool does not say that it destroys.
    token.delete("k8s-kek-0002");
    let gone = line(&token, 2);
    assert_eq!((&gone["state"], &gone["age-seconds"]), (&json!("missing"), &Value::Null));
    let text = token.run(&["key", "list"]).stdout;
    for words in ["k8s-kek-0002  generation 2  missing", "active since", "last Decrypt", "created"]
    {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(text.contains(&format!(" on {}", host.to_str().unwrap())), "{text}");
}

#[test]
fn key_list_shows_what_is_refused_and_that_nothing_is_active() {
    let token = Token::new();
    token.keygen("k8s-kek-0001", "AES:32", &[GOOD, &["--extractable"]].concat());
    let line = line(&token, 1);
    assert_eq!((&line["state"], &line["label"]), (&json!("refused"), &json!("k8s-kek-0001")));
    let problems = line["problems"].as_array().unwrap();
    let named = |problem: &Value| problem.as_str().unwrap().contains("CKA_EXTRACTABLE is true");
    assert!(problems.iter().any(named), "{problems:?}");
    let text = token.run(&["key", "list"]).stdout;
    assert!(text.contains("NO KEK IS ACTIVE: KEK \"k8s-kek-0001\" is refused"), "{text}");
}

/// A plain key in a file that only we may read.
fn plain_key(token: &Token, key: &[u8]) -> String {
    let path = token.path("plain");
    fs::write(&path, hex(key)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_imported_kek_becomes_active_after_the_delay_as_any_other() {
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &["keyring.activation-delay=2s"]).await;
    let other = neighbour(&token, "other", &[]).await;
    let client = daemon.client().await;
    let old = client.encrypt(&seed(1, 32)).await.unwrap();
    let path = plain_key(&token, &seed(2, 32));
    let before = std::time::Instant::now();
    let import = ["key", "import", &path, "--this-file-is-the-plain-key", "--output", "json"];
    let ended = token.run(&import);
    ended.expect(0, &["WARNING"]);
    let made = ended.json();
    assert_eq!((&made["imported"], &made["generation"]), (&json!(true), &json!(2)));
    assert_eq!((&made["problems"], &made["state"]), (&json!([]), &json!("pre-active")));
    let key_id = made["key-id"].as_str().unwrap();
    active(&other, key_id).await;
    daemon.status(|status| status.key_id != old.key_id).await;
    assert!(before.elapsed().as_secs() >= 2);
    active(&daemon, key_id).await;
    client.round_trip(&seed(3, 32)).await.unwrap();
    assert!(client.decrypt(request_for(&old)).await.unwrap() == seed(1, 32));

    let shown = line(&token, 2);
    assert_eq!((&shown["imported"], &shown["state"]), (&json!(true), &json!("active")));
    assert_eq!(line(&token, 1)["imported"], false);
    let text = token.run(&["key", "list"]).stdout;
    assert!(text.contains("ago, imported)"), "{text}");
    // It is so after a restart, and for a node that has never heard of it.
    daemon.stop().await;
    let daemon = Daemon::start(&token).await;
    assert_eq!(daemon.well().await.key_id, key_id);
    assert_eq!(neighbour(&token, "new", &[]).await.well().await.key_id, key_id);
}

#[tokio::test]
async fn a_key_that_nobody_introduced_is_refused_by_name() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let ours = daemon.well().await.key_id;
    token.import("k8s-kek-0002", &seed(1, 32));
    let logged = daemon.logged("KEK \"k8s-kek-0002\" is refused").await;
    assert!(logged["message"].as_str().unwrap().contains("CKA_NEVER_EXTRACTABLE is false"));
    assert_eq!(logged["level"], "ERROR");
    assert_eq!(daemon.well().await.key_id, ours);
    assert_eq!(line(&token, 2)["state"], "refused");
    // Its number is taken.
    let next = generate(&token);
    active(&daemon, &next).await;
    assert_eq!(line(&token, 3)["state"], "active");
}

#[test]
fn without_a_record_on_the_token_an_import_must_be_allowed_everywhere() {
    let token = Token::new();
    let path = plain_key(&token, &seed(1, 32));
    let import = ["key", "import", &path, "--this-file-is-the-plain-key"];
    let no_record = ["--set", "token.data-objects=false"];
    let ended = token.run(&[no_record.as_slice(), &import].concat());
    ended.expect(2, &["token.allow-imported-kek = true", "every node"]);
    assert!(listed(&token).is_empty(), "it is refused before anything is made");
    let allowed = ["--set", "token.allow-imported-kek=true"];
    token.run(&[no_record.as_slice(), &allowed, &import].concat()).expect(0, &["WARNING"]);
    let list = ["key", "list", "--output", "json"];
    let seen = |set: &[&str]| token.run(&[set, &list].concat()).json()[0]["state"].clone();
    assert_eq!(seen(&[no_record, allowed].concat()), "active");
    assert_eq!(seen(&no_record), "refused");
}

/// How many secret keys there are, whatever their label, by another tool.
fn secret_keys(token: &Token) -> usize {
    let shown = token.pkcs11_tool(["--list-objects", "--type", "secrkey"]);
    shown.stdout.matches("Secret Key Object").count()
}

#[test]
fn a_try_that_failed_leaves_no_second_kek() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    faults.set("C_GenerateKey times=1 after-return=CKR_TEMPLATE_INCONSISTENT").unwrap();
    let ended = token.run(&["key", "generate"]);
    ended.expect(0, &[]);
    assert!(ended.stdout.contains("\nnote: made without CKA_DERIVE, which"), "{ended:?}");
    assert_eq!((listed(&token).len(), secret_keys(&token)), (2, 2));

    // Any other answer ends it, and nothing stays either.
    let before = faults.count("C_GenerateKey");
    faults.set("C_GenerateKey after-return=CKR_DEVICE_ERROR").unwrap();
    token.run(&["key", "generate"]).expect(3, &["CKR_DEVICE_ERROR"]);
    assert_eq!((faults.count("C_GenerateKey"), secret_keys(&token)), (before + 1, 2));

    // What cannot be destroyed is told by its CKA_ID, and nothing more is made.
    faults
        .set(
            "C_GenerateKey after-return=CKR_TEMPLATE_INCONSISTENT\n\
             C_DestroyObject return=CKR_ACTION_PROHIBITED",
        )
        .unwrap();
    let ended = token.run(&["key", "generate"]);
    ended.expect(3, &["could not be destroyed again", "CKR_ACTION_PROHIBITED"]);
    faults.clear().unwrap();
    let lines = listed(&token);
    assert_eq!((lines.len(), secret_keys(&token)), (3, 3));
    let id = lines[2]["id"].as_str().unwrap();
    assert!(ended.stderr.contains(&format!("the CKA_ID {id}")), "{id}: {ended:?}");
}

#[test]
fn one_refused_attribute_costs_no_other() {
    let usage = |token: &Token| {
        let ended = token.run(&["check", "--output", "json", "--only", "kek-usage"]);
        ended.json()[0]["message"].as_str().unwrap().to_owned()
    };
    for (tries, left_out) in [
        (1, &["CKA_DERIVE"][..]),
        (2, &["CKA_VERIFY"]),
        (3, &["CKA_SIGN"]),
        (4, &["CKA_SIGN", "CKA_VERIFY"]),
        (5, &["CKA_SIGN", "CKA_VERIFY", "CKA_DERIVE"]),
    ] {
        let token = Token::new();
        let faults = token.misbehaving();
        let rule = format!("C_GenerateKey times={tries} return=CKR_ATTRIBUTE_VALUE_INVALID");
        faults.set(&rule).unwrap();
        let ended = token.run(&["key", "generate", "--output", "json"]);
        ended.expect(0, &[]);
        assert_eq!(ended.json()["left-out"], json!(left_out), "{ended:?}");
        // SoftHSM gives a key the rights to sign and verify unless it is told not to.
        let surplus: Vec<_> = left_out.iter().filter(|name| **name != "CKA_DERIVE").collect();
        let usage = usage(&token);
        for name in ["CKA_SIGN", "CKA_VERIFY"] {
            assert_eq!(usage.contains(name), surplus.contains(&&name), "{name}: {usage}");
        }
    }
    // A rotation tells it as well.
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let rule = "C_GenerateKey times=1 return=CKR_ATTRIBUTE_VALUE_INVALID";
    faults.set(rule).unwrap();
    let ended = token.run(&["key", "rotate"]);
    ended.expect(0, &[]);
    assert!(ended.stdout.contains("note: made without CKA_DERIVE, which"), "{ended:?}");
    assert!(line(&token, 2)["left-out"].is_null(), "nobody knows later");
    // Without any of them there is nothing to leave out.
    faults.set("C_GenerateKey return=CKR_ATTRIBUTE_VALUE_INVALID").unwrap();
    let before = faults.count("C_GenerateKey");
    let bare = ["--set", "token.deny-rights=false", "key", "generate"];
    token.run(&bare).expect(3, &["CKR_ATTRIBUTE_VALUE_INVALID"]);
    assert_eq!(faults.count("C_GenerateKey"), before + 1);
    faults.clear().unwrap();
    let token = Token::new();
    token.run(&bare).expect(0, &[]);
    let usage = usage(&token);
    assert!(usage.contains("CKA_SIGN") && usage.contains("CKA_VERIFY"), "{usage}");
}

#[test]
fn a_kek_that_was_made_and_could_not_be_read_is_told() {
    let token = Token::new();
    let faults = token.misbehaving();
    // Nothing else is there to be read.
    faults.set("C_GetAttributeValue times=1 return=CKR_DEVICE_ERROR").unwrap();
    let ended = token.run(&["key", "generate"]);
    ended.expect(3, &["CKR_DEVICE_ERROR", "it is there"]);
    let lines = listed(&token);
    assert_eq!(lines.len(), 1);
    let id = lines[0]["id"].as_str().unwrap();
    assert!(ended.stderr.contains(&format!("its CKA_ID is {id}")), "{id}: {ended:?}");
}

#[test]
fn a_module_that_shows_aes_keys_as_generic_secrets() {
    let token = Token::new();
    token.keygen("k8s-kek-0001", "GENERIC:32", &["--private", "--sensitive"]);
    assert!(listed(&token).is_empty());
    let generic = ["--set", "token.key-type=generic-secret", "key", "list", "--output", "json"];
    let seen = token.run(&generic).json();
    assert_eq!(seen[0]["label"], "k8s-kek-0001", "{seen}");
    token.delete("k8s-kek-0001");
    token.run(&["key", "generate"]).expect(0, &[]);
    // The token's record knows it, and the search does not find it.
    assert_eq!(token.run(&generic).json()[0]["state"], "missing");
}
