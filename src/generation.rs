#![forbid(unsafe_code)]
//! The number that a KEK's label carries: `k8s-kek-0001` is generation 1.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A KEK's place in the line of KEKs of one keyring.
///
/// Generation 0 is a key whose label is the keyring's label and nothing more,
/// so that a key made with another tool can be adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(u32);

impl Generation {
    /// The generation of that number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The generation after this one; none after the last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }

    /// Reads a key's `CKA_LABEL`. `base` is the keyring's label.
    ///
    /// `None` means that the key is not of this keyring.
    #[must_use]
    pub fn of_label(label: &str, base: &str) -> Option<Self> {
        let rest = label.strip_prefix(base)?;
        if rest.is_empty() {
            return Some(Self(0));
        }
        let digits = rest.strip_prefix('-')?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        digits.parse().ok().filter(|number| *number > 0).map(Self)
    }

    /// The label that a key of this generation gets, with four digits.
    #[must_use]
    pub fn label(self, base: &str) -> String {
        match self.0 {
            0 => base.to_owned(),
            number => format!("{base}-{number:04}"),
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_of_the_keyring_are_read() {
        for (label, number) in [
            ("k8s-kek", 0),
            ("k8s-kek-0001", 1),
            ("k8s-kek-1", 1),
            ("k8s-kek-12345", 12345),
            ("k8s-kek-4294967295", u32::MAX),
        ] {
            assert_eq!(Generation::of_label(label, "k8s-kek"), Some(Generation(number)), "{label}");
        }
    }

    #[test]
    fn other_labels_are_not_of_the_keyring() {
        for label in [
            "",
            "k8s",
            "k8s-kek-",
            "k8s-kek-0",
            "k8s-kek-0000",
            "k8s-kek-+1",
            "k8s-kek-1a",
            "k8s-kek2-0001",
            "k8s-kek--1",
            "k8s-kek-4294967296",
            "other-0001",
        ] {
            assert_eq!(Generation::of_label(label, "k8s-kek"), None, "{label}");
        }
    }

    proptest! {
        #[test]
        fn every_label_we_write_reads_back(number: u32, base in "[a-z0-9-]{1,20}") {
            let generation = Generation(number);
            prop_assert_eq!(Generation::of_label(&generation.label(&base), &base), Some(generation));
        }

        #[test]
        fn no_label_panics(label: String, base: String) {
            let _ = Generation::of_label(&label, &base);
        }
    }
}
