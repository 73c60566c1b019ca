#![forbid(unsafe_code)]
//! What the pool tells of itself.

use super::protocol::Failure;

/// How much there is to do, and who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Jobs that wait for a session.
    pub waiting: usize,
    /// How many may.
    pub limit: usize,
    /// Sessions that have a job.
    pub busy: usize,
    /// Sessions that have none.
    pub idle: usize,
}

impl Load {
    /// All sessions.
    #[must_use]
    pub const fn sessions(&self) -> usize {
        self.busy + self.idle
    }
}

/// Is there a token to ask?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// At least one session answers.
    Up,
    /// A worker is being started: the first one, or one in place of those that ended so.
    Starting {
        /// How the last one ended, or why the one in its place could not be started.
        after: Option<Failure>,
    },
    /// The last start failed.
    Down(Failure),
}
