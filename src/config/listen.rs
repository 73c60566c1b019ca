//! Where metrics are shown: on this machine, and nowhere else.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use super::value::quoted;
use super::{Endpoint, EndpointError};

/// A TCP address of this machine alone, or a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address that no other machine can reach. With port 0 the system chooses one.
    Tcp(SocketAddr),
    /// A socket in the file system, by its absolute path.
    Unix(PathBuf),
}

/// Why a text is not a [`Listen`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ListenError {
    /// Neither an address nor a path.
    #[error(
        "must be \"127.0.0.1:9807\", \"[::1]:9807\" or \"unix:///run/p11-kms/metrics.sock\", not {0}"
    )]
    Form(String),
    /// An address that other machines can reach.
    #[error(
        "must be an address of this machine alone, such as 127.0.0.1:{port}, not {address}: there is \
         no TLS and no login here. For other machines put a proxy before it that has both",
        port = .0.port(),
        address = .0.ip()
    )]
    NotLoopback(SocketAddr),
    /// An abstract socket.
    #[error(
        "must not be an abstract socket, which has no permissions: write \"unix:///run/p11-kms/metrics.sock\""
    )]
    Abstract,
    /// No good path.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        if text.starts_with("unix:") {
            return match text.parse() {
                Ok(Endpoint::Path(path)) => Ok(Self::Unix(path)),
                Ok(Endpoint::Abstract(_)) => Err(ListenError::Abstract),
                // Its own text shows the way to the other socket.
                Err(EndpointError::Form | EndpointError::Empty) => {
                    Err(ListenError::Form(quoted(text)))
                }
                Err(error) => Err(error.into()),
            };
        }
        let address: SocketAddr = text.parse().map_err(|_| ListenError::Form(quoted(text)))?;
        if address.ip().is_loopback() {
            Ok(Self::Tcp(address))
        } else {
            Err(ListenError::NotLoopback(address))
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Listen>().unwrap_err().to_string()
    }

    #[test]
    fn addresses_of_this_machine_and_paths_are_read() {
        for text in ["127.0.0.1:9807", "127.9.9.9:1", "[::1]:9807", "unix:///run/p11-kms/m.sock"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_others_could_reach_is_refused_with_the_reason() {
        for text in ["0.0.0.0:9807", "[::]:9807", "10.0.0.1:9807", "[::ffff:127.0.0.1]:9807"] {
            let error = error(text);
            assert!(
                error.contains("127.0.0.1:9807") && error.contains("no TLS"),
                "{text}: {error}"
            );
        }
        assert!(error("unix:///@metrics").contains("abstract"));
    }

    #[test]
    fn the_right_form_is_shown() {
        for text in ["", "9807", ":9807", "localhost:9807", "127.0.0.1", "http://127.0.0.1:9807"] {
            assert!(error(text).contains("\"[::1]:9807\""), "{text}");
        }
        assert!(error("unix://run/m.sock").contains("one slash too few"));
        assert!(error("unix:///run/../m.sock").contains("plain path"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(unix:/{0,4})?\\PC*|[0-9a-f:.\\[\\]%]*") {
            if let Ok(Listen::Tcp(address)) = text.parse() {
                prop_assert!(address.ip().is_loopback());
            }
        }
    }
}
