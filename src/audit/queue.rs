#![forbid(unsafe_code)]
//! What waits for the writer, and how the writer fares. Nobody waits to put something in.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::Unwritten;
use super::line::Event;
use super::tail::BATCH;
use crate::metrics;

/// Lines that wait. While the disk hangs, more are lost, and counted.
const MOST: usize = 16 * 1024;

/// A line on its way.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) event: Event,
    pub(super) time: SystemTime,
    /// Who waits for it, if anybody does.
    pub(super) written: Option<oneshot::Sender<Result<(), Unwritten>>>,
}

/// What the writer is to do next.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) entries: Vec<Entry>,
    /// Lines that were lost before these.
    pub(super) lost: Lost,
    /// The file is to be opened anew.
    pub(super) reopen: bool,
    /// Nothing comes after this.
    pub(super) last: bool,
}

/// Lines that are not in the log, for the next one to tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost {
    pub(super) lines: u64,
    /// Since when, and why; `None`: there is nothing to tell.
    pub(super) since: Option<(SystemTime, String)>,
}

impl Lost {
    /// Adds some, for the reason that is told first.
    fn add(&mut self, lines: u64, why: &str) {
        self.lines = self.lines.saturating_add(lines);
        self.since.get_or_insert_with(|| (SystemTime::now(), why.to_owned()));
    }

    /// Adds what was found wrong with the end of the file, once.
    pub(super) fn add_repair(&mut self, lines: u64, what: &str) {
        match &mut self.since {
            Some((_, why)) if why.contains(what) => return,
            Some((_, why)) => *why = format!("{why}; {what}"),
            None => {}
        }
        self.add(lines, what);
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Entry>,
    lost: Lost,
    reopen: bool,
    closed: bool,
    /// Why lines cannot be written now.
    failing: Option<String>,
    /// When the writer began with what it is at.
    busy: Option<Instant>,
}

impl State {
    fn lose(&mut self, lines: u64, why: &str) {
        metrics::audit_failed(lines);
        self.lost.add(lines, why);
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a line in, or counts it as lost.
    pub(super) fn push(&self, entry: Entry) {
        let mut state = self.state();
        if state.waiting.len() >= MOST || state.closed {
            let why = match state.closed {
                true => "the log is closed".to_owned(),
                false => format!("{MOST} lines wait already"),
            };
            state.lose(1, &why);
            if let Some(written) = entry.written {
                // Whoever does not wait any more need not know.
                let _ = written.send(Err(Unwritten::Lost(why)));
            }
            return;
        }
        state.waiting.push_back(entry);
        drop(state);
        self.wake.notify_one();
    }

    pub(super) fn reopen(&self) {
        self.state().reopen = true;
        self.wake.notify_one();
    }

    pub(super) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
    }

    /// Waits for something to do; at most so long if lines were lost or are failing now.
    pub(super) fn take(&self, again: Duration) -> Work {
        let mut state = self.state();
        state.busy = None;
        let end = Instant::now() + again;
        while state.waiting.is_empty() && !state.reopen && !state.closed {
            if state.lost.since.is_none() && state.failing.is_none() {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let woken = self.wake.wait_timeout(state, left);
            (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.busy = Some(Instant::now());
        let count = state.waiting.len().min(BATCH);
        Work {
            entries: state.waiting.drain(..count).collect(),
            lost: std::mem::take(&mut state.lost),
            reopen: std::mem::take(&mut state.reopen),
            last: state.closed && state.waiting.is_empty(),
        }
    }

    /// The lost lines were not told: they are still to be, before any that were lost since.
    pub(super) fn give_back(&self, lost: Lost) {
        let mut state = self.state();
        state.lost.lines = state.lost.lines.saturating_add(lost.lines);
        if lost.since.is_some() {
            state.lost.since = lost.since;
        }
    }

    /// These were not written.
    pub(super) fn lose(&self, lines: u64, why: &str) {
        self.state().lose(lines, why);
    }

    /// How the writer fares. Gives what it said before.
    pub(super) fn fares(&self, failing: Option<String>) -> Option<String> {
        metrics::audit_failing(failing.is_some());
        std::mem::replace(&mut self.state().failing, failing)
    }

    /// Why lines cannot be written now: an error, or a writer that has been at it for longer
    /// than that.
    pub(super) fn trouble(&self, patience: Duration) -> Option<String> {
        let state = self.state();
        let hangs = state.busy.is_some_and(|since| since.elapsed() > patience);
        state.failing.clone().or_else(|| hangs.then(|| "it does not answer".to_owned()))
    }
}
