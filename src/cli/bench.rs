#![forbid(unsafe_code)]
//! Flags of `bench`.

use std::time::Duration;

use clap::ValueEnum;
use clap::builder::RangedU64ValueParser;

use crate::config::Endpoint;

/// What is measured, and for how long.
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// One part alone [default: all of them; the socket's if a daemon answers, and the storm through
    /// it only with --storm or --endpoint].
    #[arg(long, value_name = "PART")]
    pub only: Option<BenchPart>,
    /// How long each measurement takes, 0.1 to 60.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub seconds: Duration,
    /// Try 1, 2, 4 and so on up to N sessions (or workers, where the profile has several of one
    /// session), 1 to 64 [default: twice what the configuration has].
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub max_sessions: Option<usize>,
    /// How many Decrypts come at once in the cold-start storm, 1 to 100000 [default: 5000].
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub storm: Option<usize>,
    /// The daemon's socket [default: server.endpoint of the configuration].
    #[arg(long, value_name = "unix:///PATH")]
    pub endpoint: Option<Endpoint>,
}

impl Bench {
    /// As many objects as a large cluster reads at the start of a kube-apiserver.
    const STORM: usize = 5000;

    /// How many Decrypts come at once in the storm.
    #[must_use]
    pub fn storm(&self) -> usize {
        self.storm.unwrap_or(Self::STORM)
    }

    /// Was a storm asked for by name? Without that none goes through a daemon that others use.
    #[must_use]
    pub fn wants_storm(&self) -> bool {
        self.only == Some(BenchPart::Storm) || self.storm.is_some() || self.endpoint.is_some()
    }
}

/// The parts of `bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchPart {
    /// The token alone, through workers of our own: which number of sessions fits it.
    Token,
    /// Encrypt and Decrypt through the socket of a running daemon.
    Socket,
    /// As many Decrypts at once as a starting kube-apiserver sends.
    Storm,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds, such as 2 or 0.5")?;
    if (0.1..=60.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must be from 0.1 to 60".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_a_range_and_need_no_unit() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("60"), Ok(Duration::from_secs(60)));
        for bad in ["", "0", "0.09", "60.1", "-1", "nan", "inf", "2s", "1e300"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
