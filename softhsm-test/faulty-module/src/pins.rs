#![forbid(unsafe_code)]
//! How the PIN of the user fares. The PIN of the security officer is left alone.

use cryptoki_sys as sys;
use cryptoki_sys::{CK_FLAGS, CK_RV, CK_SESSION_HANDLE, CK_USER_TYPE};

use crate::ffi::Real;
use crate::rules::TokenRules;
use crate::state::State;

/// The rules for PINs, and the tries that all processes have made.
pub(crate) struct Pins<'a> {
    pub(crate) rules: &'a TokenRules,
    pub(crate) state: &'a State,
    pub(crate) real: &'a Real,
}

impl Pins<'_> {
    /// A login: `real` makes the real call.
    pub(crate) fn login(
        &self,
        user: CK_USER_TYPE,
        session: CK_SESSION_HANDLE,
        real: impl FnOnce() -> CK_RV,
    ) -> CK_RV {
        if user == sys::CKU_SO {
            return real();
        }
        if self.rules.pin_refused || self.is_locked() {
            // What a token says before it looks at a PIN: no try is lost.
            match self.real.session_state(session) {
                Err(code) => return code,
                Ok(sys::CKS_RW_SO_FUNCTIONS) => return sys::CKR_USER_ANOTHER_ALREADY_LOGGED_IN,
                Ok(sys::CKS_RO_USER_FUNCTIONS | sys::CKS_RW_USER_FUNCTIONS)
                    if user == sys::CKU_USER =>
                {
                    return sys::CKR_USER_ALREADY_LOGGED_IN;
                }
                Ok(_) => {}
            }
        }
        self.tried(real)
    }

    /// `C_SetPIN`, for which the old PIN must be right: `real` makes the real call.
    pub(crate) fn change(&self, session: CK_SESSION_HANDLE, real: impl FnOnce() -> CK_RV) -> CK_RV {
        match self.real.session_state(session) {
            Ok(sys::CKS_RW_PUBLIC_SESSION | sys::CKS_RW_USER_FUNCTIONS) => self.tried(real),
            _ => real(),
        }
    }

    /// The security officer has given a new PIN, if the real module says so: it has all its tries.
    pub(crate) fn given(&self, answer: CK_RV) -> CK_RV {
        if answer == sys::CKR_OK {
            self.state.pin_accepted();
        }
        answer
    }

    /// The flags that `C_GetTokenInfo` shows beside those of the real module.
    pub(crate) fn flags(&self) -> CK_FLAGS {
        let tries = self.state.tries();
        let counted = self.rules.pin_tries.map_or(0, |most| {
            let low = if tries > 0 { sys::CKF_USER_PIN_COUNT_LOW } else { 0 };
            low | match u64::from(most).saturating_sub(tries) {
                0 => sys::CKF_USER_PIN_LOCKED,
                1 => sys::CKF_USER_PIN_FINAL_TRY,
                _ => 0,
            }
        });
        self.rules.pin_flags | counted
    }

    fn is_locked(&self) -> bool {
        self.rules.pin_tries.is_some_and(|tries| self.state.tries() >= tries.into())
    }

    fn tried(&self, real: impl FnOnce() -> CK_RV) -> CK_RV {
        if self.is_locked() {
            return sys::CKR_PIN_LOCKED;
        }
        let answer = if self.rules.pin_refused { sys::CKR_PIN_INCORRECT } else { real() };
        match answer {
            sys::CKR_PIN_INCORRECT => self.state.pin_failed(),
            sys::CKR_OK => self.state.pin_accepted(),
            _ => {}
        }
        answer
    }
}
