//! The messages of KMS v2: what is read is written so that it reads as the same.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use p11_kms::proto::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    check::<StatusRequest>(bytes);
    check::<StatusResponse>(bytes);
    check::<EncryptRequest>(bytes);
    check::<EncryptResponse>(bytes);
    check::<DecryptRequest>(bytes);
    check::<DecryptResponse>(bytes);
});

fn check<T: Message + Default + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(message) = T::decode(bytes) else { return };
    let again = message.encode_to_vec();
    assert_eq!(again.len(), message.encoded_len());
    assert_eq!(T::decode(again.as_slice()).as_ref(), Ok(&message));
}
