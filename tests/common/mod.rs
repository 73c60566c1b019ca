//! What the integration tests share: throw-away tokens, the real daemon, a client.
//!
//! Each test has a directory of its own with a token, a config and a socket in it, and
//! leaves nothing running. `SOFTHSM2_CONF` is set for child processes only, since tests
//! may share a process.

#![allow(dead_code, reason = "every test binary compiles this module and uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a helper that fails is a failed test"
)]

pub(crate) mod audit;
pub(crate) mod client;
pub(crate) mod daemon;
pub(crate) mod etcd;
pub(crate) mod http;
pub(crate) mod keks;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod process;
pub(crate) mod token;
pub(crate) mod watch;
pub(crate) mod worker;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long anything may take on a loaded machine before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const TICK: Duration = Duration::from_millis(20);

/// Waits until `look` gives something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < end, "did not come within {PATIENCE:?}: {what}");
        tokio::time::sleep(TICK).await;
    }
}

/// The same without a runtime.
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "did not come within {PATIENCE:?}: {what}");
        std::thread::sleep(TICK);
    }
}

/// The names of an object's members.
pub(crate) fn names(value: &serde_json::Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The same, written out.
pub(crate) fn set<const N: usize>(names: [&str; N]) -> BTreeSet<&str> {
    names.into()
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that hex digits stand for; white space does not count.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
        .collect()
}

/// A seed that looks like one and is another one for each `salt`.
pub(crate) fn seed(salt: u32, len: usize) -> Vec<u8> {
    // A linear congruential generator is random enough to be told apart.
    let mut state = salt.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}
