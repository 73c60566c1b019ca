#![forbid(unsafe_code)]
//! Method `encrypt`: the key-wrap mechanism used as a cipher on plain bytes.
//!
//! Two calls each way. No object is made, so it also works where a token
//! forbids import and reading of secrets (FIPS modes).

use super::super::ffi::{Direction, Mechanism, Object};
use super::{Tools, WrapError};

/// Wraps or unwraps: `C_EncryptInit` + `C_Encrypt`, or the decrypting pair.
pub(super) fn transform(
    tools: &Tools<'_>,
    direction: Direction,
    mechanism: Mechanism,
    kek: Object,
    data: &[u8],
    out: &mut [u8],
) -> Result<usize, WrapError> {
    tools.module.begin(direction, tools.session, mechanism, None, kek)?;
    Ok(tools.module.all(direction, tools.session, data, out)?)
}
