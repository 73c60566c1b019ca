#![forbid(unsafe_code)]
//! What all processes count together, in the file `state` of the control directory.
//!
//! It is an array of words that are only ever changed atomically, so a process can be killed
//! between any two instructions. A lock is held for one thing alone: to give each version of the
//! rules file its number, the generation. It is a `flock`, which the kernel takes back from a
//! process that dies.
//!
//! The counters of the rules hold the generation that they belong to in their upper half. So a
//! process that still goes by the old rules can neither add to the counters of the new ones nor
//! set them back.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::ffi;
use crate::functions::Function;
use crate::rules::Rules;

/// The file's first word, with the version of its layout.
const MAGIC: u64 = u64::from_be_bytes(*b"faulty\0\x01");

const GENERATION: usize = 1;
const IDENTITY: usize = 2;
const FAILED_PINS: usize = 5;
const TRIES: usize = 6;
const LOST_UNTIL: usize = 7;
const CALLS: usize = 16;
const MATCHED: usize = 128;
const STRUCK: usize = MATCHED + Rules::MOST;
const WORDS: usize = STRUCK + Rules::MOST;

/// The word at `LOST_UNTIL` holds the last bits of the generation that has lost the token, and below
/// them the uptime in milliseconds at which it is back: 34 years are enough.
const TIME_BITS: u32 = 40;
const FOR_EVER: u64 = (1 << TIME_BITS) - 1;
const GENERATION_MASK: u64 = u64::MAX >> TIME_BITS;

const _: () = assert!(CALLS + Function::ALL.len() <= MATCHED, "the counters overlap");

/// The number of a version of the rules file. 0 is before the first.
pub(crate) type Generation = u32;

/// What tells two versions of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity([u64; 3]);

impl Identity {
    /// No file.
    pub(crate) const ABSENT: Self = Self([0; 3]);
    /// A file of which nothing can be learned.
    const UNREADABLE: Self = Self([u64::MAX; 3]);

    /// That of the file at `path`, now.
    pub(crate) fn at(path: &Path) -> Self {
        match std::fs::metadata(path) {
            Ok(metadata) => Self::of(&metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::ABSENT,
            Err(_) => Self::UNREADABLE,
        }
    }

    /// That of an open file.
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        let nanoseconds = metadata.mtime().wrapping_mul(1_000_000_000) + metadata.mtime_nsec();
        Self([metadata.ino(), nanoseconds.cast_unsigned(), metadata.size()])
    }
}

/// The shared state, mapped.
pub(crate) struct State {
    words: &'static [AtomicU64],
    path: PathBuf,
}

impl State {
    /// Opens the state of a control directory; the first one makes it.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join("state");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        // By a file of its own: the mapping would keep `file`, and so its lock, for ever.
        let _lock = lock(&path)?;
        let size = (WORDS * size_of::<u64>()) as u64;
        if file.metadata()?.len() < size {
            file.set_len(size)?;
        }
        let words = ffi::map_shared(&file, WORDS)?;
        let state = Self { words, path };
        // 0 is a file just made, perhaps by a process that was killed before it came to this line.
        let found = state.word(0).compare_exchange(0, MAGIC, SeqCst, SeqCst);
        match found {
            Err(other) if other != MAGIC => Err(io::Error::other(
                "it is the state of another version of this module: remove it",
            )),
            _ => Ok(state),
        }
    }

    #[expect(clippy::indexing_slicing, reason = "all offsets are constants and checked sums")]
    fn word(&self, index: usize) -> &AtomicU64 {
        &self.words[index]
    }

    /// Counts a call.
    pub(crate) fn count(&self, function: Function) {
        self.word(CALLS + function as usize).fetch_add(1, SeqCst);
    }

    /// Counts a wrong PIN.
    pub(crate) fn pin_failed(&self) {
        self.word(FAILED_PINS).fetch_add(1, SeqCst);
        self.word(TRIES).fetch_add(1, SeqCst);
    }

    /// Forgets the wrong PINs since the last right one.
    pub(crate) fn pin_accepted(&self) {
        self.word(TRIES).store(0, SeqCst);
    }

    /// How many wrong PINs there were since the last right one.
    pub(crate) fn tries(&self) -> u64 {
        self.word(TRIES).load(SeqCst)
    }

    /// The token is lost for so long from now on, or longer if it is already, as long as these
    /// rules stand; `Duration::MAX` is that long.
    pub(crate) fn lose(&self, generation: Generation, span: Duration) {
        let until = ffi::uptime().saturating_add(span).as_millis() + 1;
        let until = u64::try_from(until).map_or(FOR_EVER, |until| until.min(FOR_EVER));
        let next = |old| lengthen(old, generation, until);
        // It fails when other rules stand meanwhile, which is no matter.
        let _ = self.word(LOST_UNTIL).fetch_update(SeqCst, SeqCst, next);
    }

    /// Whether it is lost so.
    pub(crate) fn is_lost(&self, generation: Generation) -> bool {
        let lost = self.word(LOST_UNTIL).load(SeqCst);
        let until = u128::from(lost & FOR_EVER);
        // Most often nobody has lost it, and the clock need not be read.
        until > 0
            && lost >> TIME_BITS == u64::from(generation) & GENERATION_MASK
            && (until == u128::from(FOR_EVER) || ffi::uptime().as_millis() < until)
    }

    /// Sets the counters of calls and of wrong PINs to 0.
    pub(crate) fn reset(&self) {
        let counters = [FAILED_PINS, TRIES].into_iter().chain(CALLS..MATCHED);
        counters.for_each(|index| self.word(index).store(0, SeqCst));
    }

    /// Counts a call that a rule matches, and gives its number. `None` means that the rules have
    /// been replaced meanwhile.
    pub(crate) fn matched(&self, generation: Generation, rule: usize) -> Option<u32> {
        advance(self.word(MATCHED + rule), generation)
    }

    /// Counts a strike of a rule.
    pub(crate) fn struck(&self, generation: Generation, rule: usize) {
        advance(self.word(STRUCK + rule), generation);
    }

    /// Keeps other processes from giving out generations as long as the guard lives.
    ///
    /// The file is opened anew: a lock is shared by all that share an open file, such as a parent
    /// and the child that it forked.
    pub(crate) fn lock(&self) -> io::Result<File> {
        lock(&self.path)
    }

    /// The generation of the rules file that is there now, a new one if nobody has seen it yet.
    pub(crate) fn generation_of(&self, Identity(now): Identity, _lock: &File) -> Generation {
        let generation = self.word(GENERATION);
        let known = (0..now.len()).map(|part| self.word(IDENTITY + part).load(SeqCst));
        if generation.load(SeqCst) == 0 || !known.eq(now) {
            // In this order: one that is killed halfway has at worst left out a number.
            generation.fetch_add(1, SeqCst);
            for (part, value) in now.into_iter().enumerate() {
                self.word(IDENTITY + part).store(value, SeqCst);
            }
        }
        generation.load(SeqCst) as Generation
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    file.lock()?;
    Ok(file)
}

/// Adds one to a counter of this generation; one of an older generation begins anew.
fn advance(word: &AtomicU64, generation: Generation) -> Option<u32> {
    let next = |old: u64| {
        let (theirs, count) = ((old >> 32) as Generation, old as u32);
        let count = match theirs.cmp(&generation) {
            std::cmp::Ordering::Less => 1,
            std::cmp::Ordering::Equal => count.saturating_add(1),
            std::cmp::Ordering::Greater => return None,
        };
        Some(u64::from(generation) << 32 | u64::from(count))
    };
    // The closure gives the new value twice, once to the memory and once to us.
    word.fetch_update(SeqCst, SeqCst, next).ok().and_then(next).map(|new| new as u32)
}

/// Puts the end of a loss off. One of older rules is forgotten, and one of newer ones stays.
fn lengthen(old: u64, generation: Generation, until: u64) -> Option<u64> {
    let ours = u64::from(generation) & GENERATION_MASK;
    let until = match (old >> TIME_BITS).wrapping_sub(ours) & GENERATION_MASK {
        0 => until.max(old & FOR_EVER),
        ahead if ahead <= GENERATION_MASK / 2 => return None,
        _ => until,
    };
    Some(ours << TIME_BITS | until)
}

/// The shared state as it was at one moment, for those who only look.
#[derive(Default)]
pub(crate) struct Snapshot(Vec<u64>);

impl Snapshot {
    /// Reads it; before the first process has made it, all is 0.
    pub(crate) fn read(directory: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        match File::open(directory.join("state")) {
            Ok(mut file) => {
                file.lock_shared()?;
                file.read_to_end(&mut bytes)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (words, _) = bytes.as_chunks::<8>();
        Ok(Self(words.iter().map(|word| u64::from_ne_bytes(*word)).collect()))
    }

    fn word(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or_default()
    }

    /// How often a function was called.
    pub(crate) fn calls(&self, function: Function) -> u64 {
        self.word(CALLS + function as usize)
    }

    /// How many wrong PINs there were.
    pub(crate) fn failed_pins(&self) -> u64 {
        self.word(FAILED_PINS)
    }

    /// How often the rules of this version have struck: never, if no process has seen it.
    pub(crate) fn strikes(&self, Identity(rules): Identity) -> u64 {
        if !(0..rules.len()).map(|part| self.word(IDENTITY + part)).eq(rules) {
            return 0;
        }
        let generation = self.word(GENERATION);
        let counters = (0..Rules::MOST).map(|rule| self.word(STRUCK + rule));
        counters.filter(|word| word >> 32 == generation).map(|word| u64::from(word as u32)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_belongs_to_one_version_of_the_rules() {
        let word = AtomicU64::new(0);
        assert_eq!([advance(&word, 1), advance(&word, 1)], [Some(1), Some(2)]);
        assert_eq!(advance(&word, 2), Some(1), "new rules begin at 0");
        assert_eq!(advance(&word, 1), None, "the old ones no longer count");
        assert_eq!(advance(&word, 2), Some(2));
        word.store(u64::from(u32::MAX) | 2 << 32, SeqCst);
        assert_eq!(advance(&word, 2), Some(u32::MAX), "a full counter stays full");
    }

    #[test]
    fn a_loss_belongs_to_one_version_of_the_rules() {
        let lost = |generation: u64, until: u64| generation << 40 | until;
        assert_eq!(lengthen(0, 1, 50), Some(lost(1, 50)));
        assert_eq!(lengthen(lost(1, 50), 1, 40), Some(lost(1, 50)), "the longer one counts");
        assert_eq!(lengthen(lost(1, 50), 2, 40), Some(lost(2, 40)));
        assert_eq!(lengthen(lost(2, 40), 1, FOR_EVER), None, "the rules are others meanwhile");
        // Only the last bits of a generation are kept, and the next one is still the next.
        assert_eq!(lengthen(lost(0xff_ffff, 50), 1 << 24, 40), Some(lost(0, 40)));
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        state.lose(3, Duration::MAX);
        assert_eq!([2, 3, 4].map(|generation| state.is_lost(generation)), [false, true, false]);
        state.lose(4, Duration::ZERO);
        state.lose(3, Duration::MAX);
        assert!(!state.is_lost(3));
    }

    #[test]
    fn one_that_forgot_to_make_the_state_does_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("state"), b"").unwrap();
        State::open(directory.path()).unwrap().count(Function::C_Login);
        let second = State::open(directory.path()).unwrap();
        second.count(Function::C_Login);
        let seen = Snapshot::read(directory.path()).unwrap();
        assert_eq!((seen.calls(Function::C_Login), seen.calls(Function::C_Logout)), (2, 0));
        std::fs::write(directory.path().join("state"), [7; 1 << 13]).unwrap();
        assert!(State::open(directory.path()).is_err());
    }

    #[test]
    fn every_version_of_the_rules_has_its_generation() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let other = State::open(directory.path()).unwrap();
        let lock = state.lock().unwrap();
        let [a, b] = [Identity([1, 2, 3]), Identity([1, 2, 4])];
        assert_eq!(state.generation_of(Identity::ABSENT, &lock), 1);
        assert_eq!([state.generation_of(a, &lock), other.generation_of(a, &lock)], [2, 2]);
        assert_eq!([other.generation_of(b, &lock), state.generation_of(a, &lock)], [3, 4]);
    }
}
