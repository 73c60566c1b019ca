#![forbid(unsafe_code)]
//! Which numbers of workers and sessions are tried, and which of them fits the token.

use serde::Serialize;

use super::sample::Measured;
use crate::commands::{Exit, Failed};
use crate::config::Profile;

/// Most workers and sessions that the configuration takes.
const MOST_WORKERS: usize = 16;
const MOST_SESSIONS: usize = 64;

/// Calls at once that a kube-apiserver may well have under way.
const USUAL_CALLERS: usize = 64;

/// A smaller number fits if it is this near to the fastest: a tenth is less than what two runs
/// differ by.
const NEARLY_AS_FAST: f64 = 0.9;

/// And if its slowest hundredth waits no longer than this times that of the fastest. The same
/// callers wait a tenth longer where the rate is a tenth less; the rest is chance.
const NEARLY_AS_EVEN: f64 = 1.25;

/// What is varied: what the profile has several of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Varied {
    /// Processes, where the module has one lock for all its threads.
    Workers,
    /// Sessions in a process, where each call is a round trip.
    Sessions,
}

/// So many workers, with so many sessions each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Size {
    pub(super) workers: usize,
    pub(super) sessions: usize,
}

impl Size {
    /// What the configuration says.
    pub(super) const fn configured(profile: &Profile) -> Self {
        Self { workers: profile.workers, sessions: profile.sessions }
    }

    /// Sessions of all workers.
    pub(super) const fn total(self) -> usize {
        self.workers * self.sessions
    }
}

/// What is to be tried.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) varied: Varied,
    /// From small to large, never empty.
    pub(super) sizes: Vec<Size>,
    /// Callers at once, the same for all sizes: otherwise their times would not compare.
    pub(super) callers: usize,
}

impl Plan {
    /// What that profile lets us try, up to `most` of what is varied.
    ///
    /// # Errors
    /// It does not let us try so many.
    pub(super) fn new(profile: &Profile, most: Option<usize>) -> Result<Self, Failed> {
        let varied = if profile.os_locking && (profile.sessions > 1 || profile.workers == 1) {
            Varied::Sessions
        } else {
            Varied::Workers
        };
        let (name, configured, limit) = match varied {
            Varied::Sessions => ("sessions", profile.sessions, MOST_SESSIONS),
            // See `new-keys-need-initialize`: the configuration takes no more of them either.
            Varied::Workers if profile.new_keys_need_initialize => ("workers", 1, 1),
            Varied::Workers => ("workers", profile.workers, MOST_WORKERS),
        };
        let most = most.unwrap_or_else(|| (configured * 2).min(limit));
        if most > limit {
            let what = format!(
                "--max-sessions {most}: with the profile {} it is {name} that are varied, and \
                 there may be at most {limit} of them",
                profile.name
            );
            return Err(Failed::new(Exit::Usage, what));
        }
        let sizes: Vec<Size> = steps(most)
            .map(|count| match varied {
                Varied::Sessions => Size { workers: profile.workers, sessions: count },
                Varied::Workers => Size { workers: count, sessions: profile.sessions },
            })
            .collect();
        let total = sizes.last().map_or(1, |size| size.total());
        // Two for each session: one is worked at while the other is on its way.
        let ahead = (total * profile.pipeline_depth).min(USUAL_CALLERS);
        Ok(Self { varied, sizes, callers: ahead.max(2 * total) })
    }
}

/// 1, 2, 4 and so on, and `most` itself.
fn steps(most: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(1), move |last: &usize| {
        (*last < most).then(|| last.saturating_mul(2).min(most))
    })
}

/// What was measured with one size.
#[derive(Debug, Serialize)]
pub(super) struct Point {
    #[serde(flatten)]
    pub(super) size: Size,
    #[serde(flatten)]
    pub(super) pair: Pair,
}

/// Both ways.
#[derive(Debug, Serialize)]
pub(super) struct Pair {
    pub(super) wrap: Measured,
    pub(super) unwrap: Measured,
}

impl Pair {
    /// Seeds there and back a second, for whoever does as many of one as of the other.
    fn round_trips(&self) -> f64 {
        let (there, back) = (self.wrap.rate, self.unwrap.rate);
        if there > 0.0 && back > 0.0 { there * back / (there + back) } else { 0.0 }
    }

    fn is_whole(&self) -> bool {
        self.wrap.failed == 0 && self.unwrap.failed == 0
    }

    fn is_as_even_as(&self, other: &Self) -> bool {
        let fits = |ours: &Measured, theirs: &Measured| match (ours.p99_micros, theirs.p99_micros) {
            (Some(ours), Some(theirs)) => f64::from(ours) <= f64::from(theirs) * NEARLY_AS_EVEN,
            _ => false,
        };
        fits(&self.wrap, &other.wrap) && fits(&self.unwrap, &other.unwrap)
    }
}

/// The smallest size that is nearly as good as the fastest; none if calls failed with all.
pub(super) fn recommended(points: &[Point]) -> Option<&Point> {
    let whole = || points.iter().filter(|point| point.pair.is_whole());
    let rate = |point: &&Point| point.pair.round_trips();
    let fastest = whole().max_by(|a, b| rate(a).total_cmp(&rate(b)))?;
    let enough = fastest.pair.round_trips() * NEARLY_AS_FAST;
    whole().find(|point| rate(point) >= enough && point.pair.is_as_even_as(&fastest.pair))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::sample::Samples;
    use super::*;

    fn sizes(name: &str, most: Option<usize>) -> (Varied, Vec<(usize, usize)>, usize) {
        let plan = Plan::new(&Profile::built_in(name).unwrap(), most).unwrap();
        let sizes = plan.sizes.iter().map(|size| (size.workers, size.sessions)).collect();
        (plan.varied, sizes, plan.callers)
    }

    #[test]
    fn what_the_profile_has_several_of_is_varied() {
        let processes = sizes("softhsm", None);
        assert_eq!(processes, (Varied::Workers, vec![(1, 1), (2, 1), (4, 1)], 64));
        let network = sizes("luna", None);
        let expected = vec![(1, 1), (1, 2), (1, 4), (1, 8), (1, 16)];
        assert_eq!(network, (Varied::Sessions, expected, 32));
        // One of each: a second session costs no second login.
        assert_eq!(sizes("tpm2", None), (Varied::Sessions, vec![(1, 1), (1, 2)], 4));
    }

    #[test]
    fn every_profile_can_be_measured_and_tries_what_it_says() {
        for name in Profile::built_in_names() {
            let (varied, tried, _) = sizes(name, None);
            let profile = Profile::built_in(name).unwrap();
            assert!(tried.contains(&(profile.workers, profile.sessions)), "{name}: {tried:?}");
            let workers = tried.last().unwrap().0;
            assert!(!profile.new_keys_need_initialize || workers == 1, "{name}");
            assert!(profile.workers == 1 || varied == Varied::Workers, "{name}");
        }
    }

    #[test]
    fn the_most_is_tried_and_has_a_limit() {
        assert_eq!(sizes("luna", Some(6)).1, [(1, 1), (1, 2), (1, 4), (1, 6)]);
        assert_eq!(sizes("luna", Some(1)).1, [(1, 1)]);
        let failed = Plan::new(&Profile::built_in("softhsm").unwrap(), Some(17)).unwrap_err();
        assert_eq!(failed.exit, Exit::Usage);
        let locked =
            Profile { os_locking: false, sessions: 1, ..Profile::built_in("nshield").unwrap() };
        assert_eq!(Plan::new(&locked, None).unwrap().sizes.len(), 1);
        assert!(Plan::new(&locked, Some(2)).is_err());
    }

    /// That many calls in a second, the slowest of them so slow.
    fn measured(calls: u64, slowest: u64, failed: bool) -> Measured {
        let mut samples = Samples::default();
        for _ in 0..calls {
            samples.add(Duration::from_micros(slowest), Ok(()));
        }
        if failed {
            samples.add(Duration::ZERO, Err("no".to_owned()));
        }
        samples.measured(Duration::from_secs(1))
    }

    fn recommend(of: &[(u64, u64, bool)]) -> Option<usize> {
        let points: Vec<Point> = of
            .iter()
            .zip(1..)
            .map(|((rate, p99, failed), workers)| Point {
                size: Size { workers, sessions: 1 },
                pair: Pair {
                    wrap: measured(*rate, *p99, *failed),
                    unwrap: measured(*rate, *p99, false),
                },
            })
            .collect();
        recommended(&points).map(|point| point.size.workers)
    }

    #[test]
    fn the_smallest_that_is_nearly_as_good_is_recommended() {
        assert_eq!(recommend(&[(100, 50, false), (190, 30, false), (200, 29, false)]), Some(2));
        assert_eq!(recommend(&[(100, 50, false), (170, 30, false), (200, 29, false)]), Some(3));
        assert_eq!(recommend(&[(200, 29, false), (150, 40, false)]), Some(1));
    }

    #[test]
    fn who_makes_some_wait_much_longer_is_not_recommended() {
        assert_eq!(recommend(&[(195, 60, false), (200, 29, false)]), Some(2));
    }

    #[test]
    fn who_loses_calls_is_not_recommended() {
        assert_eq!(recommend(&[(100, 30, false), (200, 29, true)]), Some(1));
        assert_eq!(recommend(&[(100, 30, true)]), None);
        assert_eq!(recommend(&[]), None);
    }
}
