#![forbid(unsafe_code)]
//! What is told of one KEK.

use serde::Serialize;

use crate::keyring::{Kek, Ring};
use crate::token::protocol::Attributes;

/// One line of `key list`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Line {
    pub(super) generation: u32,
    pub(super) label: String,
    pub(super) state: &'static str,
    pub(super) key_id: Option<String>,
    pub(super) key_id_hash: Option<String>,
    pub(super) id: Option<String>,
    pub(super) attributes: Option<Attributes>,
    pub(super) problems: Vec<String>,
}

impl Line {
    pub(super) fn of_kek(ring: &Ring, kek: &Kek) -> Self {
        let is_active = ring.active().is_some_and(|active| active.key_id == kek.key_id);
        Self {
            generation: kek.generation.number(),
            label: kek.label.clone(),
            state: if is_active { "active" } else { "deactivated" },
            key_id: Some(kek.key_id.as_str().to_owned()),
            key_id_hash: Some(kek.key_id.as_metrics_label()),
            id: Some(kek.id.clone()),
            attributes: Some(kek.attributes),
            problems: kek.weaknesses.clone(),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{}  generation {}  {}", self.label, self.generation, self.state);
        if let (Some(key_id), Some(hash)) = (&self.key_id, &self.key_id_hash) {
            text.push_str(&format!("\n    key_id      {key_id}\n    key_id hash {hash}"));
        }
        if let Some(id) = &self.id {
            text.push_str(&format!("\n    CKA_ID      {id}"));
        }
        if let Some(attributes) = &self.attributes {
            text.push_str(&format!("\n    attributes  {}", in_words(attributes)));
        }
        for problem in &self.problems {
            text.push_str(&format!("\n    problem     {problem}"));
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
