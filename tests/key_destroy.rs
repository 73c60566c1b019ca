//! `key destroy`: what it refuses, and that it destroys what nothing needs.
//!
//! Those that need an etcd take the one that ETCD names, or the one in PATH.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::fs;

use common::client::request_for;
use common::daemon::Daemon;
use common::etcd::{Etcd, free_port, kms};
use common::keks::{active, found, generate, kept, line, listed};
use common::process::{Ended, run};
use common::token::Token;
use common::{eventually, seed};
use nix::sys::signal::Signal;
use p11_kms::keyring::{Epoch, KeyId};
use serde_json::Value;
use tonic::Code;

const NOTHING: &str = "nothing was destroyed";

/// The words of a command, as it is typed.
fn destroy(token: &Token, words: &str) -> Ended {
    let line: Vec<&str> = ["key", "destroy"].into_iter().chain(words.split(' ')).collect();
    token.run(&line)
}

/// The same while etcd and the daemon are talked to.
async fn destroy_by(token: &Token, words: &str) -> Ended {
    let mut command = token.command();
    command.args(["key", "destroy"]).args(words.split(' '));
    tokio::task::spawn_blocking(move || run(command)).await.unwrap()
}

/// Types a line when it is asked for the generation.
fn destroy_typing(token: &Token, words: &str, typed: &str) -> Ended {
    let mut command = token.prepared("sh");
    command.args(["-c", r#"typed=$1; shift; printf '%s' "$typed" | "$@""#, "sh", typed]);
    command.arg(env!("CARGO_BIN_EXE_p11-kms")).arg("--config").arg(token.config());
    command.args(["key", "destroy"]).args(words.split(' '));
    run(command)
}

/// It is refused with these words, and no KEK is gone.
#[track_caller]
fn refused(token: &Token, ended: &Ended, code: i32, said: &[&str]) {
    ended.expect(code, &[&[NOTHING], said].concat());
    assert_eq!(ended.stdout, "");
    let gone = |line: &Value| line["state"] == "destroyed" || line["state"] == "missing";
    assert!(!listed(token).iter().any(gone));
}

/// A daemon that writes with generation 2, with a key_id and a blob of generation 1.
async fn rotated(token: &Token) -> (Daemon, p11_kms::proto::EncryptResponse) {
    let daemon = Daemon::start(token).await;
    let written = daemon.client().await.encrypt(&seed(1, 32)).await.unwrap();
    let new = generate(token);
    active(&daemon, &new).await;
    (daemon, written)
}

#[tokio::test]
async fn what_is_or_will_be_written_with_is_not_destroyed() {
    let token = Token::with_kek();
    let patient = ["keyring.activation-delay=1h"];
    let daemon = Daemon::start_with(&token, &patient).await;
    let new = generate(&token);
    found(&daemon, &new).await;
    let unchecked = "--without-usage-check";
    for (generation, code, said) in [
        ("1", 4, ["\"k8s-kek-0001\" (generation 1)", "is the active one"]),
        ("2", 4, ["\"k8s-kek-0002\" (generation 2)", "waiting to become active"]),
        ("3", 2, ["no KEK \"k8s-kek-0003\"", "p11-kms key list"]),
    ] {
        let words = format!("{generation} {unchecked}");
        refused(&token, &destroy_typing(&token, &words, generation), code, &said);
    }
    let unknown = format!("1 {unchecked} --key-id {new}");
    let said = ["no KEK of generation 1 has that key_id"];
    refused(&token, &destroy_typing(&token, &unknown, "1"), 2, &said);

    // Another config sees no state directory, and no record on the token; but it can ask.
    let blind = ["--set", "keyring.state-dir=/no/such", "--set", "token.data-objects=false"];
    let line = ["key", "destroy", "1", unchecked];
    let ended = token.run(&blind.iter().chain(&line).copied().collect::<Vec<_>>());
    ended.expect(4, &[NOTHING, "the daemon of this node writes with"]);
    assert_eq!(daemon.well().await.healthz, "ok");
}

#[tokio::test]
async fn without_a_look_at_etcd_somebody_must_type_the_generation() {
    let token = Token::with_kek();
    let (daemon, written) = rotated(&token).await;
    for typed in ["", "\n", "2\n", "yes\n", "11\n", "k8s-kek-0001\n"] {
        let ended = destroy_typing(&token, "1 --without-usage-check", typed);
        refused(&token, &ended, 4, &["the generation was not typed (it is 1)"]);
    }
    // Standard input is closed.
    refused(&token, &destroy(&token, "1 --without-usage-check"), 4, &["was not typed"]);
    refused(&token, &destroy(&token, "1"), 2, &["--endpoints", "--without-usage-check"]);
    let both = destroy(&token, "1 --without-usage-check --endpoints 127.0.0.1:1");
    both.expect(2, &["--without-usage-check"]);

    let ended = destroy_typing(&token, "1 --without-usage-check --output json", "1\n");
    ended.expect(0, &["KEK \"k8s-kek-0001\" will be lost for good"]);
    let outcome = ended.json();
    assert_eq!(outcome["objects-counted"], Value::Null);
    assert_eq!(outcome["kek"]["state"], "destroyed");
    assert_eq!(outcome["kek"]["key-id"], written.key_id.as_str());
    assert!(outcome["warnings"][0].as_str().unwrap().contains("8 minutes"), "{outcome}");
    let gone = line(&token, 1);
    assert_eq!((&gone["state"], &gone["key-id"]), (&"destroyed".into(), &outcome["kek"]["key-id"]));
    assert!(gone["destroyed"].is_string(), "{gone}");

    let client = daemon.client().await;
    // A look may have come before the record was written.
    let ends = ["this KEK was destroyed", "this KEK is no longer there"];
    let is_end = |line: &Value| {
        ends.iter().any(|end| line["message"].as_str().is_some_and(|it| it.starts_with(end)))
    };
    eventually("its end in the log", async || daemon.lines().iter().any(is_end).then_some(()))
        .await;
    let refusal = client.decrypt(request_for(&written)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::NotFound, "{refusal:?}");
    client.round_trip(&seed(2, 32)).await.unwrap();
    assert_eq!(daemon.well().await.healthz, "ok");
    // A second time there is nothing to destroy.
    destroy_typing(&token, "1 --without-usage-check", "1").expect(2, &["no KEK \"k8s-kek-0001\""]);
    daemon.stop().await;
    assert_eq!(line(&token, 1)["state"], "destroyed");
}

#[tokio::test]
async fn of_two_keks_of_one_generation_the_key_id_says_which() {
    let token = Token::new();
    token.change_config("[keyring]", "allow-weak-kek = true\n[keyring]");
    for salt in [1, 2] {
        token.import("k8s-kek-0001", &seed(salt, 32));
    }
    let twice: Vec<String> =
        listed(&token).iter().map(|line| line["key-id"].as_str().unwrap().to_owned()).collect();
    let new = generate(&token);
    let daemon = Daemon::start(&token).await;
    active(&daemon, &new).await;
    let said = ["2 KEKs of generation 1", "--key-id", &twice[0], &twice[1]];
    let ended = destroy_typing(&token, "1 --without-usage-check", "1");
    refused(&token, &ended, 2, &said);

    let words = format!("1 --without-usage-check --key-id {}", twice[1]);
    destroy_typing(&token, &words, "1").expect(0, &[]);
    let lines = listed(&token);
    let state = |key_id: &str| {
        let mut lines = lines.iter();
        lines.find(|line| line["key-id"] == key_id).unwrap()["state"].clone()
    };
    assert_eq!((state(&twice[0]), state(&twice[1])), ("deactivated".into(), "destroyed".into()));
}

#[tokio::test]
async fn the_number_of_a_destroyed_kek_is_not_used_again() {
    let token = Token::with_kek();
    let (daemon, _) = rotated(&token).await;
    // Put back over it, the older one lets the newest be destroyed.
    token.change_config("[keyring]\n", "[keyring]\nreinstate = { generation = 1, epoch = 1 }\n");
    let newest = daemon.well().await.key_id;
    daemon.signal(Signal::SIGHUP);
    let put_back = daemon.status(|status| status.key_id != newest && status.healthz == "ok").await;
    destroy_typing(&token, "2 --without-usage-check", "2").expect(0, &[]);
    assert_eq!(line(&token, 2)["state"], "destroyed");
    assert_eq!(daemon.well().await.key_id, put_back.key_id);
    let wanted = token.run(&["key", "generate", "--generation", "2"]);
    wanted.expect(2, &["generation 2 was there already"]);
    let new = generate(&token);
    assert_eq!(line(&token, 3)["key-id"], new.as_str());
    active(&daemon, &new).await;
}

/// Where nobody can count, nobody may destroy.
#[tokio::test]
async fn an_etcd_that_cannot_be_reached_is_no_empty_one() {
    let token = Token::with_kek();
    let (_daemon, _) = rotated(&token).await;
    let words = format!("1 --endpoints http://127.0.0.1:{}", free_port());
    let said = ["it is not known whether stored objects need the KEK", "127.0.0.1"];
    refused(&token, &destroy_by(&token, &words).await, 3, &said);
    let missing = token.path("no-such.db");
    let ended = destroy(&token, &format!("1 --snapshot {}", missing.display()));
    refused(&token, &ended, 3, &["no-such.db"]);
    fs::write(token.path("empty.db"), "").unwrap();
    let ended = destroy(&token, &format!("1 --snapshot {}", token.path("empty.db").display()));
    refused(&token, &ended, 3, &["empty.db", "no snapshot of etcd"]);
}

/// An object of a resource, under a key_id.
fn object(path: &str, key_id: &str) -> (String, Vec<u8>) {
    (format!("/registry/{path}"), kms("p11-kms", key_id, 100))
}

#[tokio::test]
#[ignore = "needs etcd (ETCD, or in PATH)"]
async fn what_stored_objects_need_is_not_destroyed() {
    let token = Token::with_kek();
    let (daemon, written) = rotated(&token).await;
    let now = kept(&token).active.unwrap();
    let first = KeyId::new(
        p11_kms::generation::Generation::new(1),
        Epoch::FIRST,
        &fingerprint(&token, &written.key_id),
    );
    assert_eq!(first.as_str(), written.key_id);
    let etcd = Etcd::start().await;
    let there = format!("--endpoints http://{}", etcd.authority);

    let ended = destroy_by(&token, &format!("1 {there} --prefix /else")).await;
    refused(&token, &ended, 2, &["begins with /else/", "--etcd-prefix"]);

    let new = now.key_id.as_str();
    let objects = [
        object("secrets/a/one", &written.key_id),
        object("secrets/a/two", &written.key_id),
        object("secrets/a/three", new),
        object("configmaps/a/one", &written.key_id),
    ];
    etcd.put_all(objects.into_iter()).await;
    let ended = destroy_by(&token, &format!("1 {there}")).await;
    refused(&token, &ended, 4, &["is needed by 1 configmaps, 2 secrets", "rewritten"]);

    // Written when it had been put back, under the name that it had then.
    let later = KeyId::new(
        p11_kms::generation::Generation::new(1),
        Epoch::new(5).unwrap(),
        &fingerprint(&token, &written.key_id),
    );
    let rewritten = [
        object("secrets/a/one", new),
        object("secrets/a/two", later.as_str()),
        object("configmaps/a/one", new),
    ];
    etcd.put_all(rewritten.into_iter()).await;
    let ended = destroy_by(&token, &format!("1 {there}")).await;
    refused(&token, &ended, 4, &["is needed by 1 secrets"]);

    // What nobody can read may need it.
    let broken = [object("secrets/a/two", ""), object("configmaps/a/two", new)];
    etcd.put_all(broken.into_iter()).await;
    let ended = destroy_by(&token, &format!("1 {there}")).await;
    refused(&token, &ended, 4, &["of 1 secrets nobody can tell", "p11-kms usage"]);

    etcd.put_all([object("secrets/a/two", new)].into_iter()).await;
    // An etcd, or a part of one, that has nothing of this keyring proves nothing.
    etcd.put_all([object("leases/a/one", "another's")].into_iter()).await;
    let ended = destroy_by(&token, &format!("1 {there} --prefix /registry/leases")).await;
    refused(&token, &ended, 4, &["of 1 objects none is under any KEK of this keyring", "--prefix"]);
    let ended = destroy_by(&token, &format!("1 {there} --output json")).await;
    ended.expect(0, &[]);
    assert_eq!(ended.json()["objects-counted"], 6);
    assert_eq!(line(&token, 1)["state"], "destroyed");
    daemon.logged("this KEK is no longer there").await;
    let client = daemon.client().await;
    let refusal = client.decrypt(request_for(&written)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::NotFound, "{refusal:?}");
    client.round_trip(&seed(2, 32)).await.unwrap();
    assert_eq!(daemon.well().await.healthz, "ok");
}

/// Which key it is that has this key_id, by a worker of our own.
fn fingerprint(token: &Token, key_id: &str) -> p11_kms::token::protocol::Fingerprint {
    let found = common::worker::Worker::start(token, &[]).find().keys;
    let named = found.into_iter().find_map(|key| {
        let fingerprint = key.fingerprint.ok()?;
        let name = KeyId::new(key.generation, Epoch::FIRST, &fingerprint);
        (name.as_str() == key_id).then_some(fingerprint)
    });
    named.unwrap()
}

#[tokio::test]
#[ignore = "needs etcd (ETCD, or in PATH)"]
async fn a_snapshot_tells_as_well_what_is_needed() {
    let token = Token::with_kek();
    let (_daemon, written) = rotated(&token).await;
    let new = kept(&token).active.unwrap().key_id;
    let etcd = Etcd::start().await;
    let file = token.path("snapshot.db");
    let words = format!("1 --snapshot {}", file.display());
    for (key_id, code) in [(written.key_id.as_str(), 4), (new.as_str(), 0)] {
        etcd.put_all([object("secrets/a/one", key_id)].into_iter()).await;
        fs::write(&file, etcd.snapshot().await).unwrap();
        let ended = destroy(&token, &words);
        if code == 0 {
            ended.expect(0, &[]);
            assert!(ended.stdout.starts_with("destroyed KEK \"k8s-kek-0001\" (generation 1)"));
        } else {
            refused(&token, &ended, code, &["is needed by 1 secrets"]);
        }
    }
    assert_eq!(line(&token, 1)["state"], "destroyed");
}
