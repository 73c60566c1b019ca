#![forbid(unsafe_code)]
//! `key rotate`: the next generation, when it is time.

use std::time::Duration;

use serde::Serialize;

use super::generate;
use super::line::Line;
use super::trail::Trail;
use crate::cli::Cli;
use crate::commands::Exit;
use crate::commands::Failed;
use crate::commands::age::{age, in_words};
use crate::commands::token_access::Access;
use crate::config::Config;
use crate::keyring::{Kek, Ring, State};
use crate::timestamp::Timestamp;

/// What `key rotate` did.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Outcome {
    rotated: bool,
    reason: String,
    /// The KEK that it is about: the new one, or the one that there is no need to replace.
    kek: Line,
}

/// Every node may run this at the same moment. Whoever comes second finds a KEK that waits; two
/// who did not see each other have made one generation twice, and all nodes choose the same.
pub(super) async fn rotate(
    cli: &Cli,
    config: &Config,
    access: &Access,
    trail: &Trail,
    older_than: Option<Duration>,
) -> Result<(), Failed> {
    access.open().await?;
    let ring = access.keyring.ring();
    let Some(active) = ring.active() else {
        // A new generation could be the remedy, but that is for a person to decide.
        return Err(Failed::new(Exit::Unreachable, ring.why_none(&config.keyring.label)));
    };
    let outcome = match reason_to_wait(&ring, &active.kek, older_than) {
        Some((kek, reason)) => Outcome { rotated: false, reason, kek: Line::of_kek(&ring, kek) },
        None => {
            let kek = generate::make(config, access, trail, None).await?;
            let reason = format!(
                "made KEK \"{}\" (generation {}). Each daemon writes with it when it has been in \
                 view for {}",
                kek.label,
                kek.generation,
                humantime::format_duration(config.keyring.activation_delay)
            );
            Outcome { rotated: true, reason, kek }
        }
    };
    cli.print(format!("{}{}", outcome.reason, outcome.kek.note()), &outcome)
}

/// Why no KEK is made now, and which one is enough.
fn reason_to_wait<'a>(
    ring: &'a Ring,
    active: &'a Kek,
    older_than: Option<Duration>,
) -> Option<(&'a Kek, String)> {
    let mut waiting = ring.keks().iter().filter(|kek| ring.state(kek) == State::PreActive);
    if let Some(kek) = waiting.next_back() {
        let reason = format!(
            "KEK \"{}\" (generation {}) is waiting to become active: nothing was made",
            kek.label, kek.generation
        );
        return Some((kek, reason));
    }
    let older_than = older_than?;
    let created = ring.record().keks.get(&active.key_id).and_then(|known| known.created);
    let created = created.unwrap_or_else(Timestamp::now);
    (Timestamp::now().since(created) <= older_than).then(|| {
        let reason = format!(
            "KEK \"{}\" (generation {}) is {} old, not more than {}: nothing was made",
            active.label,
            active.generation,
            age(created),
            in_words(older_than)
        );
        (active, reason)
    })
}
