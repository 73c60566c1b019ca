#![forbid(unsafe_code)]
//! Does this token's key wrap give the bytes that the RFCs want?
//!
//! A key that everybody knows becomes a session object for a moment. What the token wraps under
//! it is compared with what the aes-kw crate makes on the host, and the token unwraps what
//! that made. Neither the key nor what is wrapped is a secret.

use aes_kw::{KeyInit, KwAes256, KwpAes256};
use cryptoki::error::Error as CryptokiError;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
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

/// The known key on the token. Destroyed on every path.
struct Known<'a> {
    session: &'a Session,
    handle: ObjectHandle,
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        // It ends with its session at the latest.
        let _ = self.session.destroy_object(self.handle);
    }
}

/// Compares, both ways.
pub(super) fn compare(
    tools: &Tools<'_>,
    session: &Session,
    algorithm: Algorithm,
) -> Result<Answer, Failure> {
    let known = match bring(tools, session) {
        Ok(handle) => Known { session, handle },
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
    let data: Vec<&[u8]> = match algorithm {
        Algorithm::Kw => vec![&DATA],
        Algorithm::Kwp => KWP_LENGTHS.iter().filter_map(|len| DATA.get(..*len)).collect(),
    };
    let compared = data.into_iter().try_for_each(|data| {
        let wanted = on_the_host(algorithm, data).ok_or("the host could not wrap")?;
        if algorithm == Algorithm::Kw && wanted != WRAPPED {
            return Err("the host does not get the result of RFC 3394 section 4.6".to_owned());
        }
        both_ways(tools, known.handle, algorithm, data, &wanted)
    });
    Ok(compared.map_or_else(Answer::Other, |()| Answer::Same))
}

fn bring(tools: &Tools<'_>, session: &Session) -> Result<ObjectHandle, CryptokiError> {
    let (wraps, encrypts) = (tools.methods.wrap(), tools.methods.encrypt());
    session.create_object(&[
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        // A session object: nothing of it stays.
        Attribute::Token(false),
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
) -> Result<(), String> {
    let len = data.len();
    let failed = |doing: &str, error: WrapError| format!("{doing} {len} bytes: {error}");
    let mut out = buffer();
    let blob = tools
        .wrap(algorithm, key.handle(), data, &mut out)
        .map_err(|error| failed("wrapping", error))?;
    if blob != wanted {
        return Err(format!("the token wraps {len} bytes otherwise than the host does"));
    }
    let mut out = buffer();
    let back = tools
        .unwrap(algorithm, key.handle(), wanted, &mut out)
        .map_err(|error| failed("unwrapping", error))?;
    if back != data {
        return Err(format!("the token unwraps {len} bytes otherwise than the host wrapped them"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_gets_the_result_of_the_rfc() {
        assert_eq!(on_the_host(Algorithm::Kw, &DATA).unwrap(), WRAPPED);
    }
}
