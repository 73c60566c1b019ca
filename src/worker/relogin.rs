#![forbid(unsafe_code)]
//! A new session in place of one that the token dropped, and a new login where that
//! went with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cryptoki::context::Pkcs11;
use cryptoki::session::{Session, SessionState};
use cryptoki::slot::Slot;

use super::control::Teller;
use super::errors;
use super::keys::Handles;
use super::login;
use super::login_lock::LoginLock;
use crate::config::Login;
use crate::token::protocol::{Class, Failure, Setup};

/// A job waits meanwhile, and the worker would be taken for a hung one.
const PATIENCE: Duration = Duration::from_millis(500);

/// Lets one thread of this worker at a time see to the login.
pub(super) struct Relogin {
    /// Another worker is started in this one's place: the PIN is its affair now.
    has_successor: Arc<AtomicBool>,
    teller: Teller,
    /// Why nobody may try again.
    refused: RwLock<Option<Failure>>,
}

impl Relogin {
    /// Nothing has been refused yet. `has_successor` may turn true at any time.
    pub(super) const fn new(has_successor: Arc<AtomicBool>, teller: Teller) -> Self {
        Self { has_successor, teller, refused: RwLock::new(None) }
    }

    /// Opens a session, and logs in if the token has forgotten that we were. Then the
    /// handles of the KEKs are forgotten too.
    pub(super) fn reopen(
        &self,
        setup: &Setup,
        pkcs11: &Pkcs11,
        slot: Slot,
        handles: &Handles,
    ) -> Result<Session, Failure> {
        let mut refused = self.refused.write().unwrap_or_else(PoisonError::into_inner);
        let lost = |error| errors::from_cryptoki(&error, "reopening a session", &setup.profile);
        let session = login::open(setup, pkcs11, slot)?;
        if is_logged_in(setup, &session)? {
            return Ok(session);
        }
        // A PIN gets one attempt. With workers beside us, or one in our place, only the
        // front knows whether it has been tried: it starts a new worker then.
        if setup.profile.workers > 1 || self.has_successor.load(Ordering::Relaxed) {
            return Err(login_lost());
        }
        if let Some(failure) = &*refused {
            return Err(failure.clone());
        }
        let token = pkcs11.get_token_info(slot).map_err(lost)?;
        handles.forget();
        let _lock = LoginLock::take(&setup.module, setup.profile.login_lock, PATIENCE);
        let done = login::guard_pin(&token, false)
            .and_then(|_| self.teller.around(|| login::authenticate(setup, &session)));
        if let Err(failure) = &done
            && failure.class.latches()
        {
            *refused = Some(failure.clone());
        }
        done.map(|()| session)
    }

    /// Runs a search. Who is not logged in is shown no private key, and the token calls that
    /// a success: so it counts only if the login held until its end.
    pub(super) fn searched<T>(
        &self,
        setup: &Setup,
        session: &Session,
        search: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        // Nobody logs in meanwhile: a login at the end was there from the beginning.
        let _no_login = self.refused.read().unwrap_or_else(PoisonError::into_inner);
        let found = search()?;
        if is_logged_in(setup, session)? { Ok(found) } else { Err(login_lost()) }
    }
}

/// Does the token count this session as the user's? Where no login is wanted, always.
fn is_logged_in(setup: &Setup, session: &Session) -> Result<bool, Failure> {
    if setup.profile.login == Login::None {
        return Ok(true);
    }
    let info = session.get_session_info().map_err(|error| {
        errors::from_cryptoki(&error, "asking for the session's state", &setup.profile)
    })?;
    Ok(matches!(info.session_state(), SessionState::RoUser | SessionState::RwUser))
}

/// The token has logged us out.
pub(super) fn login_lost() -> Failure {
    Failure::new(Class::SessionLost, "the token has ended our login")
}
