#![forbid(unsafe_code)]
//! How a job can end badly, as the rooms above see it.

use super::protocol::Failure;

/// Why the token gave no answer, or a bad one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More jobs wait than the config allows.
    #[error(
        "{0} jobs wait for the token already. Find out with `p11-kms status` whether it is slow; \
         server.queue-length sets the limit"
    )]
    QueueFull(usize),
    /// The caller's time is up.
    #[error(
        "the token did not answer in time. It is slow or hangs: see the log, and token.call-timeout"
    )]
    Deadline,
    /// The job was let go unrun.
    #[error("p11-kms is shutting down")]
    Dropped,
    /// There is no token to ask just now. The text says why.
    #[error("{0}")]
    Unavailable(String),
    /// The blob is not tried just now: it ended one worker after the other. That says nothing
    /// about the token.
    #[error(
        "the module crashed on this blob, each time that it was unwrapped. It is left alone for \
         some seconds, then tried again. If it stays so, ask the module's vendor"
    )]
    CrashesModule,
    /// The token's own word on this job.
    #[error(transparent)]
    Failed(#[from] Failure),
}
