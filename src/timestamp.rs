#![forbid(unsafe_code)]
//! A moment by the clock on the wall. People read it; nothing that must not go wrong
//! depends on it.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Whole seconds since 1970, written as RFC 3339 in UTC: `2030-12-31T23:59:59Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The last second of the year 9999: RFC 3339 has no later one.
    const LAST: u64 = 253_402_300_799;

    /// What the clock shows. One that is before 1970 shows 1970.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::new(since.as_secs())
    }

    /// The moment so many seconds after the beginning of 1970.
    #[must_use]
    pub fn new(seconds: u64) -> Self {
        Self(seconds.min(Self::LAST))
    }

    /// The first moment of a day: `2030-12-31`. `None` if it is no day.
    #[must_use]
    pub fn of_day(day: &str) -> Option<Self> {
        format!("{day}T00:00:00Z").parse().ok()
    }

    /// Its seconds since 1970.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0
    }

    /// The time from `earlier` until this; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_secs(self.0);
        humantime::format_rfc3339_seconds(time).fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = humantime::TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = humantime::parse_rfc3339(text)?;
        Ok(Self::new(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_written_as_people_read_it() {
        assert_eq!(Timestamp::new(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp::of_day("2030-12-31").unwrap().to_string(), "2030-12-31T00:00:00Z");
        for no_day in ["", "2030-13-01", "2030-12-31T00:00:00Z", "today"] {
            assert_eq!(Timestamp::of_day(no_day), None, "{no_day}");
        }
    }

    #[test]
    fn a_clock_that_went_back_gives_no_negative_time() {
        assert_eq!(Timestamp::new(5).since(Timestamp::new(9)), Duration::ZERO);
        assert_eq!(Timestamp::new(9).since(Timestamp::new(5)), Duration::from_secs(4));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(seconds in 0..=Timestamp::LAST) {
            let time = Timestamp::new(seconds);
            prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        }

        #[test]
        fn no_number_and_no_text_panics(seconds: u64, text: String) {
            let _ = Timestamp::new(seconds).to_string();
            let _ = text.parse::<Timestamp>();
        }
    }
}
