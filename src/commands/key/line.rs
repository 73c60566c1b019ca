#![forbid(unsafe_code)]
//! What is told of one KEK.

use serde::Serialize;

use crate::commands::age::age;
use crate::keyring::{
    Kek, KeyId, Known, Refused, Reinstated, Ring, Sighting, State, metrics_label,
};
use crate::timestamp::Timestamp;
use crate::token::protocol::Attributes;

/// One line of `key list`.
#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Line {
    pub(super) generation: u32,
    pub(super) label: String,
    /// `pre-active`, `active`, `deactivated` or `destroyed` in the words of NIST SP 800-57;
    /// `refused` if it must not be used, `missing` if it is gone and nobody destroyed it.
    pub(super) state: &'static str,
    pub(super) key_id: Option<String>,
    pub(super) key_id_hash: Option<String>,
    /// How often an older KEK had been put back when this one became active.
    pub(super) epoch: u32,
    /// What it was named when it was put back, if it is not active now.
    pub(super) put_back_key_id: Option<String>,
    pub(super) id: Option<String>,
    pub(super) created: Option<Timestamp>,
    pub(super) age_seconds: Option<u64>,
    pub(super) active_since: Option<Timestamp>,
    pub(super) destroyed: Option<Timestamp>,
    pub(super) imported: bool,
    /// When and on which node it was last seen to be needed.
    pub(super) last_decrypt: Option<Sighting>,
    pub(super) attributes: Option<Attributes>,
    pub(super) problems: Vec<String>,
    /// Of one that was just made: what the token would not have in its template.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) left_out: Vec<String>,
}

impl Line {
    /// A KEK on the token.
    pub(super) fn of_kek(ring: &Ring, kek: &Kek) -> Self {
        let state = ring.state(kek);
        let known = ring.record().keks.get(&kek.key_id);
        let mut line = Self {
            generation: kek.generation.number(),
            label: kek.label.clone(),
            state: state.name(),
            id: Some(kek.id.clone()),
            attributes: Some(kek.attributes),
            problems: kek.weaknesses.clone(),
            ..Self::default()
        };
        line.name(kek.key_id.as_str());
        if let Some(known) = known {
            line.know(known);
        }
        let put_back = ring.record().reinstated.filter(|it| it.generation == kek.generation);
        if let Some(Reinstated { epoch, generation }) = put_back.filter(|_| state != State::Active)
        {
            line.put_back_key_id =
                Some(KeyId::new(generation, epoch, &kek.fingerprint).to_string());
        }
        if let Some(active) = ring.record().active.as_ref().filter(|_| state == State::Active) {
            line.name(active.key_id.as_str());
            line.epoch = active.epoch.number();
            line.active_since = Some(active.since);
        }
        line
    }

    /// A key of the keyring that must not be used.
    pub(super) fn of_refused(bad: &Refused) -> Self {
        Self {
            generation: bad.generation.number(),
            label: bad.label.clone(),
            state: "refused",
            problems: bad.reasons.clone(),
            ..Self::default()
        }
    }

    /// A KEK that only the record knows.
    pub(super) fn of_gone(key_id: &str, label: String, known: &Known) -> Self {
        let mut line = Self {
            generation: known.generation.number(),
            label,
            state: if known.destroyed.is_some() { "destroyed" } else { "missing" },
            ..Self::default()
        };
        line.name(key_id);
        line.know(known);
        line.age_seconds = None;
        line
    }

    fn name(&mut self, key_id: &str) {
        self.key_id_hash = Some(metrics_label(key_id));
        self.key_id = Some(key_id.to_owned());
    }

    fn know(&mut self, known: &Known) {
        self.created = known.created;
        self.age_seconds = known.created.map(|at| Timestamp::now().since(at).as_secs());
        self.destroyed = known.destroyed;
        self.imported = known.imported;
        self.last_decrypt.clone_from(&known.last_decrypt);
    }

    /// What was done to it, with its name.
    pub(super) fn told(&self, done: &str) -> String {
        format!(
            "{done} KEK \"{}\" (generation {})\nkey_id {}\nstate {}{}",
            self.label,
            self.generation,
            self.key_id.as_deref().unwrap_or_default(),
            self.state,
            self.note()
        )
    }

    /// A line about what was left out; nothing if nothing was.
    pub(super) fn note(&self) -> String {
        if self.left_out.is_empty() {
            return String::new();
        }
        format!(
            "\nnote: made without {}, which the token refused; `p11-kms check` shows the rights that \
             it has (kek-usage)",
            self.left_out.join(", ")
        )
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{}  generation {}  {}", self.label, self.generation, self.state);
        if self.epoch > 0 {
            text.push_str(&format!(" (put back, epoch {})", self.epoch));
        }
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                text.push_str(&format!("\n    {name:<12} {value}"));
            }
        };
        add("key_id", self.key_id.clone());
        add("key_id hash", self.key_id_hash.clone());
        add("put back as", self.put_back_key_id.clone());
        add("CKA_ID", self.id.clone());
        let origin = if self.imported { ", imported" } else { "" };
        add(
            "created",
            self.created.map(|at| match self.age_seconds {
                Some(_) => format!("{at} ({} ago{origin})", age(at)),
                None => at.to_string(),
            }),
        );
        add("active since", self.active_since.map(|at| at.to_string()));
        add("destroyed", self.destroyed.map(|at| at.to_string()));
        let last = self.last_decrypt.as_ref();
        add("last Decrypt", last.map(|last| format!("{} on {}", last.at, last.node)));
        add("attributes", self.attributes.as_ref().map(in_words));
        for problem in &self.problems {
            add("problem", Some(problem.clone()));
        }
        text
    }
}

fn in_words(attributes: &Attributes) -> String {
    let bits = attributes.value_len.map(|len| format!("AES-{}", len * 8));
    let flags = [
        ("private", attributes.private),
        ("sensitive", attributes.sensitive),
        ("always-sensitive", attributes.always_sensitive),
        ("extractable", attributes.extractable),
        ("never-extractable", attributes.never_extractable),
        ("local", attributes.local),
        ("wrap", attributes.wrap),
        ("unwrap", attributes.unwrap),
        ("encrypt", attributes.encrypt),
        ("decrypt", attributes.decrypt),
    ];
    let set =
        flags.into_iter().filter(|(_, is)| *is == Some(true)).map(|(name, _)| name.to_owned());
    bits.into_iter().chain(set).collect::<Vec<_>>().join(", ")
}
