//! The audit log of a throw-away token's daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::process::Ended;
use super::token::Token;
use super::{eventually, process};

impl Token {
    /// Where its audit log is.
    pub(crate) fn audit(&self) -> PathBuf {
        self.path("audit/audit.jsonl")
    }

    /// Sets an audit log up; `more` is of its section.
    pub(crate) fn audited(self, more: &str) -> Self {
        fs::create_dir_all(self.path("audit")).unwrap();
        let section = format!("[audit]\nfile = {:?}\n{more}\n", self.audit());
        self.write_config(&format!("{}{section}", self.usual_config()));
        self
    }

    /// The lines so far.
    pub(crate) fn audit_lines(&self) -> Vec<Value> {
        lines_of(&self.audit())
    }

    /// Those of one kind.
    pub(crate) fn audit_events(&self, event: &str) -> Vec<Value> {
        self.audit_lines().into_iter().filter(|line| line["event"] == event).collect()
    }

    /// Waits for a line like that.
    pub(crate) async fn audit_line(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let look = async || self.audit_lines().into_iter().find(|line| is_it(line));
        eventually(&format!("a line of the audit log: {what}"), look).await
    }

    /// `audit verify` of these files, whose last is the log.
    pub(crate) fn verify(&self, files: &[&Path]) -> Ended {
        process::run(self.verify_command(files))
    }

    fn verify_command(&self, files: &[&Path]) -> Command {
        let mut command = self.command();
        command.args(["audit", "verify", "--output", "json"]).args(files);
        command
    }

    /// Fails unless these files are intact up to their end. Gives how many lines they have.
    #[track_caller]
    pub(crate) fn intact(&self, files: &[&Path]) -> u64 {
        let ended = self.verify(files);
        assert_eq!(ended.code(), Some(0), "{ended:?}");
        let found = ended.json();
        assert_eq!((&found["intact"], &found["end_proven"]), (&true.into(), &true.into()));
        assert_eq!(found["first_seq"], 1, "{found}");
        assert_eq!(found["last_seq"], found["lines"], "{found}");
        found["lines"].as_u64().unwrap()
    }
}

/// The lines of a file; none if it is not there.
pub(crate) fn lines_of(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The last one may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
