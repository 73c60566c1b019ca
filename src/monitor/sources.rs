#![forbid(unsafe_code)]
//! What is looked at when somebody asks: the rooms know it anyway, so nobody keeps it twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::health::{Health, Reason};
use crate::keyring::{Kek, Keyring, Ring, State};
use crate::metrics::{self, Connections, Scrape};
use crate::server::Counters;
use crate::timestamp::Timestamp;
use crate::token::{Client, Load};

/// The rooms that are asked.
pub struct Sources {
    /// The queue and the sessions.
    pub token: Client,
    /// The KEKs.
    pub keyring: Arc<Keyring>,
    /// What Status says.
    pub health: Arc<Health>,
    /// The connections.
    pub counters: Arc<Counters>,
    /// How many of them may be open.
    pub connections_limit: usize,
}

impl Sources {
    /// All of it, as it is now.
    pub(super) fn scrape(&self) -> Scrape {
        let Load { waiting, limit, busy, idle } = self.token.load();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let up = self.token.up_since().map(|since| since.elapsed());
        let reason = self.health.snapshot().reason;
        let ring = self.keyring.ring();
        Scrape {
            version: env!("CARGO_PKG_VERSION"),
            profile: self.token.profile().unwrap_or_default(),
            queue_length: waiting,
            queue_limit: limit,
            busy_sessions: busy,
            idle_sessions: idle,
            token_up_since: up.map(|up| now.saturating_sub(up).as_secs_f64()),
            unhealthy: Reason::ALL.iter().map(|it| (it.id(), Some(*it) == reason)).collect(),
            active_generation: ring.active().map(|active| active.kek.generation.number()),
            keks: ring.keks().iter().map(|kek| self.kek(&ring, kek)).collect(),
            state_trouble: ring.trouble().is_some(),
            connections: self.connections(),
        }
    }

    fn kek(&self, ring: &Ring, kek: &Kek) -> metrics::Kek {
        let known = ring.record().keks.get(&kek.key_id);
        let state = ring.state(kek);
        // The active one has the name that Status tells, which is another where it was put back.
        let active = ring.active().filter(|_| state == State::Active);
        let key_id = active.map_or(&kek.key_id, |active| &active.key_id);
        let created = known.and_then(|known| known.created);
        let noted = known.and_then(|known| known.last_decrypt.as_ref()).map(|last| last.at);
        let (decrypts, own) = self.keyring.decrypts(kek);
        metrics::Kek {
            generation: kek.generation.number(),
            key_id_hash: key_id.as_metrics_label(),
            state: state.name(),
            created: created.map(Timestamp::seconds),
            age: created.map(|created| Timestamp::now().since(created).as_secs()),
            decrypts,
            last_decrypt: noted.max(own).map(Timestamp::seconds),
        }
    }

    fn connections(&self) -> Connections {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Connections {
            open: of(&self.counters.open),
            limit: self.connections_limit,
            accepted: of(&self.counters.accepted),
            refused: of(&self.counters.refused),
            full: of(&self.counters.full),
            failed: of(&self.counters.failed),
        }
    }
}
