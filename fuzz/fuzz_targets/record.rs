//! The record of a keyring, as it comes from the state directory and from the token, where other
//! nodes write it. The input is two of them without their first lines, the hashes, which are made
//! to fit.

#![no_main]

use libfuzzer_sys::fuzz_target;
use p11_kms::keyring::{BadRecord, KeyId, Known, Record};
use p11_kms_fuzz::sha256;

const LABEL: &str = "k8s-kek";

fuzz_target!(|input: &str| {
    let (one, two) = input.split_once("\n---\n").unwrap_or((input, ""));
    let (one, two) = (read(one), read(two));
    if let (Ok(one), Ok(two)) = (one, two) {
        let joined = one.clone().join(two.clone());
        assert_eq!(joined.clone().join(two.clone()), joined, "twice is once");
        assert_eq!(joined.clone().join(one.clone()), joined, "twice is once");
        assert!(joined.epoch() >= one.epoch().max(two.epoch()));
        // What no two nodes could ever say: then the order may matter.
        let contradict = |(key_id, known): (&KeyId, &Known)| {
            two.keks.get(key_id).is_some_and(|other| other.generation != known.generation)
        };
        if !one.keks.iter().any(contradict) {
            assert_eq!(two.clone().join(one.clone()), joined, "the order makes no difference");
        }
        assert_eq!(Record::parse(&joined.to_text(LABEL), LABEL), Ok(joined));
    }
});

/// What is read is written so that it reads as the same, and no other byte will do.
fn read(body: &str) -> Result<Record, BadRecord> {
    let text = format!("sha256 = \"{}\"\n{body}", sha256(body.as_bytes()));
    let record = Record::parse(&text, LABEL)?;
    let written = record.to_text(LABEL);
    assert_eq!(Record::parse(&written, LABEL).as_ref(), Ok(&record));
    assert_eq!(Record::parse(&format!("{written}#"), LABEL), Err(BadRecord::Damaged));
    assert!(matches!(Record::parse(&written, "other"), Err(BadRecord::OtherKeyring(_))));
    Ok(record)
}
