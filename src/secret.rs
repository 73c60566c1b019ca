//! Secrets that wipe themselves and print nothing.
//!
//! A seed is what kube-apiserver hands over, a PIN opens the token. Neither may
//! reach a log, an error or a core file, so neither can be cloned, compared,
//! displayed or serialised. [`Pin::expose`] and [`Seed::expose`] are the only
//! ways to the bytes, which makes each use easy to find.

#![forbid(unsafe_code)]

use std::fmt;

use secrecy::{ExposeSecret, SecretSlice};
use zeroize::Zeroizing;

/// The user PIN of a token, as bytes: `C_Login` takes bytes (PKCS#11 v3.1,
/// section 5.6.8), and a PIN need not be text.
pub struct Pin(SecretSlice<u8>);

impl Pin {
    /// Takes a PIN over; the vector that it came in is wiped.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        // Vec to Box may move the bytes and leave the old ones behind, so the
        // copy is made here, where the old ones are wiped.
        let bytes = Zeroizing::new(bytes);
        Self(SecretSlice::new(Box::from(bytes.as_slice())))
    }

    /// The PIN itself, for `C_Login` only.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Pin {
    /// Not even the length: it helps whoever guesses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(..)")
    }
}

/// What the token wraps: the plaintext of an Encrypt or the result of a Decrypt.
pub struct Seed(Zeroizing<Vec<u8>>);

impl Seed {
    /// Takes the bytes over without a copy.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The seed itself, for the token and the answer to kube-apiserver only.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives the bytes away without a copy. From here on nobody wipes them, so
    /// this is for the gRPC answer alone, which wants a plain vector.
    #[must_use]
    pub fn into_exposed(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.0)
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seed({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_gives_its_bytes_and_prints_nothing() {
        let mut roomy = Vec::with_capacity(64);
        roomy.extend_from_slice(b"0001password");
        let pin = Pin::from_bytes(roomy);
        assert_eq!(pin.expose(), b"0001password");
        assert_eq!(format!("{pin:?}"), "Pin(..)");
        assert_eq!(format!("{pin:#?}"), "Pin(..)");
    }

    #[test]
    fn a_seed_prints_its_length_alone() {
        let seed = Seed::new(vec![0xA5; 32]);
        assert_eq!(format!("{seed:?}"), "Seed(32 bytes)");
        assert_eq!(format!("{seed:#?}"), "Seed(32 bytes)");
        assert_eq!((seed.len(), seed.is_empty()), (32, false));
        assert_eq!(seed.expose(), [0xA5; 32]);
        assert!(Seed::new(Vec::new()).is_empty());
    }

    #[test]
    fn a_seed_leaves_without_a_copy() {
        let bytes = vec![7; 32];
        let place = bytes.as_ptr();
        let out = Seed::new(bytes).into_exposed();
        assert_eq!(out, [7; 32]);
        assert_eq!(out.as_ptr(), place);
    }
}
