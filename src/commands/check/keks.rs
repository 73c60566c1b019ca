#![forbid(unsafe_code)]
//! The KEKs: their attributes, their ages, and the one that is written with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::findings::Findings;
use crate::algorithm::Algorithm;
use crate::cli::CheckId;
use crate::commands::age::in_words;
use crate::commands::token_access::{Access, PATIENCE};
use crate::config::Config;
use crate::keyring::{Active, Kek, Ring, State};
use crate::secret::Seed;
use crate::timestamp::Timestamp;
use crate::token::protocol::{Fingerprint, InspectedKey};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A KEK that is older should have been rotated: see docs/rotation.md.
const OLD: Duration = Duration::from_secs(90 * 24 * 3600);

/// A KEK that is older has been forgotten.
const VERY_OLD: Duration = Duration::from_secs(365 * 24 * 3600);

/// What of a waiting KEK is no more than the wait for its turn.
const TURN: Duration = Duration::from_secs(15 * 60);

/// Looks at the keyring; tells whether it could be seen.
pub(super) async fn look(access: &Access, findings: &mut Findings<'_>) -> bool {
    match access.keyring.look().await {
        Ok(()) => true,
        Err(error) => {
            let remedy = "do what it says; a token that does not answer is told under `answers`";
            findings.fail(CheckId::Kek, error.to_string(), remedy);
            false
        }
    }
}

/// What a look has shown, and a round trip with the KEK that is written with.
pub(super) async fn check(config: &Config, access: &Access, findings: &mut Findings<'_>) {
    let ring = access.keyring.ring();
    let now = Timestamp::now();
    attributes(&ring, findings);
    generations(&ring, findings);
    waiting(config, &ring, now, findings);
    match access.keyring.active() {
        Ok(active) => {
            let message = format!("\"{}\", key_id {}", active.kek.label, active.key_id);
            findings.pass(CheckId::ActiveKek, message);
            age(created(&ring, &active.kek, now), now, &active.kek.label, findings);
            round_trip(access, &active, findings).await;
        }
        Err(error) => {
            // One that has vanished may come back: the message has the choice.
            let remedy = match ring.record().active {
                None => "make a KEK with `p11-kms key generate`",
                Some(_) => "bring it back, make a new one, or put an older one back",
            };
            findings.fail(CheckId::ActiveKek, error.to_string(), remedy);
            findings.rest_untried(CheckId::ActiveKek);
        }
    }
}

fn attributes(ring: &Ring, findings: &mut Findings<'_>) {
    for kek in ring.keks() {
        if kek.weaknesses.is_empty() {
            findings.pass(CheckId::Kek, format!("\"{}\" cannot leave the token", kek.label));
        } else {
            findings.warn(
                CheckId::Kek,
                format!("\"{}\" is weak: {}", kek.label, kek.weaknesses.join("; ")),
                "make a good one with `p11-kms key generate`",
            );
        }
    }
    for bad in ring.refused() {
        let remedy = if bad.may_be_imported {
            "if `p11-kms key import` brought it, set token.allow-imported-kek or mend the record \
             (docs/rotation.md). Do not rename or delete it before you know that nothing needs it"
        } else {
            "make a good one with `p11-kms key generate`, and move the bad one out of the keyring \
             by another label"
        };
        let message = format!("\"{}\": {}", bad.label, bad.reasons.join("; "));
        findings.fail(CheckId::Kek, message, remedy);
    }
}

/// What is asked of each key of the keyring's label beyond what its use depends on.
pub(super) fn inspected(keys: &[InspectedKey], findings: &mut Findings<'_>) {
    for key in keys {
        history(key, findings);
        usage(key, findings);
        dates(key, Timestamp::now(), findings);
    }
}

fn history(key: &InspectedKey, findings: &mut Findings<'_>) {
    let InspectedKey { label, attributes, .. } = key;
    let all = [
        ("CKA_LOCAL", attributes.local),
        ("CKA_ALWAYS_SENSITIVE", attributes.always_sensitive),
        ("CKA_NEVER_EXTRACTABLE", attributes.never_extractable),
    ];
    let of = |wanted: Option<bool>| {
        let named = all.iter().filter(|(_, is)| *is == wanted).map(|(name, _)| *name);
        named.collect::<Vec<_>>().join(", ")
    };
    let (not, untold) = (of(Some(false)), of(None));
    if !not.is_empty() {
        findings.warn(
            CheckId::KekHistory,
            format!("\"{label}\" was outside of the token, or could leave it once: not {not}"),
            "if that was not on purpose (`p11-kms key import`), make a new one with `p11-kms key \
             generate`; every copy of it opens what is in etcd",
        );
    } else if !untold.is_empty() {
        let message = format!("\"{label}\": the token does not tell {untold}");
        findings.pass(CheckId::KekHistory, message);
    } else {
        findings.pass(CheckId::KekHistory, format!("\"{label}\" was always in the token alone"));
    }
}

fn usage(key: &InspectedKey, findings: &mut Findings<'_>) {
    let InspectedKey { label, needed, surplus, .. } = key;
    let may = needed.join(", ");
    if surplus.is_empty() {
        let modifiable = match (key.modifiable, key.copyable) {
            (Some(true), _) => ". Who is logged in can change its label and rights",
            _ => "",
        };
        let message = format!("\"{label}\" has no right beyond {may}{modifiable}");
        findings.pass(CheckId::KekUsage, message);
    } else {
        findings.warn(
            CheckId::KekUsage,
            format!("\"{label}\" has {}, and needs only {may}", surplus.join(", ")),
            "`p11-kms key generate` asks for no more than is needed, and says what the token would not \
             take. If this one can be changed, take the rights away with the token's own tool; \
             otherwise it is as good as the token lets it be",
        );
    }
}

fn dates(key: &InspectedKey, now: Timestamp, findings: &mut Findings<'_>) {
    let InspectedKey { label, start_date, end_date, .. } = key;
    let day = |date: &Option<String>| date.as_deref().and_then(Timestamp::of_day);
    // The token may be in the next time zone.
    let is_early = day(start_date).is_some_and(|start| start.since(now) > DAY);
    let is_late = day(end_date).is_some_and(|end| now.since(end) > DAY);
    let told = [("from", start_date), ("to", end_date)];
    let told = told.iter().filter_map(|(word, date)| Some(format!("{word} {}", date.as_ref()?)));
    let told = told.collect::<Vec<_>>().join(" ");
    if is_early || is_late {
        findings.warn(
            CheckId::KekDates,
            format!("\"{label}\" is good {told}, and today is not in that"),
            "see that both clocks are right; if they are, make a new KEK with `p11-kms key rotate`",
        );
    } else if told.is_empty() {
        findings.pass(CheckId::KekDates, format!("\"{label}\" has no dates"));
    } else {
        findings.pass(CheckId::KekDates, format!("\"{label}\" is good {told}"));
    }
}

fn generations(ring: &Ring, findings: &mut Findings<'_>) {
    let mut labels: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for kek in ring.keks() {
        labels.entry(kek.generation.number()).or_default().push(&kek.label);
    }
    let twice: Vec<String> = labels
        .iter()
        .filter(|(_, labels)| labels.len() > 1)
        .map(|(generation, labels)| format!("{generation} ({})", labels.join(", ")))
        .collect();
    if twice.is_empty() {
        findings.pass(CheckId::KekGenerations, "each generation has one KEK at most");
    } else {
        findings.warn(
            CheckId::KekGenerations,
            format!("more than one KEK has generation {}", twice.join(", ")),
            "all of them decrypt, and one is written with: make the next one with `p11-kms key \
             rotate`, on one node alone",
        );
    }
}

fn waiting(config: &Config, ring: &Ring, now: Timestamp, findings: &mut Findings<'_>) {
    let patience = config.keyring.activation_delay + config.keyring.scan_interval + TURN;
    let mut waiting: Vec<&Arc<Kek>> = ring.keks().iter().collect();
    waiting.retain(|kek| ring.state(kek) == State::PreActive);
    let stuck = waiting.iter().find(|kek| now.since(created(ring, kek, now)) > patience);
    match (stuck, waiting.first()) {
        (Some(kek), _) => findings.warn(
            CheckId::KekWaiting,
            format!("\"{}\" has been waiting for longer than activation-delay", kek.label),
            "see that the daemon runs on this node and is well: p11-kms status",
        ),
        (None, Some(kek)) => {
            let message = format!("\"{}\" waits to become active", kek.label);
            findings.pass(CheckId::KekWaiting, message);
        }
        (None, None) => findings.pass(CheckId::KekWaiting, "no KEK waits"),
    }
}

/// When it was made, or since when it is known.
fn created(ring: &Ring, kek: &Kek, now: Timestamp) -> Timestamp {
    let known = ring.record().keks.get(&kek.key_id).and_then(|known| known.created);
    known.unwrap_or_else(|| kek.first_known(now))
}

fn age(created: Timestamp, now: Timestamp, label: &str, findings: &mut Findings<'_>) {
    let age = now.since(created);
    let message = format!("\"{label}\" is known for {}", in_words(age));
    let rotate = "make the next one with `p11-kms key rotate` (docs/rotation.md)";
    if age > VERY_OLD {
        let message = format!("{message}: more than a year");
        let remedy = format!("{rotate}. Do it now, and let p11-kms-rotate.timer do it from now on");
        findings.warn(CheckId::KekAge, message, remedy);
    } else if age > OLD {
        findings.warn(CheckId::KekAge, format!("{message}: more than 90 days"), rotate);
    } else {
        findings.pass(CheckId::KekAge, message);
    }
}

async fn round_trip(access: &Access, active: &Active, findings: &mut Findings<'_>) {
    let constant = Seed::new(Fingerprint::CONSTANT.to_vec());
    let (client, kek) = (&access.client, &active.kek);
    let there_and_back = async {
        let blob = client.wrap(&kek.fingerprint, Algorithm::Kw, &constant, PATIENCE).await?;
        client.unwrap(&kek.fingerprint, Algorithm::Kw, &blob, PATIENCE).await
    };
    match there_and_back.await {
        Ok(back) if back.expose() == constant.expose() => {
            let message = "32 bytes were wrapped and unwrapped on the token";
            findings.pass(CheckId::RoundTrip, message);
        }
        Ok(_) => findings.fail(
            CheckId::RoundTrip,
            "the token gave other bytes back than it was given",
            "do not use this token; try another profile or method",
        ),
        Err(error) => findings.fail(
            CheckId::RoundTrip,
            error.to_string(),
            "see what the token's own log says; a KEK without the right is told under `kek`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::all_checks;

    #[test]
    fn ages_and_dates() {
        let now: Timestamp = "2030-12-31T12:00:00Z".parse().unwrap();
        let args = all_checks();
        let told = |tell: &dyn Fn(&mut Findings<'_>)| {
            let mut findings = Findings::new(&args);
            tell(&mut findings);
            serde_json::to_value(findings.shown()).unwrap()[0].clone()
        };
        for (created, result, words) in [
            ("2030-12-01", "pass", "30 days"),
            ("2030-09-01", "warn", "90 days"),
            ("2029-09-01", "warn", "more than a year"),
        ] {
            let created = Timestamp::of_day(created).unwrap();
            let found = told(&|it| age(created, now, "k", it));
            assert_eq!(found["result"], result, "{found}");
            assert!(found["message"].as_str().unwrap().contains(words), "{found}");
        }
        for (start, end, result) in [
            (None, None, "pass"),
            (Some("2030-12-31"), Some("2030-12-31"), "pass"),
            (Some("2031-02-01"), None, "warn"),
            (None, Some("2030-12-01"), "warn"),
        ] {
            let key = InspectedKey {
                label: "k".into(),
                attributes: crate::token::protocol::Attributes::default(),
                start_date: start.map(str::to_owned),
                end_date: end.map(str::to_owned),
                needed: Vec::new(),
                surplus: Vec::new(),
                modifiable: None,
                copyable: None,
            };
            let found = told(&|it| dates(&key, now, it));
            assert_eq!(found["result"], result, "{start:?} {end:?}");
        }
    }
}
