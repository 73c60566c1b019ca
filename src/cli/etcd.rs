#![forbid(unsafe_code)]
//! Flags that say where the stored objects are, as etcdctl names them.

use std::path::PathBuf;

use crate::config::{Etcd, EtcdEndpoint};

/// Where the stored objects are. Each flag replaces its key of `[etcd]`.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Where the objects are [default: [etcd] of the configuration]")]
pub struct EtcdArgs {
    /// The members of etcd, such as https://10.0.0.1:2379, with commas between them.
    #[arg(long, value_name = "ENDPOINTS", value_delimiter = ',')]
    pub endpoints: Vec<EtcdEndpoint>,
    /// The CA that signed etcd's certificate (PEM).
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// The client certificate (PEM).
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// The key of the client certificate (PEM).
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// A snapshot that `etcdctl snapshot save` wrote, instead of a live etcd.
    #[arg(long, value_name = "FILE", conflicts_with = "endpoints")]
    pub snapshot: Option<PathBuf>,
    /// What the keys begin with: kube-apiserver's --etcd-prefix.
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<String>,
}

impl EtcdArgs {
    /// Whether the flags say where to look: then no config is needed.
    #[must_use]
    pub fn names_source(&self) -> bool {
        !self.endpoints.is_empty() || self.snapshot.is_some()
    }

    /// The config with the flags over it. A flag for one kind of place replaces the
    /// config's other kind.
    #[must_use]
    pub fn over(&self, config: &Etcd) -> Etcd {
        let (endpoints, snapshot) = if self.names_source() {
            (&self.endpoints, &self.snapshot)
        } else {
            (&config.endpoints, &config.snapshot)
        };
        let either =
            |flag: &Option<PathBuf>, key: &Option<PathBuf>| flag.as_ref().or(key.as_ref()).cloned();
        Etcd {
            endpoints: endpoints.clone(),
            cacert: either(&self.cacert, &config.cacert),
            cert: either(&self.cert, &config.cert),
            key: either(&self.key, &config.key),
            snapshot: snapshot.clone(),
            prefix: self.prefix.as_ref().unwrap_or(&config.prefix).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_replace_the_config_key_by_key() {
        let config = Etcd {
            endpoints: vec!["https://a:1".parse().unwrap()],
            cacert: Some("/ca".into()),
            cert: Some("/cert".into()),
            key: Some("/key".into()),
            snapshot: None,
            prefix: "/a".to_owned(),
        };
        assert_eq!(EtcdArgs::default().over(&config), config);
        let snapshot = EtcdArgs { snapshot: Some("s.db".into()), ..EtcdArgs::default() };
        let merged = snapshot.over(&config);
        assert!(merged.endpoints.is_empty() && snapshot.names_source());
        assert_eq!((merged.snapshot, merged.prefix), (Some("s.db".into()), "/a".to_owned()));
        let other = EtcdArgs {
            endpoints: vec!["https://b:2".parse().unwrap()],
            cert: Some("mine".into()),
            prefix: Some("/b".to_owned()),
            ..EtcdArgs::default()
        };
        let expected = Etcd {
            endpoints: other.endpoints.clone(),
            cert: Some("mine".into()),
            prefix: "/b".to_owned(),
            ..config.clone()
        };
        assert_eq!(other.over(&config), expected);
        let config = Etcd { snapshot: Some("/s".into()), endpoints: vec![], ..config };
        assert_eq!(other.over(&config).snapshot, None);
    }
}
