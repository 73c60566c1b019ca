#![forbid(unsafe_code)]
//! Peers that are broken, slow or hostile: their connection ends, the daemon goes on.

use std::process::Command;

use tokio::io::AsyncWriteExt;

use super::service::{CONTINUATION, HEADERS, PING, PREFACE, RST_STREAM, Raw, SETTINGS, frame};
use super::*;
use crate::proto::EncryptRequest;

const SOON: Duration = Duration::from_millis(300);

#[tokio::test]
async fn garbage_ends_its_connection_alone() {
    let server = start(Limits::default(), us());
    let client = server.client().await;
    let settings = frame(SETTINGS, 0, 0, &[]);
    let junk: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0; 4096],
        vec![0xff; 4096],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        [PREFACE, &[0xff; 64]].concat(),
        [PREFACE, &settings, &frame(SETTINGS, 0, 0, &[1, 2, 3])].concat(),
        [PREFACE, &settings, &frame(HEADERS, 5, 1, &[0xff; 32])].concat(),
        [PREFACE, &settings, &frame(PING, 0, 7, &[0; 8])].concat(),
        PREFACE[..10].to_vec(),
    ];
    let sent = u64::try_from(junk.len()).unwrap();
    for bytes in junk {
        let mut raw = Raw(server.connect().await);
        // The server may have closed before the last byte.
        let _ = raw.0.write_all(&bytes).await;
        let _ = raw.0.shutdown().await;
        raw.until_closed().await;
        client.status().await;
    }
    eventually(|| count(&server.counters.failed) >= sent - 1).await;
    assert_eq!(count(&server.counters.accepted), sent + 1);
}

#[tokio::test]
async fn a_peer_that_does_not_begin_is_let_go() {
    let server = start(Limits { handshake_timeout: SOON, ..Limits::default() }, us());
    // Says nothing; stops halfway; begins with another frame than SETTINGS.
    let settings = frame(SETTINGS, 0, 0, &[0; 12]);
    let halves: [&[u8]; 5] = [
        b"",
        &PREFACE[..23],
        PREFACE,
        &[PREFACE, &settings[..settings.len() - 1]].concat(),
        &[PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(),
    ];
    for begun in halves {
        let mut raw = Raw(server.connect().await);
        raw.0.write_all(begun).await.unwrap();
        raw.until_closed().await;
    }
}

#[tokio::test]
async fn a_byte_now_and_then_does_not_help() {
    let server = start(Limits { handshake_timeout: SOON, ..Limits::default() }, us());
    let mut raw = Raw(server.connect().await);
    let dribble = async {
        for byte in PREFACE.iter().cycle().take(24).chain(&[0; 1_000_000]) {
            if raw.0.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(SOON / 10).await;
        }
    };
    timeout(PATIENCE, dribble).await.expect("still connected");
}

#[tokio::test]
async fn one_that_has_begun_may_be_idle() {
    let server = start(Limits { handshake_timeout: SOON, ..Limits::default() }, us());
    let mut raw = server.greeted().await;
    sleep(SOON * 4).await;
    raw.0.write_all(&frame(PING, 0, 0, b"12345678")).await.unwrap();
    while raw.frame().await.expect("closed") != (PING, 1, b"12345678".to_vec()) {}
}

#[tokio::test]
async fn an_idle_client_that_answers_pings_lives_on() {
    let limits = Limits {
        keepalive_interval: SOON,
        // Long: the machine may be busy.
        keepalive_timeout: PATIENCE,
        handshake_timeout: PATIENCE,
        ..Limits::default()
    };
    let server = start(limits, us());
    let client = server.client().await;
    client.status().await;
    sleep(SOON * 5).await;
    client.status().await;
    assert_eq!(count(&server.counters.accepted), 1);
}

#[tokio::test]
async fn one_that_does_not_answer_pings_is_dead() {
    let limits = Limits { keepalive_interval: SOON, keepalive_timeout: SOON, ..Limits::default() };
    let server = start(limits, us());
    server.greeted().await.until_closed().await;
}

#[tokio::test]
async fn one_that_does_not_read_is_let_go() {
    let limits = Limits { keepalive_interval: SOON, keepalive_timeout: SOON, ..Limits::default() };
    let server = start(limits, us());
    let mut raw = server.greeted().await;
    // Each ping has to be answered, until the answers fill the socket.
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(1000);
    let writing = async { while raw.0.write_all(&pings).await.is_ok() {} };
    timeout(PATIENCE, writing).await.expect("still connected");
}

/// While the server stood still its callers lost their patience: no reason to end the connection
/// of those who have more.
#[tokio::test]
async fn calls_that_are_taken_back_before_they_are_seen_end_no_other() {
    let server = start(Limits::default(), us());
    let mut raw = server.greeted().await;
    let path = b"/v2.KeyManagementService/Status";
    // POST, http (RFC 7541, appendix A), then authority and path as they are.
    let length = u8::try_from(path.len()).unwrap();
    let fields = [b"\x83\x86\x01\x09localhost\x04", &[length][..], path].concat();
    let taken_back = |id| {
        let cancel = [0, 0, 0, 8];
        [frame(HEADERS, 4, id, &fields), frame(RST_STREAM, 0, id, &cancel)].concat()
    };
    let mut all: Vec<u8> = (1..200).step_by(2).flat_map(taken_back).collect();
    all.extend(frame(PING, 0, 0, b"12345678"));
    raw.0.write_all(&all).await.unwrap();
    while raw.frame().await.expect("closed") != (PING, 1, b"12345678".to_vec()) {}
}

/// One that never rests must not outrun what the server has to tell it.
#[tokio::test]
async fn one_that_is_no_longer_allowed_goes_however_busy_it_is() {
    use std::io::{Read, Write};
    let allow = us();
    let server = start(Limits::default(), allow.clone());
    let mut flood = server.greeted().await.0.into_std().unwrap();
    flood.set_nonblocking(false).unwrap();
    let mut answers = flood.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while answers.read(&mut buffer).is_ok_and(|length| length > 0) {}
    });
    let writer = std::thread::spawn(move || {
        let pings = frame(PING, 0, 0, &[0; 8]).repeat(10_000);
        while flood.write_all(&pings).is_ok() {}
    });
    sleep(SOON).await;
    allow.replace(vec![geteuid().as_raw() + 1], vec![]);
    eventually(|| count(&server.counters.refused) == 1).await;
    eventually(|| reader.is_finished() && writer.is_finished()).await;
}

#[tokio::test]
async fn a_header_without_end_is_cut_off() {
    let server = start(Limits::default(), us());
    let client = server.client().await;
    let mut raw = server.greeted().await;
    // A literal header field whose value never ends, then one empty frame after the other.
    for part in [vec![0; 4096], vec![]] {
        let mut again = server.greeted().await;
        std::mem::swap(&mut raw, &mut again);
        let begin = frame(HEADERS, 0, 1, &[0x00, 0x01, b'x', 0x7f, 0xff, 0xff, 0x7f]);
        again.0.write_all(&begin).await.unwrap();
        let more = frame(CONTINUATION, 0, 1, &part);
        let mut frames = 0_u32;
        while again.0.write_all(&more).await.is_ok() {
            frames += 1;
            assert!(frames < 100_000, "the server takes it all");
            tokio::task::yield_now().await;
        }
    }
    client.status().await;
}

#[tokio::test]
async fn a_header_too_large_fails_its_call_alone() {
    let server = start(Limits::default(), us());
    let client = server.client().await;
    let mut request = tonic::Request::new(EncryptRequest::default());
    request.metadata_mut().insert("x-large", "x".repeat(20_000).parse().unwrap());
    client.encrypt_with(request).await.unwrap_err();
    client.status().await;
    assert_eq!(count(&server.counters.accepted), 1);
}

#[tokio::test]
async fn no_more_calls_at_a_time_than_the_limit() {
    let server = start(Limits { streams: 2, ..Limits::default() }, us());
    let client = server.client().await;
    // The client learns the limit with the server's SETTINGS.
    client.status().await;
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let client = client.clone();
        calls.spawn(async move { client.encrypt(b"slow".to_vec()).await.unwrap() });
    }
    let all = async {
        while !calls.is_empty() {
            server.slow.go_on.notify_waiters();
            sleep(Duration::from_millis(5)).await;
            while calls.try_join_next().is_some() {}
        }
    };
    timeout(PATIENCE, all).await.expect("not all were answered");
    assert!(count(&server.slow.most) <= 2);
}

/// A lack of file descriptors is the whole process's, so this runs in one of its own.
#[test]
fn out_of_file_descriptors_is_no_end() {
    let output = Command::new("sh")
        .args(["-c", r#"ulimit -n 40; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "server::tests::limits::with_few_file_descriptors"])
        .args(["--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
#[ignore = "started by out_of_file_descriptors_is_no_end, with a small limit"]
async fn with_few_file_descriptors() {
    use nix::sys::resource::{Resource, getrlimit};
    if getrlimit(Resource::RLIMIT_NOFILE).unwrap().0 > 100 {
        println!("skipped: it needs a small limit of open files");
        return;
    }
    let server = start(Limits::default(), us());
    let client = server.client().await;
    client.status().await;
    let mut held = Vec::new();
    while let Ok(stream) = UnixStream::connect(server.path()).await {
        held.push(stream);
        assert!(held.len() < 40, "there is no limit");
    }
    // The queue still holds some that the server cannot accept. It must not spin meanwhile.
    sleep(SOON).await;
    client.status().await;
    // Its rests become as long as they get, and it must still come back.
    sleep(LONGEST_REST * 4).await;
    drop(held);
    let again = async { server.client().await.status().await };
    timeout(PATIENCE, again).await.expect("it accepts again");
}
