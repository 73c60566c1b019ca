#![forbid(unsafe_code)]
//! Which KEKs are still needed: when each was last decrypted with.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::kek::{Kek, KeyId};
use super::record::{Record, Sighting};
use crate::generation::Generation;
use crate::timestamp::Timestamp;

/// The Decrypts with each KEK, since the start.
#[derive(Debug, Default)]
pub(super) struct Decrypts(Mutex<HashMap<KeyId, Seen>>);

#[derive(Debug)]
struct Seen {
    generation: Generation,
    count: u64,
    last: Timestamp,
}

impl Decrypts {
    /// A Decrypt with this KEK was good just now.
    pub(super) fn saw(&self, kek: &Kek) {
        let now = Timestamp::now();
        let mut last = self.last();
        // The usual case makes no copy of the name.
        match last.get_mut(&kek.key_id) {
            Some(seen) => (seen.count, seen.last) = (seen.count + 1, now),
            None => {
                let seen = Seen { generation: kek.generation, count: 1, last: now };
                last.insert(kek.key_id.clone(), seen);
            }
        }
    }

    /// How many there were with this KEK, and when the last one was.
    pub(super) fn of(&self, kek: &Kek) -> (u64, Option<Timestamp>) {
        self.last().get(&kek.key_id).map_or((0, None), |seen| (seen.count, Some(seen.last)))
    }

    /// Writes it into the record.
    pub(super) fn write_into(&self, record: &mut Record) {
        for (key_id, Seen { generation, last, .. }) in &*self.last() {
            let known = record.known(key_id, *generation);
            if known.last_decrypt.as_ref().is_none_or(|sighting| sighting.at < *last) {
                known.last_decrypt = Some(Sighting { at: *last, node: node() });
            }
        }
    }

    fn last(&self) -> MutexGuard<'_, HashMap<KeyId, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of this host.
fn node() -> String {
    nix::unistd::gethostname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}
