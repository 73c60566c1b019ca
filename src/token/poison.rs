#![forbid(unsafe_code)]
//! Blobs that the module does not survive. An apiserver asks for the same one again and again,
//! and each time would cost all others their workers.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::merge::Key;

/// How long such a blob is left alone. As soon as that it may be well again: the module may have
/// crashed for want of its device.
const REST: Duration = Duration::from_secs(5);

/// How many are remembered: the latest.
const MOST: usize = 64;

/// The blobs that ended workers, and when each of them did so last.
#[derive(Default)]
pub(super) struct Poison(VecDeque<(Key, Instant)>);

impl Poison {
    /// The module crashed on that blob and nothing else.
    pub(super) fn add(&mut self, key: &Key) {
        warn!("the module crashes on one blob: it is not unwrapped again for some seconds");
        self.0.retain(|(known, _)| known != key);
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back((key.clone(), Instant::now()));
    }

    /// Is it left alone just now?
    pub(super) fn refuses(&mut self, key: &Key) -> bool {
        self.0.retain(|(_, since)| since.elapsed() < REST);
        self.0.iter().any(|(known, _)| known == key)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::advance;

    use super::super::frame::Operation;
    use super::super::protocol::Fingerprint;
    use super::*;
    use crate::algorithm::Algorithm;

    fn key(blob: &[u8]) -> Key {
        (Operation::Unwrap(Algorithm::Kw), Fingerprint::NONE, Arc::from(blob))
    }

    #[tokio::test(start_paused = true)]
    async fn a_blob_is_left_alone_for_a_while() {
        let mut poison = Poison::default();
        poison.add(&key(b"bad"));
        assert!(poison.refuses(&key(b"bad")));
        assert!(!poison.refuses(&key(b"good")));
        advance(REST).await;
        assert!(!poison.refuses(&key(b"bad")));
        assert!(poison.0.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_latest_are_remembered() {
        let mut poison = Poison::default();
        for _ in 0..2 {
            for number in 0..=u8::try_from(MOST).unwrap() {
                poison.add(&key(&[number]));
            }
        }
        assert_eq!(poison.0.len(), MOST);
        assert!(!poison.refuses(&key(&[0])));
        assert!(poison.refuses(&key(&[1])));
    }
}
