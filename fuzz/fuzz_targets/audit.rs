//! The audit log, as `audit verify` reads it. What is intact is so no more once a byte of it is
//! another one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use p11_kms::audit::verify::{Findings, Verifier};

fuzz_target!(|input: (u16, &[u8])| {
    let (place, log) = input;
    let found = verified(log);
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
            assert!(!verified(&changed).intact);
        }
    }
    assert!(found.to_string().len() < 1000);
});

fn verified(log: &[u8]) -> Findings {
    let mut verifier = Verifier::new(None);
    verifier.read("log", &mut &*log).unwrap();
    verifier.finish()
}
