#![forbid(unsafe_code)]
//! `key list`: all KEKs of the keyring, also those that are gone.

use super::line::Line;
use crate::cli::Cli;
use crate::commands::Failed;
use crate::commands::token_access::Access;
use crate::config::Config;
use crate::keyring::Ring;

pub(super) async fn list(cli: &Cli, config: &Config, access: &Access) -> Result<(), Failed> {
    access.open().await?;
    let ring = access.keyring.ring();
    let mut lines: Vec<Line> = ring.keks().iter().map(|kek| Line::of_kek(&ring, kek)).collect();
    lines.extend(ring.refused().iter().map(Line::of_refused));
    lines.extend(gone(&ring, &config.keyring.label));
    lines.sort_by_key(|line| line.generation);
    let text = if lines.is_empty() {
        ring.why_none(&config.keyring.label)
    } else {
        let mut texts: Vec<String> = lines.iter().map(Line::text).collect();
        if ring.active().is_none() {
            texts.push(format!("NO KEK IS ACTIVE: {}", ring.why_none(&config.keyring.label)));
        }
        texts.join("\n")
    };
    cli.print(text, &lines)
}

/// What was there once.
fn gone(ring: &Ring, base: &str) -> Vec<Line> {
    let is_there = |key_id: &str| ring.get(key_id).is_some();
    let is_refused = |generation| ring.refused().iter().any(|bad| bad.generation == generation);
    let known = ring.record().keks.iter();
    known
        .filter(|(key_id, known)| !is_there(key_id.as_str()) && !is_refused(known.generation))
        .map(|(key_id, known)| Line::of_gone(key_id.as_str(), known.generation.label(base), known))
        .collect()
}
