#![forbid(unsafe_code)]
//! How long to wait before the next start of a worker.

use std::time::Duration;

use rand::Rng;

/// Exponential with full jitter: three nodes must not stampede one HSM.
#[derive(Debug)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(250);
    /// The device is to be found at most 5 s after it is back.
    const LONGEST: Duration = Duration::from_secs(4);

    /// So many failures make a wait of at most 1 s: callers wait for 3 s.
    const YOUNG: u32 = 3;

    pub(super) const fn new() -> Self {
        Self { failures: 0 }
    }

    /// A worker that lived so long gave answers: the token need not be spared. After one that
    /// lived on, the next trouble is met at once again. Where one after the other ends young, each
    /// of them was a login.
    pub(super) fn worked(&mut self, lived: Duration) {
        let most = if lived >= Self::LONGEST { 0 } else { Self::YOUNG };
        self.failures = self.failures.min(most);
    }

    /// Has it failed too often to be an accident?
    pub(super) const fn is_serious(&self) -> bool {
        self.failures >= 2
    }

    /// The wait after one more failure. The first is met at once.
    pub(super) fn next(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        rand::rng().random_range(Duration::ZERO..=ceiling)
    }

    fn ceiling(&self) -> Duration {
        match self.failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                Self::FIRST.saturating_mul(1 << doublings.min(10)).min(Self::LONGEST)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_immediate_and_later_ones_are_bounded() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.next(), Duration::ZERO);
        for _ in 0..50 {
            assert!(backoff.next() <= Backoff::LONGEST);
        }
        assert_eq!(backoff.ceiling(), Backoff::LONGEST);
        backoff.worked(Backoff::LONGEST);
        assert_eq!(backoff.next(), Duration::ZERO);
    }

    /// A module that crashes on its second call logs in before each of them.
    #[test]
    fn workers_that_end_young_are_not_replaced_at_once_for_ever() {
        let mut backoff = Backoff::new();
        let mut waited = Duration::ZERO;
        for _ in 0..100 {
            backoff.worked(Duration::from_millis(50));
            let wait = backoff.next();
            assert!(wait <= Duration::from_secs(1));
            waited += wait;
        }
        assert!(waited > Duration::from_secs(20), "{waited:?} for 100 logins");
    }
}
