//! Several KEKs: which one is written with, and what happens to the others.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use aes_kw::{KeyInit, KwAes256};
use common::client::{request, request_for};
use common::daemon::Daemon;
use common::keks::{active, found, generate, generate_meanwhile};
use common::load::Load;
use common::token::{GOOD, Token};
use common::{eventually, seed};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use p11_kms::generation::Generation;
use p11_kms::keyring::{Epoch, KeyId};
use p11_kms::token::protocol::Fingerprint;
use serde_json::Value;
use tonic::Code;

const WEAK: (&str, &str) = ("[keyring]", "allow-weak-kek = true\n[keyring]");

/// `key list` of the token, by label; the first of a label if there are two.
fn listed(token: &Token, label: &str) -> Value {
    let list = token.run(&["key", "list", "--output", "json"]).json();
    let mut lines = list.as_array().unwrap().iter();
    lines.find(|line| line["label"] == label).unwrap().clone()
}

#[tokio::test]
async fn a_key_of_another_tool_is_adopted_as_generation_0() {
    let token = Token::new();
    token.keygen("k8s-kek", "AES:32", GOOD);
    token.keygen("k8s-kek-other", "AES:32", GOOD);
    token.keygen("k8s-kek-0000", "AES:32", GOOD);
    let line = listed(&token, "k8s-kek");
    assert_eq!((&line["generation"], &line["state"]), (&0.into(), &"active".into()));
    let list = token.run(&["key", "list", "--output", "json"]).json();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    let daemon = Daemon::start(&token).await;
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();

    token.run(&["key", "generate"]).expect(0, &[]);
    let is_active = || (listed(&token, "k8s-kek-0001")["state"] == "active").then_some(());
    eventually("the new one to be active", async || is_active()).await;
    assert_eq!(listed(&token, "k8s-kek")["state"], "deactivated");
}

#[tokio::test]
async fn the_highest_generation_is_written_with_and_the_others_are_read_with() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    let mut written = vec![client.encrypt(&seed(1, 32)).await.unwrap()];
    for generation in 2..=3 {
        let before = client.status().await.unwrap().key_id;
        token.run(&["key", "generate"]).expect(0, &[]);
        daemon.status(|status| status.key_id != before && status.healthz == "ok").await;
        written.push(client.encrypt(&seed(generation, 32)).await.unwrap());
    }
    for (salt, encrypted) in (1..).zip(&written) {
        let back = client.decrypt(request_for(encrypted)).await.unwrap();
        assert!(back == seed(salt, 32), "generation {salt}");
    }
    let mut names: Vec<_> = written.iter().map(|encrypted| &encrypted.key_id).collect();
    names.dedup();
    assert_eq!(names.len(), 3, "each generation has its own name");
}

/// What a daemon must find out about a KEK that we know.
struct Known {
    cipher: KwAes256,
    fingerprint: Fingerprint,
    key_id: KeyId,
}

fn known(generation: u32, key: &[u8]) -> Known {
    let key: [u8; 32] = key.try_into().unwrap();
    let cipher = KwAes256::new(&key.into());
    let mut room = [0; 40];
    cipher.wrap_key(Fingerprint::CONSTANT, &mut room).unwrap();
    let fingerprint = Fingerprint::new(room);
    let key_id = KeyId::new(Generation::new(generation), Epoch::FIRST, &fingerprint);
    Known { cipher, fingerprint, key_id }
}

#[tokio::test]
async fn of_two_keks_of_one_generation_the_lower_fingerprint_is_written_with() {
    let token = Token::new();
    token.change_config(WEAK.0, WEAK.1);
    let mut keks = Vec::new();
    for salt in [1, 2] {
        token.import("k8s-kek-0001", &seed(salt, 32));
        keks.push(known(1, &seed(salt, 32)));
    }
    keks.sort_by_key(|kek| kek.fingerprint);
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    assert_eq!(client.status().await.unwrap().key_id, keks[0].key_id.as_str());
    for kek in &keks {
        let mut room = [0; 40];
        let blob = kek.cipher.wrap_key(&seed(9, 32), &mut room).unwrap();
        let back = client.decrypt(request("aes-kw", kek.key_id.as_str(), blob)).await.unwrap();
        assert!(back == seed(9, 32));
    }
    // The wrong one of the two is no KEK for the blob.
    let mut room = [0; 40];
    let blob = keks[0].cipher.wrap_key(&seed(9, 32), &mut room).unwrap();
    let wrong = request("aes-kw", keks[1].key_id.as_str(), blob);
    assert_eq!(client.decrypt(wrong).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_clone_of_a_kek_has_the_same_name_on_another_token() {
    let mut names = Vec::new();
    for _ in 0..2 {
        let token = Token::new();
        token.change_config(WEAK.0, WEAK.1);
        token.import("k8s-kek-0007", &seed(1, 32));
        names.push(listed(&token, "k8s-kek-0007")["key-id"].clone());
    }
    assert_eq!(names[0], names[1]);
    assert_eq!(names[0], known(7, &seed(1, 32)).key_id.as_str());
}

#[tokio::test]
async fn a_kek_that_vanishes_is_not_replaced_by_an_older_one() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    let old = client.encrypt(&seed(1, 32)).await.unwrap();
    token.run(&["key", "generate"]).expect(0, &[]);
    let active = daemon.status(|status| status.key_id != old.key_id).await.key_id;
    client.round_trip(&seed(2, 32)).await.unwrap();

    token.delete("k8s-kek-0002");
    let status = daemon.unwell("\"k8s-kek-0002\" (generation 2) is no longer on the token").await;
    assert_eq!(status.key_id, active, "no other name is given");
    let refusal = client.encrypt(&seed(3, 32)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal:?}");
    let back = client.decrypt(request_for(&old)).await.unwrap();
    assert!(back == seed(1, 32), "what the older one wrote is still read");

    // Generation 2 is free again, so it takes two to get above the lost one.
    token.run(&["key", "generate"]).expect(0, &[]);
    token.run(&["key", "generate"]).expect(0, &[]);
    let well = daemon.well().await;
    assert_ne!(well.key_id, active);
    client.round_trip(&seed(4, 32)).await.unwrap();
    daemon.stop().await;
}

/// What Status advises has to help.
#[tokio::test]
async fn after_a_kek_has_vanished_one_new_kek_sets_things_right() {
    let token = Token::with_kek();
    token.run(&["key", "generate"]).expect(0, &[]);
    let daemon = Daemon::start(&token).await;
    let lost = daemon.well().await.key_id;
    token.delete("k8s-kek-0002");
    daemon.unwell("make a new one with `p11-kms key generate --generation 3`").await;
    token.run(&["key", "generate", "--generation", "3"]).expect(0, &[]);
    assert_ne!(daemon.well().await.key_id, lost);
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
}

/// Whoever calls with the active one notices nothing.
#[tokio::test]
async fn an_older_kek_that_vanishes_is_told_and_comes_back_from_its_backup() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let client = daemon.client().await;
    let old = client.encrypt(&seed(1, 32)).await.unwrap();
    let new = generate(&token);
    active(&daemon, &new).await;
    let both = [token.path("tokens"), token.path("tokens.copy")];
    // Whole, and not while the daemon writes its record there.
    eventually("a backup", async || {
        let _ = fs::remove_dir_all(&both[1]);
        let copied = Command::new("cp").arg("-a").args(&both).output().unwrap();
        let same = Command::new("diff").arg("-r").args(&both).output().unwrap();
        (copied.status.success() && same.status.success()).then_some(())
    })
    .await;
    let load = Load::start(&client, 2);

    token.delete("k8s-kek-0001");
    let words = "this KEK is no longer there: what only it can decrypt is lost";
    let told = daemon.logged(words).await;
    assert_eq!((&told["level"], &told["label"]), (&"ERROR".into(), &"k8s-kek-0001".into()));
    let refusal = client.decrypt(request_for(&old)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::NotFound, "{refusal:?}");
    active(&daemon, &new).await;
    load.go_on_for(50).await;

    // At once: a caller would notice a moment without them.
    let (lost, back) = (token.path("tokens"), token.path("tokens.copy"));
    renameat2(AT_FDCWD, &lost, AT_FDCWD, &back, RenameFlags::RENAME_EXCHANGE).unwrap();
    let back = async || client.decrypt(request_for(&old)).await.ok();
    assert!(eventually("the old KEK", back).await == seed(1, 32));
    load.go_on_for(50).await;
    load.finish().await;
    active(&daemon, &new).await;
    daemon.stop().await;
}

/// A clock of the daemon's own: what this is preloaded into is told a time that is off by as many
/// seconds as the file says.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, id, now);
    const char *path = getenv("TEST_CLOCK");
    FILE *file = result == 0 && id == CLOCK_REALTIME && path ? fopen(path, "r") : NULL;
    long seconds = 0;
    if (file) {
        if (fscanf(file, "%ld", &seconds) == 1) now->tv_sec += seconds;
        fclose(file);
    }
    return result;
}
"#;

/// The year of the log's last line.
fn year(daemon: &Daemon) -> String {
    daemon.lines().last().unwrap()["timestamp"].as_str().unwrap()[..4].to_owned()
}

/// No delay and no deadline goes by it.
#[tokio::test]
async fn the_clock_may_be_set_and_no_call_notices() {
    const DELAY: Duration = Duration::from_secs(3);
    let token = Token::with_kek();
    let (source, library) = (token.path("clock.c"), token.path("clock.so"));
    fs::write(&source, CLOCK).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]);
    assert!(compiler.status().expect("a C compiler: see softhsm-test/run").success());

    let mut command = token.command();
    command.args(["--set", "keyring.activation-delay=3s", "serve"]);
    command.env("LD_PRELOAD", &library).env("TEST_CLOCK", token.path("clock"));
    let daemon = Daemon::run(&token, command);
    daemon.well().await;
    daemon.all_workers(2).await;
    let first = year(&daemon);
    let load = Load::start(&daemon.client().await, 4);
    let mut years = vec![first];
    for days in [400, -400] {
        let before = Instant::now();
        let new = generate_meanwhile(&token).await;
        found(&daemon, &new).await;
        // Replaced as a whole: it is read all the time.
        fs::write(token.path("clock.next"), (days * 86_400).to_string()).unwrap();
        fs::rename(token.path("clock.next"), token.path("clock")).unwrap();
        load.go_on_for(100).await;
        assert_eq!(daemon.well().await.healthz, "ok");
        active(&daemon, &new).await;
        assert!(before.elapsed() >= DELAY, "{days} days: active after {:?}", before.elapsed());
        years.push(year(&daemon));
    }
    load.finish().await;
    assert!(years[1] > years[0] && years[2] < years[0], "the clock was not set: {years:?}");
    assert_eq!(daemon.count("unhealthy: the last good answer"), 0);
    daemon.stop().await;
}
