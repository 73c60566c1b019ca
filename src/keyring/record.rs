#![forbid(unsafe_code)]
//! What must outlive the daemon: how far the keyring has come, and what is known of its
//! KEKs. It lies in the state directory and, where the token stores data objects, there too.
//!
//! ```toml
//! sha256 = "…"                   # of all that follows this line
//! version = 1
//! label = "k8s-kek"
//!
//! [active]
//! generation = 2
//! epoch = 0
//! highest-generation = 2         # the highest that was ever active
//! key-id = "…"
//! fingerprint = "…"
//! since = "2030-12-31T23:59:59Z"
//!
//! [[kek]]
//! generation = 2
//! key-id = "…"                   # its name in epoch 0
//! created = "2030-12-01T08:00:00Z"
//! ```

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::kek::{Epoch, KeyId};
use crate::generation::Generation;
use crate::timestamp::Timestamp;
use crate::token::protocol::Fingerprint;

/// The form of the text. A later one is refused, since it may say what we cannot know.
const VERSION: u32 = 1;

/// More KEKs than this is somebody's joke: a rotation a day takes three years to get there.
const MOST_KEKS: usize = 1000;

/// What the first line holds beside the hash.
const HEAD: &str = "sha256 = \"";

/// A text that is no record. It says what is wrong, and never shows the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// The first line is not the hash of the rest.
    #[error("its first line is not the SHA-256 of what follows: it was cut or changed")]
    Damaged,
    /// It is no TOML of ours.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// A later version wrote it.
    #[error("it has version {0}, which only a newer p11-kms knows")]
    Newer(u32),
    /// It is of another keyring.
    #[error("it is of the keyring \"{0}\"")]
    OtherKeyring(String),
    /// Its parts contradict each other.
    #[error("it contradicts itself: {0}")]
    Contradiction(&'static str),
}

/// How far a keyring has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What was written with last. `None`: nothing ever was.
    pub active: Option<Active>,
    /// The last KEK that was put back on purpose.
    pub reinstated: Option<Reinstated>,
    /// What is known of each KEK, by its key_id in epoch 0.
    pub keks: BTreeMap<KeyId, Known>,
}

/// The KEK that is written with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Active {
    /// Its place in the line.
    pub generation: Generation,
    /// How it came to be active: 0 as the newest, otherwise because it was put back.
    pub epoch: Epoch,
    /// The highest generation that was ever active: its own, or that of one that it was put
    /// back over.
    pub highest_generation: Generation,
    /// The name that follows from all of them.
    pub key_id: KeyId,
    /// Which key it is.
    #[serde(with = "hex")]
    pub fingerprint: Fingerprint,
    /// Since when.
    pub since: Timestamp,
}

/// An older KEK that was made active again, by `keyring.reinstate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Reinstated {
    /// Counts the reinstatements of a keyring, whichever KEK they are about. First, so that a
    /// later one is the greater one.
    pub epoch: Epoch,
    /// Which KEK.
    pub generation: Generation,
}

/// What the token itself does not tell of a KEK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Known {
    /// Its place in the line.
    pub generation: Generation,
    /// When it was made; for one that another tool made, since when we know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// `key import` brought it: it was outside of the token once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// When `key destroy` destroyed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destroyed: Option<Timestamp>,
    /// The last Decrypt that anybody is known to have needed it for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_decrypt: Option<Sighting>,
}

/// When and where something was seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Sighting {
    /// When.
    pub at: Timestamp,
    /// The name of the host.
    pub node: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Text {
    version: u32,
    label: String,
    active: Option<Active>,
    reinstated: Option<Reinstated>,
    #[serde(default, rename = "kek", skip_serializing_if = "Vec::is_empty")]
    keks: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Line {
    key_id: KeyId,
    #[serde(flatten)]
    known: Known,
}

impl Known {
    /// Nothing but its place in the line.
    #[must_use]
    pub const fn new(generation: Generation) -> Self {
        Self { generation, created: None, imported: false, destroyed: None, last_decrypt: None }
    }

    fn join(&mut self, other: Self) {
        let earliest = |one: Option<Timestamp>, two| one.into_iter().chain(two).min();
        self.created = earliest(self.created, other.created);
        self.imported |= other.imported;
        self.destroyed = earliest(self.destroyed, other.destroyed);
        self.last_decrypt = self.last_decrypt.take().max(other.last_decrypt);
    }
}

impl Active {
    /// Its place among all that are ever active on any node, which every step makes larger: a
    /// newer generation does, or one that is put back, or, of two KEKs of one generation, the
    /// lower fingerprint.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        let Self { generation, epoch, highest_generation, fingerprint, .. } = *self;
        (highest_generation, epoch, generation, Reverse(fingerprint))
    }
}

impl Record {
    /// How often an older KEK was put back.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.reinstated.map_or(Epoch::FIRST, |last| last.epoch)
    }

    /// What two nodes know together. The order in which any number of records is joined
    /// makes no difference, nor does joining one twice.
    #[must_use]
    pub fn join(mut self, other: Self) -> Self {
        match (&mut self.active, other.active) {
            (Some(ours), Some(theirs)) => match theirs.rank().cmp(&ours.rank()) {
                Ordering::Greater => *ours = theirs,
                Ordering::Equal => ours.since = ours.since.min(theirs.since),
                Ordering::Less => {}
            },
            (ours @ None, theirs) => *ours = theirs,
            (Some(_), None) => {}
        }
        self.reinstated = self.reinstated.max(other.reinstated);
        self.join_keks(other.keks)
    }

    /// The same for what is known of KEKs alone.
    #[must_use]
    pub fn join_keks(mut self, others: BTreeMap<KeyId, Known>) -> Self {
        for (key_id, known) in others {
            match self.keks.get_mut(&key_id) {
                Some(ours) => ours.join(known),
                None => drop(self.keks.insert(key_id, known)),
            }
        }
        self
    }

    /// What is known of a KEK, to be changed.
    pub fn known(&mut self, key_id: &KeyId, generation: Generation) -> &mut Known {
        self.keks.entry(key_id.clone()).or_insert_with(|| Known::new(generation))
    }

    /// The text of the record of the keyring with that label.
    #[must_use]
    pub fn to_text(&self, label: &str) -> String {
        let line = |(key_id, known): (&KeyId, &Known)| Line {
            key_id: key_id.clone(),
            known: known.clone(),
        };
        let mut keks: Vec<Line> = self.keks.iter().map(line).collect();
        keks.sort_by(|a, b| (a.known.generation, &a.key_id).cmp(&(b.known.generation, &b.key_id)));
        let text = Text {
            version: VERSION,
            label: label.to_owned(),
            active: self.active.clone(),
            reinstated: self.reinstated,
            keks,
        };
        // Text, numbers and lists of them: there is nothing that TOML cannot say.
        let body = toml::to_string(&text).unwrap_or_default();
        format!("{HEAD}{}\"\n{body}", HEXLOWER.encode(&Sha256::digest(&body)))
    }

    /// Reads a text of [`Self::to_text`].
    ///
    /// # Errors
    /// [`BadRecord`].
    pub fn parse(text: &str, label: &str) -> Result<Self, BadRecord> {
        let (first, body) = text.split_once('\n').ok_or(BadRecord::Damaged)?;
        let hash = first.strip_prefix(HEAD).and_then(|rest| rest.strip_suffix('"'));
        if hash != Some(HEXLOWER.encode(&Sha256::digest(body)).as_str()) {
            return Err(BadRecord::Damaged);
        }
        let malformed = |error: toml::de::Error| BadRecord::Malformed(error.message().to_owned());
        let table: toml::Table = toml::from_str(body).map_err(malformed)?;
        match table.get("version").and_then(toml::Value::as_integer) {
            Some(version) if version == i64::from(VERSION) => {}
            Some(version) => {
                return Err(BadRecord::Newer(u32::try_from(version).unwrap_or(u32::MAX)));
            }
            None => return Err(BadRecord::Malformed("version is missing".to_owned())),
        }
        let text: Text = table.try_into().map_err(malformed)?;
        if text.label != label {
            return Err(BadRecord::OtherKeyring(text.label));
        }
        let record = Self {
            active: text.active,
            reinstated: text.reinstated,
            keks: text.keks.into_iter().map(|line| (line.key_id, line.known)).collect(),
        };
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), BadRecord> {
        if self.keks.len() > MOST_KEKS {
            return Err(BadRecord::Contradiction("no keyring has so many KEKs"));
        }
        let Some(active) = &self.active else { return Ok(()) };
        let key_id = KeyId::new(active.generation, active.epoch, &active.fingerprint);
        if active.key_id != key_id {
            return Err(BadRecord::Contradiction("the active key-id is not that of its KEK"));
        }
        let Active { generation, epoch, highest_generation, .. } = *active;
        let put_back = Some(Reinstated { epoch, generation });
        match epoch {
            Epoch::FIRST if generation != highest_generation => {
                Err(BadRecord::Contradiction("the active KEK is not of the highest generation"))
            }
            Epoch::FIRST => Ok(()),
            _ if generation > highest_generation => {
                Err(BadRecord::Contradiction("highest-generation is below the active one"))
            }
            _ if self.reinstated < put_back => {
                Err(BadRecord::Contradiction("the active epoch was never reinstated"))
            }
            _ => Ok(()),
        }
    }
}

/// A fingerprint as people can compare it.
mod hex {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::token::protocol::Fingerprint;

    pub(super) fn serialize<S: Serializer>(
        fingerprint: &Fingerprint,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(fingerprint.as_bytes()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Fingerprint, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        let bytes = <[u8; Fingerprint::LEN]>::try_from(bytes)
            .map_err(|_| serde::de::Error::custom("a fingerprint has 80 hex digits"))?;
        Ok(Fingerprint::new(bytes))
    }
}

#[cfg(test)]
mod tests;
