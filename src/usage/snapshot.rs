//! A snapshot of etcd: what `etcdctl snapshot save` writes, or a copy of `member/snap/db`.
//!
//! The bucket `key` holds every revision of every key that was not compacted yet, in the
//! order of time. It is read from the newest to the oldest, and the first that is found
//! of a key is the one that counts. All that is kept of a key is a hash of 128 bits (of
//! SHA-256, so that nobody can make two that are the same): 1,000,000 objects take some
//! 40 MB, however large they are. Values come and go page by page.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use prost::Message;
use sha2::{Digest, Sha256};

use super::bolt::{Bolt, Pair};
use super::{Progress, Tally, Unit};
use crate::proto::etcd::KeyValue;

/// The bucket of etcd's file that holds the keys.
const BUCKET: &[u8] = b"key";

/// The name of a revision: main (8), `_`, sub (8), each with the high byte first.
const REVISION: usize = 17;

/// What follows it when the key was deleted.
const TOMBSTONE: &[u8] = b"t";

/// Its whole pages are multiples of this; what `snapshot save` puts behind them is not
/// (etcd tells by this whether there is a checksum).
const UNIT: u64 = 512;
const CHECKSUM: u64 = 32;

/// Bytes that are hashed at a time.
const CHUNK: usize = 64 << 10;

/// What is wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Bad {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The checksum at its end is of other bytes.
    #[error("it is damaged: its checksum (SHA-256) is of other bytes. Save it again")]
    Checksum,
    /// Its length is that of no snapshot.
    #[error("it is not whole: its length is that of no snapshot. Save it again")]
    Length,
    /// Its form is not that of a snapshot.
    #[error("it is damaged, or no snapshot of etcd: {0}")]
    Damaged(&'static str),
}

/// Counts the newest revision of every key under `prefix` that is not deleted.
pub(super) fn count(
    file: &Path,
    prefix: &[u8],
    progress: &mut dyn FnMut(Progress),
) -> Result<Tally, Bad> {
    count_open(&File::open(file)?, prefix, progress)
}

/// The same, of a file that is open.
///
/// # Errors
/// It is no whole snapshot of etcd.
pub fn count_open(
    file: &File,
    prefix: &[u8],
    progress: &mut dyn FnMut(Progress),
) -> Result<Tally, Bad> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Bad::Damaged("it is not a file"));
    }
    let (len, sealed) = match (metadata.len(), metadata.len() % UNIT) {
        (len, 0) => (len, false),
        (len, CHECKSUM) => (len - CHECKSUM, true),
        _ => return Err(Bad::Length),
    };
    // Read once for the checksum and once for the keys.
    let total = if sealed { 2 * len } else { len };
    let mut done = 0;
    let mut passed = |bytes: u64| {
        done = total.min(done + bytes);
        progress(Progress { unit: Unit::Bytes, done, total });
    };
    if sealed {
        verify(file, len, &mut passed)?;
    }
    let bolt = Bolt::open(file, len)?;
    let root = bolt.bucket(BUCKET)?.ok_or(Bad::Damaged("it has no bucket of keys"))?;
    let mut newest = Newest { prefix, last: None, seen: HashSet::new(), tally: Tally::default() };
    bolt.walk(root, &mut passed, &mut |pair| newest.take(&pair))?;
    // What is free, or of other buckets, was passed over.
    passed(total);
    Ok(newest.tally)
}

/// Compares the checksum at the end with the bytes before it.
fn verify(file: &File, len: u64, passed: &mut dyn FnMut(u64)) -> Result<(), Bad> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < len {
        let wanted = usize::try_from(len - at).unwrap_or(CHUNK).min(CHUNK);
        let chunk = buffer.get_mut(..wanted).unwrap_or_default();
        file.read_exact_at(chunk, at)?;
        hash.update(&*chunk);
        at += wanted as u64;
        passed(wanted as u64);
    }
    let mut expected = [0; CHECKSUM as usize];
    file.read_exact_at(&mut expected, len)?;
    if hash.finalize().as_slice() == expected { Ok(()) } else { Err(Bad::Checksum) }
}

/// Takes revisions from the newest to the oldest.
struct Newest<'a> {
    prefix: &'a [u8],
    /// The revision before this one.
    last: Option<Vec<u8>>,
    /// The keys that were seen.
    seen: HashSet<u128>,
    tally: Tally,
}

impl Newest<'_> {
    fn take(&mut self, pair: &Pair<'_>) -> Result<(), Bad> {
        const ODD: Bad = Bad::Damaged("a revision has a name that etcd does not give");
        let (revision, mark) = pair.key.split_at_checked(REVISION).ok_or(ODD)?;
        let is_deleted = match mark {
            b"" => false,
            TOMBSTONE => true,
            _ => return Err(ODD),
        };
        // In any other order an old value could be taken for the newest one.
        if self.last.as_ref().is_some_and(|last| revision >= last.as_slice()) {
            return Err(Bad::Damaged("the revisions are not in order"));
        }
        if self.last.is_none() {
            let main = revision.first_chunk().ok_or(ODD)?;
            self.tally.revision = i64::from_be_bytes(*main);
        }
        self.last = Some(revision.to_owned());
        let KeyValue { key, value, .. } = KeyValue::decode(pair.value)
            .map_err(|_| Bad::Damaged("a revision holds no key and value"))?;
        let Some(name) = key.strip_prefix(self.prefix) else { return Ok(()) };
        if self.seen.insert(short(&key)) && !is_deleted {
            self.tally.add(name, &value);
        }
        Ok(())
    }
}

fn short(key: &[u8]) -> u128 {
    let hash = Sha256::digest(key);
    hash.as_slice().first_chunk().map_or(0, |half| u128::from_le_bytes(*half))
}

#[cfg(test)]
mod tests;
