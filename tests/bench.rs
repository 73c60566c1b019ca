//! `bench`: what it counts and concludes. How fast this machine is, is nobody's business here.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use common::daemon::Daemon;
use common::process::Ended;
use common::token::{PIN, Token};
use common::{eventually, names, set};
use serde_json::{Value, json};

/// As short as it gets.
fn bench(token: &Token, arguments: &[&str]) -> Ended {
    let ended =
        token.run(&[&["bench", "--output", "json", "--seconds", "0.1"], arguments].concat());
    assert!(!ended.stdout.contains(PIN) && !ended.stderr.contains(PIN));
    ended
}

/// The report of one that ran to its end. Its exit code must be what its verdicts say.
#[track_caller]
fn report(ended: &Ended) -> Value {
    assert!(matches!(ended.code(), Some(0 | 1)), "{ended:?}");
    let report = ended.json();
    let wanted = set(["limits", "token", "socket", "storm", "notes", "verdicts"]);
    assert_eq!(names(&report), wanted);
    let verdicts = report["verdicts"].as_array().unwrap();
    for verdict in verdicts {
        assert_eq!(names(verdict), set(["id", "result", "message"]));
        let grade = verdict["result"].as_str().unwrap();
        assert!(["pass", "warn", "fail"].contains(&grade), "{verdict}");
    }
    let bad = verdicts.iter().any(|verdict| verdict["result"] == "fail");
    assert_eq!(ended.code(), Some(i32::from(bad)), "{report}");
    report
}

fn ids(report: &Value) -> Vec<&str> {
    let verdicts = report["verdicts"].as_array().unwrap();
    verdicts.iter().map(|verdict| verdict["id"].as_str().unwrap()).collect()
}

#[track_caller]
fn verdict<'a>(report: &'a Value, id: &str) -> &'a Value {
    let mut verdicts = report["verdicts"].as_array().unwrap().iter();
    verdicts.find(|verdict| verdict["id"] == id).unwrap()
}

/// What every measurement must keep. Gives its calls.
#[track_caller]
fn is_consistent(measured: &Value) -> u64 {
    let times = ["p50-micros", "p90-micros", "p99-micros", "p999-micros", "max-micros"];
    let others = ["calls", "failed", "first-failure", "rate"];
    let over = ["over-10ms", "over-100ms", "over-3s"];
    let all: Vec<&str> = times.into_iter().chain(others).chain(over).collect();
    assert_eq!(names(measured), all.into_iter().collect());
    let number = |name: &str| measured[name].as_u64().unwrap();
    assert!(times.map(number).is_sorted(), "{measured}");
    let counts = ["over-3s", "over-100ms", "over-10ms", "calls"].map(number);
    assert!(counts.is_sorted(), "{measured}");
    assert_eq!(measured["failed"], 0, "{measured}");
    assert_eq!(measured["first-failure"], Value::Null);
    assert!(measured["rate"].as_f64().unwrap() > 0.0, "{measured}");
    // The counts and the times are of the same calls.
    if number("over-10ms") == 0 {
        assert!(number("max-micros") <= 10_000, "{measured}");
    } else {
        assert!(number("max-micros") >= 10_000, "{measured}");
    }
    number("calls")
}

#[test]
fn the_token_alone_where_no_daemon_is() {
    let token = Token::with_kek();
    let ended = bench(&token, &["--max-sessions", "3", "--storm", "50"]);
    let report = report(&ended);
    let limits =
        json!({"decrypt-aim-millis": 10, "encrypt-aim-millis": 100, "timeout-millis": 3000});
    assert_eq!(report["limits"], limits);

    let alone = &report["token"];
    let wanted = set([
        "token-label",
        "varied",
        "configured",
        "one-at-a-time",
        "callers",
        "points",
        "stopped",
        "recommended",
    ]);
    assert_eq!(names(alone), wanted);
    assert_eq!((&alone["token-label"], &alone["varied"]), (&json!("test"), &json!("workers")));
    assert_eq!(alone["configured"], json!({"workers": 2, "sessions": 1}));
    assert_eq!(alone["stopped"], Value::Null);
    let callers = alone["callers"].as_u64().unwrap();
    assert!(callers > 1);
    for turn in ["wrap", "unwrap"] {
        is_consistent(&alone["one-at-a-time"][turn]);
    }
    let points = alone["points"].as_array().unwrap();
    let mut tried = Vec::new();
    for point in points {
        assert_eq!(names(point), set(["workers", "sessions", "wrap", "unwrap"]));
        for turn in ["wrap", "unwrap"] {
            assert!(is_consistent(&point[turn]) >= callers, "each caller calls at least once");
        }
        tried.push(json!({"workers": point["workers"], "sessions": point["sessions"]}));
    }
    let wanted = [1, 2, 3].map(|workers| json!({"workers": workers, "sessions": 1}));
    assert_eq!(tried, wanted);
    assert!(tried.contains(&alone["recommended"]), "{alone}");

    let storm = &report["storm"];
    assert_eq!(names(storm), set(["through", "total-micros", "decrypt"]));
    assert_eq!(storm["through"], "token");
    assert_eq!(is_consistent(&storm["decrypt"]), 50);
    let last = storm["decrypt"]["max-micros"].as_u64().unwrap();
    assert!(storm["total-micros"].as_u64().unwrap() >= last, "{storm}");

    let wanted = ["token-wrap", "token-unwrap", "token-wrap-load", "token-unwrap-load", "storm"];
    assert_eq!(ids(&report), wanted);
    assert_eq!(report["socket"], Value::Null);
    let notes = report["notes"].as_array().unwrap();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].as_str().unwrap().contains("`p11-kms serve`"), "{notes:?}");
    // One that looks, the three sizes, and two for the storm.
    assert!(
        ended.stderr.contains("Each worker is a login: 9 of them, up to 3 at once"),
        "{ended:?}"
    );
}

#[test]
fn the_text_has_a_table_and_the_lines_for_the_config() {
    let token = Token::with_kek();
    let set = ["--set", "token.workers=1", "--set", "token.sessions=2"];
    let line = ["bench", "--only", "token", "--seconds", "0.1", "--max-sessions", "1"];
    let ended = token.run(&[&line, &set[..]].concat());
    assert!(matches!(ended.code(), Some(0 | 1)), "{ended:?}");
    assert!(ended.stderr.contains("full load"), "{ended:?}");
    for words in [
        "p99.9",
        "  1 session: unwrap",
        "token-unwrap-load",
        "configured are workers = 1, sessions = 2",
        "[token]\nworkers = 1\nsessions = 1\n",
    ] {
        assert!(ended.stdout.contains(words), "{words:?} is missing: {ended:?}");
    }
}

#[tokio::test]
async fn through_the_socket_every_call_is_one_that_the_daemon_had() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    // Whoever names the socket needs no config.
    let mut command = token.bare_command();
    let endpoint = daemon.endpoint().to_owned();
    command.args(["bench", "--endpoint", &endpoint, "--only", "storm", "--storm", "200"]);
    command.args(["--output", "json"]);
    let ended = tokio::task::spawn_blocking(|| common::process::run(command)).await.unwrap();
    let stormed = report(&ended);
    assert_eq!(stormed["storm"]["through"], "socket");
    assert_eq!(is_consistent(&stormed["storm"]["decrypt"]), 200);
    assert_eq!((&stormed["token"], ids(&stormed)), (&Value::Null, vec!["storm"]));
    assert!(!ended.stderr.contains("is a login"), "{ended:?}");
    let had = |method: &str| {
        let ours = |line: &Value| {
            let uid = line["uid"].as_str().unwrap_or_default();
            line["method"] == method && line["code"] == "Ok" && uid.starts_with("bench-")
        };
        daemon.lines().iter().filter(|line| ours(line)).count()
    };
    eventually("all calls in the log", async || {
        ((had("Encrypt"), had("Decrypt")) == (200, 200)).then_some(())
    })
    .await;

    let ended = bench(&token, &["--only", "socket"]);
    let report = report(&ended);
    assert_eq!(report["socket"]["endpoint"], endpoint);
    let points = report["socket"]["points"].as_array().unwrap();
    for (point, callers) in points.iter().zip([1, 64]) {
        assert_eq!(names(point), set(["callers", "encrypt", "decrypt"]));
        assert_eq!(point["callers"], callers);
        assert!(is_consistent(&point["encrypt"]) >= callers);
        assert!(is_consistent(&point["decrypt"]) >= callers);
    }
    assert_eq!(points.len(), 2);
    let wanted = ["socket-encrypt", "socket-decrypt", "socket-encrypt-load", "socket-decrypt-load"];
    assert_eq!(ids(&report), wanted);

    // A daemon that others use gets no storm unless somebody asks for one.
    let ended = bench(&token, &["--max-sessions", "1"]);
    let report = self::report(&ended);
    assert_eq!(report["storm"], Value::Null);
    assert!(!ids(&report).contains(&"storm"));
    let notes = report["notes"].as_array().unwrap();
    let note = notes.iter().find(|note| note.as_str().unwrap().contains("the storm is left out"));
    let note = note.unwrap().as_str().unwrap();
    assert!(note.contains("10000 calls") && note.contains("--only storm"), "{note}");
    assert!(ended.stderr.contains("audit log") && ended.stderr.contains("Alerts"), "{ended:?}");
    let ended = bench(&token, &["--max-sessions", "1", "--storm", "20"]);
    let report = self::report(&ended);
    assert_eq!(report["storm"]["through"], "socket");
    assert_eq!(is_consistent(&report["storm"]["decrypt"]), 20);
    daemon.stop().await;
}

/// Decrypts of the same ciphertext at once would cost the token one operation.
#[test]
fn a_storm_costs_the_token_an_operation_a_call() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let before = faults.count("C_UnwrapKey");
    let ended = bench(&token, &["--only", "storm", "--storm", "300"]);
    assert_eq!(is_consistent(&report(&ended)["storm"]["decrypt"]), 300);
    assert!(faults.count("C_UnwrapKey") - before >= 300);
}

#[test]
fn a_token_that_is_slower_than_the_aim_is_warned_of() {
    let token = Token::with_kek();
    token.misbehaving().set("C_UnwrapKey delay=15ms").unwrap();
    let ended = bench(&token, &["--only", "token", "--max-sessions", "1"]);
    let report = report(&ended);
    let unwrap = &report["token"]["one-at-a-time"]["unwrap"];
    assert_eq!(unwrap["over-10ms"], unwrap["calls"]);
    let slow = verdict(&report, "token-unwrap");
    assert_eq!(slow["result"], "warn", "{slow}");
    assert!(slow["message"].as_str().unwrap().contains("over 10 ms"), "{slow}");
}

/// A daemon that lets its calls take long: the token is as slow as it is told to be.
const PATIENT: &[&str] = &[
    "token.workers=1",
    "token.call-timeout=20s",
    "server.request-timeout=20s",
    "health.interval=10m",
    "keyring.scan-interval=1h",
];

#[tokio::test]
async fn what_kube_apiserver_would_lose_fails() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = Daemon::start_with(&token, PATIENT).await;
    faults.set("C_UnwrapKey times=1 delay=3100ms").unwrap();
    let late = report(&bench(&token, &["--only", "storm", "--storm", "1"]));
    assert_eq!(late["storm"]["decrypt"]["over-3s"], 1);
    assert_eq!(late["storm"]["decrypt"]["failed"], 0);
    let judged = verdict(&late, "storm");
    assert_eq!(judged["result"], "fail", "{judged}");
    assert!(judged["message"].as_str().unwrap().contains("1 of 1 calls over 3 s"), "{judged}");

    // Twice: an unwrap that fails so is tried once more.
    faults.set("C_UnwrapKey times=2 return=CKR_WRAPPED_KEY_INVALID").unwrap();
    let lost = report(&bench(&token, &["--only", "storm", "--storm", "1"]));
    let decrypt = &lost["storm"]["decrypt"];
    assert_eq!((&decrypt["calls"], &decrypt["failed"]), (&json!(1), &json!(1)));
    assert_eq!((&decrypt["p50-micros"], &decrypt["max-micros"]), (&Value::Null, &Value::Null));
    assert!(decrypt["first-failure"].is_string(), "{decrypt}");
    assert_eq!(verdict(&lost, "storm")["result"], "fail");
    faults.clear().unwrap();
    daemon.stop().await;
}

/// A limit of the token ends the row of sizes; what was measured before stays.
#[test]
fn more_sessions_than_the_token_has_end_the_row() {
    let token = Token::with_kek();
    token.misbehaving().set("token max-sessions=2").unwrap();
    let set = ["--set", "token.workers=1", "--set", "token.sessions=2"];
    let ended = bench(&token, &[&["--only", "token", "--max-sessions", "4"], &set[..]].concat());
    let report = report(&ended);
    let alone = &report["token"];
    assert_eq!(alone["varied"], "sessions");
    let tried: Vec<&Value> =
        alone["points"].as_array().unwrap().iter().map(|point| &point["sessions"]).collect();
    assert_eq!(tried, [1, 2]);
    let stopped = &alone["stopped"];
    assert_eq!((&stopped["workers"], &stopped["sessions"]), (&json!(1), &json!(4)));
    assert!(stopped["why"].as_str().unwrap().contains("CKR_SESSION_COUNT"), "{stopped}");
    assert!(tried.contains(&&alone["recommended"]["sessions"]), "{alone}");
}

#[test]
fn what_is_not_there_cannot_be_measured() {
    let token = Token::with_kek();
    let nowhere = format!("unix://{}", token.path("run/nowhere.sock").display());
    for line in [["--only", "socket"], ["--endpoint", &nowhere]] {
        let ended = bench(&token, &line);
        ended.expect(3, &["cannot connect to", "p11-kms serve"]);
        assert_eq!(ended.stdout, "", "{line:?}");
    }
    let empty = Token::without_token();
    bench(&empty, &["--only", "token"]).expect(3, &["token"]);
    let keyless = Token::new();
    bench(&keyless, &["--only", "token"]).expect(3, &["p11-kms key generate"]);
}

/// However many workers it would start: a wrong PIN is tried once.
#[test]
fn a_wrong_pin_is_tried_once() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    token.write_pin("not-the-pin", 0o600);
    bench(&token, &[]).expect(3, &["PIN"]);
    assert_eq!(faults.failed_pins(), 1);
}

#[test]
fn wrong_flags() {
    let token = Token::without_token();
    for line in [
        ["--seconds", "0"],
        ["--seconds", "61"],
        ["--seconds", "1s"],
        ["--max-sessions", "0"],
        ["--max-sessions", "65"],
        // Of workers there may be 16, and those are what this profile varies.
        ["--max-sessions", "17"],
        ["--storm", "0"],
        ["--storm", "100001"],
        ["--only", "everything"],
        ["--endpoint", "/run/kms.sock"],
    ] {
        let ended = token.run(&[&["bench"], &line[..]].concat());
        ended.expect(2, &[line[0]]);
        assert_eq!(ended.stdout, "", "{line:?}");
    }
}
