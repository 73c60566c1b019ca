#![forbid(unsafe_code)]
//! One login at a time on this host, for modules that cannot stand two.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::token::protocol::{Class, Failure};

/// Held while nobody else on this host may log in or make a key.
pub(super) struct LoginLock {
    _file: Option<Flock<File>>,
}

impl LoginLock {
    /// Waits for its turn, if the profile wants one. The lock lies on the module's
    /// own file, which all who use it share and which needs no right to write.
    pub(super) fn take(module: &Path, wanted: bool) -> Result<Self, Failure> {
        if !wanted {
            return Ok(Self { _file: None });
        }
        let failed = |error: &dyn std::fmt::Display| {
            let message = format!("token.module {}: cannot lock it: {error}", module.display());
            Failure::new(Class::Module, message)
        };
        let mut file = File::open(module).map_err(|error| failed(&error))?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(lock) => return Ok(Self { _file: Some(lock) }),
                Err((back, Errno::EINTR)) => file = back,
                Err((_, error)) => return Err(failed(&error)),
            }
        }
    }
}
