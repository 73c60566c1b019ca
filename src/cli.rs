#![forbid(unsafe_code)]
//! The command line: what may be said. What it does is in [`crate::commands`].

mod audit;
mod bench;
mod check;
mod etcd;
mod key;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::config::{DEFAULT_PATH, Endpoint};
use crate::token::protocol::WORKER_COMMAND;

pub use audit::{AuditCommand, Verify};
pub use bench::{Bench, BenchPart};
#[cfg(test)]
pub(crate) use check::all as all_checks;
pub use check::{CheckArgs, CheckId};
pub use etcd::EtcdArgs;
pub use key::{Destroy, Hash, ImportKey, KeyCommand, Wrapping};

/// Kubernetes KMS v2 plugin: the key-encryption key stays in a PKCS#11 token.
#[derive(Debug, Parser)]
#[command(name = "p11-kms", version, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done; 1 it ran and the answer is no; 2 usage, config, or what \
                        it names; 3 the token or the daemon cannot be reached or refuses; 4 refused \
                        for safety."
)]
pub struct Cli {
    /// Configuration file.
    #[arg(long, global = true, help_heading = "Global options", value_name = "FILE", env = "P11_KMS_CONFIG", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
    /// Override one key of the configuration, e.g. --set token.profile=softhsm.
    #[arg(long, global = true, help_heading = "Global options", value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// How results are written to standard output.
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "P11_KMS_OUTPUT",
        default_value = "text"
    )]
    pub output: Output,
    /// How the log is written to standard error [default: text on a terminal, json elsewhere].
    #[arg(long, global = true, help_heading = "Global options", env = "P11_KMS_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged: a level, or directives such as p11_kms=debug [default: info for serve, off for the rest].
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "FILTER",
        env = "P11_KMS_LOG"
    )]
    pub log: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// A shell that completes words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon.
    Serve,
    /// Check every precondition; one line each, with the remedy.
    Check(CheckArgs),
    /// Make, list, rotate, import and destroy KEKs.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Look whether the audit log is as it was written.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Ask the running daemon how it is.
    Status(Dial),
    /// One Encrypt and Decrypt through the socket, as kube-apiserver would do it.
    Probe(Dial),
    /// Measure the token, alone and through the socket, against what kube-apiserver allows.
    Bench(Bench),
    /// Print the EncryptionConfiguration for kube-apiserver.
    EncryptionConfig(EncryptionConfig),
    /// Count the stored objects that need each key_id, in etcd or in a snapshot of it.
    Usage(EtcdArgs),
    /// Print the script that completes commands and flags in a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the man page, or write all of them into a directory.
    Man {
        /// A directory that exists; each command gets a page there.
        directory: Option<PathBuf>,
    },
    /// The process that loads the PKCS#11 module. Started by `serve`.
    #[command(name = WORKER_COMMAND, hide = true)]
    TokenWorker,
}

/// How to reach the daemon.
#[derive(Debug, clap::Args)]
pub struct Dial {
    /// Its socket [default: server.endpoint of the configuration].
    #[arg(long, value_name = "unix:///PATH")]
    pub endpoint: Option<Endpoint>,
    /// How long to wait for an answer; kube-apiserver waits 3s.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// What goes into the EncryptionConfiguration.
#[derive(Debug, clap::Args)]
pub struct EncryptionConfig {
    /// The socket [default: server.endpoint of the configuration].
    #[arg(long, value_name = "unix:///PATH")]
    pub endpoint: Option<Endpoint>,
    /// The provider's name. It becomes part of every stored object: never change it.
    #[arg(long, default_value = "p11-kms", value_parser = provider_name)]
    pub name: String,
    /// What to encrypt, as kube-apiserver names it.
    #[arg(long, value_name = "RESOURCE", value_delimiter = ',', default_value = "secrets", value_parser = resource_name)]
    pub resources: Vec<String>,
    /// Leave out the identity provider, once everything stored is encrypted.
    #[arg(long)]
    pub no_identity: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as section.key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// kube-apiserver puts the name between colons into every stored value.
fn provider_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(plain) {
        return Err("use letters, digits, '-', '_' and '.' only".to_owned());
    }
    Ok(text.to_owned())
}

fn resource_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'*');
    if text.is_empty() || !text.bytes().all(plain) {
        return Err("use names such as secrets, configmaps or *.apps".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_and_after_the_command() {
        for line in [
            ["p11-kms", "--config", "/c", "--output", "json", "key", "list"],
            ["p11-kms", "key", "list", "--config", "/c", "--output", "json"],
            ["p11-kms", "key", "--config", "/c", "list", "--output", "json"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.config, PathBuf::from("/c"));
            assert_eq!(cli.output, Output::Json);
        }
    }

    #[test]
    fn a_provider_name_cannot_break_the_stored_form() {
        assert!(provider_name("a:b").is_err());
        assert!(provider_name("").is_err());
        assert!(provider_name("p11-kms").is_ok());
    }
}
