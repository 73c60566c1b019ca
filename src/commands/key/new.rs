#![forbid(unsafe_code)]
//! What a KEK that is new to the keyring needs, however it came: a number, and to be seen.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::line::Line;
use crate::commands::token_access::Access;
use crate::commands::{Exit, Failed};
use crate::generation::Generation;
use crate::keyring::{self, Epoch, Kek, KeyId};
use crate::timestamp::Timestamp;
use crate::token::protocol::FoundKey;

/// How long a token may take to show a new KEK.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The number of the next KEK: the wanted one, if it comes after all that are there.
pub(super) fn next_generation(
    access: &Access,
    base: &str,
    wanted: Option<Generation>,
) -> Result<Generation, Failed> {
    let ring = access.keyring.ring();
    if let Some(trouble) = ring.trouble().filter(|_| ring.active().is_none()) {
        return Err(Failed::new(Exit::Unreachable, format!("no KEK is made: {trouble}")));
    }
    let usable = ring.keks().iter().map(|kek| kek.generation);
    // A refused key occupies its number too: its label is taken.
    let refused = ring.refused().iter().map(|bad| bad.generation);
    // And so does one that is gone: the daemons take only what comes after it.
    let gone = ring.record().keks.values().map(|known| known.generation);
    let active = ring.record().active.iter().map(|active| active.highest_generation);
    let last = usable.chain(refused).chain(gone).chain(active).max();
    let next = match (wanted, last) {
        (Some(wanted), Some(last)) if wanted <= last => {
            let message = format!("--generation {wanted}: generation {last} was there already");
            return Err(Failed::new(Exit::Usage, message));
        }
        (Some(wanted), _) => Some(wanted),
        (None, None) => Some(Generation::new(1)),
        (None, Some(last)) => last.next(),
    };
    next.ok_or_else(|| {
        let message = format!("no generation comes after the last KEK of \"{base}\"");
        Failed::new(Exit::Unreachable, message)
    })
}

/// Tells all nodes when it came, and whether it was brought from elsewhere.
pub(super) async fn introduce(
    access: &Access,
    made: &FoundKey,
    imported: bool,
) -> Result<(), keyring::Error> {
    let Ok(fingerprint) = &made.fingerprint else { return Ok(()) };
    let key_id = KeyId::new(made.generation, Epoch::FIRST, fingerprint);
    let now = Timestamp::now();
    let told = access.keyring.note(|record| {
        let known = record.known(&key_id, made.generation);
        known.created.get_or_insert(now);
        known.imported |= imported;
    });
    told.await
}

/// Waits until the token shows a KEK that was just made: one of several nodes may take a
/// moment.
pub(super) async fn shown(access: &Access, made: &FoundKey) -> Result<Line, Failed> {
    let end = Instant::now() + SHOWN_WITHIN;
    loop {
        let looked = access.keyring.look().await;
        let ring = access.keyring.ring();
        if let Some(bad) = ring.refused().iter().find(|bad| bad.label == made.label) {
            // The token changed an attribute that we asked for.
            return Err(Failed::new(Exit::Unreachable, bad));
        }
        let keks = ring.keks().iter();
        // The same key may be there under another label as well.
        let is_it = |kek: &&Arc<Kek>| {
            made.fingerprint.as_ref() == Ok(&kek.fingerprint) && kek.label == made.label
        };
        let mut same = keks.filter(is_it);
        if let Some(kek) = same.next() {
            return Ok(Line { left_out: made.left_out.clone(), ..Line::of_kek(&ring, kek) });
        }
        if Instant::now() >= end {
            let why = looked.err().map_or_else(String::new, |error| format!(" ({error})"));
            let message = format!(
                "KEK \"{}\" was made, but the token does not show it yet{why}. Look with \
                 `p11-kms key list` before you make another",
                made.label
            );
            return Err(Failed::new(Exit::Unreachable, message));
        }
        sleep(LOOK_AGAIN).await;
    }
}
