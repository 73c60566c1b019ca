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

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use self::decrypts::Decrypts;
pub use self::kek::{Epoch, Kek, KeyId, Policy, Refused, metrics_label};
pub use self::lifecycle::{Decision, Lifecycle, Rules, State};
use self::memory::Considered;
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

/// How long the token may take to write a note.
const WRITE: Duration = Duration::from_secs(10);

/// How long the disk may take at the end.
const SETTLE: Duration = Duration::from_secs(2);

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
    /// Nobody knows whether there is a record, and there is no other to go by.
    #[error(
        "the token would not be searched for the record of the keyring. If it stores no data \
         objects, set token.data-objects = false"
    )]
    NotesHidden,
    /// The token's trouble.
    #[error(transparent)]
    Token(#[from] token::Error),
}

/// What a look is for.
enum Wanted {
    /// The first one.
    AnyLook,
    /// The KEK of that name.
    KeyId(String),
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
    /// The token's record should say more than it does.
    note_wanted: Notify,
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
            note_wanted: Notify::new(),
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
    pub async fn wrap(self: &Arc<Self>, seed: &Seed, time: Duration) -> Result<Wrapped, Error> {
        let end = Instant::now() + time;
        let left = || end.saturating_duration_since(Instant::now());
        // Who comes while the first worker is being started waits with us for it.
        if let Err(error) = self.look_unless_there(Wanted::AnyLook, time).await {
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
    pub async fn find(self: &Arc<Self>, key_id: &str, time: Duration) -> Result<Arc<Kek>, Error> {
        if let Some(kek) = self.ring().get(key_id) {
            return Ok(kek.clone());
        }
        let wanted = Wanted::KeyId(key_id.to_owned());
        let looked = self.look_unless_there(wanted, time).await;
        // It may be there although somebody still writes down what else follows.
        match (self.ring().get(key_id), looked) {
            (Some(kek), _) => Ok(kek.clone()),
            (None, Ok(())) => Err(Error::UnknownKeyId(key_id.to_owned())),
            (None, Err(error)) => Err(self.start_or(error)),
        }
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

    /// How many good Decrypts this node has done with a KEK since its start, and when the last one
    /// was.
    #[must_use]
    pub fn decrypts(&self, kek: &Kek) -> (u64, Option<Timestamp>) {
        self.decrypts.of(kek)
    }

    /// Until somebody has looked it is the start that is to be told of.
    fn start_or(&self, error: Error) -> Error {
        let starting = !self.looked.load(Ordering::Relaxed);
        self.active().err().filter(|_| starting).unwrap_or(error)
    }

    /// A look, unless what is wanted is there: one for all who wait, and at most one every
    /// [`LOOK_PAUSE`]. It goes on when its caller has gone, for those who come after him.
    async fn look_unless_there(
        self: &Arc<Self>,
        wanted: Wanted,
        time: Duration,
    ) -> Result<(), Error> {
        if self.is_there(&wanted) {
            return Ok(());
        }
        let keyring = self.clone();
        let look = tokio::spawn(async move { keyring.look_for(&wanted).await });
        match timeout(time, look).await {
            Ok(Ok(looked)) => looked,
            Ok(Err(_)) => Err(token::Error::Dropped.into()),
            Err(_) => Err(token::Error::Deadline.into()),
        }
    }

    fn is_there(&self, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::AnyLook => self.looked.load(Ordering::Relaxed),
            Wanted::KeyId(key_id) => self.ring().get(key_id).is_some(),
        }
    }

    async fn look_for(&self, wanted: &Wanted) -> Result<(), Error> {
        let asked = Instant::now();
        let mut last = self.last_look.lock().await;
        match *last {
            // Somebody looked while we waited for the lock.
            _ if self.is_there(wanted) => return Ok(()),
            Some(began) if began >= asked => return Ok(()),
            Some(began) => sleep_until(began + LOOK_PAUSE).await,
            None => {}
        }
        if self.is_there(wanted) {
            return Ok(());
        }
        let began = Instant::now();
        self.look_afresh().await?;
        // Only a look that worked tells the others that it is not there.
        *last = Some(began);
        Ok(())
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
        let clocks = (Instant::now(), Timestamp::now());
        let Considered { sorted, record, due, mut trouble } =
            memory.consider(found, &self.label, *self.settings(), clocks);
        if let Some(mut record) = record {
            self.show_new(&sorted);
            self.decrypts.write_into(&mut record);
            trouble = memory.keep(record, &self.label).await.err().or(trouble);
        }
        self.due.send_replace(due);
        self.install(sorted, memory.record.clone(), trouble);
        if memory.wanted_note(&self.label).is_some() {
            self.note_wanted.notify_one();
        }
        Ok(())
    }

    /// KEKs that are new decrypt at once, however long it takes to write something down. What is
    /// active stays so.
    fn show_new(&self, sorted: &Sorted) {
        let ring = self.ring();
        if self.looked.load(Ordering::Relaxed) && sorted.keks != ring.keks() {
            let trouble = ring.trouble().map(str::to_owned);
            self.install(sorted.clone(), ring.record().clone(), trouble);
        }
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
        let noted = memory.read_notes(&found.token_serial, found.notes, &self.label)?;
        let mut record = noted.record().clone();
        change(&mut record);
        Ok(self.token.write_note(&noted.replaced_by(&record, &self.label), WRITE).await?)
    }

    /// Waits until the token's record should say more than it does, then sees to it. It may fail:
    /// it is the second copy.
    pub async fn tell_token(&self) {
        self.note_wanted.notified().await;
        // Nobody waits meanwhile: a look may be made, and a later note says more than this one.
        let Some(note) = self.memory.lock().await.wanted_note(&self.label) else { return };
        let outcome = self.token.write_note(&note, WRITE).await;
        self.memory.lock().await.note_was(note, outcome);
    }

    /// Writes down what only memory knows yet, before the end.
    pub async fn settle(&self) {
        // A look that hangs must not hold up the end.
        let Ok(mut memory) = self.memory.try_lock() else { return };
        let mut record = memory.record.clone();
        self.decrypts.write_into(&mut record);
        let kept = timeout(SETTLE, memory.keep_all(record, &self.label)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!("{error}");
        }
    }
}
