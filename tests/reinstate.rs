//! When the active KEK is lost, and when an older one is put back on purpose.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::collections::BTreeSet;

use common::client::request_for;
use common::daemon::Daemon;
use common::keks::{active, generate, kept, line, neighbour};
use common::seed;
use common::token::Token;
use nix::sys::signal::Signal;
use p11_kms::proto::EncryptResponse;
use tonic::Code;

const PATIENT: &str = "keyring.activation-delay=1h";

/// Puts it into the config, or another one in its place.
fn reinstate(token: &Token, wanted: &str) {
    remove(token);
    token.change_config("[keyring]\n", &format!("[keyring]\nreinstate = {wanted}\n"));
}

fn remove(token: &Token) {
    let text = std::fs::read_to_string(token.config()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("reinstate = "));
    token.write_config(&lines.map(|line| format!("{line}\n")).collect::<String>());
}

/// All of these come back.
async fn all_decrypt(daemon: &Daemon, written: &[EncryptResponse]) {
    let client = daemon.client().await;
    for (salt, encrypted) in (0..).zip(written) {
        let back = client.decrypt(request_for(encrypted)).await.unwrap();
        assert!(back == seed(salt, 32), "{salt}");
    }
}

#[tokio::test]
async fn a_lost_kek_is_remembered_over_a_restart_and_the_next_one_heals_at_once() {
    let token = Token::with_kek();
    let mut daemon = Daemon::start(&token).await;
    let old = daemon.client().await.encrypt(&seed(0, 32)).await.unwrap();
    let lost = generate(&token);
    active(&daemon, &lost).await;
    token.delete("k8s-kek-0002");

    for is_restarted in [false, true] {
        if is_restarted {
            daemon.stop().await;
            daemon = Daemon::spawn(&token, &[PATIENT]);
        }
        let status =
            daemon.unwell("\"k8s-kek-0002\" (generation 2) is no longer on the token").await;
        assert!(status.healthz.contains("p11-kms key generate"), "{}", status.healthz);
        assert_eq!(status.key_id, lost);
        let client = daemon.client().await;
        let refusal = client.encrypt(&seed(1, 32)).await.unwrap_err();
        assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal:?}");
        assert!(refusal.message().contains("no longer on the token"), "{refusal:?}");
        all_decrypt(&daemon, std::slice::from_ref(&old)).await;
    }
    let listed = token.run(&["key", "list"]);
    listed.expect(0, &[]);
    assert!(listed.stdout.contains("NO KEK IS ACTIVE"), "{}", listed.stdout);
    assert_eq!(line(&token, 2)["state"], "missing");
    assert_eq!(line(&token, 1)["state"], "deactivated");

    // Its delay is an hour, but there is nothing to write with meanwhile.
    let new = generate(&token);
    active(&daemon, &new).await;
    assert_eq!(line(&token, 3)["state"], "active");
    daemon.client().await.round_trip(&seed(2, 32)).await.unwrap();
    all_decrypt(&daemon, &[old]).await;
    daemon.stop().await;
}

#[tokio::test]
async fn an_older_kek_is_put_back_under_a_new_name_and_stays_so() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    // It has no such line in its config, and a long delay.
    let other = neighbour(&token, "other", &[PATIENT]).await;
    let client = daemon.client().await;
    let mut written = vec![client.encrypt(&seed(0, 32)).await.unwrap()];
    let second = generate(&token);
    active(&daemon, &second).await;
    written.push(client.encrypt(&seed(1, 32)).await.unwrap());

    reinstate(&token, "{ generation = 1, epoch = 1 }");
    daemon.signal(Signal::SIGHUP);
    let put_back =
        daemon.status(|status| status.healthz == "ok" && status.key_id != second).await.key_id;
    written.push(client.encrypt(&seed(2, 32)).await.unwrap());
    let names: BTreeSet<&str> = written.iter().map(|it| it.key_id.as_str()).collect();
    assert_eq!(names.len(), 3, "each has a name of its own");
    assert_eq!(written[2].key_id, put_back);
    all_decrypt(&daemon, &written).await;
    active(&other, &put_back).await;
    all_decrypt(&other, &written).await;
    let first = line(&token, 1);
    assert_eq!((&first["state"], &first["epoch"]), (&"active".into(), &1.into()));
    assert_eq!(first["key-id"], put_back.as_str());
    assert_eq!(line(&token, 2)["state"], "deactivated");

    // It is done, and needs no config any more.
    remove(&token);
    daemon.stop().await;
    let daemon = Daemon::start(&token).await;
    assert_eq!(daemon.well().await.key_id, put_back);
    all_decrypt(&daemon, &written).await;

    // An epoch is used once.
    for (wanted, said) in [
        ("{ generation = 2, epoch = 1 }", "epoch 1 was used for generation 1"),
        ("{ generation = 7, epoch = 2 }", "no usable KEK of generation 7 is on the token"),
    ] {
        reinstate(&token, wanted);
        daemon.signal(Signal::SIGHUP);
        let logged = daemon.logged(said).await;
        assert_eq!(logged["level"], "ERROR");
        assert!(logged["message"].as_str().unwrap().starts_with("keyring.reinstate: "));
        assert_eq!(daemon.well().await.key_id, put_back, "{wanted}");
        assert_eq!(daemon.client().await.encrypt(&seed(3, 32)).await.unwrap().key_id, put_back);
    }
    let record = kept(&token);
    assert_eq!(record.active.unwrap().key_id.as_str(), put_back);
    assert_eq!(record.reinstated.unwrap().generation.number(), 1);

    // What comes after the highest that ever was goes on as usual.
    let third = generate(&token);
    active(&daemon, &third).await;
    assert_eq!(line(&token, 3)["state"], "active");
    assert_eq!(line(&token, 1)["put-back-key-id"], put_back.as_str(), "objects may need it yet");
    written.push(daemon.client().await.encrypt(&seed(3, 32)).await.unwrap());
    all_decrypt(&daemon, &written).await;
    all_decrypt(&other, &written).await;
    daemon.stop().await;
}

/// The other remedy of a lost KEK.
#[tokio::test]
async fn an_older_kek_is_put_back_where_the_active_one_was_lost() {
    let token = Token::with_kek();
    let daemon = Daemon::start(&token).await;
    let first = daemon.well().await.key_id;
    let lost = generate(&token);
    active(&daemon, &lost).await;
    token.delete("k8s-kek-0002");
    daemon.unwell("keyring.reinstate").await;
    reinstate(&token, "{ generation = 1, epoch = 1 }");
    daemon.signal(Signal::SIGHUP);
    let now = daemon.well().await.key_id;
    assert!(now != first && now != lost);
    daemon.client().await.round_trip(&seed(1, 32)).await.unwrap();
    assert_eq!(line(&token, 2)["state"], "missing");
    daemon.stop().await;
}
