#![forbid(unsafe_code)]
//! Every metric of p11-kms, with its type, its labels and what it means. `docs/metrics.md` has the
//! same list for those who watch; a test compares the two.

use metrics::Unit;

/// The upper bounds of all histograms, in seconds: from a token in software (0.1 ms) to a call that
/// waits for a new worker.
pub const BUCKETS: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the daemon.
    Counter,
    /// What is now.
    Gauge,
    /// How many took how long, in [`BUCKETS`].
    Histogram,
}

/// One metric: a name, and a line for each combination of its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// What is counted. It stands in the name where that is usual, and is no suffix by itself.
    pub unit: Unit,
    /// Its labels, in order.
    pub labels: &'static [&'static str],
    /// The HELP line.
    pub help: &'static str,
}

macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal in $unit:ident by [$($label:literal),*]: $help:literal;)+) => {
        $(pub(super) const $constant: Family = Family {
            name: $name,
            kind: Kind::$kind,
            unit: Unit::$unit,
            labels: &[$($label),*],
            help: $help,
        };)+

        /// All that p11-kms counts itself. The metrics of the process, which have the names that are
        /// usual everywhere, are not among them.
        pub const FAMILIES: &[Family] = &[$($constant),+];
    };
}

families! {
    BUILD_INFO = Gauge "p11_kms_build_info" in Count by ["version", "profile"]:
        "1, with the version and the profile of the token.";

    REQUESTS = Counter "p11_kms_requests_total" in Count by ["method", "code"]:
        "Calls answered, by gRPC code.";
    REQUEST_DURATION = Histogram "p11_kms_request_duration_seconds" in Seconds by ["method"]:
        "From the request to its answer.";
    IN_FLIGHT = Gauge "p11_kms_requests_in_flight" in Count by ["method"]:
        "Calls that are not answered yet.";

    QUEUE_LENGTH = Gauge "p11_kms_queue_length" in Count by []:
        "Jobs that wait for a session of the token.";
    QUEUE_LIMIT = Gauge "p11_kms_queue_limit" in Count by []:
        "Jobs that may wait: server.queue-length.";
    QUEUE_WAIT = Histogram "p11_kms_queue_wait_seconds" in Seconds by []:
        "How long a job waited until a session was given it.";

    OPERATIONS = Counter "p11_kms_token_operations_total" in Count by ["operation", "result"]:
        "Operations that the token answered, by kind and failure class.";
    OPERATION_DURATION = Histogram "p11_kms_token_operation_duration_seconds" in Seconds by ["operation"]:
        "How long the token took for a wrap or an unwrap, without waiting.";
    WORKER_STARTS = Counter "p11_kms_worker_starts_total" in Count by ["reason"]:
        "Workers that logged in, by the reason of their start.";
    START_FAILURES = Counter "p11_kms_worker_start_failures_total" in Count by ["class"]:
        "Workers that could not be started.";
    STUCK_CALLS = Counter "p11_kms_stuck_calls_total" in Count by []:
        "Wraps and unwraps that took longer than token.call-timeout, so that their worker was killed.";
    SESSIONS = Gauge "p11_kms_sessions" in Count by ["state"]:
        "Sessions on the token.";
    TOKEN_UP = Gauge "p11_kms_token_up" in Count by []:
        "1 while at least one session answers.";
    TOKEN_UP_SINCE = Gauge "p11_kms_token_up_since_timestamp_seconds" in Seconds by []:
        "Since when a session has been answering without a break; 0 while none does.";
    PIN_LATCHED = Gauge "p11_kms_pin_latched" in Count by []:
        "1 while no login is tried, since the PIN was refused or the token could lock.";

    HEALTHY = Gauge "p11_kms_healthy" in Count by []:
        "1 while Status says ok.";
    UNHEALTHY = Gauge "p11_kms_unhealthy" in Count by ["reason"]:
        "1 for the reason why Status does not say ok.";

    ACTIVE_GENERATION = Gauge "p11_kms_active_generation" in Count by []:
        "Generation of the active KEK; absent while there is none.";
    KEK_INFO = Gauge "p11_kms_kek_info" in Count by ["generation", "key_id_hash", "state"]:
        "1 for each KEK on the token that may be used.";
    KEK_CREATED = Gauge "p11_kms_kek_created_timestamp_seconds" in Seconds by ["generation", "key_id_hash"]:
        "When the KEK was made, or was first seen if another tool made it.";
    KEK_AGE = Gauge "p11_kms_kek_age_seconds" in Seconds by ["generation", "key_id_hash"]:
        "Age of the KEK.";
    KEK_DECRYPTS = Counter "p11_kms_kek_decrypts_total" in Count by ["generation", "key_id_hash"]:
        "Good Decrypts with the KEK since the start.";
    KEK_LAST_DECRYPT = Gauge "p11_kms_kek_last_decrypt_timestamp_seconds" in Seconds by ["generation", "key_id_hash"]:
        "The last good Decrypt with the KEK, on any node as far as it is known; absent if there was none.";
    STATE_TROUBLE = Gauge "p11_kms_state_trouble" in Count by []:
        "1 while the state directory or the record cannot be read or written, or keyring.reinstate cannot be followed.";

    CONNECTIONS = Gauge "p11_kms_connections" in Count by []:
        "Open connections.";
    CONNECTIONS_LIMIT = Gauge "p11_kms_connections_limit" in Count by []:
        "Connections that may be open: server.max-connections.";
    CONNECTIONS_TOTAL = Counter "p11_kms_connections_total" in Count by ["outcome"]:
        "Connections; failed ones, and some refused ones, had been accepted before.";
    REFUSED_PEERS = Counter "p11_kms_refused_peers_total" in Count by []:
        "Connections closed since their peer is not on the allow-list, or is no longer.";

    AUDIT_LINES = Counter "p11_kms_audit_lines_total" in Count by ["event"]:
        "Lines written to the audit log.";
    AUDIT_FAILURES = Counter "p11_kms_audit_failures_total" in Count by []:
        "Lines that could not be written to the audit log.";
    AUDIT_REFUSED = Counter "p11_kms_audit_refused_total" in Count by []:
        "Calls refused since their line could not be written.";
    AUDIT_FAILING = Gauge "p11_kms_audit_failing" in Count by []:
        "1 while the audit log cannot be written.";
}
