#![forbid(unsafe_code)]
//! One caller: it has seeds wrapped and unwrapped, as kube-apiserver does.

use rand::RngCore;

use crate::secret::Seed;

/// Length of a seed of kube-apiserver, in bytes.
const SEED_LEN: usize = 32;

/// A way to the token: our own workers, or a daemon's socket.
pub(super) trait Way: Clone + Send + Sync + 'static {
    /// A seed that was wrapped, with all that is needed to get it back.
    type Wrapped: Send + Sync;

    /// Wraps a seed; the error is for people.
    fn wrap(&self, seed: &Seed) -> impl Future<Output = Result<Self::Wrapped, String>> + Send;

    /// Gets it back.
    fn unwrap(&self, wrapped: &Self::Wrapped) -> impl Future<Output = Result<Seed, String>> + Send;
}

/// What a caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Has a new seed wrapped each time.
    Wrap,
    /// Has the seed of its last wrap unwrapped.
    Unwrap,
}

/// One caller, who has one call under way at a time.
pub(super) struct Caller<W: Way> {
    way: W,
    /// The last seed that it had wrapped. No two callers have the same, so that the front
    /// cannot answer two calls with one operation.
    held: Option<(Seed, W::Wrapped)>,
}

impl<W: Way> Caller<W> {
    /// So many of them.
    pub(super) fn some(way: &W, count: usize) -> Vec<Self> {
        (0..count).map(|_| Self { way: way.clone(), held: None }).collect()
    }

    /// One call.
    pub(super) async fn call(&mut self, turn: Turn) -> Result<(), String> {
        match turn {
            Turn::Wrap => {
                let seed = random_seed();
                let wrapped = self.way.wrap(&seed).await?;
                self.held = Some((seed, wrapped));
                Ok(())
            }
            Turn::Unwrap => {
                let Some((seed, wrapped)) = &self.held else {
                    return Err("there is nothing to unwrap: no wrap before it was good".to_owned());
                };
                let back = self.way.unwrap(wrapped).await?;
                if back.expose() == seed.expose() {
                    Ok(())
                } else {
                    Err("another seed came back than the one that was wrapped".to_owned())
                }
            }
        }
    }
}

fn random_seed() -> Seed {
    let mut bytes = vec![0; SEED_LEN];
    rand::rng().fill_bytes(&mut bytes);
    Seed::new(bytes)
}
