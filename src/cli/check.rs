#![forbid(unsafe_code)]
//! What may be said to `check`, and every check that there is.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

/// How to check.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// A warning is a no as well: exit code 1.
    #[arg(long)]
    pub strict: bool,
    /// Show only what is not in order.
    #[arg(long, short)]
    pub quiet: bool,
    /// Leave the token alone: no module is loaded and no PIN is tried.
    #[arg(long)]
    pub offline: bool,
    /// How long the token may take in all.
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Do these checks and no others; docs/check.md has the list.
    #[arg(long, value_name = "ID", value_delimiter = ',', hide_possible_values = true)]
    pub only: Vec<CheckId>,
    /// Leave these checks out.
    #[arg(long, value_name = "ID", value_delimiter = ',', hide_possible_values = true)]
    pub skip: Vec<CheckId>,
}

impl CheckArgs {
    /// Is this check asked for?
    #[must_use]
    pub fn wants(&self, id: CheckId) -> bool {
        (self.only.is_empty() || self.only.contains(&id))
            && !self.skip.contains(&id)
            && !(self.offline && id.needs_token())
    }
}

/// Every check, in the order in which they are told. The names are stable: programs look for
/// them. docs/check.md says what each one means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckId {
    /// The config can be read and makes sense.
    Config,
    /// Nobody else may change the config.
    ConfigFile,
    /// The profile was tried by this project.
    Profile,
    /// The module is one that the profile is made for.
    ProfileFit,
    /// No weak KEK is allowed.
    WeakKek,
    /// The PIN can be read, and by few.
    PinSource,
    /// The state directory can be used.
    State,
    /// The audit log can be written.
    AuditLog,
    /// Nobody else may change the module.
    ModuleFile,
    /// Nobody else may change this program.
    Binary,
    /// The socket's directory is safe.
    SocketDirectory,
    /// Who may call can reach the socket.
    SocketAccess,
    /// Is a daemon running on this socket?
    Daemon,
    /// Those who watch can be let in.
    MetricsListen,
    /// Memory can be locked.
    MemoryLock,
    /// Nothing is swapped to a disk in the clear.
    Swap,
    /// No core is dumped.
    CoreDumps,
    /// There are descriptors for all connections.
    Descriptors,
    /// The clock is not behind.
    Clock,
    /// The module loads and starts.
    Module,
    /// The token is there, once.
    Token,
    /// No wrong PIN has been counted.
    PinCounter,
    /// The token takes the PIN.
    Login,
    /// The token does RFC 3394.
    Mechanisms,
    /// The start gave no warning.
    TokenWarning,
    /// The token answers all that is asked of it, in time.
    Answers,
    /// The token is in order and can be written to.
    TokenFlags,
    /// The token has room for another KEK.
    TokenMemory,
    /// The token's clock and this host's agree.
    TokenClock,
    /// There are sessions for all workers and for a command.
    Sessions,
    /// The mechanisms in use have the flags that their method needs.
    MechanismFlags,
    /// The token's RFC 3394 is that of the RFC.
    KnownAnswer,
    /// The token's RFC 5649 is that of the RFC.
    KnownAnswerKwp,
    /// What this node remembers is of this token.
    StateRecord,
    /// Each KEK cannot leave the token.
    Kek,
    /// Each KEK was made on the token and was never outside.
    KekHistory,
    /// Each KEK may do what its method needs, and no more.
    KekUsage,
    /// No KEK is past its end, or before its start.
    KekDates,
    /// No two KEKs have one generation.
    KekGenerations,
    /// No KEK waits for too long.
    KekWaiting,
    /// There is a KEK to write with.
    ActiveKek,
    /// The active KEK is not too old.
    KekAge,
    /// The active KEK wraps, and unwraps to the same.
    RoundTrip,
}

impl CheckId {
    /// Is it tried on the token?
    #[must_use]
    pub fn needs_token(self) -> bool {
        self >= Self::Module
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Nothing but the command's name was said.
#[cfg(test)]
pub(crate) fn all() -> CheckArgs {
    use clap::{Args, Command, FromArgMatches};
    let command = CheckArgs::augment_args(Command::new("check"));
    CheckArgs::from_arg_matches(&command.get_matches_from(["check"])).unwrap()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The names in the first column of the tables of docs/check.md.
    fn documented() -> Vec<&'static str> {
        let rows = include_str!("../../docs/check.md").lines();
        rows.filter_map(|row| row.strip_prefix("| `")?.split_once('`').map(|(id, _)| id)).collect()
    }

    #[test]
    fn the_document_names_exactly_the_checks_that_there_are() {
        let names: Vec<String> = CheckId::value_variants().iter().map(|id| id.name()).collect();
        assert!(names.len() >= 25, "{names:?}");
        assert_eq!(documented(), names);
        assert_eq!(BTreeSet::from_iter(&names).len(), names.len(), "a name stands twice");
    }

    #[test]
    fn a_name_is_the_same_on_the_command_line_and_in_json() {
        for id in CheckId::value_variants() {
            assert_eq!(serde_json::to_value(id).unwrap(), id.name());
        }
    }

    #[test]
    fn what_is_asked_for() {
        let args = CheckArgs { offline: true, skip: vec![CheckId::Swap], ..all() };
        assert!(args.wants(CheckId::Clock) && !args.wants(CheckId::Swap));
        assert!(!args.wants(CheckId::Module) && !args.wants(CheckId::RoundTrip));
        let args = CheckArgs { only: vec![CheckId::Login], ..all() };
        assert!(args.wants(CheckId::Login) && !args.wants(CheckId::Token));
    }
}
