//! What operators of HSMs tell of: firmware, failovers, full tokens, frozen machines.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::token::GONE;
use crate::row::{Act, Front, Load, Row, Status, UNNOTICED, Workers};

const A_WHILE: Duration = Duration::from_millis(1500);

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "general-error-until-initialize",
        fault: "CKR_GENERAL_ERROR, for each process that saw it once",
        begin: &[Act::Rules("token lost-until-initialize return=CKR_GENERAL_ERROR")],
        lasts: A_WHILE,
        may_see: &["Unavailable"],
        status: Status::Says(&["no token matches token.uri"]),
        workers: Workers::Any,
        is_seen: true,
        ..UNNOTICED
    },
    Row {
        name: "vendor-error-until-initialize",
        fault: "a vendor's code, for each process that saw it once",
        set: &["health.interval=1s"],
        begin: &[Act::Rules("token lost-until-initialize return=0x80000099")],
        lasts: A_WHILE,
        may_see: &["Unavailable", "FailedPrecondition", "NotFound"],
        is_seen: true,
        status: Status::Says(&["0x80000099"]),
        workers: Workers::Replaced(2),
        logs: &["replacing the worker"],
        ..UNNOTICED
    },
    Row {
        name: "mechanism-removed",
        fault: "key wrap answers CKR_MECHANISM_INVALID",
        begin: &[Act::Rules("C_WrapKey,C_UnwrapKey return=CKR_MECHANISM_INVALID")],
        lasts: A_WHILE,
        may_see: &["FailedPrecondition", "NotFound"],
        status: Status::Says(&["CKR_MECHANISM_INVALID"]),
        workers: Workers::Any,
        is_seen: true,
        ..UNNOTICED
    },
    Row {
        name: "token-full",
        fault: "C_CreateObject answers CKR_DEVICE_MEMORY",
        begin: &[Act::Rules("C_CreateObject return=CKR_DEVICE_MEMORY"), Act::Struck(1)],
        lasts: A_WHILE,
        may_see: &["Unavailable"],
        status: Status::Says(&["C_CreateObject answered CKR_DEVICE_MEMORY"]),
        workers: Workers::Any,
        is_seen: true,
        ..UNNOTICED
    },
    Row {
        name: "empty-wrap",
        fault: "C_WrapKey answers CKR_OK and gives out nothing",
        begin: &[Act::Rules("C_WrapKey truncate=40"), Act::Struck(1)],
        lasts: A_WHILE,
        may_see: &["Unavailable", "FailedPrecondition", "NotFound"],
        status: Status::Says(&["wrap gave 0 bytes where 40 were due"]),
        workers: Workers::Any,
        is_seen: true,
        ..UNNOTICED
    },
    Row {
        name: "empty-read",
        fault: "C_GetAttributeValue answers CKR_OK and gives out nothing",
        begin: &[Act::Rules("C_GetAttributeValue truncate=32"), Act::Struck(1)],
        lasts: A_WHILE,
        may_see: &["Unavailable", "FailedPrecondition", "NotFound"],
        status: Status::Says(&["0 bytes"]),
        workers: Workers::Any,
        is_seen: true,
        ..UNNOTICED
    },
    Row {
        name: "answer-lost",
        fault: "a C_WrapKey is done, and its answer is CKR_DEVICE_ERROR",
        begin: &[Act::Rules("C_WrapKey after-return=CKR_DEVICE_ERROR times=1"), Act::Struck(1)],
        ..UNNOTICED
    },
    Row {
        name: "machine-frozen",
        fault: "all processes stand still, longer than call-timeout",
        set: &["token.call-timeout=500ms"],
        begin: &[Act::Front(Signal::SIGSTOP), Act::Workers(Signal::SIGSTOP)],
        lasts: A_WHILE,
        end: &[Act::Workers(Signal::SIGCONT), Act::Front(Signal::SIGCONT)],
        status: Status::Anything,
        front: Front::Pauses,
        workers: Workers::Any,
        ..UNNOTICED
    },
    Row {
        name: "kek-restored",
        fault: "the only KEK is deleted, and brought back from a backup",
        load: Load::Throughout,
        begin: &[Act::BackUp, Act::DeleteKek],
        end: &[Act::Restore],
        may_see: &["FailedPrecondition", "NotFound"],
        status: Status::Says(&[GONE]),
        workers: Workers::Any,
        is_seen: true,
        logs: &["no KEK is active: the active KEK"],
        ..UNNOTICED
    },
    Row {
        name: "token-made-anew",
        fault: "the token is initialised again; later it has a new KEK",
        load: Load::AnotherAfter,
        begin: &[Act::MakeTokenAnew],
        end: &[Act::MakeKek],
        may_see: &["FailedPrecondition", "NotFound"],
        // Whether it is known that there was one depends on which worker looks: a new one sees
        // another serial.
        status: Status::Says(&["p11-kms key generate"]),
        workers: Workers::Any,
        readable: false,
        is_seen: true,
        logs: &["no KEK is active: "],
        ..UNNOTICED
    },
    Row {
        name: "two-tokens",
        fault: "a second token has the same label",
        moment: "when a killed worker is replaced",
        begin: &[Act::SecondToken, Act::KillWorkers(1), Act::Logged("2 tokens match token.uri")],
        end: &[Act::NoSecondToken],
        workers: Workers::Replaced(1),
        ..UNNOTICED
    },
    Row {
        name: "no-descriptors",
        fault: "the front may open no more files",
        moment: "when a killed worker is replaced",
        begin: &[
            Act::Descriptors(false),
            Act::KillWorkers(1),
            Act::Logged("no worker could be started"),
        ],
        end: &[Act::Descriptors(true)],
        workers: Workers::Replaced(1),
        ..UNNOTICED
    },
];
