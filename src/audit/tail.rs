#![forbid(unsafe_code)]
//! Does the end of the file fit the head? A power loss tears a line, a kill comes between line
//! and head, and somebody may have cut the file, or put an old head back.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use serde::Deserialize;

use super::head::Head;
use super::line::{LONGEST, hash, is_sealed};

/// Most lines of a batch: so many may be in the file that the head does not know of.
pub(super) const BATCH: usize = 256;

/// So much of the end is looked at first, in bytes.
const LOOKED_AT: u64 = (BATCH * LONGEST) as u64;

/// Where the next line goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// The line before it.
    pub(super) head: Head,
    /// What was wrong with the end, for the next line to tell.
    pub(super) repairs: Vec<Repair>,
    /// The file has no whole line, and the head was none.
    pub(super) is_new: bool,
}

/// Something that was lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repair {
    /// How many lines.
    pub(super) lines: u64,
    /// How.
    pub(super) what: String,
}

impl Tail {
    pub(super) fn whole(head: Head) -> Self {
        Self { head, repairs: Vec::new(), is_new: false }
    }
}

/// What of a line the chain is made of.
#[derive(Deserialize)]
struct Link {
    seq: u64,
    prev: String,
}

/// Cuts a torn line off, and finds the line that the next one follows.
pub(super) fn look(file: &File, size: u64, head: Option<Head>) -> io::Result<Tail> {
    let begin = size.saturating_sub(LOOKED_AT);
    let mut text = vec![0; usize::try_from(size - begin).unwrap_or_default()];
    file.read_exact_at(&mut text, begin)?;
    let mut repairs = Vec::new();
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let size = begin + whole as u64;
    if whole < text.len() {
        let torn = text.len() - whole;
        file.set_len(size)?;
        let what = format!("a line that was cut short ({torn} bytes) was removed");
        repairs.push(Repair { lines: 1, what });
        text.truncate(whole);
    }
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    // Behind the last newline.
    lines.pop();
    if begin > 0 && !lines.is_empty() {
        // It begins further up.
        lines.remove(0);
    }
    let is_new = head.is_none() && lines.is_empty();
    let head = match head {
        Some(head) => follow(file, size, &lines, head, &mut repairs)?,
        None => without_head(&lines, &mut repairs),
    };
    Ok(Tail { head, repairs, is_new })
}

/// The last of the lines that follow the one that the head knows.
fn follow(
    file: &File,
    size: u64,
    lines: &[&[u8]],
    head: Head,
    repairs: &mut Vec<Repair>,
) -> io::Result<Head> {
    if lines.is_empty() {
        // A new file, or one that was emptied: that shows when the old one is missing.
        return Ok(head);
    }
    let there = lines.iter().rev().find_map(|line| Some(link(line)?.seq));
    let last = match lines.iter().rposition(|line| hash(line) == head.hash) {
        Some(place) => {
            let mut way = Way { last: head.clone(), is_whole: true };
            lines.iter().skip(place + 1).for_each(|line| way.take(line));
            Some(way)
        }
        None if there.is_some_and(|there| there > head.seq) => {
            further_up(file, size, &head, repairs)?
        }
        None => None,
    };
    if let Some(Way { last, is_whole }) = last {
        if !is_whole {
            let what = format!("what stands after line {} is none of the chain", last.seq);
            repairs.push(Repair { lines: 0, what });
        }
        return Ok(last);
    }
    let what = match there {
        Some(there) if there < head.seq => format!(
            "the log ended with line {there}, and line {} was written: somebody cut it, or a loss \
             of power did",
            head.seq
        ),
        _ => format!("line {} is not the one that was written", head.seq),
    };
    let lines = there.map_or(0, |there| head.seq.saturating_sub(there));
    if let Some(torn) = repairs.first_mut().filter(|_| lines > 0) {
        // It is one of those.
        torn.lines = 0;
    }
    repairs.push(Repair { lines, what });
    Ok(head)
}

/// The way from a line that is known to the end.
struct Way {
    last: Head,
    /// All lines were of it.
    is_whole: bool,
}

impl Way {
    fn take(&mut self, line: &[u8]) {
        match link(line).filter(|link| self.is_whole && link.follows(&self.last)) {
            Some(link) => self.last = Head { seq: link.seq, hash: hash(line) },
            None => self.is_whole = false,
        }
    }
}

/// The head is far behind the log: a loss of power took its last state, or an old one was put
/// back. Its line is looked for from the end on, and all that follows is followed.
fn further_up(
    file: &File,
    size: u64,
    head: &Head,
    repairs: &mut Vec<Repair>,
) -> io::Result<Option<Way>> {
    let mut length = LOOKED_AT;
    loop {
        length = length.saturating_mul(2);
        let begin = size.saturating_sub(length);
        let (mut way, mut first) = (None::<Way>, None);
        each_line(file, begin, size, |line| {
            if let Some(way) = &mut way {
                way.take(line);
                return;
            }
            let link = if first.is_none() { link(line) } else { None };
            let is_first = link.is_some();
            first = first.or(link.map(|link| link.seq));
            if hash(line) == head.hash {
                way = Some(Way { last: head.clone(), is_whole: true });
            } else if begin == 0 && is_first && first > Some(head.seq) {
                // The head's line is in an older file, if it is anywhere.
                let last = Head { seq: first.unwrap_or_default(), hash: hash(line) };
                way = Some(Way { last, is_whole: true });
            }
        })?;
        if let Some(way) = way {
            if first > Some(head.seq) {
                let (seq, known) = (way.last.seq, head.seq);
                let what = format!(
                    "audit.head was older than the log: it knew line {known}, and line {seq} is believed"
                );
                repairs.push(Repair { lines: 0, what });
            }
            return Ok(Some(way));
        }
        if begin == 0 || first <= Some(head.seq) && first.is_some() {
            return Ok(None);
        }
    }
}

/// Reads the whole lines from there on. What is kept does not grow with the file.
fn each_line(file: &File, begin: u64, size: u64, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut source = file;
    source.seek(SeekFrom::Start(begin))?;
    let mut source = BufReader::with_capacity(1 << 16, source.take(size - begin));
    if begin > 0 {
        // It begins further up.
        source.skip_until(b'\n')?;
    }
    let mut line = Vec::with_capacity(LONGEST);
    loop {
        line.clear();
        if (&mut source).take(LONGEST as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        match line.strip_suffix(b"\n") {
            Some(line) => take(line),
            // It is none of ours.
            None => {
                source.skip_until(b'\n')?;
                take(&line);
            }
        }
    }
}

/// There is no head: the last line is believed, if it is one.
fn without_head(lines: &[&[u8]], repairs: &mut Vec<Repair>) -> Head {
    let Some(last) = lines.last() else { return Head::start() };
    match link(last) {
        Some(link) => {
            let what = format!("audit.head was missing or damaged: line {} is believed", link.seq);
            repairs.push(Repair { lines: 0, what });
            Head { seq: link.seq, hash: hash(last) }
        }
        None => {
            let what = "audit.head was missing or damaged, and the last line is none of a log";
            repairs.push(Repair { lines: 0, what: what.to_owned() });
            Head::start()
        }
    }
}

impl Link {
    fn follows(&self, last: &Head) -> bool {
        last.seq.checked_add(1) == Some(self.seq) && self.prev == last.hash
    }
}

fn link(line: &[u8]) -> Option<Link> {
    is_sealed(line).then(|| serde_json::from_slice(line).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::time::UNIX_EPOCH;

    use super::super::AuditEvent;
    use super::super::line::{self, Event};
    use super::*;

    /// So many lines, and the head after each.
    fn log(count: u64) -> (Vec<String>, Vec<Head>) {
        let (mut lines, mut heads) = (Vec::new(), vec![Head::start()]);
        for seq in 1..=count {
            let (mut bytes, last) = (Vec::new(), heads.last().unwrap().hash.clone());
            let hash = line::write(
                &mut bytes,
                seq,
                UNIX_EPOCH,
                "cp1",
                Event::new(AuditEvent::Start),
                &last,
            )
            .unwrap();
            heads.push(Head { seq, hash });
            lines.push(String::from_utf8(bytes).unwrap());
        }
        (lines, heads)
    }

    fn looked(text: &str, head: Option<&Head>) -> (Tail, String) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let tail = look(&file, text.len() as u64, head.cloned()).unwrap();
        (tail, std::fs::read_to_string(path).unwrap())
    }

    #[test]
    fn an_end_that_fits_is_followed() {
        let (lines, heads) = log(3);
        assert_eq!(looked(&lines.concat(), Some(&heads[3])).0, Tail::whole(heads[3].clone()));
        assert_eq!(looked("", Some(&heads[3])).0, Tail::whole(heads[3].clone()));
        let new = Tail { is_new: true, ..Tail::whole(Head::start()) };
        assert_eq!(looked("", None).0, new);
    }

    #[test]
    fn after_a_kill_between_line_and_head_the_lines_count() {
        let (lines, heads) = log(300);
        assert_eq!(looked(&lines.concat(), Some(&heads[45])).0, Tail::whole(heads[300].clone()));
    }

    #[test]
    fn at_every_place_a_torn_line_is_cut_off_and_told() {
        let (lines, heads) = log(2);
        for length in 1..lines[1].len() {
            let text = format!("{}{}", lines[0], &lines[1][..length]);
            let (tail, left) = looked(&text, Some(&heads[1]));
            assert_eq!((&tail.head, left.as_str()), (&heads[1], lines[0].as_str()), "{length}");
            assert_eq!(tail.repairs.len(), 1);
            assert_eq!(tail.repairs[0].lines, 1);
            // Of a file with nothing else in it as well.
            let (tail, left) = looked(&lines[0][..length.min(lines[0].len() - 1)], None);
            assert_eq!((tail.head, left.as_str()), (Head::start(), ""));
        }
    }

    #[test]
    fn what_is_missing_or_changed_does_not_become_the_head() {
        let (lines, heads) = log(5);
        let (tail, _) = looked(&lines[..2].concat(), Some(&heads[5]));
        assert_eq!((&tail.head, tail.repairs[0].lines), (&heads[5], 3));
        let changed = lines.concat().replacen("\"seq\":5", "\"seq\":6", 1);
        let (tail, _) = looked(&changed, Some(&heads[5]));
        assert_eq!(tail.head, heads[5]);
        assert!(!tail.repairs.is_empty());
        let (tail, _) = looked(&format!("{}no line\n", lines[..3].concat()), Some(&heads[2]));
        assert_eq!((&tail.head, tail.repairs.len()), (&heads[3], 1));
    }

    #[test]
    fn without_a_head_the_last_line_is_believed_and_that_is_told() {
        let (lines, heads) = log(3);
        let (tail, _) = looked(&lines.concat(), None);
        assert_eq!((&tail.head, tail.repairs.len()), (&heads[3], 1));
        let (tail, _) = looked("no line\n", None);
        assert_eq!((tail.head, tail.repairs.len()), (Head::start(), 1));
    }

    /// Longer than what is looked at first.
    #[test]
    fn a_head_that_is_far_behind_is_caught_up_with() {
        let (lines, heads) = log(6500);
        let text = lines.concat();
        assert!(text.len() as u64 > LOOKED_AT + LOOKED_AT / 4);
        for old in [1, 700] {
            assert_eq!(looked(&text, Some(&heads[old])).0, Tail::whole(heads[6500].clone()));
        }
        // Its line is in an older file.
        let (tail, _) = looked(&lines[100..].concat(), Some(&heads[20]));
        assert_eq!((&tail.head, tail.repairs.len()), (&heads[6500], 1));
        assert!(tail.repairs[0].what.contains("older than the log"), "{tail:?}");
        let (tail, _) = looked(&lines[100..].concat(), Some(&heads[100]));
        assert_eq!(tail.head, heads[6500]);
        // What was changed on the way is not believed, nor what comes after it.
        let changed = text.replacen("\"seq\":30,", "\"seq\":31,", 1);
        let (tail, _) = looked(&changed, Some(&heads[20]));
        assert_eq!((&tail.head, tail.repairs[0].lines), (&heads[29], 0));
        let changed = text.replacen("\"seq\":20,", "\"seq\":21,", 1);
        let (tail, _) = looked(&changed, Some(&heads[20]));
        assert_eq!((&tail.head, tail.repairs.len()), (&heads[20], 1));
    }

    #[test]
    fn a_torn_line_that_the_head_knows_is_counted_once() {
        let (lines, heads) = log(5);
        let text = format!("{}{}", lines[..3].concat(), &lines[3][..50]);
        let (tail, _) = looked(&text, Some(&heads[5]));
        assert_eq!(tail.head, heads[5]);
        assert_eq!(tail.repairs.iter().map(|repair| repair.lines).sum::<u64>(), 2);
        let (tail, _) = looked(&text, Some(&heads[3]));
        assert_eq!(tail.repairs.iter().map(|repair| repair.lines).sum::<u64>(), 1);
    }
}
