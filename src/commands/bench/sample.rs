#![forbid(unsafe_code)]
//! How long calls took, and what can be said about that.

use std::time::Duration;

use serde::Serialize;

use super::verdict::{DECRYPT_AIM, ENCRYPT_AIM, TIMEOUT};

/// Most calls of one measurement that are kept, of all callers: 16 MB.
pub(super) const MOST: usize = 4_000_000;

/// The calls of one caller, or of all.
#[derive(Default)]
pub(super) struct Samples {
    /// Of good calls, in microseconds. The longest that fits is over an hour.
    micros: Vec<u32>,
    failed: usize,
    first_failure: Option<String>,
    over_10ms: usize,
    over_100ms: usize,
    over_3s: usize,
}

/// What one measurement has shown.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Measured {
    /// Calls made, good and failed.
    pub(super) calls: usize,
    /// Those that had no good answer.
    pub(super) failed: usize,
    /// What the first of them was told.
    pub(super) first_failure: Option<String>,
    /// Good calls a second.
    pub(super) rate: f64,
    /// Of the good calls, as all that follow up to the longest; none if none was good.
    pub(super) p50_micros: Option<u32>,
    pub(super) p90_micros: Option<u32>,
    pub(super) p99_micros: Option<u32>,
    pub(super) p999_micros: Option<u32>,
    pub(super) max_micros: Option<u32>,
    /// Calls that took longer, good and failed.
    pub(super) over_10ms: usize,
    pub(super) over_100ms: usize,
    pub(super) over_3s: usize,
}

impl Samples {
    /// Adds a call.
    pub(super) fn add(&mut self, took: Duration, outcome: Result<(), String>) {
        self.over_10ms += usize::from(took > DECRYPT_AIM);
        self.over_100ms += usize::from(took > ENCRYPT_AIM);
        self.over_3s += usize::from(took > TIMEOUT);
        match outcome {
            Ok(()) => self.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX)),
            Err(why) => {
                self.failed += 1;
                self.first_failure.get_or_insert(why);
            }
        }
    }

    /// Calls so far.
    pub(super) fn len(&self) -> usize {
        self.micros.len() + self.failed
    }

    /// Adds those of another caller.
    pub(super) fn join(&mut self, other: Self) {
        self.micros.extend(other.micros);
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.over_10ms += other.over_10ms;
        self.over_100ms += other.over_100ms;
        self.over_3s += other.over_3s;
    }

    /// What they say, taken over that time.
    pub(super) fn measured(mut self, time: Duration) -> Measured {
        self.micros.sort_unstable();
        let at = |permille| quantile(&self.micros, permille);
        let rate = self.micros.len() as f64 / time.as_secs_f64().max(f64::EPSILON);
        Measured {
            calls: self.len(),
            failed: self.failed,
            rate: (rate * 10.0).round() / 10.0,
            p50_micros: at(500),
            p90_micros: at(900),
            p99_micros: at(990),
            p999_micros: at(999),
            max_micros: self.micros.last().copied(),
            first_failure: self.first_failure,
            over_10ms: self.over_10ms,
            over_100ms: self.over_100ms,
            over_3s: self.over_3s,
        }
    }
}

/// The smallest value that so many thousandths of them do not exceed (nearest rank).
fn quantile(sorted: &[u32], permille: usize) -> Option<u32> {
    let rank = (sorted.len() * permille).div_ceil(1000);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        assert_eq!(quantile(&[], 500), None);
        assert_eq!(quantile(&[7], 1), Some(7));
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!(quantile(&hundred, 500), Some(50));
        assert_eq!(quantile(&hundred, 900), Some(90));
        assert_eq!(quantile(&hundred, 990), Some(99));
        assert_eq!(quantile(&hundred, 999), Some(100));
    }

    #[test]
    fn calls_are_counted_good_and_failed_and_by_what_they_took() {
        let mut samples = Samples::default();
        samples.add(Duration::from_millis(10), Ok(()));
        samples.add(Duration::from_millis(11), Ok(()));
        let mut others = Samples::default();
        others.add(Duration::from_millis(101), Ok(()));
        others.add(Duration::from_millis(3001), Err("gone".to_owned()));
        samples.join(others);
        let measured = samples.measured(Duration::from_secs(2));
        assert_eq!((measured.calls, measured.failed), (4, 1));
        assert_eq!(measured.first_failure.as_deref(), Some("gone"));
        assert_eq!((measured.over_10ms, measured.over_100ms, measured.over_3s), (3, 2, 1));
        assert_eq!((measured.p50_micros, measured.max_micros), (Some(11_000), Some(101_000)));
        assert!((measured.rate - 1.5).abs() < 0.01);
    }

    #[test]
    fn without_a_good_call_there_is_nothing_to_tell() {
        let mut samples = Samples::default();
        samples.add(Duration::ZERO, Err("no".to_owned()));
        let measured = samples.measured(Duration::ZERO);
        assert_eq!((measured.calls, measured.failed, measured.p99_micros), (1, 1, None));
        assert_eq!(measured.rate, 0.0);
    }
}
