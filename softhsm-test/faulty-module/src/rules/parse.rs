#![forbid(unsafe_code)]
//! From text to rules, or to what is wrong with it.

use std::str::FromStr;
use std::time::Duration;

use super::{Code, End, Faults, Rule, Rules, Selector, TokenRules, When, nearest};
use crate::functions::Function;

/// The longest delay: longer is a slip of the pen, and `hang` says what is meant.
const LONGEST: Duration = Duration::from_hours(24);

const WORDS: &[&str] = &[
    "after=",
    "times=",
    "every=",
    "delay=",
    "hang",
    "return=",
    "after-return=",
    "segv",
    "abort",
    "exit=",
    "corrupt",
    "truncate=",
    "stray",
    "sessions-dropped",
    "logged-out",
    "lost",
];

/// Why a text is no rules file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct RuleError {
    line: usize,
    problem: String,
}

impl FromStr for Rules {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let mut rules = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.split_once('#').map_or(line, |(rule, _comment)| rule);
            let mut words = line.split_whitespace();
            let added = match words.next() {
                None => Ok(()),
                Some("token") => rules.token.add(words),
                Some(_) if rules.calls.len() == Self::MOST => {
                    Err(format!("too many rules: {} are the most", Self::MOST))
                }
                Some(first) => Rule::parse(first, words).map(|rule| rules.calls.push(rule)),
            };
            added.map_err(|problem| RuleError { line: index + 1, problem })?;
        }
        Ok(rules)
    }
}

impl Rule {
    fn parse<'a>(first: &str, words: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let functions = first.split(',').map(Selector::parse).collect::<Result<Vec<_>, _>>()?;
        let mut when = When { after: 0, every: 1, times: None };
        let mut faults = Faults::default();
        let mut seen = Vec::new();
        for word in words {
            let (name, value) = split(word);
            if seen.contains(&name) {
                return Err(format!("{name:?} is there twice"));
            }
            seen.push(name);
            match (name, value) {
                ("after", Some(value)) => when.after = number(name, value, 0)?,
                ("every", Some(value)) => when.every = number(name, value, 1)?,
                ("times", Some(value)) => when.times = Some(number(name, value, 1)?),
                ("delay", Some(value)) => faults.delay = Some(span(value)?),
                ("truncate", Some(value)) => faults.truncate = Some(number(name, value, 1)?),
                ("hang", None) => faults.hang = true,
                ("corrupt", None) => faults.corrupt = true,
                ("stray", None) => faults.stray = true,
                ("sessions-dropped", None) => faults.sessions_dropped = true,
                ("logged-out", None) => faults.logged_out = true,
                ("lost", None) => faults.lost = Some(Duration::MAX),
                ("lost", Some(value)) => faults.lost = Some(span(value)?),
                _ => {
                    let end = End::parse(name, value).unwrap_or_else(|| Err(unknown(word)))?;
                    if faults.end.replace(end).is_some() {
                        return Err("a call can end in one way only: of return, after-return, \
                                    segv, abort and exit, name one"
                            .to_owned());
                    }
                }
            }
        }
        let rule = Self { functions, when, faults };
        rule.check()?;
        Ok(rule)
    }

    /// What no single word can tell.
    fn check(&self) -> Result<(), String> {
        if self.faults == Faults::default() {
            return Err("it does not say what to do: add one of delay=50ms, hang, \
                        return=CKR_DEVICE_ERROR, after-return=, segv, abort, exit=, corrupt, \
                        truncate=, stray, sessions-dropped, logged-out, lost"
                .to_owned());
        }
        if !self.faults.need_output() {
            return Ok(());
        }
        if matches!(self.faults.end, Some(end) if !matches!(end, End::AfterReturn(_))) {
            return Err("corrupt and truncate change what the real call gave out: no return, \
                        segv, abort or exit beside them"
                .to_owned());
        }
        let fits = |function: Function| {
            if self.faults.truncate.is_some() {
                function.gives_length()
            } else {
                function.gives_bytes()
            }
        };
        let all = |selector: &Selector| matches!(selector, Selector::One(one) if fits(*one));
        if self.functions.iter().all(all) {
            return Ok(());
        }
        let names: Vec<_> =
            Function::ALL.iter().filter(|one| fits(**one)).map(|one| one.name()).collect();
        let word = if self.faults.truncate.is_some() { "truncate" } else { "corrupt" };
        Err(format!("{word} is for functions that give out bytes: {}", names.join(", ")))
    }
}

impl Selector {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "*" => return Ok(Self::All),
            "device" => return Ok(Self::Device),
            _ => {}
        }
        if Function::named(text).is_some_and(Function::is_way_in) {
            return Err(format!("{text} cannot be struck: a module without it is none"));
        }
        Function::named(text).map(Self::One).ok_or_else(|| {
            let names = Function::ALL.iter().map(|function| function.name());
            let near = nearest(text, names.chain(["*", "device", "token"]));
            format!("no function is called {text:?}: did you mean {near}?")
        })
    }
}

impl End {
    fn parse(name: &str, value: Option<&str>) -> Option<Result<Self, String>> {
        Some(match (name, value) {
            ("segv", None) => Ok(Self::Segv),
            ("abort", None) => Ok(Self::Abort),
            ("return", Some(value)) => Code::parse(value).map(Self::Return),
            ("after-return", Some(value)) => Code::parse(value).map(Self::AfterReturn),
            ("exit", Some(value)) => value
                .parse()
                .map(Self::Exit)
                .map_err(|_| format!("exit={value} is no exit code: write one from 0 to 255")),
            _ => return None,
        })
    }
}

impl TokenRules {
    fn add<'a>(&mut self, words: impl Iterator<Item = &'a str>) -> Result<(), String> {
        let mut words = words.peekable();
        if words.peek().is_none() {
            return Err(format!("token what? One of: {}", Self::WORDS.join(", ")));
        }
        while let Some(word) = words.next() {
            let code = if word.starts_with("lost") {
                words.next_if(|next| next.starts_with("return="))
            } else {
                None
            };
            let code = match code.map(split) {
                Some((_, Some(code))) => Some(Code::parse(code)?),
                _ => None,
            };
            self.add_word(word, code)?;
        }
        Ok(())
    }
}

/// The parts of `name=value`.
pub(super) fn split(word: &str) -> (&str, Option<&str>) {
    match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    }
}

pub(super) fn number(name: &str, value: &str, least: u32) -> Result<u32, String> {
    let number = value.parse().ok().filter(|number| *number >= least);
    number.ok_or_else(|| format!("{name}={value}: write a number from {least} on"))
}

pub(super) fn span(value: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(value).ok().filter(|span| *span <= LONGEST);
    span.ok_or_else(|| format!("{value:?} is no time of at most a day: write it like 50ms or 2s"))
}

fn unknown(word: &str) -> String {
    let (name, value) = split(word);
    let Some(known) = WORDS.iter().find(|known| known.trim_end_matches('=') == name) else {
        let near = nearest(word, WORDS.iter().copied());
        return format!("what is {word:?}? Did you mean {near}?");
    };
    match value {
        Some(_) => format!("{known} takes no value"),
        None => format!("{known} needs a value"),
    }
}
