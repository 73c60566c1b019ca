//! Values of keys: what they were written as, and how each kind is read.
//!
//! A reader is a function from a [`Value`] to what the key wants. Its error is
//! half a sentence that follows the key: "must be a string, not a number".

#![forbid(unsafe_code)]

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

/// The value of one key, as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A TOML string.
    Text(String),
    /// A TOML integer. Wider than the format's own, so that a number too large
    /// is refused by the key's own limits, in words that name them.
    Integer(i128),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array.
    List(Vec<Value>),
    /// A TOML table, in its order.
    Table(Vec<(String, Value)>),
    /// A kind that no key wants.
    Other(&'static str),
    /// From the environment or a flag: the key decides what it means.
    Words(String),
}

impl Value {
    pub(super) fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
                .map_or(Self::Other("a number too large"), Self::Integer),
            DeValue::Boolean(value) => Self::Boolean(*value),
            DeValue::Array(items) => {
                Self::List(items.iter().map(|item| Self::from_toml(item.get_ref())).collect())
            }
            DeValue::Float(_) => Self::Other("a number with a fraction"),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(pairs) => Self::Table(
                pairs
                    .iter()
                    .map(|(name, value)| {
                        (name.get_ref().to_string(), Self::from_toml(value.get_ref()))
                    })
                    .collect(),
            ),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Words(_) => "a string",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }

    /// The kind alone: a value of the wrong kind is not echoed, it may be a PIN.
    fn wrong_kind(&self, wanted: &str) -> String {
        format!("must be {wanted}, not {}", self.kind())
    }
}

/// A text for an error message: quoted, escaped and not too long.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 80;
    if text.chars().count() <= MOST {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(MOST).collect();
    format!("{start:?}...")
}

/// A string.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::Text(text) | Value::Words(text) => Ok(text.clone()),
        other => Err(other.wrong_kind("a string in quotes")),
    }
}

/// A string with no control characters, so that it can stand in a log line and
/// be handed to C code.
pub(super) fn plain_text(value: &Value) -> Result<String, String> {
    let text = text(value)?;
    if text.chars().any(char::is_control) {
        return Err("must have no control characters".into());
    }
    Ok(text)
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Boolean(value) => Ok(*value),
        Value::Words(word) => match word.trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(format!("must be true or false, not {}", quoted(other))),
        },
        other => Err(other.wrong_kind("true or false, without quotes")),
    }
}

/// A whole number in `range`; in the environment decimal, 0x... or 0o....
pub(super) fn number(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<u64, String> {
    move |value| {
        let number = match value {
            Value::Integer(number) => *number,
            Value::Words(word) => parse_number(word.trim())
                .ok_or_else(|| format!("must be a number, not {}", quoted(word)))?,
            other => return Err(other.wrong_kind("a number, without quotes")),
        };
        u64::try_from(number).ok().filter(|number| range.contains(number)).ok_or_else(|| {
            format!("must be from {} to {}, not {number}", range.start(), range.end())
        })
    }
}

fn parse_number(word: &str) -> Option<i128> {
    let (digits, radix) = match (word.strip_prefix("0x"), word.strip_prefix("0o")) {
        (Some(digits), _) => (digits, 16),
        (_, Some(digits)) => (digits, 8),
        _ => (word, 10),
    };
    i128::from_str_radix(digits, radix).ok()
}

/// As [`number`], for what is a count of something here.
pub(super) fn count(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<usize, String> {
    let read = number(range);
    move |value| usize::try_from(read(value)?).map_err(|error| error.to_string())
}

/// As [`number`], for what the system keeps in 32 bits.
pub(super) fn small_number(range: RangeInclusive<u32>) -> impl Fn(&Value) -> Result<u32, String> {
    let read = number(u64::from(*range.start())..=u64::from(*range.end()));
    move |value| u32::try_from(read(value)?).map_err(|error| error.to_string())
}

/// A list; in the environment its items stand between commas.
pub(super) fn list<T>(
    item: impl Fn(&Value) -> Result<T, String>,
) -> impl Fn(&Value) -> Result<Vec<T>, String> {
    let read = move |value: &Value| item(value).map_err(|what| format!("every item {what}"));
    move |value| match value {
        Value::List(items) => items.iter().map(&read).collect(),
        Value::Words(words) if words.trim().is_empty() => Ok(Vec::new()),
        Value::Words(words) => {
            words.split(',').map(|word| read(&Value::Words(word.trim().into()))).collect()
        }
        other => Err(other.wrong_kind("a list in brackets, such as [0]")),
    }
}

/// A length of time such as "10s" or "1m 30s", between two others.
pub(super) fn duration(
    least: Duration,
    most: Duration,
) -> impl Fn(&Value) -> Result<Duration, String> {
    move |value| {
        let text = match value {
            Value::Integer(number) => {
                return Err(format!("needs a unit and quotes, such as \"{number}s\""));
            }
            value => text(value)?,
        };
        let duration = humantime::parse_duration(text.trim()).map_err(|error| {
            format!(
                "{} is not a length of time ({error}); write one such as \"10s\" or \"500ms\"",
                quoted(&text)
            )
        })?;
        if duration < least || duration > most {
            return Err(format!(
                "must be from {} to {}, not {}",
                humantime::format_duration(least),
                humantime::format_duration(most),
                humantime::format_duration(duration)
            ));
        }
        Ok(duration)
    }
}

/// One of a few words.
pub(super) fn choice<T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let given = text(value)?;
        words.iter().find(|(word, _)| *word == given).map(|(_, meaning)| *meaning).ok_or_else(
            || {
                let known: Vec<String> =
                    words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                format!("must be one of {}, not {}", known.join(", "), quoted(&given))
            },
        )
    }
}

/// A path from the root: a daemon's working directory is nobody's choice.
pub(super) fn absolute_path(value: &Value) -> Result<PathBuf, String> {
    let text = plain_text(value)?;
    if !text.starts_with('/') {
        return Err(format!("must be an absolute path that starts with /, not {}", quoted(&text)));
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Value {
        Value::Words(text.into())
    }

    #[test]
    fn words_are_read_as_the_key_wants() {
        assert_eq!(boolean(&words("true")), Ok(true));
        assert_eq!(boolean(&words("yes")), Err("must be true or false, not \"yes\"".into()));
        assert_eq!(number(0..=u64::MAX)(&words("0x8000210A")), Ok(0x8000_210A));
        assert_eq!(number(0..=u64::MAX)(&words("0o17")), Ok(15));
        assert_eq!(number(1..=9)(&words("ten")), Err("must be a number, not \"ten\"".into()));
        assert_eq!(list(number(0..=9))(&words("1, 2")), Ok(vec![1, 2]));
        assert_eq!(list(number(0..=9))(&words("")), Ok(vec![]));
        let error = list(number(0..=9))(&words("1,x")).unwrap_err();
        assert_eq!(error, "every item must be a number, not \"x\"");
    }

    #[test]
    fn a_wrong_kind_is_named_and_not_echoed() {
        let number_value = Value::Integer(12_345_678);
        assert_eq!(text(&number_value), Err("must be a string in quotes, not a number".into()));
        let error = boolean(&Value::Text("true".into())).unwrap_err();
        assert_eq!(error, "must be true or false, without quotes, not a string");
        let error = number(0..=9)(&Value::Text("5".into())).unwrap_err();
        assert_eq!(error, "must be a number, without quotes, not a string");
        let error = list(boolean)(&Value::Boolean(true)).unwrap_err();
        assert_eq!(error, "must be a list in brackets, such as [0], not true or false");
    }

    #[test]
    fn limits_are_named() {
        assert_eq!(number(1..=16)(&Value::Integer(17)), Err("must be from 1 to 16, not 17".into()));
        assert_eq!(number(1..=16)(&Value::Integer(-1)), Err("must be from 1 to 16, not -1".into()));
        let read = duration(Duration::from_secs(1), Duration::from_secs(3600));
        assert_eq!(read(&Value::Text("90s".into())), Ok(Duration::from_secs(90)));
        let error = read(&Value::Text("2h".into())).unwrap_err();
        assert_eq!(error, "must be from 1s to 1h, not 2h");
        let error = read(&Value::Integer(10)).unwrap_err();
        assert_eq!(error, "needs a unit and quotes, such as \"10s\"");
        let error = read(&Value::Text("10".into())).unwrap_err();
        assert!(error.starts_with("\"10\" is not a length of time"), "{error}");
        assert!(error.ends_with("write one such as \"10s\" or \"500ms\""), "{error}");
    }

    #[test]
    fn a_long_value_is_cut_and_escaped() {
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
        assert!(quoted(&"ä".repeat(500)).len() < 200);
    }
}
