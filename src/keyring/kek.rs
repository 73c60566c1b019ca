#![forbid(unsafe_code)]
//! One KEK: what makes it fit for use, and the name that the cluster knows it by.

use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::record::Record;
use crate::generation::Generation;
use crate::timestamp::Timestamp;
use crate::token::protocol::{Attributes, Fingerprint, FoundKey, Method};

/// Sets our hashes apart from everybody else's, and this form from later ones.
const KEY_ID_DOMAIN: &[u8] = b"p11-kms key_id v1\0";

/// A start date is no more exact than this.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// `CKA_VALUE_LEN` of AES-256, in bytes.
const AES_256: u64 = 32;

/// The public name of a KEK: 64 lower-case hex digits.
///
/// SHA-256 over a domain label, the generation and the epoch (4 bytes each,
/// big-endian) and the fingerprint. The same KEK has the same name on every
/// node and every clone of the token; another KEK under the same label has
/// another name. Kubernetes wants it stable, public and never used twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

/// Counts how often an older KEK of a keyring was made active again on purpose.
///
/// Kubernetes wants no key_id to be used twice, not even for the same key that was put back
/// (its A_001 rule), so the epoch goes into the key_id.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u32")]
pub struct Epoch(u32);

impl TryFrom<u32> for Epoch {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        Self::new(number).ok_or_else(|| format!("there are epochs 0 to {}", Self::LAST))
    }
}

impl Epoch {
    /// That of a KEK that became active as the newest one.
    pub const FIRST: Self = Self(0);

    /// The last one: every KEK answers to the names of all epochs, so there are not many.
    pub const LAST: Self = Self(63);

    /// The epoch of that number; `None` above [`Self::LAST`].
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number <= Self::LAST.0 { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        (Self::FIRST.0..=Self::LAST.0).map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl KeyId {
    /// The name of a KEK in one epoch.
    #[must_use]
    pub fn new(generation: Generation, epoch: Epoch, fingerprint: &Fingerprint) -> Self {
        let digest = Sha256::new()
            .chain_update(KEY_ID_DOMAIN)
            .chain_update(generation.number().to_be_bytes())
            .chain_update(epoch.0.to_be_bytes())
            .chain_update(fingerprint.as_bytes())
            .finalize();
        Self(HEXLOWER.encode(&digest))
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form in kube-apiserver's metrics: `sha256:` and the hash of the name.
    #[must_use]
    pub fn as_metrics_label(&self) -> String {
        metrics_label(&self.0)
    }
}

/// The form that a key_id has in kube-apiserver's metrics.
#[must_use]
pub fn metrics_label(key_id: &str) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(key_id.as_bytes())))
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A KEK that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kek {
    /// Its place in the line.
    pub generation: Generation,
    /// Its `CKA_LABEL`.
    pub label: String,
    /// Which key it is.
    pub fingerprint: Fingerprint,
    /// Its name in the first epoch.
    pub key_id: KeyId,
    /// Its `CKA_ID` in hex, by which other tools find it.
    pub id: String,
    /// The day it was made, if the token tells: `2030-12-31`.
    pub start_date: Option<String>,
    /// What may be done with it.
    pub attributes: Attributes,
    /// What is weak about it, if the config allows weak KEKs.
    pub weaknesses: Vec<String>,
}

impl Kek {
    /// Since when it is known, at the latest: the day that the token tells, or this moment. The
    /// token's clock may be ahead.
    #[must_use]
    pub fn first_known(&self, now: Timestamp) -> Timestamp {
        let day = self.start_date.as_deref().and_then(Timestamp::of_day);
        // Of today nothing more exact is known than that it is over, up to now.
        day.filter(|day| now.since(*day) >= A_DAY).unwrap_or(now)
    }
}

/// A key of the keyring's label that must not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its `CKA_LABEL`.
    pub label: String,
    /// What the label says.
    pub generation: Generation,
    /// What is wrong, attribute by attribute.
    pub reasons: Vec<String>,
    /// It would be good if somebody said that it was imported.
    pub may_be_imported: bool,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "KEK \"{}\" is refused: {}{}",
            self.label,
            self.reasons.join("; "),
            if self.may_be_imported { "" } else { ". Make a good one with `p11-kms key generate`" }
        )
    }
}

/// What every KEK must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How this token does RFC 3394.
    pub method: Method,
    /// Take a KEK that could leave the token. For tests.
    pub allow_weak: bool,
    /// Take every KEK that was brought onto the token from elsewhere, not only those that the
    /// record names. For tokens that keep no record.
    pub allow_imported: bool,
}

impl Policy {
    /// Decides on one key.
    ///
    /// # Errors
    /// [`Refused`] with every attribute that is wrong.
    pub fn judge(self, key: FoundKey, record: &Record) -> Result<Kek, Refused> {
        let FoundKey { label, generation, id, start_date, attributes, fingerprint, .. } = key;
        let id = HEXLOWER.encode(&id);
        let key_id = |it: &Fingerprint| KeyId::new(generation, Epoch::FIRST, it);
        let known = fingerprint.as_ref().ok().and_then(|it| record.keks.get(&key_id(it)));
        let may_be_imported = self.allow_imported || known.is_some_and(|known| known.imported);
        let weaknesses = weaknesses(&attributes, may_be_imported);
        let mut reasons = self.hindrances(&attributes);
        if !self.allow_weak {
            reasons.extend(weaknesses.iter().cloned());
        }
        match fingerprint {
            Ok(fingerprint) if reasons.is_empty() => {
                let key_id = key_id(&fingerprint);
                Ok(Kek {
                    generation,
                    label,
                    fingerprint,
                    key_id,
                    id,
                    start_date,
                    attributes,
                    weaknesses,
                })
            }
            Ok(_) => {
                let may_be_imported = !may_be_imported
                    && reasons.len() == 1
                    && weaknesses == reasons
                    && self::weaknesses(&attributes, true).is_empty();
                Err(Refused { label, generation, reasons, may_be_imported })
            }
            Err(failure) => {
                // A missing right explains the failure better than its code does.
                if reasons.is_empty() {
                    reasons.push(format!("it does not wrap: {failure}"));
                }
                Err(Refused { label, generation, reasons, may_be_imported: false })
            }
        }
    }

    /// What makes it useless, whatever the config allows.
    fn hindrances(self, attributes: &Attributes) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(len) = attributes.value_len.filter(|len| *len != AES_256) {
            reasons.push(format!("it is AES-{}, and must be AES-256", len * 8));
        }
        let rights = match self.method {
            Method::Object => [("CKA_WRAP", attributes.wrap), ("CKA_UNWRAP", attributes.unwrap)],
            Method::Encrypt | Method::Ecb => {
                [("CKA_ENCRYPT", attributes.encrypt), ("CKA_DECRYPT", attributes.decrypt)]
            }
        };
        for (name, right) in rights {
            if right == Some(false) {
                reasons.push(format!(
                    "{name} is false, and method \"{}\" of this token needs it",
                    self.method
                ));
            }
        }
        if attributes.token == Some(false) {
            reasons.push("CKA_TOKEN is false: it would be gone after a restart".to_owned());
        }
        reasons
    }
}

/// What would let it leave the token. An attribute that the token does not tell
/// counts as wrong, but for the two that only history can set.
fn weaknesses(attributes: &Attributes, may_be_imported: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut demand = |name: &str, is: Option<bool>, wanted: bool| {
        if is != Some(wanted) {
            let found = is.map_or("not told by the token".to_owned(), |is| is.to_string());
            reasons.push(format!("{name} is {found}, and must be {wanted}"));
        }
    };
    demand("CKA_PRIVATE", attributes.private, true);
    demand("CKA_SENSITIVE", attributes.sensitive, true);
    demand("CKA_EXTRACTABLE", attributes.extractable, false);
    match attributes.never_extractable {
        None | Some(true) => {}
        // One that was not made here was brought here, and so was outside.
        Some(false) if attributes.local != Some(true) => {
            if !may_be_imported {
                reasons.push(
                    "CKA_NEVER_EXTRACTABLE is false, and must be true, but for a KEK that `p11-kms \
                     key import` brought: if this is one, set token.allow-imported-kek"
                        .to_owned(),
                );
            }
        }
        Some(false) => demand("CKA_NEVER_EXTRACTABLE", attributes.never_extractable, true),
    }
    reasons
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::token::protocol::{Class, Failure};

    pub(crate) const POLICY: Policy =
        Policy { method: Method::Object, allow_weak: false, allow_imported: false };

    pub(crate) fn good_key(number: u32, fill: u8) -> FoundKey {
        let generation = Generation::new(number);
        FoundKey {
            label: generation.label("k8s-kek"),
            generation,
            id: vec![fill; 16],
            start_date: None,
            left_out: Vec::new(),
            attributes: Attributes {
                value_len: Some(32),
                token: Some(true),
                private: Some(true),
                sensitive: Some(true),
                always_sensitive: Some(true),
                extractable: Some(false),
                never_extractable: Some(true),
                local: Some(true),
                wrap: Some(true),
                unwrap: Some(true),
                encrypt: Some(false),
                decrypt: Some(false),
            },
            fingerprint: Ok(Fingerprint::new([fill; 40])),
        }
    }

    fn refused(change: impl FnOnce(&mut FoundKey)) -> String {
        let mut key = good_key(1, 1);
        change(&mut key);
        POLICY.judge(key, &Record::default()).unwrap_err().to_string()
    }

    #[test]
    fn the_key_id_is_fixed_for_ever() {
        // Computed with: printf 'p11-kms key_id v1\0\0\0\0\1\0\0\0\0' + 40 bytes 0x07 | sha256sum.
        // If this test fails, every cluster would see a rotation that was none.
        let id = KeyId::new(Generation::new(1), Epoch::FIRST, &Fingerprint::new([7; 40]));
        assert_eq!(id.as_str(), "dec1d0b25edd94e6f539a46483d5c0599470a2b601fa2865ae68516361728a65");
        assert!(id.as_metrics_label().starts_with("sha256:"));
        assert_eq!(id.as_metrics_label().len(), 7 + 64);
    }

    #[test]
    fn generation_epoch_and_material_all_change_the_key_id() {
        let id = |generation, epoch, fill| {
            KeyId::new(Generation::new(generation), Epoch(epoch), &Fingerprint::new([fill; 40]))
        };
        let ids = [id(1, 0, 7), id(2, 0, 7), id(1, 1, 7), id(1, 0, 8)];
        for (index, one) in ids.iter().enumerate() {
            for other in &ids[index + 1..] {
                assert_ne!(one, other);
            }
        }
    }

    #[test]
    fn a_good_key_is_taken() {
        assert_eq!(
            POLICY.judge(good_key(1, 1), &Record::default()).unwrap().weaknesses,
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_bad_key_is_refused_by_name_with_the_attribute() {
        let message = refused(|key| key.attributes.extractable = Some(true));
        assert!(message.contains("k8s-kek-0001"), "{message}");
        assert!(message.contains("CKA_EXTRACTABLE is true, and must be false"), "{message}");

        let message = refused(|key| key.attributes.value_len = Some(16));
        assert!(message.contains("AES-128"), "{message}");

        let message = refused(|key| key.attributes.wrap = Some(false));
        assert!(message.contains("CKA_WRAP is false"), "{message}");

        let message = refused(|key| key.attributes.sensitive = None);
        assert!(message.contains("CKA_SENSITIVE is not told by the token"), "{message}");

        let message = refused(|key| key.attributes.never_extractable = Some(false));
        assert!(message.contains("CKA_NEVER_EXTRACTABLE is false"), "{message}");

        let message = refused(|key| {
            key.fingerprint = Err(Failure::new(Class::Refused, "C_WrapKey answered CKR_X"));
        });
        assert!(message.contains("C_WrapKey answered CKR_X"), "{message}");
    }

    #[test]
    fn an_imported_kek_is_taken_if_the_record_or_the_config_says_so() {
        let mut key = good_key(1, 1);
        key.attributes.never_extractable = Some(false);
        key.attributes.always_sensitive = Some(false);
        key.attributes.local = Some(false);
        let mut record = Record::default();
        assert!(POLICY.judge(key.clone(), &record).is_err());
        let allowing = Policy { allow_imported: true, ..POLICY };
        assert!(allowing.judge(key.clone(), &record).is_ok());
        let key_id = KeyId::new(key.generation, Epoch::FIRST, &Fingerprint::new([1; 40]));
        record.known(&key_id, key.generation).imported = true;
        assert_eq!(POLICY.judge(key.clone(), &record).unwrap().weaknesses, Vec::<String>::new());
        // Made here, and extractable once: that is no import.
        key.attributes.local = Some(true);
        assert!(POLICY.judge(key, &record).is_err());
    }

    #[test]
    fn allow_weak_allows_what_is_weak_but_not_what_is_useless() {
        let policy = Policy { allow_weak: true, ..POLICY };
        let mut key = good_key(1, 1);
        key.attributes.extractable = Some(true);
        assert_eq!(policy.judge(key.clone(), &Record::default()).unwrap().weaknesses.len(), 1);
        key.attributes.value_len = Some(16);
        assert!(policy.judge(key, &Record::default()).is_err());
    }
}
