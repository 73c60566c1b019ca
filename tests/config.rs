//! What the binary says to a config that is not right.

#![allow(clippy::unwrap_used, reason = "the helpers are part of the tests")]

mod common;

use std::fs;

use common::token::Token;

/// The config with one change is refused by every command that reads it.
fn refused(from: &str, to: &str, said: &[&str]) {
    let token = Token::without_token();
    token.change_config(from, to);
    let file = token.config();
    for command in [["serve"].as_slice(), &["key", "list"], &["check"], &["status"]] {
        let ended = token.run(command);
        ended.expect(2, &[file.to_str().unwrap()]);
        ended.expect(2, said);
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn an_unknown_key() {
    refused(
        "scan-interval",
        "scan-intervall",
        &["keyring.scan-intervall", "keyring.scan-interval?"],
    );
    refused("[health]", "[helth]", &["line ", "did you mean [health]?"]);
}

#[test]
fn a_wrong_type() {
    refused("label = \"k8s-kek\"", "label = 5", &["keyring.label"]);
    refused("[health]\ninterval = \"1s\"", "[health]\ninterval = 1", &["health.interval"]);
    refused("[health]\ninterval = \"1s\"", "[health]\ninterval = \"1h\"", &["health.interval"]);
    refused("profile = \"softhsm\"", "profile = \"softhms\"", &["token.profile", "softhsm"]);
}

#[test]
fn no_toml_at_all() {
    refused("[token]", "[token", &["line 1"]);
}

#[test]
fn an_endpoint_that_is_no_unix_socket() {
    let token = Token::without_token();
    let endpoint = format!("{:?}", token.endpoint());
    for wrong in ["http://localhost:80", "/run/kms.sock", "kms.sock", "unix://run/kms.sock"] {
        token.write_config(&token.usual_config().replace(&endpoint, &format!("{wrong:?}")));
        token.run(&["serve"]).expect(2, &["server.endpoint", "unix:///"]);
    }
}

#[test]
fn a_pin_in_the_config_is_refused_and_not_shown() {
    let token = Token::without_token();
    let text = token.usual_config();
    token.write_config(&text.replace("profile =", "pin = \"s3cret-pin\"\nprofile ="));
    let ended = token.run(&["serve"]);
    ended.expect(2, &["token.pin", "token.pin-file"]);
    assert!(!ended.stderr.contains("s3cret-pin"));
    token.write_config(&text.replace("token=test", "token=test?pin-value=s3cret-pin"));
    let ended = token.run(&["serve"]);
    ended.expect(2, &["token.uri", "token.pin-file"]);
    assert!(!ended.stderr.contains("s3cret-pin"));
}

#[test]
fn no_config_file() {
    let token = Token::without_token();
    fs::remove_file(token.config()).unwrap();
    token.run(&["serve"]).expect(2, &[token.config().to_str().unwrap(), "--config"]);
}

#[test]
fn the_environment_overrides_the_file_and_set_overrides_both() {
    let token = Token::without_token();
    let endpoint = |environment: Option<&str>, set: Option<&str>| {
        let mut command = token.command();
        command.args(["encryption-config", "--output", "json"]);
        if let Some(value) = environment {
            command.env("P11_KMS_SERVER__ENDPOINT", value);
        }
        if let Some(value) = set {
            command.args(["--set", &format!("server.endpoint={value}")]);
        }
        let ended = common::process::run(command);
        ended.expect(0, &[]);
        ended.json()["resources"][0]["providers"][0]["kms"]["endpoint"].clone()
    };
    assert_eq!(endpoint(None, None), token.endpoint());
    assert_eq!(endpoint(Some("unix:///run/a"), None), "unix:///run/a");
    assert_eq!(endpoint(Some("unix:///run/a"), Some("unix:///run/b")), "unix:///run/b");

    let mut command = token.command();
    command.arg("serve").env("P11_KMS_TOKEN__MODUL", "/x");
    let said = ["P11_KMS_TOKEN__MODUL", "P11_KMS_TOKEN__MODULE?"];
    common::process::run(command).expect(2, &said);
    let set = ["--set", "health.interval=never", "serve"];
    token.run(&set).expect(2, &["command line", "health.interval"]);
    let mut command = token.command();
    command.arg("serve").env("P11_KMS_TOKEN__PIN", "s3cret-pin");
    let ended = common::process::run(command);
    ended.expect(2, &["P11_KMS_TOKEN__PIN", "token.pin-file"]);
    assert!(!ended.stderr.contains("s3cret-pin"));
}

#[test]
fn a_config_in_the_environment_variable() {
    let token = Token::with_kek();
    let mut command = token.bare_command();
    command.args(["key", "list"]).env("P11_KMS_CONFIG", token.config());
    common::process::run(command).expect(0, &[]);
}
