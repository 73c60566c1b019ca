//! The configuration: what the administrator may choose, read once and checked
//! once. A [`Config`] that exists is right in itself; whether it fits the
//! machine (the module is there, the token is found) is what `check` tells.
//!
//! `reference` lists the keys, `keys` says what is none, `source` collects their
//! values from the file, the environment and the flags, `value` turns each into
//! what its key wants, and `build` puts a [`Config`] together.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod audit;
mod build;
mod endpoint;
mod error;
mod etcd;
mod keys;
mod listen;
pub mod pin;
pub mod profile;
pub mod reference;
mod reinstate;
mod source;
pub mod uri;
mod value;

pub use audit::{Audit, AuditPlace, OnFailure};
pub use endpoint::{Endpoint, EndpointError};
pub use error::ConfigError;
pub use etcd::{DEFAULT_PREFIX, Etcd, EtcdEndpoint, EtcdEndpointError};
pub use listen::{Listen, ListenError};
pub use pin::{PinError, PinSource, Stamp};
pub use profile::{EcbMechanism, KekType, Login, Method, Profile, ValueLen};
pub use reinstate::Reinstate;
pub use uri::{TokenUri, UriError};

use source::Settings;

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/p11-kms/config.toml";

/// Everything that an administrator may choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[token]`: which token, and how to use it.
    pub token: Token,
    /// `[keyring]`: which keys on the token are KEKs.
    pub keyring: Keyring,
    /// `[server]`: the socket for kube-apiserver.
    pub server: Server,
    /// `[health]`: how often the token is tried.
    pub health: Health,
    /// `[metrics]`: who may watch, and how.
    pub metrics: Metrics,
    /// `[audit]`: the audit log, if there is one.
    pub audit: Option<Audit>,
    /// `[etcd]`: where the stored objects can be counted.
    pub etcd: Etcd,
}

/// Which token, and how to use it.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The PKCS#11 module, an absolute path. Only the worker loads it.
    pub module: PathBuf,
    /// Which of the module's tokens.
    pub uri: TokenUri,
    /// Where its PIN is. The daemon's front never reads it.
    pub pin: PinSource,
    /// What is particular to its family, with what the configuration changes.
    pub profile: Profile,
    /// Refuse [`Method::Ecb`], in which the host takes part in the wrapping.
    pub require_fips: bool,
    /// Accept a KEK that could leave the token. For tests.
    pub allow_weak_kek: bool,
    /// Accept every KEK that was brought onto the token, not only those that `key import`
    /// brought. For tokens that store no data objects.
    pub allow_imported_kek: bool,
}

/// Which keys on the token are KEKs, and when a new one is used.
#[derive(Clone, Debug, PartialEq)]
pub struct Keyring {
    /// What a KEK's `CKA_LABEL` is or begins with: 1 to 200 bytes.
    pub label: String,
    /// How often the token is searched for new KEKs: 1 s to 1 h.
    pub scan_interval: Duration,
    /// How long a new KEK is only read with, so that every node knows it before
    /// one of them writes with it: at most 24 h.
    pub activation_delay: Duration,
    /// Where the daemon keeps how far the keyring has come, an absolute path.
    pub state_dir: PathBuf,
    /// The older KEK that is to be active again, if the operator wants that.
    pub reinstate: Option<Reinstate>,
}

/// The socket for kube-apiserver, who may use it, and its limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Where to listen.
    pub endpoint: Endpoint,
    /// The permission bits of a socket in the file system; never any for others.
    pub socket_mode: u32,
    /// The user that a socket in the file system is given to, as a uid.
    pub socket_owner: Option<u32>,
    /// The group that a socket in the file system is given to, as a gid.
    pub socket_group: Option<u32>,
    /// The users that may connect. With `allow_gids` never empty.
    pub allow_uids: Vec<u32>,
    /// The groups that may connect.
    pub allow_gids: Vec<u32>,
    /// When a call is given up: 100 ms to 60 s. kube-apiserver waits 3 s.
    pub request_timeout: Duration,
    /// Calls that may wait for the token.
    pub queue_length: usize,
    /// Connections that may be open.
    pub max_connections: usize,
    /// Calls at once on one connection.
    pub max_streams: u32,
}

/// How often the token is tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// The time between two tries: 1 s to 10 min.
    pub interval: Duration,
}

/// Where metrics and health are shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Where to listen; nobody does if `None`, and nothing is counted.
    pub listen: Option<Listen>,
    /// The permission bits of a socket in the file system; never any for others.
    pub socket_mode: u32,
}

impl Config {
    /// Reads the file at `path`, puts the environment over it and `overrides`,
    /// dotted keys and values from flags, over both.
    ///
    /// # Errors
    /// The file cannot be read, or something in one of the three is wrong: see
    /// [`ConfigError`].
    pub fn load(
        path: &Path,
        env: impl Iterator<Item = (OsString, OsString)>,
        overrides: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        Self::parse(path, &read(path)?, env, overrides)
    }

    /// As [`Config::load`], with the text of the file at hand: `path` only names it
    /// in errors.
    ///
    /// # Errors
    /// Something in one of the three is wrong: see [`ConfigError`].
    pub fn parse(
        path: &Path,
        text: &str,
        env: impl Iterator<Item = (OsString, OsString)>,
        overrides: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let mut settings = gather(path, text, env, overrides)?;
        let config = build::config(&mut settings);
        settings.finish(config)
    }
}

impl Audit {
    /// Reads `[audit]` and `keyring.state-dir` alone: who verifies a log needs no token. A file
    /// that is not there is as good as an empty one.
    ///
    /// # Errors
    /// As of [`Config::load`].
    pub fn load(
        path: &Path,
        env: impl Iterator<Item = (OsString, OsString)>,
        overrides: &[(String, String)],
    ) -> Result<(Option<Self>, PathBuf), ConfigError> {
        let absent = path.try_exists().is_ok_and(|there| !there);
        let text = if absent { String::new() } else { read(path)? };
        let mut settings = gather(path, &text, env, overrides)?;
        let found = (audit::audit(&mut settings), build::state_dir(&mut settings));
        settings.finish(Some(found))
    }
}

impl Etcd {
    /// Reads `[etcd]` alone: who counts needs no token. With `optional` a file that is
    /// not there is as good as an empty one.
    ///
    /// # Errors
    /// As of [`Config::load`].
    pub fn load(
        path: &Path,
        optional: bool,
        env: impl Iterator<Item = (OsString, OsString)>,
        overrides: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let absent = optional && path.try_exists().is_ok_and(|there| !there);
        let text = if absent { String::new() } else { read(path)? };
        let mut settings = gather(path, &text, env, overrides)?;
        let etcd = build::etcd(&mut settings);
        settings.finish(Some(etcd))
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    source::read_file(path).map_err(|error| {
        let what = format!("cannot read the configuration: {error}; --config names another");
        ConfigError::about(path.display().to_string(), what)
    })
}

fn gather(
    path: &Path,
    text: &str,
    env: impl Iterator<Item = (OsString, OsString)>,
    overrides: &[(String, String)],
) -> Result<Settings, ConfigError> {
    let mut settings = Settings::new(path.display().to_string());
    settings.add_config(text)?;
    settings.add_environment(env);
    settings.add_overrides(overrides);
    Ok(settings)
}

#[cfg(test)]
mod tests;
