#![forbid(unsafe_code)]
//! Is the plugin well? Answered from memory; the token is asked by a task of
//! its own and by real traffic.

mod stuck;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::algorithm::Algorithm;
use crate::audit::{Audit, Need};
use crate::keyring::{self, Kek, Keyring};
use crate::notify;
use crate::secret::Seed;
use crate::token::protocol::{Class, Failure, Fingerprint};
use crate::token::{self, Availability, Client};
use stuck::Stuck;

/// What kube-apiserver takes for well, to the letter.
pub const OK: &str = "ok";

/// What Status says at first.
const STARTING: &str = "the token is being started";

/// After so many intervals without a good round trip it is no longer true that
/// the last one was good: the task that makes them hangs.
const STALE_INTERVALS: u32 = 3;

/// For how long without a break the audit log must fail before Status says so: one slow write is
/// no reason to take a kube-apiserver out.
const LASTING: Duration = Duration::from_secs(10);

/// Why Status does not say [`OK`]. A closed set, for programs; people read the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first worker, or the first look and round trip, is not over yet.
    Starting,
    /// The device, the session or the worker process is gone.
    TokenLost,
    /// The module did not answer in time.
    Hung,
    /// The module cannot be loaded.
    Module,
    /// No token fits `token.uri`, or several do.
    NoToken,
    /// The PIN was refused, cannot be read, or a login could lock the token.
    Pin,
    /// The token or the profile says no to what a worker needs.
    Refused,
    /// The last round trip was bad, or the answer was wrong.
    BadRoundTrip,
    /// The last good round trip is too old.
    Stale,
    /// There is no KEK to write with.
    NoKek,
    /// What is known of the KEKs cannot be read or written, so that none becomes active.
    Record,
    /// The audit log cannot be written, and nothing is answered for it. For those who ask whether
    /// we are ready also: nothing is encrypted.
    Audit,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Starting,
        Self::TokenLost,
        Self::Hung,
        Self::Module,
        Self::NoToken,
        Self::Pin,
        Self::Refused,
        Self::BadRoundTrip,
        Self::Stale,
        Self::NoKek,
        Self::Record,
        Self::Audit,
    ];

    /// Its name, which stays as it is.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::TokenLost => "token-lost",
            Self::Hung => "hung",
            Self::Module => "module",
            Self::NoToken => "no-token",
            Self::Pin => "pin",
            Self::Refused => "refused",
            Self::BadRoundTrip => "bad-round-trip",
            Self::Stale => "stale",
            Self::NoKek => "no-kek",
            Self::Record => "record",
            Self::Audit => "audit",
        }
    }

    const fn of(class: Class) -> Self {
        match class {
            Class::SessionLost | Class::TokenLost => Self::TokenLost,
            Class::Hung => Self::Hung,
            Class::Module => Self::Module,
            Class::NoToken => Self::NoToken,
            Class::PinSource | Class::PinWrong | Class::PinAtRisk => Self::Pin,
            Class::BadBlob | Class::UnknownKek | Class::Expired | Class::Refused => Self::Refused,
        }
    }
}

/// What Status says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// [`OK`], or what is wrong and what to do.
    pub healthz: String,
    /// The same for programs; `None` while it is [`OK`].
    pub reason: Option<Reason>,
    /// The active key_id; the last one while there is none, also after a restart; empty
    /// if there never was one.
    pub key_id: String,
}

/// Knows whether the last round trip on the token was good.
pub struct Health {
    token: Client,
    keyring: Arc<Keyring>,
    interval: Duration,
    audit: Audit,
    state: Mutex<State>,
}

struct State {
    round_trip: RoundTrip,
    /// What Status said last, to log changes only.
    said: String,
}

enum RoundTrip {
    None,
    Good(Instant),
    Bad(String),
}

impl Health {
    /// Not well until the first round trip, and while Decrypts are refused for want of the audit
    /// log.
    #[must_use]
    pub fn new(token: Client, keyring: Arc<Keyring>, interval: Duration, audit: Audit) -> Self {
        let state = State { round_trip: RoundTrip::None, said: STARTING.to_owned() };
        Self { token, keyring, interval, audit, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What Status says at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let active = self.keyring.active();
        let key_id = match &active {
            Ok(active) => active.key_id.to_string(),
            Err(_) => self.keyring.last_key_id().map_or_else(String::new, |it| it.to_string()),
        };
        let mut state = self.state();
        let trouble = self.trouble(&state.round_trip, active.err());
        // Who can still read is well: Status would take kube-apiserver away from those who read.
        let unread = || self.audit.trouble(Need::Reads).filter(|(_, lasts)| *lasts >= LASTING);
        let trouble = trouble.or_else(|| Some((Reason::Audit, unread()?.0)));
        let (reason, healthz) = match trouble {
            None => (None, OK.to_owned()),
            Some((reason, trouble)) => (Some(reason), trouble),
        };
        if state.said != healthz {
            if healthz == OK {
                info!("healthy");
            } else {
                warn!("unhealthy: {healthz}");
            }
            notify::status(&healthz);
            state.said.clone_from(&healthz);
        }
        Snapshot { healthz, reason, key_id }
    }

    /// Why not all calls are answered now: what Status says, or that nothing is encrypted for want
    /// of the audit log.
    #[must_use]
    pub fn unready(&self) -> Option<(Reason, String)> {
        let Snapshot { healthz, reason, .. } = self.snapshot();
        let unwritten = || Some((Reason::Audit, self.audit.trouble(Need::Changes)?.0));
        reason.map(|reason| (reason, healthz)).or_else(unwritten)
    }

    fn trouble(
        &self,
        last: &RoundTrip,
        no_kek: Option<keyring::Error>,
    ) -> Option<(Reason, String)> {
        match self.token.availability() {
            Availability::Down(failure) => {
                return Some((Reason::of(failure.class), failure.message));
            }
            Availability::Starting { after: None } => {
                return Some((Reason::Starting, STARTING.to_owned()));
            }
            Availability::Starting { after: Some(end) } => {
                let text = format!("{end}; a new worker is being started");
                return Some((Reason::of(end.class), text));
            }
            Availability::Up => {}
        }
        match last {
            RoundTrip::None if no_kek.is_none() => {
                Some((Reason::Starting, "the token has not been tried yet".to_owned()))
            }
            RoundTrip::Bad(why) => Some((Reason::BadRoundTrip, why.clone())),
            RoundTrip::Good(at) if at.elapsed() > self.interval * STALE_INTERVALS => {
                let age = at.elapsed().as_secs();
                Some((Reason::Stale, format!("the last good answer of the token is {age} s old")))
            }
            // Keys can seem to have gone with their token: then no new worker finds one.
            _ => no_kek.map(|error| match self.token.failed_start() {
                Some(failure) => (Reason::of(failure.class), failure.message),
                None => (self.without_kek(&error), error.to_string()),
            }),
        }
    }

    fn without_kek(&self, error: &keyring::Error) -> Reason {
        let ring = self.keyring.ring();
        match error {
            keyring::Error::NoActiveKek(_) if ring.has_unknown_past() => Reason::Record,
            keyring::Error::NoActiveKek(_) => Reason::NoKek,
            // Nobody has looked yet.
            _ => Reason::Starting,
        }
    }

    /// For how long the token has been answering; `None` while it does not.
    #[must_use]
    pub fn token_uptime(&self) -> Option<Duration> {
        self.token.up_since().map(|since| since.elapsed())
    }

    /// Takes note of how real traffic went.
    pub fn note<T>(&self, outcome: &Result<T, keyring::Error>) {
        match outcome {
            Ok(_) => self.state().round_trip = RoundTrip::Good(Instant::now()),
            Err(error) if blames_token(error) => {
                self.state().round_trip = RoundTrip::Bad(error.to_string());
            }
            // A bad blob, an unknown key_id, a caller in a hurry: not the token's fault.
            Err(_) => {}
        }
    }

    /// Tries the token every interval, unless real traffic has just done so, and
    /// at once after each new worker. Never ends.
    pub async fn watch(&self) {
        let mut tick = interval(self.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stuck = Stuck::new(self.interval);
        let mut restarts = self.token.restarts();
        loop {
            let restarted = tokio::select! {
                _ = tick.tick() => false,
                () = restarts.next() => true,
            };
            let trouble = self.snapshot().healthz != OK;
            if restarted || trouble || !self.was_good_within(self.interval / 2) {
                self.try_token().await;
            }
            // Asked for its line in the log, too.
            let reason = self.snapshot().reason;
            if stuck.is_due(self.is_stuck(reason)) {
                self.token.renew();
            }
        }
    }

    /// The workers answer, and their answers are of no use.
    fn is_stuck(&self, reason: Option<Reason>) -> bool {
        match reason {
            Some(Reason::BadRoundTrip) => true,
            // On a new token somebody has yet to make the first one.
            Some(Reason::NoKek) => self.keyring.last_key_id().is_some(),
            _ => false,
        }
    }

    fn was_good_within(&self, time: Duration) -> bool {
        matches!(self.state().round_trip, RoundTrip::Good(at) if at.elapsed() < time)
    }

    async fn try_token(&self) {
        if self.token.availability() != Availability::Up {
            return;
        }
        // A new worker may stand before a token with other keys than the last one.
        let looked = self.keyring.look().await;
        match (looked, self.keyring.active()) {
            (Ok(()), Ok(active)) => self.note(&self.round_trip(&active.kek).await),
            // The search was a good round trip; Status tells that there is no KEK.
            (Ok(()), Err(_)) => self.note(&Ok(())),
            (Err(error), _) => self.note::<()>(&Err(error)),
        }
    }

    /// Wraps and unwraps the public constant. Both results are known.
    async fn round_trip(&self, kek: &Kek) -> Result<(), keyring::Error> {
        let time = self.interval;
        let constant = Seed::new(Fingerprint::CONSTANT.to_vec());
        let blob = self.token.wrap(&kek.fingerprint, Algorithm::Kw, &constant, time).await?;
        let seed = self.token.unwrap(&kek.fingerprint, Algorithm::Kw, &blob, time).await;
        let seed = seed.map_err(|error| match error {
            // This blob is good.
            token::Error::CrashesModule => token::Error::Unavailable(error.to_string()),
            other => other,
        })?;
        if blob == kek.fingerprint.as_bytes() && seed.expose() == constant.expose() {
            return Ok(());
        }
        let message =
            format!("the token wraps wrongly under KEK \"{}\": do not trust it", kek.label);
        Err(token::Error::Failed(Failure::new(Class::TokenLost, message)).into())
    }
}

fn blames_token(error: &keyring::Error) -> bool {
    match error {
        keyring::Error::NoActiveKek(_)
        | keyring::Error::UnknownKeyId(_)
        | keyring::Error::Record(_)
        | keyring::Error::NotesHidden => false,
        keyring::Error::Token(error) => match error {
            token::Error::QueueFull(_)
            | token::Error::Deadline
            | token::Error::Dropped
            | token::Error::CrashesModule => false,
            token::Error::Unavailable(_) => true,
            token::Error::Failed(failure) => {
                !matches!(failure.class, Class::BadBlob | Class::Expired)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// kube-apiserver asks for it again and again, and takes itself out of service when Status is
    /// not well.
    #[test]
    fn one_blob_that_crashes_the_module_is_no_word_on_the_token() {
        assert!(!blames_token(&token::Error::CrashesModule.into()));
        assert!(blames_token(&token::Error::Unavailable("the device is gone".to_owned()).into()));
    }
}
