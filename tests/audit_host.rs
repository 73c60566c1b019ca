//! The audit log where the host has to help: with a disk that is full, logrotate, and a socket in
//! the place of journald's. The disks are in mount namespaces of their own: the host sees nothing.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use common::audit::lines_of;
use common::client::request_for;
use common::daemon::Daemon;
use common::load::Load;
use common::process::run;
use common::token::Token;
use common::{eventually, seed};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use tonic::Code;

/// With the file that is shipped, but for its paths. It calls no other program.
#[tokio::test]
#[ignore = "needs logrotate: see softhsm-test/run"]
async fn logrotate_rotates_it() {
    let program = std::env::var("P11_KMS_TEST_LOGROTATE").unwrap_or("/usr/sbin/logrotate".into());
    let token = Token::with_kek().audited("");
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/logrotate.d/p11-kms");
    let text = fs::read_to_string(shipped).unwrap();
    assert!(text.contains("/var/log/p11-kms/*.jsonl"));
    let text = text
        .replace("/var/log/p11-kms/*.jsonl", token.path("audit/*.jsonl").to_str().unwrap())
        .replace("su p11-kms p11-kms", &format!("su {} {}", user(), user()))
        .replace("    compress\n", "");
    let config = token.path("logrotate.conf");
    fs::write(&config, text).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let daemon = Daemon::start(&token).await;
    let load = Load::start(&daemon.client().await, 8);
    let state = token.path("logrotate.state");
    let (programs, mark) = (token.path("programs"), token.path("called"));
    fs::create_dir(&programs).unwrap();
    for program in ["systemctl", "kill", "pkill", "service"] {
        let path = programs.join(program);
        fs::write(&path, format!("#!/bin/sh\necho $0 $* >>{}\n", mark.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for _ in 0..3 {
        load.go_on_for(100).await;
        let mut command = token.prepared(&program);
        command.args(["--force", "--state"]).arg(&state).arg(&config);
        // Whatever it calls leaves its mark.
        command.env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
        let ended = tokio::task::spawn_blocking(move || run(command)).await.unwrap();
        assert_eq!(ended.code(), Some(0), "{ended:?}");
        eventually("a new file", async || token.audit().exists().then_some(())).await;
    }
    load.finish().await;
    // A reload lifts the latch of the PIN and replaces the workers: not every night.
    assert!(!mark.exists(), "{:?}", fs::read_to_string(&mark));
    assert_eq!(daemon.count("SIGHUP"), 0);
    daemon.stop().await;
    let mut files: Vec<PathBuf> =
        fs::read_dir(token.path("audit")).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The newest is the one without a date or a number.
    files.sort_by_key(|file| (*file == token.audit(), lines_of(file)[0]["seq"].as_u64()));
    assert_eq!(files.len(), 4, "{files:?}");
    token.intact(&files.iter().map(PathBuf::as_path).collect::<Vec<_>>());
}

/// The same where there is no logrotate: it must not even be told to.
#[test]
fn the_rotation_runs_nothing() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/logrotate.d/p11-kms");
    let text = fs::read_to_string(shipped).unwrap();
    for word in ["postrotate", "prerotate", "firstaction", "lastaction", "systemctl", "endscript"] {
        assert!(!text.contains(word), "{word}");
    }
}

fn user() -> String {
    nix::unistd::User::from_uid(geteuid()).unwrap().unwrap().name
}

/// What is on a disk that is full, in a mount namespace of its own.
struct SmallDisk {
    daemon: Daemon,
}

impl SmallDisk {
    /// The audit log is on a disk of 64 kB.
    async fn with_daemon(token: &Token) -> Self {
        let script = r#"mount -t tmpfs -o size=64k,mode=0700 tmpfs "$1" && shift && exec "$@""#;
        let mut command = token.prepared("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(token.path("audit"));
        command.arg(env!("CARGO_BIN_EXE_p11-kms")).arg("--config").arg(token.config());
        command.arg("serve");
        let daemon = Daemon::run(token, command);
        daemon.well().await;
        Self { daemon }
    }

    /// A path as the daemon sees it.
    fn path(&self, token: &Token, name: &str) -> PathBuf {
        let path = token.path("audit").join(name);
        PathBuf::from(format!("/proc/{}/root{}", self.daemon.id(), path.display()))
    }

    fn fill(&self, token: &Token) {
        let full = fs::write(self.path(token, "filler"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self, token: &Token) {
        fs::remove_file(self.path(token, "filler")).unwrap();
    }

    /// Ends the daemon with a copy of its log where it should be.
    async fn stop(self, token: &Token) {
        let copy = token.path("copy.jsonl");
        // The last line is written while nobody can look any more: so a copy, and the head.
        fs::copy(self.path(token, "audit.jsonl"), &copy).unwrap();
        fs::copy(token.path("state/audit.head"), token.path("copy.head")).unwrap();
        self.daemon.stop().await;
        let mut command = token.command();
        command.args(["audit", "verify", "--output", "json", "--head"]);
        let ended = run({
            command.arg(token.path("copy.head")).arg(&copy);
            command
        });
        assert_eq!(ended.code(), Some(0), "{ended:?}");
        assert_eq!(ended.json()["end_proven"], true, "{ended:?}");
    }
}

#[tokio::test]
#[ignore = "needs root: see softhsm-test/run"]
async fn on_a_full_disk_nothing_is_encrypted_and_it_goes_on_by_itself() {
    let token = Token::with_kek().audited("");
    let disk = SmallDisk::with_daemon(&token).await;
    let client = disk.daemon.client().await;
    let good = client.encrypt(&seed(1, 32)).await.unwrap();
    disk.fill(&token);
    // The last page of the file may have room for some.
    let refusal = eventually("a refusal", async || client.encrypt(&seed(2, 32)).await.err()).await;
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    for words in ["audit.jsonl", "the disk is full", "nothing is encrypted", "make room"] {
        assert!(refusal.message().contains(words), "{refusal:?}");
    }
    for _ in 0..50 {
        client.decrypt(request_for(&good)).await.unwrap();
        assert_eq!(client.encrypt(&seed(3, 32)).await.unwrap_err().code(), Code::Unavailable);
    }
    assert_eq!(client.status().await.unwrap().healthz, "ok");
    assert_eq!(disk.daemon.count("the audit log cannot be written"), 1);
    disk.make_room(&token);
    // Without a call that would have a line.
    disk.daemon.logged("the audit log is written again").await;
    client.encrypt_as("uid-after", &seed(4, 32)).await.unwrap();
    let lines = lines_of(&disk.path(&token, "audit.jsonl"));
    let gaps: Vec<_> = lines.iter().filter(|line| line["event"] == "gap").collect();
    let lost: u64 = gaps.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert!((100..=110).contains(&lost), "{gaps:?}");
    assert!(gaps[0]["detail"].as_str().unwrap().starts_with("since "), "{gaps:?}");
    assert_eq!(lines.last().unwrap()["uid"], "uid-after");
    disk.stop(&token).await;
}

#[tokio::test]
#[ignore = "needs root: see softhsm-test/run"]
async fn on_a_full_disk_refuse_all_refuses_decrypts_and_continue_refuses_nothing() {
    let token = Token::with_kek().audited("on-failure = \"refuse-all\"");
    let disk = SmallDisk::with_daemon(&token).await;
    let client = disk.daemon.client().await;
    let good = client.encrypt(&seed(1, 32)).await.unwrap();
    client.decrypt(request_for(&good)).await.unwrap();
    disk.fill(&token);
    let decrypt = async || client.decrypt(request_for(&good)).await.err();
    let refusal = eventually("a refused Decrypt", decrypt).await;
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    assert!(refusal.message().contains("encrypted or decrypted"), "{refusal:?}");
    disk.daemon.unwell("encrypted or decrypted").await;
    // An operator who would rather go on.
    token.change_config("refuse-all", "continue");
    disk.daemon.signal(Signal::SIGHUP);
    disk.daemon.logged("config and PIN are read again").await;
    disk.daemon.well().await;
    for salt in 0..10 {
        client.round_trip(&seed(salt, 32)).await.unwrap();
    }
    disk.make_room(&token);
    let log = disk.path(&token, "audit.jsonl");
    let gap = async || lines_of(&log).into_iter().find(|line| line["event"] == "gap");
    let gap = eventually("a gap line", gap).await;
    assert!(gap["count"].as_u64().unwrap() >= 20, "{gap}");
    disk.stop(&token).await;
}

/// The disk stays full until the daemon ends: the next one tells.
#[tokio::test]
#[ignore = "needs root: see softhsm-test/run"]
async fn what_was_lost_before_a_restart_is_told_after_it() {
    let token = Token::with_kek().audited("");
    let disk = SmallDisk::with_daemon(&token).await;
    let client = disk.daemon.client().await;
    disk.fill(&token);
    eventually("a refusal", async || client.encrypt(&seed(2, 32)).await.err()).await;
    for _ in 0..20 {
        client.encrypt(&seed(3, 32)).await.unwrap_err();
    }
    disk.daemon.logged("the audit log cannot be written").await;
    disk.daemon
        .stop_and(|daemon| {
            assert_eq!(
                daemon.count("the audit log ends without some lines"),
                1,
                "{}",
                daemon.log()
            );
        })
        .await;
    // Its disk has gone with it; the head is elsewhere.
    Daemon::start(&token).await.stop().await;
    let lines = token.audit_lines();
    assert_eq!(lines[0]["event"], "gap");
    // The refused ones and the stop.
    assert_eq!(lines[0]["count"].as_u64().unwrap(), 22, "{}", lines[0]);
    assert!(lines[0]["detail"].as_str().unwrap().contains("the disk is full"), "{}", lines[0]);
    assert_eq!(token.audit_events("gap").len(), 1);
}

/// Nothing is changed unaudited: but it can be on purpose.
#[test]
#[ignore = "needs root: see softhsm-test/run"]
fn a_key_command_that_cannot_be_told_changes_nothing() {
    let token = Token::with_kek().audited("");
    let script = r#"mount -t tmpfs -o size=4k,mode=0700 tmpfs "$1" && head -c 100000 /dev/zero >"$1/filler"; shift; exec "$@""#;
    let generate = |setting: &str| {
        let mut command = token.prepared("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(token.path("audit"));
        command.arg(env!("CARGO_BIN_EXE_p11-kms")).arg("--config").arg(token.config());
        command.args(["--set", setting, "key", "generate"]);
        run(command)
    };
    let ended = generate("audit.on-failure=refuse");
    ended.expect(4, &["nothing was changed", "the disk is full", "audit.on-failure"]);
    assert_eq!(common::keks::listed(&token).len(), 1);
    generate("audit.on-failure=continue").expect(0, &["WARNING", "the audit log"]);
    assert_eq!(common::keks::listed(&token).len(), 2);
}

/// What root's commands make is the daemon's.
#[test]
#[ignore = "needs root: see softhsm-test/run"]
fn what_root_makes_belongs_to_the_owner_of_the_directory() {
    let token = Token::with_kek().audited("");
    let state = token.path("state");
    fs::create_dir_all(&state).unwrap();
    for directory in [token.path("audit"), state.clone()] {
        std::os::unix::fs::chown(directory, Some(12345), Some(54321)).unwrap();
    }
    token.run(&["key", "generate"]).expect(0, &[]);
    for file in [token.audit(), state.join("audit.head")] {
        let about = fs::metadata(&file).unwrap();
        assert_eq!((about.uid(), about.gid()), (12345, 54321), "{}", file.display());
    }
}

/// What journald would get: there is none here.
#[tokio::test]
#[ignore = "needs root: see softhsm-test/run"]
async fn the_journal_gets_a_datagram_for_each_line() {
    let token = Token::with_kek();
    token.write_config(&format!("{}[audit]\nfile = \"journal\"\n", token.usual_config()));
    let without = r#"mount -t tmpfs tmpfs /run && exec "$@""#;
    let mut command = token.prepared("unshare");
    command.args(["--mount", "sh", "-c", without, "sh", env!("CARGO_BIN_EXE_p11-kms")]);
    command.arg("--config").arg(token.config()).arg("serve");
    run(command).expect(2, &["audit.file: journal", "name a file"]);
    let journald = std::os::unix::net::UnixDatagram::bind(token.path("journal")).unwrap();
    journald.set_read_timeout(Some(common::PATIENCE)).unwrap();
    let script = r#"mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal &&
        ln -s "$1" /run/systemd/journal/socket && shift && exec "$@""#;
    let mut command = token.prepared("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(token.path("journal"));
    command.arg(env!("CARGO_BIN_EXE_p11-kms")).arg("--config").arg(token.config()).arg("serve");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let mut buffer = vec![0; 65_536];
        while !text.contains("\"event\":\"stop\"") {
            let length = journald.recv(&mut buffer).unwrap();
            let datagram = str::from_utf8(&buffer[..length]).unwrap();
            let message = datagram
                .strip_prefix("SYSLOG_IDENTIFIER=p11-kms-audit\nPRIORITY=6\nMESSAGE=")
                .unwrap();
            assert_eq!(message.matches('\n').count(), 1);
            text.push_str(message);
        }
        text
    });
    let daemon = Daemon::run(&token, command);
    daemon.well().await;
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    daemon.stop().await;
    let text = reader.join().unwrap();
    let file = token.path("from-the-journal");
    fs::write(&file, text).unwrap();
    let head = token.path("state/audit.head");
    let words = ["audit", "verify", "--head", head.to_str().unwrap(), file.to_str().unwrap()];
    let ended = token.run(&words);
    assert!(ended.code() == Some(0) && ended.stdout.contains("the end is there"), "{ended:?}");
    assert!(lines_of(&file).iter().any(|line| line["event"] == "decrypt"));
}
