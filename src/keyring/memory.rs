#![forbid(unsafe_code)]
//! Keeps the record: in the state directory before anybody is told of a new active KEK, and
//! beside the KEKs on the token, for a node that has lost its disk.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::{info, warn};

use super::kek::{Epoch, KeyId, Policy};
use super::lifecycle::{self, Decision, Lifecycle};
use super::record::{BadRecord, Known, Record};
use super::ring::Sorted;
use super::{Error, Settings};
use crate::state::{self, StateDir};
use crate::timestamp::Timestamp;
use crate::token;
use crate::token::protocol::{Found, FoundKey, NewNote, Note};

/// After a note that could not be written, none is tried for so long.
const PAUSE: Duration = Duration::from_secs(600);

/// The last Decrypt with a KEK is kept this exactly on the disk.
const DISK_GRAIN: Duration = Duration::from_secs(300);

/// And this exactly on the token, whose memory may bear few writes.
const TOKEN_GRAIN: Duration = Duration::from_secs(24 * 3600);

/// What the daemon remembers, and where.
#[derive(Debug, Default)]
pub struct Memory {
    /// Nothing is kept by a command, which only looks.
    dir: Option<Arc<StateDir>>,
    /// What the directory held at the start, by the files' names.
    found: Vec<(String, Record)>,
    /// The file of the token that we have.
    name: Option<String>,
    /// What is true now.
    pub(super) record: Record,
    /// What the disk holds.
    saved: Record,
    pub(super) lifecycle: Lifecycle,
    /// Has the token's record been taken?
    joined: bool,
    /// What the token held as its record when it was looked at.
    noted: Option<Noted>,
    /// When the token took no note, and what was active then.
    failed: Option<(Instant, Option<KeyId>)>,
    warned: Vec<BadRecord>,
}

/// The record that the token holds, in however many notes.
#[derive(Clone, Debug, Default)]
pub(super) struct Noted {
    token_serial: String,
    record: Record,
    texts: Vec<String>,
}

/// What follows from a look. Nothing of it holds yet.
pub(super) struct Considered {
    pub(super) sorted: Sorted,
    /// What to keep. `None`: nobody can know what was active, so that nothing follows.
    pub(super) record: Option<Record>,
    pub(super) due: Option<Instant>,
    pub(super) trouble: Option<String>,
}

impl Memory {
    /// A daemon's: it begins with the records that its state directory holds.
    #[must_use]
    pub fn kept(dir: StateDir, found: Vec<(String, Record)>) -> Self {
        Self { dir: Some(Arc::new(dir)), found, ..Self::default() }
    }

    /// A command's, which knows what the daemon's state directory holds and changes nothing.
    #[must_use]
    pub fn read(found: Vec<(String, Record)>) -> Self {
        Self { found, ..Self::default() }
    }

    /// Takes the record of the token that is there. One with another serial number that holds
    /// KEKs we know is a clone, and what was active before counts for it too.
    pub(super) fn recall(&mut self, label: &str, token_serial: &str, keys: &[FoundKey]) {
        let name = state::file_name(label, token_serial);
        if self.name.as_ref() != Some(&name) {
            if let Some(before) = self.name.replace(name.clone()) {
                self.found.retain(|(known, _)| *known != before);
                self.found.push((before, std::mem::take(&mut self.record)));
            }
            let own = self.found.iter().find(|(known, _)| *known == name);
            self.saved = own.map(|(_, record)| record.clone()).unwrap_or_default();
            self.joined = false;
            self.record = self.saved.clone();
        } else if self.record.active.is_some() {
            return;
        }
        let named = |key: &FoundKey| {
            let fingerprint = key.fingerprint.as_ref().ok()?;
            Some(KeyId::new(key.generation, Epoch::FIRST, fingerprint))
        };
        for (_, other) in &self.found {
            if keys.iter().filter_map(named).any(|key_id| other.keks.contains_key(&key_id)) {
                self.record = lifecycle::take_over(&self.record, other, true);
            }
        }
    }

    /// Decides upon what a look has shown.
    pub(super) fn consider(
        &mut self,
        found: Found,
        label: &str,
        settings: Settings,
        clocks: (Instant, Timestamp),
    ) -> Considered {
        let Found { token_serial, kw, keys, notes } = found;
        let Settings { allow_weak, allow_imported, rules } = settings;
        let policy = Policy { method: kw, allow_weak, allow_imported };
        self.recall(label, &token_serial, &keys);
        let noted = match self.read_notes(&token_serial, notes, label) {
            Ok(noted) => noted,
            Err(bad) => {
                self.noted = None;
                let sorted = Sorted::new(keys, policy, &self.record);
                let trouble = Some(bad.to_string());
                return Considered { sorted, record: None, due: None, trouble };
            }
        };
        let record = lifecycle::take_over(&self.record, &noted.record, !self.joined);
        let sorted = Sorted::new(keys, policy, &record);
        let decision = self.lifecycle.decide(&sorted.keks, &record, &noted.record, rules, clocks);
        let Decision { mut record, due, trouble } = decision;
        for kek in &sorted.keks {
            let known = record.known(&kek.key_id, kek.generation);
            known.created.get_or_insert_with(|| kek.first_known(clocks.1));
        }
        self.noted = Some(noted);
        Considered { sorted, record: Some(record), due, trouble }
    }

    /// Reads the token's notes. Those that are damaged count only where there is no record of
    /// our own to go by.
    pub(super) fn read_notes(
        &mut self,
        token_serial: &str,
        notes: Option<Vec<Note>>,
        label: &str,
    ) -> Result<Noted, Error> {
        let mut noted = Noted { token_serial: token_serial.to_owned(), ..Noted::default() };
        let has_own = self.record.active.is_some();
        if notes.is_none() && !has_own {
            return Err(Error::NotesHidden);
        }
        for Note(text) in notes.into_iter().flatten() {
            match Record::parse(&text, label) {
                Ok(record) => noted.record = noted.record.join(record),
                Err(bad) if !has_own => return Err(bad.into()),
                Err(bad) => {
                    if !self.warned.contains(&bad) {
                        warn!("the record on the token is not taken: {bad}");
                        self.warned.push(bad);
                    }
                    continue;
                }
            }
            noted.texts.push(text);
        }
        noted.texts.sort();
        noted.texts.dedup();
        Ok(noted)
    }

    /// Makes it the record that holds. It is on the disk when this returns.
    ///
    /// # Errors
    /// Why it could not be written; the one before it holds.
    pub(super) async fn keep(&mut self, record: Record, label: &str) -> Result<(), String> {
        self.keep_within(record, label, DISK_GRAIN).await
    }

    /// The same to the last Decrypt.
    pub(super) async fn keep_all(&mut self, record: Record, label: &str) -> Result<(), String> {
        self.keep_within(record, label, Duration::ZERO).await
    }

    async fn keep_within(
        &mut self,
        record: Record,
        label: &str,
        grain: Duration,
    ) -> Result<(), String> {
        if let (Some(dir), Some(name)) = (self.dir.clone(), self.name.clone())
            && !is_kept(&record, &self.saved, grain)
        {
            let (ours, label) = (record.clone(), label.to_owned());
            let together = move |there: Option<String>| {
                // Another daemon may keep its record here, and be ahead. What is damaged by now
                // goes: this one is good.
                match there.map(|text| Record::parse(&text, &label)) {
                    Some(Err(bad @ BadRecord::Newer(_))) => Err(io::Error::other(bad)),
                    Some(Ok(there)) => Ok(there.join(ours).to_text(&label)),
                    Some(Err(_)) | None => Ok(ours.to_text(&label)),
                }
            };
            let written = tokio::task::spawn_blocking(move || dir.update(&name, together)).await;
            written
                .map_err(|error| error.to_string())
                .and_then(|saved| saved.map_err(|error| error.to_string()))?;
            self.saved = record.clone();
        }
        self.record = record;
        self.joined = true;
        Ok(())
    }

    /// The note that the token should hold, if it does not. Without a state directory nothing
    /// is told to others.
    pub(super) fn wanted_note(&self, label: &str) -> Option<NewNote> {
        self.dir.as_ref()?;
        let active = self.record.active.as_ref().map(|active| &active.key_id);
        let tried = self.failed.as_ref();
        if tried.is_some_and(|(at, was)| at.elapsed() < PAUSE && was.as_ref() == active) {
            return None;
        }
        self.noted.as_ref()?.outdated_by(&self.record, label)
    }

    /// Takes note of how it went.
    pub(super) fn note_was(&mut self, note: NewNote, outcome: Result<(), token::Error>) {
        let active = self.record.active.as_ref().map(|active| active.key_id.clone());
        match outcome {
            Ok(()) => {
                self.failed = None;
                if let Some(noted) = &mut self.noted {
                    noted.record = noted.record.clone().join(self.record.clone());
                    noted.texts = vec![note.text];
                }
            }
            Err(error) => {
                if self.failed.is_none() {
                    info!(
                        "the token keeps no copy of the record: {error}. A node that loses its \
                         state directory will have to take the highest generation it finds"
                    );
                }
                self.failed = Some((Instant::now(), active));
            }
        }
    }
}

#[cfg(test)]
impl Memory {
    /// What the token held as its record when it was looked at.
    pub(super) const fn noted(&self) -> Option<&Noted> {
        self.noted.as_ref()
    }
}

impl Noted {
    /// The notes that it was read from.
    #[cfg(test)]
    pub(super) fn texts(&self) -> &[String] {
        &self.texts
    }

    /// What the token's record says.
    pub(super) const fn record(&self) -> &Record {
        &self.record
    }

    /// One note in the place of all, if they do not say what the record does.
    pub(super) fn outdated_by(&self, record: &Record, label: &str) -> Option<NewNote> {
        let together = self.record.clone().join(record.clone());
        let is_there = self.texts.len() <= 1 && is_kept(&together, &self.record, TOKEN_GRAIN);
        (!is_there).then(|| self.replaced_by(&together, label))
    }

    /// One note in the place of all.
    pub(super) fn replaced_by(&self, record: &Record, label: &str) -> NewNote {
        let text = record.to_text(label);
        let old = self.texts.iter().filter(|old| **old != text);
        let replaces = old.map(|old| HEXLOWER.encode(&Sha256::digest(old))).collect();
        NewNote { token_serial: self.token_serial.clone(), text, replaces }
    }
}

/// Does the kept record say the same, but for Decrypts within that time?
fn is_kept(record: &Record, kept: &Record, grain: Duration) -> bool {
    let is_same = |now: &Known, then: &Known| {
        let recent = match (&now.last_decrypt, &then.last_decrypt) {
            (Some(now), Some(then)) => now.at.since(then.at) < grain,
            (now, _) => now.is_none(),
        };
        let rest = |known: &Known| Known { last_decrypt: None, ..known.clone() };
        recent && rest(now) == rest(then)
    };
    let keks = record.keks.len() == kept.keks.len()
        && record
            .keks
            .iter()
            .all(|(key_id, now)| kept.keks.get(key_id).is_some_and(|then| is_same(now, then)));
    keks && (&record.active, record.reinstated) == (&kept.active, kept.reinstated)
}

#[cfg(test)]
mod tests {
    use super::super::kek::tests::good_key;
    use super::super::record::{Active, Sighting};
    use super::*;
    use crate::generation::Generation;
    use crate::timestamp::Timestamp;

    const LABEL: &str = "k8s-kek";

    /// A record by which that KEK is active, and known.
    fn record(number: u32, fill: u8) -> Record {
        let key = good_key(number, fill);
        let (generation, fingerprint) = (key.generation, key.fingerprint.unwrap());
        let key_id = KeyId::new(generation, Epoch::FIRST, &fingerprint);
        let mut record = Record::default();
        record.known(&key_id, generation);
        record.active = Some(Active {
            generation,
            epoch: Epoch::FIRST,
            highest_generation: generation,
            key_id,
            fingerprint,
            since: Timestamp::new(1),
        });
        record
    }

    fn memory(serial: &str, record: Record) -> Memory {
        Memory::read(vec![(state::file_name(LABEL, serial), record)])
    }

    fn active(memory: &Memory) -> Option<Generation> {
        memory.record.active.as_ref().map(|active| active.generation)
    }

    #[test]
    fn a_clone_that_lacks_the_newest_kek_is_no_new_beginning() {
        let mut both = record(2, 2);
        both = both.join_keks(record(1, 1).keks);
        let mut memory = memory("1", both);
        memory.recall(LABEL, "2", &[good_key(1, 1)]);
        assert_eq!(active(&memory), Some(Generation::new(2)));
    }

    #[test]
    fn another_token_has_another_memory_and_each_keeps_its_own() {
        let mut memory = memory("1", record(2, 2));
        memory.recall(LABEL, "2", &[good_key(1, 7)]);
        assert_eq!(active(&memory), None);
        memory.record = record(1, 7);
        memory.recall(LABEL, "1", &[]);
        assert_eq!(active(&memory), Some(Generation::new(2)));
        memory.recall(LABEL, "2", &[good_key(1, 7)]);
        assert_eq!(active(&memory), Some(Generation::new(1)));
    }

    #[tokio::test]
    async fn of_two_that_share_a_directory_the_one_behind_takes_nothing_back() {
        let temp = tempfile::tempdir().unwrap();
        let kept = || Memory::kept(StateDir::open(temp.path()).unwrap(), Vec::new());
        for (number, fill) in [(2, 2), (1, 1)] {
            let mut memory = kept();
            memory.recall(LABEL, "1", &[]);
            memory.keep(record(number, fill), LABEL).await.unwrap();
        }
        let [(_, text)] = state::read_all(temp.path(), LABEL).unwrap().try_into().unwrap();
        let there = Record::parse(&text, LABEL).unwrap();
        assert_eq!(there.active.unwrap().generation, Generation::new(2));
        assert_eq!(there.keks.len(), 2);
    }

    #[test]
    fn decrypts_alone_are_written_down_now_and_then() {
        let mut now = record(1, 1);
        let then = now.clone();
        let seen_at = |record: &mut Record, seconds| {
            let at = Timestamp::new(seconds);
            record.keks.values_mut().for_each(|known| {
                known.last_decrypt = Some(Sighting { at, node: "cp1".to_owned() });
            });
        };
        seen_at(&mut now, 1000);
        assert!(!is_kept(&now, &then, DISK_GRAIN), "the first is");
        let then = now.clone();
        seen_at(&mut now, 1000 + DISK_GRAIN.as_secs() - 1);
        assert!(is_kept(&now, &then, DISK_GRAIN));
        seen_at(&mut now, 1000 + DISK_GRAIN.as_secs());
        assert!(!is_kept(&now, &then, DISK_GRAIN));
        assert!(is_kept(&now, &then, TOKEN_GRAIN));
    }
}
