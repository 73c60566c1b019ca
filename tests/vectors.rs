//! Published test vectors, through the token.
//!
//! The keyring takes AES-256 alone, so of RFC 3394 section 4 there are the three vectors
//! with a 256-bit KEK. Those of RFC 5649 section 6 have a 192-bit KEK: they hold the
//! aes-kw crate to the RFC, and that crate then holds the token to it, beside the 256-bit
//! vectors of Wycheproof.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::collections::BTreeMap;

use aes_kw::{KeyInit, KwAes256, KwpAes192, KwpAes256};
use common::client::{Client, request};
use common::daemon::Daemon;
use common::token::Token;
use common::{seed, unhex};
use tonic::Code;
use wycheproof::TestResult;
use wycheproof::keywrap::{TestName, TestSet};

struct Vector {
    name: String,
    algorithm: &'static str,
    key: Vec<u8>,
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
    valid: bool,
}

/// RFC 3394, sections 4.3, 4.5 and 4.6.
fn rfc3394() -> Vec<Vector> {
    let key = unhex("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F");
    let data = unhex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F");
    [
        ("4.3", 16, "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7"),
        ("4.5", 24, "A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1"),
        (
            "4.6",
            32,
            "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21",
        ),
    ]
    .map(|(section, len, ciphertext)| Vector {
        name: format!("RFC 3394 {section}"),
        algorithm: "aes-kw",
        key: key.clone(),
        plaintext: data[..len].to_vec(),
        ciphertext: unhex(ciphertext),
        valid: true,
    })
    .into()
}

fn wycheproof(set: TestName, algorithm: &'static str) -> Vec<Vector> {
    let groups = TestSet::load(set).unwrap().test_groups;
    let tests = groups.into_iter().filter(|group| group.key_size == 256).flat_map(|it| it.tests);
    tests
        .map(|test| Vector {
            name: format!("Wycheproof {algorithm} {}", test.tc_id),
            algorithm,
            key: test.key.to_vec(),
            plaintext: test.pt.to_vec(),
            ciphertext: test.ct.to_vec(),
            // The one that is merely acceptable wraps 8 bytes with KW; SP 800-38F does not.
            valid: test.result == TestResult::Valid,
        })
        .collect()
}

fn all() -> Vec<Vector> {
    let mut vectors = rfc3394();
    vectors.extend(wycheproof(TestName::AesKeyWrap, "aes-kw"));
    vectors.extend(wycheproof(TestName::AesKeyWrapWithPadding, "aes-kwp"));
    vectors
}

/// A token with every KEK of the vectors, and the label of each.
fn token_with(vectors: &[Vector]) -> (Token, BTreeMap<Vec<u8>, String>) {
    let token = Token::new();
    token.change_config("[keyring]", "allow-weak-kek = true\n[keyring]");
    let mut labels = BTreeMap::new();
    for vector in vectors {
        let label = format!("k8s-kek-{:04}", labels.len() + 1);
        if !labels.contains_key(&vector.key) {
            token.import(&label, &vector.key);
            labels.insert(vector.key.clone(), label);
        }
    }
    (token, labels)
}

/// Which key_id each label has.
fn key_ids(token: &Token) -> BTreeMap<String, String> {
    let list = token.run(&["key", "list", "--output", "json"]).json();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let lines = list.as_array().unwrap().iter();
    lines.map(|line| (text(&line["label"]), text(&line["key-id"]))).collect()
}

async fn decrypts_all(set: &[&str]) {
    let vectors = all();
    assert!(vectors.len() > 150, "some are missing");
    let (token, labels) = token_with(&vectors);
    let key_ids = key_ids(&token);
    let daemon = Daemon::start_with(&token, set).await;
    let client = daemon.client().await;
    let workers = daemon.all_workers(2).await;
    for vector in &vectors {
        let name = &vector.name;
        let key_id = &key_ids[&labels[&vector.key]];
        let request = request(vector.algorithm, key_id, &vector.ciphertext);
        match client.decrypt(request).await {
            Ok(plaintext) => {
                assert!(vector.valid, "{name} is accepted and must not be");
                assert!(plaintext == vector.plaintext, "{name}: another plaintext");
            }
            Err(status) => {
                assert!(!vector.valid, "{name} is refused: {status:?}");
                assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status:?}");
            }
        }
    }
    assert_eq!(daemon.workers(), workers, "a bad blob replaced a worker");
    kwp_of_all_lengths(&client, &labels).await;
}

/// What is encrypted under the active KEK is what the aes-kw crate makes of it.
async fn kwp_of_all_lengths(client: &Client, labels: &BTreeMap<Vec<u8>, String>) {
    let (key, _) = labels.iter().max_by_key(|(_, label)| label.as_str()).unwrap();
    let key: [u8; 32] = key.as_slice().try_into().unwrap();
    for len in (1..=41).chain([999, 1000]) {
        let plaintext = seed(7, len);
        let encrypted = client.encrypt(&plaintext).await.unwrap();
        let mut room = [0; 1100];
        let expected = if len >= 16 && len % 8 == 0 {
            KwAes256::new(&key.into()).wrap_key(&plaintext, &mut room).unwrap()
        } else {
            KwpAes256::new(&key.into()).wrap_key(&plaintext, &mut room).unwrap()
        };
        assert!(encrypted.ciphertext == expected, "{len} bytes");
    }
}

#[test]
fn the_reference_follows_rfc_5649() {
    let key: [u8; 24] =
        unhex("5840df6e29b02af1 ab493b705bf16ea1 ae8338f4dcc176a8").try_into().unwrap();
    for (plaintext, ciphertext) in [
        (
            "c37b7e6492584340 bed1220780894115 5068f738",
            "138bdeaa9b8fa7fc 61f97742e72248ee 5ae6ae5360d1ae6a 5f54f373fa543b6a",
        ),
        ("466f7250617369", "afbeb0f07dfbf541 9200f2ccb50bb24f"),
    ] {
        let mut room = [0; 64];
        let wrapped = KwpAes192::new(&key.into()).wrap_key(&unhex(plaintext), &mut room).unwrap();
        assert_eq!(wrapped, unhex(ciphertext));
    }
}

#[tokio::test]
async fn method_object() {
    decrypts_all(&[]).await;
}

#[tokio::test]
async fn method_ecb_with_aes_ecb() {
    decrypts_all(&["token.method=ecb", "token.ecb-mechanism=aes-ecb"]).await;
}

#[tokio::test]
async fn method_ecb_with_aes_cbc() {
    decrypts_all(&["token.method=ecb", "token.ecb-mechanism=aes-cbc"]).await;
}

#[tokio::test]
async fn method_ecb_with_aes_ecb_block_by_block() {
    let set = ["token.method=ecb", "token.ecb-mechanism=aes-ecb", "token.ecb-stream=false"];
    decrypts_all(&set).await;
}

#[tokio::test]
async fn method_ecb_with_aes_cbc_block_by_block() {
    let set = ["token.method=ecb", "token.ecb-mechanism=aes-cbc", "token.ecb-stream=false"];
    decrypts_all(&set).await;
}

/// Encrypt writes with the active KEK alone, so each KEK gets a daemon: a keyring of the
/// KEK's whole label has it as generation 0.
#[tokio::test]
async fn every_kek_encrypts_to_the_published_bytes() {
    let vectors = all();
    let (token, labels) = token_with(&vectors);
    let mut checked = 0;
    for (key, label) in &labels {
        let state = format!("keyring.state-dir={}", token.path(label).display());
        let label = format!("keyring.label={label}");
        let daemon = Daemon::start_with(&token, &[&label, &state, "token.workers=1"]).await;
        let client = daemon.client().await;
        for vector in vectors.iter().filter(|vector| vector.valid && vector.key == *key) {
            let encrypted = client.encrypt(&vector.plaintext).await.unwrap();
            // Encrypt takes KW wherever KW is possible; there are KWP vectors for that too.
            if encrypted.annotations["wrap.p11-kms.internal"] == vector.algorithm.as_bytes() {
                assert!(encrypted.ciphertext == vector.ciphertext, "{}", vector.name);
                checked += 1;
            }
        }
    }
    assert!(checked >= 30, "only {checked} vectors were comparable");
}
