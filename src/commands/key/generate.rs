#![forbid(unsafe_code)]
//! `key generate`: the next generation, made on the token.

use super::line::Line;
use super::new::{introduce, next_generation, shown};
use super::trail::Trail;
use crate::cli::Cli;
use crate::commands::token_access::{Access, PATIENCE};
use crate::commands::{Exit, Failed};
use crate::config::Config;
use crate::generation::Generation;

pub(super) async fn generate(
    cli: &Cli,
    config: &Config,
    access: &Access,
    trail: &Trail,
    wanted: Option<Generation>,
) -> Result<(), Failed> {
    access.open().await?;
    let line = make(config, access, trail, wanted).await?;
    cli.print(line.told("made"), &line)
}

/// Makes the next generation. The token must have been looked at.
pub(super) async fn make(
    config: &Config,
    access: &Access,
    trail: &Trail,
    wanted: Option<Generation>,
) -> Result<Line, Failed> {
    let base = &config.keyring.label;
    let generation = next_generation(access, base, wanted)?;
    let label = generation.label(base);
    trail.about(generation, None);
    trail.begin().await?;
    let made = access.client.generate(&label, PATIENCE).await.map_err(|error| {
        Failed::new(
            Exit::Unreachable,
            format!("KEK \"{label}\": {error}. `p11-kms key list` shows whether it was made"),
        )
    })?;
    trail.made(&made);
    // Without the note nobody knows the hour that it was made in: that is all.
    let _ = introduce(access, &made, false).await;
    shown(access, &made).await
}
