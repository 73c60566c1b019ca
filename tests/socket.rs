//! The socket of the real daemon: made safely, kept for one, removed at the end.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;

use common::daemon::Daemon;
use common::seed;
use common::token::Token;
use nix::sys::signal::Signal;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// An abstract name that no other test has.
fn abstract_endpoint(token: &Token) -> String {
    let name = token.path("");
    let name = name.file_name().unwrap().to_str().unwrap();
    format!("unix:///@{name}")
}

fn with_directory(token: &Token, mode: u32) {
    let directory = token.path("run");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_socket_in_the_file_system() {
    let token = Token::with_kek();
    let path = token.path("run/kms.sock");
    let daemon = Daemon::start(&token).await;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&token.path("run")), 0o700, "made by us");
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    daemon.stop().await;
    assert!(!path.exists(), "removed at the end");
    // And again at the same place.
    Daemon::start(&token).await.stop().await;
}

#[tokio::test]
async fn another_mode() {
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &["server.socket-mode=0660"]).await;
    assert_eq!(mode(&token.path("run/kms.sock")), 0o660);
    daemon.stop().await;
    let open = ["--set", "server.socket-mode=0666", "serve"];
    token.run(&open).expect(2, &["server.socket-mode", "0600"]);
}

#[tokio::test]
async fn an_abstract_socket() {
    let token = Token::with_kek();
    let endpoint = abstract_endpoint(&token);
    let setting = format!("server.endpoint={endpoint}");
    let daemon = Daemon::spawn(&token, &[&setting]).at(&endpoint);
    daemon.well().await;
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    assert!(!token.path("run").exists(), "nothing in the file system");
    token.run(&["status", "--endpoint", &endpoint]).expect(0, &[]);
    // A second one is kept out here too.
    let second = token.run(&["--set", &setting, "serve"]);
    second.expect(2, &["already running", &endpoint]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    token.run(&["serve"]).expect(2, &["already running", &token.endpoint()]);
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn what_a_killed_daemon_left_is_removed() {
    let token = Token::with_kek();
    let path = token.path("run/kms.sock");
    let mut killed = Daemon::start(&token).await;
    // SoftHSM writes its token at every login: whoever is killed then leaves half of it.
    killed.all_workers(2).await;
    killed.signal(Signal::SIGKILL);
    assert!(!killed.end().await.success());
    assert!(path.exists(), "nobody could remove it");
    let daemon = Daemon::start(&token).await;
    daemon.logged("leftover socket").await;
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    daemon.stop().await;
    assert!(!path.exists());
}

#[test]
fn a_file_in_its_place_is_left_alone() {
    let token = Token::new();
    with_directory(&token, 0o700);
    let path = token.path("run/kms.sock");
    fs::write(&path, "precious").unwrap();
    token.run(&["serve"]).expect(2, &["not a socket", path.to_str().unwrap()]);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let token = Token::new();
    with_directory(&token, 0o777);
    let directory = token.path("run");
    let said = ["writable by others (mode 0777)", "chmod go-w", directory.to_str().unwrap()];
    token.run(&["serve"]).expect(2, &said);
    let check = token.run(&["check"]);
    assert_eq!(check.code(), Some(1));
    assert!(check.stdout.contains("FAIL  socket-directory"), "{check:?}");
    // The one above it counts as well.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(token.path(""), fs::Permissions::from_mode(0o770)).unwrap();
    token.run(&["serve"]).expect(2, &["writable by others (mode 0770)"]);
}

#[test]
fn a_symbolic_link_on_the_way_is_refused() {
    let token = Token::new();
    fs::create_dir(token.path("real")).unwrap();
    symlink(token.path("real"), token.path("run")).unwrap();
    let real = format!("unix://{}", token.path("real").join("kms.sock").display());
    token.run(&["serve"]).expect(2, &["symbolic link", &real]);
    assert!(!token.path("real/kms.sock").exists());
}

#[test]
fn a_symbolic_link_in_its_place_is_refused() {
    let token = Token::new();
    with_directory(&token, 0o700);
    symlink("/nonexistent", token.path("run/kms.sock")).unwrap();
    token.run(&["serve"]).expect(2, &["symbolic link"]);
    let left = fs::symlink_metadata(token.path("run/kms.sock")).unwrap();
    assert!(left.is_symlink(), "it is not ours to remove");
}

/// As p11-kms.socket does it: the socket is there before the daemon.
#[tokio::test]
async fn a_socket_from_systemd() {
    let tool = Path::new("/usr/bin/systemd-socket-activate");
    assert!(
        tool.exists(),
        "{} is missing: `softhsm-test/run` installs it (package systemd)",
        tool.display()
    );
    let token = Token::with_kek();
    with_directory(&token, 0o700);
    let path = token.path("run/kms.sock");
    let mut command = token.prepared(tool.to_str().unwrap());
    let conf = token.path("softhsm2.conf");
    command
        .arg(format!("--listen={}", path.display()))
        .arg(format!("--setenv=SOFTHSM2_CONF={}", conf.display()))
        .arg(env!("CARGO_BIN_EXE_p11-kms"))
        .arg("--config")
        .arg(token.config())
        .arg("serve");
    let daemon = Daemon::run(&token, command);
    daemon.well().await;
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    daemon.stop().await;
    let left = fs::symlink_metadata(&path).unwrap();
    assert!(left.file_type().is_socket(), "it is the service manager's");
}
