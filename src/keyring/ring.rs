#![forbid(unsafe_code)]
//! The keyring as one look at the token shows it: pure decisions, no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kek::{Kek, KeyId, Policy, Refused};
use crate::token::protocol::FoundKey;

/// All usable KEKs, the one that is written with, and those that are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    keks: BTreeMap<KeyId, Arc<Kek>>,
    active: Option<Arc<Kek>>,
    refused: Vec<Refused>,
    vanished: Option<Arc<Kek>>,
}

impl Ring {
    /// What follows from a look at the token, coming from `self`.
    #[must_use]
    pub fn seen(&self, found: Vec<FoundKey>, policy: Policy) -> Self {
        let mut keks = BTreeMap::new();
        let mut refused = Vec::new();
        for key in found {
            match policy.judge(key) {
                Ok(kek) => {
                    keks.insert(kek.key_id.clone(), Arc::new(kek));
                }
                Err(bad) => refused.push(bad),
            }
        }
        refused.sort_by(|a, b| a.label.cmp(&b.label));
        // Two nodes may have made one generation each at the same moment. The
        // lower fingerprint is active, so that all nodes agree.
        let best = keks
            .values()
            .max_by(|a, b| {
                let by_generation = a.generation.cmp(&b.generation);
                by_generation.then_with(|| b.fingerprint.cmp(&a.fingerprint))
            })
            .cloned();
        // Never back: what was active once is not replaced by an older one.
        let vanished = self
            .active
            .iter()
            .chain(&self.vanished)
            .find(|last| {
                !keks.contains_key(&last.key_id)
                    && best.as_ref().is_none_or(|best| best.generation <= last.generation)
            })
            .cloned();
        let active = if vanished.is_some() { None } else { best };
        Self { keks, active, refused, vanished }
    }

    /// The KEK that is written with.
    #[must_use]
    pub const fn active(&self) -> Option<&Arc<Kek>> {
        self.active.as_ref()
    }

    /// The KEK of that name.
    #[must_use]
    pub fn get(&self, key_id: &str) -> Option<&Arc<Kek>> {
        self.keks.values().find(|kek| kek.key_id.as_str() == key_id)
    }

    /// All usable KEKs, oldest first.
    #[must_use]
    pub fn keks(&self) -> Vec<&Arc<Kek>> {
        let mut keks: Vec<_> = self.keks.values().collect();
        keks.sort_by_key(|kek| (kek.generation, kek.fingerprint));
        keks
    }

    /// The keys that are not used, and why.
    #[must_use]
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// Why there is no active KEK, and what to do.
    #[must_use]
    pub fn why_none(&self, label: &str) -> String {
        let is_refused = |kek: &Arc<Kek>| self.refused.iter().find(|bad| bad.label == kek.label);
        if let Some(bad) = self.vanished.as_ref().and_then(is_refused) {
            return bad.to_string();
        }
        if let Some(kek) = &self.vanished {
            let above = kek.generation.next().map_or_else(String::new, |next| next.to_string());
            return format!(
                "the active KEK \"{}\" (generation {}) is no longer on the token. Nothing is written \
                 under an older one: bring it back, or make a new one with \
                 `p11-kms key generate --generation {above}`",
                kek.label, kek.generation
            );
        }
        match self.refused.last() {
            Some(bad) => bad.to_string(),
            None => format!(
                "no KEK with the label \"{label}\" is on the token. Make one with `p11-kms key generate`"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kek::tests::{POLICY, good_key};
    use super::*;

    fn ring(keys: Vec<FoundKey>) -> Ring {
        Ring::default().seen(keys, POLICY)
    }

    fn active_generation(ring: &Ring) -> Option<u32> {
        ring.active().map(|kek| kek.generation.number())
    }

    #[test]
    fn the_highest_generation_is_active_and_older_ones_stay() {
        let ring = ring(vec![good_key(2, 2), good_key(10, 3), good_key(0, 1)]);
        assert_eq!(active_generation(&ring), Some(10));
        assert_eq!(ring.keks().len(), 3);
    }

    #[test]
    fn of_two_with_one_generation_the_lower_fingerprint_is_active_on_every_node() {
        for keys in [[good_key(1, 5), good_key(1, 4)], [good_key(1, 4), good_key(1, 5)]] {
            let ring = ring(keys.to_vec());
            assert_eq!(ring.active().unwrap().fingerprint.as_bytes(), &[4; 40]);
            assert_eq!(ring.keks().len(), 2, "both decrypt");
        }
    }

    #[test]
    fn a_clone_of_a_kek_is_the_same_kek() {
        let ring = ring(vec![good_key(1, 5), good_key(1, 5)]);
        assert_eq!(ring.keks().len(), 1);
    }

    #[test]
    fn a_vanished_active_kek_is_not_replaced_by_an_older_one() {
        let before = ring(vec![good_key(1, 1), good_key(2, 2)]);
        let after = before.seen(vec![good_key(1, 1)], POLICY);
        assert_eq!(active_generation(&after), None);
        assert!(after.why_none("k8s-kek").contains("k8s-kek-0002"));
        assert!(after.get(before.keks()[0].key_id.as_str()).is_some(), "the old one decrypts");

        let still = after.seen(vec![good_key(1, 1)], POLICY);
        assert_eq!(active_generation(&still), None, "not after a second look either");

        let back = still.seen(vec![good_key(1, 1), good_key(2, 2)], POLICY);
        assert_eq!(active_generation(&back), Some(2));

        let newer = still.seen(vec![good_key(1, 1), good_key(3, 3)], POLICY);
        assert_eq!(active_generation(&newer), Some(3));
    }

    #[test]
    fn another_key_under_the_active_label_is_not_taken_for_it() {
        let before = ring(vec![good_key(1, 1)]);
        let after = before.seen(vec![good_key(1, 9)], POLICY);
        assert_eq!(active_generation(&after), None);
    }

    #[test]
    fn an_active_kek_that_is_refused_now_is_not_said_to_be_gone() {
        let before = ring(vec![good_key(1, 1)]);
        let mut bad = good_key(1, 1);
        bad.attributes.extractable = Some(true);
        let why = before.seen(vec![bad], POLICY).why_none("k8s-kek");
        assert!(why.contains("CKA_EXTRACTABLE"), "{why}");
    }

    #[test]
    fn a_refused_key_says_why_there_is_none() {
        let mut bad = good_key(1, 1);
        bad.attributes.extractable = Some(true);
        let ring = ring(vec![bad]);
        assert!(ring.why_none("k8s-kek").contains("CKA_EXTRACTABLE"));
        assert!(self::ring(vec![]).why_none("k8s-kek").contains("p11-kms key generate"));
    }
}
