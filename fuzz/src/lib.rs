//! What several targets have in common.

use p11_kms::config::ConfigError;
use sha2::{Digest, Sha256};

/// Stands for a PIN, put where none may be.
pub const SECRET: &str = "Zq7Zq7Zq7";

/// Longest line of a refusal, in bytes.
const LONGEST_LINE: usize = 1000;

/// Most lines of a refusal: more than that nobody reads.
const MOST_LINES: usize = 50;

/// Every line names its place, one of `places`, and none is endless.
pub fn check_refusal(error: &ConfigError, places: &[&str]) {
    let error = error.to_string();
    assert!(!error.is_empty());
    assert!(error.lines().count() <= MOST_LINES, "{} lines", error.lines().count());
    for line in error.lines().filter(|line| !line.starts_with("and ")) {
        assert!(line.len() <= LONGEST_LINE, "a line of {} bytes: {line}", line.len());
        assert!(!line.contains(char::is_control), "{line:?}");
        let place = places.iter().find_map(|place| line.strip_prefix(place));
        assert!(place.is_some_and(|rest| rest.contains(": ")), "names no place: {line}");
    }
}

/// The text with a PIN at its end. None if the text itself holds the word that stands for it.
pub fn with_pin(text: &str) -> Option<String> {
    (!text.contains(SECRET)).then(|| format!("{text}\npin = \"{SECRET}\"\n"))
}

/// SHA-256 in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
