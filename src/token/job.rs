#![forbid(unsafe_code)]
//! One piece of work on its way to a worker, and who waits for it.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::blame::{Company, Part};
use super::error::Error;
use super::frame::{Deadline, Operation, encode_job};
use super::merge::{Key, Merged};
use super::protocol::Fingerprint;

/// What a job gives back: a blob, a seed or JSON. Wiped when it goes.
pub(super) type Answer = Zeroizing<Vec<u8>>;

/// Where one caller's answer goes.
pub(super) type Reply = oneshot::Sender<Result<Answer, Error>>;

/// Where it comes out.
pub(super) type Receiver = oneshot::Receiver<Result<Answer, Error>>;

/// Who waits for a job.
pub(super) enum Askers {
    One(Reply),
    /// All who asked for the same.
    Many(Merged),
}

/// One piece of work.
pub(super) struct Job {
    frame: Zeroizing<Vec<u8>>,
    operation: Operation,
    deadline: Instant,
    /// Since when it waits for a session; `None` once it was given to one.
    waits_since: Option<Instant>,
    /// How often it was run by a worker that ended, and is not known to be blameless.
    runs: u32,
    /// How often its session was gone.
    refusals: u32,
    company: Company,
    askers: Askers,
}

impl Job {
    /// All workers of a host may lose their sessions at the same moment, and then a job
    /// meets one after the other. There is an end to it all the same.
    const MOST_REFUSALS: u32 = 4;

    /// A job that has `time` from now.
    pub(super) fn new(
        operation: Operation,
        kek: &Fingerprint,
        payload: &[u8],
        time: Duration,
        askers: Askers,
    ) -> Self {
        let frame = encode_job(operation, Deadline::after(time), kek, payload);
        let now = Instant::now();
        Self {
            frame,
            operation,
            deadline: now + time,
            waits_since: Some(now),
            runs: 0,
            refusals: 0,
            company: Company::Any,
            askers,
        }
    }

    /// The bytes to send.
    pub(super) fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// Gives the callers their answer, those who are still there.
    pub(super) fn answer(self, answer: Result<Answer, Error>) {
        match self.askers {
            Askers::One(reply) => drop(reply.send(answer)),
            Askers::Many(merged) => merged.answer(answer),
        }
    }

    /// Does anybody still want it?
    pub(super) fn is_wanted(&self) -> bool {
        let somebody_waits = match &self.askers {
            Askers::One(reply) => !reply.is_closed(),
            Askers::Many(merged) => merged.is_wanted(),
        };
        somebody_waits && !self.is_late()
    }

    /// Is its deadline over?
    pub(super) fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// What is to be done.
    pub(super) const fn operation(&self) -> Operation {
        self.operation
    }

    /// It is given to a session: how long did it wait? Told once, however often it is run.
    pub(super) fn end_wait(&mut self) -> Option<Duration> {
        self.waits_since.take().map(|since| since.elapsed())
    }

    /// Is it a single wrap or unwrap?
    pub(super) const fn is_one_seed(&self) -> bool {
        self.operation.is_one_seed()
    }

    /// What may be beside it where it is run next.
    pub(super) const fn company(&self) -> Company {
        self.company
    }

    /// What it asks for, if others may ask for the same.
    pub(super) const fn key(&self) -> Option<&Key> {
        match &self.askers {
            Askers::One(_) => None,
            Askers::Many(merged) => Some(merged.key()),
        }
    }

    /// A worker that had the job ended. One that may be repeated is run again as long as
    /// somebody else can be to blame for that.
    pub(super) fn outlived_its_worker(&mut self, part: Part) {
        match part {
            _ if !self.operation.is_repeatable() => self.runs += 1,
            Part::None => {}
            Part::NoSession if self.refusals < Self::MOST_REFUSALS => self.refusals += 1,
            // Next time it is known: so there is an end to this, too.
            Part::Suspect(company) => self.company = self.company.max(company),
            Part::NoSession | Part::Run => self.runs += 1,
        }
    }

    /// May another worker try it? Once, if it has no side effect.
    pub(super) const fn may_run_again(&self) -> bool {
        match self.runs {
            0 => true,
            1 => self.operation.is_repeatable(),
            _ => false,
        }
    }
}
