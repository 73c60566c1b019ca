#![forbid(unsafe_code)]
//! Does the accept loop of the server still go round?

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::server::{Counters, ROUND};

/// The accept loop goes round every [`ROUND`]. After so many without one it is stuck.
const LATE_ROUNDS: u32 = 5;

/// Remembers when the loop was last seen to have gone round.
pub(super) struct Live {
    counters: Arc<Counters>,
    /// How often it had gone round, and when that was new.
    seen: Mutex<(u64, Instant)>,
}

impl Live {
    /// It has time from now on to begin.
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        let seen = (counters.rounds.load(Ordering::Relaxed), Instant::now());
        Self { counters, seen: Mutex::new(seen) }
    }

    /// Has it gone round lately? Ask every [`ROUND`]: what nobody saw did not happen.
    pub(super) fn look(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let rounds = self.counters.rounds.load(Ordering::Relaxed);
        if seen.0 != rounds {
            *seen = (rounds, Instant::now());
        }
        seen.1.elapsed() < ROUND * LATE_ROUNDS
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stands_still_is_not_live() {
        let counters = Arc::new(Counters::default());
        let live = Live::new(counters.clone());
        let round = || counters.rounds.fetch_add(1, Ordering::Relaxed);
        for _ in 0..20 {
            sleep(ROUND).await;
            round();
            assert!(live.look());
        }
        sleep(ROUND * (LATE_ROUNDS - 1)).await;
        assert!(live.look(), "late, and not yet too late");
        sleep(ROUND).await;
        assert!(!live.look());
        round();
        assert!(live.look(), "it was slow, and not dead");
    }
}
