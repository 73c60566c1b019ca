#![forbid(unsafe_code)]
//! `key generate` and `key list`.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::token_access::{Access, PATIENCE};
use super::{Exit, Failed, runtime};
use crate::cli::{Cli, KeyCommand};
use crate::config::Config;
use crate::generation::Generation;
use crate::keyring::{Kek, Ring};
use crate::token::protocol::{Attributes, FoundKey};

/// How long a token may take to show a new KEK.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One line of `key list`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Line {
    generation: u32,
    label: String,
    state: &'static str,
    key_id: Option<String>,
    key_id_hash: Option<String>,
    id: Option<String>,
    attributes: Option<Attributes>,
    problems: Vec<String>,
}

pub(super) fn run(cli: &Cli, command: &KeyCommand) -> Result<(), Failed> {
    let config = cli.load_config()?;
    runtime()?.block_on(async {
        let access = Access::start(&config);
        let done = match command {
            KeyCommand::Generate { generation } => {
                let wanted = generation.map(Generation::new);
                generate(cli, &config, &access, wanted).await
            }
            KeyCommand::List => list(cli, &access).await,
        };
        access.close().await;
        done
    })
}

async fn generate(
    cli: &Cli,
    config: &Config,
    access: &Access,
    wanted: Option<Generation>,
) -> Result<(), Failed> {
    access.open().await?;
    let base = &config.keyring.label;
    let before = access.keyring.ring();
    // A refused key occupies its number too: its label is taken.
    let taken = before.keks().into_iter().map(|kek| kek.generation);
    let last = taken.chain(before.refused().iter().map(|bad| bad.generation)).max();
    let next = match (wanted, last) {
        (Some(wanted), Some(last)) if wanted <= last => {
            let message = format!("--generation {wanted}: generation {last} is there already");
            return Err(Failed::new(Exit::Usage, message));
        }
        (Some(wanted), _) => Some(wanted),
        (None, None) => Some(Generation::new(1)),
        (None, Some(last)) => last.next(),
    };
    let Some(next) = next else {
        let message = format!("no generation comes after the last KEK of \"{base}\"");
        return Err(Failed::new(Exit::Unreachable, message));
    };
    let label = next.label(base);
    let made = access.client.generate(&label, PATIENCE).await.map_err(|error| {
        Failed::new(
            Exit::Unreachable,
            format!("KEK \"{label}\": {error}. `p11-kms key list` shows whether it was made"),
        )
    })?;
    let line = shown(access, &made).await?;
    let text = format!(
        "made KEK \"{}\" (generation {})\nkey_id {}",
        line.label,
        line.generation,
        line.key_id.as_deref().unwrap_or_default()
    );
    cli.print(text, &line)
}

/// Waits until the token shows a KEK that was just made: one of several nodes may take a
/// moment.
async fn shown(access: &Access, made: &FoundKey) -> Result<Line, Failed> {
    let end = Instant::now() + SHOWN_WITHIN;
    loop {
        let looked = access.keyring.look().await;
        let ring = access.keyring.ring();
        if let Some(bad) = ring.refused().iter().find(|bad| bad.label == made.label) {
            // The token changed an attribute that we asked for.
            return Err(Failed::new(Exit::Unreachable, bad));
        }
        let keks = ring.keks().into_iter();
        let mut same = keks.filter(|kek| made.fingerprint.as_ref() == Ok(&kek.fingerprint));
        if let Some(kek) = same.next() {
            return Ok(Line::of_kek(&ring, kek));
        }
        if Instant::now() >= end {
            let why = looked.err().map_or_else(String::new, |error| format!(" ({error})"));
            let message = format!(
                "KEK \"{}\" was made, but the token does not show it yet{why}. Look with \
                 `p11-kms key list` before you make another",
                made.label
            );
            return Err(Failed::new(Exit::Unreachable, message));
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn list(cli: &Cli, access: &Access) -> Result<(), Failed> {
    access.open().await?;
    let ring = access.keyring.ring();
    let mut lines: Vec<Line> =
        ring.keks().into_iter().map(|kek| Line::of_kek(&ring, kek)).collect();
    lines.extend(ring.refused().iter().map(|bad| Line {
        generation: bad.generation.number(),
        label: bad.label.clone(),
        state: "refused",
        key_id: None,
        key_id_hash: None,
        id: None,
        attributes: None,
        problems: bad.reasons.clone(),
    }));
    lines.sort_by_key(|line| line.generation);
    let text = if lines.is_empty() {
        "no KEKs on this token; make one with `p11-kms key generate`".to_owned()
    } else {
        let lines: Vec<String> = lines.iter().map(Line::text).collect();
        lines.join("\n")
    };
    cli.print(text, &lines)
}

impl Line {
    fn of_kek(ring: &Ring, kek: &Kek) -> Self {
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

    fn text(&self) -> String {
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
