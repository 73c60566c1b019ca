#![forbid(unsafe_code)]
//! How far it is, for people who wait.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One step is one measurement. On a terminal only.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// A bar of so many steps.
    pub(super) fn new(steps: usize) -> Self {
        if !io::stderr().is_terminal() {
            return Self(ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden()));
        }
        let steps = u64::try_from(steps).unwrap_or(u64::MAX);
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        // The bar's own form is there if this one should not be understood.
        if let Ok(style) =
            ProgressStyle::with_template("{wide_bar} {pos} of {len}, {elapsed}, {msg}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Self(bar)
    }

    /// What comes now.
    pub(super) fn says(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    /// One measurement is done.
    pub(super) fn steps(&self) {
        self.0.inc(1);
    }
}

impl Drop for Bar {
    /// Out of the way of the result, or of an error.
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
