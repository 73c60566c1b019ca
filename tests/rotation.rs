//! A new KEK on running daemons: when it becomes active, and that Status and Encrypt agree on it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::client::{Client, request_for};
use common::daemon::Daemon;
use common::keks::{
    active, found, generate, generate_meanwhile, kept, line, listed, neighbour, record,
};
use common::token::Token;
use common::worker::Worker;
use common::{eventually, seed};

const DELAY: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_new_kek_waits_in_view_before_it_is_written_with() {
    let token = Token::with_kek();
    let daemon = Daemon::start_with(&token, &["keyring.activation-delay=2s"]).await;
    let client = daemon.client().await;
    let old = client.status().await.unwrap().key_id;

    // It cannot have been seen before this moment.
    let before = Instant::now();
    let new = generate(&token);
    let states = || [1, 2].map(|generation| line(&token, generation)["state"].clone());
    let listed = states();
    if client.status().await.unwrap().key_id == old {
        assert_eq!(listed, ["active", "pre-active"]);
    }
    found(&daemon, &new).await;
    let changed = eventually("another key_id", async || {
        let key_id = client.status().await.unwrap().key_id;
        (key_id != old).then_some(key_id)
    })
    .await;
    assert!(before.elapsed() >= DELAY, "after {:?}", before.elapsed());
    assert_eq!(changed, new);
    assert_eq!(client.encrypt(&seed(1, 32)).await.unwrap().key_id, new);
    assert_eq!(states(), ["deactivated", "active"]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_kek_in_view_becomes_active_by_itself_between_two_scans() {
    let token = Token::with_kek();
    // Health looks at the token too.
    let rare = ["keyring.activation-delay=2s", "keyring.scan-interval=1h", "health.interval=10m"];
    let daemon = Daemon::start_with(&token, &rare).await;
    let hasty = neighbour(&token, "hasty", &[]).await;
    let client = daemon.client().await;
    let old = client.status().await.unwrap().key_id;

    let new = generate(&token);
    active(&hasty, &new).await;
    let written = hasty.client().await.encrypt(&seed(1, 32)).await.unwrap();
    assert_eq!(client.status().await.unwrap().key_id, old, "nothing has shown it the new one");
    let before = Instant::now();
    let back = client.decrypt(request_for(&written)).await.unwrap();
    assert!(back == seed(1, 32));
    // The next scan is an hour away.
    active(&daemon, &new).await;
    assert!(before.elapsed() >= DELAY, "after {:?}", before.elapsed());
    assert_eq!(kept(&token).active.unwrap().key_id.as_str(), new);
}

/// An answer that names a key_id.
struct Answer {
    is_encrypt: bool,
    begun: Instant,
    ended: Instant,
    key_id: String,
}

/// Asks Status, Encrypt, Status without end.
struct Askers {
    stop: Arc<AtomicBool>,
    triples: Arc<Mutex<Vec<[Answer; 3]>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Askers {
    fn start(client: &Client, count: u32) -> Self {
        let (stop, triples) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<_>>>::default());
        let ask = |number| {
            let (stop, triples, client) = (stop.clone(), triples.clone(), client.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let triple = [
                        answer(&client, None).await,
                        answer(&client, Some(number)).await,
                        answer(&client, None).await,
                    ];
                    triples.lock().unwrap().push(triple);
                }
            })
        };
        let tasks = (0..count).map(ask).collect();
        Self { stop, triples, tasks }
    }

    /// Waits for so many more triples.
    async fn go_on_for(&self, count: usize) {
        let done = || self.triples.lock().unwrap().len();
        let goal = done() + count;
        eventually("more answers", async || (done() >= goal).then_some(())).await;
    }

    async fn finish(self) -> Vec<[Answer; 3]> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        std::mem::take(&mut *self.triples.lock().unwrap())
    }
}

/// An Encrypt of that seed, or a Status.
async fn answer(client: &Client, salt: Option<u32>) -> Answer {
    let begun = Instant::now();
    let key_id = match salt {
        Some(salt) => client.encrypt(&seed(salt, 32)).await.unwrap().key_id,
        None => client.status().await.unwrap().key_id,
    };
    Answer { is_encrypt: salt.is_some(), begun, ended: Instant::now(), key_id }
}

#[tokio::test]
async fn status_and_encrypt_agree_at_every_moment_of_a_rotation() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let daemon = Daemon::start_with(&token, &["keyring.activation-delay=300ms"]).await;
    let client = daemon.client().await;
    let mut line_up = vec![client.status().await.unwrap().key_id];
    // Slow enough that Encrypts are under way at every moment.
    faults.set("C_WrapKey delay=50ms").unwrap();
    let askers = Askers::start(&client, 8);
    askers.go_on_for(20).await;
    for _ in 0..4 {
        let new = generate_meanwhile(&token).await;
        active(&daemon, &new).await;
        line_up.push(new);
        askers.go_on_for(20).await;
    }
    let triples = askers.finish().await;

    let place = |answer: &Answer| {
        let known = line_up.iter().position(|key_id| *key_id == answer.key_id);
        known.unwrap_or_else(|| panic!("{} is no KEK of ours", answer.key_id))
    };
    for triple in &triples {
        let [first, encrypt, last] = triple.each_ref().map(place);
        assert!(encrypt == first || encrypt == last, "{encrypt} between {first} and {last}");
    }
    // Whatever begins after an answer with a newer one must not go back behind it.
    let mut answers: Vec<_> = triples.iter().flatten().map(|it| (place(it), it)).collect();
    answers.sort_by_key(|(_, answer)| answer.begun);
    let mut ended = answers.clone();
    ended.sort_by_key(|(_, answer)| answer.ended);
    let (mut highest, mut over) = (0, ended.iter().peekable());
    for (place, answer) in &answers {
        while let Some((before, _)) = over.next_if(|(_, it)| it.ended < answer.begun) {
            highest = highest.max(*before);
        }
        assert!(*place >= highest, "{place} after {highest}, Encrypt: {}", answer.is_encrypt);
    }
    // Was anything under way when it changed? Otherwise this has tried nothing.
    for new in 1..line_up.len() {
        let first = ended.iter().find(|(place, _)| *place >= new).unwrap().1.ended;
        let caught = |it: &Answer| it.is_encrypt && it.begun < first && first < it.ended;
        assert!(
            answers.iter().any(|(_, answer)| caught(answer)),
            "no Encrypt met activation {new}"
        );
    }
    faults.clear().unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn an_encrypt_that_was_begun_before_an_activation_ends_with_the_new_kek() {
    let token = Token::with_kek();
    let faults = token.misbehaving();
    let patient = ["token.call-timeout=30s", "server.request-timeout=30s", "health.interval=10m"];
    let daemon = Daemon::start_with(&token, &patient).await;
    let client = daemon.client().await;
    // The next one is ours: nobody else wraps now.
    faults.set("C_WrapKey times=1 hang").unwrap();
    let encrypt = tokio::spawn({
        let client = client.clone();
        async move { client.encrypt(&seed(1, 32)).await }
    });
    eventually("a hanging Encrypt", async || (faults.strikes() == 1).then_some(())).await;
    let new = generate_meanwhile(&token).await;
    active(&daemon, &new).await;
    assert!(!encrypt.is_finished(), "nothing was under way");
    faults.clear().unwrap();
    let encrypted = encrypt.await.unwrap().unwrap();
    assert_eq!(encrypted.key_id, new, "Status had named the new one already");
    assert!(client.decrypt(request_for(&encrypted)).await.unwrap() == seed(1, 32));
    daemon.stop().await;
}

#[tokio::test]
async fn a_node_with_an_empty_disk_takes_what_the_others_write_with() {
    let token = Token::with_kek();
    let patient = ["keyring.activation-delay=1h"];
    let daemon = Daemon::start_with(&token, &patient).await;
    let old = daemon.well().await.key_id;
    let new = generate(&token);
    found(&daemon, &new).await;

    let replaced = neighbour(&token, "replaced", &patient).await;
    assert_eq!(replaced.well().await.key_id, old, "the newer one waits here too");
    found(&replaced, &new).await;
    assert_eq!(replaced.well().await.key_id, old);
    assert_eq!(daemon.well().await.key_id, old);

    // Where the token keeps no record, nobody can tell which one was active.
    let keeps_none = [patient[0], "token.data-objects=false"];
    let alone = neighbour(&token, "alone", &keeps_none).await;
    assert_eq!(alone.well().await.key_id, new);
}

#[tokio::test]
async fn three_nodes_leave_one_record_on_the_token_that_all_agree_with() {
    let token = Token::with_kek();
    // Together, so that all three write the record at the same moment.
    let set = ["keyring.activation-delay=1s", "keyring.scan-interval=1s"];
    let daemons = [
        Daemon::start_with(&token, &set).await,
        neighbour(&token, "two", &set).await,
        neighbour(&token, "three", &set).await,
    ];
    for generation in 2..=4 {
        let new = generate(&token);
        for daemon in &daemons {
            active(daemon, &new).await;
        }
        eventually("one record", async || {
            let notes = Worker::start(&token, &[]).notes();
            let [note] = notes.as_slice() else { return None };
            let on_token = record(note);
            let active = on_token.active.clone()?;
            let is_new =
                (active.key_id.as_str(), active.generation.number()) == (new.as_str(), generation);
            // Each node knows the moment of its own activation; the record has the first.
            is_new.then_some(())
        })
        .await;
    }
    for daemon in daemons {
        daemon.stop().await;
    }
    assert_eq!(token.data_objects(), 1);
    assert_eq!(listed(&token).len(), 4);
    let on_token = record(&Worker::start(&token, &[]).notes()[0]);
    assert_eq!(on_token.keks.len(), 4);
    assert!(on_token.keks.values().all(|known| known.created.is_some()), "{on_token:?}");
}
