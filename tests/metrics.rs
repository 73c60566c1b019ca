//! Metrics and health over HTTP, of the real daemon on a real token.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::float_cmp,
    reason = "the helpers are part of the tests, and counts are exact"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use common::client::{Client, request, request_for};
use common::daemon::Daemon;
use common::http::{Scraped, Watcher};
use common::token::{PIN, Token};
use common::{PATIENCE, seed};
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use p11_kms::keyring::metrics_label;
use p11_kms::metrics::{FAMILIES, Kind};
use p11_kms::proto::{DecryptResponse, EncryptResponse};

/// A port that the system chooses: tests share none.
const TCP: &str = "metrics.listen=127.0.0.1:0";

/// What the process itself shows, with the names that are usual everywhere.
const PROCESS: [&str; 8] = [
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
    "process_virtual_memory_max_bytes",
];

fn requests(method: &str, code: &str) -> String {
    format!("p11_kms_requests_total{{method={method:?},code={code:?}}}")
}

fn operations(operation: &str, result: &str) -> String {
    format!("p11_kms_token_operations_total{{operation={operation:?},result={result:?}}}")
}

fn starts(reason: &str) -> String {
    format!("p11_kms_worker_starts_total{{reason={reason:?}}}")
}

fn unhealthy(reason: &str) -> String {
    format!("p11_kms_unhealthy{{reason={reason:?}}}")
}

fn of_kek(name: &str, generation: u32, key_id: &str) -> String {
    format!("{name}{{generation=\"{generation}\",key_id_hash={:?}}}", metrics_label(key_id))
}

fn kek_info(generation: u32, key_id: &str, state: &str) -> String {
    let hash = metrics_label(key_id);
    format!("p11_kms_kek_info{{generation=\"{generation}\",key_id_hash={hash:?},state={state:?}}}")
}

#[tokio::test]
async fn every_metric_is_there_and_counts() {
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &[TCP]).await;
    let watcher = Watcher::of(&daemon).await;
    let client = daemon.client().await;
    for salt in 0..10 {
        client.round_trip(&seed(salt, 32)).await.unwrap();
    }
    let key_id = client.status().await.unwrap().key_id;
    let scraped = watcher.shows(&requests("Decrypt", "Ok"), |count| count >= 10.0).await;

    for family in FAMILIES {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let about = scraped.families.get(family.name).unwrap_or_else(|| panic!("{}", family.name));
        assert_eq!(*about, (kind.to_owned(), family.help.to_owned()), "{}", family.name);
        let labels = scraped.labels(family.name, family.kind == Kind::Histogram).unwrap();
        let wanted: BTreeSet<String> = family.labels.iter().map(ToString::to_string).collect();
        assert_eq!(labels, wanted, "{}", family.name);
    }
    let names: BTreeSet<&str> = scraped.families.keys().map(String::as_str).collect();
    let known: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).chain(PROCESS).collect();
    assert_eq!(names, known);

    let value = |line: &str| scraped.value(line);
    assert_eq!(value(&requests("Encrypt", "Ok")), 10.0);
    assert_eq!(value(&requests("Decrypt", "Ok")), 10.0);
    assert!(value(&requests("Status", "Ok")) >= 1.0);
    for name in ["p11_kms_request_duration_seconds", "p11_kms_token_operation_duration_seconds"] {
        let labels = ["{method=\"Encrypt\"}", "{operation=\"wrap\"}"];
        let label = labels[usize::from(name.contains("token"))];
        assert!(value(&format!("{name}_count{label}")) >= 10.0, "{name}");
        assert!(value(&format!("{name}_sum{label}")) > 0.0, "{name}");
    }
    assert!(value("p11_kms_queue_wait_seconds_count") >= 20.0);
    assert!(value(&operations("wrap", "ok")) >= 10.0);
    assert!(value(&operations("unwrap", "ok")) >= 10.0);
    assert!(value(&operations("find", "ok")) >= 1.0);
    assert_eq!(value("p11_kms_requests_in_flight{method=\"Encrypt\"}"), 0.0);
    assert_eq!(value("p11_kms_queue_length"), 0.0);
    assert_eq!(value("p11_kms_queue_limit"), 8192.0);
    assert_eq!(value(&starts("first")), 2.0);
    assert!(scraped.sum("p11_kms_sessions", "state") >= 2.0);
    assert_eq!(value("p11_kms_token_up"), 1.0);
    assert!(value("p11_kms_token_up_since_timestamp_seconds") > 1_600_000_000.0);
    assert_eq!(value("p11_kms_healthy"), 1.0);
    assert_eq!(scraped.sum("p11_kms_unhealthy", "reason"), 0.0);
    assert_eq!(value("p11_kms_active_generation"), 1.0);
    assert_eq!(value(&kek_info(1, &key_id, "active")), 1.0);
    assert_eq!(value(&of_kek("p11_kms_kek_decrypts_total", 1, &key_id)), 10.0);
    let age = value(&of_kek("p11_kms_kek_age_seconds", 1, &key_id));
    let created = value(&of_kek("p11_kms_kek_created_timestamp_seconds", 1, &key_id));
    let last = value(&of_kek("p11_kms_kek_last_decrypt_timestamp_seconds", 1, &key_id));
    assert!(created > 1_600_000_000.0 && last >= created && (0.0..3600.0).contains(&age));
    assert_eq!(value("p11_kms_state_trouble"), 0.0);
    assert!(value("p11_kms_connections") >= 1.0);
    assert_eq!(value("p11_kms_connections_limit"), 64.0);
    assert!(value("p11_kms_connections_total{outcome=\"accepted\"}") >= 1.0);
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("p11_kms_build_info{{version={version:?},profile=\"softhsm\"}}");
    assert_eq!(value(&build), 1.0);
    assert!(value("process_open_fds") > 3.0);
    assert!(!scraped.text.contains(&key_id), "a key_id in clear");
    daemon.stop().await;
}

/// Lines are the same before and after, whatever callers send.
#[tokio::test]
async fn no_caller_makes_a_line() {
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &[TCP]).await;
    let watcher = Watcher::of(&daemon).await;
    let client = daemon.client().await;
    let good = client.encrypt(b"seed").await.unwrap();
    client.decrypt(request_for(&good)).await.unwrap();
    let lines = |scraped: Scraped| -> BTreeSet<String> { scraped.lines.into_keys().collect() };
    let before = lines(watcher.shows(&requests("Decrypt", "Ok"), |count| count >= 1.0).await);

    let long = "u".repeat(1100);
    let odd = ["", "\n# HELP x", "\"} 1\nevil 1", "\u{0}\u{1b}[31m", "uid-17", &long];
    for uid in odd {
        client.encrypt_as(uid, &seed(3, 32)).await.unwrap();
        client.encrypt_as(uid, b"").await.unwrap_err();
        let mut decrypt = request("aes-kw", &format!("key{uid}"), &[7; 40]);
        decrypt.uid = uid.to_owned();
        client.decrypt(decrypt).await.unwrap_err();
    }
    let damaged = request("aes-kw", &good.key_id, &[7; 16]);
    client.decrypt(damaged).await.unwrap_err();
    client.decrypt(request(&odd.join("x"), &good.key_id, &[7; 40])).await.unwrap_err();
    let mut garbage = std::os::unix::net::UnixStream::connect(token.path("run/kms.sock")).unwrap();
    garbage.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    // It is closed, by an answer or by a reset.
    let _ = garbage.read_to_end(&mut Vec::new());

    let failed = "p11_kms_connections_total{outcome=\"failed\"}";
    let scraped = watcher.shows(failed, |count| count >= 1.0).await;
    assert_eq!(scraped.value(&requests("Encrypt", "InvalidArgument")), 6.0);
    assert_eq!(scraped.value(&requests("Decrypt", "NotFound")), 5.0);
    // The longest key_id is refused before anybody looks for it.
    assert_eq!(scraped.value(&requests("Decrypt", "InvalidArgument")), 3.0);
    for secret in ["uid-17", "uuuu", "evil", "test-uid", good.key_id.as_str(), PIN] {
        assert!(!scraped.text.contains(secret), "{secret} in\n{}", scraped.text);
    }
    assert_eq!(lines(scraped), before);
    daemon.stop().await;
}

/// A Decrypt whose key_id is no UTF-8.
async fn undecodable(path: &std::path::Path) -> tonic::Status {
    let path = path.to_owned();
    let dial = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let target = tonic::transport::Endpoint::from_static("http://localhost");
    let channel = target.connect_with_connector(dial).await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    // Its third field is a map, and that of a Decrypt a text.
    let annotations = [("a".to_owned(), vec![0xff])].into();
    let message = EncryptResponse { annotations, ..EncryptResponse::default() };
    let codec = tonic_prost::ProstCodec::<EncryptResponse, DecryptResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/v2.KeyManagementService/Decrypt");
    grpc.unary(tonic::Request::new(message), path, codec).await.unwrap_err()
}

/// Who sends what nobody can read is seen all the same.
#[tokio::test]
async fn calls_that_are_never_read_are_counted_and_written_down() {
    let token = Token::with_kek().audited("");
    let daemon = Daemon::start_with(&token, &[TCP]).await;
    let watcher = Watcher::of(&daemon).await;
    let client = daemon.client().await;
    client.round_trip(&seed(1, 32)).await.unwrap();

    let status = undecodable(&token.path("run/kms.sock")).await;
    assert_eq!(status.code(), tonic::Code::Internal, "{status:?}");
    let status = client.encrypt(&seed(1, 100_000)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status:?}");

    let scraped = watcher.shows(&requests("Encrypt", "OutOfRange"), |count| count == 1.0).await;
    assert_eq!(scraped.value(&requests("Decrypt", "Internal")), 1.0);
    // Each good one is counted once.
    assert_eq!(scraped.value(&requests("Encrypt", "Ok")), 1.0);
    assert_eq!(scraped.value(&requests("Decrypt", "Ok")), 1.0);
    for method in ["Encrypt", "Decrypt"] {
        let in_flight = format!("p11_kms_requests_in_flight{{method={method:?}}}");
        assert_eq!(scraped.value(&in_flight), 0.0);
    }
    let told = |method: &str, code: &str| {
        let ours = |line: &&serde_json::Value| line["method"] == method && line["code"] == code;
        daemon.lines().iter().filter(ours).count()
    };
    assert_eq!((told("Decrypt", "Internal"), told("Encrypt", "OutOfRange")), (1, 1));
    assert_eq!((told("Decrypt", "Ok"), told("Encrypt", "Ok")), (1, 1));
    daemon.stop().await;

    for (event, method, outcome) in
        [("encrypt", "Encrypt", "OutOfRange"), ("decrypt", "Decrypt", "Internal")]
    {
        let lines = token.audit_events(event);
        assert_eq!(lines.len(), 2, "{lines:?}");
        let line = &lines[1];
        assert_eq!((&line["method"], &line["outcome"]), (&method.into(), &outcome.into()));
        assert_eq!(line["peer_pid"], std::process::id());
        assert!(line["detail"].as_str().unwrap().contains("the message"), "{line}");
    }
}

#[tokio::test]
async fn workers_are_counted_by_the_reason_of_their_start() {
    let token = Token::with_kek();
    let few = ["token.workers=1", "token.call-timeout=2s", TCP];
    let daemon = Daemon::start_with(&token, &few).await;
    let watcher = Watcher::of(&daemon).await;
    daemon.workers()[0].signal(Signal::SIGKILL);
    watcher.shows(&starts("token-lost"), |count| count == 1.0).await;
    daemon.well().await;

    // A caller who does not wait for a worker that hangs.
    daemon.all_workers(1).await[0].suspend();
    let client = daemon.client().await;
    let call = tokio::spawn(async move { client.encrypt(b"seed").await });
    let in_flight = "p11_kms_requests_in_flight{method=\"Encrypt\"}";
    watcher.shows(in_flight, |calls| calls == 1.0).await;
    call.abort();
    watcher.shows(in_flight, |calls| calls == 0.0).await;
    let canceled = |scraped: &Scraped| {
        ["Canceled", "Unavailable", "DeadlineExceeded"]
            .map(|code| scraped.value(&requests("Encrypt", code)))
    };
    let scraped = watcher.shows(&starts("hung"), |count| count == 1.0).await;
    assert_eq!(canceled(&scraped), [1.0, 0.0, 0.0]);
    assert!(scraped.value("p11_kms_stuck_calls_total") >= 1.0);
    daemon.well().await;

    daemon.signal(Signal::SIGHUP);
    let scraped = watcher.shows(&starts("config"), |count| count == 1.0).await;
    assert_eq!(scraped.value(&starts("first")), 1.0);
    assert_eq!(scraped.sum("p11_kms_worker_starts_total", "reason"), 4.0);
    assert_eq!(scraped.value("p11_kms_pin_latched"), 0.0);
    daemon.stop().await;
}

#[tokio::test]
async fn a_worker_that_grew_is_counted() {
    let token = Token::with_kek();
    let few = ["token.workers=1", "token.replace-after-objects=20", TCP];
    let daemon = Daemon::start_with(&token, &few).await;
    let watcher = Watcher::of(&daemon).await;
    let client = daemon.client().await;
    for salt in 0..30 {
        client.round_trip(&seed(salt, 32)).await.unwrap();
    }
    let scraped = watcher.shows(&starts("grown"), |count| count >= 1.0).await;
    assert_eq!(scraped.value(&starts("token-lost")), 0.0);
    daemon.stop().await;
}

#[tokio::test]
async fn a_rotation_shows() {
    let token = Token::new();
    let daemon = Daemon::spawn(&token, &[TCP]);
    let watcher = Watcher::of(&daemon).await;
    daemon.unwell("no KEK with the label").await;
    let scraped = watcher.shows(&unhealthy("no-kek"), |value| value == 1.0).await;
    assert_eq!(scraped.value("p11_kms_healthy"), 0.0);
    assert_eq!(scraped.sum("p11_kms_unhealthy", "reason"), 1.0);
    assert!(!scraped.text.contains("p11_kms_active_generation"), "there is none");
    let ready = watcher.get("/readyz").json();
    assert_eq!(ready["reasons"][0]["id"], "no-kek");
    assert_eq!(ready["reasons"].as_array().unwrap().len(), 1);

    daemon.all_workers(2).await;
    token.run(&["key", "generate"]).expect(0, &[]);
    watcher.shows("p11_kms_active_generation", |value| value == 1.0).await;
    let client = daemon.client().await;
    let first = daemon.well().await.key_id;
    client.round_trip(b"seed").await.unwrap();

    token.run(&["key", "generate", "--generation", "2"]).expect(0, &[]);
    let scraped = watcher.shows("p11_kms_active_generation", |value| value == 2.0).await;
    let second = daemon.status(|status| status.key_id != first).await.key_id;
    assert_eq!(scraped.value(&kek_info(1, &first, "deactivated")), 1.0);
    assert_eq!(scraped.value(&kek_info(2, &second, "active")), 1.0);
    assert_eq!(scraped.sum("p11_kms_kek_info", ""), 2.0, "the old states left no line");
    assert_eq!(scraped.value(&of_kek("p11_kms_kek_decrypts_total", 1, &first)), 1.0);
    assert_eq!(scraped.value(&of_kek("p11_kms_kek_decrypts_total", 2, &second)), 0.0);
    assert!(!scraped.text.contains(&first) && !scraped.text.contains(&second));

    // Gone, or out of the module's sight? New workers are to tell.
    token.delete("k8s-kek-0002");
    watcher.shows(&starts("renewed"), |count| count >= 2.0).await;
    let scraped = watcher.shows(&unhealthy("no-kek"), |value| value == 1.0).await;
    assert!(!scraped.text.contains("p11_kms_active_generation"));
    assert_eq!(scraped.sum("p11_kms_kek_info", ""), 1.0);
    daemon.stop().await;
}

#[tokio::test]
async fn a_refused_pin_shows_and_is_no_reason_to_die() {
    let token = Token::with_kek();
    token.write_pin("wrong-pin-1", 0o600);
    let daemon = Daemon::spawn(&token, &[TCP]);
    let watcher = Watcher::of(&daemon).await;
    let scraped = watcher.shows("p11_kms_pin_latched", |value| value == 1.0).await;
    let refused = "p11_kms_worker_start_failures_total{class=\"pin-wrong\"}";
    assert_eq!(scraped.value(refused), 1.0, "a wrong PIN is tried once");
    assert_eq!(scraped.value("p11_kms_token_up"), 0.0);
    assert_eq!(scraped.value("p11_kms_token_up_since_timestamp_seconds"), 0.0);
    let scraped = watcher.shows(&unhealthy("pin"), |value| value == 1.0).await;
    assert_eq!(scraped.sum("p11_kms_unhealthy", "reason"), 1.0);
    let ready = watcher.get("/readyz");
    assert_eq!(ready.status, 503, "{ready:?}");
    let answer = ready.json();
    assert_eq!((&answer["ready"], &answer["reasons"][0]["id"]), (&false.into(), &"pin".into()));
    let healthz = daemon.unwell("PIN").await.healthz;
    assert_eq!(answer["reasons"][0]["message"], healthz);
    let live = watcher.get("/livez");
    assert_eq!((live.status, live.body.as_str()), (200, "{\"live\":true}"));
    assert!(!scraped.text.contains("wrong-pin-1") && !ready.body.contains("wrong-pin-1"));

    token.write_pin(PIN, 0o600);
    daemon.well().await;
    let scraped = watcher.shows("p11_kms_pin_latched", |value| value == 0.0).await;
    assert_eq!(scraped.value("p11_kms_healthy"), 1.0);
    let ready = watcher.get("/readyz");
    let wanted = serde_json::json!({ "ready": true, "reasons": [] });
    assert_eq!((ready.status, ready.json()), (200, wanted));
    daemon.stop().await;
}

#[tokio::test]
async fn refused_peers_and_full_houses_are_counted() {
    let token = Token::with_kek();
    let daemon = Daemon::spawn(&token, &["server.allow-uids=12345", TCP]);
    let watcher = Watcher::of(&daemon).await;
    daemon.logged("serving").await;
    // The peer may learn of it only when it speaks.
    if let Ok(client) = Client::connect(daemon.endpoint()).await {
        client.status().await.unwrap_err();
    }
    let scraped = watcher.shows("p11_kms_refused_peers_total", |count| count >= 1.0).await;
    let outcome = |it| scraped.value(&format!("p11_kms_connections_total{{outcome={it:?}}}"));
    assert_eq!(outcome("refused"), scraped.value("p11_kms_refused_peers_total"));
    assert_eq!((outcome("accepted"), outcome("full")), (0.0, 0.0));
    daemon.stop().await;

    let daemon = Daemon::spawn(&token, &["server.max-connections=1", TCP]);
    let watcher = Watcher::of(&daemon).await;
    daemon.logged("serving").await;
    let path = token.path("run/kms.sock");
    let _held = [(); 3].map(|()| std::os::unix::net::UnixStream::connect(&path).unwrap());
    let full = "p11_kms_connections_total{outcome=\"full\"}";
    let scraped = watcher.shows(full, |count| count == 2.0).await;
    assert_eq!(scraped.value("p11_kms_connections"), 1.0);
    daemon.stop().await;
}

#[tokio::test]
async fn a_unix_socket_does_as_well() {
    let token = Token::with_kek();
    let path = token.path("run/metrics.sock");
    let listen = format!("metrics.listen=unix://{}", path.display());
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
    let mut daemon = Daemon::start_with(&token, &[&listen]).await;
    let watcher = Watcher::of(&daemon).await;
    assert_eq!(watcher.address(), format!("unix://{}", path.display()));
    assert_eq!(mode(), 0o660);
    assert_eq!(watcher.scrape().value("p11_kms_healthy"), 1.0);
    assert_eq!(watcher.get("/readyz").status, 200);
    assert_eq!(watcher.get("/livez").status, 200);
    assert_eq!(watcher.get("/").status, 404);

    // Who runs already keeps its socket.
    let other = format!("server.endpoint=unix://{}", token.path("run/other.sock").display());
    let ended = token.run(&["--set", &listen, "--set", &other, "serve"]);
    ended.expect(2, &["metrics.listen", "already running"]);
    assert_eq!(watcher.get("/livez").status, 200);

    // A leftover is no hindrance.
    daemon.signal(Signal::SIGKILL);
    daemon.end().await;
    assert!(path.exists());
    let daemon = Daemon::start_with(&token, &[&listen, "metrics.socket-mode=0600"]).await;
    assert_eq!(mode(), 0o600);
    assert_eq!(watcher.scrape().value("p11_kms_healthy"), 1.0);
    daemon.stop().await;
    assert!(!path.exists());

    fs::write(&path, "not ours").unwrap();
    token.run(&["--set", &listen, "serve"]).expect(2, &["metrics.listen", "not a socket"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "not ours");
}

#[tokio::test]
async fn only_what_is_meant_is_answered() {
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &[TCP]).await;
    let watcher = Watcher::of(&daemon).await;
    let answer = watcher.get("/metrics");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{answer:?}");
    assert!(watcher.get("/readyz").head.contains("content-type: application/json"));
    for path in ["/", "/metric", "/metrics/", "/debug/pprof", "/%2e%2e/etc/passwd"] {
        assert_eq!(watcher.get(path).status, 404, "{path}");
    }
    assert_eq!(watcher.get("/livez?verbose").status, 200);
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        for path in ["/metrics", "/livez", "/readyz"] {
            let answer = watcher.request(method, path, "Content-Length: 0\r\n");
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains("allow: get"), "{answer:?}");
        }
    }
    let large = format!("X-Large: {}\r\n", "x".repeat(7000));
    assert_eq!(watcher.request("GET", "/livez", &large).status, 200);
    let too_large = large.repeat(2);
    assert_eq!(watcher.request("GET", "/livez", &too_large).status, 431);
    assert_eq!(watcher.request("GET", "/livez", &"X: y\r\n".repeat(40)).status, 431);
    let mut garbage = watcher.dial();
    garbage.write_all(&seed(1, 4000)).unwrap();
    // It is closed, with an answer or without.
    let _ = garbage.read_to_end(&mut Vec::new());
    assert_eq!(watcher.get("/livez").status, 200);
    daemon.stop().await;
}

#[tokio::test]
async fn a_crowd_of_slow_watchers_harms_nobody() {
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &[TCP]).await;
    let watcher = Watcher::of(&daemon).await;
    let client = daemon.client().await;
    let mut slow: Vec<_> = (0..16).map(|_| watcher.dial()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").unwrap();
    }
    // The seventeenth has a question, and for it the oldest of them has to go.
    assert_eq!(watcher.get("/livez").status, 200);
    client.round_trip(b"seed").await.unwrap();
    // Those who do not go on are sent away, and there is room again.
    for stream in slow {
        let before = std::time::Instant::now();
        let mut stream = stream;
        let _ = stream.read_to_end(&mut Vec::new());
        assert!(before.elapsed() < PATIENCE);
    }
    assert_eq!(watcher.get("/livez").status, 200);
    client.round_trip(b"seed").await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn what_cannot_be_listened_on_is_told() {
    let token = Token::with_kek();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let listen = format!("metrics.listen={address}");
    let in_use = ["metrics.listen", &address.to_string(), "is in use"];
    token.run(&["--set", &listen, "serve"]).expect(2, &in_use);
    for (address, words) in [
        ("0.0.0.0:9807", "address of this machine alone"),
        ("[::]:9807", "address of this machine alone"),
        ("localhost:9807", "127.0.0.1:9807"),
        ("unix:///@metrics", "abstract"),
        (&token.endpoint(), "server.endpoint"),
    ] {
        let listen = format!("metrics.listen={address}");
        token.run(&["--set", &listen, "serve"]).expect(2, &["metrics.listen", words]);
    }
}

#[tokio::test]
async fn another_address_takes_a_restart() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    assert_eq!(daemon.count("metrics and health are shown"), 0, "off unless set");
    let text = fs::read_to_string(token.config()).unwrap();
    token.write_config(&format!("{text}[metrics]\nlisten = \"127.0.0.1:0\"\n"));
    daemon.signal(Signal::SIGHUP);
    daemon.logged("a changed metrics.listen takes effect after a restart").await;
    assert_eq!(daemon.count("metrics and health are shown"), 0);
    daemon.stop().await;
}

/// The tables of docs/metrics.md and the code have the same names, and the same labels.
#[test]
fn the_docs_name_every_metric() {
    let text = include_str!("../docs/metrics.md");
    let mut documented = BTreeSet::new();
    let rows = text.lines().filter(|it| it.starts_with("| `p11_") || it.starts_with("| `process_"));
    for line in rows {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, ..] = cells.as_slice() else { panic!("{line}") };
        let name = name.trim_matches('`').to_owned();
        // A label may be followed by its values.
        let labels = labels.split(';').map(|label| label.split('`').nth(1).unwrap_or_default());
        let labels: Vec<String> = labels.filter(|it| !it.is_empty()).map(str::to_owned).collect();
        assert!(documented.insert((name, (*kind).to_owned(), labels)), "twice: {line}");
    }
    let ours = FAMILIES.iter().map(|family| {
        let kind = format!("{:?}", family.kind).to_lowercase();
        let labels = family.labels.iter().map(ToString::to_string).collect();
        (family.name.to_owned(), kind, labels)
    });
    let process = PROCESS.iter().map(|name| {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        (name.to_string(), kind.to_owned(), vec![])
    });
    assert_eq!(documented, ours.chain(process).collect());
    // What a reason means is said there too.
    for reason in p11_kms::health::Reason::ALL {
        assert!(text.contains(&format!("| `{}` |", reason.id())), "{}", reason.id());
    }
}
