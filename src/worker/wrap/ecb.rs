#![forbid(unsafe_code)]
//! Method `ecb`: key wrap on the host, every AES block on the token.
//!
//! For tokens that have AES but no usable key wrap. The KEK still never leaves
//! the token: the aes-kw crate runs RFC 3394 or RFC 5649 over [`Device`], a
//! block cipher whose every block is one call. The calls are one stream (an
//! init, an update for each of the 24 blocks of a seed, a final), because an
//! init for each block is 15 times slower on SoftHSM. Where the profile says
//! that the module cannot stream, each block is an init and a call of its own.

use std::cell::{Cell, RefCell};

use aes_kw::aes::cipher::common::BlockSizeUser;
use aes_kw::aes::cipher::consts::{U1, U16};
use aes_kw::aes::cipher::inout::InOut;
use aes_kw::aes::cipher::{
    Block, BlockCipherDecBackend, BlockCipherDecClosure, BlockCipherDecrypt, BlockCipherEncBackend,
    BlockCipherEncClosure, BlockCipherEncrypt, ParBlocksSizeUser,
};
use aes_kw::{AesKw, AesKwp, InnerInit};
use cryptoki_sys::CKR_GENERAL_ERROR;
use zeroize::Zeroizing;

use super::super::ffi::{CallError, Direction, Mechanism, Object};
use super::{Tools, WrapError};
use crate::algorithm::Algorithm;
use crate::config::EcbMechanism;

pub(super) fn wrap(
    tools: &Tools<'_>,
    algorithm: Algorithm,
    mechanism: Mechanism,
    kek: Object,
    seed: &[u8],
    out: &mut [u8],
) -> Result<usize, WrapError> {
    let device = Device::begin(*tools, mechanism, Direction::Encrypt, kek)?;
    let wrapped = match algorithm {
        Algorithm::Kw => AesKw::inner_init(&device).wrap_key(seed, out),
        Algorithm::Kwp => AesKwp::inner_init(&device).wrap_key(seed, out),
    }
    .map(<[u8]>::len);
    device.end()?;
    wrapped.map_err(|_| WrapError::Integrity)
}

pub(super) fn unwrap(
    tools: &Tools<'_>,
    algorithm: Algorithm,
    mechanism: Mechanism,
    kek: Object,
    blob: &[u8],
    out: &mut [u8],
) -> Result<usize, WrapError> {
    let device = Device::begin(*tools, mechanism, Direction::Decrypt, kek)?;
    let unwrapped = match algorithm {
        Algorithm::Kw => AesKw::inner_init(&device).unwrap_key(blob, out),
        Algorithm::Kwp => AesKwp::inner_init(&device).unwrap_key(blob, out),
    }
    .map(<[u8]>::len);
    // A failed call comes first: without it the integrity check means nothing.
    device.end()?;
    unwrapped.map_err(|_| WrapError::Integrity)
}

/// AES on the token, as a block cipher of the `cipher` crate.
///
/// Those traits know no failure, so the first one is kept here, no more calls
/// are made after it, and [`Device::end`] reports it.
struct Device<'a> {
    tools: Tools<'a>,
    mechanism: Mechanism,
    direction: Direction,
    kek: Object,
    /// What the last call put in (decryption) or out (encryption): with CBC the
    /// token mixes it into the next block, so we mix it out again.
    chained: RefCell<[u8; 16]>,
    failure: Cell<Option<CallError>>,
}

impl<'a> Device<'a> {
    /// Opens the stream, if it is to be one.
    fn begin(
        tools: Tools<'a>,
        mechanism: Mechanism,
        direction: Direction,
        kek: Object,
    ) -> Result<Self, CallError> {
        let chained = RefCell::new([0; 16]);
        let device = Self { tools, mechanism, direction, kek, chained, failure: Cell::new(None) };
        if device.is_stream() {
            device.init()?;
        }
        Ok(device)
    }

    const fn is_stream(&self) -> bool {
        self.tools.profile.ecb_stream
    }

    fn is_cbc(&self) -> bool {
        self.tools.profile.ecb_mechanism == EcbMechanism::Cbc
    }

    fn init(&self) -> Result<(), CallError> {
        let iv = self.is_cbc().then_some(&[0; 16]);
        let Tools { module, session, .. } = self.tools;
        module.begin(self.direction, session, self.mechanism, iv, self.kek)
    }

    /// Ends the stream, so that the session is free for the next job, and tells
    /// of the first failure.
    fn end(&self) -> Result<(), CallError> {
        let Tools { module, session, .. } = self.tools;
        let ended = if self.is_stream() { module.end(self.direction, session) } else { Ok(()) };
        match self.failure.get() {
            Some(failure) => Err(failure),
            None => ended,
        }
    }

    fn block(&self, mut block: InOut<'_, '_, Block<Self>>) {
        if self.failure.get().is_some() {
            return;
        }
        let mut input = [0; 16];
        input.copy_from_slice(block.get_in());
        match self.call(input) {
            Ok(output) => block.get_out().copy_from_slice(&output),
            Err(failure) => self.failure.set(Some(failure)),
        }
    }

    fn call(&self, block: [u8; 16]) -> Result<[u8; 16], CallError> {
        let mixed = self.is_cbc() && self.is_stream();
        let mut chained = self.chained.borrow_mut();
        if !mixed {
            return self.one_block(block);
        }
        match self.direction {
            Direction::Encrypt => {
                *chained = self.one_block(xor(block, *chained))?;
                Ok(*chained)
            }
            Direction::Decrypt => {
                let plain = xor(self.one_block(block)?, *chained);
                *chained = block;
                Ok(plain)
            }
        }
    }

    fn one_block(&self, block: [u8; 16]) -> Result<[u8; 16], CallError> {
        let Tools { module, session, .. } = self.tools;
        // Some modules fill more of the buffer than they say.
        let mut out = Zeroizing::new([0; 64]);
        let len = if self.is_stream() {
            module.next(self.direction, session, &block, &mut *out)?
        } else {
            self.init()?;
            module.all(self.direction, session, &block, &mut *out)?
        };
        match out.first_chunk::<16>() {
            Some(output) if len == 16 => Ok(*output),
            _ => {
                let function = "the AES block call";
                Err(CallError { function, code: CKR_GENERAL_ERROR })
            }
        }
    }
}

fn xor(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
    let mut out = a;
    for (to, from) in out.iter_mut().zip(b) {
        *to ^= from;
    }
    out
}

impl BlockSizeUser for Device<'_> {
    type BlockSize = U16;
}

impl ParBlocksSizeUser for Device<'_> {
    type ParBlocksSize = U1;
}

impl BlockCipherEncBackend for Device<'_> {
    fn encrypt_block(&self, block: InOut<'_, '_, Block<Self>>) {
        self.block(block);
    }
}

impl BlockCipherDecBackend for Device<'_> {
    fn decrypt_block(&self, block: InOut<'_, '_, Block<Self>>) {
        self.block(block);
    }
}

impl BlockCipherEncrypt for Device<'_> {
    fn encrypt_with_backend(&self, f: impl BlockCipherEncClosure<BlockSize = U16>) {
        f.call(self);
    }
}

impl BlockCipherDecrypt for Device<'_> {
    fn decrypt_with_backend(&self, f: impl BlockCipherDecClosure<BlockSize = U16>) {
        f.call(self);
    }
}
