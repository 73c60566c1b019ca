#![forbid(unsafe_code)]
//! The thread that writes: takes what waits, and makes it one write under the lock on the head.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::unistd::gethostname;
use tracing::{error, info, warn};

use super::file::{LogFile, Unusable};
use super::head::{Head, HeadFile};
use super::journal::Journal;
use super::line::{self, Event};
use super::queue::{Entry, Lost, Queue, Work};
use super::tail::{Repair, Tail};
use super::{Unwritten, in_words};
use crate::config::AuditPlace;
use crate::metrics::{self, AuditEvent};

/// How often a log that cannot be written is tried again while nobody has a line for it.
const AGAIN: Duration = Duration::from_secs(1);

/// Where lines go, and the chain's head.
#[derive(Debug)]
pub(super) struct Out {
    place: Place,
    head: HeadFile,
    node: String,
}

#[derive(Debug)]
enum Place {
    File(LogFile),
    Journal(Journal),
}

/// Opens both.
///
/// # Errors
/// What somebody has to put right. What may become well by itself is none.
pub(super) fn open(place: &AuditPlace, state_dir: &Path) -> Result<Out, String> {
    let head = HeadFile::open(state_dir).map_err(|error| {
        format!(
            "its head, {}: {error}. keyring.state-dir must be there, and the daemon's user must be able to \
             write to it",
            state_dir.join(super::HEAD_NAME).display()
        )
    })?;
    let place = match place {
        AuditPlace::File(path) => {
            let mut file = LogFile::new(path);
            match file.open() {
                Err(Unusable::Wrong(what)) => return Err(what),
                // The first line will tell.
                Err(Unusable::Trouble(_)) | Ok(()) => Place::File(file),
            }
        }
        AuditPlace::Journal => match Journal::open() {
            Ok(journal) => Place::Journal(journal),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!("{error}: journald does not run here; name a file"));
            }
            Err(_) => Place::Journal(Journal::later()),
        },
    };
    let node = gethostname().map_or_else(|_| String::new(), |it| it.to_string_lossy().into_owned());
    Ok(Out { place, head, node })
}

/// Writes until the queue is closed and empty.
pub(super) fn run(mut out: Out, queue: &Queue, place: &str) {
    loop {
        let Work { entries, lost, reopen, last } = queue.take(AGAIN);
        if let Place::File(file) = &mut out.place
            && reopen
        {
            file.forget();
        }
        // One whose caller has gone has another line, or is in it twice.
        let gone = |entry: &Entry| entry.written.as_ref().is_some_and(|it| it.is_closed());
        let entries: Vec<Entry> = entries.into_iter().filter(|entry| !gone(entry)).collect();
        out.batch(entries, lost, queue, place);
        if last {
            break;
        }
    }
    if let Place::File(file) = &out.place {
        file.sync();
    }
}

/// Lines that are ready to be written, one behind the other.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    heads: Vec<Head>,
}

impl Batch {
    fn add(&mut self, last: &Head, time: SystemTime, node: &str, event: Event) -> io::Result<Head> {
        let seq = last.seq.checked_add(1).ok_or_else(|| io::Error::other("no number is left"))?;
        let hash = line::write(&mut self.bytes, seq, time, node, event, &last.hash)?;
        let head = Head { seq, hash };
        self.ends.push(self.bytes.len());
        self.heads.push(head.clone());
        Ok(head)
    }
}

impl Out {
    fn batch(&mut self, entries: Vec<Entry>, lost: Lost, queue: &Queue, place: &str) {
        let (mut waiting, mut events) = (Vec::new(), Vec::new());
        for Entry { event, time, written } in entries {
            waiting.push((event.event, written));
            events.push((time, event));
        }
        let mut told = Told { lost, ..Told::default() };
        let why = self.write(events, &mut told).err().map(|error| in_words(&error));
        let Told { lost, gap_written, lines } = told;
        if gap_written {
            metrics::audit_line(AuditEvent::Gap);
        } else {
            queue.give_back(lost);
        }
        let reason = why.as_deref().unwrap_or_default();
        let missing = waiting.len().saturating_sub(lines);
        if missing > 0 {
            queue.lose(missing as u64, reason);
        }
        say(queue.fares(why.clone()), why.as_deref(), place);
        for (number, (kind, waits)) in waiting.into_iter().enumerate() {
            let is_written = number < lines;
            if is_written {
                metrics::audit_line(kind);
            }
            if let Some(waits) = waits {
                let lost = || Unwritten::Lost(reason.to_owned());
                // Whoever does not wait any more need not know.
                let _ = waits.send(is_written.then_some(()).ok_or_else(lost));
            }
        }
    }

    /// Writes all of them under the lock.
    fn write(&mut self, events: Vec<(SystemTime, Event)>, told: &mut Told) -> io::Result<()> {
        let locked = self.head.lock()?;
        let Tail { head: mut last, repairs } = match &mut self.place {
            Place::File(file) => file.prepare(locked.head.clone())?,
            Place::Journal(_) => Tail::whole(locked.head.clone().unwrap_or_else(Head::start)),
        };
        for Repair { lines, what } in repairs {
            warn!(lines, "the audit log: {what}");
            told.lost.add_repair(lines, &what);
        }
        let mut batch = Batch::default();
        let gap = gap(&told.lost);
        let gaps = usize::from(gap.is_some());
        let gap = gap.map(|event| (SystemTime::now(), event));
        for (time, event) in gap.into_iter().chain(events) {
            last = batch.add(&last, time, &self.node, event)?;
        }
        let Batch { bytes, ends, heads } = batch;
        let (whole, outcome) = match &mut self.place {
            Place::File(file) => file.append(&bytes, &ends),
            Place::Journal(journal) => journal.append(&bytes, &ends),
        };
        if let Some((head, end)) =
            whole.checked_sub(1).and_then(|it| heads.get(it).zip(ends.get(it)))
        {
            if let Err(error) = locked.replace(head) {
                if let Place::File(file) = &self.place {
                    file.take_back(*end);
                }
                return Err(io::Error::new(error.kind(), format!("its head: {error}")));
            }
            if let Place::File(file) = &mut self.place {
                file.remember(head);
            }
        }
        told.gap_written = whole >= gaps;
        told.lines = whole.saturating_sub(gaps);
        outcome
    }
}

/// How a batch went.
#[derive(Default)]
struct Told {
    /// What the gap line tells.
    lost: Lost,
    /// It is in the log, or there was nothing for it to tell.
    gap_written: bool,
    /// So many of the events are in the log.
    lines: usize,
}

/// What tells of lines that are lost.
fn gap(lost: &Lost) -> Option<Event> {
    let (since, why) = lost.since.as_ref()?;
    let since = humantime::format_rfc3339_seconds(*since);
    Some(Event {
        detail: Some(format!("since {since}: {why}")),
        count: (lost.lines > 0).then_some(lost.lines),
        ..Event::new(AuditEvent::Gap)
    })
}

/// Once until it changes: a disk that stays full must not fill another one.
fn say(before: Option<String>, now: Option<&str>, place: &str) {
    match (before, now) {
        (before, Some(why)) if before.as_deref() != Some(why) => {
            error!(file = place, "the audit log cannot be written: {why}");
        }
        (Some(_), None) => info!(file = place, "the audit log is written again"),
        _ => {}
    }
}
