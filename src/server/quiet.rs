#![forbid(unsafe_code)]
//! When a connection that carried secrets has fallen quiet.
//!
//! h2 keeps its buffers, and what lies in them, for the life of a connection. The
//! only way to have them wiped is to end it: gracefully, so that no call is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

/// Remembers the last call that carried secrets.
pub(super) struct Traffic {
    carries_secrets: fn(&str) -> bool,
    began: Instant,
    /// Microseconds from `began`; 0: there was none.
    last: AtomicU64,
}

impl Traffic {
    /// A connection that has carried nothing yet.
    pub(super) fn new(carries_secrets: fn(&str) -> bool) -> Arc<Self> {
        Arc::new(Self { carries_secrets, began: Instant::now(), last: AtomicU64::new(0) })
    }

    /// A call begins.
    pub(super) fn note(&self, path: &str) {
        if (self.carries_secrets)(path) {
            let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.last.store(micros.max(1), Ordering::Relaxed);
        }
    }

    /// Waits until there were secrets, and none for so long.
    ///
    /// A call that takes longer than that is not cut: its connection then ends with it.
    pub(super) async fn quiet_for(&self, time: Duration) {
        loop {
            let last = self.last.load(Ordering::Relaxed);
            if last == 0 {
                sleep(time).await;
                continue;
            }
            let end = self.began + Duration::from_micros(last) + time;
            if Instant::now() >= end {
                return;
            }
            sleep_until(end).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const QUIET: Duration = Duration::from_secs(2);
    const LONG: Duration = Duration::from_secs(3600);

    fn traffic() -> Arc<Traffic> {
        Traffic::new(|path| path == "/secret")
    }

    #[tokio::test(start_paused = true)]
    async fn without_secrets_it_never_counts_as_quiet() {
        let traffic = traffic();
        traffic.note("/harmless");
        assert!(timeout(LONG, traffic.quiet_for(QUIET)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_counts_from_the_last_secret() {
        let traffic = traffic();
        traffic.note("/secret");
        sleep(QUIET / 2).await;
        traffic.note("/secret");
        let began = Instant::now();
        sleep(QUIET / 2).await;
        traffic.note("/harmless");
        traffic.quiet_for(QUIET).await;
        assert!(began.elapsed() >= QUIET, "{:?}", began.elapsed());
        assert!(began.elapsed() < QUIET * 2, "{:?}", began.elapsed());
    }
}
