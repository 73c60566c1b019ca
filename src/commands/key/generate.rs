#![forbid(unsafe_code)]
//! `key generate`: the next generation, made on the token.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::line::Line;
use crate::cli::Cli;
use crate::commands::token_access::{Access, PATIENCE};
use crate::commands::{Exit, Failed};
use crate::config::Config;
use crate::generation::Generation;
use crate::token::protocol::FoundKey;

/// How long a token may take to show a new KEK.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(super) async fn generate(
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
