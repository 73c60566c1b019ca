#![forbid(unsafe_code)]
//! The audit log: a line for each use of the KEKs, each with the hash of the one before it, so
//! that whoever changes, removes or moves one is found out. Its form is in `docs/audit.md`.
//!
//! A thread of its own writes: a disk that hangs stops nobody who need not wait for it. Two more
//! bring it onto the disk, and tell when it hangs.

mod file;
mod head;
mod journal;
mod line;
mod queue;
mod sync;
mod tail;
pub mod verify;
mod writer;

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{SendError, sync_channel};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::error;

pub use self::head::{Head, NAME as HEAD_NAME};
pub use self::line::Event;
use self::queue::{Entry, Queue};
use self::sync::Dirty;
use self::writer::Out;
use crate::config::{self, AuditPlace, OnFailure};
use crate::metrics;
pub use crate::metrics::AuditEvent;

/// How long a call waits for its line. Then it counts as not written.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a start waits for the log to be opened. Then it goes on, as with a disk that is full.
const OPENING: Duration = Duration::from_secs(5);

/// How often it is looked at whether the writer hangs.
const LOOK: Duration = Duration::from_secs(1);

/// How long the end waits for the last lines.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why there can be no audit log.
#[derive(Debug, thiserror::Error)]
#[error("audit.file: {place}: {what}")]
pub struct AuditError {
    place: String,
    what: String,
}

/// Why a line is not in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritten {
    /// Not in time. It may be there yet.
    #[error("it did not take the line within {} s", PATIENCE.as_secs())]
    Late,
    /// It cannot be written. The next `gap` line counts it.
    #[error("{0}")]
    Lost(String),
}

/// Who may go on without a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Makes something that is encrypted, or changes the token.
    Changes,
    /// Only reads what is there.
    Reads,
}

/// The way to the log. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Audit(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    queue: Queue,
    dirty: Dirty,
    place: String,
    on_failure: AtomicU8,
}

/// The thread that writes. It ends when this is closed.
#[derive(Debug)]
pub struct Writer {
    audit: Audit,
    ended: Option<oneshot::Receiver<()>>,
}

/// Opens the log that the config names and starts its thread. With none, whatever is told goes
/// nowhere.
///
/// A disk that is full, or does not answer, is no error here: see [`Audit::trouble`].
///
/// # Errors
/// [`AuditError`]: what somebody has to put right.
pub fn open(config: Option<&config::Audit>, state_dir: &Path) -> Result<Writer, AuditError> {
    let Some(config) = config else { return Ok(Writer { audit: Audit::off(), ended: None }) };
    let (place, state_dir) = (config.place.clone(), state_dir.to_owned());
    start(config, OPENING, move || writer::open(&place, &state_dir))
}

/// Starts the threads, and waits for the log to be opened, but not for longer than that.
fn start(
    config: &config::Audit,
    patience: Duration,
    open: impl Fn() -> Result<Out, String> + Send + 'static,
) -> Result<Writer, AuditError> {
    let place = match &config.place {
        AuditPlace::File(path) => path.display().to_string(),
        AuditPlace::Journal => "journal".to_owned(),
    };
    let shared = Arc::new(Shared {
        queue: Queue::new(),
        dirty: Dirty::default(),
        place: place.clone(),
        on_failure: AtomicU8::new(number(config.on_failure)),
    });
    let failed = |what: &dyn Display| {
        shared.end();
        AuditError { place: place.clone(), what: what.to_string() }
    };
    let (end, ended) = oneshot::channel();
    // Nothing lies in it: either it was taken, or nobody waits any more.
    let (opened, is_opened) = sync_channel(0);
    let own = shared.clone();
    let write = move || {
        let out = match open() {
            Ok(out) => {
                // It is open all the same, later.
                let _ = opened.send(Ok(()));
                Some(out)
            }
            Err(what) => match opened.send(Err(what)) {
                Err(SendError(Err(what))) => writer::open_later(open, what, &own.queue, &own.place),
                _ => None,
            },
        };
        if let Some(out) = out {
            writer::run(out, &own.queue, &own.dirty, &own.place);
        }
        own.end();
        // Nobody waits for it after a while.
        let _ = end.send(());
    };
    let own = shared.clone();
    let watch = move || {
        let tell = |why: &str| writer::say(None, Some(why), &own.place);
        while own.queue.watch(LOOK, tell) {}
    };
    let own = shared.clone();
    let sync = move || sync::run(&own.dirty, sync::EVERY, std::fs::File::sync_data);
    spawn("audit", write).map_err(|error| failed(&error))?;
    spawn("audit-watch", watch).map_err(|error| failed(&error))?;
    spawn("audit-sync", sync).map_err(|error| failed(&error))?;
    match is_opened.recv_timeout(patience) {
        Ok(Err(what)) => Err(failed(&what)),
        // The watch tells of one that hangs.
        _ => Ok(Writer { audit: Audit(Some(shared)), ended: Some(ended) }),
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// Could the log be written? Makes nothing.
///
/// # Errors
/// [`AuditError`]: what somebody has to put right.
pub fn look(place: &AuditPlace) -> Result<(), AuditError> {
    let (place, looked) = match place {
        AuditPlace::File(path) => {
            (path.display().to_string(), file::look(path).map_err(io::Error::from))
        }
        AuditPlace::Journal => ("journal".to_owned(), journal::Journal::open().map(drop)),
    };
    looked.map_err(|error| AuditError { place, what: error.to_string() })
}

const fn number(on_failure: OnFailure) -> u8 {
    match on_failure {
        OnFailure::Refuse => 0,
        OnFailure::RefuseAll => 1,
        OnFailure::Continue => 2,
    }
}

impl Audit {
    /// No log: what is told goes nowhere.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// Is there a log? Without one an event need not be put together.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Has a line written, and does not wait for it.
    pub fn tell(&self, event: Event) {
        if let Some(shared) = &self.0 {
            shared.queue.push(Entry { event, time: SystemTime::now(), written: None });
        }
    }

    /// Has a line written and waits, but only if nobody may go on without it.
    ///
    /// # Errors
    /// [`Unwritten`]: then what it tells of must not happen, or not be given out.
    pub async fn require(&self, event: Event, need: Need) -> Result<(), Unwritten> {
        let Some(shared) = self.0.as_ref().filter(|shared| shared.wants(need)) else {
            self.tell(event);
            return Ok(());
        };
        let outcome = shared.write(event).await;
        if outcome.is_err() {
            metrics::audit_refused();
        }
        outcome
    }

    /// Has a line written and waits for it, whatever may go on without it.
    ///
    /// # Errors
    /// [`Unwritten`].
    pub async fn write(&self, event: Event) -> Result<(), Unwritten> {
        match &self.0 {
            Some(shared) => shared.write(event).await,
            None => Ok(()),
        }
    }

    /// May nobody go on without a line?
    #[must_use]
    pub fn refuses(&self, need: Need) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.wants(need))
    }

    /// Why those with that need are refused because of the log, and for how long without a break.
    #[must_use]
    pub fn trouble(&self, need: Need) -> Option<(String, Duration)> {
        let shared = self.0.as_ref().filter(|shared| shared.wants(need))?;
        shared.queue.trouble().map(|(what, since)| (shared.told(what), since))
    }

    /// The text for a call that is refused.
    #[must_use]
    pub fn refusal(&self, why: &Unwritten) -> String {
        self.0.as_ref().map_or_else(String::new, |shared| shared.told(why))
    }

    /// Opens the file anew with the next line, and takes what the config says about failures.
    pub fn reload(&self, on_failure: OnFailure) {
        if let Some(shared) = &self.0 {
            shared.on_failure.store(number(on_failure), Ordering::Relaxed);
            shared.queue.reopen();
        }
    }
}

impl Shared {
    fn end(&self) {
        self.queue.end();
        self.dirty.end();
    }

    fn wants(&self, need: Need) -> bool {
        let on_failure = self.on_failure.load(Ordering::Relaxed);
        let all = on_failure == number(OnFailure::RefuseAll);
        all || (need == Need::Changes && on_failure == number(OnFailure::Refuse))
    }

    async fn write(&self, event: Event) -> Result<(), Unwritten> {
        let (written, answer) = oneshot::channel();
        self.queue.push(Entry { event, time: SystemTime::now(), written: Some(written) });
        match timeout(PATIENCE, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Unwritten::Lost("its thread has ended".to_owned())),
            Err(_) => Err(Unwritten::Late),
        }
    }

    fn told(&self, why: impl Display) -> String {
        let what = match self.on_failure.load(Ordering::Relaxed) {
            all if all == number(OnFailure::RefuseAll) => "nothing is encrypted or decrypted",
            _ => "nothing is encrypted",
        };
        format!(
            "the audit log ({}) cannot be written: {why}. Until it can, {what}: make room or mend it, and \
             it goes on by itself (audit.on-failure)",
            self.place
        )
    }
}

impl Writer {
    /// The way to it.
    #[must_use]
    pub fn audit(&self) -> Audit {
        self.audit.clone()
    }

    /// Writes what is left, as far as that goes in a short time.
    pub async fn close(self) {
        let Some(shared) = &self.audit.0 else { return };
        shared.queue.close();
        if let Some(ended) = self.ended {
            // One that hangs ends with the process.
            if timeout(FAREWELL, ended).await.is_err() {
                let lines = shared.queue.untold();
                error!(
                    lines,
                    file = shared.place,
                    "the audit log does not answer at the end: lines are not in it"
                );
            }
        }
    }
}

/// What an error of the system means for the log.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull => format!("{error} (the disk is full)"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
