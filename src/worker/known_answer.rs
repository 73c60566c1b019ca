#![forbid(unsafe_code)]
//! Does this token's key wrap give the bytes that the RFCs want?
//!
//! A key that everybody knows becomes a session object for a moment. What the token wraps under
//! it is compared with what the aes-kw crate makes on the host, and the token unwraps what
//! that made. Neither the key nor what is wrapped is a secret.

use aes_kw::{KeyInit, KwAes256, KwpAes256};
use cryptoki::error::Error as CryptokiError;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::errors;
use super::wrap::{Tools, WrapError, buffer};
use crate::algorithm::Algorithm;
use crate::token::protocol::{Answer, Failure};

/// The KEK of RFC 3394 section 4.6.
const KEY: [u8; 32] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F,
    0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F,
];

/// The key data of the same section.
const DATA: [u8; 32] = [
    0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF,
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F,
];

/// The ciphertext of the same section.
const WRAPPED: [u8; 40] = [
    0x28, 0xC9, 0xF4, 0x04, 0xC4, 0xB8, 0x10, 0xF4, 0xCB, 0xCC, 0xB3, 0x5C, 0xFB, 0x87, 0xF8, 0x26,
    0x3F, 0x57, 0x86, 0xE2, 0xD8, 0x0E, 0xD3, 0x26, 0xCB, 0xC7, 0xF0, 0xE7, 0x1A, 0x99, 0xF4, 0x3B,
    0xFB, 0x98, 0x8B, 0x9B, 0x7A, 0x02, 0xDD, 0x21,
];

/// Lengths that tell padding from no padding: a block and less, more than one, an odd one.
const KWP_LENGTHS: [usize; 4] = [5, 8, 20, 31];

/// Its label while it is there: no keyring's, since none ends in a word.
const LABEL: &str = "p11-kms known answer";

/// Compares, both ways. The key is destroyed whatever comes of it.
pub(super) fn compare(
    tools: &Tools<'_>,
    session: &Session,
    algorithm: Algorithm,
) -> Result<Answer, Failure> {
    let key = match bring(tools, session) {
        Ok(key) => key,
        Err(error) => {
            let failure = errors::from_cryptoki(&error, "importing a known key", tools.profile);
            // A code that can mean a lost token means here that it will not have the key, as
            // long as it knows our session.
            return match session.get_session_info() {
                Ok(_) => Ok(Answer::NoKey(failure.message)),
                Err(_) => Err(failure),
            };
        }
    };
    let passes = is_of_session(session, key);
    let compared = if passes == Some(true) {
        judge(tools, key, algorithm)
    } else {
        Answer::Untried(match passes {
            Some(_) => "the token made it a token object, though told not to".to_owned(),
            None => "the token does not tell that it is a session object".to_owned(),
        })
    };
    Ok(match session.destroy_object(key) {
        Ok(()) => compared,
        Err(error) if errors::is_gone(&error) => compared,
        Err(error) => {
            let why = errors::from_cryptoki(&error, "destroying the known key", tools.profile);
            left(compared, passes == Some(true), &why.message)
        }
    })
}

/// What is told of a known key that could not be destroyed.
fn left(compared: Answer, passes: bool, why: &str) -> Answer {
    let how_long = if passes { "until the session ends" } else { "perhaps for good" };
    let left = format!("{why}: it stays there {how_long}, with the label \"{LABEL}\"");
    match compared {
        Answer::Other(how) => Answer::Other(format!("{how}. And {left}")),
        _ => Answer::Left(left),
    }
}

/// Does it go with the session? Some tokens make whatever they are given a token object.
fn is_of_session(session: &Session, key: ObjectHandle) -> Option<bool> {
    let values = session.get_attributes(key, &[AttributeType::Token]).ok()?;
    values.into_iter().find_map(|value| match value {
        Attribute::Token(stays) => Some(!stays),
        _ => None,
    })
}

fn judge(tools: &Tools<'_>, key: ObjectHandle, algorithm: Algorithm) -> Answer {
    let data: Vec<&[u8]> = match algorithm {
        Algorithm::Kw => vec![&DATA],
        Algorithm::Kwp => KWP_LENGTHS.iter().filter_map(|len| DATA.get(..*len)).collect(),
    };
    for data in data {
        let Some(wanted) = on_the_host(algorithm, data) else {
            return Answer::Untried("the host could not wrap".to_owned());
        };
        if algorithm == Algorithm::Kw && wanted != WRAPPED {
            let what = "the host does not get the result of RFC 3394 section 4.6";
            return Answer::Other(what.to_owned());
        }
        match both_ways(tools, key, algorithm, data, &wanted) {
            Answer::Same => {}
            other => return other,
        }
    }
    Answer::Same
}

fn bring(tools: &Tools<'_>, session: &Session) -> Result<ObjectHandle, CryptokiError> {
    let (wraps, encrypts) = (tools.methods.wrap(), tools.methods.encrypt());
    session.create_object(&[
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        // A session object: nothing of it stays.
        Attribute::Token(false),
        Attribute::Label(LABEL.into()),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Wrap(wraps),
        Attribute::Unwrap(wraps),
        Attribute::Encrypt(encrypts),
        Attribute::Decrypt(encrypts),
        Attribute::Value(KEY.to_vec()),
    ])
}

fn on_the_host(algorithm: Algorithm, data: &[u8]) -> Option<Vec<u8>> {
    let mut out = buffer();
    let wrapped = match algorithm {
        Algorithm::Kw => KwAes256::new(&KEY.into()).wrap_key(data, &mut out[..]),
        Algorithm::Kwp => KwpAes256::new(&KEY.into()).wrap_key(data, &mut out[..]),
    };
    wrapped.ok().map(<[u8]>::to_vec)
}

fn both_ways(
    tools: &Tools<'_>,
    key: ObjectHandle,
    algorithm: Algorithm,
    data: &[u8],
    wanted: &[u8],
) -> Answer {
    let len = data.len();
    let mut out = buffer();
    match tools.wrap(algorithm, key.handle(), data, &mut out) {
        Ok(blob) if blob == wanted => {}
        Ok(_) => {
            let how = format!("the token wraps {len} bytes otherwise than the host does");
            return Answer::Other(how);
        }
        Err(error) => return failed("wrapping", len, &error),
    }
    let mut out = buffer();
    match tools.unwrap(algorithm, key.handle(), wanted, &mut out) {
        Ok(back) if back == data => Answer::Same,
        Ok(_) => Answer::Other(format!(
            "the token unwraps {len} bytes otherwise than the host wrapped them"
        )),
        Err(error) => failed("unwrapping", len, &error),
    }
}

/// A length that cannot be is the token's way to wrap; a call that failed says nothing about it.
fn failed(doing: &str, len: usize, error: &WrapError) -> Answer {
    let how = format!("{doing} {len} bytes: {error}");
    match error {
        WrapError::Length { .. } | WrapError::Integrity | WrapError::Wrong => Answer::Other(how),
        WrapError::Call(_) | WrapError::NoMethod(_) => Answer::Untried(how),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::ffi::CallError;

    #[test]
    fn the_host_gets_the_result_of_the_rfc() {
        assert_eq!(on_the_host(Algorithm::Kw, &DATA).unwrap(), WRAPPED);
    }
    #[test]
    fn only_what_differs_is_a_disagreement() {
        use cryptoki_sys as sys;
        let call = CallError { function: "C_WrapKey", code: sys::CKR_DEVICE_ERROR };
        assert!(matches!(failed("wrapping", 32, &call.into()), Answer::Untried(_)));
        let length = WrapError::Length { function: "wrap", wanted: 40, got: 48 };
        assert!(matches!(failed("wrapping", 32, &length), Answer::Other(_)));
    }

    #[test]
    fn a_known_key_that_stays_is_told_with_its_label() {
        for (compared, stays) in [(Answer::Same, "ends"), (Answer::Untried("x".into()), "ends")] {
            let Answer::Left(told) = left(compared, true, "no") else { panic!("it is left") };
            assert!(told.contains(LABEL) && told.contains(stays), "{told}");
        }
        let Answer::Other(told) = left(Answer::Other("bytes".into()), false, "no") else {
            panic!("a disagreement is worse")
        };
        assert!(told.contains("bytes. And no") && told.contains("for good"), "{told}");
    }
}
