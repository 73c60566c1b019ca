//! How many PKCS#11 calls a request costs: on a network HSM each is a round trip.

mod common;

use std::collections::BTreeMap;

use common::client::request_for;
use common::daemon::Daemon;
use common::seed;
use common::token::{Spy, Token};

const REQUESTS: usize = 50;

/// A daemon that calls nothing by itself for ten minutes.
async fn quiet(token: &Token, set: &[&str]) -> (Daemon, Spy) {
    let spy = token.spy_on_calls();
    let mut command = token.command();
    let usual = ["token.workers=1", "health.interval=10m", "keyring.scan-interval=1h"];
    for setting in usual.iter().chain(set) {
        command.args(["--set", setting]);
    }
    command.arg("serve").envs(spy.environment());
    let daemon = Daemon::run(token, command);
    daemon.well().await;
    (daemon, spy)
}

/// What was called between the two.
fn between(
    before: &BTreeMap<String, usize>,
    after: &BTreeMap<String, usize>,
) -> Vec<(String, usize)> {
    let more = |(name, count): (&String, &usize)| {
        let more = count - before.get(name).copied().unwrap_or(0);
        (more > 0).then(|| (name.clone(), more))
    };
    after.iter().filter_map(more).collect()
}

fn each(names: &[&str]) -> Vec<(String, usize)> {
    names.iter().map(|name| ((*name).to_owned(), REQUESTS)).collect()
}

#[tokio::test]
async fn method_object_costs_three_calls_each_way() {
    let token = Token::with_kek();
    let (daemon, spy) = quiet(&token, &[]).await;
    let client = daemon.client().await;
    // The first one of each has all that is done once behind it.
    client.round_trip(&seed(0, 32)).await.unwrap();

    let before = spy.calls();
    let mut encrypted = Vec::new();
    for salt in 0..50 {
        encrypted.push(client.encrypt(&seed(salt, 32)).await.unwrap());
    }
    let between_two = spy.calls();
    let expected = each(&["C_CreateObject", "C_DestroyObject", "C_WrapKey"]);
    assert_eq!(between(&before, &between_two), expected);

    for encrypted in &encrypted {
        client.decrypt(request_for(encrypted)).await.unwrap();
    }
    let expected = each(&["C_DestroyObject", "C_GetAttributeValue", "C_UnwrapKey"]);
    assert_eq!(between(&between_two, &spy.calls()), expected);
    daemon.stop().await;
}

#[tokio::test]
async fn no_object_is_left_behind_by_a_bad_blob() {
    let token = Token::with_kek();
    let (daemon, spy) = quiet(&token, &[]).await;
    let client = daemon.client().await;
    let mut bad = request_for(&client.encrypt(&seed(1, 32)).await.unwrap());
    bad.ciphertext[3] ^= 1;
    for _ in 0..5 {
        client.decrypt(bad.clone()).await.unwrap_err();
    }
    let calls = spy.calls();
    let count = |name| calls.get(name).copied().unwrap_or(0);
    // SoftHSM's code for a bad blob can mean much, so each is tried a second time.
    let failed = 5 * 2;
    let made = count("C_CreateObject") + count("C_UnwrapKey") - failed;
    assert_eq!(count("C_DestroyObject"), made, "{calls:?}");
}

/// One stream for each seed: an init, 24 blocks, a final.
#[tokio::test]
async fn method_ecb_streams() {
    let token = Token::with_kek();
    let (daemon, spy) = quiet(&token, &["token.method=ecb"]).await;
    let client = daemon.client().await;
    client.round_trip(&seed(0, 32)).await.unwrap();
    let before = spy.calls();
    for salt in 0..50 {
        client.encrypt(&seed(salt, 32)).await.unwrap();
    }
    let calls = between(&before, &spy.calls());
    let expected = [("C_EncryptFinal", 50), ("C_EncryptInit", 50), ("C_EncryptUpdate", 50 * 24)];
    assert_eq!(calls, expected.map(|(name, count)| (name.to_owned(), count)));
}

/// However often Status is asked, the token is not.
#[tokio::test]
async fn status_costs_no_call() {
    let token = Token::with_kek();
    let (daemon, spy) = quiet(&token, &[]).await;
    let client = daemon.client().await;
    let before = spy.calls();
    for _ in 0..100 {
        client.status().await.unwrap();
    }
    assert_eq!(between(&before, &spy.calls()), []);
}

/// A request that cannot be good is answered without the token.
#[tokio::test]
async fn a_malformed_request_costs_no_call() {
    let token = Token::with_kek();
    let (daemon, spy) = quiet(&token, &[]).await;
    let client = daemon.client().await;
    let good = request_for(&client.encrypt(&seed(1, 32)).await.unwrap());
    let before = spy.calls();
    client.encrypt(&[]).await.unwrap_err();
    client.encrypt(&seed(1, 1001)).await.unwrap_err();
    let mut empty = good.clone();
    empty.ciphertext.clear();
    let mut cut = good.clone();
    cut.ciphertext.pop();
    let mut foreign = good.clone();
    foreign.annotations.insert("version.example.com".into(), b"1".to_vec());
    let mut nameless = good.clone();
    nameless.key_id.clear();
    for bad in [empty, cut, foreign, nameless] {
        client.decrypt(bad).await.unwrap_err();
    }
    assert_eq!(between(&before, &spy.calls()), []);
}

/// A flipped bit in what goes to etcd would be data that nobody can read.
#[tokio::test]
async fn with_verify_wraps_a_wrong_blob_is_never_given_out() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let set = ["token.verify-wraps=true", "keyring.scan-interval=1h", "health.interval=10m"];
    let daemon = Daemon::start_with(&token, &set).await;
    let client = daemon.client().await;
    for length in [32, 5] {
        client.round_trip(&seed(1, length)).await.unwrap();
    }
    // Once: the token wraps it again. For good: it says so, and gives out nothing.
    faults.set("C_WrapKey corrupt times=1").unwrap();
    client.round_trip(&seed(2, 32)).await.unwrap();
    assert_eq!(faults.strikes(), 1);
    faults.set("C_WrapKey corrupt").unwrap();
    client.encrypt(&seed(3, 32)).await.unwrap_err();
    faults.clear().unwrap();
    daemon.stop().await;
}
