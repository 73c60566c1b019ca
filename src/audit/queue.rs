#![forbid(unsafe_code)]
//! What waits for the writer, and how the writer fares. Nobody waits to put something in.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::line::Event;
use super::tail::BATCH;
use super::{PATIENCE, Unwritten};
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) lines: u64,
    /// Since when, and why; `None`: there is nothing to tell.
    pub(super) since: Option<(SystemTime, String)>,
}

impl Lost {
    /// Adds some, for the reason that is told first.
    pub(super) fn add(&mut self, lines: u64, why: &str) {
        self.lines = self.lines.saturating_add(lines);
        self.since.get_or_insert_with(|| (SystemTime::now(), why.to_owned()));
    }

    /// Adds what was lost before.
    pub(super) fn add_older(&mut self, older: Self) {
        self.lines = self.lines.saturating_add(older.lines);
        if older.since.is_some() {
            self.since = older.since;
        }
    }

    /// Adds what was found wrong with the end of the file. `false`: it is there already.
    pub(super) fn add_repair(&mut self, lines: u64, what: &str) -> bool {
        match &mut self.since {
            Some((_, why)) if why.contains(what) => return false,
            Some((_, why)) => *why = format!("{why}; {what}"),
            None => {}
        }
        self.add(lines, what);
        true
    }
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    /// The thread has ended.
    over: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Entry>,
    lost: Lost,
    reopen: bool,
    closed: bool,
    /// Why lines cannot be written now, and since when.
    failing: Option<(String, Instant)>,
    /// When the writer began with what it is at.
    busy: Option<Instant>,
    /// So many lines it is at.
    in_hand: usize,
    /// The trouble that the log tells of.
    said: Option<String>,
    ended: bool,
}

impl State {
    fn lose(&mut self, lines: u64, why: &str) {
        metrics::audit_failed(lines);
        self.lost.add(lines, why);
    }

    /// What is wrong, and since when: an error, or a writer that has been at it for too long.
    fn trouble(&self) -> Option<(String, Instant)> {
        let hangs = self.busy.filter(|since| since.elapsed() > PATIENCE);
        let hangs = hangs.map(|since| ("it does not answer".to_owned(), since));
        self.failing.clone().or(hangs)
    }
}

impl Queue {
    /// An empty one. The writer is at it from the start: it opens the file.
    pub(super) fn new() -> Self {
        let state = State { busy: Some(Instant::now()), ..State::default() };
        Self { state: Mutex::new(state), wake: Condvar::new(), over: Condvar::new() }
    }

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
        state.in_hand = 0;
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
        state.in_hand = count;
        Work {
            entries: state.waiting.drain(..count).collect(),
            lost: std::mem::take(&mut state.lost),
            reopen: std::mem::take(&mut state.reopen),
            last: state.closed && state.waiting.is_empty(),
        }
    }

    /// These were not told: they are still to be, before any that were lost since.
    pub(super) fn give_back(&self, lost: Lost) {
        self.state().lost.add_older(lost);
    }

    /// These were not written.
    pub(super) fn lose(&self, lines: u64, why: &str) {
        self.state().lose(lines, why);
    }

    /// How the writer fares. Gives what was said of it before.
    pub(super) fn fares(&self, failing: Option<String>) -> Option<String> {
        metrics::audit_failing(failing.is_some());
        let mut state = self.state();
        let since = state.trouble().map_or_else(Instant::now, |(_, since)| since);
        state.failing = failing.clone().map(|why| (why, since));
        state.in_hand = 0;
        std::mem::replace(&mut state.said, failing)
    }

    /// Why lines cannot be written now, and for how long without a break.
    pub(super) fn trouble(&self) -> Option<(String, Duration)> {
        self.state().trouble().map(|(why, since)| (why, since.elapsed()))
    }

    /// The lines that are in no file yet.
    pub(super) fn untold(&self) -> u64 {
        let state = self.state();
        state.lost.lines.saturating_add((state.waiting.len() + state.in_hand) as u64)
    }

    /// Is it to be closed?
    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// The thread has ended.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.over.notify_all();
    }

    /// Waits, and then tells what is wrong if nobody did: the writer itself cannot while it hangs.
    /// `false`: it has ended.
    pub(super) fn watch(&self, every: Duration, tell: impl FnOnce(&str)) -> bool {
        let state = self.state();
        let woken = self.over.wait_timeout_while(state, every, |state| !state.ended);
        let (mut state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        if !state.ended
            && state.said.is_none()
            && let Some((why, _)) = state.trouble()
        {
            metrics::audit_failing(true);
            tell(&why);
            state.said = Some(why);
        }
        !state.ended
    }
}
