#![forbid(unsafe_code)]
//! Keeps a flood of connections from becoming a flood of log lines.

use std::time::Duration;

use tokio::time::Instant;

/// At most one line per kind of event in this time.
pub(super) const QUIET: Duration = Duration::from_secs(10);

/// Counts events of one kind between two lines of log.
#[derive(Debug, Default)]
pub(super) struct Flood {
    last: Option<Instant>,
    unsaid: u64,
}

impl Flood {
    /// Whether to log this event now: then how many went unsaid before it.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.duration_since(last) < QUIET) {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }

    /// What is still unsaid once the time is over, so that the end of a flood is told too.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<u64> {
        let over = self.last.is_some_and(|last| now.duration_since(last) >= QUIET);
        if !over || self.unsaid == 0 {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }

    /// What is still unsaid at the end.
    pub(super) fn rest(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.unsaid)).filter(|unsaid| *unsaid > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_then_a_count_for_each_interval() {
        let start = Instant::now();
        let mut flood = Flood::default();
        assert_eq!(flood.admit(start), Some(0));
        for _ in 0..1000 {
            assert_eq!(flood.admit(start + QUIET / 2), None);
        }
        assert_eq!(flood.overdue(start + QUIET / 2), None);
        assert_eq!(flood.admit(start + QUIET), Some(1000));
    }

    #[test]
    fn what_a_flood_left_unsaid_is_told_once() {
        let start = Instant::now();
        let mut flood = Flood::default();
        assert_eq!(flood.overdue(start), None);
        flood.admit(start);
        flood.admit(start);
        assert_eq!(flood.overdue(start + QUIET), Some(1));
        assert_eq!(flood.overdue(start + QUIET * 3), None);
    }
}
