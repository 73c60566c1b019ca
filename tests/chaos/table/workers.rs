//! The worker processes are killed, stopped, or hang while they start.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::row::{Act, BEHAVE, Row, SOON, Status, UNNOTICED, Workers};

/// A call that hangs is given up soon.
const IMPATIENT: &[&str] = &["token.call-timeout=500ms"];

/// A worker that hangs while it starts is given up soon.
const QUICK_START: &[&str] = &["token.start-timeout=1s"];

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "worker-killed",
        fault: "SIGKILL for a worker",
        begin: &[Act::KillWorkers(1), Act::WorkersGone(1)],
        workers: Workers::Replaced(1),
        logs: &["the worker process "],
        ..UNNOTICED
    },
    Row {
        name: "both-workers-killed",
        fault: "SIGKILL for both workers at once",
        begin: &[Act::KillWorkers(2), Act::WorkersGone(2)],
        status: Status::MaySay("; a new worker is being started"),
        workers: Workers::Replaced(2),
        ..UNNOTICED
    },
    Row {
        name: "worker-terminated",
        fault: "SIGTERM and SIGINT for both workers",
        begin: &[Act::Workers(Signal::SIGTERM), Act::Workers(Signal::SIGINT)],
        lasts: Duration::from_secs(1),
        ..UNNOTICED
    },
    Row {
        name: "worker-stopped",
        fault: "SIGSTOP for a worker",
        set: IMPATIENT,
        begin: &[Act::StopWorkers(1), Act::WorkersGone(1)],
        workers: Workers::Replaced(1),
        logs: &["(token.call-timeout is 500ms): the module hangs, its worker is replaced"],
        ..UNNOTICED
    },
    Row {
        name: "both-workers-stopped",
        fault: "SIGSTOP for both workers",
        set: IMPATIENT,
        begin: &[Act::StopWorkers(2), Act::WorkersGone(2)],
        may_see: &["Unavailable"],
        status: Status::MaySay("; a new worker is being started"),
        workers: Workers::Replaced(2),
        logs: &["(token.call-timeout is 500ms): the module hangs, its worker is replaced"],
        ..UNNOTICED
    },
    Row {
        name: "worker-killed-during-its-login",
        fault: "SIGKILL for a worker",
        moment: "in its C_Login, after another kill",
        begin: &[
            Act::Rules("C_Login hang times=1"),
            Act::KillWorkers(1),
            Act::Struck(1),
            Act::KillNewcomer,
        ],
        workers: Workers::Replaced(1),
        ..UNNOTICED
    },
    Row {
        name: "worker-killed-while-another-starts",
        fault: "SIGKILL for the last worker",
        moment: "while the other one is being replaced",
        begin: &[
            Act::Rules("C_Login hang"),
            Act::KillWorkers(1),
            Act::Struck(1),
            Act::KillWorkers(1),
        ],
        lasts: Duration::from_secs(1),
        status: Status::MaySay("; a new worker is being started"),
        workers: Workers::Replaced(2),
        ..UNNOTICED
    },
    Row {
        name: "login-hangs",
        fault: "C_Login hangs",
        moment: "when a killed worker is replaced",
        set: QUICK_START,
        begin: &[
            Act::Rules("C_Login hang"),
            Act::KillWorkers(1),
            Act::Logged("the module did not start and log in within 1s (token.start-timeout)"),
        ],
        workers: Workers::Replaced(1),
        ..UNNOTICED
    },
    Row {
        name: "initialize-hangs",
        fault: "C_Initialize hangs",
        moment: "when both workers are replaced",
        set: QUICK_START,
        begin: &[Act::Rules("C_Initialize hang"), Act::KillWorkers(2)],
        // Longer than a caller waits.
        lasts: Duration::from_secs(4),
        end: &[BEHAVE],
        may_see: &["Unavailable", "DeadlineExceeded"],
        status: Status::Says(&[
            "the module did not start and log in within 1s (token.start-timeout)",
        ]),
        workers: Workers::Replaced(2),
        well_within: SOON,
        is_seen: true,
        logs: &["no worker could be started: "],
        ..UNNOTICED
    },
    Row {
        name: "initialize-crashes",
        fault: "C_Initialize crashes, again and again",
        moment: "when both workers are replaced",
        begin: &[Act::Rules("C_Initialize segv"), Act::KillWorkers(2), Act::Struck(3)],
        workers: Workers::Replaced(2),
        status: Status::Says(&[
            "the worker process ended while the module was starting: signal: 11",
        ]),
        may_see: &["Unavailable"],
        is_seen: true,
        ..UNNOTICED
    },
    Row {
        name: "successor-hangs",
        fault: "C_Login hangs",
        moment: "when grown workers are to be replaced",
        set: &["token.replace-after-objects=400"],
        begin: &[Act::Rules("C_Login hang"), Act::Struck(1)],
        lasts: Duration::from_secs(2),
        workers: Workers::Any,
        logs: &["replacing the worker"],
        ..UNNOTICED
    },
    Row {
        name: "replaced-all-the-time",
        fault: "workers are replaced after every 200 seeds",
        moment: "all the time",
        set: &["token.replace-after-objects=200"],
        lasts: Duration::from_secs(2),
        workers: Workers::Replaced(2),
        logs: &["replacing the worker", "it has made as many objects as the profile allows"],
        ..UNNOTICED
    },
];
