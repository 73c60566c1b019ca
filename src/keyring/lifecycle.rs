#![forbid(unsafe_code)]
//! Which KEK is written with, and when that changes: pure decisions, no I/O, and no clock
//! but the one that is handed in.
//!
//! States in the words of NIST SP 800-57 part 1, section 7: *pre-active* (seen, waiting),
//! *active* (one), *deactivated* (decrypts what is there), *destroyed*.
//!
//! A node only ever goes forward: to a newer generation, or to an older one that the operator
//! put back, which gets a new name for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::kek::{Epoch, Kek, KeyId};
use super::record::{Active, Record, Reinstated};
use crate::generation::Generation;
use crate::timestamp::Timestamp;

/// What the operator decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long a new KEK must be in view before it is written with.
    pub delay: Duration,
    /// The older KEK that is to be active again.
    pub reinstate: Option<Reinstated>,
}

/// What follows from a look at the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to keep, before anybody is told of what is active now.
    pub record: Record,
    /// When a KEK that is waiting now is due, if no other look comes before.
    pub due: Option<Instant>,
    /// What is wrong with [`Rules::reinstate`].
    pub trouble: Option<String>,
}

/// Remembers since when each KEK has been in view without a break.
#[derive(Debug, Default)]
pub struct Lifecycle {
    seen: HashMap<KeyId, Instant>,
    /// Was the active KEK not there in the last look?
    missed: bool,
}

/// Where a KEK stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is on the token and will be written with.
    PreActive,
    /// It is written with.
    Active,
    /// It only decrypts.
    Deactivated,
}

impl State {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PreActive => "pre-active",
            Self::Active => "active",
            Self::Deactivated => "deactivated",
        }
    }

    /// Where a KEK stands that is on the token. `record` says what is active.
    #[must_use]
    pub fn of(kek: &Kek, record: &Record) -> Self {
        match &record.active {
            Some(active) if is_it(kek, active) => Self::Active,
            Some(active) if follows(kek, active) => Self::PreActive,
            _ => Self::Deactivated,
        }
    }
}

impl Lifecycle {
    /// Decides what is active, out of the KEKs on the token, of what was before, and of what the
    /// token's record tells of other nodes.
    ///
    /// `now` is by a clock that cannot be set; `time` is only written down.
    pub fn decide(
        &mut self,
        keks: &[Arc<Kek>],
        before: &Record,
        noted: &Record,
        rules: Rules,
        (now, time): (Instant, Timestamp),
    ) -> Decision {
        self.seen.retain(|key_id, _| keks.iter().any(|kek| kek.key_id == *key_id));
        for kek in keks {
            self.seen.entry(kek.key_id.clone()).or_insert(now);
        }
        let (put_back, trouble) = match wanted(keks, before, rules.reinstate) {
            Ok(put_back) => (put_back, None),
            Err(trouble) => (None, Some(trouble)),
        };
        let mut record = before.clone();
        let mut due = None;
        if let Some((kek, reinstated)) = put_back {
            // It is put back over whatever was active on any node. If nothing is known of that,
            // any of these may have been.
            let known = [before, noted].into_iter().filter_map(|it| it.active.as_ref());
            let known = known.map(|active| active.highest_generation).max();
            let highest = known.or_else(|| keks.iter().map(|kek| kek.generation).max());
            let highest = highest.map_or(kek.generation, |highest| highest.max(kek.generation));
            record.active = Some(activate(kek, reinstated.epoch, highest, time));
            record.reinstated = Some(reinstated);
        } else {
            let (next, waiting) = self.next(keks, before, rules.delay, now);
            due = waiting;
            if let Some(kek) = next {
                record.active = Some(activate(kek, Epoch::FIRST, kek.generation, time));
            }
        }
        Decision { record, due, trouble }
    }

    /// The newest KEK that may be active now, if it is not already, and when the next one is due.
    fn next<'a>(
        &mut self,
        keks: &'a [Arc<Kek>],
        before: &Record,
        delay: Duration,
        now: Instant,
    ) -> (Option<&'a Kek>, Option<Instant>) {
        let current = before.active.as_ref();
        let is_there = current.is_some_and(|active| keks.iter().any(|kek| is_it(kek, active)));
        let is_missed = current.is_some() && !is_there;
        let was_missed = std::mem::replace(&mut self.missed, is_missed);
        // With nothing to write with there is nothing to wait for. But a token may fail to show a
        // key once.
        let hurries = current.is_none() || (is_missed && was_missed);
        let delay = if hurries { Duration::ZERO } else { delay };
        let newer = keks.iter().filter(|kek| match current {
            // Another key under the label of one that has vanished is not taken for it.
            Some(active) => {
                follows(kek, active) && (is_there || kek.generation > active.highest_generation)
            }
            None => true,
        });
        let mut next: Option<&Kek> = None;
        let mut due: Option<Instant> = None;
        for kek in newer {
            let seen = self.seen.get(&kek.key_id).copied().unwrap_or(now);
            let ready = seen.checked_add(delay);
            if ready.is_none_or(|ready| ready > now) {
                due = due.into_iter().chain(ready).min();
            } else if next.is_none_or(|next| is_after(kek, next)) {
                next = Some(kek);
            }
        }
        (next, due)
    }
}

/// Our record, with what the token's says.
///
/// At its start a node takes over how far the others have come: it may have lost its disk. After
/// that it counts for itself, and follows the others only to a KEK that was put back.
#[must_use]
pub(super) fn take_over(own: &Record, noted: &Record, starting: bool) -> Record {
    let mut record = own.clone().join_keks(noted.keks.clone());
    record.reinstated = own.reinstated.max(noted.reinstated);
    let theirs = noted.active.as_ref().filter(|theirs| match &own.active {
        None => true,
        Some(ours) => {
            let put_back = theirs.epoch != Epoch::FIRST;
            // What this node has been through it does not return to.
            let is_over = put_back && theirs.epoch <= own.epoch() && theirs.key_id != ours.key_id;
            theirs.rank() > ours.rank() && (starting || put_back) && !is_over
        }
    });
    if let Some(theirs) = theirs {
        record.active = Some(theirs.clone());
    }
    record
}

/// The KEK that is to be put back; none if that is not wanted, or was done already.
fn wanted<'a>(
    keks: &'a [Arc<Kek>],
    before: &Record,
    reinstate: Option<Reinstated>,
) -> Result<Option<(&'a Kek, Reinstated)>, String> {
    let Some(wanted) = reinstate else { return Ok(None) };
    let Reinstated { generation, epoch } = wanted;
    if let Some(last) = before.reinstated {
        if last == wanted {
            return Ok(None);
        }
        if last.epoch == epoch {
            return Err(format!(
                "keyring.reinstate: epoch {epoch} was used for generation {}: to put generation \
                 {generation} back, use a higher epoch",
                last.generation
            ));
        }
        if last.epoch > epoch {
            return Err(format!(
                "keyring.reinstate: epoch {epoch} is long over, the last one was {}: remove it from \
                 the config",
                last.epoch
            ));
        }
    }
    let same = keks.iter().filter(|kek| kek.generation == generation);
    match same.min_by_key(|kek| kek.fingerprint) {
        Some(kek) => Ok(Some((kek, wanted))),
        None => Err(format!(
            "keyring.reinstate: no usable KEK of generation {generation} is on the token"
        )),
    }
}

fn activate(kek: &Kek, epoch: Epoch, highest_generation: Generation, since: Timestamp) -> Active {
    Active {
        generation: kek.generation,
        epoch,
        highest_generation,
        key_id: KeyId::new(kek.generation, epoch, &kek.fingerprint),
        fingerprint: kek.fingerprint,
        since,
    }
}

/// Is it the KEK that was written with?
pub(super) fn is_it(kek: &Kek, active: &Active) -> bool {
    (kek.generation, kek.fingerprint) == (active.generation, active.fingerprint)
}

/// May it become active some day, after that one?
fn follows(kek: &Kek, active: &Active) -> bool {
    // Nodes that make a generation at the same moment see two of it, in whichever order.
    let settles = active.epoch == Epoch::FIRST
        && kek.generation == active.generation
        && kek.fingerprint < active.fingerprint;
    kek.generation > active.highest_generation || settles
}

/// Does it come later in the line? All nodes must answer this alike.
fn is_after(one: &Kek, other: &Kek) -> bool {
    one.generation > other.generation
        || (one.generation == other.generation && one.fingerprint < other.fingerprint)
}

#[cfg(test)]
mod tests;
