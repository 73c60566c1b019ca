#![forbid(unsafe_code)]
//! What peers may take, and what became of them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::Notify;

use crate::audit::Audit;

/// What one peer, or all of them together, may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time. One apiserver needs one.
    pub connections: usize,
    /// Calls at a time on one connection; the client holds back the rest of them.
    pub streams: u32,
    /// One gRPC message, in bytes. For the service, which decodes it.
    pub message_size: usize,
    /// All header fields of one request, in bytes as HTTP/2 counts them (RFC 9113, section 6.5.2).
    pub header_size: u32,
    /// From accept to the client's SETTINGS.
    pub handshake_timeout: Duration,
    /// From the last sign of life to a ping. An idle connection that answers lives for ever.
    pub keepalive_interval: Duration,
    /// From the ping to its answer.
    pub keepalive_timeout: Duration,
    /// From the shutdown to the end of the last call.
    pub drain_timeout: Duration,
    /// Does a call of this path carry secrets, there or back?
    pub carries_secrets: fn(path: &str) -> bool,
    /// From the last call that carried secrets to the end of its connection, whose
    /// buffers have parts of them. The peer dials anew by itself.
    pub quiet_time: Duration,
    /// From the last call of any kind to the end of its connection, but only when somebody else finds
    /// no place. The peer dials anew by itself.
    pub idle_time: Duration,
    /// What happened, for the metrics. Clones share it.
    pub counters: Arc<Counters>,
    /// Where peers that are refused are written down.
    pub audit: Audit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            // An apiserver that starts sends thousands of Decrypts at once. More than can wait for
            // the token: its Status comes on the same connection.
            streams: 16384,
            message_size: 64 << 10,
            header_size: 16 << 10,
            handshake_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(10),
            carries_secrets: |_| true,
            quiet_time: Duration::from_secs(2),
            idle_time: Duration::from_secs(10),
            counters: Arc::default(),
            audit: Audit::off(),
        }
    }
}

/// How many connections there were since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Let in.
    pub accepted: AtomicU64,
    /// Closed since the peer is not on the allow-list: at once, or when the list was replaced.
    pub refused: AtomicU64,
    /// Closed since there were too many: at once, or, where it had said nothing yet, for a new one.
    pub full: AtomicU64,
    /// Ended by an error: broken protocol, too slow, gone without a word.
    pub failed: AtomicU64,
    /// Not a sum: those open now.
    pub open: AtomicU64,
    /// Not connections: how often the accept loop has gone round. It does so at least
    /// every [`ROUND`](super::ROUND).
    pub rounds: AtomicU64,
    /// Asks the loop for a round now: who waits for a sign of life may have little time.
    pub ask: Notify,
}
