#![forbid(unsafe_code)]
//! Method `encrypt`: the key-wrap mechanism used as a cipher on plain bytes.
//!
//! Two calls each way. No object is made, so it also works where a token
//! forbids import and reading of secrets (FIPS modes).

use super::super::ffi::{Mechanism, Object};
use super::{Tools, WrapError};

pub(super) fn wrap(
    tools: &Tools<'_>,
    mechanism: Mechanism,
    kek: Object,
    seed: &[u8],
    out: &mut [u8],
) -> Result<usize, WrapError> {
    tools
        .module
        .encrypt_init(tools.session, mechanism, None, kek)?;
    Ok(tools.module.encrypt(tools.session, seed, out)?)
}

pub(super) fn unwrap(
    tools: &Tools<'_>,
    mechanism: Mechanism,
    kek: Object,
    blob: &[u8],
    out: &mut [u8],
) -> Result<usize, WrapError> {
    tools
        .module
        .decrypt_init(tools.session, mechanism, None, kek)?;
    Ok(tools.module.decrypt(tools.session, blob, out)?)
}
