//! `[etcd]`: where the stored objects can be counted, as etcdctl names it.

#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::uri::Authority;
use thiserror::Error;

/// kube-apiserver's default for `--etcd-prefix`.
pub const DEFAULT_PREFIX: &str = "/registry";

/// Where the stored objects are: in a live etcd or in a snapshot of one. Only the
/// commands that count use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// The members of the cluster. Each can answer for all.
    pub endpoints: Vec<EtcdEndpoint>,
    /// The CA that signed etcd's certificate, as PEM.
    pub cacert: Option<PathBuf>,
    /// Our certificate, as PEM.
    pub cert: Option<PathBuf>,
    /// The key that belongs to it, as PEM.
    pub key: Option<PathBuf>,
    /// A file that holds a snapshot, instead of the endpoints.
    pub snapshot: Option<PathBuf>,
    /// What the keys begin with: kube-apiserver's `--etcd-prefix`.
    pub prefix: String,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            cacert: None,
            cert: None,
            key: None,
            snapshot: None,
            prefix: DEFAULT_PREFIX.into(),
        }
    }
}

/// One member of an etcd cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdEndpoint {
    /// With TLS or without; none leaves it to whether there are files for TLS, as
    /// etcdctl has it.
    pub tls: Option<bool>,
    /// `HOST:PORT`.
    pub authority: String,
}

/// The text is not an [`EtcdEndpoint`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("is not a member of etcd: write it as https://10.0.0.1:2379")]
pub struct EtcdEndpointError;

impl FromStr for EtcdEndpoint {
    type Err = EtcdEndpointError;

    fn from_str(text: &str) -> Result<Self, EtcdEndpointError> {
        let text = text.trim();
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (Some(true), rest),
            (_, Some(rest)) => (Some(false), rest),
            _ => (None, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority: Authority = rest.parse().map_err(|_| EtcdEndpointError)?;
        // A password would be no use, and would be shown.
        let plain = !rest.contains('@') && !authority.host().is_empty();
        if !plain || authority.port_u16().is_none() {
            return Err(EtcdEndpointError);
        }
        Ok(Self { tls, authority: rest.to_owned() })
    }
}

impl fmt::Display for EtcdEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.tls {
            Some(true) => "https://",
            Some(false) => "http://",
            None => "",
        })?;
        f.write_str(&self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_written_as_for_etcdctl() {
        for (text, tls, authority) in [
            ("https://10.0.0.1:2379", Some(true), "10.0.0.1:2379"),
            ("http://etcd-0.etcd:2379/", Some(false), "etcd-0.etcd:2379"),
            (" 127.0.0.1:2379", None, "127.0.0.1:2379"),
            ("https://[::1]:2379", Some(true), "[::1]:2379"),
        ] {
            let endpoint: EtcdEndpoint = text.parse().unwrap();
            assert_eq!((endpoint.tls, endpoint.authority.as_str()), (tls, authority));
            assert_eq!(endpoint.to_string(), text.trim().trim_end_matches('/'));
        }
        for text in [
            "",
            "10.0.0.1",
            "https://",
            "https://:2379",
            "unix:///run/etcd.sock",
            "https://a:b@c:1",
            "https://10.0.0.1:2379/v3",
            "10.0.0.1:99999",
            "a b:1",
            "a\n:1",
        ] {
            assert_eq!(text.parse::<EtcdEndpoint>(), Err(EtcdEndpointError), "{text}");
        }
    }
}
