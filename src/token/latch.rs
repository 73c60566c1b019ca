#![forbid(unsafe_code)]
//! Keeps a PIN that may be wrong from being tried again: three wrong ones lock many a token.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pin::{PinEvent, Tell};
use super::protocol::{Failure, Setup};
use crate::config::{Login, Stamp};
use crate::metrics;

/// With what a login was tried: the setup, and what the PIN's file looked like.
type Attempt = (Arc<Setup>, Option<Stamp>);

/// What is known of the PIN. A changed setup or file makes it unknown again.
pub(super) struct Latch {
    /// The attempt that failed. No login is tried with the same.
    failed: Mutex<Option<(Attempt, Failure)>>,
    /// The attempt whose end nobody saw.
    doubt: Mutex<Option<Attempt>>,
    tell: Tell,
}

impl Latch {
    pub(super) fn new(tell: Tell) -> Self {
        Self { failed: Mutex::new(None), doubt: Mutex::new(None), tell }
    }

    /// Is there a PIN that failed?
    pub(super) fn is_on(&self) -> bool {
        self.failed().is_some()
    }

    /// Why no login may be tried with these.
    pub(super) fn refuses(&self, setup: &Arc<Setup>, stamp: Option<Stamp>) -> Option<Failure> {
        self.failed()
            .as_ref()
            .filter(|(attempt, _)| is_same(attempt, setup, stamp))
            .map(|(_, failure)| failure.clone())
    }

    /// Was a login with these begun whose end nobody saw?
    pub(super) fn is_in_doubt(&self, setup: &Arc<Setup>, stamp: Option<Stamp>) -> bool {
        self.doubt().as_ref().is_some_and(|attempt| is_same(attempt, setup, stamp))
    }

    /// Nobody saw the end of a login with these.
    pub(super) fn doubts(&self, setup: &Arc<Setup>, stamp: Option<Stamp>) {
        *self.doubt() = Some((setup.clone(), stamp));
    }

    /// A login is tried.
    pub(super) fn tries(&self) {
        metrics::pin_latched(false);
    }

    /// A worker is logged in.
    pub(super) fn opens(&self, setup: &Setup) {
        let was_on = self.failed().take().is_some();
        *self.doubt() = None;
        if setup.profile.login == Login::User {
            (self.tell)(PinEvent::Accepted);
        }
        if was_on {
            (self.tell)(PinEvent::Cleared);
        }
    }

    /// Takes note of a failure, if it may have been the PIN.
    pub(super) fn takes(&self, failure: &Failure, setup: &Arc<Setup>, stamp: Option<Stamp>) {
        if !failure.class.latches() {
            return;
        }
        metrics::pin_latched(true);
        // Several lanes may tell the same.
        let is_new = self.refuses(setup, stamp).is_none();
        *self.failed() = Some(((setup.clone(), stamp), failure.clone()));
        if is_new {
            (self.tell)(PinEvent::of(failure));
            (self.tell)(PinEvent::Latched);
        }
    }

    fn failed(&self) -> MutexGuard<'_, Option<(Attempt, Failure)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubt(&self) -> MutexGuard<'_, Option<Attempt>> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_same((theirs, then): &Attempt, setup: &Arc<Setup>, stamp: Option<Stamp>) -> bool {
    Arc::ptr_eq(theirs, setup) && *then == stamp
}
