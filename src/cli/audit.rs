#![forbid(unsafe_code)]
//! The commands that are about the audit log.

use std::path::PathBuf;

use clap::Subcommand;

/// What can be done with the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Verify the chain of its lines: was one changed, removed, moved or repeated? Exit code 1
    /// if so.
    Verify(Verify),
}

/// The log that is to be verified.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Its files, the oldest first; - reads standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The daemon's audit.head, which tells whether the end is there [default: the one in
    /// keyring.state-dir, if the last FILE is audit.file of the configuration].
    #[arg(long, value_name = "FILE")]
    pub head: Option<PathBuf>,
}
