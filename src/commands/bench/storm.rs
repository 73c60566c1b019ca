#![forbid(unsafe_code)]
//! The cold start: a kube-apiserver that fills its watch cache sends thousands of Decrypts at
//! once, each with another seed.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::bar::Bar;
use super::call::{Caller, Turn, Way};
use super::load::drive;
use super::sample::Measured;
use crate::commands::{Exit, Failed};

/// How many of the seeds are wrapped at once beforehand: few enough to lose none.
const AHEAD: usize = 64;

/// Where the storm went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Through {
    /// A daemon's socket.
    Socket,
    /// Workers of our own, as many as configured.
    Token,
}

/// What it has shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Storm {
    pub(super) through: Through,
    /// From the first call to the last answer.
    pub(super) total_micros: u64,
    pub(super) decrypt: Measured,
}

impl Storm {
    /// Wraps `count` seeds, then has them all unwrapped at once.
    ///
    /// # Errors
    /// Not all could be wrapped.
    pub(super) async fn measure<W: Way>(
        way: &W,
        through: Through,
        count: usize,
        bar: &Bar,
    ) -> Result<Self, Failed> {
        bar.says(&format!("{count} Encrypts for the storm"));
        let mut ready = Vec::with_capacity(count);
        while ready.len() < count {
            let next = Caller::some(way, AHEAD.min(count - ready.len()));
            let (wrapped, callers) = drive(next, Turn::Wrap, Duration::ZERO).await;
            if wrapped.failed > 0 {
                let why = wrapped.first_failure.unwrap_or_default();
                let message = format!("the storm cannot be prepared, an Encrypt failed: {why}");
                return Err(Failed::new(Exit::Unreachable, message));
            }
            ready.extend(callers);
        }
        bar.steps();
        bar.says(&format!("a storm of {count} Decrypts"));
        let began = Instant::now();
        let (decrypt, _) = drive(ready, Turn::Unwrap, Duration::ZERO).await;
        let total_micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        bar.steps();
        Ok(Self { through, total_micros, decrypt })
    }
}
