#![forbid(unsafe_code)]
//! The token, as the front process sees it: a client with deadlines, and the
//! supervisor of the workers behind it.
//!
//! The PKCS#11 module is not in this process. See [`crate::worker`].

mod backoff;
mod blame;
mod error;
pub mod frame;
mod job;
mod lane;
mod latch;
mod load;
mod measure;
mod merge;
mod pin;
mod poison;
mod pool;
mod process;
pub mod protocol;
mod supervisor;

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

pub use self::error::Error;
use self::frame::{MAX_PAYLOAD, Operation};
use self::job::{Answer, Askers, Job, Receiver};
pub use self::load::{Availability, Load};
use self::merge::{Joined, Merger};
pub use self::pin::{PinEvent, Tell};
use self::pool::Pool;
use self::protocol::{
    Class, Failure, Fingerprint, Found, FoundKey, Import, Inspection, NewNote, Report, Setup,
};
use self::supervisor::Supervisor;
use crate::algorithm::Algorithm;
use crate::secret::Seed;

/// How many jobs may wait, and how many workers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Worker processes.
    pub workers: usize,
    /// Jobs that may wait for a session.
    pub queue_length: usize,
}

/// The way to the token. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pool: Arc<Pool>,
    unwraps: Merger,
    reports: watch::Receiver<Option<Arc<Report>>>,
    /// Weak: the workers end with [`Workers`], however many clients there are.
    setup: Weak<watch::Sender<Arc<Setup>>>,
}

/// Owns the workers. They end when it does.
pub struct Workers {
    pool: Arc<Pool>,
    setup: Arc<watch::Sender<Arc<Setup>>>,
    slots: JoinSet<()>,
    count: usize,
}

/// Starts the workers. Comes back at once: they log in meanwhile.
///
/// Must be called within a tokio runtime.
#[must_use]
pub fn start(setup: Setup, capacity: Capacity) -> (Client, Workers) {
    start_telling(setup, capacity, Arc::new(|_| {}))
}

/// The same, and `tell` hears of each login. It must not wait.
///
/// Must be called within a tokio runtime.
#[must_use]
pub fn start_telling(setup: Setup, capacity: Capacity, tell: Tell) -> (Client, Workers) {
    let count = capacity.workers;
    let pool = Arc::new(Pool::new(capacity.queue_length));
    let (setup, setups) = watch::channel(of_so_many(count, setup));
    let (reporter, reports) = watch::channel(None);
    let supervisor = Arc::new(Supervisor::new(pool.clone(), setups, reporter, tell));
    let mut slots = JoinSet::new();
    for slot in 0..count {
        slots.spawn(supervisor.clone().tend(slot));
    }
    let setup = Arc::new(setup);
    let client = Client {
        pool: pool.clone(),
        unwraps: Merger::default(),
        reports,
        setup: Arc::downgrade(&setup),
    };
    (client, Workers { pool, setup, slots, count })
}

/// A worker must know whether others are beside it, who try the same PIN. So it is told how many
/// there are, whatever a config says that was read later.
fn of_so_many(workers: usize, mut setup: Setup) -> Arc<Setup> {
    setup.profile.workers = workers;
    Arc::new(setup)
}

impl Workers {
    /// Replaces every worker by one with this setup, make before break; their number stays. A
    /// latched PIN is tried again: the operator asked for it.
    pub fn reconfigure(&self, setup: Setup) {
        self.setup.send_replace(of_so_many(self.count, setup));
    }

    /// Lets every worker finish what it has and log out; at most that long.
    pub async fn stop(mut self, time: Duration) {
        self.pool.close();
        drop(self.setup);
        // What is left after that is killed when the slots are dropped.
        let _ = timeout(time, async { while self.slots.join_next().await.is_some() {} }).await;
    }
}

impl Client {
    /// Wraps a seed under a KEK.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn wrap(
        &self,
        kek: &Fingerprint,
        algorithm: Algorithm,
        seed: &Seed,
        time: Duration,
    ) -> Result<Vec<u8>, Error> {
        let mut blob = self.run(Operation::Wrap(algorithm), kek, seed.expose(), time).await?;
        Ok(std::mem::take(&mut *blob))
    }

    /// Unwraps a blob under a KEK. Equal calls at the same time cost the token one
    /// operation.
    ///
    /// # Errors
    /// See [`Error`]. A damaged or foreign blob is [`Class::BadBlob`].
    pub async fn unwrap(
        &self,
        kek: &Fingerprint,
        algorithm: Algorithm,
        blob: &[u8],
        time: Duration,
    ) -> Result<Seed, Error> {
        let operation = Operation::Unwrap(algorithm);
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let outcome = match self.unwraps.join(operation, kek, blob) {
                Joined::First(answer, merged) => {
                    let job = Job::new(operation, kek, blob, left, Askers::Many(merged));
                    self.pool.submit(job)?;
                    wait(answer, left).await
                }
                Joined::Later(answer) => match wait(answer, left).await {
                    // The job had the deadline of somebody who came before us, and went with it.
                    Err(Error::Deadline | Error::Dropped) if Instant::now() < end => continue,
                    outcome => outcome,
                },
            };
            return outcome.map(|mut seed| Seed::new(std::mem::take(&mut *seed)));
        }
    }

    /// Lists the keys of the keyring's label, good and bad, and what is noted beside them.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn find(&self, time: Duration) -> Result<Found, Error> {
        parse(&self.run(Operation::Find, &Fingerprint::NONE, &[], time).await?)
    }

    /// Makes sure that keys made by others can be seen. On most tokens they always
    /// can; on some only a module that was initialised after them shows them, so
    /// there the worker is replaced.
    ///
    /// # Errors
    /// No new worker within `time`.
    pub async fn refresh(&self, time: Duration) -> Result<(), Error> {
        let mut restarts = self.restarts();
        if !self.renew_if(|setup| setup.profile.new_keys_need_initialize) {
            return Ok(());
        }
        timeout(time, restarts.next()).await.map_err(|_| Error::Deadline)
    }

    /// Asks for new workers, make before break, and does not wait for them. For a
    /// token whose keys have gone: a module may show nothing for ever after its
    /// token was away for a moment, and answer every call all the same.
    pub fn renew(&self) {
        self.renew_if(|_| true);
    }

    fn renew_if(&self, wanted: impl FnOnce(&Setup) -> bool) -> bool {
        let Some(setup) = self.setup.upgrade() else { return false };
        let current = setup.borrow().clone();
        let renew = wanted(&current);
        if renew {
            setup.send_replace(current);
        }
        renew
    }

    /// Makes the KEK of that label on the token.
    ///
    /// # Errors
    /// See [`Error`]. It is run at most once: after [`Error::Unavailable`] or
    /// [`Error::Deadline`] list the keys before you try again.
    pub async fn generate(&self, label: &str, time: Duration) -> Result<FoundKey, Error> {
        let payload = label.as_bytes();
        parse(&self.run(Operation::Generate, &Fingerprint::NONE, payload, time).await?)
    }

    /// Brings a KEK that was made elsewhere onto the token. `file` is what the import says
    /// that it is.
    ///
    /// # Errors
    /// See [`Error`]; what the token or the file has against it is [`Class::Refused`], and
    /// then no key was left there. It is run at most once, as [`Self::generate`] is.
    pub async fn import(
        &self,
        import: &Import,
        file: &[u8],
        time: Duration,
    ) -> Result<FoundKey, Error> {
        let payload = import.encode(file).map_err(|error| refused(error.to_string()))?;
        parse(&self.run(Operation::Import, &Fingerprint::NONE, &payload, time).await?)
    }

    /// Destroys the KEK of that label, and its clones under the same label. Another key of
    /// the label, and the same KEK under another label, stay.
    ///
    /// # Errors
    /// See [`Error`]. [`Class::UnknownKek`]: the token has no such KEK. It is run at most once:
    /// after [`Error::Unavailable`] or [`Error::Deadline`] nobody knows whether it is gone.
    /// To call it again does no harm; [`Class::UnknownKek`] then says that it was done.
    pub async fn destroy(
        &self,
        kek: &Fingerprint,
        label: &str,
        time: Duration,
    ) -> Result<(), Error> {
        parse(&self.run(Operation::Destroy, kek, label.as_bytes(), time).await?)
    }

    /// Keeps a text on the token, then destroys the notes that it replaces. After a failure both may be there, or several texts
    /// of several writers: who reads them joins them.
    ///
    /// # Errors
    /// See [`Error`]. [`Class::Refused`]: this token stores no data objects, or not this one.
    pub async fn write_note(&self, note: &NewNote, time: Duration) -> Result<(), Error> {
        let payload = serde_json::to_vec(note).map_err(|error| refused(error.to_string()))?;
        parse(&self.run(Operation::WriteNote, &Fingerprint::NONE, &payload, time).await?)
    }

    /// Looks closely at the token and its KEKs, and tries a key that is known.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn inspect(&self, time: Duration) -> Result<Inspection, Error> {
        parse(&self.run(Operation::Inspect, &Fingerprint::NONE, &[], time).await?)
    }

    /// Is there a token to ask? Answered from memory.
    #[must_use]
    pub fn availability(&self) -> Availability {
        self.pool.availability()
    }

    /// How much there is to do, and who does it.
    #[must_use]
    pub fn load(&self) -> Load {
        self.pool.load()
    }

    /// The name of the profile that the workers are told; `None` once they end.
    #[must_use]
    pub fn profile(&self) -> Option<String> {
        self.setup.upgrade().map(|setup| setup.borrow().profile.name.clone())
    }

    /// Why a worker could not be started, since one could. Others may be at work.
    #[must_use]
    pub fn failed_start(&self) -> Option<Failure> {
        self.pool.failed_start()
    }

    /// What the worker that started last found out.
    #[must_use]
    pub fn report(&self) -> Option<Arc<Report>> {
        self.reports.borrow().clone()
    }

    /// Tells of every worker that logs in from now on.
    #[must_use]
    pub fn restarts(&self) -> Restarts {
        let mut reports = self.reports.clone();
        reports.mark_unchanged();
        Restarts(reports)
    }

    /// Since when at least one session has been answering without a break.
    #[must_use]
    pub fn up_since(&self) -> Option<Instant> {
        self.pool.up_since()
    }

    /// Waits until a worker is ready, or the first start has failed.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn ready(&self) -> Result<Arc<Report>, Failure> {
        let mut reports = self.reports.clone();
        loop {
            if let Some(report) = reports.borrow_and_update().clone() {
                return Ok(report);
            }
            if let Availability::Down(failure) = self.pool.availability() {
                return Err(failure);
            }
            // A failed start changes no report, so look now and then.
            let _ = timeout(Duration::from_millis(20), reports.changed()).await;
        }
    }

    async fn run(
        &self,
        operation: Operation,
        kek: &Fingerprint,
        payload: &[u8],
        time: Duration,
    ) -> Result<Answer, Error> {
        if payload.len() > MAX_PAYLOAD {
            let len = payload.len();
            return Err(refused(format!("{len} bytes are too many, {MAX_PAYLOAD} is the limit")));
        }
        let (reply, answer) = oneshot::channel();
        self.pool.submit(Job::new(operation, kek, payload, time, Askers::One(reply)))?;
        wait(answer, time).await
    }
}

async fn wait(answer: Receiver, time: Duration) -> Result<Answer, Error> {
    match timeout(time, answer).await {
        Ok(answer) => answer.unwrap_or(Err(Error::Dropped)),
        Err(_) => Err(Error::Deadline),
    }
}

/// See [`Client::restarts`].
pub struct Restarts(watch::Receiver<Option<Arc<Report>>>);

impl Restarts {
    /// Waits for the next one.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The supervisor has ended; nobody will start again.
            std::future::pending().await
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(json)
        .map_err(|error| refused(format!("the worker's answer cannot be read: {error}")))
}

fn refused(why: String) -> Error {
    Failure::new(Class::Refused, why).into()
}
