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

    pub(super) const fn new() -> Self {
        Self { failures: 0 }
    }

    /// It worked: the next trouble is met at once again.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
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
        backoff.reset();
        assert_eq!(backoff.next(), Duration::ZERO);
    }
}
