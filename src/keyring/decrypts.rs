#![forbid(unsafe_code)]
//! Which KEKs are still needed: when each was last decrypted with.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::kek::{Kek, KeyId};
use super::record::{Record, Sighting};
use crate::generation::Generation;
use crate::timestamp::Timestamp;

/// The last Decrypt with each KEK, since the start.
#[derive(Debug, Default)]
pub(super) struct Decrypts(Mutex<HashMap<KeyId, (Generation, Timestamp)>>);

impl Decrypts {
    /// A Decrypt with this KEK was good just now.
    pub(super) fn saw(&self, kek: &Kek) {
        let now = Timestamp::now();
        let mut last = self.last();
        // The usual case makes no copy of the name.
        match last.get_mut(&kek.key_id) {
            Some((_, at)) => *at = now,
            None => drop(last.insert(kek.key_id.clone(), (kek.generation, now))),
        }
    }

    /// Writes it into the record.
    pub(super) fn write_into(&self, record: &mut Record) {
        for (key_id, (generation, at)) in &*self.last() {
            let known = record.known(key_id, *generation);
            if known.last_decrypt.as_ref().is_none_or(|last| last.at < *at) {
                known.last_decrypt = Some(Sighting { at: *at, node: node() });
            }
        }
    }

    fn last(&self) -> MutexGuard<'_, HashMap<KeyId, (Generation, Timestamp)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of this host.
fn node() -> String {
    nix::unistd::gethostname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}
