#![forbid(unsafe_code)]
//! Workers that answer, and whose answers are of no use.
//!
//! A module may go on for ever with what it saw once: a code that no table knows, keys that it does not show
//! any more. Often only `C_Initialize` helps, so a new worker is tried. It costs a login, and where the token
//! itself says no it helps nothing: each try is twice as long after the last one.

use std::time::Duration;

use tokio::time::Instant;

/// When to try a new worker.
pub(super) struct Stuck {
    first: Duration,
    wait: Duration,
    since: Option<Instant>,
}

impl Stuck {
    /// Often enough for whoever waits, and no burden for a token that says no for days.
    const LONGEST: Duration = Duration::from_secs(600);

    /// `first`: how long it may be so before the first try.
    pub(super) const fn new(first: Duration) -> Self {
        Self { first, wait: first, since: None }
    }

    /// It is still so, or not: is a new worker due?
    pub(super) fn is_due(&mut self, stuck: bool) -> bool {
        if !stuck {
            *self = Self::new(self.first);
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < self.wait {
            return false;
        }
        self.since = Some(Instant::now());
        self.wait = self.wait.saturating_mul(2).min(Self::LONGEST);
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const FIRST: Duration = Duration::from_secs(10);

    /// When a new worker was due within a day, in seconds, with a look every second.
    async fn tries(stuck: &mut Stuck) -> Vec<u64> {
        let began = Instant::now();
        let mut due = Vec::new();
        while began.elapsed() < Duration::from_secs(24 * 3600) {
            if stuck.is_due(true) {
                due.push(began.elapsed().as_secs());
            }
            advance(Duration::from_secs(1)).await;
        }
        due
    }

    #[tokio::test(start_paused = true)]
    async fn each_try_is_later_after_the_last_up_to_a_limit() {
        let due = tries(&mut Stuck::new(FIRST)).await;
        assert_eq!(due.iter().take(4).collect::<Vec<_>>(), [&10, &30, &70, &150]);
        assert!(due.is_sorted_by(|one, next| next - one <= Stuck::LONGEST.as_secs()));
        assert!(due.len() < 160, "{} logins in a day", due.len());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_well_again_begins_anew() {
        let mut stuck = Stuck::new(FIRST);
        tries(&mut stuck).await;
        assert!(!stuck.is_due(false));
        assert!(!stuck.is_due(true));
        advance(FIRST).await;
        assert!(stuck.is_due(true));
    }
}
