#![forbid(unsafe_code)]
//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::timeout;

use super::Limits;
use super::crowd::Spoken;
use super::peer::Peer;
use super::quiet::{Call, Traffic};
use super::watched::Watched;

/// One stream's receive window, in bytes: HTTP/2's default. A message longer than
/// that goes on as it is read.
const STREAM_WINDOW: u32 = 65_535;
/// The window of all streams together, in bytes: some 900 Decrypts of the largest
/// legal size may be on their way at once, and 1 MiB is what a rude peer can make us keep.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What one stream may have waiting to be written, in bytes. Our answers have less than 4 kB.
const SEND_BUFFER: usize = 64 << 10;

/// How long a connection that has not spoken yet may take to do so once the drain has begun.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What the server tells its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Serve,
    /// The allow-list was replaced.
    LookAgain,
    /// Somebody found no place.
    MakeRoom,
    Drain,
}

/// How HTTP/2 is spoken on every connection.
///
/// Of the limits on resets (CVE-2023-44487 and its kin) one is raised: as many callers as there are
/// may lose their patience at once while we stand still, and the rest shall keep their connection.
pub(super) fn protocol(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(usize::try_from(limits.streams).ok())
        .max_header_list_size(limits.header_size)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

/// The bytes of one connection. `greeted` is set once its peer has begun to speak HTTP/2.
pub(super) fn watched(stream: UnixStream, limits: &Limits, greeted: Spoken) -> Watched<UnixStream> {
    // A peer that takes nothing for so long would fail the next ping too, if we could send it.
    let write_timeout = limits.keepalive_interval + limits.keepalive_timeout;
    Watched::new(stream, limits.handshake_timeout, write_timeout, greeted)
}

/// Serves until the peer goes, breaks the protocol or is no longer allowed, until the
/// connection that carried secrets falls quiet, or until the drain is done. None of that is an
/// error of the daemon's.
pub(super) async fn run<S>(
    stream: Watched<UnixStream>,
    service: S,
    peer: Peer,
    protocol: http2::Builder<TokioExecutor>,
    limits: Limits,
    mut orders: watch::Receiver<Order>,
    allowed: impl Fn(&Peer) -> bool,
) where
    S: tower_service::Service<
            Request<Incoming>,
            Response = Response<tonic::body::Body>,
            Error = Infallible,
        > + Clone,
    S::Future: Send + Unpin + 'static,
{
    let traffic = Traffic::new(limits.carries_secrets);
    let service = Calls { service, peer, traffic: traffic.clone() };
    let greeted = stream.greeted();
    let mut connection = std::pin::pin!(protocol.serve_connection(TokioIo::new(stream), service));
    let patience = loop {
        let order = tokio::select! {
            biased;
            end = connection.as_mut() => return report(&peer, end, &limits),
            // Not for a share of this task's time: a connection that never rests takes all of it.
            order = unconstrained(orders.changed()) => order.map(|()| *orders.borrow_and_update()),
            () = traffic.quiet_for(limits.quiet_time) => {
                // Calls have a time limit of their own; this is for a peer that does not go.
                break limits.drain_timeout;
            }
        };
        match order {
            // Of orders that come together only the last is seen: each of them means a look.
            Ok(Order::Serve | Order::LookAgain | Order::MakeRoom) if !allowed(&peer) => {
                limits.counters.refused.fetch_add(1, Ordering::Relaxed);
                limits.audit.tell(super::refused(Some(&peer), 1, "no longer on the allow-list"));
                tracing::warn!(
                    uid = peer.uid,
                    gid = peer.gid,
                    pid = peer.pid,
                    "connection closed: its peer is no longer allowed"
                );
                return;
            }
            Ok(Order::MakeRoom) if traffic.is_idle_for(limits.idle_time) => {
                break limits.drain_timeout;
            }
            Ok(Order::Serve | Order::LookAgain | Order::MakeRoom) => {}
            // The server cuts it off, and counts it.
            Ok(Order::Drain) => break Duration::MAX,
            // The server is gone.
            Err(_) => return,
        }
    };
    connection.as_mut().graceful_shutdown();
    if !greeted.is_set() {
        // What it has sent may not have been read yet. One that says nothing has nothing in flight.
        match timeout(LAST_WORD, connection.as_mut()).await {
            Ok(end) => return report(&peer, end, &limits),
            Err(_) if !greeted.is_set() => return,
            Err(_) => {}
        }
    }
    if let Ok(end) = timeout(patience, connection).await {
        report(&peer, end, &limits);
    }
}

fn report(peer: &Peer, end: hyper::Result<()>, limits: &Limits) {
    let Peer { uid, gid, pid } = *peer;
    match end {
        Ok(()) => tracing::debug!(uid, gid, pid, "connection closed"),
        Err(error) => {
            limits.counters.failed.fetch_add(1, Ordering::Relaxed);
            // hyper's own text says only "http2 error".
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::debug!(uid, gid, pid, %error, cause, "connection ended");
        }
    }
}

/// Puts the peer into each request, notes which of them carry secrets, then calls the service.
///
/// It does not ask `poll_ready`: a generated gRPC server is always ready, and the limits on
/// work in progress are the service's own.
#[derive(Clone)]
struct Calls<S> {
    service: S,
    peer: Peer,
    traffic: Arc<Traffic>,
}

impl<S> hyper::service::Service<Request<Incoming>> for Calls<S>
where
    S: tower_service::Service<Request<Incoming>> + Clone,
    S::Future: Unpin,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Call<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let open = self.traffic.begin(request.uri().path());
        request.extensions_mut().insert(self.peer);
        Call { answer: self.service.clone().call(request), _open: open }
    }
}
