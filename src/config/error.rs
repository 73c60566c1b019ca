//! What is wrong with a configuration, and where.

#![forbid(unsafe_code)]

use std::fmt;

/// Most problems that are told. Whoever has more gave us some other file.
const MOST: usize = 40;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// A file and line, an environment variable, or "command line".
    pub(super) place: String,
    /// The dotted key, such as `token.uri`; none when the file itself is at fault.
    pub(super) key: Option<String>,
    /// What is wrong, and what would be right.
    pub(super) what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: {key}: {}", self.place, self.what),
            None => write!(f, "{}: {}", self.place, self.what),
        }
    }
}

/// Why a configuration was refused: one line for each problem, with the place,
/// the key, what is wrong and what would be right; of very many only the first. It
/// never holds the value of a key that is about the PIN.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    pub(super) fn about(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(vec![Problem { place: place.into(), key: None, what: what.into() }])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().take(MOST).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        match self.problems.len().saturating_sub(MOST) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ConfigError {}
