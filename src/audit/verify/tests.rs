#![forbid(unsafe_code)]

use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::super::AuditEvent;
use super::super::line::{self, Event};
use super::*;

/// Lines with their newlines, and the head of the last.
fn log(count: u64) -> (Vec<Vec<u8>>, Head) {
    let mut last = Head::start();
    let mut lines = Vec::new();
    for seq in 1..=count {
        let event = Event {
            uid: Some(format!("uid-{seq}")),
            outcome: Some("Ok"),
            duration_us: Some(seq * 7),
            ..Event::new(AuditEvent::Encrypt)
        };
        let mut bytes = Vec::new();
        let hash = line::write(&mut bytes, seq, UNIX_EPOCH, "cp1", event, &last.hash).unwrap();
        last = Head { seq, hash };
        lines.push(bytes);
    }
    (lines, last)
}

fn verify(text: &[u8], head: Option<&Head>) -> Findings {
    let mut verifier = Verifier::new(head.cloned());
    verifier.read("f", &mut &*text).unwrap();
    verifier.finish()
}

#[track_caller]
fn broken(text: &[u8], head: Option<&Head>) -> (Kind, u64, Option<u64>) {
    let found = verify(text, head);
    assert!(!found.intact && !found.end_proven);
    let broken = found.broken.unwrap();
    (broken.kind, broken.line, broken.seq)
}

/// A source that gets the rest only once its end was seen.
struct Growing<'a>(Vec<&'a [u8]>);

impl Read for Growing<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(part) = self.0.first_mut() else { return Ok(0) };
        let length = part.read(into)?;
        if length == 0 {
            self.0.remove(0);
        }
        Ok(length)
    }
}

#[test]
fn a_line_that_is_being_written_is_no_fault_of_the_last_file() {
    let (lines, head) = log(3);
    let (_, old) = log(2);
    let text = lines.concat();
    for length in [1, 100, lines[2].len() - 1] {
        let (whole, rest) = text.split_at(text.len() - lines[2].len() + length);
        let last = |head: Option<&Head>, parts: Vec<&[u8]>| {
            let mut verifier = Verifier::new(head.cloned());
            let mut source = io::BufReader::new(Growing(parts));
            verifier.read_last("f", &mut source).unwrap();
            verifier.finish()
        };
        // Behind the head it is passed over; before it, it is missing.
        let found = last(Some(&old), vec![whole]);
        assert!(found.intact && found.end_proven && found.lines == 2, "{found}");
        assert!(found.to_string().contains("half a line"), "{found}");
        assert!(!last(Some(&head), vec![whole]).intact);
        // Without a head it has a moment to come.
        let found = last(None, vec![whole, rest]);
        assert!(found.intact && found.lines == 3, "{found}");
        assert!(!last(None, vec![whole]).intact);
        // One in the middle of the log is a fault.
        assert!(!verify(whole, Some(&old)).intact);
    }
}

#[test]
fn a_log_is_intact_in_one_file_in_several_and_from_the_middle() {
    let (lines, head) = log(30);
    let found = verify(&lines.concat(), Some(&head));
    assert!(found.intact && found.end_proven);
    assert_eq!((found.lines, found.first_seq, found.last_seq), (30, Some(1), Some(30)));
    assert!(!verify(&lines.concat(), None).end_proven);
    let mut verifier = Verifier::new(Some(head));
    for part in [&lines[4..10], &lines[10..10], &lines[10..30]] {
        verifier.read("f", &mut &*part.concat()).unwrap();
    }
    let found = verifier.finish();
    assert!(found.intact && found.end_proven);
    assert_eq!((found.lines, found.first_seq), (26, Some(5)));
    assert!(found.to_string().contains("those before 5"), "{found}");
}

/// Written on while it is verified: the head was read before.
#[test]
fn more_lines_than_the_head_knows_are_no_fault() {
    let (lines, _) = log(9);
    let (_, head) = log(5);
    let found = verify(&lines.concat(), Some(&head));
    assert!(found.intact && found.end_proven);
}

#[test]
fn an_end_that_is_cut_off_shows_with_the_head_alone() {
    let (lines, head) = log(5);
    for kept in 0..5 {
        let text = lines[..kept].concat();
        assert!(verify(&text, None).intact);
        let place = kept as u64 + 1;
        let seq = if kept == 0 { 5 } else { place };
        assert_eq!(broken(&text, Some(&head)), (Kind::Missing, place, Some(seq)));
    }
    // And so does a line in the last one's place, whose hashes are made to fit.
    let mut text = lines[..4].concat();
    let before = hash(lines[3].strip_suffix(b"\n").unwrap());
    line::write(&mut text, 5, UNIX_EPOCH, "cp1", Event::new(AuditEvent::Stop), &before).unwrap();
    assert!(verify(&text, None).intact);
    assert_eq!(broken(&text, Some(&head)), (Kind::Changed, 5, Some(5)));
}

#[test]
fn a_line_that_is_made_anew_is_found_by_the_next() {
    let (mut lines, head) = log(5);
    let before = hash(lines[1].strip_suffix(b"\n").unwrap());
    lines[2].clear();
    line::write(&mut lines[2], 3, UNIX_EPOCH, "cp1", Event::new(AuditEvent::Stop), &before)
        .unwrap();
    assert_eq!(broken(&lines.concat(), Some(&head)), (Kind::Changed, 3, Some(3)));
    // The very first cannot name one before it.
    let mut first = Vec::new();
    line::write(&mut first, 1, UNIX_EPOCH, "cp1", Event::new(AuditEvent::Start), &before).unwrap();
    assert_eq!(broken(&first, None), (Kind::Changed, 1, Some(1)));
}

#[test]
fn missing_moved_and_repeated_lines_are_told_apart() {
    let (lines, head) = log(9);
    let of = |order: &[usize]| {
        let text: Vec<u8> = order.iter().flat_map(|seq| lines[seq - 1].clone()).collect();
        broken(&text, Some(&head))
    };
    assert_eq!(of(&[1, 2, 4, 5, 6, 7, 8, 9]), (Kind::Missing, 3, Some(4)));
    assert_eq!(of(&[1, 2, 6, 7, 8, 9]), (Kind::Missing, 3, Some(6)));
    assert_eq!(of(&[1, 3, 2, 4, 5, 6, 7, 8, 9]), (Kind::Moved, 2, Some(3)));
    assert_eq!(of(&[1, 2, 3, 4, 6, 7, 8, 9, 5]), (Kind::Moved, 5, Some(6)));
    assert_eq!(of(&[1, 2, 3, 3, 4, 5, 6, 7, 8, 9]), (Kind::Repeated, 4, Some(3)));
    assert_eq!(of(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 2]), (Kind::Repeated, 10, Some(2)));
    assert_eq!(of(&[5, 6, 7, 8, 9, 1, 2, 3, 4]), (Kind::Moved, 6, Some(1)));
}

/// Every byte of the log has its place.
#[test]
fn whatever_byte_is_changed_its_line_is_named() {
    let (lines, head) = log(4);
    let text = lines.concat();
    let mut line = 1;
    for place in 0..text.len() {
        for other in [text[place] ^ 1, text[place] ^ 0x20, b'\n', b'"', b'0', 0xff] {
            if other == text[place] {
                continue;
            }
            let mut changed = text.clone();
            changed[place] = other;
            let (kind, named, _) = broken(&changed, Some(&head));
            assert!(matches!(kind, Kind::Changed | Kind::NotJson), "{kind:?} at {place}");
            assert_eq!(named, line, "{place}");
        }
        line += u64::from(text[place] == b'\n');
    }
    let (kind, named, _) = broken(&text[..text.len() - 1], Some(&head));
    assert_eq!((kind, named), (Kind::Changed, 4), "the last newline");
}

#[test]
fn what_is_no_log_is_told_and_does_not_fill_the_memory() {
    assert_eq!(broken(b"\n", None).0, Kind::NotJson);
    assert_eq!(broken(b"{}\n", None).0, Kind::Changed);
    let long = vec![b'a'; 10 * LONGEST];
    assert_eq!(broken(&long, None), (Kind::NotJson, 1, None));
    let (lines, _) = log(2);
    let found = verify(&[&lines[0], &long, &b"\n"[..], &lines[1]].concat(), None);
    assert_eq!((found.lines, found.broken.unwrap().line), (3, 2));
    assert!(verify(b"", None).intact);
}

#[test]
fn lost_lines_are_counted_and_break_nothing() {
    let mut text = Vec::new();
    let event = Event { count: Some(7), ..Event::new(AuditEvent::Gap) };
    line::write(&mut text, 1, UNIX_EPOCH, "cp1", event, NO_HASH).unwrap();
    let found = verify(&text, None);
    assert_eq!((found.intact, found.lost), (true, 7));
    assert!(found.to_string().contains("7 could not be written"), "{found}");
}

/// Made once: ten thousand lines take a while.
fn large() -> &'static (Vec<u8>, Head) {
    static LARGE: std::sync::OnceLock<(Vec<u8>, Head)> = std::sync::OnceLock::new();
    LARGE.get_or_init(|| {
        let (lines, head) = log(10_000);
        (lines.concat(), head)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn of_ten_thousand_lines_the_changed_one_is_named(
        place in any::<prop::sample::Index>(), flip in 1_u8..,
    ) {
        let (text, head) = large();
        let mut changed = text.clone();
        let place = place.index(text.len());
        changed[place] ^= flip;
        let line = 1 + text[..place].iter().filter(|byte| **byte == b'\n').count() as u64;
        let (_, named, seq) = broken(&changed, Some(head));
        prop_assert_eq!(named, line);
        prop_assert!(line == 1 || seq == Some(line));
    }

    #[test]
    fn no_bytes_panic(text: Vec<u8>) {
        verify(&text, None);
    }
}
