#![forbid(unsafe_code)]
//! One wrap, one unwrap: by an object, by a cipher call, or block by block.
//!
//! All give the same RFC 3394 bytes, so a KEK may move between tokens. What
//! comes back is checked, not believed.

mod ecb;
mod encrypt;
mod object;

use zeroize::Zeroizing;

use super::errors::{self, Verdict};
use super::ffi::{CallError, Direction, Module, Object, Session};
use super::methods::{Methods, Route};
use crate::algorithm::Algorithm;
use crate::config::Profile;
use crate::token::protocol::Method;

/// What a module may write, or want to have room for, beyond its input.
pub(super) const SLACK: usize = 64;

/// Room for the answer to the largest input.
pub(super) const ROOM: usize = Algorithm::MAX_WRAPPED + SLACK;

/// What a wrap or unwrap is made with: one session of one module.
#[derive(Clone, Copy)]
pub(super) struct Tools<'a> {
    pub(super) module: &'a Module,
    pub(super) session: Session,
    pub(super) methods: &'a Methods,
    pub(super) profile: &'a Profile,
}

/// Why a wrap or unwrap gave nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WrapError {
    /// The module said no.
    Call(CallError),
    /// The integrity check on the host failed (method `ecb`).
    Integrity,
    /// The module said yes, but gave a length that cannot be.
    Length { function: &'static str, wanted: usize, got: usize },
    /// What was wrapped does not unwrap to the same.
    Wrong,
    /// Nothing on this token can do that algorithm.
    NoMethod(Algorithm),
}

impl From<CallError> for WrapError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// A buffer for one result, wiped when it goes.
pub(super) type Buffer = Zeroizing<[u8; ROOM]>;

/// An empty buffer.
pub(super) fn buffer() -> Buffer {
    Zeroizing::new([0; ROOM])
}

impl Tools<'_> {
    /// Wraps `seed` under `kek` into `out`; gives the blob.
    pub(super) fn wrap<'o>(
        &self,
        algorithm: Algorithm,
        kek: Object,
        seed: &[u8],
        out: &'o mut Buffer,
    ) -> Result<&'o [u8], WrapError> {
        let Route { method, mechanism } = self.route(algorithm)?;
        let got = match method {
            Method::Object => object::wrap(self, mechanism, kek, seed, &mut out[..])?,
            Method::Encrypt => {
                encrypt::transform(self, Direction::Encrypt, mechanism, kek, seed, &mut out[..])?
            }
            Method::Ecb => ecb::wrap(self, algorithm, mechanism, kek, seed, &mut out[..])?,
        };
        let wanted = Algorithm::wrapped_len(seed.len());
        if got != wanted {
            return Err(WrapError::Length { function: "wrap", wanted, got });
        }
        out.get(..got).ok_or(WrapError::Length { function: "wrap", wanted, got })
    }

    /// Unwraps `blob` under `kek` into `out`; gives the seed.
    ///
    /// The caller has checked the blob's length with [`Algorithm::can_unwrap`]:
    /// some tokens unwrap an empty one to nothing and call that a success.
    pub(super) fn unwrap<'o>(
        &self,
        algorithm: Algorithm,
        kek: Object,
        blob: &[u8],
        out: &'o mut Buffer,
    ) -> Result<&'o [u8], WrapError> {
        let Route { method, mechanism } = self.route(algorithm)?;
        let got = match method {
            Method::Object => object::unwrap(self, algorithm, mechanism, kek, blob, &mut out[..])?,
            Method::Encrypt => {
                encrypt::transform(self, Direction::Decrypt, mechanism, kek, blob, &mut out[..])?
            }
            Method::Ecb => ecb::unwrap(self, algorithm, mechanism, kek, blob, &mut out[..])?,
        };
        let wanted = blob.len() - 8;
        let possible = match algorithm {
            Algorithm::Kw => got == wanted,
            // RFC 5649 pads with 0 to 7 bytes.
            Algorithm::Kwp => got > 0 && got <= wanted && got + 8 > wanted,
        };
        if !possible {
            return Err(WrapError::Length { function: "unwrap", wanted, got });
        }
        out.get(..got).ok_or(WrapError::Length { function: "unwrap", wanted, got })
    }

    /// Unwraps a new blob and compares: is it what `seed` was made into?
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        kek: Object,
        seed: &[u8],
        blob: &[u8],
    ) -> Result<(), WrapError> {
        let mut out = buffer();
        match self.unwrap(algorithm, kek, blob, &mut out) {
            Ok(back) if back == seed => Ok(()),
            // The token's trouble, and not that of the blob.
            Err(WrapError::Call(call))
                if matches!(errors::verdict(call.code, self.profile), Verdict::Plain(_)) =>
            {
                Err(WrapError::Call(call))
            }
            _ => Err(WrapError::Wrong),
        }
    }

    fn route(&self, algorithm: Algorithm) -> Result<Route, WrapError> {
        match algorithm {
            Algorithm::Kw => Ok(self.methods.kw),
            Algorithm::Kwp => self.methods.kwp.ok_or(WrapError::NoMethod(algorithm)),
        }
    }
}
