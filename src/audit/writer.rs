#![forbid(unsafe_code)]
//! The thread that writes: takes what waits, and makes it one write under the lock on the head.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use nix::unistd::gethostname;
use tracing::{error, info, warn};

use super::file::{LogFile, Unusable};
use super::head::{Head, HeadFile, Kept};
use super::journal::Journal;
use super::line::{self, Event};
use super::queue::{Entry, Lost, Queue, Work};
use super::sync::Dirty;
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
    /// The last line that journald took: nobody can look there if the head was not written.
    sent: Option<Head>,
    /// Lines that only the head tells of.
    untold: u64,
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
    Ok(Out { place, head, node, sent: None, untold: 0 })
}

/// Opens both again and again, after the one who had them opened has gone on without them.
/// `None`: the queue was closed.
pub(super) fn open_later(
    open: impl Fn() -> Result<Out, String>,
    mut why: String,
    queue: &Queue,
    place: &str,
) -> Option<Out> {
    while !queue.is_closed() {
        say(queue.fares(Some(why.clone())), Some(&why), place);
        thread::sleep(AGAIN);
        match open() {
            Ok(out) => return Some(out),
            Err(now) => why = now,
        }
    }
    None
}

/// Writes until the queue is closed and empty.
pub(super) fn run(mut out: Out, queue: &Queue, dirty: &Dirty, place: &str) {
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
        out.batch(entries, lost, queue, dirty, place);
        if last {
            break;
        }
    }
    let lines = out.untold.saturating_add(queue.untold());
    if lines > 0 {
        error!(
            lines,
            file = place,
            "the audit log ends without some lines: the next start tells what audit.head knows of them"
        );
    }
    if let Place::File(file) = &out.place {
        file.sync();
    }
    // At an end nobody is left to tell.
    let _ = out.head.sync();
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
    fn batch(
        &mut self,
        entries: Vec<Entry>,
        lost: Lost,
        queue: &Queue,
        dirty: &Dirty,
        place: &str,
    ) {
        let (mut waiting, mut events) = (Vec::new(), Vec::new());
        for Entry { event, time, written } in entries {
            waiting.push((event.event, written));
            events.push((time, event));
        }
        let mut told = Told { lost, ..Told::default() };
        let why = self.write(events, &mut told).err().map(|error| in_words(&error));
        let Told { lost, gap_written, is_kept, lines } = told;
        if gap_written {
            metrics::audit_line(AuditEvent::Gap);
        }
        if gap_written || lines > 0 {
            let log = match &self.place {
                Place::File(file) => file.current(),
                Place::Journal(_) => None,
            };
            dirty.note(log, &self.head);
        }
        let reason = why.as_deref().unwrap_or_default();
        let missing = waiting.len().saturating_sub(lines) as u64;
        if is_kept {
            metrics::audit_failed(missing);
        } else {
            queue.give_back(lost);
            if missing > 0 {
                queue.lose(missing, reason);
            }
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

    /// Makes sure that the end fits the head: where the next line goes, and what was wrong.
    fn prepare(&mut self, kept: &Kept) -> io::Result<Tail> {
        let (mut tail, is_anew) = match &mut self.place {
            Place::File(file) => {
                let tail = file.prepare(kept.head.clone())?;
                let is_anew = tail.is_new && file.has_siblings();
                (tail, is_anew)
            }
            Place::Journal(_) => {
                let known = kept.head.iter().chain(&self.sent).max_by_key(|head| head.seq);
                let is_new = known.is_none();
                let tail =
                    Tail { is_new, ..Tail::whole(known.cloned().unwrap_or_else(Head::start)) };
                (tail, is_new && self.head.has_past)
            }
        };
        let what = match kept.is_damaged {
            true if tail.is_new => "audit.head was damaged: numbering starts anew",
            false if is_anew => "audit.head was missing: numbering starts anew",
            _ => return Ok(tail),
        };
        tail.repairs.push(Repair { lines: 0, what: what.to_owned() });
        Ok(tail)
    }

    /// Writes all of them under the lock.
    fn write(&mut self, events: Vec<(SystemTime, Event)>, told: &mut Told) -> io::Result<()> {
        let locked = self.head.lock()?;
        let kept = &locked.kept;
        let Tail { head: mut last, repairs, .. } = self.prepare(kept)?;
        for Repair { lines, what } in repairs {
            let is_known = kept.lost.since.as_ref().is_some_and(|(_, why)| why.contains(&what));
            if !is_known && told.lost.add_repair(lines, &what) {
                warn!(lines, "the audit log: {what}");
            }
        }
        let mut lost = told.lost.clone();
        lost.add_older(kept.lost.clone());
        let before = last.clone();
        let mut batch = Batch::default();
        let gap = gap(&lost).map(|event| (SystemTime::now(), event));
        let gaps = usize::from(gap.is_some());
        for (time, event) in gap.into_iter().chain(events) {
            last = batch.add(&last, time, &self.node, event)?;
        }
        let Batch { bytes, ends, heads } = batch;
        let (whole, outcome) = match &mut self.place {
            Place::File(file) => file.append(&bytes, &ends),
            Place::Journal(journal) => journal.append(&bytes, &ends),
        };
        if gaps > 0 && whole > 0 {
            lost = Lost::default();
        }
        if let Err(error) = &outcome
            && whole < heads.len()
        {
            let missing = heads.len() - whole.max(gaps);
            lost.add(missing as u64, &in_words(error));
        }
        let written = whole.checked_sub(1).and_then(|it| heads.get(it).zip(ends.get(it)));
        let (head, end) = written.map_or((&before, 0), |(head, end)| (head, *end));
        let is_sent = matches!(self.place, Place::Journal(_)) && whole > 0;
        if is_sent {
            self.sent = Some(head.clone());
        }
        let replaced = match whole > 0 || lost != kept.lost {
            true => locked.replace(head, &lost),
            false => Ok(()),
        };
        told.is_kept = replaced.is_ok();
        if told.is_kept {
            self.untold = lost.lines;
        } else if let Place::File(file) = &self.place {
            file.take_back(end);
        }
        if told.is_kept || is_sent {
            told.gap_written = gaps > 0 && whole > 0;
            told.lines = whole.saturating_sub(gaps);
        }
        if told.gap_written {
            told.lost = Lost::default();
        }
        replaced.map_err(|error| io::Error::new(error.kind(), format!("its head: {error}")))?;
        if whole > 0
            && let Place::File(file) = &mut self.place
        {
            file.remember(head);
        }
        outcome
    }
}

/// How a batch went.
#[derive(Default)]
struct Told {
    /// What is still to be told, if the head does not keep it.
    lost: Lost,
    /// A gap line is in the log.
    gap_written: bool,
    /// Whatever is missing stands in the head.
    is_kept: bool,
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
pub(super) fn say(before: Option<String>, now: Option<&str>, place: &str) {
    match (before, now) {
        (before, Some(why)) if before.as_deref() != Some(why) => {
            error!(file = place, "the audit log cannot be written: {why}");
        }
        (Some(_), None) => info!(file = place, "the audit log is written again"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the journal nobody can look what came last.
    #[test]
    fn the_journal_goes_on_from_the_newer_head() {
        let temp = tempfile::tempdir().unwrap();
        let out = |sent: Option<u64>| Out {
            place: Place::Journal(Journal::later()),
            head: HeadFile::open(temp.path()).unwrap(),
            node: String::new(),
            sent: sent.map(|seq| Head { seq, ..Head::start() }),
            untold: 0,
        };
        let kept = |seq: Option<u64>| Kept {
            head: seq.map(|seq| Head { seq, ..Head::start() }),
            ..Kept::default()
        };
        for (known, sent, next) in [
            (None, None, 0),
            (Some(7), None, 7),
            (Some(7), Some(9), 9),
            (Some(9), Some(7), 9),
            (None, Some(7), 7),
        ] {
            let tail = out(sent).prepare(&kept(known)).unwrap();
            assert_eq!((tail.head.seq, tail.repairs.len()), (next, 0), "{known:?}, {sent:?}");
        }
        let damaged = Kept { is_damaged: true, ..Kept::default() };
        assert_eq!(out(None).prepare(&damaged).unwrap().repairs.len(), 1);
        // The daemon's own lock is no past, a record is.
        std::fs::write(temp.path().join("lock"), "").unwrap();
        assert_eq!(out(None).prepare(&kept(None)).unwrap().repairs.len(), 0);
        std::fs::write(temp.path().join("p11-kms@1.json"), "").unwrap();
        let repairs = out(None).prepare(&kept(None)).unwrap().repairs;
        assert!(repairs[0].what.contains("numbering starts anew"), "{repairs:?}");
        assert_eq!(out(None).prepare(&kept(Some(3))).unwrap().repairs.len(), 0);
    }
}
