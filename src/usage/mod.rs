//! Who still needs a KEK: counts the objects that kube-apiserver has stored, by what
//! encrypts them. Reads a live etcd or a snapshot of one, and never writes.
//!
//! ```text
//! etcd (pages of one revision) ──┐
//!                                ├─► key, value ─► resource, envelope ─► tally
//! snapshot (newest to oldest) ───┘
//! ```
//!
//! However many objects there are, a page of them is in memory, not more.

#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use crate::config;

mod bolt;
pub mod envelope;
mod etcd;
mod member;
mod resource;
pub mod snapshot;
mod tally;

pub use tally::{Counts, Tally};

use member::Member;

/// Where the stored objects are.
#[derive(Clone, Debug)]
pub enum Source {
    /// A live etcd.
    Etcd(Cluster),
    /// A file that `etcdctl snapshot save` wrote, or a copy of `member/snap/db`.
    Snapshot {
        /// The file.
        file: PathBuf,
        /// kube-apiserver's `--etcd-prefix`, with a slash on either side.
        prefix: String,
    },
}

/// A live etcd.
#[derive(Clone, Debug)]
pub struct Cluster {
    members: Vec<Member>,
    prefix: String,
}

impl Source {
    /// What config and flags name.
    ///
    /// # Errors
    /// They name nothing, or something that does not fit together: see
    /// [`Error::is_usage`].
    pub fn new(etcd: &config::Etcd) -> Result<Self, Error> {
        let prefix = prefix(&etcd.prefix);
        match (&etcd.snapshot, etcd.endpoints.is_empty()) {
            (None, true) => Err(Error::NoSource),
            (Some(_), false) => Err(Error::TwoSources),
            (Some(file), true) => Ok(Self::Snapshot { file: file.clone(), prefix }),
            (None, false) => Ok(Self::Etcd(Cluster { members: member::all(etcd)?, prefix })),
        }
    }
}

/// As kube-apiserver does it: `registry`, `/registry` and `/registry/` are the same.
fn prefix(given: &str) -> String {
    match given.trim_matches('/') {
        "" => "/".to_owned(),
        name => format!("/{name}/"),
    }
}

/// How far a count is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Of these.
    pub unit: Unit,
    /// So many are done; fewer than before when the count began anew.
    pub done: u64,
    /// So many there are.
    pub total: u64,
}

/// What progress is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Objects in a live etcd.
    Objects,
    /// Bytes of a snapshot.
    Bytes,
}

/// Why there is no count.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither config nor flags say where to look.
    #[error(
        "where are the stored objects? Give --endpoints (and --cacert, --cert, --key) or \
         --snapshot, or set etcd.endpoints or etcd.snapshot in the configuration"
    )]
    NoSource,
    /// They say it twice.
    #[error("there are endpoints and a snapshot: give one of the two")]
    TwoSources,
    /// A certificate without its key, or the other way round.
    #[error("a client certificate needs its key: give both, --cert and --key")]
    HalfIdentity,
    /// TLS with nothing to trust.
    #[error(
        "{endpoint} needs a CA to trust: give --cacert, with kubeadm \
         /etc/kubernetes/pki/etcd/ca.crt; a bundle of the system's CAs does as well"
    )]
    NoCa {
        /// The endpoint with TLS.
        endpoint: config::EtcdEndpoint,
    },
    /// The certificates or the key are not what TLS takes.
    #[error("{endpoint} cannot be called with these --cacert, --cert and --key: {what}")]
    Tls {
        /// The endpoint with TLS.
        endpoint: config::EtcdEndpoint,
        /// What is wrong with them.
        what: String,
    },
    /// A file that config or flags name.
    #[error("cannot read {flag} {}: {source}", file.display())]
    File {
        /// The flag that names such a file.
        flag: &'static str,
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that holds something else.
    #[error("{flag} {} {what}", file.display())]
    Pem {
        /// The flag that names such a file.
        flag: &'static str,
        /// Which.
        file: PathBuf,
        /// What is wrong with it, and what would be right.
        what: String,
    },
    /// No endpoint gave an answer.
    #[error("etcd cannot be read{}", lines(.0))]
    Unreachable(Vec<(config::EtcdEndpoint, String)>),
    /// Nothing is counted, as the parts would be of different moments or places.
    #[error("etcd was not counted: {0}")]
    Inconsistent(String),
    /// Not one object: a cluster without any is none. Who asks whether a KEK can go
    /// must not be told that nothing needs it.
    #[error("no key in etcd begins with {prefix}: is --prefix kube-apiserver's --etcd-prefix?")]
    Nothing {
        /// What was looked for.
        prefix: String,
    },
    /// The snapshot is not one, or damaged.
    #[error("the snapshot {} cannot be counted: {source}", file.display())]
    Snapshot {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        source: snapshot::Bad,
    },
}

impl Error {
    /// Whether config or flags are at fault, rather than etcd or the snapshot.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::NoSource
            | Self::TwoSources
            | Self::HalfIdentity
            | Self::NoCa { .. }
            | Self::Nothing { .. }
            | Self::Tls { .. }
            | Self::File { .. }
            | Self::Pem { .. } => true,
            Self::Unreachable(_) | Self::Inconsistent(_) | Self::Snapshot { .. } => false,
        }
    }
}

fn lines(failed: &[(config::EtcdEndpoint, String)]) -> String {
    failed.iter().map(|(endpoint, why)| format!("\n  {endpoint}: {why}")).collect()
}

/// All that is behind an error, each in its own words.
fn causes(mut cause: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut text = String::new();
    while let Some(inner) = cause {
        let words = inner.to_string();
        // Layers that only pass an error on repeat its words.
        if !text.ends_with(&words) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text
}

/// Counts all objects of one moment. A snapshot is read without a pause: run nothing
/// else on this thread.
///
/// # Errors
/// Not everything could be read, or there is nothing: a count that is not whole is not
/// given.
pub async fn count(source: &Source, progress: &mut dyn FnMut(Progress)) -> Result<Tally, Error> {
    let (prefix, tally) = match source {
        Source::Etcd(cluster) => (&cluster.prefix, etcd::count(cluster, progress).await?),
        Source::Snapshot { file, prefix } => {
            let tally = snapshot::count(file, prefix.as_bytes(), progress)
                .map_err(|source| Error::Snapshot { file: file.clone(), source })?;
            (prefix, tally)
        }
    };
    if tally.total.objects == 0 {
        return Err(Error::Nothing { prefix: prefix.clone() });
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_read_as_kube_apiserver_reads_it() {
        for (given, meant) in [
            ("/registry", "/registry/"),
            ("registry/", "/registry/"),
            ("/a/b/", "/a/b/"),
            ("", "/"),
            ("/", "/"),
        ] {
            assert_eq!(prefix(given), meant);
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let error = |change: &dyn Fn(&mut config::Etcd)| {
            let mut etcd = config::Etcd::default();
            change(&mut etcd);
            let error = Source::new(&etcd).unwrap_err();
            assert!(error.is_usage());
            error.to_string()
        };
        let https = || vec!["https://a:1".parse().unwrap()];
        let file = || Some(PathBuf::from("/no/such.pem"));
        assert!(error(&|_| ()).contains("--endpoints"));
        let two = error(&|etcd| (etcd.endpoints, etcd.snapshot) = (https(), file()));
        assert!(two.contains("one of the two"));
        let no_ca = error(&|etcd| etcd.endpoints = https());
        assert!(no_ca.starts_with("https://a:1 needs a CA") && no_ca.contains("--cacert"));
        let half = error(&|etcd| (etcd.endpoints, etcd.cert) = (https(), file()));
        assert!(half.contains("both, --cert and --key"));
        let missing = error(&|etcd| (etcd.endpoints, etcd.cacert) = (https(), file()));
        assert!(missing.starts_with("cannot read --cacert /no/such.pem: No such file"));
    }
}
