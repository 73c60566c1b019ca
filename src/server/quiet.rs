#![forbid(unsafe_code)]
//! When a connection that carried secrets has fallen quiet.
//!
//! h2 keeps its buffers, and what lies in them, for the life of a connection. The
//! only way to have them wiped is to end it: gracefully, so that no call is lost.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A call that is open for so long after any other began or ended will not end: its peer does not
/// send the rest of it. No request that is whole takes as long (`server.request-timeout`).
const STUCK: Duration = Duration::from_secs(120);

/// Remembers the calls, and those that carried secrets.
pub(super) struct Traffic {
    carries_secrets: fn(&str) -> bool,
    calls: Mutex<Calls>,
}

struct Calls {
    /// With secrets, begun, and not ended.
    open: usize,
    /// When the last one of these began or ended.
    last: Option<Instant>,
    /// All that have begun and not ended.
    all: usize,
    /// When the last one of all ended, or the connection began.
    since: Instant,
}

impl Calls {
    /// When the connection is done, if no call begins or ends; `time` is how long it is to be quiet.
    fn done(&self, time: Duration) -> Option<Instant> {
        let quiet = if self.open == 0 { time } else { STUCK };
        self.last.map(|last| last + quiet)
    }
}

impl Traffic {
    /// A connection that has carried nothing yet.
    pub(super) fn new(carries_secrets: fn(&str) -> bool) -> Arc<Self> {
        let calls = Calls { open: 0, last: None, all: 0, since: Instant::now() };
        Arc::new(Self { carries_secrets, calls: Mutex::new(calls) })
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins. It ends when what is given back is dropped.
    pub(super) fn begin(self: &Arc<Self>, path: &str) -> Open {
        let secret = (self.carries_secrets)(path);
        let mut calls = self.calls();
        calls.all += 1;
        if secret {
            calls.open += 1;
            calls.last = Some(Instant::now());
        }
        Open { traffic: self.clone(), secret }
    }

    /// Has there been no call for so long?
    pub(super) fn is_idle_for(&self, time: Duration) -> bool {
        let calls = self.calls();
        calls.all == 0 && calls.since.elapsed() >= time
    }

    /// Waits until there were secrets, and none for so long.
    pub(super) async fn quiet_for(&self, time: Duration) {
        loop {
            let done = self.calls().done(time);
            let now = Instant::now();
            if done.is_some_and(|done| done <= now) {
                return;
            }
            // A call may end meanwhile, which is known only by looking.
            let look = now + time;
            sleep_until(done.map_or(look, |done| done.min(look))).await;
        }
    }
}

/// A call that has not ended.
pub(super) struct Open {
    traffic: Arc<Traffic>,
    secret: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut calls = self.traffic.calls();
        calls.all -= 1;
        calls.since = Instant::now();
        if self.secret {
            calls.open -= 1;
            calls.last = Some(calls.since);
        }
    }
}

/// A call's future, which ends the call with itself.
pub(super) struct Call<F> {
    pub(super) answer: F,
    pub(super) _open: Open,
}

impl<F: Future + Unpin> Future for Call<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        Pin::new(&mut self.answer).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    const QUIET: Duration = Duration::from_secs(2);
    const LONG: Duration = Duration::from_secs(3600);

    fn traffic() -> Arc<Traffic> {
        Traffic::new(|path| path == "/secret")
    }

    #[tokio::test(start_paused = true)]
    async fn without_secrets_it_never_counts_as_quiet() {
        let traffic = traffic();
        drop(traffic.begin("/harmless"));
        assert!(timeout(LONG, traffic.quiet_for(QUIET)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_idle_only_while_there_is_no_call_of_any_kind() {
        let traffic = traffic();
        sleep(QUIET).await;
        assert!(traffic.is_idle_for(QUIET));
        let open = traffic.begin("/harmless");
        sleep(QUIET).await;
        assert!(!traffic.is_idle_for(QUIET));
        drop(open);
        assert!(!traffic.is_idle_for(QUIET));
        sleep(QUIET).await;
        assert!(traffic.is_idle_for(QUIET));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_counts_from_the_end_of_the_last_secret() {
        let traffic = traffic();
        drop(traffic.begin("/secret"));
        sleep(QUIET / 2).await;
        let open = traffic.begin("/secret");
        assert!(timeout(STUCK / 2, traffic.quiet_for(QUIET)).await.is_err(), "a call is under way");
        drop(open);
        let began = Instant::now();
        sleep(QUIET / 2).await;
        drop(traffic.begin("/harmless"));
        traffic.quiet_for(QUIET).await;
        assert!(began.elapsed() >= QUIET, "{:?}", began.elapsed());
        assert!(began.elapsed() < QUIET * 2, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_ends_does_not_count_for_ever() {
        let traffic = traffic();
        let began = Instant::now();
        let _open = traffic.begin("/secret");
        drop(traffic.begin("/secret"));
        traffic.quiet_for(QUIET).await;
        assert!(began.elapsed() >= STUCK, "{:?}", began.elapsed());
        assert!(began.elapsed() < STUCK + QUIET, "{:?}", began.elapsed());
    }
}
