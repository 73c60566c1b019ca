#![forbid(unsafe_code)]
//! The lines that begin with `token`: what holds for the token as a whole while they stand.

use std::fmt;
use std::time::Duration;

use cryptoki_sys as sys;

use super::parse::{number, span, split};
use super::{Code, Span, nearest};

/// What holds for the token as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenRules {
    pub(crate) lost: Option<Lost>,
    pub(crate) sessions_dropped: bool,
    pub(crate) logged_out: bool,
    pub(crate) max_sessions: Option<u32>,
    pub(crate) pin_refused: bool,
    pub(crate) pin_tries: Option<u32>,
    pub(crate) pin_flags: sys::CK_FLAGS,
    pub(crate) latency: Option<Duration>,
}

/// How the token is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// What calls answer meanwhile.
    pub(crate) code: Code,
    /// Whether a process that has seen it needs a new `C_Initialize`.
    pub(crate) until_initialize: bool,
}

const PIN_FLAGS: &[(&str, sys::CK_FLAGS)] = &[
    ("count-low", sys::CKF_USER_PIN_COUNT_LOW),
    ("final-try", sys::CKF_USER_PIN_FINAL_TRY),
    ("locked", sys::CKF_USER_PIN_LOCKED),
    ("to-be-changed", sys::CKF_USER_PIN_TO_BE_CHANGED),
    ("so-count-low", sys::CKF_SO_PIN_COUNT_LOW),
    ("so-final-try", sys::CKF_SO_PIN_FINAL_TRY),
    ("so-locked", sys::CKF_SO_PIN_LOCKED),
    ("so-to-be-changed", sys::CKF_SO_PIN_TO_BE_CHANGED),
];

impl TokenRules {
    pub(super) const WORDS: &[&str] = &[
        "lost",
        "lost-until-initialize",
        "sessions-dropped",
        "logged-out",
        "max-sessions=",
        "pin-refused",
        "pin-tries=",
        "pin-flags=",
        "latency=",
    ];

    /// Takes one word in; `code` is the `return=` that came after it.
    pub(super) fn add_word(&mut self, word: &str, code: Option<Code>) -> Result<(), String> {
        let (name, value) = split(word);
        let twice = match (name, value) {
            ("lost" | "lost-until-initialize", None) => {
                let code = code.unwrap_or(Code(sys::CKR_DEVICE_REMOVED));
                let until_initialize = name != "lost";
                self.lost.replace(Lost { code, until_initialize }).is_some()
            }
            ("sessions-dropped", None) => std::mem::replace(&mut self.sessions_dropped, true),
            ("logged-out", None) => std::mem::replace(&mut self.logged_out, true),
            ("pin-refused", None) => std::mem::replace(&mut self.pin_refused, true),
            ("max-sessions", Some(value)) => {
                self.max_sessions.replace(number(name, value, 0)?).is_some()
            }
            ("pin-tries", Some(value)) => self.pin_tries.replace(number(name, value, 1)?).is_some(),
            ("latency", Some(value)) => self.latency.replace(span(value)?).is_some(),
            ("pin-flags", Some(value)) => {
                std::mem::replace(&mut self.pin_flags, pin_flags(value)?) != 0
            }
            _ => {
                let near = nearest(word, Self::WORDS.iter().copied());
                return Err(format!("token {word:?} is unknown: did you mean token {near}?"));
            }
        };
        if twice { Err(format!("token {name} is there twice")) } else { Ok(()) }
    }
}

fn pin_flags(value: &str) -> Result<sys::CK_FLAGS, String> {
    value.split(',').try_fold(0, |flags, word| {
        let flag = PIN_FLAGS.iter().find(|(name, _)| *name == word);
        flag.map(|(_, flag)| flags | flag).ok_or_else(|| {
            let names: Vec<_> = PIN_FLAGS.iter().map(|(name, _)| *name).collect();
            format!("no flag of a PIN is called {word:?}: there are {}", names.join(", "))
        })
    })
}

impl fmt::Display for TokenRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(lost) = self.lost {
            let word = if lost.until_initialize { "lost-until-initialize" } else { "lost" };
            writeln!(f, "token {word} return={}", lost.code)?;
        }
        let words = [
            (self.sessions_dropped, "sessions-dropped"),
            (self.logged_out, "logged-out"),
            (self.pin_refused, "pin-refused"),
        ];
        for (_, word) in words.iter().filter(|(set, _)| *set) {
            writeln!(f, "token {word}")?;
        }
        if let Some(most) = self.max_sessions {
            writeln!(f, "token max-sessions={most}")?;
        }
        if let Some(tries) = self.pin_tries {
            writeln!(f, "token pin-tries={tries}")?;
        }
        if self.pin_flags != 0 {
            let set = PIN_FLAGS.iter().filter(|(_, flag)| self.pin_flags & flag != 0);
            let names: Vec<_> = set.map(|(name, _)| *name).collect();
            writeln!(f, "token pin-flags={}", names.join(","))?;
        }
        self.latency.map_or(Ok(()), |latency| writeln!(f, "token latency={}", Span(latency)))
    }
}
