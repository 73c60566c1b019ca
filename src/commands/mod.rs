#![forbid(unsafe_code)]
//! What each command does, one file a command.

mod age;
mod audit;
mod bench;
mod check;
mod completions;
mod encryption_config;
mod key;
mod man;
mod probe;
mod serve;
mod status;
mod token_access;
mod usage;
mod watchdog;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::{Cli, Command, Output};
use crate::config::{Config, ConfigError, Endpoint};
use crate::logging::{self, Pace};
use crate::{memory, worker};

/// How a command ended, if not well. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ran, and the answer is no.
    No = 1,
    /// The command line, the config, or what it names is wrong.
    Usage = 2,
    /// The token or the daemon cannot be reached, or refuses.
    Unreachable = 3,
    /// It could be done, and would not be safe.
    Refused = 4,
}

/// Why a command could not do its work.
#[derive(Debug)]
pub struct Failed {
    exit: Exit,
    message: String,
}

impl Failed {
    fn new(exit: Exit, message: impl Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// Says first what did not happen because of it.
    fn because(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }
}

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::new(Exit::Unreachable, error)
    }
}

/// Runs the command and tells the shell how it went.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    let outcome = dispatch(cli);
    logging::flush();
    match outcome {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(exit)) => ExitCode::from(exit as u8),
        Err(Failed { exit, message }) => {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(io::stderr(), "p11-kms: {message}");
            ExitCode::from(exit as u8)
        }
    }
}

fn dispatch(cli: &Cli) -> Result<Option<Exit>, Failed> {
    memory::seal().map_err(|error| {
        let what = "this process cannot be kept from core dumps and debuggers";
        Failed::new(Exit::Unreachable, format!("{what} (setrlimit(2), prctl(2)): {error}"))
    })?;
    if let Command::TokenWorker = cli.command {
        worker::run()?;
        return Ok(None);
    }
    // A command's result is what counts; a daemon's log is all there is of it.
    let (usual, pace) = match cli.command {
        Command::Serve => ("info", Pace::Gathered),
        _ => ("off", Pace::Line),
    };
    logging::start(cli.log_format, cli.log.as_deref().unwrap_or(usual), pace)
        .map_err(|error| Failed::new(Exit::Usage, error))?;
    match &cli.command {
        Command::Serve => serve::run(cli).map(|()| None),
        Command::Check(args) => check::run(cli, args),
        Command::Key(command) => key::run(cli, command).map(|()| None),
        Command::Audit(command) => audit::run(cli, command),
        Command::Status(dial) => status::run(cli, dial),
        Command::Probe(dial) => probe::run(cli, dial),
        Command::Bench(wanted) => bench::run(cli, wanted),
        Command::EncryptionConfig(wanted) => encryption_config::run(cli, wanted).map(|()| None),
        Command::Usage(args) => usage::run(cli, args).map(|()| None),
        Command::Completions { shell } => completions::run(*shell).map(|()| None),
        Command::Man { directory } => man::run(directory.as_deref()).map(|()| None),
        Command::TokenWorker => Ok(None),
    }
}

impl Cli {
    fn load_config(&self) -> Result<Config, ConfigError> {
        Config::load(&self.config, std::env::vars_os(), &self.set)
    }

    /// The endpoint of the flag, or else of the config: who names one needs no config.
    fn endpoint(&self, flag: Option<&Endpoint>) -> Result<Endpoint, Failed> {
        match flag {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Ok(self.load_config()?.server.endpoint),
        }
    }

    /// Writes a result: `text` for people, `value` for programs.
    fn print(&self, text: impl Display, value: &impl Serialize) -> Result<(), Failed> {
        let mut out = io::stdout().lock();
        enough(match self.output {
            Output::Text => writeln!(out, "{text}"),
            Output::Json => serde_json::to_writer_pretty(&mut out, value)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out)),
        })
    }
}

/// Writes a result that has one form only.
fn printed(bytes: &[u8]) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    enough(out.write_all(bytes).and_then(|()| out.flush()))
}

fn enough(printed: io::Result<()>) -> Result<(), Failed> {
    match printed {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

/// A runtime of one thread: a second one would cost a fifth more CPU, since
/// every request would cross between them.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(logging::flush)
        .build()
}
