#![forbid(unsafe_code)]
//! The small KMS v2 client behind `p11-kms status`, `probe` and `bench`.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream as StdUnixStream};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint as Target, Error, Uri};
use tower::service_fn;

use crate::config::Endpoint;
use crate::proto::key_management_service_client::KeyManagementServiceClient;

/// Connects to the daemon as kube-apiserver does: `:authority` is "localhost",
/// since the HTTP/2 layer refuses a path there.
///
/// # Errors
/// Nobody listens on the socket, or we may not connect to it.
pub async fn connect(
    endpoint: &Endpoint,
    time: Duration,
) -> Result<KeyManagementServiceClient<Channel>, Error> {
    let target =
        Target::from(Uri::from_static("http://localhost")).connect_timeout(time).timeout(time);
    let endpoint = endpoint.clone();
    let dial = service_fn(move |_: Uri| {
        let endpoint = endpoint.clone();
        async move { dial(&endpoint).await.map(TokioIo::new) }
    });
    Ok(KeyManagementServiceClient::new(target.connect_with_connector(dial).await?))
}

async fn dial(endpoint: &Endpoint) -> io::Result<UnixStream> {
    match endpoint {
        Endpoint::Path(path) => UnixStream::connect(path).await,
        Endpoint::Abstract(name) => {
            // Connecting to a local abstract name does not block.
            let stream = StdUnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        }
    }
}
