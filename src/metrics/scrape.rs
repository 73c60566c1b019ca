#![forbid(unsafe_code)]
//! What is looked at only when somebody asks. Each answer is made afresh, so that a KEK that has
//! gone leaves no line behind.

use metrics::{Label, counter, gauge};

use super::families::{self, Family};

/// What is true at this moment.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// The version of p11-kms.
    pub version: &'static str,
    /// The profile of the token.
    pub profile: String,
    /// See `p11_kms_queue_length`.
    pub queue_length: usize,
    /// See `p11_kms_queue_limit`.
    pub queue_limit: usize,
    /// Sessions that have something to do.
    pub busy_sessions: usize,
    /// Sessions that have nothing to do.
    pub idle_sessions: usize,
    /// Since when a session has been answering, in seconds since 1970.
    pub token_up_since: Option<f64>,
    /// Every reason of the health room, and whether it is the present one.
    pub unhealthy: Vec<(&'static str, bool)>,
    /// See `p11_kms_active_generation`.
    pub active_generation: Option<u32>,
    /// The KEKs that may be used.
    pub keks: Vec<Kek>,
    /// See `p11_kms_state_trouble`.
    pub state_trouble: bool,
    /// Connections.
    pub connections: Connections,
}

/// A KEK in view.
#[derive(Clone, Debug, Default)]
pub struct Kek {
    /// Its generation.
    pub generation: u32,
    /// Its name as kube-apiserver's metrics show it.
    pub key_id_hash: String,
    /// Where it stands in its life.
    pub state: &'static str,
    /// When it was made, in seconds since 1970.
    pub created: Option<u64>,
    /// How old it is, in seconds.
    pub age: Option<u64>,
    /// Good Decrypts with it since the start.
    pub decrypts: u64,
    /// The last of them, on any node, in seconds since 1970.
    pub last_decrypt: Option<u64>,
}

/// Connections: those that are open, and how many there were of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connections {
    /// Open now.
    pub open: u64,
    /// How many may be open.
    pub limit: usize,
    /// Let in.
    pub accepted: u64,
    /// Their peer was not allowed, or was not any more.
    pub refused: u64,
    /// There were too many.
    pub full: u64,
    /// Ended by an error.
    pub failed: u64,
}

impl Scrape {
    /// Sets all of it, with the recorder that is the thread's own now.
    pub(super) fn record(&self) {
        set(families::BUILD_INFO, labels(["version", self.version, "profile", &self.profile]), 1.0);
        set(families::QUEUE_LENGTH, vec![], float(self.queue_length as u64));
        set(families::QUEUE_LIMIT, vec![], float(self.queue_limit as u64));
        for (state, sessions) in [("busy", self.busy_sessions), ("idle", self.idle_sessions)] {
            set(families::SESSIONS, labels(["state", state]), float(sessions as u64));
        }
        set(families::TOKEN_UP, vec![], truth(self.token_up_since.is_some()));
        set(families::TOKEN_UP_SINCE, vec![], self.token_up_since.unwrap_or(0.0));
        set(families::HEALTHY, vec![], truth(self.unhealthy.iter().all(|(_, is_it)| !is_it)));
        for (reason, is_it) in &self.unhealthy {
            set(families::UNHEALTHY, labels(["reason", reason]), truth(*is_it));
        }
        if let Some(generation) = self.active_generation {
            set(families::ACTIVE_GENERATION, vec![], f64::from(generation));
        }
        for kek in &self.keks {
            kek.record();
        }
        set(families::STATE_TROUBLE, vec![], truth(self.state_trouble));
        self.connections.record();
    }
}

impl Kek {
    fn record(&self) {
        let generation = self.generation.to_string();
        let name = || labels(["generation", &generation, "key_id_hash", &self.key_id_hash]);
        let mut about = name();
        about.push(Label::new("state", self.state));
        set(families::KEK_INFO, about, 1.0);
        for (family, value) in [
            (families::KEK_CREATED, self.created),
            (families::KEK_AGE, self.age),
            (families::KEK_LAST_DECRYPT, self.last_decrypt),
        ] {
            if let Some(value) = value {
                set(family, name(), float(value));
            }
        }
        counter!(families::KEK_DECRYPTS.name, name()).absolute(self.decrypts);
    }
}

impl Connections {
    fn record(&self) {
        set(families::CONNECTIONS, vec![], float(self.open));
        set(families::CONNECTIONS_LIMIT, vec![], float(self.limit as u64));
        for (outcome, count) in [
            ("accepted", self.accepted),
            ("refused", self.refused),
            ("full", self.full),
            ("failed", self.failed),
        ] {
            let labels = labels(["outcome", outcome]);
            counter!(families::CONNECTIONS_TOTAL.name, labels).absolute(count);
        }
        counter!(families::REFUSED_PEERS.name).absolute(self.refused);
    }
}

fn set(family: Family, labels: Vec<Label>, value: f64) {
    gauge!(family.name, labels).set(value);
}

/// Names and values in turn.
fn labels<const N: usize>(words: [&str; N]) -> Vec<Label> {
    let pairs = words.as_chunks::<2>().0.iter();
    pairs.map(|[name, value]| Label::new((*name).to_owned(), (*value).to_owned())).collect()
}

const fn truth(is_it: bool) -> f64 {
    if is_it { 1.0 } else { 0.0 }
}

/// Exact up to 2^53: no count of ours, and no time, gets there.
#[expect(clippy::cast_precision_loss, reason = "see above")]
const fn float(count: u64) -> f64 {
    count as f64
}
