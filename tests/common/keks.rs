//! KEKs as `key list` shows them, and several daemons on one token.

use std::fs;
use std::path::PathBuf;

use p11_kms::keyring::Record;
use p11_kms::proto::StatusResponse;
use serde_json::Value;

use super::daemon::Daemon;
use super::eventually;
use super::process::run;
use super::token::Token;

/// What the daemon of the usual config keeps, below the token's directory. The daemon must have
/// kept something.
#[track_caller]
pub(crate) fn state_file(token: &Token) -> PathBuf {
    let entries = fs::read_dir(token.path("state")).unwrap();
    let mut files = entries.map(|entry| entry.unwrap().path());
    files.find(|file| file.extension().is_some_and(|it| it == "toml")).unwrap()
}

/// Where the next text of that file is written first.
pub(crate) fn next_state_file(token: &Token) -> PathBuf {
    let checked = token.run(&["check"]).stdout;
    let serial = checked.split("(serial ").nth(1).unwrap().split(',').next().unwrap();
    token.path(&format!("state/k8s-kek@{serial}.toml.new"))
}

/// All lines of `key list`.
pub(crate) fn listed(token: &Token) -> Vec<Value> {
    let ended = token.run(&["key", "list", "--output", "json"]);
    ended.expect(0, &[]);
    ended.json().as_array().unwrap().clone()
}

/// The only line of a generation.
#[track_caller]
pub(crate) fn line(token: &Token, generation: u32) -> Value {
    let lines = listed(token);
    let mut same = lines.iter().filter(|line| line["generation"] == generation);
    match (same.next(), same.next()) {
        (Some(line), None) => line.clone(),
        _ => panic!("not one line of generation {generation}: {lines:?}"),
    }
}

/// Makes the next KEK, and tells its key_id.
pub(crate) fn generate(token: &Token) -> String {
    let made = token.run(&["key", "generate", "--output", "json"]);
    made.expect(0, &[]);
    made.json()["key-id"].as_str().unwrap().to_owned()
}

/// The same, while this test's own tasks go on.
pub(crate) async fn generate_meanwhile(token: &Token) -> String {
    let mut command = token.command();
    command.args(["key", "generate", "--output", "json"]);
    let made = tokio::task::spawn_blocking(move || run(command)).await.unwrap();
    made.expect(0, &[]);
    made.json()["key-id"].as_str().unwrap().to_owned()
}

/// What a record says.
pub(crate) fn record(text: &str) -> Record {
    Record::parse(text, "k8s-kek").unwrap()
}

/// The record in the state directory of the usual config.
pub(crate) fn kept(token: &Token) -> Record {
    record(&fs::read_to_string(state_file(token)).unwrap())
}

/// Another node: a daemon with a socket and a state directory of its own on the same token.
pub(crate) async fn neighbour(token: &Token, name: &str, set: &[&str]) -> Daemon {
    let daemon = spawn_neighbour(token, name, set);
    daemon.well().await;
    daemon.all_workers(2).await;
    daemon
}

/// The same, and does not wait.
pub(crate) fn spawn_neighbour(token: &Token, name: &str, set: &[&str]) -> Daemon {
    let endpoint = format!("unix://{}", token.path(&format!("run-{name}/kms.sock")).display());
    let state = token.path(&format!("state-{name}"));
    let own =
        [format!("server.endpoint={endpoint}"), format!("keyring.state-dir={}", state.display())];
    let settings: Vec<&str> = own.iter().map(String::as_str).chain(set.iter().copied()).collect();
    Daemon::spawn(token, &settings).at(&endpoint)
}

/// Waits until the daemon is well and names this key_id.
pub(crate) async fn active(daemon: &Daemon, key_id: &str) -> StatusResponse {
    daemon.status(|status| status.healthz == "ok" && status.key_id == key_id).await
}

/// Waits until the daemon has seen a KEK.
pub(crate) async fn found(daemon: &Daemon, key_id: &str) {
    let is_it = |line: &Value| line["message"] == "found a KEK" && line["key_id"] == key_id;
    eventually("a look that finds it", async || daemon.lines().iter().any(is_it).then_some(()))
        .await;
}
