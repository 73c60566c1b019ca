//! What a caller may send: good requests of every size, and everything else.

mod common;

use common::client::{ANNOTATION, request, request_for};
use common::daemon::Daemon;
use common::seed;
use common::token::Token;
use tokio::task::JoinSet;
use tonic::{Code, Status};

#[track_caller]
fn refused(status: &Status, code: Code, words: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(words), "{words:?} is missing: {status:?}");
}

#[tokio::test]
async fn every_length_comes_back() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    for len in (1..=72).chain((73..1000).step_by(13)).chain([999, 1000]) {
        let plaintext = seed(1, len);
        let encrypted = client.encrypt(&plaintext).await.unwrap();
        assert_eq!(encrypted.ciphertext.len(), len.next_multiple_of(8) + 8, "{len} bytes");
        let algorithm = if len >= 16 && len % 8 == 0 { "aes-kw" } else { "aes-kwp" };
        assert_eq!(encrypted.annotations.len(), 1);
        assert_eq!(encrypted.annotations[ANNOTATION], algorithm.as_bytes(), "{len} bytes");
        let back = client.decrypt(request_for(&encrypted)).await.unwrap();
        assert!(back == plaintext, "{len} bytes");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn the_key_id_of_encrypt_is_that_of_status() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    let status = client.status().await.unwrap();
    assert_eq!(status.version, "v2");
    assert_eq!(status.key_id.len(), 64);
    let encrypted = client.encrypt(&seed(1, 32)).await.unwrap();
    assert_eq!(encrypted.key_id, status.key_id);
}

#[tokio::test]
async fn lengths_that_cannot_be_are_refused() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    for len in [0, 1001, 4096] {
        let status = client.encrypt(&seed(1, len)).await.unwrap_err();
        refused(&status, Code::InvalidArgument, "from 1 to 1000");
    }
    client.encrypt(&seed(1, 100_000)).await.unwrap_err();
    client.round_trip(&seed(2, 32)).await.unwrap();
}

#[tokio::test]
async fn a_damaged_blob_is_refused_and_does_no_harm() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let workers = daemon.all_workers(2).await;
    let client = daemon.client().await;
    for len in [32, 5, 1000] {
        let good = request_for(&client.encrypt(&seed(1, len)).await.unwrap());
        let blob = &good.ciphertext;
        let mut bad = Vec::new();
        for place in (0..blob.len()).step_by(1 + blob.len() / 40) {
            let mut changed = blob.clone();
            changed[place] ^= 1 << (place % 8);
            bad.push(changed);
        }
        for cut in [0, 1, 7, 8, 15, blob.len() / 2, blob.len() - 8, blob.len() - 1] {
            bad.push(blob[..cut].to_vec());
        }
        for more in [1, 7, 8, 16, 1000] {
            bad.push([blob.as_slice(), &vec![0; more]].concat());
        }
        bad.push([blob.as_slice(), blob.as_slice()].concat());
        for ciphertext in bad {
            let mut request = good.clone();
            request.ciphertext = ciphertext;
            let status = client.decrypt(request).await.unwrap_err();
            refused(&status, Code::InvalidArgument, "cut");
            assert!(
                status.message().contains("changed") || status.message().contains("is not ours"),
                "{status:?}"
            );
        }
        let back = client.decrypt(good).await.unwrap();
        assert!(back == seed(1, len), "the good blob after the bad ones");
    }
    assert_eq!(daemon.workers(), workers, "a bad blob replaced a worker");
    assert_eq!(client.status().await.unwrap().healthz, "ok");
    daemon.stop().await;
}

#[tokio::test]
async fn annotations_that_are_not_ours_are_refused() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    let good = request_for(&client.encrypt(&seed(1, 32)).await.unwrap());

    let mut missing = good.clone();
    missing.annotations.clear();
    let mut foreign = missing.clone();
    foreign.annotations.insert("version.example.com".into(), b"1".to_vec());
    let mut extra = good.clone();
    extra.annotations.insert("version.example.com".into(), b"1".to_vec());
    let mut other_value = good.clone();
    other_value.annotations.insert(ANNOTATION.into(), b"aes-gcm".to_vec());
    for bad in [missing, foreign, extra, other_value] {
        let status = client.decrypt(bad).await.unwrap_err();
        refused(&status, Code::InvalidArgument, "wrap.p11-kms.internal = aes-kw or aes-kwp");
    }
    // One of ours, but not the one that made the blob: the integrity check tells.
    for (len, other) in [(32, "aes-kwp"), (20, "aes-kw")] {
        let made = client.encrypt(&seed(1, len)).await.unwrap();
        let swapped = request(other, &made.key_id, &made.ciphertext);
        let status = client.decrypt(swapped).await.unwrap_err();
        refused(&status, Code::InvalidArgument, "integrity check");
    }
    client.decrypt(good).await.unwrap();
}

#[tokio::test]
async fn a_key_id_that_is_nowhere_is_not_found() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let workers = daemon.all_workers(2).await;
    let client = daemon.client().await;
    let good = request_for(&client.encrypt(&seed(1, 32)).await.unwrap());
    let with = |key_id: &str| request("aes-kw", key_id, &good.ciphertext);

    let foreign = "00".repeat(32);
    let status = client.decrypt(with(&foreign)).await.unwrap_err();
    refused(&status, Code::NotFound, &foreign);
    refused(&status, Code::NotFound, "p11-kms key list");
    // One look answers all who wait for it; a known key_id does not wait.
    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        let (client, request) = (client.clone(), with(&foreign));
        waiting.spawn(async move { client.decrypt(request).await });
    }
    client.decrypt(good.clone()).await.unwrap();
    for outcome in waiting.join_all().await {
        refused(&outcome.unwrap_err(), Code::NotFound, &foreign);
    }

    for impossible in [String::new(), "a".repeat(1025)] {
        let status = client.decrypt(with(&impossible)).await.unwrap_err();
        refused(&status, Code::InvalidArgument, "from 1 to 1024");
    }
    assert_eq!(daemon.workers(), workers);
    assert_eq!(client.status().await.unwrap().healthz, "ok");
}

/// A neighbour has made a KEK and written with it; this node has not seen it yet.
#[tokio::test]
async fn a_kek_that_a_neighbour_made_is_found_when_it_is_named() {
    let token = Token::with_kek();
    let rarely = ["keyring.scan-interval=1h", "health.interval=10m"];
    let daemon = Daemon::start_with(&token, &rarely).await;
    let client = daemon.client().await;
    let before = client.encrypt(&seed(1, 32)).await.unwrap();

    token.run(&["key", "generate"]).expect(0, &[]);
    let elsewhere = format!("unix://{}", token.path("run/neighbour.sock").display());
    let setting = format!("server.endpoint={elsewhere}");
    let state = format!("keyring.state-dir={}", token.path("neighbour").display());
    let neighbour = Daemon::spawn(&token, &[&setting, &state]).at(&elsewhere);
    // It takes up where the record on the token left off, and then goes on to the new one.
    neighbour.status(|status| status.healthz == "ok" && status.key_id != before.key_id).await;
    let written = neighbour.client().await.encrypt(&seed(2, 32)).await.unwrap();
    assert_ne!(written.key_id, before.key_id);

    let back = client.decrypt(request_for(&written)).await.unwrap();
    assert!(back == seed(2, 32));
    let back = client.decrypt(request_for(&before)).await.unwrap();
    assert!(back == seed(1, 32));
    neighbour.stop().await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_kek_that_a_neighbour_made_is_found_by_the_scan() {
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &["health.interval=10m"]).await;
    let before = daemon.well().await.key_id;
    token.run(&["key", "generate"]).expect(0, &[]);
    let after = daemon.status(|status| status.key_id != before).await;
    assert_eq!(after.healthz, "ok");
    let list = token.run(&["key", "list", "--output", "json"]).json();
    assert_eq!(list[1]["key-id"], after.key_id);
    let encrypted = daemon.client().await.encrypt(&seed(1, 32)).await.unwrap();
    assert_eq!(encrypted.key_id, after.key_id);
}
