#![forbid(unsafe_code)]
//! The socket of those who watch: TCP on this machine alone, or a Unix socket under the rules of the
//! other one.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::config::{Endpoint, Listen};
use crate::server::SocketError;
use crate::server::socket::{self, BoundSocket, Listening, SocketOptions};

/// Why nobody can watch.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// Somebody else listens there.
    #[error("metrics.listen: {0} is in use: stop the other process first, or choose another port")]
    InUse(SocketAddr),
    /// The system refused.
    #[error("metrics.listen: cannot listen on {address}: {source}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Something is wrong with the way to the Unix socket.
    #[error("metrics.listen: {0}")]
    Socket(#[from] SocketError),
    /// The numbers could not be set up.
    #[error("metrics: {0}")]
    Numbers(String),
}

/// A socket that listens already, and that nobody looks at yet.
pub(super) enum Door {
    Tcp(StdTcpListener),
    Unix(BoundSocket),
}

impl Door {
    pub(super) fn open(listen: &Listen, mode: u32) -> Result<Self, MonitorError> {
        match listen {
            Listen::Tcp(address) => match StdTcpListener::bind(address) {
                Ok(listener) => Ok(Self::Tcp(listener)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    Err(MonitorError::InUse(*address))
                }
                Err(source) => Err(MonitorError::Io { address: *address, source }),
            },
            Listen::Unix(path) => {
                let endpoint = Endpoint::Path(path.clone());
                let options = SocketOptions { endpoint, mode, owner: None, group: None };
                Ok(Self::Unix(socket::bind(&options)?))
            }
        }
    }

    /// Hands it to the runtime that this is called on, and tells where it listens.
    pub(super) fn listen(self) -> io::Result<(Listener, String)> {
        match self {
            Self::Tcp(listener) => {
                let address = listener.local_addr()?;
                listener.set_nonblocking(true)?;
                Ok((Listener::Tcp(TcpListener::from_std(listener)?), address.to_string()))
            }
            Self::Unix(socket) => {
                let place = socket.endpoint().map_or_else(String::new, |it| it.to_string());
                Ok((Listener::Unix(socket.listen()?), place))
            }
        }
    }
}

/// Takes connections.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(Listening),
}

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(socket) => Box::new(socket.listener.accept().await?.0),
        })
    }
}
