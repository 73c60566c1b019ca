#![forbid(unsafe_code)]
//! Keeps a PIN that may be wrong from being tried again: three wrong ones lock many a token.

use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Was it told that a PIN failed, and not yet that one is good again?
    told: AtomicBool,
    /// The attempt whose end nobody saw.
    doubt: Mutex<Option<Attempt>>,
    tell: Tell,
}

impl Latch {
    pub(super) fn new(tell: Tell) -> Self {
        Self {
            failed: Mutex::new(None),
            told: AtomicBool::new(false),
            doubt: Mutex::new(None),
            tell,
        }
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

    /// A login is tried: with another PIN than the one that failed.
    pub(super) fn tries(&self) {
        *self.failed() = None;
        metrics::pin_latched(false);
    }

    /// A worker is logged in.
    pub(super) fn opens(&self, setup: &Setup) {
        *self.failed() = None;
        *self.doubt() = None;
        if setup.profile.login == Login::User {
            (self.tell)(PinEvent::Accepted);
        }
        if self.told.swap(false, Ordering::Relaxed) {
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
            self.told.store(true, Ordering::Relaxed);
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

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;
    use std::sync::mpsc;

    use super::*;
    use crate::config::{Config, PinSource};
    use crate::token::protocol::Class;

    pub(in crate::token) fn setup(pin: &Path) -> Arc<Setup> {
        let text = "[token]\nmodule = '/m.so'\nuri = 'pkcs11:token=t'\npin-file = '/p'\n";
        let config = Config::parse(Path::new("c"), text, std::iter::empty(), &[]).unwrap();
        Arc::new(Setup {
            module: config.token.module,
            uri: config.token.uri,
            pin: PinSource::File(pin.to_owned()),
            profile: config.token.profile,
            require_fips: false,
            label: config.keyring.label,
            pin_stamp: None,
            login_in_doubt: false,
        })
    }

    /// Its file was mended, and the token is away for another reason: nothing is latched any more.
    #[test]
    fn a_try_with_another_pin_ends_the_latch() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        std::fs::write(&path, "1234").unwrap();
        let setup = setup(&path);
        let (events, told) = mpsc::channel();
        let latch = Latch::new(Arc::new(move |event| events.send(event).unwrap()));
        let wrong = setup.pin.stamp();
        let failure = Failure::new(Class::PinWrong, "CKR_PIN_INCORRECT");
        latch.takes(&failure, &setup, wrong);
        assert_eq!(latch.refuses(&setup, wrong), Some(failure));

        std::fs::write(&path, "123456").unwrap();
        let mended = setup.pin.stamp();
        assert_eq!(latch.refuses(&setup, mended), None);
        latch.tries();
        latch.takes(&Failure::new(Class::NoToken, "none"), &setup, mended);
        assert!(latch.failed().is_none());
        latch.opens(&setup);
        latch.opens(&setup);
        drop(latch);
        let wanted = [
            PinEvent::Refused,
            PinEvent::Latched,
            PinEvent::Accepted,
            PinEvent::Cleared,
            PinEvent::Accepted,
        ];
        assert_eq!(told.iter().collect::<Vec<_>>(), wanted);
    }
}
