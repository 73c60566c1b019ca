//! The members of an etcd cluster: how each is dialled, with TLS or without.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Error as Transport, Identity};

use super::{Error, causes};
use crate::config::{Etcd, EtcdEndpoint};

/// Certificates take a few kilobytes; all CAs of a system together less than this.
const LARGEST: u64 = 1 << 20;

/// One member of a cluster. It holds no file's content that could be shown.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// As it was named.
    pub(super) endpoint: EtcdEndpoint,
    /// How to reach it.
    pub(super) target: Endpoint,
    /// What to look at when it cannot be reached.
    pub(super) hint: &'static str,
}

/// All that are named. Reads the files for TLS, and whether they fit together.
pub(super) fn all(etcd: &Etcd) -> Result<Vec<Member>, Error> {
    let identity = match (&etcd.cert, &etcd.key) {
        (Some(cert), Some(key)) => {
            let cert = pem("--cert", cert, "CERTIFICATE")?;
            Some(Identity::from_pem(cert, pem("--key", key, "PRIVATE KEY")?))
        }
        (None, None) => None,
        _ => return Err(Error::HalfIdentity),
    };
    let hint = hint(identity.is_some());
    let mut tls = ClientTlsConfig::new();
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    if let Some(cacert) = &etcd.cacert {
        tls = tls.ca_certificate(Certificate::from_pem(pem("--cacert", cacert, "CERTIFICATE")?));
    }
    let member = |endpoint: &EtcdEndpoint| {
        let endpoint = endpoint.clone();
        // As etcdctl does it.
        let secured = endpoint.tls.unwrap_or(etcd.cacert.is_some() || etcd.cert.is_some());
        if !secured {
            let target = target("http", &endpoint, None)?;
            let hint = "is it etcd, and without TLS? Otherwise write https://";
            return Ok(Member { endpoint, target, hint });
        }
        if etcd.cacert.is_none() {
            return Err(Error::NoCa { endpoint });
        }
        let target = target("https", &endpoint, Some(tls.clone()))?;
        Ok(Member { endpoint, target, hint })
    };
    etcd.endpoints.iter().map(member).collect()
}

/// A member that wants a certificate and gets none, or gets another, often hangs up
/// without a word.
fn hint(has_identity: bool) -> &'static str {
    if has_identity {
        "is it etcd, is --cacert its CA, and does it trust --cert?"
    } else {
        "is it etcd, is --cacert its CA, and does it want a client certificate (--cert, --key)?"
    }
}

fn target(
    scheme: &str,
    endpoint: &EtcdEndpoint,
    tls: Option<ClientTlsConfig>,
) -> Result<Endpoint, Error> {
    let refused =
        |error: Transport| Error::Tls { endpoint: endpoint.clone(), what: causes(Some(&error)) };
    let target =
        Endpoint::from_shared(format!("{scheme}://{}", endpoint.authority)).map_err(refused)?;
    match tls {
        Some(tls) => target.tls_config(tls).map_err(refused),
        None => Ok(target),
    }
}

/// A file that must hold at least one such block.
fn pem(flag: &'static str, file: &Path, what: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|open| open.take(LARGEST).read_to_end(&mut bytes))
        .map_err(|source| Error::File { flag, file: file.to_owned(), source })?;
    // "RSA PRIVATE KEY" and "EC PRIVATE KEY" are others' names for what may be in one.
    let end = format!("{what}-----");
    if bytes.windows(end.len()).any(|window| window == end.as_bytes()) {
        return Ok(bytes);
    }
    let what = format!("holds no {} in PEM form", what.to_lowercase());
    Err(Error::Pem { flag, file: file.to_owned(), what })
}
