//! Who may call, and what a peer may do to the others: nothing.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::client::Client;
use common::daemon::Daemon;
use common::seed;
use common::token::Token;
use nix::unistd::{getpid, getuid};

/// An abstract name that no other test has.
fn abstract_endpoint(token: &Token) -> String {
    let name = token.path("");
    let name = name.file_name().unwrap().to_str().unwrap();
    format!("unix:///@{name}")
}

#[test]
fn an_abstract_socket_wants_a_list_of_those_who_may_connect() {
    let token = Token::new();
    let endpoint = abstract_endpoint(&token);
    let text = token.usual_config().replace(&token.endpoint(), &endpoint);
    let uids = format!("allow-uids = [{}]\n", getuid());
    for list in ["", "allow-uids = []\n"] {
        token.write_config(&text.replace(&uids, list));
        token.run(&["serve"]).expect(2, &["server.allow-uids", "abstract"]);
    }
}

/// Ours on both kinds of socket, so that nothing in the file's mode helps.
#[tokio::test]
async fn a_peer_that_is_not_allowed_is_closed_and_logged() {
    let token = Token::with_kek();
    let by_name = abstract_endpoint(&token);
    for endpoint in [token.endpoint(), by_name] {
        let setting = format!("server.endpoint={endpoint}");
        let set = [setting.as_str(), "server.allow-uids=12345"];
        let daemon = Daemon::spawn(&token, &set).at(&endpoint);
        daemon.logged("serving").await;
        if let Ok(client) = Client::connect(&endpoint).await {
            client.status().await.unwrap_err();
        }
        let line = daemon.logged("connection refused").await;
        assert_eq!(line["uid"], getuid().as_raw(), "{line}");
        assert_eq!(line["pid"], getpid().as_raw(), "{line}");
        assert!(line["message"].as_str().unwrap().contains("server.allow-uids"), "{line}");
        token.run(&["status", "--endpoint", &endpoint]).expect(3, &[&endpoint]);
        daemon.stop().await;
    }
}

#[tokio::test]
async fn who_is_not_allowed_is_told_where_to_look() {
    let token = Token::with_kek();
    let daemon = Daemon::spawn(&token, &["server.allow-uids=12345"]);
    daemon.logged("serving").await;
    for command in ["status", "probe"] {
        token.run(&[command]).expect(3, &["server.allow-uids"]);
    }
    daemon.stop().await;
}

/// Whatever comes, the next caller is served.
#[tokio::test]
async fn garbage_headers_without_end_and_a_flood_of_connections() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    let path = token.path("run/kms.sock");
    let dial = || {
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    let mut log = Vec::new();
    for garbage in [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0; 10_000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        seed(1, 100_000),
    ] {
        let mut stream = dial();
        // It may be closed before all is written.
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut log);
        client.round_trip(&seed(2, 32)).await.unwrap();
    }
    headers_without_end(dial());
    client.round_trip(&seed(3, 32)).await.unwrap();

    // In bunches, since the test may not open so many files at once.
    for _ in 0..100 {
        let bunch: Vec<UnixStream> = (0..100).map(|_| dial()).collect();
        client.round_trip(&seed(4, 32)).await.unwrap();
        drop(bunch);
    }
    assert!(daemon.count("max-connections") <= 3, "a flood of connections is none of lines");
    let fresh = daemon.client().await;
    daemon.well().await;
    fresh.round_trip(&seed(5, 32)).await.unwrap();
    assert_eq!(client.status().await.unwrap().healthz, "ok");
    daemon.stop().await;
}

/// HEADERS and CONTINUATION frames (RFC 9113, section 6.10) that never end.
fn headers_without_end(mut stream: UnixStream) {
    let frame = |kind: u8, flags: u8, id: u8, payload: &[u8]| {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [len[1], len[2], len[3], kind, flags, 0, 0, 0, id];
        [head.as_slice(), payload].concat()
    };
    let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    all.extend(frame(4, 0, 0, &[]));
    // A literal header field that is not indexed: name "a", value of 1,000 bytes.
    let mut field = vec![0, 1, b'a', 0x7f, 0xe9, 0x06];
    field.extend([b'x'; 1000]);
    all.extend(frame(1, 0, 1, &field));
    let _ = stream.write_all(&all);
    let more = frame(9, 0, 1, &field);
    for sent in 0.. {
        assert!(sent < 10_000, "ten megabytes of headers were taken");
        if stream.write_all(&more).is_err() {
            break;
        }
    }
}
