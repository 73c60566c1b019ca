#![forbid(unsafe_code)]
//! `key list`: all KEKs of the keyring.

use super::line::Line;
use crate::cli::Cli;
use crate::commands::Failed;
use crate::commands::token_access::Access;

pub(super) async fn list(cli: &Cli, access: &Access) -> Result<(), Failed> {
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
