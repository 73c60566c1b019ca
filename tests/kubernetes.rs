//! With Kubernetes' own client, and with a whole kube-apiserver.
//!
//! ```sh
//! found=$(softhsm-test/apiserver/build) && eval "$found"
//! export KMS_CLIENT KUBE_APISERVER ETCD
//! cargo nextest run --test kubernetes --run-ignored only
//! ```

#![allow(clippy::panic, reason = "the helpers are part of the tests")]

mod common;

use std::path::PathBuf;

use common::daemon::Daemon;
use common::token::{Token, module};
use faulty_module::Control;

/// Longer than the programs' own limits, which say more.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(16 * 60);

/// The path in that environment variable.
fn program(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run `softhsm-test/apiserver/build`, which says what it is")
    })
}

/// Runs the client beside the daemon; it must end well.
async fn client(token: &Token, arguments: &[&str]) {
    client_with(token, [], arguments).await;
}

/// The same with more in its environment, and in that of all that it starts.
async fn client_with<const COUNT: usize>(
    token: &Token,
    environment: [(&'static str, PathBuf); COUNT],
    arguments: &[&str],
) {
    let mut command: tokio::process::Command = token.prepared(&program("KMS_CLIENT")).into();
    command.envs(environment).args(arguments).kill_on_drop(true);
    let ended = tokio::time::timeout(LIMIT, command.output()).await;
    let ended = ended.unwrap_or_else(|_| panic!("{arguments:?} does not end"));
    let ended = ended.unwrap_or_else(|error| panic!("KMS_CLIENT cannot be started: {error}"));
    assert!(
        ended.status.success(),
        "{arguments:?}: {}\n{}{}",
        ended.status,
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
}

#[tokio::test]
#[ignore = "needs the programs that softhsm-test/apiserver/build finds or builds"]
async fn every_rule_of_kms_v2_is_kept() {
    program("KMS_CLIENT");
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    client(&token, &["roundtrip", "--endpoint", daemon.endpoint()]).await;
    daemon.stop().await;
}

#[tokio::test]
#[ignore = "needs the programs that softhsm-test/apiserver/build finds or builds"]
async fn every_rule_of_kms_v2_is_kept_on_an_abstract_socket() {
    program("KMS_CLIENT");
    let token = Token::with_kek();
    let endpoint = format!("unix:///@p11-kms-test-{}", std::process::id());
    let setting = format!("server.endpoint={endpoint}");
    let daemon = Daemon::spawn(&token, &[&setting]).at(&endpoint);
    daemon.well().await;
    client(&token, &["roundtrip", "--endpoint", &endpoint]).await;
    daemon.stop().await;
}

/// An apiserver that starts fills its cache.
#[tokio::test]
#[ignore = "needs the programs that softhsm-test/apiserver/build finds or builds"]
async fn five_thousand_decrypts_at_once() {
    program("KMS_CLIENT");
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    client(&token, &["storm", "--endpoint", daemon.endpoint(), "--count", "5000"]).await;
    daemon.stop().await;
}

#[tokio::test]
#[ignore = "needs the programs that softhsm-test/apiserver/build finds or builds"]
async fn a_whole_control_plane() {
    let (apiserver, etcd) = (program("KUBE_APISERVER"), program("ETCD"));
    program("KMS_CLIENT");
    let token = Token::with_kek();
    let config = token.config().display().to_string();
    client(&token, &cluster(&apiserver, &etcd, &config)).await;
}

/// The command line of the end-to-end test.
fn cluster<'a>(apiserver: &'a str, etcd: &'a str, config: &'a str) -> Vec<&'a str> {
    let plugin = env!("CARGO_BIN_EXE_p11-kms");
    let programs = ["--kube-apiserver", apiserver, "--etcd", etcd, "--p11-kms", plugin];
    ["cluster"].into_iter().chain(programs).chain(["--config", config]).collect()
}

/// Secrets are written and read all the while. Every read has to succeed, and what
/// was written has to be there after kube-apiserver has lost its cached seeds.
#[tokio::test]
#[ignore = "needs the programs that softhsm-test/apiserver/build finds or builds"]
async fn a_control_plane_whose_token_is_lost_for_a_minute() {
    let (apiserver, etcd) = (program("KUBE_APISERVER"), program("ETCD"));
    program("KMS_CLIENT");
    let faulty = faulty_module::library().expect("cargo builds it beside the tests");
    // The KEK is made through the real module.
    let token = Token::with_kek();
    token.change_config(&format!("{:?}", module()), &format!("{faulty:?}"));
    let directory = token.path("faults");
    let control = Control::new(&directory).unwrap();

    let (config, directory) =
        (token.config().display().to_string(), directory.display().to_string());
    let mut line = cluster(&apiserver, &etcd, &config);
    line.extend(["--fault-control", &directory, "--lost-for", "60s"]);
    client_with(&token, control.environment(&module()), &line).await;
}

/// The client makes the token, the configs and the KEKs itself. Of the reads none may
/// fail, and on no node may a key_id come back after another.
#[tokio::test]
#[ignore = "needs the programs that softhsm-test/apiserver/build finds or builds"]
async fn three_control_planes_through_five_rotations() {
    let (apiserver, etcd) = (program("KUBE_APISERVER"), program("ETCD"));
    program("KMS_CLIENT");
    let module = module().display().to_string();
    let plugin = env!("CARGO_BIN_EXE_p11-kms");
    let programs = ["--kube-apiserver", &apiserver, "--etcd", &etcd, "--p11-kms", plugin];
    let line: Vec<&str> =
        ["rotation"].into_iter().chain(programs).chain(["--module", &module]).collect();
    let token = Token::without_token();
    // What it leaves when it is killed goes with our own directory.
    client_with(&token, [("TMPDIR", token.path(""))], &line).await;
}
