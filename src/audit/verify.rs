#![forbid(unsafe_code)]
//! Is a log as it was written? Read once, line by line; what is kept does not grow with it.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::thread;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::Head;
use super::line::{LONGEST, NO_HASH, hash, is_sealed};

/// How long a line that is half there has time to come.
const A_MOMENT: Duration = Duration::from_millis(100);

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Every line is there, and as it was written, from the first that was given on.
    pub intact: bool,
    /// How many lines were read.
    pub lines: u64,
    /// The number of the first line.
    pub first_seq: Option<u64>,
    /// The number of the last line of the part that is intact.
    pub last_seq: Option<u64>,
    /// Nothing is cut off at the end, since the head is in it.
    pub end_proven: bool,
    /// The first thing that is wrong.
    pub broken: Option<Broken>,
    /// Lines that could not be written at their time, as the `gap` lines say.
    #[serde(skip)]
    pub lost: u64,
    /// Behind the end that is proven there is half a line, as while somebody writes it.
    #[serde(skip)]
    pub is_written: bool,
}

/// Where the log is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Which file.
    pub file: String,
    /// Which line of it, from 1; the one after the last if the end is missing.
    pub line: u64,
    /// The number that the line has, or that is missing.
    pub seq: Option<u64>,
    /// What is wrong with it.
    pub kind: Kind,
    /// The same for people.
    pub message: String,
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It is not as it was written.
    Changed,
    /// One or more before it are not there, or it is after the end and not there itself.
    Missing,
    /// It is in another place.
    Moved,
    /// It is there once more.
    Repeated,
    /// It is no line of an audit log at all.
    NotJson,
}

#[derive(Deserialize)]
struct Line {
    seq: u64,
    prev: String,
    event: String,
    count: Option<u64>,
}

/// Goes through the files of a log, oldest first.
#[derive(Debug, Default)]
pub struct Verifier {
    head: Option<Head>,
    end_proven: bool,
    lines: u64,
    lost: u64,
    first: Option<u64>,
    last: Option<Seen>,
    place: (String, u64),
    broken: Option<Broken>,
    /// Numbers that are missing where it broke. They may come later.
    sought: Option<std::ops::Range<u64>>,
    /// The last line was not all there.
    is_written: bool,
}

/// The last line that fits.
#[derive(Debug)]
struct Seen {
    seq: u64,
    hash: String,
    file: String,
    line: u64,
}

impl Verifier {
    /// With a head it is shown too whether the end is there. It must have been read before the
    /// files: a daemon goes on writing.
    #[must_use]
    pub fn new(head: Option<Head>) -> Self {
        Self { head, ..Self::default() }
    }

    /// Reads the next file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&mut self, name: &str, source: &mut impl BufRead) -> io::Result<()> {
        self.read_and(name, source, |_, _| Ok(false))
    }

    /// Reads the last file. A daemon may be at its last line just now, which so is half there:
    /// behind the head it is passed over, and without one there is a moment for it to come.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_last(&mut self, name: &str, source: &mut impl BufRead) -> io::Result<()> {
        let has_head = self.head.is_some();
        let mut source = source;
        self.read_and(name, &mut source, |source, line| {
            if !has_head {
                thread::sleep(A_MOMENT);
                let left = LONGEST.saturating_sub(line.len());
                source.take(left as u64).read_until(b'\n', line)?;
            }
            Ok(has_head)
        })
    }

    /// `half` is asked about a line without an end: may it be passed over behind the head?
    fn read_and<S: BufRead>(
        &mut self,
        name: &str,
        source: &mut S,
        half: impl Fn(&mut S, &mut Vec<u8>) -> io::Result<bool>,
    ) -> io::Result<()> {
        self.place = (name.to_owned(), 0);
        let mut line = Vec::new();
        while next_line(source, &mut line)? {
            if line.len() < LONGEST
                && !line.ends_with(b"\n")
                && half(source, &mut line)?
                && self.end_proven
            {
                self.is_written = true;
                break;
            }
            self.place.1 += 1;
            self.lines += 1;
            self.take(&line);
        }
        Ok(())
    }

    /// What was found in all of them.
    #[must_use]
    pub fn finish(mut self) -> Findings {
        if self.broken.is_none() {
            self.look_at_end();
        }
        Findings {
            intact: self.broken.is_none(),
            lines: self.lines,
            first_seq: self.first,
            last_seq: self.last.map(|last| last.seq),
            end_proven: self.end_proven && self.broken.is_none(),
            broken: self.broken,
            lost: self.lost,
            is_written: self.is_written,
        }
    }

    fn take(&mut self, line: &[u8]) {
        if let Some(sought) = &self.sought {
            self.find_moved(line, &sought.clone());
            return;
        }
        if self.broken.is_some() {
            return;
        }
        // What it should be: what it says of itself may be wrong.
        let seq = self.last.as_ref().map(|last| last.seq.saturating_add(1));
        let not_json = "it is no line of an audit log";
        let Some(line) = line.strip_suffix(b"\n") else {
            let (kind, what) = match line.len() {
                LONGEST => (Kind::NotJson, not_json),
                _ => (Kind::Changed, "it is cut off: its newline is missing"),
            };
            self.found(seq, kind, what);
            return;
        };
        if !is_sealed(line) {
            match serde_json::from_slice::<IgnoredAny>(line) {
                Ok(_) => self.found(seq, Kind::Changed, "it was changed: its hash does not fit it"),
                Err(_) => self.found(seq, Kind::NotJson, not_json),
            }
            return;
        }
        match serde_json::from_slice::<Line>(line) {
            Ok(read) if self.fits(&read) => self.accept(read, hash(line)),
            Ok(_) => {}
            Err(_) => self.found(seq, Kind::NotJson, not_json),
        }
    }

    /// Does it follow the last one?
    fn fits(&mut self, read: &Line) -> bool {
        let seq = read.seq;
        let Some(last) = &self.last else {
            if seq == 1 && read.prev != NO_HASH {
                self.found(Some(seq), Kind::Changed, "it is the first, and names one before it");
                return false;
            }
            return true;
        };
        // It comes after a line, so that there is a number before.
        let expected = last.seq.saturating_add(1);
        if seq == expected && read.prev == last.hash {
            return true;
        }
        if seq == expected {
            // The hash of this line fits, and it names another one before it.
            let (file, line, seq) = (last.file.clone(), last.line, last.seq);
            let message = format!("it was changed: line {expected} names another one before it");
            self.broken = Some(Broken { file, line, seq: Some(seq), kind: Kind::Changed, message });
        } else if seq > expected {
            let count = seq - expected;
            let message = if count == 1 {
                format!("1 line is missing before it: {expected}")
            } else {
                format!("{count} lines are missing before it: {expected} to {}", seq - 1)
            };
            self.sought = Some(expected..seq);
            self.found(Some(seq), Kind::Missing, &message);
        } else if self.first.is_some_and(|first| seq < first) {
            let what = "it was moved: it is older than the first one. Name the oldest file first";
            self.found(Some(seq), Kind::Moved, what);
        } else {
            self.found(Some(seq), Kind::Repeated, "it was there already");
        }
        false
    }

    fn accept(&mut self, read: Line, hash: String) {
        let seq = read.seq;
        self.first.get_or_insert(seq);
        if read.event == "gap" {
            self.lost = self.lost.saturating_add(read.count.unwrap_or(0));
        }
        if let Some(head) = self.head.as_ref().filter(|head| head.seq == seq) {
            if head.hash == hash {
                self.end_proven = true;
            } else {
                let what = "it was changed: the head knows another line of this number";
                self.found(Some(seq), Kind::Changed, what);
                return;
            }
        }
        let (file, line) = self.place.clone();
        self.last = Some(Seen { seq, hash, file, line });
    }

    /// A line that seemed to be missing may stand further down.
    fn find_moved(&mut self, line: &[u8], sought: &std::ops::Range<u64>) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let Ok(read) = serde_json::from_slice::<Line>(line) else { return };
        if !sought.contains(&read.seq) || !is_sealed(line) {
            return;
        }
        self.sought = None;
        if let Some(broken) = &mut self.broken {
            let (file, number) = &self.place;
            broken.kind = Kind::Moved;
            broken.message =
                format!("lines were moved: number {} comes later, {file} line {number}", read.seq);
        }
    }

    fn look_at_end(&mut self) {
        let Some(head) = self.head.as_ref().filter(|_| !self.end_proven) else { return };
        let (seq, last) = (head.seq, self.last.as_ref().map(|last| last.seq));
        let (expected, message) = match last {
            Some(last) if last < seq => {
                let count = seq - last;
                (last + 1, format!("the end is missing: {count} more lines, up to {seq}"))
            }
            Some(_) => (seq, format!("the head's line, {seq}, is not in these files")),
            None => (seq, format!("there is no line, and the head knows of {seq}")),
        };
        self.place.1 += 1;
        self.found(Some(expected), Kind::Missing, &message);
    }

    fn found(&mut self, seq: Option<u64>, kind: Kind, message: &str) {
        let (file, line) = self.place.clone();
        self.broken = Some(Broken { file, line, seq, kind, message: message.to_owned() });
    }
}

/// Reads a line with its newline, of one that is too long the beginning. `false`: there is none.
fn next_line(source: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let length = source.take(LONGEST as u64).read_until(b'\n', line)?;
    if length == LONGEST && !line.ends_with(b"\n") {
        source.skip_until(b'\n')?;
    }
    Ok(length > 0)
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Broken { file, line, seq, message, .. }) = &self.broken {
            let number = seq.map_or_else(String::new, |seq| format!(" (number {seq})"));
            return write!(f, "BROKEN: {file} line {line}{number}: {message}");
        }
        let Some((first, last)) = self.first_seq.zip(self.last_seq) else {
            return f.write_str("intact: there is no line");
        };
        let end = if self.end_proven {
            "the end is there"
        } else {
            "without the head nobody knows whether more came after it"
        };
        write!(f, "intact: {} lines, {first} to {last}; {end}", self.lines)?;
        if first > 1 {
            write!(f, "; those before {first} were not looked at")?;
        }
        if self.is_written {
            f.write_str(
                "; half a line behind it was not looked at: it is being written, or was cut short",
            )?;
        }
        if self.lost > 0 {
            write!(f, "; {} could not be written at their time (gap lines)", self.lost)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
