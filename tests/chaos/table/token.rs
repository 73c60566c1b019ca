//! The token is lost, forgets sessions or logins, refuses the PIN, or has other keys.

use std::time::Duration;

use crate::row::{Act, BEHAVE, Load, Row, Status, UNNOTICED, Workers};

const A_WHILE: Duration = Duration::from_millis(1500);

/// What is said of a KEK that is not there any more.
pub(super) const GONE: &str = "the active KEK \"k8s-kek-0001\" (generation 1) is no longer on the token. Nothing is written under an older one: ";

/// What callers see of a token that does not answer.
const AWAY: &[&str] = &["Unavailable", "DeadlineExceeded"];

/// A token that is away for some time, and says so at once.
const LOST: Row =
    Row { lasts: A_WHILE, may_see: &["Unavailable"], workers: Workers::Any, ..UNNOTICED };

/// One process with a login of its own, for many sessions.
const ONE_WORKER: &[&str] = &["token.workers=1", "token.sessions=4"];

/// What helps after trouble with the PIN.
const TRY_AGAIN: &[Act] = &[BEHAVE, Act::Hangups(1)];

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "network-gone",
        fault: "every call hangs, and comes back later",
        set: &["token.call-timeout=500ms", "token.start-timeout=1s"],
        begin: &[Act::Rules("device hang"), Act::Struck(1)],
        lasts: Duration::from_secs(4),
        may_see: AWAY,
        is_seen: true,
        status: Status::Says(&[
            "the token has not answered in time (token.call-timeout is 500ms): the module hangs, its worker is replaced; a new worker is being started",
            "the module did not start and log in within 1s",
        ]),
        ..LOST
    },
    Row {
        name: "device-error",
        fault: "every call answers CKR_DEVICE_ERROR",
        begin: &[Act::Rules("device return=CKR_DEVICE_ERROR")],
        status: Status::Says(&["CKR_DEVICE_ERROR"]),
        logs: &["no worker could be started: "],
        is_seen: true,
        ..LOST
    },
    Row {
        name: "device-removed",
        fault: "every call answers CKR_DEVICE_REMOVED",
        begin: &[Act::Rules("device return=CKR_DEVICE_REMOVED")],
        status: Status::Says(&["CKR_DEVICE_REMOVED"]),
        logs: &["no worker could be started: "],
        is_seen: true,
        ..LOST
    },
    Row {
        name: "token-lost",
        fault: "the token is gone, and its sessions with it",
        begin: &[Act::Rules("token lost return=CKR_TOKEN_NOT_PRESENT")],
        status: Status::Says(&["no token matches token.uri"]),
        logs: &["no worker could be started: "],
        is_seen: true,
        ..LOST
    },
    Row {
        name: "token-lost-until-initialize",
        fault: "the token is gone for each process that saw it go",
        begin: &[Act::Rules("token lost-until-initialize")],
        status: Status::Says(&["no token matches token.uri"]),
        logs: &["no worker could be started: "],
        is_seen: true,
        ..LOST
    },
    Row {
        name: "device-removed-once",
        fault: "a C_WrapKey answers CKR_DEVICE_REMOVED",
        begin: &[Act::Rules("C_WrapKey return=CKR_DEVICE_REMOVED times=1"), Act::Struck(1)],
        workers: Workers::Replaced(1),
        logs: &["C_WrapKey answered CKR_DEVICE_REMOVED"],
        ..UNNOTICED
    },
    Row {
        name: "sessions-dropped",
        fault: "the token drops all sessions of both workers",
        begin: &[Act::Rules("token sessions-dropped"), Act::WorkersGone(2)],
        status: Status::MaySay("; a new worker is being started"),
        workers: Workers::Replaced(2),
        ..UNNOTICED
    },
    Row {
        name: "sessions-dropped-one-worker",
        fault: "the token drops all sessions of the only worker",
        set: ONE_WORKER,
        begin: &[Act::Rules("token sessions-dropped"), Act::Called("C_OpenSession")],
        lasts: A_WHILE,
        ..UNNOTICED
    },
    Row {
        name: "logged-out",
        fault: "the token ends the login of both workers",
        begin: &[Act::Rules("token logged-out"), Act::WorkersGone(2)],
        status: Status::MaySay("; a new worker is being started"),
        workers: Workers::Replaced(2),
        ..UNNOTICED
    },
    Row {
        name: "logged-out-one-worker",
        fault: "the token ends the login of the only worker",
        set: ONE_WORKER,
        begin: &[Act::Rules("token logged-out"), Act::Called("C_Login")],
        lasts: A_WHILE,
        ..UNNOTICED
    },
    Row {
        name: "no-session-left",
        fault: "the token has no session for us",
        moment: "when a killed worker is replaced",
        begin: &[
            Act::Rules("token max-sessions=0"),
            Act::KillWorkers(1),
            Act::Logged("C_OpenSession answered CKR_SESSION_COUNT"),
        ],
        workers: Workers::Replaced(1),
        ..UNNOTICED
    },
    Row {
        name: "no-session-left-for-both",
        fault: "the token has no session for us",
        moment: "when both workers are replaced",
        begin: &[Act::Rules("token max-sessions=0"), Act::KillWorkers(2)],
        status: Status::Says(&["C_OpenSession answered CKR_SESSION_COUNT"]),
        is_seen: true,
        ..LOST
    },
    Row {
        name: "pin-refused",
        fault: "the PIN is wrong now",
        moment: "when a killed worker is replaced",
        begin: &[
            Act::Rules("token pin-refused"),
            Act::KillWorkers(1),
            Act::Logged("C_Login answered CKR_PIN_INCORRECT"),
        ],
        lasts: Duration::from_secs(3),
        end: TRY_AGAIN,
        workers: Workers::Replaced(1),
        failed_pins: 1,
        ..UNNOTICED
    },
    Row {
        name: "pin-refused-for-both",
        fault: "the PIN is wrong now",
        moment: "when both workers are replaced",
        begin: &[Act::Rules("token pin-refused"), Act::KillWorkers(2)],
        lasts: Duration::from_secs(3),
        end: TRY_AGAIN,
        status: Status::Says(&["C_Login answered CKR_PIN_INCORRECT"]),
        failed_pins: 1,
        is_seen: true,
        ..LOST
    },
    Row {
        name: "pin-refused-after-a-logout",
        fault: "the token ends our login, and the PIN is wrong now",
        set: ONE_WORKER,
        begin: &[Act::Rules("token logged-out pin-refused")],
        lasts: Duration::from_secs(3),
        end: TRY_AGAIN,
        status: Status::Says(&["C_Login answered CKR_PIN_INCORRECT"]),
        failed_pins: 1,
        is_seen: true,
        ..LOST
    },
    Row {
        name: "pin-final-try",
        fault: "one more wrong PIN would lock the token",
        moment: "when both workers are replaced",
        begin: &[Act::Rules("token pin-flags=final-try pin-refused"), Act::KillWorkers(2)],
        end: TRY_AGAIN,
        status: Status::Says(&["CKF_USER_PIN_FINAL_TRY"]),
        is_seen: true,
        ..LOST
    },
    Row {
        name: "pin-locked",
        fault: "the PIN is locked",
        moment: "when both workers are replaced",
        begin: &[Act::Rules("token pin-flags=locked pin-refused"), Act::KillWorkers(2)],
        end: TRY_AGAIN,
        status: Status::Says(&["CKF_USER_PIN_LOCKED"]),
        is_seen: true,
        ..LOST
    },
    Row {
        name: "kek-deleted",
        fault: "the only KEK is deleted; later there is a new one",
        load: Load::AnotherAfter,
        begin: &[Act::DeleteKek],
        end: &[Act::MakeKek],
        may_see: &["FailedPrecondition", "NotFound"],
        status: Status::Says(&[GONE]),
        workers: Workers::Any,
        readable: false,
        logs: &["no KEK is active: the active KEK"],
        is_seen: true,
        ..UNNOTICED
    },
    Row {
        name: "next-kek",
        fault: "the next generation of the KEK is made",
        begin: &[Act::MakeKek, Act::Logged("found a KEK"), Act::Logged("this KEK is active now")],
        ..UNNOTICED
    },
    Row {
        name: "token-directory-away",
        fault: "the directory of SoftHSM's tokens is moved away",
        begin: &[Act::Hide("tokens")],
        end: &[Act::Show("tokens")],
        may_see: &["FailedPrecondition", "NotFound"],
        status: Status::Says(&["C_Initialize answered"]),
        logs: &["no KEK is active: ", "no worker could be started: "],
        is_seen: true,
        ..LOST
    },
];
