#![forbid(unsafe_code)]
//! `key destroy`: one KEK less, when it is certain that nothing needs it.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::line::Line;
use super::trail::Trail;
use crate::cli::{Cli, Destroy};
use crate::client;
use crate::commands::token_access::{Access, PATIENCE};
use crate::commands::{Exit, Failed, usage};
use crate::config::Config;
use crate::generation::Generation;
use crate::keyring::{Epoch, Kek, KeyId, Ring, State};
use crate::proto::StatusRequest;
use crate::timestamp::Timestamp;

/// kube-apiserver goes on writing with a seed of the last KEK until it asks for Status again:
/// 3 minutes after a rotation at the latest, and the rule of KMS v2 adds 5 for safety.
const SETTLED: Duration = Duration::from_secs(8 * 60);

/// How long the daemon of this node may take to say what it writes with.
const ASK: Duration = Duration::from_secs(3);

/// What `key destroy` did.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Outcome {
    kek: Line,
    /// How many stored objects were looked at. `null`: nobody looked.
    objects_counted: Option<u64>,
    warnings: Vec<String>,
}

pub(super) async fn destroy(
    cli: &Cli,
    config: &Config,
    access: &Access,
    trail: &Trail,
    wanted: &Destroy,
) -> Result<(), Failed> {
    access.open().await?;
    let ring = access.keyring.ring();
    let kek = choose(&ring, wanted, &config.keyring.label)?;
    trail.about(kek.generation, Some(&kek.key_id));
    refuse_needed(&ring, &kek)?;
    refuse_served(config, &kek).await?;
    let objects_counted = if wanted.without_usage_check {
        confirm(&kek)?;
        None
    } else {
        Some(refuse_used(cli, config, wanted, &ring, &kek).await?)
    };
    // Counting and typing take their time.
    access.keyring.look().await.map_err(|error| Failed::new(Exit::Unreachable, error))?;
    let ring = access.keyring.ring();
    refuse_needed(&ring, &kek)?;
    let mut warnings = too_soon(&ring);
    if objects_counted.is_some() {
        if wanted.etcd.over(&config.etcd).snapshot.is_some() {
            warnings
                .push("a snapshot shows the past: what was written since is not counted".into());
        }
        confirm_warnings(&warnings, &kek)?;
    }

    trail.begin().await?;
    let gone = access.client.destroy(&kek.fingerprint, &kek.label, PATIENCE).await;
    gone.map_err(|error| {
        let what = "`p11-kms key list` shows whether it is still there";
        Failed::new(Exit::Unreachable, format!("KEK \"{}\": {error}. {what}", kek.label))
    })?;
    trail.done();
    let now = Timestamp::now();
    let noted = access.keyring.note(|record| {
        record.known(&kek.key_id, kek.generation).destroyed = Some(now);
    });
    if let Err(error) = noted.await {
        warnings
            .push(format!("the record on the token does not say that it is destroyed: {error}"));
    }
    let mut line = Line::of_kek(&ring, &kek);
    line.state = "destroyed";
    line.destroyed = Some(now);
    let mut text = format!("destroyed KEK \"{}\" (generation {})", kek.label, kek.generation);
    for warning in &warnings {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    cli.print(text, &Outcome { kek: line, objects_counted, warnings })
}

fn refused(why: impl std::fmt::Display) -> Failed {
    Failed::new(Exit::Refused, format!("nothing was destroyed: {why}"))
}

/// The one KEK that is meant.
fn choose(ring: &Ring, wanted: &Destroy, base: &str) -> Result<Arc<Kek>, Failed> {
    let usage = |why: String| Failed::new(Exit::Usage, format!("nothing was destroyed: {why}"));
    let generation = Generation::new(wanted.generation);
    let is_named = |kek: &Arc<Kek>| match &wanted.key_id {
        Some(key_id) => ring.get(key_id).is_some_and(|named| named.key_id == kek.key_id),
        None => true,
    };
    let same = || ring.keks().iter().filter(|kek| kek.generation == generation);
    let mut named = same().filter(|kek| is_named(kek));
    match (named.next(), named.next()) {
        (Some(kek), None) => Ok(kek.clone()),
        (Some(_), Some(_)) => {
            let key_ids: Vec<_> = same().map(|kek| kek.key_id.to_string()).collect();
            Err(usage(format!(
                "there are {} KEKs of generation {generation}: say which with --key-id: {}",
                key_ids.len(),
                key_ids.join(", ")
            )))
        }
        (None, _) if wanted.key_id.is_some() => {
            Err(usage(format!("no KEK of generation {generation} has that key_id")))
        }
        (None, _) => {
            let bad = ring.refused().iter().find(|bad| bad.generation == generation);
            Err(usage(match bad {
                Some(bad) => format!(
                    "\"{}\" is refused, so that its key_id is not known. Remove it with another tool",
                    bad.label
                ),
                None => format!(
                    "no KEK \"{}\" is on the token. `p11-kms key list` shows what is there",
                    generation.label(base)
                ),
            }))
        }
    }
}

/// What this node's record and the token's say.
fn refuse_needed(ring: &Ring, kek: &Kek) -> Result<(), Failed> {
    let Kek { label, generation, .. } = kek;
    match ring.state(kek) {
        State::Deactivated if ring.active().is_some() => Ok(()),
        State::Deactivated => Err(refused(format!(
            "no KEK is active now, so that generation {generation} may be needed to put one back"
        ))),
        State::Active => Err(refused(format!(
            "KEK \"{label}\" (generation {generation}) is the active one. Rotate first \
             (`p11-kms key rotate`), and have everything rewritten"
        ))),
        State::PreActive => Err(refused(format!(
            "KEK \"{label}\" (generation {generation}) is waiting to become active, and is so on \
             another node perhaps. Let it, rotate once more, and have everything rewritten"
        ))),
    }
}

/// What the daemon of this node says, if it runs: a command may not see its state directory.
async fn refuse_served(config: &Config, kek: &Kek) -> Result<(), Failed> {
    let Ok(mut client) = client::connect(&config.server.endpoint, ASK).await else {
        return Ok(());
    };
    let Ok(status) = client.status(StatusRequest {}).await else { return Ok(()) };
    if names(kek).contains(&status.get_ref().key_id) {
        let why = format!("the daemon of this node writes with KEK \"{}\"", kek.label);
        return Err(refused(why));
    }
    Ok(())
}

/// Every key_id that an object may have been written under.
fn names(kek: &Kek) -> Vec<String> {
    let name = |epoch| KeyId::new(kek.generation, epoch, &kek.fingerprint).to_string();
    Epoch::all().map(name).collect()
}

/// Counts, and refuses if one object needs it. Gives the number of objects.
async fn refuse_used(
    cli: &Cli,
    config: &Config,
    wanted: &Destroy,
    ring: &Ring,
    kek: &Kek,
) -> Result<u64, Failed> {
    let tally = usage::count(cli, &wanted.etcd, &config.etcd).await.map_err(|failed| {
        failed.because(
            "nothing was destroyed, since it is not known whether stored objects need the KEK \
             (--without-usage-check does without)",
        )
    })?;
    let in_words = |found: Vec<(String, u64)>| {
        let each = found.into_iter().map(|(resource, count)| format!("{count} {resource}"));
        each.collect::<Vec<_>>().join(", ")
    };
    let needed = names(kek);
    let needed: Vec<&str> = needed.iter().map(String::as_str).collect();
    let needing = tally.needing(&needed);
    if !needing.is_empty() {
        return Err(refused(format!(
            "KEK \"{}\" (generation {}) is needed by {}. Have them rewritten, then try again",
            kek.label,
            kek.generation,
            in_words(needing)
        )));
    }
    let unreadable = tally.unreadable();
    if !unreadable.is_empty() {
        return Err(refused(format!(
            "of {} nobody can tell which KEK they need: `p11-kms usage` shows more",
            in_words(unreadable)
        )));
    }
    let ours: Vec<String> = ring.keks().iter().flat_map(|kek| names(kek)).collect();
    let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
    if tally.needing(&ours).is_empty() {
        return Err(refused(format!(
            "of {} objects none is under any KEK of this keyring. Is this the etcd of this cluster, and \
             --prefix right? If so, --without-usage-check does without",
            tally.total.objects
        )));
    }
    Ok(tally.total.objects)
}

/// A person can still think about it; a script was written by one who did.
fn confirm_warnings(warnings: &[String], kek: &Kek) -> Result<(), Failed> {
    if warnings.is_empty() || !io::stdin().is_terminal() {
        return Ok(());
    }
    for warning in warnings {
        // Who cannot be told cannot answer either.
        let _ = writeln!(io::stderr(), "warning: {warning}");
    }
    confirm(kek)
}

/// Nobody has looked whether it is needed: somebody must have thought about it.
fn confirm(kek: &Kek) -> Result<(), Failed> {
    let mut out = io::stderr();
    // Who cannot be asked cannot answer either.
    let _ = write!(
        out,
        "Whatever is stored under KEK \"{}\" will be lost for good. Type its generation to go on: ",
        kek.label
    );
    let _ = out.flush();
    let mut typed = String::new();
    // What cannot be read is not it either.
    if io::stdin().lock().read_line(&mut typed).is_ok()
        && typed.trim() == kek.generation.to_string()
    {
        return Ok(());
    }
    Err(refused(format!("the generation was not typed (it is {})", kek.generation)))
}

/// Others may still write with it, if the rotation was a moment ago.
fn too_soon(ring: &Ring) -> Vec<String> {
    let since = ring.record().active.as_ref().map(|active| active.since);
    let recent = since.filter(|since| Timestamp::now().since(*since) < SETTLED);
    recent.map(|since| format!(
        "the active KEK is so only since {since}. Until 8 minutes after that an apiserver may still \
         have written under an older one: run `p11-kms usage` then"
    )).into_iter().collect()
}
