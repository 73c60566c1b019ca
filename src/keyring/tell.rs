#![forbid(unsafe_code)]
//! Logs what a look has changed, once.

use tracing::{error, info, warn};

use super::lifecycle::State;
use super::ring::Ring;

/// What is other than before.
pub(super) fn changes(before: &Ring, now: &Ring, label: &str) {
    for kek in now.keks() {
        if before.get(kek.key_id.as_str()).is_some() {
            continue;
        }
        info!(
            label = kek.label,
            generation = kek.generation.number(),
            key_id = kek.key_id.as_str(),
            state = now.state(kek).name(),
            "found a KEK"
        );
        if !kek.weaknesses.is_empty() {
            error!(
                label = kek.label,
                "THIS KEK IS WEAK and used only because token.allow-weak-kek is set: {}",
                kek.weaknesses.join("; ")
            );
        }
    }
    for kek in before.keks() {
        if now.get(kek.key_id.as_str()).is_none() && before.state(kek) != State::Active {
            let known = now.record().keks.get(&kek.key_id);
            let (label, generation) = (&kek.label, kek.generation.number());
            let key_id = kek.key_id.as_str();
            if known.is_some_and(|known| known.destroyed.is_some()) {
                info!(label, generation, key_id, "this KEK was destroyed");
            } else {
                error!(
                    label,
                    generation,
                    key_id,
                    "this KEK is no longer there: what only it can decrypt is lost"
                );
            }
        }
    }
    for bad in now.refused() {
        if !before.refused().contains(bad) {
            error!("{bad}");
        }
    }
    if let Some(trouble) = now.trouble().filter(|_| now.trouble() != before.trouble()) {
        error!("{trouble}");
    }
    active(before, now, label);
}

fn active(before: &Ring, now: &Ring, label: &str) {
    let key_id = |ring: &Ring| ring.active().map(|active| active.key_id.clone());
    if key_id(before) == key_id(now) {
        return;
    }
    let Some(active) = now.active() else {
        return warn!("no KEK is active: {}", now.why_none(label));
    };
    let epoch = now.record().active.as_ref().map_or(0, |active| active.epoch.number());
    info!(
        label = active.kek.label,
        generation = active.kek.generation.number(),
        epoch,
        key_id = active.key_id.as_str(),
        "this KEK is active now"
    );
}
