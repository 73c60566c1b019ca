#![forbid(unsafe_code)]
//! How long ago, in words that people compare with a rotation period.

use std::time::Duration;

use crate::timestamp::Timestamp;

const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// How long ago that was.
pub(super) fn age(since: Timestamp) -> String {
    in_words(Timestamp::now().since(since))
}

/// A time as long as the lives of KEKs: whole days from two days on.
pub(super) fn in_words(age: Duration) -> String {
    if age >= 2 * A_DAY {
        return format!("{} days", age.as_secs() / A_DAY.as_secs());
    }
    humantime::format_duration(age).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_in_days() {
        assert_eq!(in_words(Duration::from_secs(59)), "59s");
        assert_eq!(in_words(A_DAY), "1day");
        assert_eq!(in_words(90 * A_DAY + Duration::from_secs(3)), "90 days");
        assert_eq!(in_words(400 * A_DAY), "400 days");
    }
}
