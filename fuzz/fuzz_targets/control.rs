//! What is JSON between the front and a worker: the two control messages, what a search finds, and
//! what is to be written or imported.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use p11_kms::token::protocol::{Found, FoundKey, Greeting, Import, NewNote, Setup, encode_control};
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|json: &[u8]| {
    check::<Setup>(json);
    check::<Greeting>(json);
    check::<FoundKey>(json);
    check::<Found>(json);
    check::<NewNote>(json);
    check::<Import>(json);
});

/// What is read is written so that it reads as the same.
fn check<T: Serialize + DeserializeOwned + Debug>(json: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(json) else { return };
    let bytes = encode_control(&message).unwrap();
    let (len, again) = bytes.split_first_chunk().unwrap();
    assert_eq!(u32::from_le_bytes(*len) as usize, again.len());
    let again: T = serde_json::from_slice(again).unwrap();
    // Greeting cannot be compared, and its Debug shows all that it holds.
    assert_eq!(format!("{again:?}"), format!("{message:?}"));
}
