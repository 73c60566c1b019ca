#![forbid(unsafe_code)]
//! Which KEK? The keyring finds KEKs on the token, names them, and sends seeds
//! and blobs to the right one.

mod kek;
mod ring;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, info, warn};

pub use self::kek::{Kek, KeyId, Policy, Refused, metrics_label};
pub use self::ring::Ring;
use crate::algorithm::Algorithm;
use crate::secret::Seed;
use crate::token::protocol::Class;
use crate::token::{self, Availability, Client};

/// The longest that a search on the token may take, whoever wants it: it is many calls, and
/// a worker that is over its time counts as hung.
const SEARCH: Duration = Duration::from_secs(10);

/// Unknown key_ids cause at most one look at the token in this time.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// Why the keyring gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no KEK to write with.
    #[error("{0}")]
    NoActiveKek(String),
    /// No KEK has that name, after a fresh look at the token.
    #[error(
        "no KEK on this token has the key_id {0}. Was it deleted, or is this another token? \
         `p11-kms key list` shows what is there"
    )]
    UnknownKeyId(String),
    /// The token's trouble.
    #[error(transparent)]
    Token(#[from] token::Error),
}

/// A wrapped seed and all that is needed to get it back.
pub struct Wrapped {
    /// RFC 3394 or RFC 5649 output and nothing else.
    pub blob: Vec<u8>,
    /// Which of the two.
    pub algorithm: Algorithm,
    /// The KEK it was wrapped under.
    pub kek: Arc<Kek>,
}

/// The KEKs of one label on one token.
pub struct Keyring {
    token: Client,
    label: String,
    allow_weak: AtomicBool,
    ring: RwLock<Arc<Ring>>,
    /// An empty ring means something only after a look.
    looked: AtomicBool,
    /// When the last good look for an unknown key_id began; whoever looks holds
    /// it, the others wait.
    last_look: tokio::sync::Mutex<Option<Instant>>,
}

impl Keyring {
    /// An empty keyring; [`Self::look`] fills it.
    #[must_use]
    pub fn new(token: Client, label: String, allow_weak: bool) -> Self {
        Self {
            token,
            label,
            allow_weak: AtomicBool::new(allow_weak),
            ring: RwLock::default(),
            looked: AtomicBool::new(false),
            last_look: tokio::sync::Mutex::new(None),
        }
    }

    /// Takes `allow-weak-kek` from a config that was read again.
    pub fn set_allow_weak(&self, allow: bool) {
        self.allow_weak.store(allow, Ordering::Relaxed);
    }

    /// What the last look showed.
    #[must_use]
    pub fn ring(&self) -> Arc<Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The KEK that is written with.
    ///
    /// # Errors
    /// [`Error::NoActiveKek`] with the reason and the remedy.
    pub fn active(&self) -> Result<Arc<Kek>, Error> {
        if !self.looked.load(Ordering::Relaxed) {
            let why = match self.token.availability() {
                Availability::Down(failure) => failure.message,
                _ => "the token is being started".to_owned(),
            };
            return Err(token::Error::Unavailable(why).into());
        }
        let ring = self.ring();
        ring.active().cloned().ok_or_else(|| Error::NoActiveKek(ring.why_none(&self.label)))
    }

    /// Wraps a seed under the active KEK.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn wrap(&self, seed: &Seed, time: Duration) -> Result<Wrapped, Error> {
        let end = Instant::now() + time;
        // Who comes while the first worker is being started waits with us for it.
        let has_looked = || self.looked.load(Ordering::Relaxed);
        if let Err(error) = self.look_unless(has_looked, time).await {
            // Until somebody has looked it is the start that is to be told of.
            return Err(self.active().err().unwrap_or(error));
        }
        let time = end.saturating_duration_since(Instant::now());
        let kek = self.active()?;
        let algorithm = Algorithm::for_len(seed.len());
        match self.token.wrap(&kek.fingerprint, algorithm, seed, time).await {
            Ok(blob) => Ok(Wrapped { blob, algorithm, kek }),
            Err(token::Error::Failed(failure)) if failure.class == Class::UnknownKek => {
                // One look for all whom this hits; then Status tells it too.
                if let Ok(_looking) = self.last_look.try_lock() {
                    let left = end.saturating_duration_since(Instant::now());
                    timeout(left, self.look()).await.map_err(|_| token::Error::Deadline)??;
                }
                let message = format!("the active KEK \"{}\" is no longer on the token", kek.label);
                Err(Error::NoActiveKek(message))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Finds the KEK that a key_id names, with a fresh look if it is not known:
    /// a neighbour may have written with a KEK that this node has not seen yet.
    ///
    /// # Errors
    /// [`Error::UnknownKeyId`] after that look.
    pub async fn find(&self, key_id: &str, time: Duration) -> Result<Arc<Kek>, Error> {
        if let Err(error) = self.look_unless(|| self.ring().get(key_id).is_some(), time).await {
            let starting = !self.looked.load(Ordering::Relaxed);
            return Err(self.active().err().filter(|_| starting).unwrap_or(error));
        }
        let ring = self.ring();
        ring.get(key_id).cloned().ok_or_else(|| Error::UnknownKeyId(key_id.to_owned()))
    }

    /// Unwraps a blob under that KEK.
    ///
    /// # Errors
    /// See [`Error`]. [`Error::UnknownKeyId`] if the KEK has just been deleted.
    pub async fn unwrap(
        &self,
        kek: &Kek,
        algorithm: Algorithm,
        blob: &[u8],
        time: Duration,
    ) -> Result<Seed, Error> {
        let unwrapped = self.token.unwrap(&kek.fingerprint, algorithm, blob, time).await;
        unwrapped.map_err(|error| match error {
            token::Error::Failed(failure) if failure.class == Class::UnknownKek => {
                Error::UnknownKeyId(kek.key_id.to_string())
            }
            other => other.into(),
        })
    }

    /// A look, unless what is looked for is `there`: one for all who wait, and at most one
    /// every [`LOOK_PAUSE`].
    async fn look_unless(&self, there: impl Fn() -> bool, time: Duration) -> Result<(), Error> {
        if there() {
            return Ok(());
        }
        let look = async {
            let asked = Instant::now();
            let mut last = self.last_look.lock().await;
            match *last {
                // Somebody looked while we waited for the lock.
                _ if there() => return Ok(()),
                Some(began) if began >= asked => return Ok(()),
                Some(began) => sleep_until(began + LOOK_PAUSE).await,
                None => {}
            }
            if there() {
                return Ok(());
            }
            let began = Instant::now();
            self.look_afresh().await?;
            // Only a look that worked tells the others that it is not there.
            *last = Some(began);
            Ok(())
        };
        timeout(time, look).await.unwrap_or_else(|_| Err(token::Error::Deadline.into()))
    }

    /// Looks at the token, and sees to it that keys made by others show.
    ///
    /// # Errors
    /// The token could not be asked. What was known stays known.
    pub async fn look_afresh(&self) -> Result<(), Error> {
        self.token.refresh(SEARCH).await?;
        self.look().await
    }

    /// Looks at the token and takes what is there.
    ///
    /// # Errors
    /// The token could not be asked. What was known stays known.
    pub async fn look(&self) -> Result<(), Error> {
        let found = self.token.find(SEARCH).await?;
        let Some(report) = self.token.report() else {
            return Err(token::Error::Unavailable("the token is starting".to_owned()).into());
        };
        let allow_weak = self.allow_weak.load(Ordering::Relaxed);
        let policy = Policy { method: report.kw, allow_weak };
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(ring.seen(found.keys, policy));
        if ring.active().is_some() && next.active().is_none() {
            // Deleted, or out of the module's sight? A new worker knows.
            self.token.renew();
        }
        if next != *ring {
            self.tell(&ring, &next);
            *ring = next;
        }
        drop(ring);
        self.looked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Logs what has changed, once.
    fn tell(&self, before: &Ring, now: &Ring) {
        for kek in now.keks() {
            if before.get(kek.key_id.as_str()).is_some() {
                continue;
            }
            info!(
                label = kek.label,
                generation = kek.generation.number(),
                key_id = kek.key_id.as_str(),
                "found a KEK"
            );
            if !kek.weaknesses.is_empty() {
                error!(
                    label = kek.label,
                    "THIS KEK IS WEAK and used only because token.allow-weak-kek is set: {}",
                    kek.weaknesses.join("; ")
                );
            }
        }
        for bad in now.refused() {
            if !before.refused().contains(bad) {
                error!("{bad}");
            }
        }
        let key_id = |ring: &Ring| ring.active().map(|kek| kek.key_id.clone());
        if key_id(before) != key_id(now) {
            match now.active() {
                Some(kek) => info!(
                    label = kek.label,
                    generation = kek.generation.number(),
                    key_id = kek.key_id.as_str(),
                    "this KEK is active now"
                ),
                None => warn!("no KEK is active: {}", now.why_none(&self.label)),
            }
        }
    }
}
