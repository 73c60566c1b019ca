#![forbid(unsafe_code)]
//! Many callers at once.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::call::{Caller, Turn, Way};
use super::sample::{MOST, Measured, Samples};

/// Lets all callers call for that long, and at least once each. Gives them back: an unwrap
/// wants what a wrap before it made.
///
/// The first call of each counts from the common start, so that a storm of one call each
/// is measured as the last in the queue feels it.
pub(super) async fn drive<W: Way>(
    callers: Vec<Caller<W>>,
    turn: Turn,
    time: Duration,
) -> (Measured, Vec<Caller<W>>) {
    let most = MOST / callers.len().max(1);
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for mut caller in callers {
        tasks.spawn(async move {
            let mut samples = Samples::default();
            let mut since = began;
            loop {
                let outcome = caller.call(turn).await;
                samples.add(since.elapsed(), outcome);
                if began.elapsed() >= time || samples.len() >= most {
                    return (samples, caller);
                }
                since = Instant::now();
            }
        });
    }
    let mut all = Samples::default();
    let mut back = Vec::new();
    for (samples, caller) in tasks.join_all().await {
        all.join(samples);
        back.push(caller);
    }
    (all.measured(began.elapsed()), back)
}
