#![forbid(unsafe_code)]
//! Method `object`: the seed becomes a session object for a moment.
//!
//! Three calls each way: create, wrap, destroy; unwrap, read, destroy.

use super::super::ffi::{Mechanism, Module, Object, Session};
use super::{Tools, WrapError};
use crate::algorithm::Algorithm;
use crate::config::ValueLen;

/// Destroys the object on every path. A token has room for only so many.
struct Guard<'a> {
    module: &'a Module,
    session: Session,
    object: Object,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // If the token is gone so is the object, and the next call will tell.
        let _ = self.module.destroy(self.session, self.object);
    }
}

impl<'a> Tools<'a> {
    const fn guard(&self, object: Object) -> Guard<'a> {
        Guard { module: self.module, session: self.session, object }
    }
}

pub(super) fn wrap(
    tools: &Tools<'_>,
    mechanism: Mechanism,
    kek: Object,
    seed: &[u8],
    out: &mut [u8],
) -> Result<usize, WrapError> {
    let object = tools.module.create_seed(tools.session, seed, tools.profile.seed_private)?;
    let guard = tools.guard(object);
    Ok(tools.module.wrap_key(tools.session, mechanism, kek, guard.object, out)?)
}

pub(super) fn unwrap(
    tools: &Tools<'_>,
    algorithm: Algorithm,
    mechanism: Mechanism,
    kek: Object,
    blob: &[u8],
    out: &mut [u8],
) -> Result<usize, WrapError> {
    // Only KW tells the plaintext's length beforehand.
    let value_len = (algorithm == Algorithm::Kw && tools.profile.value_len == ValueLen::Require)
        .then_some(blob.len() - 8);
    let object = tools.module.unwrap_key(
        tools.session,
        mechanism,
        kek,
        blob,
        tools.profile.seed_private,
        value_len,
    )?;
    let guard = tools.guard(object);
    Ok(tools.module.read_value(tools.session, guard.object, out)?)
}
