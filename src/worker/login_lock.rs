#![forbid(unsafe_code)]
//! One login at a time on this host, for modules that cannot stand two.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// Held while nobody else on this host should log in or change the token, or while nobody
/// should do that because somebody looks.
pub(super) struct LoginLock {
    _file: Option<Flock<File>>,
    missed: bool,
}

impl LoginLock {
    /// Waits for its turn, if the profile wants one, and goes on without it when its
    /// patience ends. The lock lies on the module's own file, which all who use it
    /// share and which needs no right to write.
    pub(super) fn take(module: &Path, wanted: bool, patience: Duration) -> Self {
        Self::hold(module, wanted, patience, FlockArg::LockExclusiveNonblock)
    }

    /// The same for a search. It is shared with other searches.
    pub(super) fn share(module: &Path, wanted: bool, patience: Duration) -> Self {
        Self::hold(module, wanted, patience, FlockArg::LockSharedNonblock)
    }

    fn hold(module: &Path, wanted: bool, patience: Duration, kind: FlockArg) -> Self {
        let file = if wanted { Self::wait(module, patience, kind) } else { None };
        Self { missed: wanted && file.is_none(), _file: file }
    }

    fn wait(module: &Path, patience: Duration, kind: FlockArg) -> Option<Flock<File>> {
        let mut file = File::open(module).ok()?;
        let began = Instant::now();
        loop {
            match Flock::lock(file, kind) {
                Ok(lock) => return Some(lock),
                Err(_) if began.elapsed() > patience => return None,
                Err((back, _)) => file = back,
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What to tell when it was not to be had.
    pub(super) fn warning(&self) -> Option<String> {
        self.missed.then(|| {
            "somebody else holds the lock for logins on the module's file (token.login-lock): \
             logged in without it"
                .to_owned()
        })
    }
}
