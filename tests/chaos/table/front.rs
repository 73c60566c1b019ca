//! The front is killed, stopped, restarted, told to read its config again, or flooded.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::row::{AFTER_REDIAL, Act, Front, Row, Status, UNNOTICED, Workers};

/// There is no socket, or nobody behind it. The client waits for one.
const CUT_OFF: &[&str] = &["Unavailable", "DeadlineExceeded"];

/// Another front takes its place.
const RESTARTED: Row = Row {
    may_see: CUT_OFF,
    status: Status::Anything,
    well_within: AFTER_REDIAL,
    workers: Workers::Replaced(2),
    front: Front::Dies,
    ..UNNOTICED
};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "front-killed",
        fault: "SIGKILL for the front, then a restart",
        begin: &[Act::Front(Signal::SIGKILL), Act::StartFront],
        is_seen: true,
        ..RESTARTED
    },
    Row {
        name: "front-terminated",
        fault: "SIGTERM for the front, then a restart",
        begin: &[Act::Front(Signal::SIGTERM), Act::StartFront],
        ..RESTARTED
    },
    Row {
        name: "front-killed-during-its-start",
        fault: "SIGKILL for the front, then a restart",
        moment: "and once more during the start",
        begin: &[
            Act::Front(Signal::SIGKILL),
            Act::StartFront,
            Act::Pause(Duration::from_millis(30)),
            Act::Front(Signal::SIGKILL),
            Act::StartFront,
        ],
        ..RESTARTED
    },
    Row {
        name: "front-killed-while-a-worker-hangs",
        fault: "SIGKILL for the front, then a restart",
        moment: "while C_WrapKey hangs",
        begin: &[
            Act::Rules("C_WrapKey hang"),
            Act::Struck(1),
            Act::Front(Signal::SIGKILL),
            Act::StartFront,
        ],
        ..RESTARTED
    },
    Row {
        name: "front-started-before-its-token",
        fault: "the token is away",
        moment: "when the front starts",
        begin: &[Act::Hide("tokens"), Act::Front(Signal::SIGKILL), Act::StartFront],
        end: &[Act::Show("tokens")],
        status: Status::Says(&["C_Initialize answered"]),
        is_seen: true,
        logs: &["no worker could be started: "],
        ..RESTARTED
    },
    Row {
        name: "front-stopped",
        fault: "SIGSTOP for the front, 2 s",
        begin: &[Act::Front(Signal::SIGSTOP)],
        lasts: Duration::from_secs(2),
        end: &[Act::Front(Signal::SIGCONT)],
        front: Front::Pauses,
        ..UNNOTICED
    },
    Row {
        name: "hangup-storm",
        fault: "20 SIGHUPs in a second",
        begin: &[Act::Hangups(20)],
        workers: Workers::Replaced(2),
        logs: &["the worker is logged in"],
        ..UNNOTICED
    },
    Row {
        name: "hangup-with-a-hung-login",
        fault: "C_Login hangs",
        moment: "at a SIGHUP",
        set: &["token.start-timeout=1s"],
        begin: &[
            Act::Rules("C_Login hang"),
            Act::Hangups(1),
            Act::Logged("the module did not start and log in within 1s (token.start-timeout)"),
        ],
        workers: Workers::Any,
        ..UNNOTICED
    },
    Row {
        name: "hangup-with-a-broken-config",
        fault: "the config cannot be understood",
        moment: "at a SIGHUP",
        begin: &[
            Act::Config("[health]", "[healht]"),
            Act::Hangups(1),
            Act::Logged("SIGHUP: the config is not taken, the old one stays: "),
        ],
        end: &[Act::Config("[healht]", "[health]")],
        ..UNNOTICED
    },
    Row {
        name: "connections-flood",
        fault: "300 idle connections from another process",
        begin: &[
            Act::Flood(300),
            Act::Logged("a silent connection closed for this one: server.max-connections are open"),
        ],
        lasts: Duration::from_secs(2),
        end: &[Act::EndFlood],
        ..UNNOTICED
    },
    Row {
        name: "log-not-read",
        fault: "nobody reads the log, its pipe is full",
        begin: &[Act::StopLogReader, Act::LogIsFull],
        lasts: Duration::from_secs(2),
        end: &[Act::ContinueLogReader],
        ..UNNOTICED
    },
];
