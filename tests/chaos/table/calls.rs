//! Single calls of the module hang, crash, fail, are slow, or give out nonsense.

use std::time::Duration;

use crate::row::{Act, BEHAVE, Load, Row, Status, UNNOTICED, Workers};

const IMPATIENT: &[&str] = &["token.call-timeout=500ms"];

const A_WHILE: Duration = Duration::from_millis(1500);

/// What they see of a KEK that does not work, and is not used any more.
const REFUSED: &[&str] = &["FailedPrecondition", "NotFound", "Unavailable"];

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "wrap-hangs",
        fault: "C_WrapKey hangs",
        set: IMPATIENT,
        begin: &[Act::Rules("C_WrapKey hang"), Act::Struck(1)],
        lasts: A_WHILE,
        status: Status::Says(&["the module hangs, its worker is replaced"]),
        workers: Workers::Replaced(2),
        logs: &["(token.call-timeout is 500ms): the module hangs, its worker is replaced"],
        ..UNNOTICED
    },
    Row {
        name: "unwrap-hangs",
        fault: "C_UnwrapKey hangs",
        set: IMPATIENT,
        begin: &[Act::Rules("C_UnwrapKey hang"), Act::Struck(1)],
        lasts: A_WHILE,
        status: Status::Says(&["the module hangs, its worker is replaced"]),
        workers: Workers::Replaced(2),
        logs: &["(token.call-timeout is 500ms): the module hangs, its worker is replaced"],
        ..UNNOTICED
    },
    Row {
        name: "one-call-hangs",
        fault: "a single C_WrapKey hangs",
        set: IMPATIENT,
        begin: &[Act::Rules("C_WrapKey hang times=1"), Act::WorkersGone(1)],
        workers: Workers::Replaced(1),
        logs: &["(token.call-timeout is 500ms): the module hangs, its worker is replaced"],
        ..UNNOTICED
    },
    Row {
        name: "search-hangs",
        fault: "C_FindObjects hangs",
        set: IMPATIENT,
        begin: &[Act::Rules("C_FindObjects hang"), Act::Struck(1)],
        lasts: Duration::from_secs(4),
        workers: Workers::Any,
        status: Status::MaySay("; a new worker is being started"),
        ..UNNOTICED
    },
    Row {
        name: "wrap-crashes",
        fault: "a C_WrapKey ends in SIGSEGV",
        begin: &[Act::Rules("C_WrapKey segv times=1"), Act::Struck(1), Act::WorkersGone(1)],
        workers: Workers::Replaced(1),
        logs: &["the worker process "],
        ..UNNOTICED
    },
    Row {
        name: "unwrap-aborts",
        fault: "every 500th C_UnwrapKey calls abort()",
        begin: &[Act::Rules("C_UnwrapKey abort every=500"), Act::Struck(4)],
        status: Status::MaySay("; a new worker is being started"),
        workers: Workers::Replaced(1),
        logs: &["the worker process "],
        ..UNNOTICED
    },
    Row {
        name: "import-exits",
        fault: "a C_CreateObject calls exit()",
        begin: &[Act::Rules("C_CreateObject exit=0 times=1"), Act::Struck(1), Act::WorkersGone(1)],
        workers: Workers::Replaced(1),
        logs: &["the worker process "],
        ..UNNOTICED
    },
    Row {
        name: "general-error-in-unwrap",
        fault: "a C_UnwrapKey answers CKR_GENERAL_ERROR",
        begin: &[Act::Rules("C_UnwrapKey return=CKR_GENERAL_ERROR times=1"), Act::Struck(1)],
        ..UNNOTICED
    },
    Row {
        name: "general-error-in-wrap",
        fault: "a C_WrapKey answers CKR_GENERAL_ERROR",
        begin: &[Act::Rules("C_WrapKey return=CKR_GENERAL_ERROR times=1"), Act::Struck(1)],
        ..UNNOTICED
    },
    Row {
        name: "host-memory",
        fault: "a C_CreateObject answers CKR_HOST_MEMORY",
        begin: &[Act::Rules("C_CreateObject return=CKR_HOST_MEMORY times=1"), Act::Struck(1)],
        ..UNNOTICED
    },
    Row {
        name: "read-fails",
        fault: "a C_GetAttributeValue answers CKR_FUNCTION_FAILED",
        begin: &[
            Act::Rules("C_GetAttributeValue return=CKR_FUNCTION_FAILED times=1"),
            Act::Struck(1),
        ],
        ..UNNOTICED
    },
    Row {
        name: "session-handle-invalid",
        fault: "a C_WrapKey answers CKR_SESSION_HANDLE_INVALID",
        begin: &[Act::Rules("C_WrapKey return=CKR_SESSION_HANDLE_INVALID times=1"), Act::Struck(1)],
        ..UNNOTICED
    },
    Row {
        name: "key-handle-invalid",
        fault: "a C_WrapKey answers CKR_WRAPPING_KEY_HANDLE_INVALID",
        begin: &[
            Act::Rules("C_WrapKey return=CKR_WRAPPING_KEY_HANDLE_INVALID times=1"),
            Act::Struck(1),
        ],
        ..UNNOTICED
    },
    Row {
        name: "destroy-fails",
        fault: "every 20th C_DestroyObject answers CKR_FUNCTION_FAILED",
        begin: &[
            Act::Rules("C_DestroyObject return=CKR_FUNCTION_FAILED every=20"),
            Act::Struck(10),
        ],
        ..UNNOTICED
    },
    Row {
        name: "slow-device",
        fault: "every call takes 20 ms longer",
        begin: &[Act::Rules("token latency=20ms")],
        lasts: A_WHILE,
        ..UNNOTICED
    },
    Row {
        name: "slow-device-and-many-callers",
        fault: "every call takes 20 ms longer, and 64 others call",
        set: &["server.queue-length=8", "token.pipeline-depth=2"],
        begin: &[Act::Rules("token latency=20ms"), Act::OthersCall(64)],
        lasts: A_WHILE,
        end: &[Act::OthersStop, BEHAVE],
        may_see: &["ResourceExhausted"],
        is_seen: true,
        ..UNNOTICED
    },
    Row {
        name: "one-slow-call",
        fault: "a C_WrapKey takes 1.5 s, less than call-timeout",
        begin: &[Act::Rules("C_WrapKey delay=1500ms times=1"), Act::Struck(1)],
        lasts: A_WHILE,
        ..UNNOTICED
    },
    Row {
        name: "some-slow-calls",
        fault: "every 100th C_WrapKey takes 200 ms longer",
        begin: &[Act::Rules("C_WrapKey delay=200ms every=100"), Act::Struck(5)],
        ..UNNOTICED
    },
    Row {
        name: "truncated",
        fault: "C_WrapKey gives out 8 bytes too few",
        begin: &[Act::Rules("C_WrapKey truncate=8"), Act::Struck(1)],
        lasts: A_WHILE,
        may_see: REFUSED,
        status: Status::Says(&[
            "KEK \"k8s-kek-0001\" is refused: it does not wrap: wrap gave 32 bytes where 40 were due",
        ]),
        workers: Workers::Any,
        is_seen: true,
        ..UNNOTICED
    },
    Row {
        name: "truncated-once",
        fault: "a C_WrapKey gives out 8 bytes too few",
        begin: &[Act::Rules("C_WrapKey truncate=8 times=1"), Act::Struck(1)],
        ..UNNOTICED
    },
    Row {
        name: "wraps-wrongly",
        fault: "C_WrapKey gives out a wrong bit",
        moment: "in the test of the token's health",
        load: Load::NotDuring,
        begin: &[Act::Rules("C_WrapKey corrupt"), Act::Struck(1)],
        status: Status::Says(&[
            "the token does not unwrap what it has just wrapped: do not trust it",
        ]),
        workers: Workers::Any,
        ..UNNOTICED
    },
    Row {
        name: "wraps-wrongly-and-is-verified",
        fault: "C_WrapKey gives out a wrong bit",
        set: &["token.verify-wraps=true"],
        begin: &[Act::Rules("C_WrapKey corrupt"), Act::Struck(1)],
        lasts: A_WHILE,
        may_see: REFUSED,
        is_seen: true,
        status: Status::Says(&[
            "the token does not unwrap what it has just wrapped: do not trust it",
        ]),
        workers: Workers::Any,
        ..UNNOTICED
    },
    Row {
        name: "stray-output",
        fault: "C_WrapKey prints to stdout and stderr",
        begin: &[Act::Rules("C_WrapKey stray"), Act::Struck(200)],
        ..UNNOTICED
    },
];
