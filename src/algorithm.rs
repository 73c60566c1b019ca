#![forbid(unsafe_code)]
//! Which of the two key-wrap algorithms made a blob.

/// A NIST SP 800-38F key-wrap algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// KW, RFC 3394: for lengths that are a multiple of 8 and at least 16.
    Kw,
    /// KWP, RFC 5649: for every other length.
    Kwp,
}

impl Algorithm {
    /// Longest plaintext we take, in bytes. A wrapped one still fits into the
    /// kilobyte that Kubernetes allows a ciphertext.
    pub const MAX_PLAINTEXT: usize = 1000;

    /// Longest blob that wrapping [`Self::MAX_PLAINTEXT`] can make.
    pub const MAX_WRAPPED: usize = Self::MAX_PLAINTEXT.next_multiple_of(8) + 8;

    /// The algorithm for a plaintext of `len` bytes.
    #[must_use]
    pub const fn for_len(len: usize) -> Self {
        if len >= 16 && len.is_multiple_of(8) { Self::Kw } else { Self::Kwp }
    }

    /// The length of the blob for a plaintext of `len` bytes (RFC 3394, RFC 5649).
    #[must_use]
    pub const fn wrapped_len(len: usize) -> usize {
        len.next_multiple_of(8) + 8
    }

    /// Can a blob of `len` bytes be this algorithm's output at all?
    ///
    /// KW has at least three blocks of 8 bytes, KWP at least two.
    #[must_use]
    pub const fn can_unwrap(self, len: usize) -> bool {
        let least = match self {
            Self::Kw => 24,
            Self::Kwp => 16,
        };
        len >= least && len <= Self::MAX_WRAPPED && len.is_multiple_of(8)
    }

    /// Its name in the annotation that goes with every ciphertext.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kw => "aes-kw",
            Self::Kwp => "aes-kwp",
        }
    }

    /// The algorithm of that name.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Kw, Self::Kwp].into_iter().find(|algorithm| algorithm.name().as_bytes() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_wrapped_with_kw_and_odd_lengths_with_kwp() {
        assert_eq!(Algorithm::for_len(32), Algorithm::Kw);
        assert_eq!(Algorithm::for_len(16), Algorithm::Kw);
        for odd in [1, 4, 8, 15, 17, 33, 999] {
            assert_eq!(Algorithm::for_len(odd), Algorithm::Kwp, "{odd} bytes");
        }
    }

    #[test]
    fn lengths_follow_the_rfcs() {
        assert_eq!(Algorithm::wrapped_len(32), 40);
        assert_eq!(Algorithm::wrapped_len(5), 16);
        assert_eq!(Algorithm::wrapped_len(20), 32);
        assert_eq!(Algorithm::MAX_WRAPPED, 1008);
    }

    #[test]
    fn impossible_blob_lengths_never_reach_the_token() {
        for len in [0, 8, 39, 41, 1016] {
            assert!(!Algorithm::Kw.can_unwrap(len), "{len} bytes");
            assert!(!Algorithm::Kwp.can_unwrap(len), "{len} bytes");
        }
        assert!(!Algorithm::Kw.can_unwrap(16));
        assert!(Algorithm::Kwp.can_unwrap(16));
        assert!(Algorithm::Kw.can_unwrap(40));
    }

    #[test]
    fn names_round_trip() {
        for algorithm in [Algorithm::Kw, Algorithm::Kwp] {
            assert_eq!(Algorithm::from_name(algorithm.name().as_bytes()), Some(algorithm));
        }
        assert_eq!(Algorithm::from_name(b"AES-KW"), None);
    }
}
