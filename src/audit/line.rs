#![forbid(unsafe_code)]
//! The form of a line: one JSON object in plain ASCII, its members in one order, and its hash.

use std::io::{self, Write};
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;
use sha2::{Digest, Sha256};

use crate::metrics::AuditEvent;

/// Longest text in a line that is a caller's, in bytes. Kubernetes' UIDs have 36, a key_id 64.
const MOST_NAME: usize = 64;

/// Longest detail, in bytes.
const MOST_DETAIL: usize = 400;

/// No line is longer, in bytes, its newline counted. Escaping makes of one byte six at most.
pub(super) const LONGEST: usize = 4096;

/// What stands before the hash.
const HASH: &[u8] = b",\"hash\":\"";
const END: &[u8] = b"\"}";

/// The hash of the line before the first.
pub(super) const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What a line tells, without what the chain adds. Never a PIN, a seed, a ciphertext or a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// What kind: `encrypt`, `key`, ... See `docs/audit.md`.
    #[serde(serialize_with = "name_of")]
    pub event: AuditEvent,
    /// The caller's UID of a request: the apiserver's audit log has it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The gRPC method or the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static str>,
    /// The KEK's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The KEK's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// Who asked for it, by the kernel's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_uid: Option<u32>,
    /// Which process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_pid: Option<i32>,
    /// How long it took, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
    /// The gRPC code's name, or `ok`, `refused`, `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// More, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How many of them this line stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Event {
    /// An event of that kind, with nothing more to it.
    #[must_use]
    pub const fn new(event: AuditEvent) -> Self {
        Self {
            event,
            uid: None,
            method: None,
            key_id: None,
            generation: None,
            peer_uid: None,
            peer_pid: None,
            duration_us: None,
            outcome: None,
            detail: None,
            count: None,
        }
    }

    /// Cuts what others wrote, so that the line is short.
    fn cut(mut self) -> Self {
        for name in [&mut self.uid, &mut self.key_id] {
            // An absent member says the same as an empty one.
            *name = name.take().filter(|name| !name.is_empty());
            if let Some(name) = name {
                name.truncate(name.floor_char_boundary(MOST_NAME));
            }
        }
        if let Some(detail) = &mut self.detail {
            detail.truncate(detail.floor_char_boundary(MOST_DETAIL));
        }
        self
    }
}

fn name_of<S: Serializer>(event: &AuditEvent, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(event.name())
}

#[derive(Serialize)]
struct Body<'a> {
    seq: u64,
    time: String,
    node: &'a str,
    #[serde(flatten)]
    event: &'a Event,
    prev: &'a str,
}

/// Adds the line, with its newline, to `into`, and gives the hash that the next one names.
pub(super) fn write(
    into: &mut Vec<u8>,
    seq: u64,
    time: SystemTime,
    node: &str,
    event: Event,
    prev: &str,
) -> io::Result<String> {
    let begin = into.len();
    let time = humantime::format_rfc3339_micros(time).to_string();
    let body = Body { seq, time, node, event: &event.cut(), prev };
    body.serialize(&mut serde_json::Serializer::with_formatter(&mut *into, Ascii))?;
    // Its last brace comes after the hash.
    into.pop();
    let hash = hash(into.get(begin..).unwrap_or_default());
    into.extend_from_slice(HASH);
    into.extend_from_slice(hash.as_bytes());
    into.extend_from_slice(END);
    let whole = self::hash(into.get(begin..).unwrap_or_default());
    into.push(b'\n');
    Ok(whole)
}

/// Lower-case hex of the SHA-256.
#[must_use]
pub(super) fn hash(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// Does a line (without its newline) end with the hash of what stands before it?
#[must_use]
pub(super) fn is_sealed(line: &[u8]) -> bool {
    let sealed = || {
        let rest = line.strip_suffix(END)?;
        let (rest, named) = rest.split_at_checked(rest.len().checked_sub(NO_HASH.len())?)?;
        let body = rest.strip_suffix(HASH)?;
        Some(hash(body).as_bytes() == named)
    };
    sealed() == Some(true)
}

/// Lower-case hex of 32 bytes?
#[must_use]
pub(super) fn is_hash(text: &str) -> bool {
    text.len() == NO_HASH.len() && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}

/// Escapes all that is not plain ASCII: a line is shown on terminals.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        for c in fragment.chars() {
            if matches!(c, ' '..='~') {
                writer.write_all(&[c as u8])?;
                continue;
            }
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn written(seq: u64, event: Event) -> String {
        let mut into = b"what was there".to_vec();
        let time = UNIX_EPOCH + Duration::from_micros(1_900_000_000_123_456);
        let whole = write(&mut into, seq, time, "cp1", event, NO_HASH).unwrap();
        let line = into.strip_prefix(b"what was there").unwrap().strip_suffix(b"\n").unwrap();
        assert!(is_sealed(line));
        assert_eq!(whole, hash(line));
        String::from_utf8(line.to_vec()).unwrap()
    }

    /// Other programs read it: it must never change.
    #[test]
    fn the_form_is_as_it_was_said() {
        let event = Event {
            event: AuditEvent::Encrypt,
            uid: Some("a-uid".into()),
            method: Some("Encrypt"),
            key_id: Some("ab".into()),
            generation: Some(1),
            peer_uid: Some(0),
            peer_pid: Some(4711),
            duration_us: Some(812),
            outcome: Some("Ok"),
            detail: Some("why \"so\"\n\u{1b}\u{e4}\u{1f600}\u{7f}".into()),
            count: Some(3),
        };
        let body = format!(
            "{{\"seq\":12,\"time\":\"2030-03-17T17:46:40.123456Z\",\"node\":\"cp1\",\"event\":\"encrypt\",\
             \"uid\":\"a-uid\",\"method\":\"Encrypt\",\"key_id\":\"ab\",\"generation\":1,\"peer_uid\":0,\
             \"peer_pid\":4711,\"duration_us\":812,\"outcome\":\"Ok\",\
             \"detail\":\"why \\\"so\\\"\\n\\u001b\\u00e4\\ud83d\\ude00\\u007f\",\"count\":3,\"prev\":\"{NO_HASH}\""
        );
        let expected = format!("{body},\"hash\":\"{}\"}}", hash(body.as_bytes()));
        assert_eq!(written(12, event), expected);
    }

    #[test]
    fn what_is_absent_is_left_out() {
        let line = written(1, Event { uid: Some(String::new()), ..Event::new(AuditEvent::Start) });
        let names = "{\"seq\":1,\"time\":\"2030-03-17T17:46:40.123456Z\",\"node\":\"cp1\",\"event\":\"start\",\"prev\":";
        assert!(line.starts_with(names), "{line}");
    }

    proptest! {
        #[test]
        fn whatever_a_caller_sends_a_line_is_one_short_line_of_ascii(
            seq: u64, uid in "\\PC{0,200}|[\\x00-\\x7f\u{80}]{0,200}", detail in ".{0,900}",
            key_id in "[\\x00\\x7f]{0,100}", more in (any::<u32>(), any::<i32>(), any::<u64>()),
        ) {
            let event = Event {
                event: AuditEvent::RefusedPeer,
                method: Some("Decrypt"),
                generation: Some(more.0),
                peer_uid: Some(more.0),
                peer_pid: Some(more.1),
                duration_us: Some(more.2),
                outcome: Some("FailedPrecondition"),
                count: Some(more.2),
                uid: Some(uid.clone()),
                key_id: Some(key_id),
                detail: Some(detail.clone()),
            };
            let line = written(seq, event);
            prop_assert!(line.len() < LONGEST, "{}", line.len());
            prop_assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", line);
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(&read["detail"], &detail[..detail.floor_char_boundary(MOST_DETAIL)]);
            prop_assert!(uid.starts_with(read["uid"].as_str().unwrap_or_default()));
        }

        #[test]
        fn no_text_is_sealed_by_chance_and_none_panics(text: Vec<u8>) {
            prop_assert!(!is_sealed(&text));
        }
    }
}
