#![forbid(unsafe_code)]
//! How every command reaches the token: through a worker, as `serve` does.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::{Exit, Failed};
use crate::config::Config;
use crate::generation::Generation;
use crate::keyring::{Epoch, Keyring, Memory, Record, Reinstated, Rules, Settings};
use crate::state;
use crate::token::protocol::{Class, Failure, Report, Setup};
use crate::token::{self, Capacity, Client, Workers};

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
        let (client, workers) = token::start(setup, Capacity { workers: 1, queue_length: 16 });
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
        Self { client, keyring, workers }
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
    }
}

/// A start that failed: is it what the config names, or the token?
fn failed(failure: &Failure) -> Failed {
    let exit = match failure.class {
        Class::PinSource | Class::Module => Exit::Usage,
        _ => Exit::Unreachable,
    };
    Failed::new(exit, failure)
}
