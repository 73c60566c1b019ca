//! A module, a token or a PIN that is not right, and when it is put right.

#![allow(clippy::unwrap_used, reason = "the helpers are part of the tests")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::daemon::Daemon;
use common::token::{PIN, Token, module};
use common::{eventually, seed};
use nix::sys::signal::Signal;

#[tokio::test]
async fn a_pin_file_that_is_missing() {
    let token = Token::with_kek();
    fs::remove_file(token.path("pin")).unwrap();
    let path = token.path("pin");
    token.run(&["key", "list"]).expect(2, &[path.to_str().unwrap(), "No such file"]);
    assert_eq!(token.run(&["check"]).code(), Some(1));
    let daemon = Daemon::spawn(&token, &[]);
    daemon.unwell(path.to_str().unwrap()).await;
    token.write_pin(PIN, 0o600);
    daemon.well().await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_pin_file_that_others_may_read() {
    let token = Token::with_kek();
    token.write_pin(PIN, 0o644);
    let said = ["is open to others (mode 0644)", "chmod 0600"];
    token.run(&["key", "list"]).expect(2, &said);
    let check = token.run(&["check", "--output", "json"]);
    assert_eq!(check.code(), Some(1));
    assert!(check.stdout.contains("pin-source") && check.stdout.contains("chmod 0600"));
    assert!(!check.stdout.contains(PIN));
    token.run(&["serve"]).expect(2, &said);
    // While it runs it goes on: the workers that are logged in need no PIN.
    token.write_pin(PIN, 0o600);
    let daemon = Daemon::start(&token).await;
    token.write_pin(PIN, 0o644);
    daemon.signal(Signal::SIGHUP);
    daemon.logged("chmod 0600").await;
    daemon.well().await;
    fs::set_permissions(token.path("pin"), fs::Permissions::from_mode(0o600)).unwrap();
    daemon.well().await;
    daemon.stop().await;
}

#[test]
fn a_module_that_is_none() {
    let token = Token::without_token();
    let text = token.usual_config();
    let usual = format!("{:?}", module());
    let no_library = token.path("module.so");
    fs::write(&no_library, "this is no library").unwrap();
    let no_library = no_library.to_str().unwrap();
    let libc = fs::read_to_string("/proc/self/maps").unwrap();
    let libc = libc.split_whitespace().find(|word| word.ends_with("/libc.so.6")).unwrap();
    for wrong in [no_library, libc, "/nonexistent/module.so", "/tmp"] {
        token.write_config(&text.replace(&usual, &format!("{wrong:?}")));
        token.run(&["key", "list"]).expect(2, &["token.module", wrong]);
        let check = token.run(&["check", "--output", "json"]);
        assert_eq!(check.code(), Some(1), "{check:?}");
        let findings = check.json();
        let mut failed = findings.as_array().unwrap().iter();
        let module = failed.find(|finding| finding["result"] == "fail").unwrap();
        assert_eq!(module["id"], "module");
        assert!(module["message"].as_str().unwrap().contains(wrong), "{module}");
    }
}

#[test]
fn a_token_that_is_not_there() {
    let token = Token::new();
    token.change_config("token=test", "token=other");
    let said = ["no token matches", "pkcs11:token=other", "token \"test\" (serial "];
    token.run(&["key", "list"]).expect(3, &said);
    let check = token.run(&["check"]);
    assert_eq!(check.code(), Some(1));
    assert!(check.stdout.contains("FAIL  token"), "{check:?}");
    let empty = Token::without_token();
    empty.run(&["key", "list"]).expect(3, &["no initialised token"]);
}

#[test]
fn a_token_that_is_there_twice() {
    let token = Token::new();
    token.initialise();
    let ended = token.run(&["key", "list"]);
    ended.expect(3, &["2 tokens match", "Add serial= or slot-id="]);
    let (_, message) = ended.stderr.split_once("p11-kms: ").unwrap();
    let serials: Vec<&str> =
        message.split("(serial ").skip(1).filter_map(|rest| rest.split(',').next()).collect();
    assert_eq!(serials.len(), 2, "{ended:?}");
    let uri = format!("token.uri=pkcs11:token=test;serial={}", serials[1]);
    token.run(&["--set", &uri, "key", "generate"]).expect(0, &[]);
    let other = format!("token.uri=pkcs11:serial={}", serials[0]);
    let list = |uri: &str| token.run(&["--set", uri, "key", "list", "--output", "json"]).json();
    assert_eq!(list(&uri).as_array().unwrap().len(), 1);
    assert_eq!(list(&other).as_array().unwrap().len(), 0);
}

/// Many a token locks its PIN after three wrong ones.
#[tokio::test]
async fn a_wrong_pin_is_tried_once_and_a_corrected_one_by_itself() {
    let token = Token::with_kek();
    let spy = token.spy_on_calls();
    token.write_pin("wrong", 0o600);
    let mut command = token.command();
    command.args(["--set", "token.workers=2", "serve"]).envs(spy.environment());
    let daemon = Daemon::run(&token, command);
    let status = daemon.unwell("CKR_PIN_INCORRECT").await;
    assert!(status.healthz.contains("will not try this PIN again"), "{status:?}");
    assert!(status.healthz.contains("SIGHUP"), "{status:?}");
    // Two workers, and several looks at the PIN file, one a second.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(spy.count("C_Login"), 1, "no second attempt with the same PIN");
    let refusal = daemon.client().await.encrypt(&seed(1, 32)).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::Unavailable, "{refusal:?}");

    token.write_pin(PIN, 0o600);
    daemon.well().await;
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    daemon.all_workers(2).await;
    assert_eq!(spy.count("C_Login"), 3, "once wrong, then once for each worker");
    daemon.stop().await;
}

/// SIGHUP is the operator's word that something was done, such as unlocking the PIN.
#[tokio::test]
async fn sighup_tries_a_wrong_pin_once_more() {
    let token = Token::with_kek();
    let spy = token.spy_on_calls();
    token.write_pin("wrong", 0o600);
    let mut command = token.command();
    command.args(["--set", "token.workers=2", "serve"]).envs(spy.environment());
    let daemon = Daemon::run(&token, command);
    daemon.unwell("CKR_PIN_INCORRECT").await;
    assert_eq!(spy.count("C_Login"), 1);
    daemon.signal(Signal::SIGHUP);
    let tried = async || (spy.count("C_Login") > 1).then_some(());
    eventually("a second attempt", tried).await;
    daemon.unwell("CKR_PIN_INCORRECT").await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(spy.count("C_Login"), 2, "one attempt for one SIGHUP");
    daemon.stop().await;
}

#[test]
fn a_wrong_pin_ends_a_command_with_3() {
    let token = Token::new();
    token.write_pin("wrong", 0o600);
    token.run(&["key", "list"]).expect(3, &["CKR_PIN_INCORRECT"]);
    let check = token.run(&["check"]);
    assert_eq!(check.code(), Some(1));
    assert!(check.stdout.contains("FAIL  login"), "{check:?}");
    assert!(!check.stdout.contains("wrong\n"));
}
