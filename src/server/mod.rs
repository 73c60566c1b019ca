#![forbid(unsafe_code)]
//! The listening room: it makes the socket, asks who is there, and speaks HTTP/2 with them.
//! It knows nothing of keys: what a request means is for the service.
//!
//! Nothing that a peer sends ends more than its own connection. Everything that a
//! peer could make grow has a limit: see [`Limits`].

mod connection;
mod directory;
mod error;
mod flood;
pub mod peer;
mod quiet;
pub mod socket;
mod watched;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::TokioExecutor;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::audit::{Audit, AuditEvent, Event};
use connection::Order;
pub use directory::check_directory;
pub use error::{ServerError, SocketError};
use flood::Flood;
use peer::{AllowList, Peer};
use socket::{BoundSocket, Listening};

/// The longest rest after a failed accept. The failures are those of a lack that passes: of
/// file descriptors, or of memory.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// The longest that the accept loop waits before it goes round once more.
pub const ROUND: Duration = Duration::from_secs(1);

/// What one peer, or all of them together, may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time. One apiserver needs one.
    pub connections: usize,
    /// Calls at a time on one connection; the client holds back the rest of them.
    pub streams: u32,
    /// One gRPC message, in bytes. For the service, which decodes it.
    pub message_size: usize,
    /// All header fields of one request, in bytes as HTTP/2 counts them (RFC 9113, section 6.5.2).
    pub header_size: u32,
    /// From accept to the client's SETTINGS.
    pub handshake_timeout: Duration,
    /// From the last sign of life to a ping. An idle connection that answers lives for ever.
    pub keepalive_interval: Duration,
    /// From the ping to its answer.
    pub keepalive_timeout: Duration,
    /// From the shutdown to the end of the last call.
    pub drain_timeout: Duration,
    /// Does a call of this path carry secrets, there or back?
    pub carries_secrets: fn(path: &str) -> bool,
    /// From the last call that carried secrets to the end of its connection, whose
    /// buffers have parts of them. The peer dials anew by itself.
    pub quiet_time: Duration,
    /// What happened, for the metrics. Clones share it.
    pub counters: Arc<Counters>,
    /// Where peers that are refused are written down.
    pub audit: Audit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            // An apiserver that starts sends thousands of Decrypts at once.
            streams: 1024,
            message_size: 64 << 10,
            header_size: 16 << 10,
            handshake_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(10),
            carries_secrets: |_| true,
            quiet_time: Duration::from_secs(2),
            counters: Arc::default(),
            audit: Audit::off(),
        }
    }
}

/// How many connections there were since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Let in.
    pub accepted: AtomicU64,
    /// Closed since the peer is not on the allow-list: at once, or when the list was replaced.
    pub refused: AtomicU64,
    /// Closed at once, since there were too many.
    pub full: AtomicU64,
    /// Ended by an error: broken protocol, too slow, gone without a word.
    pub failed: AtomicU64,
    /// Not a sum: those open now.
    pub open: AtomicU64,
    /// Not connections: how often the accept loop has gone round. It does so at least
    /// every [`ROUND`].
    pub rounds: AtomicU64,
}

/// How the drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every call that had begun was answered.
    Complete,
    /// The time was over before that.
    Cut {
        /// Connections that still had calls, or that did not react.
        connections: usize,
    },
}

/// Serves until `shutdown` resolves, then drains: accepts no more, removes the socket, lets
/// each connection finish its calls, and cuts what is left after the drain timeout. The
/// lock beside the socket is held until then.
///
/// Must be called on a tokio runtime with I/O and time; connections and calls become its tasks.
/// `service` has to be always ready, and its futures boxed, as the generated gRPC servers are.
///
/// # Errors
/// [`ServerError::NoAllowList`] for an abstract socket with an empty list;
/// [`ServerError::Listen`] if the runtime does not take the listener.
pub async fn serve<S>(
    socket: BoundSocket,
    service: S,
    limits: Limits,
    allow: AllowList,
    shutdown: impl Future<Output = ()>,
) -> Result<Drained, ServerError>
where
    S: tower_service::Service<
            Request<Incoming>,
            Response = Response<tonic::body::Body>,
            Error = Infallible,
        > + Clone
        + Send
        + 'static,
    S::Future: Send + Unpin + 'static,
{
    let must_be_listed = socket.is_abstract();
    if must_be_listed && allow.is_empty() {
        return Err(ServerError::NoAllowList);
    }
    let Listening { mut file, listener } = socket.listen().map_err(ServerError::Listen)?;

    let mut allow_changes = allow.changes();
    let mut door = Door {
        service,
        protocol: connection::protocol(&limits),
        orders: watch::Sender::new(Order::Serve),
        connections: JoinSet::new(),
        limits,
        allow,
        must_be_listed,
        floods: Floods::default(),
    };
    let mut tick = interval(ROUND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rest = Duration::ZERO;
    // A moment, not a time: each round begins to wait anew, and there is one more often than the
    // longest rest is over.
    let mut not_before = Instant::now();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        door.limits.counters.rounds.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            () = allow_changes.next() => { door.orders.send_replace(Order::LookAgain); }
            _ = tick.tick() => door.housekeeping(),
            accepted = accept_after(&listener, not_before) => match accepted {
                Ok(stream) => {
                    rest = Duration::ZERO;
                    door.answer(stream);
                }
                Err(error) => {
                    rest = door.rest_after(&error, rest);
                    not_before = Instant::now() + rest;
                }
            },
        }
    }
    // In this order: while the listener lives its inode number cannot come back.
    if let Some(file) = &mut file {
        file.remove();
    }
    drop(listener);
    Ok(door.drain().await)
}

async fn accept_after(listener: &UnixListener, not_before: Instant) -> io::Result<UnixStream> {
    sleep_until(not_before).await;
    listener.accept().await.map(|(stream, _)| stream)
}

/// What is needed to let somebody in.
struct Door<S> {
    service: S,
    protocol: http2::Builder<TokioExecutor>,
    orders: watch::Sender<Order>,
    connections: JoinSet<()>,
    limits: Limits,
    allow: AllowList,
    /// On an abstract socket an empty list lets nobody in, not everybody. The list
    /// may become empty while we run.
    must_be_listed: bool,
    floods: Floods,
}

/// One for each kind of line that a peer can cause.
#[derive(Default)]
struct Floods {
    refused: Flood,
    full: Flood,
    accept: Flood,
}

impl<S> Door<S>
where
    S: tower_service::Service<
            Request<Incoming>,
            Response = Response<tonic::body::Body>,
            Error = Infallible,
        > + Clone
        + Send
        + 'static,
    S::Future: Send + Unpin + 'static,
{
    /// Starts a connection, or closes it at once. Never waits.
    fn answer(&mut self, stream: UnixStream) {
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                // Without a name nobody gets in.
                tracing::debug!(%error, "connection refused: no peer credentials");
                self.limits.counters.refused.fetch_add(1, Ordering::Relaxed);
                if let Some(unsaid) = self.floods.refused.admit(Instant::now()) {
                    self.limits.audit.tell(refused(None, unsaid + 1, "no peer credentials"));
                }
                return;
            }
        };
        let Peer { uid, gid, pid } = peer;
        let allowed = self.allowed();
        if !allowed(&peer) {
            self.limits.counters.refused.fetch_add(1, Ordering::Relaxed);
            if let Some(unsaid) = self.floods.refused.admit(Instant::now()) {
                self.limits.audit.tell(refused(Some(&peer), unsaid + 1, "not on the allow-list"));
                tracing::warn!(
                    uid,
                    gid,
                    pid,
                    unsaid,
                    "connection refused: neither this uid is in server.allow-uids nor this gid in server.allow-gids"
                );
            }
            return;
        }
        self.reap();
        if self.connections.len() >= self.limits.connections {
            self.limits.counters.full.fetch_add(1, Ordering::Relaxed);
            if let Some(unsaid) = self.floods.full.admit(Instant::now()) {
                let limit = self.limits.connections;
                tracing::warn!(
                    uid,
                    gid,
                    pid,
                    limit,
                    unsaid,
                    "connection closed: server.max-connections are open"
                );
            }
            return;
        }
        tracing::debug!(uid, gid, pid, "connection accepted");
        self.limits.counters.accepted.fetch_add(1, Ordering::Relaxed);
        self.connections.spawn(connection::run(
            stream,
            self.service.clone(),
            peer,
            self.protocol.clone(),
            self.limits.clone(),
            self.orders.subscribe(),
            allowed,
        ));
        self.count_open();
    }

    fn allowed(&self) -> impl Fn(&Peer) -> bool + Send + 'static {
        let (allow, must_be_listed) = (self.allow.clone(), self.must_be_listed);
        move |peer| {
            if must_be_listed { allow.lists(peer) } else { allow.allows(peer) }
        }
    }

    fn reap(&mut self) {
        while let Some(end) = self.connections.try_join_next() {
            if let Err(error) = end {
                tracing::error!(%error, "a connection's task ended badly");
            }
        }
    }

    fn count_open(&self) {
        let open = u64::try_from(self.connections.len()).unwrap_or(u64::MAX);
        self.limits.counters.open.store(open, Ordering::Relaxed);
    }

    /// How long to rest before the next accept. Without a rest a lack of file
    /// descriptors would make a loop that takes all of the processor.
    fn rest_after(&mut self, error: &io::Error, last: Duration) -> Duration {
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
            return Duration::ZERO;
        }
        if let Some(unsaid) = self.floods.accept.admit(Instant::now()) {
            tracing::warn!(%error, unsaid, "cannot accept a connection; trying again");
        }
        (last * 2).clamp(Duration::from_millis(10), LONGEST_REST)
    }

    fn housekeeping(&mut self) {
        let now = Instant::now();
        let floods = &mut self.floods;
        if let Some(unsaid) = floods.refused.overdue(now) {
            self.limits.audit.tell(refused(None, unsaid, MORE));
            tracing::warn!(unsaid, "more connections were refused");
        }
        if let Some(unsaid) = floods.full.overdue(now) {
            tracing::warn!(
                unsaid,
                "more connections were closed: server.max-connections were open"
            );
        }
        if let Some(unsaid) = floods.accept.overdue(now) {
            tracing::warn!(unsaid, "more connections could not be accepted");
        }
        self.reap();
        self.count_open();
    }

    async fn drain(mut self) -> Drained {
        self.orders.send_replace(Order::Drain);
        if let Some(unsaid) = self.floods.refused.rest() {
            self.limits.audit.tell(refused(None, unsaid, MORE));
        }
        let all_gone = async { while self.connections.join_next().await.is_some() {} };
        let drained = match timeout(self.limits.drain_timeout, all_gone).await {
            Ok(()) => Drained::Complete,
            Err(_) => Drained::Cut { connections: self.connections.len() },
        };
        self.connections.shutdown().await;
        self.count_open();
        drained
    }
}

/// What the audit log says of refused peers that nobody saw one by one.
const MORE: &str = "more of them";

/// The line in the audit log for so many refused peers. Of several the last is named.
fn refused(peer: Option<&Peer>, count: u64, why: &str) -> Event {
    Event {
        peer_uid: peer.map(|peer| peer.uid),
        peer_pid: peer.map(|peer| peer.pid),
        outcome: Some("refused"),
        detail: Some(why.to_owned()),
        count: (count > 1 || peer.is_none()).then_some(count),
        ..Event::new(AuditEvent::RefusedPeer)
    }
}

#[cfg(test)]
mod tests;
