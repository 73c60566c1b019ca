#![forbid(unsafe_code)]
//! Equal unwraps at the same time are one job: an apiserver that starts asks for the
//! same seed many times at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::error::Error;
use super::frame::Operation;
use super::job::{Answer, Receiver, Reply};
use super::protocol::Fingerprint;

/// What makes two jobs equal: the operation, the KEK and the blob.
pub(super) type Key = (Operation, Fingerprint, Arc<[u8]>);

/// The unwraps that are under way, and who waits for each.
#[derive(Clone, Default)]
pub(super) struct Merger(Arc<Mutex<HashMap<Key, Vec<Reply>>>>);

/// How a caller waits.
pub(super) enum Joined {
    /// Nobody has asked for this yet: the caller has to submit the job.
    First(Receiver, Merged),
    /// Somebody has.
    Later(Receiver),
}

/// All who wait for one job. It goes with the job; when the job is dropped
/// unanswered, they are told that nothing will come.
pub(super) struct Merged {
    merger: Merger,
    key: Key,
    answered: bool,
}

impl Merger {
    /// Waits for an unwrap, together with those who wait for the same.
    pub(super) fn join(&self, operation: Operation, kek: &Fingerprint, blob: &[u8]) -> Joined {
        let key = (operation, *kek, Arc::from(blob));
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting();
        if let Some(others) = waiting.get_mut(&key) {
            others.push(reply);
            return Joined::Later(answer);
        }
        waiting.insert(key.clone(), vec![reply]);
        Joined::First(answer, Merged { merger: self.clone(), key, answered: false })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Key, Vec<Reply>>> {
        // Each step leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Merged {
    /// What they wait for.
    pub(super) const fn key(&self) -> &Key {
        &self.key
    }

    /// Is anybody still there?
    pub(super) fn is_wanted(&self) -> bool {
        let waiting = self.merger.waiting();
        waiting.get(&self.key).is_some_and(|replies| replies.iter().any(|it| !it.is_closed()))
    }

    /// Gives everybody the answer.
    pub(super) fn answer(mut self, answer: Result<Answer, Error>) {
        // From here on the key may be that of a newer job.
        self.answered = true;
        let mut replies = self.merger.waiting().remove(&self.key).unwrap_or_default();
        let last = replies.pop();
        for reply in replies {
            let _ = reply.send(answer.clone());
        }
        if let Some(last) = last {
            let _ = last.send(answer);
        }
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        if !self.answered {
            self.merger.waiting().remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algorithm::Algorithm;

    const UNWRAP: Operation = Operation::Unwrap(Algorithm::Kw);
    const KEK: Fingerprint = Fingerprint::NONE;

    fn first(joined: Joined) -> (Receiver, Merged) {
        match joined {
            Joined::First(answer, merged) => (answer, merged),
            Joined::Later(_) => panic!("there is such a job already"),
        }
    }

    fn later(joined: Joined) -> Receiver {
        match joined {
            Joined::First(..) => panic!("there is no such job"),
            Joined::Later(answer) => answer,
        }
    }

    #[test]
    fn all_who_ask_for_the_same_get_the_one_answer() {
        let merger = Merger::default();
        let (one, merged) = first(merger.join(UNWRAP, &KEK, b"blob"));
        let others =
            [later(merger.join(UNWRAP, &KEK, b"blob")), later(merger.join(UNWRAP, &KEK, b"blob"))];
        merged.answer(Ok(b"seed".to_vec().into()));
        for mut answer in [one].into_iter().chain(others) {
            assert_eq!(**answer.try_recv().unwrap().as_ref().unwrap(), *b"seed");
        }
    }

    #[test]
    fn another_blob_kek_or_algorithm_is_another_job() {
        let merger = Merger::default();
        let _first = first(merger.join(UNWRAP, &KEK, b"blob"));
        let _blob = first(merger.join(UNWRAP, &KEK, b"BLOB"));
        let _kek = first(merger.join(UNWRAP, &Fingerprint::new([1; 40]), b"blob"));
        let _kwp = first(merger.join(Operation::Unwrap(Algorithm::Kwp), &KEK, b"blob"));
    }

    #[test]
    fn what_has_been_answered_is_asked_anew() {
        let merger = Merger::default();
        let (_, merged) = first(merger.join(UNWRAP, &KEK, b"blob"));
        merged.answer(Err(Error::Deadline));
        let _ = first(merger.join(UNWRAP, &KEK, b"blob"));
        assert!(merger.waiting().is_empty(), "a job that was dropped leaves nothing");
    }

    #[test]
    fn it_is_wanted_as_long_as_one_of_them_is_there() {
        let merger = Merger::default();
        let (one, merged) = first(merger.join(UNWRAP, &KEK, b"blob"));
        let other = later(merger.join(UNWRAP, &KEK, b"blob"));
        drop(one);
        assert!(merged.is_wanted());
        drop(other);
        assert!(!merged.is_wanted());
    }

    #[test]
    fn a_job_that_is_dropped_tells_them() {
        let merger = Merger::default();
        let (mut one, merged) = first(merger.join(UNWRAP, &KEK, b"blob"));
        drop(merged);
        assert!(matches!(one.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    }
}
