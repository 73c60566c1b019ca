#![forbid(unsafe_code)]
//! Which KEK? The keyring finds KEKs on the token, names them, decides which of them is
//! written with, and sends seeds and blobs to the right one.

mod decrypts;
mod kek;
mod lifecycle;
mod memory;
#[cfg(test)]
mod model;
mod record;
mod ring;
mod tell;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use self::decrypts::Decrypts;
pub use self::kek::{Epoch, Kek, KeyId, Policy, Refused, metrics_label};
pub use self::lifecycle::{Decision, Lifecycle, Rules, State};
pub use self::memory::Memory;
pub use self::record::{BadRecord, Known, Record, Reinstated, Sighting};
pub use self::ring::{Active, Ring, Sorted};
use crate::algorithm::Algorithm;
use crate::secret::Seed;
use crate::timestamp::Timestamp;
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
    /// What the token holds as its record is none, and there is no other to go by.
    #[error(
        "the record of the keyring on the token is not to be trusted: {0}. Compare `p11-kms key list` \
         with a node that is well; docs/rotation.md says how to replace the record"
    )]
    Record(#[from] BadRecord),
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
    /// The KEK it was wrapped under, and its name.
    pub active: Arc<Active>,
}

/// What the config says about KEKs. A daemon may be told anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// See [`Policy::allow_weak`].
    pub allow_weak: bool,
    /// See [`Policy::allow_imported`].
    pub allow_imported: bool,
    /// When what becomes active.
    pub rules: Rules,
}

/// The KEKs of one label on one token.
pub struct Keyring {
    token: Client,
    label: String,
    settings: Mutex<Settings>,
    ring: RwLock<Arc<Ring>>,
    /// An empty ring means something only after a look.
    looked: AtomicBool,
    /// When the last good look for an unknown key_id began; whoever looks for one holds
    /// it, the others wait.
    last_look: tokio::sync::Mutex<Option<Instant>>,
    /// Looks are made one after the other: each decides upon what the last one left.
    memory: tokio::sync::Mutex<Memory>,
    /// When the next KEK becomes active by itself.
    due: watch::Sender<Option<Instant>>,
    decrypts: Decrypts,
}

impl Keyring {
    /// An empty keyring; [`Self::look`] fills it.
    #[must_use]
    pub fn new(token: Client, label: String, settings: Settings, memory: Memory) -> Self {
        Self {
            token,
            label,
            settings: Mutex::new(settings),
            ring: RwLock::default(),
            looked: AtomicBool::new(false),
            last_look: tokio::sync::Mutex::new(None),
            memory: tokio::sync::Mutex::new(memory),
            due: watch::Sender::new(None),
            decrypts: Decrypts::default(),
        }
    }

    /// Takes what a config says that was read again.
    pub fn set(&self, settings: Settings) {
        *self.settings() = settings;
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a KEK that a look has shown is to become active: another look is due then.
    /// Tells it once.
    pub async fn due(&self) {
        let mut due = self.due.subscribe();
        loop {
            let next = *due.borrow_and_update();
            let time_has_come = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = time_has_come => break,
                // We hold the other end.
                _ = due.changed() => {}
            }
        }
        // If the look fails the scan goes on at its usual pace.
        self.due.send_replace(None);
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
    pub fn active(&self) -> Result<Arc<Active>, Error> {
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

    /// The name of what is or was written with last; `None` if nothing ever was.
    #[must_use]
    pub fn last_key_id(&self) -> Option<KeyId> {
        self.ring().record().active.as_ref().map(|active| active.key_id.clone())
    }

    /// Wraps a seed under the active KEK. When this returns, it is still the active one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn wrap(&self, seed: &Seed, time: Duration) -> Result<Wrapped, Error> {
        let end = Instant::now() + time;
        let left = || end.saturating_duration_since(Instant::now());
        // Who comes while the first worker is being started waits with us for it.
        let has_looked = || self.looked.load(Ordering::Relaxed);
        if let Err(error) = self.look_unless(has_looked, time).await {
            return Err(self.start_or(error));
        }
        let algorithm = Algorithm::for_len(seed.len());
        loop {
            let active = self.active()?;
            match self.token.wrap(&active.kek.fingerprint, algorithm, seed, left()).await {
                // Another one may have become active meanwhile, and Status names that: what it
                // names and what Encrypt gives must never differ (KMS v2).
                Ok(_) if self.active()?.key_id != active.key_id => {}
                Ok(blob) => return Ok(Wrapped { blob, algorithm, active }),
                Err(token::Error::Failed(failure)) if failure.class == Class::UnknownKek => {
                    // One look for all whom this hits; then Status tells it too.
                    if let Ok(_looking) = self.last_look.try_lock() {
                        timeout(left(), self.look())
                            .await
                            .map_err(|_| token::Error::Deadline)??;
                    }
                    let label = &active.kek.label;
                    let message = format!("the active KEK \"{label}\" is no longer on the token");
                    return Err(Error::NoActiveKek(message));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Finds the KEK that a key_id names, with a fresh look if it is not known:
    /// a neighbour may have written with a KEK that this node has not seen yet.
    ///
    /// # Errors
    /// [`Error::UnknownKeyId`] after that look.
    pub async fn find(&self, key_id: &str, time: Duration) -> Result<Arc<Kek>, Error> {
        if let Err(error) = self.look_unless(|| self.ring().get(key_id).is_some(), time).await {
            return Err(self.start_or(error));
        }
        let ring = self.ring();
        ring.get(key_id).cloned().ok_or_else(|| Error::UnknownKeyId(key_id.to_owned()))
    }

    /// Unwraps a blob under the KEK of that name, which [`Self::find`] gave.
    ///
    /// # Errors
    /// See [`Error`]. [`Error::UnknownKeyId`] if the KEK has just been deleted.
    pub async fn unwrap(
        &self,
        kek: &Kek,
        key_id: &str,
        algorithm: Algorithm,
        blob: &[u8],
        time: Duration,
    ) -> Result<Seed, Error> {
        let unwrapped = self.token.unwrap(&kek.fingerprint, algorithm, blob, time).await;
        if unwrapped.is_ok() {
            self.decrypts.saw(kek);
        }
        unwrapped.map_err(|error| match error {
            token::Error::Failed(failure) if failure.class == Class::UnknownKek => {
                Error::UnknownKeyId(key_id.to_owned())
            }
            other => other.into(),
        })
    }

    /// Until somebody has looked it is the start that is to be told of.
    fn start_or(&self, error: Error) -> Error {
        let starting = !self.looked.load(Ordering::Relaxed);
        self.active().err().filter(|_| starting).unwrap_or(error)
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

    /// Looks at the token, takes what is there, and decides which KEK is active.
    ///
    /// What follows is written down first. Where that fails the KEKs still decrypt, but what
    /// was active stays so.
    ///
    /// # Errors
    /// The token could not be asked. What was known stays known.
    pub async fn look(&self) -> Result<(), Error> {
        let mut memory = self.memory.lock().await;
        let found = self.token.find(SEARCH).await?;
        let Some(report) = self.token.report() else {
            return Err(token::Error::Unavailable("the token is starting".to_owned()).into());
        };
        let Settings { allow_weak, allow_imported, rules } = *self.settings();
        let policy = Policy { method: report.kw, allow_weak, allow_imported };
        memory.recall(&self.label, &report.token_serial, &found.keys);
        let noted = match memory.read_notes(found.notes, &self.label) {
            Ok(noted) => noted,
            Err(bad) => {
                let sorted = Sorted::new(found.keys, policy, &memory.record);
                let trouble = Some(Error::Record(bad).to_string());
                self.install(sorted, memory.record.clone(), trouble);
                return Ok(());
            }
        };
        let record = memory.with(&noted);
        let sorted = Sorted::new(found.keys, policy, &record);
        let time = Timestamp::now();
        let clocks = (Instant::now(), time);
        let decision =
            memory.lifecycle.decide(&sorted.keks, &record, noted.record(), rules, clocks);
        let Decision { mut record, due, trouble } = decision;
        for kek in &sorted.keks {
            let known = record.known(&kek.key_id, kek.generation);
            known.created.get_or_insert_with(|| kek.first_known(time));
        }
        self.decrypts.write_into(&mut record);
        let trouble = memory.keep(record, &self.label).await.err().or(trouble);
        self.due.send_replace(due);
        self.install(sorted, memory.record.clone(), trouble);
        memory.note(noted, &self.token, &self.label).await;
        Ok(())
    }

    /// From here on Status and Encrypt see it.
    fn install(&self, sorted: Sorted, record: Record, trouble: Option<String>) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(Ring::new(sorted, record, trouble, &ring));
        if ring.active().is_some() && next.active().is_none() {
            // Deleted, or out of the module's sight? A new worker knows.
            self.token.renew();
        }
        if next != *ring {
            tell::changes(&ring, &next, &self.label);
            *ring = next;
        }
        drop(ring);
        self.looked.store(true, Ordering::Relaxed);
    }

    /// Writes something about KEKs into the token's record, for all nodes to see.
    ///
    /// # Errors
    /// The token could not be asked, or stores no data objects.
    pub async fn note(&self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let mut memory = self.memory.lock().await;
        let found = self.token.find(SEARCH).await?;
        let noted = memory.read_notes(found.notes, &self.label)?;
        let mut record = noted.record().clone();
        change(&mut record);
        Ok(noted.replace_by(&record, &self.token, &self.label).await?)
    }

    /// Writes down what only memory knows yet, before the end.
    pub async fn settle(&self) {
        let mut memory = self.memory.lock().await;
        let mut record = memory.record.clone();
        self.decrypts.write_into(&mut record);
        if let Err(error) = memory.keep_all(record, &self.label).await {
            tracing::warn!("{error}");
        }
    }
}
