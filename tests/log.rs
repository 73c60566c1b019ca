//! The log: what it says about a request, and what it never holds.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use common::client::request_for;
use common::daemon::Daemon;
use common::token::{PIN, Token};
use common::{hex, seed};
use nix::unistd::{getpid, getuid};
use serde_json::{Value, json};

/// The lines about requests of one method.
fn requests(daemon: &Daemon, method: &str) -> Vec<Value> {
    let of_method = |line: &Value| line["method"] == method && line["uid"] != "";
    daemon.lines().into_iter().filter(of_method).collect()
}

#[tokio::test]
async fn every_request_has_a_line() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    let good = client.encrypt_as("uid-of-encrypt", &seed(1, 32)).await.unwrap();
    let mut request = request_for(&good);
    "uid-of-decrypt".clone_into(&mut request.uid);
    client.decrypt(request.clone()).await.unwrap();
    request.ciphertext[0] ^= 1;
    "uid-of-failure".clone_into(&mut request.uid);
    client.decrypt(request).await.unwrap_err();
    daemon
        .stop_and(|daemon| {
            let encrypts = requests(daemon, "Encrypt");
            let decrypts = requests(daemon, "Decrypt");
            assert_eq!((encrypts.len(), decrypts.len()), (1, 2));
            let expected = [
                (&encrypts[0], "uid-of-encrypt", "Ok", "INFO"),
                (&decrypts[0], "uid-of-decrypt", "Ok", "INFO"),
                (&decrypts[1], "uid-of-failure", "InvalidArgument", "WARN"),
            ];
            for (line, uid, code, level) in expected {
                assert_eq!(line["uid"], uid, "{line}");
                assert_eq!(line["code"], code, "{line}");
                assert_eq!(line["level"], level, "{line}");
                assert_eq!(line["key_id"], json!(good.key_id), "{line}");
                assert_eq!(line["peer_uid"], getuid().as_raw(), "{line}");
                assert_eq!(line["peer_pid"], getpid().as_raw(), "{line}");
                assert!(line["micros"].as_u64().unwrap() > 0, "{line}");
                assert!(line["timestamp"].is_string(), "{line}");
            }
            assert!(decrypts[1]["error"].as_str().unwrap().contains("integrity check"));
        })
        .await;
}

/// A caller's text cannot make a line of its own, nor a long one.
#[tokio::test]
async fn a_uid_cannot_break_a_line() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    let nasty = "a\n{\"level\":\"ERROR\"}\u{1b}[31m\"\\";
    client.encrypt_as(nasty, &seed(1, 32)).await.unwrap();
    client.encrypt_as(&"\u{e4}".repeat(5000), &seed(1, 32)).await.unwrap();
    daemon
        .stop_and(|daemon| {
            let lines = requests(daemon, "Encrypt");
            assert_eq!(lines.len(), 2);
            assert_eq!(lines[0]["uid"], nasty);
            assert!(lines[1]["uid"].as_str().unwrap().len() <= 64);
            let every =
                daemon.log().lines().all(|line| serde_json::from_str::<Value>(line).is_ok());
            assert!(every, "a line is no JSON");
        })
        .await;
}

/// Everything is logged that can be, by us and by every library.
#[tokio::test]
async fn no_secret_is_logged_at_any_level() {
    let token = Token::with_kek();
    let mut command = token.command();
    command.args(["--log", "trace", "serve"]);
    let daemon = Daemon::run(&token, command);
    daemon.well().await;
    let client = daemon.client().await;
    let mut secrets = vec![PIN.as_bytes().to_vec()];
    for (salt, len) in [(1, 32), (2, 21), (3, 999)] {
        // Printable, so that it would show as it is.
        let plaintext: Vec<u8> = seed(salt, len).iter().map(|byte| b'A' + byte % 26).collect();
        let encrypted = client.encrypt(&plaintext).await.unwrap();
        let mut request = request_for(&encrypted);
        assert!(client.decrypt(request.clone()).await.unwrap() == plaintext);
        secrets.extend([plaintext, request.ciphertext.clone()]);
        request.ciphertext[0] ^= 1;
        client.decrypt(request.clone()).await.unwrap_err();
        secrets.push(request.ciphertext);
        // The annotation is wrong, the key_id is wrong: other ways through the code.
        let mut other = request_for(&encrypted);
        other.annotations.clear();
        client.decrypt(other).await.unwrap_err();
    }
    let long = vec![b'Z'; 1001];
    client.encrypt(&long).await.unwrap_err();
    secrets.push(long);
    daemon
        .stop_and(|daemon| {
            let log = daemon.log();
            assert!(log.contains("\"TRACE\"") && log.contains("\"method\":\"Decrypt\""));
            for (number, secret) in secrets.iter().enumerate() {
                for form in forms(secret) {
                    assert!(!log.contains(&form), "secret {number} is in the log");
                }
            }
        })
        .await;
}

/// The ways in which bytes could get into a log: the first 16 of them would be enough.
fn forms(secret: &[u8]) -> Vec<String> {
    let part = secret.get(..16).unwrap_or(secret);
    let numbers: Vec<String> = part.iter().map(ToString::to_string).collect();
    let escaped: String = part.iter().map(|byte| byte.escape_ascii().to_string()).collect();
    vec![
        hex(part),
        hex(part).to_uppercase(),
        // Five groups of three bytes do not depend on what follows.
        base64(part.get(..15).unwrap_or(part)),
        numbers.join(", "),
        numbers.join(","),
        // As Rust writes bytes, and as that looks within JSON.
        escaped.replace('\\', "\\\\"),
        escaped,
    ]
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit =
        |group: u32, place: u32| char::from(DIGITS[(group >> (18 - 6 * place) & 63) as usize]);
    let group = |three: &[u8]| {
        let number = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        (0..4).map(|place| digit(number, place)).collect::<String>()
    };
    bytes.chunks_exact(3).map(group).collect()
}
