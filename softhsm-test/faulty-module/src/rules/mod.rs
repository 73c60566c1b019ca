#![forbid(unsafe_code)]
//! The rule language. A [`Rules`] that exists is right; `parse.rs` says what is wrong with others.

mod code;
mod parse;
#[cfg(test)]
mod tests;
mod token;

use std::fmt;
use std::time::Duration;

pub(crate) use code::Code;
pub use parse::RuleError;
pub(crate) use token::TokenRules;

use crate::functions::Function;

/// What a rules file says.
///
/// Made with [`str::parse`]; [`fmt::Display`] gives text that means the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The rules for calls, in their order.
    pub(crate) calls: Vec<Rule>,
    /// What holds for the token as a whole.
    pub(crate) token: TokenRules,
}

impl Rules {
    /// How many rules for calls a file may have: each has its counters in the shared state.
    pub(crate) const MOST: usize = 256;
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.calls.iter().try_for_each(|rule| writeln!(f, "{rule}"))?;
        self.token.fmt(f)
    }
}

/// One line: which calls, when, and what then happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) functions: Vec<Selector>,
    pub(crate) when: When,
    pub(crate) faults: Faults,
}

impl Rule {
    pub(crate) fn is_for(&self, function: Function) -> bool {
        self.functions.iter().any(|selector| selector.covers(function))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, selector) in self.functions.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{selector}")?;
        }
        write!(f, "{}{}", self.when, self.faults)
    }
}

/// A part of the first word of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    All,
    Device,
    One(Function),
}

impl Selector {
    fn covers(self, function: Function) -> bool {
        match self {
            Self::All => !function.is_way_in(),
            Self::Device => function.asks_device(),
            Self::One(one) => one == function,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "*",
            Self::Device => "device",
            Self::One(function) => function.name(),
        })
    }
}

/// Which of the matching calls are struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct When {
    pub(crate) after: u32,
    pub(crate) every: u32,
    pub(crate) times: Option<u32>,
}

impl When {
    /// Whether the `number`th matching call is struck; they are counted from 1.
    pub(crate) fn strikes(self, number: u32) -> bool {
        let Some(number) = number.checked_sub(self.after).filter(|number| *number > 0) else {
            return false;
        };
        let every = self.every.max(1);
        number.is_multiple_of(every) && self.times.is_none_or(|times| number / every <= times)
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.after > 0 {
            write!(f, " after={}", self.after)?;
        }
        if self.every > 1 {
            write!(f, " every={}", self.every)?;
        }
        self.times.map_or(Ok(()), |times| write!(f, " times={times}"))
    }
}

/// What happens to a call, in the order in which it happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) corrupt: bool,
    pub(crate) truncate: Option<u32>,
    pub(crate) stray: bool,
    pub(crate) delay: Option<Duration>,
    pub(crate) hang: bool,
    pub(crate) sessions_dropped: bool,
    pub(crate) logged_out: bool,
    /// For how long the token is lost; `Duration::MAX` is as long as the rule stands.
    pub(crate) lost: Option<Duration>,
    pub(crate) end: Option<End>,
}

impl Faults {
    /// Whether the real call comes first.
    pub(crate) const fn come_after(&self) -> bool {
        self.need_output() || matches!(self.end, Some(End::AfterReturn(_)))
    }

    /// Whether only a call that has given something out can be struck.
    pub(crate) const fn need_output(&self) -> bool {
        self.corrupt || self.truncate.is_some()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.corrupt {
            f.write_str(" corrupt")?;
        }
        if let Some(bytes) = self.truncate {
            write!(f, " truncate={bytes}")?;
        }
        if self.stray {
            f.write_str(" stray")?;
        }
        if let Some(delay) = self.delay {
            write!(f, " delay={}", Span(delay))?;
        }
        if self.hang {
            f.write_str(" hang")?;
        }
        if self.sessions_dropped {
            f.write_str(" sessions-dropped")?;
        }
        if self.logged_out {
            f.write_str(" logged-out")?;
        }
        match self.lost {
            None => {}
            Some(Duration::MAX) => f.write_str(" lost")?,
            Some(span) => write!(f, " lost={}", Span(span))?,
        }
        match self.end {
            None => Ok(()),
            Some(End::Return(code)) => write!(f, " return={code}"),
            Some(End::AfterReturn(code)) => write!(f, " after-return={code}"),
            Some(End::Segv) => f.write_str(" segv"),
            Some(End::Abort) => f.write_str(" abort"),
            Some(End::Exit(status)) => write!(f, " exit={status}"),
        }
    }
}

/// How a call ends that does not end as the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Return(Code),
    AfterReturn(Code),
    Segv,
    Abort,
    Exit(u8),
}

/// A duration as one word.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&humantime::format_duration(self.0).to_string().replace(' ', ""))
    }
}

/// The name that was probably meant.
fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> &'a str {
    let distance = |name: &&str| {
        strsim::damerau_levenshtein(&word.to_ascii_lowercase(), &name.to_ascii_lowercase())
    };
    names.min_by_key(distance).unwrap_or_default()
}
