#![forbid(unsafe_code)]
//! The bytes on a session socket.
//!
//! ```text
//! job:     length u32 | operation u8 | deadline u64 | fingerprint [40] | payload
//! answer:  length u32 | outcome u8   | payload
//! ```
//!
//! Numbers are little-endian; a length counts what follows it. The deadline is
//! `CLOCK_MONOTONIC` in nanoseconds, which both processes read alike.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use zeroize::{Zeroize, Zeroizing};

use super::protocol::{Failure, Fingerprint};
use crate::algorithm::Algorithm;

/// Longest job, in bytes after the length: a note, or a file with a KEK in it.
pub const MAX_JOB: usize = 64 * 1024;

/// Longest payload of a job, in bytes.
pub const MAX_PAYLOAD: usize = MAX_JOB - JOB_HEAD;

/// Longest frame of a wrap or unwrap, in bytes with its length: the largest blob.
pub const MAX_SEED_FRAME: usize = LENGTH + JOB_HEAD + Algorithm::MAX_WRAPPED;

/// Longest answer, in bytes after the length: a list of a few thousand KEKs.
pub const MAX_ANSWER: usize = 4 * 1024 * 1024;

const LENGTH: usize = 4;
const JOB_HEAD: usize = 1 + 8 + Fingerprint::LEN;

/// What a session thread is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Wrap the payload.
    Wrap(Algorithm),
    /// Unwrap the payload.
    Unwrap(Algorithm),
    /// List the keys of the keyring: JSON of a `Found`.
    Find,
    /// Make the key whose label is the payload: JSON of the `FoundKey`.
    Generate,
    /// Keep a text on the token. The payload is JSON of a `NewNote`.
    WriteNote,
    /// Destroy the KEK of the job whose label is the payload.
    Destroy,
    /// Bring a key onto the token. The payload is that of an `Import`: JSON of the `FoundKey`.
    Import,
    /// Look at token and KEKs closely: JSON of an `Inspection`.
    Inspect,
}

impl Operation {
    const ALL: [(u8, Self); 10] = [
        (1, Self::Wrap(Algorithm::Kw)),
        (2, Self::Wrap(Algorithm::Kwp)),
        (3, Self::Unwrap(Algorithm::Kw)),
        (4, Self::Unwrap(Algorithm::Kwp)),
        (5, Self::Find),
        (6, Self::Generate),
        (7, Self::WriteNote),
        (8, Self::Destroy),
        (9, Self::Import),
        (10, Self::Inspect),
    ];

    const fn code(self) -> u8 {
        match self {
            Self::Wrap(Algorithm::Kw) => 1,
            Self::Wrap(Algorithm::Kwp) => 2,
            Self::Unwrap(Algorithm::Kw) => 3,
            Self::Unwrap(Algorithm::Kwp) => 4,
            Self::Find => 5,
            Self::Generate => 6,
            Self::WriteNote => 7,
            Self::Destroy => 8,
            Self::Import => 9,
            Self::Inspect => 10,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == code).map(|(_, operation)| operation)
    }

    /// May it be run a second time when nobody knows how the first ended?
    ///
    /// A second `Generate` or `Import` could make a second KEK. A second `Destroy` would find
    /// nothing, and call an unknown KEK what has been done. A second `WriteNote` finds the
    /// text that the first one wrote, and destroys what the first one left of the rest.
    #[must_use]
    pub const fn is_repeatable(self) -> bool {
        !matches!(self, Self::Generate | Self::Destroy | Self::Import)
    }

    /// Is it one wrap or unwrap?
    #[must_use]
    pub const fn is_one_seed(self) -> bool {
        matches!(self, Self::Wrap(_) | Self::Unwrap(_))
    }
}

/// A moment on the clock that both processes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(u64);

impl Deadline {
    /// That long from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self(monotonic_nanos().saturating_add(nanos))
    }

    /// Is it behind us?
    #[must_use]
    pub fn has_passed(self) -> bool {
        monotonic_nanos() > self.0
    }
}

fn monotonic_nanos() -> u64 {
    // The call cannot fail for this clock; time 0 would only let a job run late.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(|time| u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
        .unwrap_or(0)
}

/// The frame of a job. It holds a seed or a blob, so it wipes itself.
#[must_use]
pub fn encode_job(
    operation: Operation,
    deadline: Deadline,
    kek: &Fingerprint,
    payload: &[u8],
) -> Zeroizing<Vec<u8>> {
    let len = JOB_HEAD + payload.len();
    let mut frame = Zeroizing::new(Vec::with_capacity(LENGTH + len));
    frame.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    frame.push(operation.code());
    frame.extend_from_slice(&deadline.0.to_le_bytes());
    frame.extend_from_slice(kek.as_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A job as it lies in the worker's buffer. Its payload may be a seed.
pub struct JobRef<'a> {
    /// What to do.
    pub operation: Operation,
    /// When to let it be.
    pub deadline: Deadline,
    /// Under which KEK.
    pub kek: Fingerprint,
    /// The seed, the blob, or what the operation says.
    pub payload: &'a [u8],
}

impl std::fmt::Debug for JobRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of {} bytes", self.operation, self.payload.len())
    }
}

/// Reads a job from what stood between its length and the next frame.
///
/// # Errors
/// [`BadFrame`] if it is too short, names no operation, or is too long for it.
pub fn decode_job(body: &[u8]) -> Result<JobRef<'_>, BadFrame> {
    let (operation, rest) = body.split_first().ok_or(BadFrame::Short)?;
    let operation = Operation::from_code(*operation).ok_or(BadFrame::Operation(*operation))?;
    let (deadline, rest) = rest.split_first_chunk().ok_or(BadFrame::Short)?;
    let (kek, payload) = rest.split_first_chunk().ok_or(BadFrame::Short)?;
    if operation.is_one_seed() && payload.len() > Algorithm::MAX_WRAPPED {
        return Err(BadFrame::Long(body.len()));
    }
    Ok(JobRef {
        operation,
        deadline: Deadline(u64::from_le_bytes(*deadline)),
        kek: Fingerprint::new(*kek),
        payload,
    })
}

/// Appends an answer to what will be written.
pub fn encode_answer(out: &mut Vec<u8>, answer: Result<&[u8], &Failure>) {
    let json;
    let (outcome, payload) = match answer {
        Ok(payload) => (0, payload),
        Err(failure) => {
            json = serde_json::to_vec(failure).unwrap_or_default();
            (1, json.as_slice())
        }
    };
    let len = 1 + payload.len();
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    out.push(outcome);
    out.extend_from_slice(payload);
}

/// Reads an answer from what stood between its length and the next frame.
///
/// # Errors
/// [`BadFrame`] if it is neither a good answer nor a failure.
pub fn decode_answer(body: &[u8]) -> Result<Result<&[u8], Failure>, BadFrame> {
    match body.split_first().ok_or(BadFrame::Short)? {
        (0, payload) => Ok(Ok(payload)),
        (1, json) => serde_json::from_slice(json).map(Err).map_err(|_| BadFrame::Failure),
        (other, _) => Err(BadFrame::Outcome(*other)),
    }
}

/// The peer process broke the protocol: it is broken, or memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Less than a head.
    #[error("a frame is shorter than its head")]
    Short,
    /// More than the limit.
    #[error("a frame of {0} bytes is over the limit")]
    Long(usize),
    /// No such operation.
    #[error("a frame names operation {0}, which does not exist")]
    Operation(u8),
    /// No such outcome.
    #[error("a frame names outcome {0}, which does not exist")]
    Outcome(u8),
    /// A failure that cannot be read.
    #[error("a frame holds a failure that cannot be read")]
    Failure,
}

/// Bytes that have arrived, cut into frames. What was taken out is wiped.
#[derive(Debug)]
pub struct Inbox {
    buffer: Zeroizing<Vec<u8>>,
    start: usize,
    end: usize,
    limit: usize,
}

impl Inbox {
    const CHUNK: usize = 16 * 1024;

    /// An inbox for frames of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: Zeroizing::new(vec![0; Self::CHUNK]), start: 0, end: 0, limit }
    }

    /// Room to read into. Say how much was read with [`Self::filled`].
    pub fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            let kept = self.end - self.start;
            if let Some(stale) = self.buffer.get_mut(kept..self.end) {
                stale.zeroize();
            }
            (self.start, self.end) = (0, kept);
        }
        if self.end == self.buffer.len() {
            // A new buffer instead of resize: the old one must be wiped.
            let mut larger = Zeroizing::new(vec![0; self.buffer.len() * 2]);
            for (to, from) in larger.iter_mut().zip(self.buffer.iter()) {
                *to = *from;
            }
            self.buffer = larger;
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// `len` bytes of the room now hold data.
    pub fn filled(&mut self, len: usize) {
        self.end = self.buffer.len().min(self.end + len);
    }

    /// The next whole frame, without its length; `None` until more has come.
    ///
    /// # Errors
    /// [`BadFrame::Long`] as soon as a length over the limit is seen.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, BadFrame> {
        let arrived = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some((len, rest)) = arrived.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
        if len > self.limit {
            return Err(BadFrame::Long(len));
        }
        if rest.len() < len {
            return Ok(None);
        }
        let body = self.start + LENGTH;
        self.start = body + len;
        Ok(self.buffer.get(body..self.start))
    }

    /// Is nothing left that has arrived and was not taken out?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Wipes what was taken out, if nothing else is left.
    pub fn wipe(&mut self) {
        if self.is_empty() {
            if let Some(used) = self.buffer.get_mut(..self.end) {
                used.zeroize();
            }
            (self.start, self.end) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::protocol::Class;
    use super::*;

    fn feed(inbox: &mut Inbox, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            let room = inbox.room();
            let len = room.len().min(left.len());
            room[..len].copy_from_slice(&left[..len]);
            inbox.filled(len);
            left = &left[len..];
        }
    }

    #[test]
    fn a_failure_comes_back_as_it_was() {
        let failure = Failure::new(Class::TokenLost, "C_WrapKey: CKR_DEVICE_ERROR");
        let mut out = Vec::new();
        encode_answer(&mut out, Err(&failure));
        assert_eq!(decode_answer(&out[4..]).unwrap().unwrap_err(), failure);
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_read() {
        let mut inbox = Inbox::new(100);
        feed(&mut inbox, &101_u32.to_le_bytes());
        assert_eq!(inbox.next_frame(), Err(BadFrame::Long(101)));
    }

    #[test]
    fn what_was_taken_out_is_wiped() {
        let mut inbox = Inbox::new(MAX_JOB);
        let frame =
            encode_job(Operation::Find, Deadline(1), &Fingerprint::NONE, b"a seed to be wiped");
        feed(&mut inbox, &frame);
        assert!(inbox.next_frame().unwrap().is_some());
        inbox.wipe();
        assert!(inbox.buffer.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn codes_and_operations_agree() {
        for (code, operation) in Operation::ALL {
            assert_eq!(operation.code(), code);
            assert_eq!(Operation::from_code(code), Some(operation));
        }
        assert_eq!(Operation::from_code(0), None);
    }

    #[test]
    fn what_makes_or_destroys_a_kek_must_not_be_repeated() {
        let once = [Operation::Generate, Operation::Destroy, Operation::Import];
        for (_, operation) in Operation::ALL {
            assert_eq!(operation.is_repeatable(), !once.contains(&operation));
        }
    }

    #[test]
    fn only_a_seed_and_its_blob_have_the_shorter_limit() {
        let payload = [0; Algorithm::MAX_WRAPPED + 1];
        for (_, operation) in Operation::ALL {
            let frame = encode_job(operation, Deadline(1), &Fingerprint::NONE, &payload);
            let decoded = decode_job(&frame[LENGTH..]);
            assert_eq!(decoded.is_err(), operation.is_one_seed(), "{operation:?}");
        }
    }

    #[test]
    fn deadlines_pass() {
        assert!(!Deadline::after(Duration::from_secs(60)).has_passed());
        assert!(Deadline(0).has_passed());
    }

    proptest! {
        #[test]
        fn jobs_round_trip_however_they_are_cut(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1008), 1..40),
            cut in 1..5000_usize,
        ) {
            let mut bytes = Vec::new();
            for payload in &payloads {
                let operation = Operation::Wrap(Algorithm::for_len(payload.len()));
                bytes.extend_from_slice(&encode_job(operation, Deadline(9), &Fingerprint::new([3; 40]), payload));
            }
            let mut inbox = Inbox::new(MAX_JOB);
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                feed(&mut inbox, piece);
                while let Some(body) = inbox.next_frame().unwrap() {
                    let job = decode_job(body).unwrap();
                    prop_assert_eq!(job.deadline, Deadline(9));
                    prop_assert_eq!(job.kek, Fingerprint::new([3; 40]));
                    seen.push(job.payload.to_vec());
                }
                inbox.wipe();
            }
            prop_assert_eq!(seen, payloads);
            prop_assert!(inbox.is_empty());
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = decode_job(&bytes);
            let _ = decode_answer(&bytes);
            let mut inbox = Inbox::new(64);
            feed(&mut inbox, &bytes);
            while let Ok(Some(_)) = inbox.next_frame() {}
        }
    }
}
