//! `check`: each one is made to fail or to warn, and seen to pass.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use common::daemon::Daemon;
use common::keks::{kept, state_file};
use common::process::{Ended, run};
use common::token::{GOOD, PIN, Token};
use common::{names, seed, set};
use nix::unistd::geteuid;
use serde_json::{Value, json};

/// What depends on the machine that the tests run on, and not on p11-kms.
const OF_THE_HOST: [&str; 5] = ["binary", "module-file", "config-file", "memory-lock", "swap"];

/// Every id, in order, as docs/check.md has them. A test beside the code sees that it has all.
fn documented() -> Vec<&'static str> {
    let rows = include_str!("../docs/check.md").lines();
    rows.filter_map(|row| row.strip_prefix("| `")?.split_once('`').map(|(id, _)| id)).collect()
}

/// The findings of a run, whose form is checked.
#[track_caller]
fn findings(ended: &Ended) -> Vec<Value> {
    let findings = ended.json().as_array().unwrap().clone();
    for finding in &findings {
        assert_eq!(names(finding), set(["id", "result", "message", "remedy"]));
        let is_good = finding["result"] == "pass";
        assert_eq!(finding["remedy"] == "", is_good, "{finding}");
        assert_ne!(finding["message"], "");
    }
    let failed = findings.iter().any(|finding| finding["result"] == "fail");
    assert_eq!(ended.code(), Some(i32::from(failed)), "{findings:?}");
    assert!(!ended.stdout.contains(PIN));
    findings
}

fn checked(token: &Token, more: &[&str]) -> Vec<Value> {
    findings(&token.run(&[&["check", "--output", "json"], more].concat()))
}

/// The only finding of an id.
#[track_caller]
fn one<'a>(findings: &'a [Value], id: &str) -> &'a Value {
    let mut same = findings.iter().filter(|finding| finding["id"] == id);
    match (same.next(), same.next()) {
        (Some(finding), None) => finding,
        _ => panic!("not one finding of {id}: {findings:?}"),
    }
}

/// The only finding of this id has this result and says these words.
#[track_caller]
fn expect(findings: &[Value], id: &str, result: &str, words: &str) {
    let finding = one(findings, id);
    assert_eq!(finding["result"], result, "{finding}");
    assert!(finding["message"].as_str().unwrap().contains(words), "{words:?}: {finding}");
}

/// Sets one key for one run.
fn with(token: &Token, settings: &[&str], more: &[&str]) -> Vec<Value> {
    let set = settings.iter().flat_map(|setting| ["--set", setting]);
    checked(token, &set.chain(more.iter().copied()).collect::<Vec<_>>())
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The ids that were told, in their order, each once.
fn told(findings: &[Value]) -> Vec<&str> {
    let mut ids: Vec<&str> = findings.iter().map(|it| it["id"].as_str().unwrap()).collect();
    ids.dedup();
    ids
}

#[test]
fn every_check_passes_and_is_told_in_order() {
    assert!(documented().len() >= 25);
    let token = Token::with_kek();
    let findings = checked(&token, &[]);
    assert_eq!(told(&findings), documented());
    for finding in &findings {
        let id = finding["id"].as_str().unwrap();
        assert!(finding["result"] == "pass" || OF_THE_HOST.contains(&id), "{finding}");
    }
    expect(&findings, "known-answer", "pass", "agree");
    expect(&findings, "known-answer-kwp", "pass", "agree");
    // Nothing was left behind on the token.
    let listed = token.pkcs11_tool(["--list-objects", "--type", "secrkey"]);
    assert_eq!(listed.stdout.matches("Secret Key Object").count(), 1, "{listed:?}");
    assert!(!token.path("state").exists(), "a check makes nothing");
}

#[test]
fn what_could_not_be_tried_says_so() {
    let token = Token::new();
    token.write_pin("wrong", 0o600);
    let findings = checked(&token, &[]);
    assert_eq!(told(&findings), documented());
    expect(&findings, "login", "fail", "CKR_PIN_INCORRECT");
    expect(&findings, "token", "pass", "");
    for id in ["round-trip", "kek", "sessions", "known-answer", "answers"] {
        expect(&findings, id, "warn", "not tried: see login");
        assert_eq!(one(&findings, id)["remedy"], "put login right first");
    }
    let text = token.run(&["check"]).stdout;
    assert_eq!(text.matches("not tried").count(), 1, "{text}");

    let token = Token::without_token();
    let findings = checked(&token, &[]);
    assert_eq!(told(&findings), documented());
    expect(&findings, "module", "pass", "");
    expect(&findings, "token", "fail", "no initialised token");
    expect(&findings, "login", "warn", "not tried: see token");
    let findings = with(&token, &["token.module=/nonexistent/module.so"], &[]);
    assert_eq!(told(&findings), documented());
    expect(&findings, "module", "fail", "/nonexistent/module.so");
    expect(&findings, "module-file", "warn", "not tried: see module");
}

#[test]
fn a_token_without_a_kek() {
    let token = Token::new();
    let findings = checked(&token, &[]);
    assert_eq!(told(&findings), documented());
    expect(&findings, "active-kek", "fail", "no KEK with the label");
    expect(&findings, "known-answer", "pass", "agree");
    for id in ["kek", "kek-age", "round-trip"] {
        expect(&findings, id, "warn", "not tried: see active-kek");
    }
}

#[test]
fn what_is_asked_for_and_exit_codes() {
    let token = Token::with_kek();
    let spy = token.spy_on_calls();
    let checked = |more: &[&str]| {
        let mut command = token.command();
        command.envs(spy.environment()).args(["--output", "json", "check"]).args(more);
        run(command)
    };
    let offline = checked(&["--offline"]);
    assert_eq!(told(&findings(&offline)).last(), Some(&"clock"), "{offline:?}");
    let only = checked(&["--only", "clock,core-dumps"]);
    assert_eq!(told(&findings(&only)), ["core-dumps", "clock"]);
    assert!(spy.calls().is_empty(), "the token was not left alone");

    let only = checked(&["--only", "round-trip"]);
    assert_eq!(told(&findings(&only)), ["round-trip"]);
    assert_eq!(spy.count("C_Login"), 1);
    let skipped = checked(&["--skip", "round-trip,kek"]);
    let skipped = findings(&skipped);
    let ids: BTreeSet<&str> = told(&skipped).into_iter().collect();
    assert!(!ids.contains("round-trip") && !ids.contains("kek") && ids.contains("kek-age"));

    // A warning is a no only where that is asked for.
    let weak = ["--set", "token.allow-weak-kek=true", "--only", "weak-kek,clock"];
    let warned = findings(&checked(&weak));
    assert_eq!(told(&warned), ["weak-kek", "clock"]);
    expect(&warned, "weak-kek", "warn", "allow-weak-kek");
    let quiet = findings(&checked(&[&weak[..], &["--quiet"]].concat()));
    assert_eq!(told(&quiet), ["weak-kek"]);
    assert_eq!(checked(&[&weak[..], &["--strict"]].concat()).code(), Some(1));
    assert_eq!(checked(&["--strict", "--only", "clock"]).code(), Some(0));

    let unknown = checked(&["--only", "no-such-check"]);
    unknown.expect(2, &["no-such-check"]);
    assert_eq!(token.run(&["--config", "/nonexistent", "check"]).code(), Some(2));
}

/// Nobody who asked for something may take silence for a yes.
#[test]
fn a_cause_that_was_not_asked_for_is_told() {
    let token = Token::new();
    let no_module = ["token.module=/nonexistent/module.so"];
    let findings = with(&token, &no_module, &["--only", "login,round-trip"]);
    assert_eq!(told(&findings), ["module", "login", "round-trip"]);
    expect(&findings, "module", "fail", "/nonexistent/module.so");
    let findings = with(&token, &["token.uri=pkcs11:token=none"], &["--skip", "token"]);
    expect(&findings, "token", "fail", "no token matches");
    token.write_pin(PIN, 0o644);
    let findings = checked(&token, &["--only", "answers"]);
    assert_eq!(told(&findings), ["pin-source", "answers"]);
    expect(&findings, "pin-source", "fail", "chmod 0600");
    // It is left out where nothing that was asked for waits for it.
    let findings = checked(&token, &["--only", "clock"]);
    assert_eq!(told(&findings), ["clock"]);
}

#[test]
fn quiet_says_nothing_when_there_is_nothing_to_say() {
    let token = Token::new();
    let quiet = ["check", "--quiet", "--only", "clock"];
    assert_eq!(token.run(&quiet).stdout, "");
    assert_eq!(token.run(&[&quiet[..], &["--output", "json"]].concat()).json(), json!([]));
}

#[test]
fn files_that_others_may_write_to() {
    let token = Token::with_kek();
    let offline = |settings: &[&str]| with(&token, settings, &["--offline"]);
    let config = token.config();
    chmod(&config, 0o646);
    expect(&offline(&[]), "config-file", "fail", "everybody may write to");
    chmod(&config, 0o644);
    assert_eq!(one(&offline(&[]), "config-file")["result"], "pass");

    // The module lies in a directory of its own.
    let directory = token.path("lib");
    fs::create_dir(&directory).unwrap();
    let module = directory.join("libsofthsm2.so");
    fs::copy(common::token::module(), &module).unwrap();
    chmod(&module, 0o644);
    let setting = format!("token.module={}", module.display());
    let finding = |result: &str, words: &str| {
        expect(&offline(&[&setting]), "module-file", result, words);
    };
    finding("pass", "only root");
    chmod(&directory, 0o777);
    finding("fail", &format!("everybody may write to {},", directory.display()));
    chmod(&directory, 0o755);
    chmod(&module, 0o666);
    finding("fail", "everybody");
    chmod(&module, 0o644);
    if !geteuid().is_root() {
        eprintln!("skipped: another owner, which only root can give");
        return;
    }
    chown(&module, Some(12345), Some(12345)).unwrap();
    finding("fail", "belongs to uid 12345");
    chown(&module, Some(0), Some(12345)).unwrap();
    chmod(&module, 0o664);
    finding("warn", "the group 12345 may write");
    chown(&config, Some(12345), None).unwrap();
    expect(&offline(&[]), "config-file", "fail", "belongs to uid 12345");
}

#[test]
fn this_program_where_others_may_change_it() {
    let token = Token::new();
    let program = token.path("p11-kms");
    fs::copy(env!("CARGO_BIN_EXE_p11-kms"), &program).unwrap();
    let result = |mode| {
        chmod(&program, mode);
        let mut command = token.prepared(program.to_str().unwrap());
        command.arg("--config").arg(token.config()).args(["--output", "json", "check"]);
        command.args(["--only", "binary"]);
        one(&findings(&run(command)), "binary")["result"].clone()
    };
    assert_eq!(result(0o755), "pass");
    assert_eq!(result(0o757), "fail");
}

#[test]
fn profiles_pins_and_state() {
    let token = Token::with_kek();
    let offline = |settings: &[&str]| with(&token, settings, &["--offline"]);
    let generic = offline(&["token.profile=generic"]);
    expect(&generic, "profile", "warn", "never tried");
    expect(&generic, "profile-fit", "warn", "module of profile softhsm");
    let other = offline(&["token.profile=luna", "token.module=/opt/x/libother.so"]);
    expect(&other, "profile-fit", "warn", "is made for");
    let unknown = offline(&["token.profile=generic", "token.module=/opt/x/libother.so"]);
    expect(&unknown, "profile-fit", "pass", "no module in particular");
    token.write_pin(PIN, 0o644);
    expect(&offline(&[]), "pin-source", "fail", "chmod 0600");
    // With the token only the cause fails: what follows could not be tried.
    let all = checked(&token, &[]);
    assert_eq!(all.iter().filter(|it| it["result"] == "fail").count(), 1, "{all:?}");
    expect(&all, "login", "warn", "not tried: see pin-source");
    fs::write(token.path("pin"), "").unwrap();
    chmod(&token.path("pin"), 0o600);
    expect(&offline(&[]), "pin-source", "fail", "is empty");
    // What is in it only the worker reads, and it tells of it.
    token.write_pin("two\nlines", 0o600);
    expect(&offline(&[]), "pin-source", "pass", "can be read");
    expect(&checked(&token, &[]), "pin-source", "fail", "more than one line");
    token.write_pin(PIN, 0o600);
    let state = token.path("state");
    fs::create_dir(&state).unwrap();
    chmod(&state, 0o777);
    expect(&offline(&[]), "state", "fail", "chmod 0700");
    chmod(&state, 0o700);
    expect(&offline(&[]), "state", "pass", "can be used");
}

#[test]
fn the_socket_as_those_who_may_call_see_it() {
    let token = Token::new();
    let us = geteuid().as_raw();
    let offline = |settings: &[&str]| with(&token, settings, &["--offline"]);
    expect(&offline(&[]), "socket-access", "pass", &format!("uid {us} can connect"));

    let both = format!("server.allow-uids={us},54321");
    let findings = offline(&[&both]);
    let mut access = findings.iter().filter(|it| it["id"] == "socket-access");
    assert_eq!(access.next().unwrap()["result"], "pass");
    let other = access.next().unwrap();
    let words = format!("uid 54321 may call, and may not enter {}", token.path("run").display());
    assert_eq!((&other["result"], &other["message"]), (&"fail".into(), &words.into()));

    // A group, with every directory open and then the socket as well.
    let group = format!("server.allow-gids={}", nix::unistd::getegid());
    fs::create_dir(token.path("run")).unwrap();
    for directory in ["", "run"] {
        chmod(&token.path(directory), 0o711);
    }
    let of_group = |mode: &str| {
        let mode = format!("server.socket-mode={mode}");
        let findings = offline(&[&group, &mode]);
        findings.into_iter().rfind(|it| it["id"] == "socket-access").unwrap()
    };
    let closed = of_group("0600");
    assert_eq!(closed["result"], "fail", "{closed}");
    assert!(closed["message"].as_str().unwrap().contains("may not write to the socket"));
    assert_eq!(of_group("0660")["result"], "pass");

    chmod(&token.path("run"), 0o777);
    expect(&offline(&[]), "socket-directory", "fail", "chmod go-w");
    let findings = offline(&["server.endpoint=unix:///@p11-kms-check-of-none", &both]);
    expect(&findings, "socket-directory", "pass", "abstract");
    expect(&findings, "socket-access", "pass", "uid 54321");
    expect(&findings, "daemon", "pass", "none listens");
    let missing = format!("server.endpoint=unix://{}", token.path("no/such/kms.sock").display());
    let findings = offline(&[&missing]);
    expect(&findings, "socket-directory", "fail", "does not exist");
    expect(&findings, "socket-access", "warn", "not tried: see socket-directory");

    // One that the daemon's user has to make, in a directory that is root's.
    let to_be_made = format!("server.endpoint=unix://{}", token.path("made/kms.sock").display());
    expect(&offline(&[&to_be_made]), "socket-directory", "pass", "can be used");
    let state = token.path("state");
    fs::create_dir(&state).unwrap();
    chown(&state, Some(54321), Some(54321)).unwrap();
    expect(&offline(&[&to_be_made]), "socket-directory", "warn", "uid 54321 may not make it");
    chown(token.path(""), Some(54321), None).unwrap();
    expect(&offline(&[&to_be_made]), "socket-directory", "warn", "belongs to uid 54321");
}

#[test]
fn the_audit_log_and_those_who_watch() {
    let token = Token::with_kek();
    let offline = |settings: &[&str]| with(&token, settings, &["--offline"]);
    let findings = offline(&[]);
    expect(&findings, "audit-log", "pass", "there is none");
    expect(&findings, "metrics-listen", "pass", "nobody can watch");

    let log = token.path("audit.jsonl");
    let file = format!("audit.file={}", log.display());
    expect(&offline(&[&file]), "audit-log", "pass", "can be written");
    assert!(!log.exists(), "a check makes nothing");
    fs::write(&log, "").unwrap();
    chmod(&log, 0o666);
    expect(&offline(&[&file]), "audit-log", "fail", "chmod 0640");
    let nowhere = format!("audit.file={}", token.path("no/audit.jsonl").display());
    expect(&offline(&[&nowhere]), "audit-log", "fail", "make the directory");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("metrics.listen={}", taken.local_addr().unwrap());
    expect(&offline(&[&listen]), "metrics-listen", "fail", "in use");
    drop(taken);
    expect(&offline(&[&listen]), "metrics-listen", "pass", "is free");
    let unix = format!("metrics.listen=unix://{}", token.path("no/such/m.sock").display());
    expect(&offline(&[&unix]), "metrics-listen", "fail", "does not exist");
}

#[tokio::test]
async fn beside_a_daemon_that_runs() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let warned = || daemon.lines().iter().filter(|line| line["level"] != "INFO").count();
    let before = warned();
    let findings = checked(&token, &[]);
    expect(&findings, "daemon", "pass", "one listens on");
    expect(&findings, "state-record", "pass", "is of this token");
    assert!(findings.iter().all(|it| it["result"] != "fail"), "{findings:?}");
    // It was not asked, so it had nobody to refuse.
    assert_eq!(warned(), before, "{:?}", daemon.lines());
    daemon.stop().await;
    expect(&checked(&token, &["--offline"]), "daemon", "pass", "none listens on");
}

/// Runs `check --offline` with a limit of the shell's `ulimit`.
fn limited(token: &Token, ulimit: &str, more: &[&str]) -> Vec<Value> {
    let line = format!("ulimit {ulimit} && exec \"$0\" \"$@\"");
    let mut command = token.prepared("sh");
    command.args(["-c", &line, env!("CARGO_BIN_EXE_p11-kms"), "--config"]).arg(token.config());
    command.args(["--output", "json", "check", "--offline"]).args(more);
    findings(&run(command))
}

#[test]
fn limits_and_the_clock() {
    let token = Token::new();
    expect(&limited(&token, "-n 100", &[]), "descriptors", "warn", "100 files may be open");
    expect(&limited(&token, "-n 1000", &[]), "descriptors", "pass", "1000 files may be open");
    let many = ["--set", "server.max-connections=5000"];
    expect(&limited(&token, "-n 1000", &many), "descriptors", "warn", "1000 files");
    expect(&limited(&token, "-c unlimited", &[]), "core-dumps", "pass", "no core");

    let config = fs::File::options().append(true).open(token.config()).unwrap();
    let hour = Duration::from_secs(3600);
    config.set_modified(SystemTime::now() + hour).unwrap();
    expect(&checked(&token, &["--offline"]), "clock", "warn", "config.toml is from the future");
    config.set_modified(SystemTime::now() - hour).unwrap();
    expect(&checked(&token, &["--offline"]), "clock", "pass", "");
}

/// Root may lock memory whatever the limit, but for one without that capability.
#[test]
fn memory_that_cannot_be_locked() {
    let token = Token::new();
    let swap = fs::read_to_string("/proc/swaps").unwrap_or_default().lines().count() > 1;
    let mut command = Command::new("setpriv");
    let is_root = geteuid().is_root();
    if is_root {
        command.args(["--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"]);
    }
    command.args(["sh", "-c", "ulimit -l 64 && exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_p11-kms")).arg("--config").arg(token.config());
    command.args(["--output", "json", "check", "--offline"]);
    let findings = findings(&run(command));
    if swap {
        expect(&findings, "memory-lock", "warn", "RLIMIT_MEMLOCK");
    } else {
        expect(&findings, "memory-lock", "pass", "there is no swap");
        expect(&findings, "swap", "pass", "there is no swap");
    }
}

#[test]
fn pins_that_are_counted() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    for (flag, result, words) in [
        ("count-low", "warn", "CKF_USER_PIN_COUNT_LOW"),
        ("to-be-changed", "warn", "CKF_USER_PIN_TO_BE_CHANGED"),
    ] {
        faults.set(&format!("token pin-flags={flag}")).unwrap();
        let findings = checked(&token, &[]);
        expect(&findings, "pin-counter", result, words);
        expect(&findings, "token-warning", "warn", words);
        expect(&findings, "login", "pass", "");
    }
    for flag in ["final-try", "locked"] {
        faults.set(&format!("token pin-flags={flag}")).unwrap();
        let before = faults.count("C_Login");
        let findings = checked(&token, &[]);
        expect(&findings, "pin-counter", "fail", "CKF_USER_PIN_");
        expect(&findings, "login", "fail", "no login was tried");
        expect(&findings, "answers", "warn", "not tried: see pin-counter");
        assert_eq!(faults.count("C_Login"), before, "{flag}");
    }
    faults.set("token pin-tries=3").unwrap();
    token.write_pin("wrong", 0o600);
    expect(&checked(&token, &[]), "login", "fail", "CKR_PIN_INCORRECT");
    assert_eq!(faults.failed_pins(), 1, "a PIN was tried more than once");
}

#[test]
fn keks_that_are_not_as_they_should_be() {
    let token = Token::new();
    // pkcs11-tool gives more rights than are needed.
    token.keygen("k8s-kek-0001", "AES:32", &[GOOD, &["--usage-sign"]].concat());
    let findings = checked(&token, &[]);
    expect(&findings, "kek", "pass", "");
    expect(&findings, "kek-usage", "warn", "CKA_SIGN");
    expect(&findings, "kek-history", "pass", "always in the token");
    token.delete("k8s-kek-0001");

    token.import("k8s-kek-0001", &seed(1, 32));
    let findings = with(&token, &["token.allow-imported-kek=true"], &[]);
    expect(&findings, "kek", "pass", "");
    expect(&findings, "kek-history", "warn", "CKA_LOCAL");
    expect(&checked(&token, &[]), "kek", "fail", "CKA_NEVER_EXTRACTABLE");
    token.delete("k8s-kek-0001");

    token.keygen("k8s-kek-0001", "AES:16", GOOD);
    expect(&checked(&token, &[]), "kek", "fail", "AES-128");
    token.delete("k8s-kek-0001");

    token.keygen("k8s-kek-0001", "AES:32", &["--extractable"]);
    expect(&checked(&token, &[]), "kek", "fail", "CKA_EXTRACTABLE");
    expect(&with(&token, &["token.allow-weak-kek=true"], &[]), "kek", "warn", "is weak");
}

#[test]
fn two_keks_of_one_generation() {
    let token = Token::new();
    token.keygen("k8s-kek-0001", "AES:32", GOOD);
    expect(&checked(&token, &[]), "kek-generations", "pass", "");
    token.keygen("k8s-kek-0001", "AES:32", GOOD);
    let findings = checked(&token, &[]);
    expect(&findings, "kek-generations", "warn", "1 (k8s-kek-0001, k8s-kek-0001)");
    // One line for each of them.
    for id in ["kek", "kek-usage", "kek-history", "kek-dates"] {
        assert_eq!(findings.iter().filter(|it| it["id"] == id).count(), 2, "{id}");
    }
    expect(&findings, "round-trip", "pass", "");
}

/// The state of a node is written as if it had served for a long time.
#[tokio::test]
async fn ages_waiting_keks_and_a_record_of_another_token() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    daemon.stop().await;
    let (file, mut record) = (state_file(&token), kept(&token));
    let fresh = record.clone();
    expect(&checked(&token, &[]), "kek-age", "pass", "known for");
    for (days, result, words) in
        [(91, "warn", "more than 90 days"), (400, "warn", "more than a year")]
    {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let created = p11_kms::timestamp::Timestamp::new(now - days * 24 * 3600);
        record.keks.values_mut().for_each(|known| known.created = Some(created));
        fs::write(&file, record.to_text("k8s-kek")).unwrap();
        expect(&checked(&token, &[]), "kek-age", result, words);
    }
    fs::write(&file, fresh.to_text("k8s-kek")).unwrap();

    token.run(&["key", "generate"]).expect(0, &[]);
    expect(&checked(&token, &[]), "kek-waiting", "pass", "\"k8s-kek-0002\" waits");

    let other = file.with_file_name("k8s-kek@another.toml");
    fs::rename(&file, &other).unwrap();
    expect(&checked(&token, &[]), "state-record", "warn", "k8s-kek@another.toml is of another");
    fs::write(&other, "damaged").unwrap();
    expect(&checked(&token, &[]), "state", "fail", "is not to be trusted");
}

/// A token that wraps in another way than the RFC, and one that takes no key from outside.
#[test]
fn known_answers() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    faults.set("C_CreateObject return=CKR_TEMPLATE_INCONSISTENT").unwrap();
    let ecb = ["--set", "token.method=ecb"];
    token.run(&[&ecb[..], &["key", "rotate"]].concat());
    let findings = checked(&token, &ecb);
    expect(&findings, "known-answer", "warn", "not tried: the token takes no known key");
    expect(&findings, "known-answer-kwp", "warn", "CKR_TEMPLATE_INCONSISTENT");
    expect(&findings, "round-trip", "pass", "");
    // One that cannot be destroyed is told. With this method nothing else is destroyed.
    faults.set("C_DestroyObject return=CKR_ACTION_PROHIBITED").unwrap();
    let findings = checked(&token, &ecb);
    for id in ["known-answer", "known-answer-kwp"] {
        expect(&findings, id, "warn", "\"p11-kms known answer\"");
    }
    faults.clear().unwrap();
    // A call that fails says nothing about the bytes.
    faults.set("C_WrapKey after=3 times=1 return=CKR_DEVICE_ERROR").unwrap();
    let findings = checked(&token, &[]);
    expect(&findings, "known-answer", "warn", "C_WrapKey answered CKR_DEVICE_ERROR");
    expect(&findings, "round-trip", "pass", "");
    // The search for KEKs wraps and unwraps the only KEK first; what is wrapped later comes out
    // wrong.
    faults.set("C_WrapKey after=2 corrupt").unwrap();
    expect(&checked(&token, &[]), "known-answer", "fail", "otherwise than the host");
    // The key was destroyed all the same, on both paths.
    faults.clear().unwrap();
    let (made, gone) = (faults.count("C_CreateObject"), faults.count("C_DestroyObject"));
    let findings = checked(&token, &[]);
    expect(&findings, "known-answer", "pass", "agree");
    let (made, gone) =
        (faults.count("C_CreateObject") - made, faults.count("C_DestroyObject") - gone);
    // C_UnwrapKey makes objects too.
    assert!(gone >= made && made > 0, "{made} made, {gone} destroyed");
}

/// One that may be on the token for good is not used, and destroyed at once.
#[test]
fn a_known_key_that_may_stay() {
    let token = Token::new();
    let faults = token.misbehaving();
    // There is no KEK: no other attribute is read.
    faults.set("C_GetAttributeValue return=CKR_FUNCTION_FAILED").unwrap();
    let findings = checked(&token, &[]);
    for id in ["known-answer", "known-answer-kwp"] {
        expect(&findings, id, "warn", "does not tell that it is a session object");
    }
    assert_eq!(faults.count("C_DestroyObject"), 2);
    assert_eq!((faults.count("C_WrapKey"), faults.count("C_EncryptInit")), (0, 0));
}

#[test]
fn mechanisms_that_are_not_there() {
    let token = Token::with_kek();
    let findings = with(&token, &["token.kw-mechanism=0x80001234"], &[]);
    let flags = findings.iter().find(|it| it["id"] == "mechanism-flags").unwrap();
    assert_eq!(flags["result"], "warn", "{flags}");
    assert!(flags["message"].as_str().unwrap().contains("does not list"), "{flags}");
    // SoftHSM has KW for C_WrapKey alone.
    let findings = with(&token, &["token.method=encrypt"], &[]);
    let flags = findings.iter().find(|it| it["id"] == "mechanism-flags").unwrap();
    assert!(flags["message"].as_str().unwrap().contains("lacks CKF_ENCRYPT"), "{flags}");
    let auto = ["token.method=auto", "token.kw-mechanism=0x80001234", "token.require-fips=true"];
    expect(&with(&token, &auto, &[]), "mechanisms", "fail", "require-fips");
}

/// Every way to hang ends with a killed worker, and in time.
#[test]
fn a_token_that_hangs() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let quick = ["token.start-timeout=2s", "token.call-timeout=500ms"];
    // At the start, in the first look after it, and later.
    for (rule, id) in [
        ("C_Initialize hang", "answers"),
        ("C_FindObjectsInit hang", "answers"),
        ("C_FindObjectsInit after=1 hang", "kek"),
        ("C_GetInfo after=1 hang", "answers"),
    ] {
        faults.set(rule).unwrap();
        let began = Instant::now();
        let findings = with(&token, &quick, &["--timeout", "15s"]);
        assert!(began.elapsed() < Duration::from_secs(25), "{rule}: {:?}", began.elapsed());
        assert_eq!(told(&findings), documented(), "{rule}");
        assert_eq!(one(&findings, id)["result"], "fail", "{rule}: {findings:?}");
    }
    // The whole has a limit of its own.
    faults.set("C_GetTokenInfo delay=1s").unwrap();
    let slow = ["token.start-timeout=60s", "token.call-timeout=30s"];
    let began = Instant::now();
    let findings = with(&token, &slow, &["--timeout", "500ms"]);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    expect(&findings, "answers", "fail", "--timeout");
    expect(&findings, "round-trip", "warn", "not tried: see answers");
    faults.clear().unwrap();
}

/// A token that answers, and not to everything.
#[test]
fn a_close_look_that_is_refused() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    // The first is that of the start.
    faults.set("C_GetInfo after=1 return=CKR_FUNCTION_NOT_SUPPORTED").unwrap();
    let findings = checked(&token, &[]);
    assert_eq!(told(&findings), documented());
    expect(&findings, "answers", "fail", "CKR_FUNCTION_NOT_SUPPORTED");
    expect(&findings, "sessions", "warn", "not tried: see answers");
    expect(&findings, "round-trip", "pass", "");
}
