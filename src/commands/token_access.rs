#![forbid(unsafe_code)]
//! How every command reaches the token: through a worker, as `serve` does.

use std::sync::Arc;
use std::time::Duration;

use super::{Exit, Failed};
use crate::config::Config;
use crate::keyring::Keyring;
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

/// A command's own worker, with one session.
pub(super) struct Access {
    pub(super) client: Client,
    pub(super) keyring: Arc<Keyring>,
    workers: Workers,
}

impl Access {
    /// Starts the worker. Must be called within the runtime.
    pub(super) fn start(config: &Config) -> Self {
        let mut setup = setup(config);
        setup.profile.sessions = 1;
        let (client, workers) = token::start(setup, Capacity { workers: 1, queue_length: 16 });
        let keyring = Arc::new(Keyring::new(
            client.clone(),
            config.keyring.label.clone(),
            config.token.allow_weak_kek,
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
