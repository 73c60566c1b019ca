//! `[audit]`: where each use of the KEKs is written down, and what follows if it cannot be.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::source::Settings;
use super::value::{Value, absolute_path, quoted, text};

/// Where the audit log goes, and what follows if it cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Where the lines go.
    pub place: AuditPlace,
    /// What a line that cannot be written does to what it tells of.
    pub on_failure: OnFailure,
}

/// Where the lines of the audit log go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditPlace {
    /// To the end of this file, an absolute path.
    File(PathBuf),
    /// To the journal of systemd.
    Journal,
}

/// What is refused while the audit log cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Encrypts, and commands that change the token.
    Refuse,
    /// Decrypts as well.
    RefuseAll,
    /// Nothing.
    Continue,
}

/// None unless a place is set.
pub(super) fn audit(settings: &mut Settings) -> Option<Audit> {
    let on_failure = settings.read_or("audit.on-failure", OnFailure::Refuse, on_failure);
    if settings.has("audit.on-failure") && !settings.has("audit.file") {
        let what = "there is no audit log: set audit.file as well, or remove this";
        settings.refuse("audit.on-failure", what);
    }
    let place = settings.read("audit.file", place)?;
    Some(Audit { place, on_failure })
}

fn place(value: &Value) -> Result<AuditPlace, String> {
    match text(value)?.as_str() {
        "journal" => Ok(AuditPlace::Journal),
        other if !other.starts_with('/') => Err(format!(
            "must be \"journal\" or the absolute path of a file, not {}",
            quoted(other)
        )),
        _ => absolute_path(value).map(AuditPlace::File),
    }
}

fn on_failure(value: &Value) -> Result<OnFailure, String> {
    match text(value)?.as_str() {
        "refuse" => Ok(OnFailure::Refuse),
        "refuse-all" => Ok(OnFailure::RefuseAll),
        "continue" => Ok(OnFailure::Continue),
        other => Err(format!(
            "must be \"refuse\", \"refuse-all\" or \"continue\", not {}",
            quoted(other)
        )),
    }
}
