//! The audit log, as `audit verify` reads it, and its head. What is intact is so no more once a byte of
//! it is another one, and with a head nothing can be cut off at its end.

#![no_main]

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nix::sys::memfd::{MFdFlags, memfd_create};
use p11_kms::audit::Head;
use p11_kms::audit::verify::{Findings, Verifier};
use p11_kms_fuzz::sha256;

fuzz_target!(|input: (u16, &[u8])| {
    let (place, log) = input;
    check_head(log);
    let found = verified(log, None);
    let lines = log.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert!(found.lines <= lines + 1);
    match &found.broken {
        Some(broken) => {
            assert!(!found.intact && !found.end_proven);
            assert!((1..=found.lines + 1).contains(&broken.line), "{broken:?}");
        }
        None if log.is_empty() => {}
        None => {
            assert!(found.intact && found.first_seq <= found.last_seq);
            let mut changed = log.to_vec();
            changed[usize::from(place) % log.len()] ^= 1;
            assert!(!verified(&changed, None).intact);
            check_end(log, found.last_seq.unwrap());
        }
    }
    assert!(found.to_string().len() < 1000);
});

/// The head of its last line proves its end, and finds what is cut off.
fn check_end(log: &[u8], seq: u64) {
    let lines = log.strip_suffix(b"\n").unwrap();
    let begin = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let head = Head { seq, hash: sha256(&lines[begin..]) };
    assert!(verified(log, Some(head.clone())).end_proven);
    assert!(!verified(&log[..begin], Some(head.clone())).intact);
    let other = Head { hash: sha256(b"another line"), ..head };
    assert!(!verified(log, Some(other)).intact);
}

/// What is read stands there.
fn check_head(text: &[u8]) {
    let mut file = File::from(memfd_create("head", MFdFlags::empty()).unwrap());
    file.write_all(text).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let Ok(Head { seq, hash }) = Head::read(Path::new(&path)) else { return };
    assert!(seq > 0 && hash.len() == 64);
    assert!(hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
    let text = String::from_utf8_lossy(text);
    let mut words = text.lines().next().unwrap_or_default().trim_end().split(' ');
    assert_eq!(words.next().and_then(|word| word.parse().ok()), Some(seq));
    assert_eq!(words.next(), Some(hash.as_str()));
}

fn verified(log: &[u8], head: Option<Head>) -> Findings {
    let mut verifier = Verifier::new(head);
    verifier.read("log", &mut &*log).unwrap();
    verifier.finish()
}
