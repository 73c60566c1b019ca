#![forbid(unsafe_code)]
//! Feeds systemd's watchdog (`WatchdogSec=`, sd_watchdog_enabled(3)) while the front is
//! alive. Whether the token is well plays no part: that is what Status tells.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{MissedTickBehavior, interval};
use tracing::info;

use crate::health::Health;
use crate::notify;
use crate::server::Counters;

/// Feeds it for ever, if there is one. Each time, the accept loop must have gone round since it was
/// asked to the last time, and Status must be there to be had.
pub(super) async fn feed(counters: Arc<Counters>, health: Arc<Health>) {
    let Some(limit) = notify::watchdog() else { return };
    let every = limit / 4;
    info!(?limit, "feeding systemd's watchdog");
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        tick.tick().await;
        let rounds = counters.rounds.load(Ordering::Relaxed);
        if seen != Some(rounds) {
            // It takes the locks of health, keyring and queue.
            let _ = health.snapshot();
            notify::alive();
            seen = Some(rounds);
        }
        counters.ask.notify_one();
    }
}
