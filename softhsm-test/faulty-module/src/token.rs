#![forbid(unsafe_code)]
//! The token as this process sees it: gone or there, and which sessions are dead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use cryptoki_sys as sys;
use cryptoki_sys::{CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID};

use crate::ffi::Real;
use crate::follow::Loaded;
use crate::functions::Function;
use crate::rules::TokenRules;
use crate::state::{Generation, State};

/// What this process knows of the token.
#[derive(Default)]
pub(crate) struct Token {
    ledger: Mutex<Ledger>,
    /// Held for reading while a real call runs, and for writing while sessions are taken away:
    /// few modules bear it that a session goes while another thread uses it.
    gate: RwLock<()>,
}

#[derive(Default)]
struct Ledger {
    open: BTreeMap<CK_SESSION_HANDLE, CK_SLOT_ID>,
    /// Sessions that are being opened just now.
    opening: usize,
    /// Handles from before a loss. The real module may not know that they are dead.
    dead: BTreeSet<CK_SESSION_HANDLE>,
    /// Slots whose sessions the real module has still to close.
    to_close: BTreeSet<CK_SLOT_ID>,
    to_log_out: bool,
    /// What calls answer since the token is lost.
    lost: Option<CK_RV>,
    /// Whether it stays lost when the rule is gone.
    until_initialize: bool,
    /// The version of the rules whose one-time lines have been obeyed.
    obeyed: Generation,
}

impl Ledger {
    /// Takes in what the rules say now.
    fn notice(&mut self, loaded: &Loaded, was_lost: bool) {
        if loaded.generation < self.obeyed {
            // A call that was held up since: another one has seen newer rules.
            return;
        }
        let rules = &loaded.rules.token;
        match rules.lost {
            Some(lost) => {
                self.lost = Some(lost.code.0);
                self.until_initialize |= lost.until_initialize;
                self.drop_sessions();
            }
            None if was_lost => {
                self.lost = Some(sys::CKR_DEVICE_REMOVED);
                self.drop_sessions();
            }
            None if !self.until_initialize => self.lost = None,
            None => {}
        }
        if self.obeyed != loaded.generation {
            self.obeyed = loaded.generation;
            if rules.sessions_dropped {
                self.drop_sessions();
            }
            if rules.logged_out {
                self.log_out();
            }
        }
    }

    fn drop_sessions(&mut self) {
        for (session, slot) in std::mem::take(&mut self.open) {
            self.dead.insert(session);
            self.to_close.insert(slot);
        }
    }

    fn log_out(&mut self) {
        self.to_log_out |= !self.open.is_empty();
    }

    fn has_debts(&self) -> bool {
        self.to_log_out || !self.to_close.is_empty()
    }
}

impl Token {
    /// Lets a call through to the real module as long as the guard lives, or answers it.
    pub(crate) fn admit(
        &self,
        loaded: &Loaded,
        state: &State,
        function: Function,
        session: Option<CK_SESSION_HANDLE>,
        real: &Real,
    ) -> Result<Option<RwLockReadGuard<'_, ()>>, CK_RV> {
        let (lost, has_debts) = {
            let mut ledger = self.ledger();
            ledger.notice(loaded, state.is_lost(loaded.generation));
            (ledger.lost, ledger.has_debts())
        };
        if let Some(code) = lost {
            // A real call that hangs must not make this one hang: the debts can wait.
            if let Ok(_alone) = self.gate.try_write() {
                self.settle(real);
            }
            if !works_without_token(function) {
                return Err(code);
            }
        }
        // It waits for an event that may never come, and uses no session.
        if function == Function::C_WaitForSlotEvent {
            return Ok(None);
        }
        if has_debts && lost.is_none() {
            let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            self.settle(real);
        }
        let admitted = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        match session {
            Some(session) if self.ledger().dead.contains(&session) => {
                Err(sys::CKR_SESSION_HANDLE_INVALID)
            }
            _ => Ok(Some(admitted)),
        }
    }

    /// Makes the real module do what the ledger says has happened. The gate is held for writing.
    fn settle(&self, real: &Real) {
        let (slots, to_log_out) = {
            let mut ledger = self.ledger();
            let to_log_out = std::mem::take(&mut ledger.to_log_out).then(|| {
                let by_slot = ledger.open.iter().map(|(session, slot)| (*slot, *session));
                by_slot.collect::<BTreeMap<_, _>>()
            });
            (std::mem::take(&mut ledger.to_close), to_log_out)
        };
        for slot in slots {
            real.close_all_sessions(slot);
        }
        // A login holds for all sessions with a token: one of them is enough.
        for session in to_log_out.unwrap_or_default().into_values() {
            real.logout(session);
        }
    }

    /// Whether the token is gone at present.
    pub(crate) fn is_lost(&self) -> bool {
        self.ledger().lost.is_some()
    }

    /// A rule for a call takes all sessions of this process away.
    pub(crate) fn drop_sessions(&self) {
        self.ledger().drop_sessions();
    }

    /// A rule for a call takes the login of this process away.
    pub(crate) fn log_out(&self) {
        self.ledger().log_out();
    }

    /// `C_Initialize` or `C_Finalize`, after the real one has answered: no session is open, the
    /// token is what the rules say, and nothing is owed. A forked child may initialise with the
    /// sessions of its parent still in the ledger.
    pub(crate) fn begun_anew(&self, answer: CK_RV) -> CK_RV {
        if answer == sys::CKR_OK {
            let mut ledger = self.ledger();
            let (obeyed, opening) = (ledger.obeyed, ledger.opening);
            *ledger = Ledger { obeyed, opening, ..Ledger::default() };
        }
        answer
    }

    /// `C_OpenSession`: `open` makes the real call and gives the handle too.
    pub(crate) fn open_session(
        &self,
        rules: &TokenRules,
        slot: CK_SLOT_ID,
        open: impl FnOnce() -> (CK_RV, Option<CK_SESSION_HANDLE>),
    ) -> CK_RV {
        {
            let mut ledger = self.ledger();
            let count = ledger.open.len() + ledger.opening;
            if rules.max_sessions.is_some_and(|most| count >= most as usize) {
                return sys::CKR_SESSION_COUNT;
            }
            ledger.opening += 1;
        }
        let (answer, session) = open();
        let mut ledger = self.ledger();
        ledger.opening -= 1;
        if let Some(session) = session.filter(|_| answer == sys::CKR_OK) {
            ledger.open.insert(session, slot);
            ledger.dead.remove(&session);
        }
        answer
    }

    /// `C_CloseSession`, after the real one has answered.
    pub(crate) fn session_closed(&self, session: CK_SESSION_HANDLE, answer: CK_RV) -> CK_RV {
        // The real token may have lost it.
        if matches!(answer, sys::CKR_OK | sys::CKR_SESSION_HANDLE_INVALID) {
            self.ledger().open.remove(&session);
        }
        answer
    }

    /// `C_CloseAllSessions`, after the real one has answered.
    pub(crate) fn sessions_closed(&self, slot: CK_SLOT_ID, answer: CK_RV) -> CK_RV {
        if answer == sys::CKR_OK {
            self.ledger().open.retain(|_, of| *of != slot);
        }
        answer
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is about the library or a slot, and is answered although the token is gone.
const fn works_without_token(function: Function) -> bool {
    matches!(
        function,
        Function::C_Initialize
            | Function::C_Finalize
            | Function::C_GetInfo
            | Function::C_GetSlotList
            | Function::C_GetSlotInfo
            | Function::C_WaitForSlotEvent
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::rules::Rules;
    use crate::state::Identity;

    #[test]
    fn a_call_that_was_held_up_brings_no_old_rules_back() {
        let loaded = |generation, text: &str| Loaded {
            seen: Identity::ABSENT,
            generation,
            rules: Arc::new(text.parse::<Rules>().unwrap()),
        };
        let [old, new] = [loaded(1, "token lost"), loaded(2, "token sessions-dropped")];
        let mut ledger = Ledger::default();
        let mut closed_by = |loaded: &Loaded| {
            ledger.open.insert(7, 0);
            ledger.notice(loaded, false);
            assert!(ledger.lost.is_none() || loaded.generation == 1);
            ledger.open.is_empty()
        };
        assert!(closed_by(&old) && closed_by(&new));
        assert!(!closed_by(&old), "the rules of generation 2 are in force");
        assert!(!closed_by(&new), "a one-time line is obeyed once");
    }

    #[test]
    fn a_session_that_is_gone_anyway_is_not_counted() {
        let token = Token::default();
        let rules = "token max-sessions=1".parse::<Rules>().unwrap().token;
        let open = |handle| token.open_session(&rules, 0, || (sys::CKR_OK, Some(handle)));
        assert_eq!([open(1), open(2)], [sys::CKR_OK, sys::CKR_SESSION_COUNT]);
        token.session_closed(1, sys::CKR_DEVICE_ERROR);
        assert_eq!(open(2), sys::CKR_SESSION_COUNT);
        // The real token has lost it.
        token.session_closed(1, sys::CKR_SESSION_HANDLE_INVALID);
        assert_eq!(open(2), sys::CKR_OK);
        // A forked child begins with the ledger of its parent.
        token.begun_anew(sys::CKR_CRYPTOKI_ALREADY_INITIALIZED);
        assert_eq!(open(3), sys::CKR_SESSION_COUNT);
        token.begun_anew(sys::CKR_OK);
        assert_eq!(open(3), sys::CKR_OK);
    }
}
