#![forbid(unsafe_code)]
//! Whether a rule strikes a call, and what it then does.

use std::io::Write;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use cryptoki_sys::CK_RV;

use crate::ffi::{self, Output};
use crate::follow::{Follower, Loaded};
use crate::functions::Function;
use crate::rules::{Code, End, Rule};
use crate::say;
use crate::state::State;
use crate::token::Token;

/// How often a call that hangs looks whether it may come back.
const LOOK: Duration = Duration::from_millis(10);

/// Strikes calls of one process.
pub(crate) struct Striker<'a> {
    pub(crate) state: &'a State,
    pub(crate) follower: &'a Follower,
    pub(crate) token: &'a Token,
}

impl Striker<'_> {
    /// Goes through the rules that strike before the real call; gives an answer that replaces it.
    ///
    /// Each rule counts the calls that it matches, in order. One that answers a call hides it
    /// from those below.
    pub(crate) fn before(&self, loaded: &Loaded, function: Function) -> Option<CK_RV> {
        let early = matching(loaded, function).filter(|(_, rule)| !rule.faults.come_after());
        for (index, rule) in early {
            if self.is_struck(loaded, index, rule) {
                self.act(loaded, rule);
                match rule.faults.end {
                    Some(End::Return(Code(code))) => return Some(code),
                    Some(End::Segv) => ffi::segv(),
                    Some(End::Abort) => std::process::abort(),
                    Some(End::Exit(status)) => std::process::exit(status.into()),
                    Some(End::AfterReturn(_)) | None => {}
                }
            }
        }
        None
    }

    /// Goes through the rules that strike after the real call, up to the first that does: two
    /// that flip the same bit would leave it as it was. Gives what the caller is told.
    pub(crate) fn after(
        &self,
        loaded: &Loaded,
        function: Function,
        answer: CK_RV,
        mut output: Output,
    ) -> CK_RV {
        let gave = answer == cryptoki_sys::CKR_OK && output.is_there();
        let struck = matching(loaded, function)
            .filter(|(_, rule)| rule.faults.come_after() && (gave || !rule.faults.need_output()))
            .find(|(index, rule)| self.is_struck(loaded, *index, rule));
        let Some((_, rule)) = struck else {
            return answer;
        };
        if rule.faults.corrupt {
            output.flip_bit();
        }
        if let Some(bytes) = rule.faults.truncate {
            output.shorten(bytes);
        }
        self.act(loaded, rule);
        match rule.faults.end {
            Some(End::AfterReturn(Code(code))) => code,
            _ => answer,
        }
    }

    /// The strike is counted before it shows: a test that waits for it may then find a process
    /// that is dead, or kill one that hangs.
    fn is_struck(&self, loaded: &Loaded, index: usize, rule: &Rule) -> bool {
        let number = self.state.matched(loaded.generation, index);
        let struck = number.is_some_and(|number| rule.when.strikes(number));
        if struck {
            self.state.struck(loaded.generation, index);
        }
        struck
    }

    /// What a rule does before it decides about the call.
    fn act(&self, loaded: &Loaded, rule: &Rule) {
        if rule.faults.stray {
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "faulty-module: a stray line").and_then(|()| out.flush());
            say("a stray line");
        }
        if let Some(delay) = rule.faults.delay {
            sleep(delay);
        }
        while rule.faults.hang && self.stands(rule) {
            sleep(LOOK);
        }
        if rule.faults.sessions_dropped {
            self.token.drop_sessions();
        }
        if rule.faults.logged_out {
            self.token.log_out();
        }
        if let Some(span) = rule.faults.lost {
            self.state.lose(loaded.generation, span);
        }
    }

    fn stands(&self, rule: &Rule) -> bool {
        let loaded: Arc<Loaded> = self.follower.current(self.state);
        loaded.rules.calls.contains(rule)
    }
}

fn matching(loaded: &Loaded, function: Function) -> impl Iterator<Item = (usize, &Rule)> {
    loaded.rules.calls.iter().enumerate().filter(move |(_, rule)| rule.is_for(function))
}
