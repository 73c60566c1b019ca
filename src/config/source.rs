//! Where values come from: the file, the environment, the flags. The later ones
//! replace the earlier ones; each value keeps its place for the errors.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem};
use super::keys;
use super::reference::Key;
use super::value::Value;

/// Nobody writes a megabyte by hand: this is some other file.
const LARGEST: u64 = 1 << 20;

/// The place of a value from a flag.
const COMMAND_LINE: &str = "command line";

/// One value, and how to name it in an error.
#[derive(Clone, Debug)]
struct Setting {
    /// Where it was written.
    place: String,
    /// The key as it was written there: `token.method`, or `method` in a profile.
    key: String,
    value: Value,
}

/// All values of a configuration by their dotted key, or of a profile by their
/// key alone, and what was found wrong with them so far. Problems are
/// collected, so that one run tells them all.
#[derive(Debug)]
pub(super) struct Settings {
    file: String,
    values: BTreeMap<String, Setting>,
    problems: Vec<Problem>,
}

/// Reads a file that an administrator wrote.
pub(super) fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > LARGEST {
        return Err("is larger than a megabyte: this is some other file".into());
    }
    Ok(text)
}

/// A name that is not ours, for an error: a line without sense is no reason for a
/// long one, or for two.
fn shown(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_debug).collect()
}

/// Filling in.
impl Settings {
    /// No values yet; `file` is the place of what is missing.
    pub(super) fn new(file: impl Into<String>) -> Self {
        Self { file: file.into(), values: BTreeMap::new(), problems: Vec::new() }
    }

    /// Reads the text of a configuration, which has sections.
    pub(super) fn add_config(&mut self, text: &str) -> Result<(), ConfigError> {
        for (name, value) in self.parse(text)? {
            let place = self.line(text, name.span().start);
            let section = match keys::section(name.get_ref()) {
                Ok(section) => section,
                Err(what) => {
                    self.problem(place, name.get_ref(), what);
                    continue;
                }
            };
            let DeValue::Table(table) = value.get_ref() else {
                let what = format!("is a section: write [{section}] on a line of its own");
                self.problem(place, section, what);
                continue;
            };
            for (key, value) in table {
                let place = self.line(text, key.span().start);
                let value = Value::from_toml(value.get_ref());
                self.add(place, section, key.get_ref(), value);
            }
        }
        Ok(())
    }

    /// Reads the text of a profile, which has no sections.
    pub(super) fn add_profile(&mut self, text: &str) -> Result<(), ConfigError> {
        for (key, value) in self.parse(text)? {
            let place = self.line(text, key.span().start);
            self.add(place, "", key.get_ref(), Value::from_toml(value.get_ref()));
        }
        Ok(())
    }

    /// Reads the environment variables that are ours.
    pub(super) fn add_environment(&mut self, env: impl Iterator<Item = (OsString, OsString)>) {
        for (name, value) in env {
            if !name.as_encoded_bytes().starts_with(keys::PREFIX.as_bytes()) {
                continue;
            }
            let name = name.to_string_lossy();
            let place = shown(&name);
            match (keys::of_variable(&name), value.into_string()) {
                (Ok(None), _) => {}
                (Ok(Some((section, key))), Ok(value)) => {
                    self.add(place, section, key, Value::Words(value));
                }
                (Ok(Some((section, key))), Err(_)) => {
                    self.problem(place, &keys::dotted(section, key), "must be UTF-8".into());
                }
                (Err(what), _) => self.problems.push(Problem { place, key: None, what }),
            }
        }
    }

    /// Reads what the flags say, by dotted key.
    pub(super) fn add_overrides(&mut self, overrides: &[(String, String)]) {
        for (name, value) in overrides {
            let (section, key) = name.split_once('.').unwrap_or((name, ""));
            match keys::section(section) {
                Ok(section) if key.is_empty() => {
                    let what = format!("names a section: write {section}.KEY");
                    self.problem(COMMAND_LINE.into(), section, what);
                }
                Ok(section) => {
                    self.add(COMMAND_LINE.into(), section, key, Value::Words(value.clone()));
                }
                Err(what) => self.problem(COMMAND_LINE.into(), name, what),
            }
        }
    }

    /// What the section `[token]` says about the profile replaces what the
    /// profile says itself.
    pub(super) fn add_from_token(&mut self, config: &Self, keys: &[Key]) {
        for key in keys {
            if let Some(setting) = config.values.get(&keys::dotted("token", key.name)) {
                self.values.insert(key.name.into(), setting.clone());
            }
        }
    }

    fn add(&mut self, place: String, section: &str, key: &str, value: Value) {
        let name = keys::dotted(section, key);
        match keys::check(section, key) {
            Ok(()) => {
                self.replace_rival(&name, &value);
                self.values.insert(name.clone(), Setting { place, key: name, value });
            }
            Err(what) => self.problem(place, &name, what),
        }
    }

    /// A way to the PIN from a variable or a flag replaces the file's other way:
    /// who runs a command by hand has no systemd credential.
    fn replace_rival(&mut self, name: &str, value: &Value) {
        let rival = match name {
            "token.pin-file" => "token.pin-credential",
            "token.pin-credential" => "token.pin-file",
            _ => return,
        };
        let is_from_file = |setting: &Setting| !matches!(setting.value, Value::Words(_));
        if matches!(value, Value::Words(_)) && self.values.get(rival).is_some_and(is_from_file) {
            self.values.remove(rival);
        }
    }

    /// Text that is not TOML ends the reading: what else would be missed is only
    /// missing because of it.
    fn parse<'a>(&self, text: &'a str) -> Result<DeTable<'a>, ConfigError> {
        DeTable::parse(text).map(toml::Spanned::into_inner).map_err(|error| {
            // Not the error's own Display: it shows the line, which may hold a PIN.
            let place = error.span().map_or(self.file.clone(), |span| self.line(text, span.start));
            ConfigError::about(place, format!("not valid TOML: {}", error.message()))
        })
    }

    fn line(&self, text: &str, offset: usize) -> String {
        let line = 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        format!("{}, line {line}", self.file)
    }

    fn problem(&mut self, place: String, key: &str, what: String) {
        self.problems.push(Problem { place, key: Some(shown(key)), what });
    }
}

/// Reading out.
impl Settings {
    /// Whether the key was given a value at all.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Reads a key that has a value; a bad value is a problem and reads as none.
    pub(super) fn read<T>(
        &mut self,
        key: &str,
        reader: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        match reader(&self.values.get(key)?.value) {
            Ok(value) => Some(value),
            Err(what) => {
                self.refuse(key, what);
                None
            }
        }
    }

    /// Reads a key that has a default.
    pub(super) fn read_or<T>(
        &mut self,
        key: &str,
        default: T,
        reader: impl Fn(&Value) -> Result<T, String>,
    ) -> T {
        self.read(key, reader).unwrap_or(default)
    }

    /// Reads a key that must be there; `remedy` says what to set it to.
    pub(super) fn require<T>(
        &mut self,
        key: &str,
        remedy: &str,
        reader: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            self.refuse(key, format!("missing: {remedy}"));
        }
        self.read(key, reader)
    }

    /// Notes that something is wrong with a key, at the place of its value.
    pub(super) fn refuse(&mut self, key: &str, what: impl Into<String>) {
        let (place, key) = match self.values.get(key) {
            Some(setting) => (setting.place.clone(), setting.key.clone()),
            None => (self.file.clone(), key.to_string()),
        };
        self.problem(place, &key, what.into());
    }

    /// Takes over what is wrong elsewhere.
    pub(super) fn absorb(&mut self, other: Self) {
        self.problems.extend(other.problems);
    }

    /// The value, if nothing is wrong.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(ConfigError::new(self.problems)),
        }
    }

    /// Whether anything is wrong so far.
    pub(super) fn is_bad(&self) -> bool {
        !self.problems.is_empty()
    }
}
