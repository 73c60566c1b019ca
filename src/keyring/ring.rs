#![forbid(unsafe_code)]
//! The keyring as one look at the token shows it.

use std::collections::HashMap;
use std::sync::Arc;

use super::kek::{Epoch, Kek, KeyId, Policy, Refused};
use super::lifecycle::{State, is_it};
use super::record::{self, Record};
use crate::token::protocol::FoundKey;

/// The KEK that is written with, and the name that it has by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// The KEK.
    pub kek: Arc<Kek>,
    /// What Status and Encrypt name it.
    pub key_id: KeyId,
}

/// The keys of one look: those that may be used, oldest first, and the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sorted {
    /// May be used.
    pub keks: Vec<Arc<Kek>>,
    /// Must not be used, and why.
    pub refused: Vec<Refused>,
}

/// All usable KEKs, the one that is written with, and those that are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    sorted: Sorted,
    /// By every name that it may have been written under.
    names: Arc<HashMap<String, Arc<Kek>>>,
    active: Option<Arc<Active>>,
    record: Record,
    trouble: Option<String>,
}

impl Sorted {
    /// Judges every key.
    #[must_use]
    pub fn new(found: Vec<FoundKey>, policy: Policy, record: &Record) -> Self {
        let mut sorted = Self::default();
        for key in found {
            match policy.judge(key, record) {
                Ok(kek) => sorted.keks.push(Arc::new(kek)),
                Err(bad) => sorted.refused.push(bad),
            }
        }
        sorted.keks.sort_by_key(|kek| (kek.generation, kek.fingerprint));
        // Clones on one token are one KEK.
        sorted.keks.dedup_by(|a, b| a.key_id == b.key_id);
        sorted.refused.sort_by(|a, b| a.label.cmp(&b.label));
        sorted
    }
}

impl Ring {
    /// What a look showed, with what was decided upon it.
    #[must_use]
    pub fn new(sorted: Sorted, record: Record, trouble: Option<String>, before: &Self) -> Self {
        let names = if sorted.keks == before.sorted.keks {
            before.names.clone()
        } else {
            let name = |kek: &Arc<Kek>, epoch| {
                let key_id = KeyId::new(kek.generation, epoch, &kek.fingerprint);
                (key_id.as_str().to_owned(), kek.clone())
            };
            let names = sorted.keks.iter().map(|kek| Epoch::all().map(move |it| name(kek, it)));
            Arc::new(names.flatten().collect())
        };
        let active = record.active.as_ref().and_then(|active| {
            let kek = sorted.keks.iter().find(|kek| is_it(kek, active))?;
            Some(Arc::new(Active { kek: kek.clone(), key_id: active.key_id.clone() }))
        });
        Self { sorted, names, active, record, trouble }
    }

    /// The KEK that is written with.
    #[must_use]
    pub const fn active(&self) -> Option<&Arc<Active>> {
        self.active.as_ref()
    }

    /// The KEK of that name, in whichever epoch.
    #[must_use]
    pub fn get(&self, key_id: &str) -> Option<&Arc<Kek>> {
        self.names.get(key_id)
    }

    /// All usable KEKs, oldest first.
    #[must_use]
    pub fn keks(&self) -> &[Arc<Kek>] {
        &self.sorted.keks
    }

    /// The keys that are not used, and why.
    #[must_use]
    pub fn refused(&self) -> &[Refused] {
        &self.sorted.refused
    }

    /// What is known beside what the token shows.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Why what should follow from the look does not.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Where one of its KEKs stands.
    #[must_use]
    pub fn state(&self, kek: &Kek) -> State {
        State::of(kek, &self.record)
    }

    /// Is it for trouble with the record that nothing is known to have ever been active?
    #[must_use]
    pub const fn has_unknown_past(&self) -> bool {
        self.record.active.is_none() && self.trouble.is_some()
    }

    /// Why there is no active KEK, and what to do.
    #[must_use]
    pub fn why_none(&self, label: &str) -> String {
        if let Some(active) = &self.record.active {
            return self.why_vanished(active, label);
        }
        if let Some(trouble) = &self.trouble {
            return trouble.clone();
        }
        match self.refused().last() {
            Some(bad) => bad.to_string(),
            None => format!(
                "no KEK with the label \"{label}\" is on the token. If there has been one, this is another \
                 token, or it was deleted: bring it back. Otherwise make one with `p11-kms key generate`"
            ),
        }
    }

    fn why_vanished(&self, active: &record::Active, label: &str) -> String {
        let generation = active.generation;
        if let Some(bad) = self.refused().iter().find(|bad| bad.generation == generation) {
            return bad.to_string();
        }
        let above =
            active.highest_generation.next().map_or_else(String::new, |next| next.to_string());
        format!(
            "the active KEK \"{}\" (generation {generation}) is no longer on the token. Nothing is \
             written under an older one: bring it back, make a new one with `p11-kms key generate \
             --generation {above}`, or put an older one back with keyring.reinstate",
            generation.label(label)
        )
    }
}

#[cfg(test)]
mod tests;
