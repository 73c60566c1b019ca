#![forbid(unsafe_code)]
//! The room of those who watch: metrics and health over HTTP, on this machine alone.
//!
//! It shows numbers and no secrets, asks nobody who they are, and must never harm the KMS: it has
//! few connections, each for one request and a few seconds, and none of them waits for the token.

mod answer;
mod listener;
mod live;
mod sources;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use self::answer::Answers;
pub use self::listener::MonitorError;
use self::listener::{Door, Listener, Stream};
pub use self::sources::Sources;
use crate::config;
use crate::metrics::{self, Exporter};
use crate::server::ROUND;
use crate::server::crowd::{Crowd, Room, Spoken};

/// Connections at a time. Two who watch need two.
const CONNECTIONS: usize = 16;

/// The line and the header fields of a request, in bytes: the least that hyper takes.
const HEAD_SIZE: usize = 8192;

/// Header fields of a request.
const HEADERS: usize = 32;

/// From accept to the end of the request's head. On this machine it comes at once.
const HEAD_TIME: Duration = Duration::from_secs(1);

/// From accept to the end of the answer, however slowly it is read.
const LIFE: Duration = Duration::from_secs(10);

/// The rest after a failed accept: for want of descriptors the next one would fail at once.
const REST: Duration = Duration::from_secs(1);

/// The room before anybody may come in: the socket is there, and all is counted from now on.
pub struct Bound {
    door: Door,
    exporter: Exporter,
}

/// Opens the socket, if one is wanted.
///
/// Call this before there are other threads, as [`bind`](crate::server::socket::bind).
///
/// # Errors
/// [`MonitorError`]: the address is in use, or the way to the socket is not safe.
pub fn bind(config: &config::Metrics) -> Result<Option<Bound>, MonitorError> {
    let Some(listen) = &config.listen else { return Ok(None) };
    let door = Door::open(listen, config.socket_mode)?;
    let exporter = metrics::start().map_err(|error| MonitorError::Numbers(error.to_string()))?;
    Ok(Some(Bound { door, exporter }))
}

impl Bound {
    /// Answers until what is given back is dropped.
    ///
    /// # Errors
    /// The runtime does not take the listener.
    pub fn serve(self, sources: Sources) -> io::Result<JoinSet<Infallible>> {
        let (listener, place) = self.door.listen()?;
        info!(listen = place, "metrics and health are shown");
        let answers = Arc::new(Answers::new(sources, self.exporter));
        let mut watchers = JoinSet::new();
        watchers.spawn(receive(listener, answers));
        Ok(watchers)
    }
}

async fn receive(listener: Listener, answers: Arc<Answers>) -> Infallible {
    let mut open = Crowd::default();
    let mut tick = interval(ROUND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = false;
    loop {
        tokio::select! {
            _ = tick.tick() => answers.upkeep(),
            Some(()) = open.ended() => {}
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    let connection = |asked| answer(stream, answers.clone(), asked);
                    if open.admit(CONNECTIONS, connection) == Room::None {
                        debug!("a watcher was sent away: {CONNECTIONS} are being answered");
                    }
                }
                Err(error) => {
                    // Once: the server's own line about it comes again and again.
                    if !std::mem::replace(&mut said, true) {
                        warn!(%error, "metrics: cannot accept a connection; trying again");
                    }
                    sleep(REST).await;
                }
            },
        }
    }
}

/// One request on one connection.
async fn answer(stream: Box<dyn Stream>, answers: Arc<Answers>, asked: Spoken) {
    let service = service_fn(|request: Request<Incoming>| {
        asked.set();
        let response = answers.to(request.method(), request.uri().path());
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_SIZE)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(LIFE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a watcher's connection ended"),
        Err(_) => debug!("a watcher was too slow"),
    }
}
