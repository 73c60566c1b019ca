//! Every key of a configuration: its name, what holds when it is not set, and what it means.
//!
//! `keys` knows the names from here, and the tables of `docs/configuration.md` are made of it
//! (`tests/reference/`): no key is known and not told, or told and not known. A new key is an
//! entry here and a line in `build`.

#![forbid(unsafe_code)]

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// As it is written: `scan-interval`.
    pub name: &'static str,
    /// What holds when it is not set.
    pub default: Unset,
    /// What it means, as Markdown for a cell of a table.
    pub meaning: &'static str,
}

/// What holds when a key is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// The same as with this value, which is TOML.
    Value(&'static str),
    /// What no value says, in words: `must be set`.
    Words(&'static str),
}

/// A section and its own keys.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// As it is written between the brackets.
    pub name: &'static str,
    /// In the order of the documentation.
    pub keys: &'static [Key],
}

/// Entries of a table: the meaning, then `"name" = VALUE;` or `"name": "words";`.
macro_rules! keys {
    ($($(#[doc = $line:literal])+ $name:literal $sign:tt $default:tt;)*) => {
        &[$($crate::config::reference::Key {
            name: $name,
            default: keys!(@default $sign $default),
            // Each line of a doc comment begins with a space.
            meaning: concat!($($line),+).trim_ascii(),
        }),*]
    };
    (@default = $value:tt) => {
        $crate::config::reference::Unset::Value(stringify!($value))
    };
    (@default : $words:tt) => {
        $crate::config::reference::Unset::Words($words)
    };
}

mod profile;
mod sections;

pub use self::profile::PROFILE;
pub use self::sections::SECTIONS;
