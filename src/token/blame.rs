#![forbid(unsafe_code)]
//! What a job has to do with the end of a worker that had it.

use super::protocol::Class;

/// How a worker came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It said so itself, in its answer to a job.
    Told(Class),
    /// It did not answer in time.
    Hung,
    /// Its process ended: the module crashed, or somebody killed it.
    Died,
}

/// What a job has to do with the end of a worker that had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Nothing.
    None,
    /// Its session was gone.
    NoSession,
    /// It may have brought that about, or one beside it. Next it runs without those.
    Suspect(Company),
    /// It was run, and nothing speaks for it.
    Run,
}

/// What may be at a job's worker together with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Company {
    /// Whatever there is.
    #[default]
    Any,
    /// Jobs of other sessions.
    OtherSessions,
    /// No other job.
    Nobody,
}

/// How a worker came to its end, as the first of its lanes saw it.
#[derive(Clone, Copy)]
pub(super) struct Doom {
    pub(super) cause: Cause,
    /// It had one job and no other, in all its lanes.
    pub(super) one_job: bool,
}

impl Doom {
    /// What the jobs that one of the worker's lanes had sent have to do with it; `first`: the lane
    /// that broke before the others. The worker keeps answers back for a moment to write several
    /// at once, so it may have been at any of them.
    pub(super) fn part(self, first: bool, sent: usize) -> Part {
        match self.cause {
            Cause::Told(Class::SessionLost) => Part::NoSession,
            Cause::Told(_) => Part::Run,
            Cause::Hung if !first => Part::None,
            Cause::Hung if sent == 1 => Part::Run,
            Cause::Hung => Part::Suspect(Company::OtherSessions),
            Cause::Died if self.one_job => Part::Run,
            Cause::Died => Part::Suspect(Company::Nobody),
        }
    }
}
