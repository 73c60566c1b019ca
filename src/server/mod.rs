#![forbid(unsafe_code)]
//! The listening room: it makes the socket, asks who is there, and speaks HTTP/2 with them.
//! It knows nothing of keys: what a request means is for the service.
//!
//! Nothing that a peer sends ends more than its own connection. Everything that a
//! peer could make grow has a limit: see [`Limits`].

mod connection;
pub mod crowd;
mod directory;
mod error;
mod flood;
mod limits;
pub mod peer;
mod quiet;
pub mod socket;
mod watched;

use std::convert::Infallible;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::TokioExecutor;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::audit::{AuditEvent, Event};
use connection::Order;
use crowd::{Crowd, Room};
pub use directory::check_directory;
pub use error::{ServerError, SocketError};
use flood::Flood;
pub use limits::{Counters, Limits};
use peer::{AllowList, Peer};
use socket::{BoundSocket, Listening};

/// The longest rest after a failed accept. The failures are those of a lack that passes: of
/// file descriptors, or of memory.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// The longest that the accept loop waits before it goes round once more.
pub const ROUND: Duration = Duration::from_secs(1);

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

/// Serves until `shutdown` resolves, then drains: removes the socket, takes in those whom the
/// kernel has let in already, lets each connection finish its calls, and cuts what is left after
/// the drain timeout. The lock beside the socket is held until then.
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
    let Listening { mut file, listener, passed } = socket.listen().map_err(ServerError::Listen)?;

    let mut allow_changes = allow.changes();
    let counters = limits.counters.clone();
    let mut door = Door {
        service,
        protocol: connection::protocol(&limits),
        orders: watch::Sender::new(Order::Serve),
        connections: Crowd::default(),
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
        counters.rounds.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            () = allow_changes.next() => { door.orders.send_replace(Order::LookAgain); }
            _ = tick.tick() => door.housekeeping(),
            () = counters.ask.notified() => {}
            Some(()) = door.connections.ended() => door.count_open(),
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
    if passed {
        drop(listener);
    } else {
        door.answer_the_last(listener);
    }
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
    connections: Crowd,
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
        let room = self.connections.admit(self.limits.connections, |greeted| {
            connection::run(
                connection::watched(stream, &self.limits, greeted),
                self.service.clone(),
                peer,
                self.protocol.clone(),
                self.limits.clone(),
                self.orders.subscribe(),
                allowed,
            )
        });
        if room != Room::Free {
            self.limits.counters.full.fetch_add(1, Ordering::Relaxed);
            if let Some(unsaid) = self.floods.full.admit(Instant::now()) {
                let limit = self.limits.connections;
                if room == Room::Made {
                    tracing::warn!(
                        uid,
                        gid,
                        pid,
                        limit,
                        unsaid,
                        "a silent connection closed for this one: server.max-connections are open"
                    );
                } else {
                    tracing::warn!(
                        uid,
                        gid,
                        pid,
                        limit,
                        unsaid,
                        "connection closed: server.max-connections are open"
                    );
                    // For the next one: who has nothing to ask can come again.
                    self.orders.send_replace(Order::MakeRoom);
                }
            }
        }
        if room != Room::None {
            tracing::debug!(uid, gid, pid, "connection accepted");
            self.limits.counters.accepted.fetch_add(1, Ordering::Relaxed);
            self.count_open();
        }
    }

    /// Takes in those who stand in the queue, and nobody after them.
    fn answer_the_last(&mut self, listener: UnixListener) {
        // From here on connect(2) is refused, so that there is a last one.
        let closed = shutdown(listener.as_raw_fd(), Shutdown::Read);
        let Ok(listener) = listener.into_std() else { return };
        while closed.is_ok()
            && let Ok((stream, _)) = listener.accept()
        {
            let taken = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
            if let Ok(stream) = taken {
                self.answer(stream);
            }
        }
    }

    fn allowed(&self) -> impl Fn(&Peer) -> bool + Send + 'static {
        let (allow, must_be_listed) = (self.allow.clone(), self.must_be_listed);
        move |peer| {
            if must_be_listed { allow.lists(peer) } else { allow.allows(peer) }
        }
    }

    fn count_open(&mut self) {
        let open = u64::try_from(self.connections.open()).unwrap_or(u64::MAX);
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
        self.count_open();
    }

    async fn drain(mut self) -> Drained {
        self.orders.send_replace(Order::Drain);
        if let Some(unsaid) = self.floods.refused.rest() {
            self.limits.audit.tell(refused(None, unsaid, MORE));
        }
        let counters = self.limits.counters.clone();
        let end = Instant::now() + self.limits.drain_timeout;
        let mut tick = interval(ROUND);
        let drained = loop {
            // Who drains is alive.
            counters.rounds.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                gone = self.connections.ended() => if gone.is_none() {
                    break Drained::Complete;
                },
                () = sleep_until(end) => {
                    break Drained::Cut { connections: self.connections.open() };
                }
                () = counters.ask.notified() => {}
                _ = tick.tick() => {}
            }
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
