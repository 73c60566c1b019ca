//! Files go away.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::row::{AFTER_REDIAL, Act, Front, Row, Status, UNNOTICED, Workers};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "pin-file-removed",
        fault: "the PIN file is removed",
        begin: &[Act::Hide("pin")],
        lasts: Duration::from_secs(2),
        end: &[Act::Show("pin")],
        ..UNNOTICED
    },
    Row {
        name: "pin-file-missing-for-one",
        fault: "the PIN file is not there",
        moment: "when a killed worker is replaced",
        begin: &[Act::Hide("pin"), Act::KillWorkers(1), Act::Logged("No such file")],
        end: &[Act::Show("pin")],
        workers: Workers::Replaced(1),
        ..UNNOTICED
    },
    Row {
        name: "pin-file-missing-for-both",
        fault: "the PIN file is not there",
        moment: "when both workers are replaced",
        begin: &[Act::Hide("pin"), Act::KillWorkers(2)],
        end: &[Act::Show("pin")],
        may_see: &["Unavailable"],
        status: Status::Says(&["/pin"]),
        workers: Workers::Replaced(2),
        is_seen: true,
        ..UNNOTICED
    },
    Row {
        name: "config-removed",
        fault: "the config is not there",
        moment: "at a SIGHUP",
        begin: &[
            Act::Hide("config.toml"),
            Act::Hangups(1),
            Act::Logged("SIGHUP: the config is not taken, the old one stays: "),
        ],
        end: &[Act::Show("config.toml")],
        ..UNNOTICED
    },
    Row {
        name: "module-removed",
        fault: "the module's file is not there",
        moment: "when a killed worker is replaced",
        begin: &[
            Act::Hide("faulty-module.so"),
            Act::KillWorkers(1),
            Act::Logged("no worker could be started"),
        ],
        end: &[Act::Show("faulty-module.so")],
        workers: Workers::Replaced(1),
        ..UNNOTICED
    },
    Row {
        name: "socket-removed",
        fault: "the socket is removed; a restart makes it anew",
        begin: &[Act::Remove("run/kms.sock")],
        lasts: Duration::from_secs(1),
        end: &[Act::Front(Signal::SIGTERM), Act::StartFront],
        may_see: &["Unavailable", "DeadlineExceeded"],
        status: Status::Anything,
        well_within: AFTER_REDIAL,
        workers: Workers::Replaced(2),
        front: Front::Dies,
        ..UNNOTICED
    },
];
