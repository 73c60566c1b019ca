//! A second real token, NSS softokn: the method `encrypt`, which SoftHSM cannot do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helper is part of the tests")]

mod common;

use std::fs;
use std::process::Command;

use common::client::request_for;
use common::daemon::Daemon;
use common::seed;
use common::token::Token;
use common::worker::Worker;
use p11_kms::token::protocol::Class;
use tonic::Code;

const MODULE: &str = "/usr/lib/x86_64-linux-gnu/libsoftokn3.so";

/// Our config over an NSS database in the test's own directory.
fn nss() -> Token {
    let token = Token::without_token();
    let database = token.path("nss");
    fs::create_dir(&database).unwrap();
    let database = format!("sql:{}", database.display());
    // The database takes no PIN as short as the usual one.
    token.write_pin("Passw0rd!", 0o600);
    let made = Command::new("certutil")
        .args(["-N", "-d", &database, "-f"])
        .arg(token.path("pin"))
        .status()
        .expect("certutil is missing: `softhsm-test/run` installs it (package libnss3-tools)");
    assert!(made.success());
    let init = format!(
        "init-args = \"configdir='{database}' certPrefix='' keyPrefix='' secmod='secmod.db' \
         flags= dbTokenDescription='test'\"\n[keyring]"
    );
    let config = token
        .usual_config()
        .replace(&format!("{:?}", common::token::module()), &format!("{MODULE:?}"))
        .replace("\"softhsm\"", "\"nss\"")
        .replace("[keyring]", &init);
    token.write_config(&config);
    token
}

#[tokio::test]
#[ignore = "needs NSS and its certutil: softhsm-test/run runs it where they are installed"]
async fn method_encrypt_does_kw_and_kwp() {
    let token = nss();
    token.run(&["key", "generate"]).expect(0, &[]);
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    for len in (1..=40).chain([100, 256, 999, 1000]) {
        let encrypted = client.encrypt(&seed(1, len)).await.unwrap();
        assert_eq!(encrypted.ciphertext.len(), len.next_multiple_of(8) + 8, "{len} bytes");
        let back = client.decrypt(request_for(&encrypted)).await.unwrap();
        assert!(back == seed(1, len), "{len} bytes");
        let mut changed = request_for(&encrypted);
        changed.ciphertext[0] ^= 1;
        let status = client.decrypt(changed).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{len} bytes: {status:?}");
    }
    assert_eq!(daemon.well().await.healthz, "ok");
    daemon.stop().await;
}

/// The key_id holds a hash of the token's own KW of 32 bytes. With method `ecb` the
/// aes-kw crate makes the same over single AES blocks: the two agree bit by bit, or
/// the key_ids differ.
#[test]
#[ignore = "needs NSS and its certutil: softhsm-test/run runs it where they are installed"]
fn the_tokens_kw_is_that_of_the_aes_kw_crate() {
    let token = nss();
    token.run(&["key", "generate"]).expect(0, &[]);
    let key_id = |more: &[&str]| {
        let list = [&["key", "list", "--output", "json"], more].concat();
        let ended = token.run(&list);
        ended.expect(0, &[]);
        ended.json()[0]["key-id"].as_str().map(str::to_owned)
    };
    let by_token = key_id(&[]);
    assert!(by_token.is_some());
    // The KEK made for `encrypt` may encrypt blocks as well.
    for mechanism in ["aes-ecb", "aes-cbc"] {
        let set = format!("token.ecb-mechanism={mechanism}");
        assert_eq!(key_id(&["--set", "token.method=ecb", "--set", &set]), by_token, "{mechanism}");
    }
}

#[test]
#[ignore = "needs NSS and its certutil: softhsm-test/run runs it where they are installed"]
fn a_new_kek_has_the_date_of_today() {
    let today = || humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    let token = nss();
    let mut worker = Worker::start(&token, &[]);
    let before = today();
    let made = worker.generate("k8s-kek-0001").start_date.unwrap();
    // It may be midnight.
    assert!(before.starts_with(&made) || today().starts_with(&made), "{made}");
    assert_eq!(worker.find().keys.first().unwrap().start_date, Some(made));
    let mut worker = Worker::start(&token, &[("token.start-date", "false")]);
    assert_eq!(worker.generate("k8s-kek-0002").start_date, None);
}

#[test]
#[ignore = "needs NSS and its certutil: softhsm-test/run runs it where they are installed"]
fn check_finds_the_results_of_the_rfcs() {
    let token = nss();
    token.run(&["key", "generate"]).expect(0, &[]);
    let ended = token.run(&["check", "--output", "json"]);
    ended.expect(0, &[]);
    let findings = ended.json();
    for id in ["known-answer", "known-answer-kwp", "mechanism-flags", "kek-usage", "kek-dates"] {
        let mut same = findings.as_array().unwrap().iter().filter(|finding| finding["id"] == id);
        assert!(same.clone().count() > 0, "{id}: {findings}");
        assert!(same.all(|finding| finding["result"] == "pass"), "{id}: {findings}");
    }
}

#[test]
#[ignore = "needs NSS and its certutil: softhsm-test/run runs it where they are installed"]
fn a_token_without_data_objects_is_used_without() {
    let token = nss();
    let mut worker = Worker::start(&token, &[("token.data-objects", "true")]);
    let failure = worker.write("text", &[]).unwrap().unwrap_err();
    assert_eq!(failure.class, Class::Refused);
    assert!(failure.message.contains("CKR_ATTRIBUTE_VALUE_INVALID"), "{failure}");
    let kek = worker.generate("k8s-kek-0001").fingerprint.unwrap();
    assert_eq!((worker.find().keys.len(), worker.notes().len()), (1, 0));
    worker.destroy(&kek, "k8s-kek-0001").unwrap();
    assert!(worker.find().keys.is_empty());
}
