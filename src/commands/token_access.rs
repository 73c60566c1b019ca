#![forbid(unsafe_code)]
//! How every command reaches the token: through a worker, as `serve` does.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{getpid, getuid};

use super::{Exit, Failed};
use crate::audit::{self, AuditEvent, Event};
use crate::config::{self, Config};
use crate::generation::Generation;
use crate::keyring::{Epoch, Keyring, Memory, Record, Reinstated, Rules, Settings};
use crate::state;
use crate::token::protocol::{Class, Failure, Report, Setup};
use crate::token::{self, Capacity, Client, PinEvent, Workers};

/// How long a command waits for one job.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How long a command waits for its worker to log out.
const FAREWELL: Duration = Duration::from_secs(3);

/// What a worker must know, out of the config.
pub(super) fn setup(config: &Config) -> Setup {
    Setup {
        module: config.token.module.clone(),
        uri: config.token.uri.clone(),
        pin: config.token.pin.clone(),
        profile: config.token.profile.clone(),
        require_fips: config.token.require_fips,
        label: config.keyring.label.clone(),
        pin_stamp: None,
        login_in_doubt: false,
    }
}

/// When what becomes active, and which keys are taken, out of the config.
pub(super) fn keyring_settings(config: &Config) -> Settings {
    let reinstate = config.keyring.reinstate.and_then(|wanted| {
        let epoch = Epoch::new(wanted.epoch)?;
        Some(Reinstated { epoch, generation: Generation::new(wanted.generation) })
    });
    Settings {
        allow_weak: config.token.allow_weak_kek,
        allow_imported: config.token.allow_imported_kek,
        rules: Rules { delay: config.keyring.activation_delay, reinstate },
    }
}

/// The records in the state directory, by their files' names.
pub(super) fn records(config: &Config) -> Result<Vec<(String, Record)>, Failed> {
    let dir = &config.keyring.state_dir;
    let usage = |error: &dyn Display| Failed::new(Exit::Usage, error);
    let label = &config.keyring.label;
    let found = state::read_all(dir, label).map_err(|error| usage(&error))?;
    let parse = |(name, text): (String, String)| match Record::parse(&text, label) {
        Ok(record) => Ok((name, record)),
        Err(bad) => {
            let file = dir.join(name).display().to_string();
            Err(usage(&format_args!(
                "keyring.state-dir: {file} is not to be trusted: {bad}. Move it away (mv {file} \
                 {file}.bad) and start again: the copy on the token is taken then, or, if the \
                 token keeps none, the highest generation on it becomes active. Compare \
                 `p11-kms key list` with a node that is well"
            )))
        }
    };
    found.into_iter().map(parse).collect()
}

/// A command's own worker, with one session.
pub(super) struct Access {
    pub(super) client: Client,
    pub(super) keyring: Arc<Keyring>,
    workers: Workers,
    pins: Pins,
}

/// What became of the PIN, for the audit log.
struct Pins {
    seen: Arc<Mutex<Vec<PinEvent>>>,
    log: Option<config::Audit>,
    state_dir: PathBuf,
}

impl Access {
    /// Starts the worker. Must be called within the runtime.
    ///
    /// # Errors
    /// The state directory holds no record that could be trusted.
    pub(super) fn start(config: &Config) -> Result<Self, Failed> {
        Ok(Self::with(config, records(config)?))
    }

    /// The same with records that were read before.
    pub(super) fn with(config: &Config, records: Vec<(String, Record)>) -> Self {
        let memory = Memory::read(records);
        let mut setup = setup(config);
        setup.profile.sessions = 1;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = seen.clone();
        let tell = Arc::new(move |event| {
            told.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        });
        let capacity = Capacity { workers: 1, queue_length: 16 };
        let (client, workers) = token::start_telling(setup, capacity, tell);
        let state_dir = config.keyring.state_dir.clone();
        let pins = Pins { seen, log: config.audit.clone(), state_dir };
        let keyring = Arc::new(Keyring::new(
            client.clone(),
            config.keyring.label.clone(),
            // A command waits for no KEK and puts none back: that is the daemon's.
            Settings {
                rules: Rules { delay: Duration::MAX, reinstate: None },
                ..keyring_settings(config)
            },
            memory,
        ));
        Self { client, keyring, workers, pins }
    }

    /// Waits until the token is there, and looks at its KEKs.
    pub(super) async fn open(&self) -> Result<Arc<Report>, Failed> {
        let report = self.client.ready().await.map_err(|failure| failed(&failure))?;
        self.keyring.look().await.map_err(|error| Failed::new(Exit::Unreachable, error))?;
        Ok(report)
    }

    /// Logs out.
    pub(super) async fn close(self) {
        self.workers.stop(FAREWELL).await;
        self.pins.tell().await;
    }
}

impl Pins {
    /// Only what did not go well: that a command could log in shows in what it did. A log that
    /// cannot be written is no reason to fail, and none is begun for this.
    async fn tell(self) {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let is_bad = |event: &PinEvent| {
            !matches!(event, PinEvent::Accepted | PinEvent::Latched | PinEvent::Cleared)
        };
        let bad: Vec<PinEvent> = seen.into_iter().filter(is_bad).collect();
        if bad.is_empty() || !self.state_dir.is_dir() {
            return;
        }
        let Ok(writer) = audit::open(self.log.as_ref(), &self.state_dir) else { return };
        for event in bad {
            writer.audit().tell(Event {
                peer_uid: Some(getuid().as_raw()),
                peer_pid: Some(getpid().as_raw()),
                ..of_pin(event)
            });
        }
        writer.close().await;
    }
}

/// The line in the audit log for what happened to the PIN.
pub(super) fn of_pin(event: PinEvent) -> Event {
    let outcome = match event {
        PinEvent::Accepted | PinEvent::Cleared => "ok",
        PinEvent::Refused => "refused",
        _ => "failed",
    };
    let detail = Some(event.name().to_owned());
    Event { outcome: Some(outcome), detail, ..Event::new(AuditEvent::Pin) }
}

/// A start that failed: is it what the config names, or the token?
fn failed(failure: &Failure) -> Failed {
    let exit = match failure.class {
        Class::PinSource | Class::Module => Exit::Usage,
        _ => Exit::Unreachable,
    };
    Failed::new(exit, failure)
}
