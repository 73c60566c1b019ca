#![forbid(unsafe_code)]
//! The module, the token, the login, and what the token can do.

use super::findings::Findings;
use super::keks;
use crate::cli::CheckId;
use crate::commands::token_access::{Access, PATIENCE};
use crate::config::{Config, Login};
use crate::state;
use crate::timestamp::Timestamp;
use crate::token::protocol::{
    Answer, Class, Failure, Inspection, MechanismUse, Most, Report, Room, TokenFlags,
};

/// For a token that is slow or does not answer.
pub(super) const SLOW: &str = "see whether the token and the network to it are well; if it is slow by nature, raise \
     token.call-timeout and token.start-timeout";

/// A KEK with its attributes takes some hundred bytes.
const ROOM_FOR_A_KEK: u64 = 4096;

/// What the clocks may differ by, in seconds.
const CLOCKS: u64 = 60;

/// All that needs the token. `known` are the names of the records in the state directory.
pub(super) async fn check(
    config: &Config,
    access: &Access,
    (known, running): (&[String], bool),
    findings: &mut Findings<'_>,
) {
    let report = match access.client.ready().await {
        Ok(report) => report,
        Err(failure) => return not_reached(&failure, findings),
    };
    findings.pass(CheckId::Module, report.library.clone());
    findings.pass(
        CheckId::Token,
        format!(
            "token \"{}\" (serial {}, model {}, manufacturer {})",
            report.token_label, report.token_serial, report.token_model, report.token_manufacturer
        ),
    );
    findings.pass(CheckId::Login, "the token took the PIN");
    start(&report, findings);
    // The KEKs first: a token that will not be looked at closely may still have them.
    let looked = keks::look(access, findings).await;
    match access.client.inspect(PATIENCE).await {
        Ok(found) => {
            let Inspection { cryptoki_version, firmware, hardware, .. } = &found;
            findings.pass(
                CheckId::Answers,
                format!(
                    "it answers; PKCS#11 {cryptoki_version}, firmware {firmware}, hardware \
                     {hardware}"
                ),
            );
            inspected(config, &found, running, findings);
            keks::inspected(&found.keys, findings);
        }
        Err(error) => {
            findings.fail(CheckId::Answers, error.to_string(), SLOW);
        }
    }
    state_record(config, known, &report, findings);
    if looked {
        keks::check(config, access, findings).await;
        findings.rest_untried(CheckId::Answers);
    } else {
        findings.rest_untried(CheckId::Kek);
    }
}

/// The start went as far as the class says: what came before it is good.
fn not_reached(failure: &Failure, findings: &mut Findings<'_>) {
    let message = failure.message.clone();
    let (cause, remedy) = match failure.class {
        Class::Module => (
            CheckId::Module,
            "set token.module to the module of the token, and install what it needs",
        ),
        Class::NoToken => (
            CheckId::Token,
            "set token.uri to what is there, or make the token as the user that serves: what \
             another user made may not be visible",
        ),
        Class::PinSource => (CheckId::PinSource, "let the user that serves read the PIN"),
        Class::PinWrong => (CheckId::Login, "put the right PIN where it is read from"),
        Class::PinAtRisk => (
            CheckId::PinCounter,
            "make sure that the PIN is right, and log in once by hand or unlock it",
        ),
        Class::Refused => (CheckId::Mechanisms, "choose the token's own profile"),
        Class::Hung => (CheckId::Answers, SLOW),
        _ => (CheckId::Token, SLOW),
    };
    let is_past_the_token = matches!(
        failure.class,
        Class::PinSource | Class::PinWrong | Class::PinAtRisk | Class::Refused
    );
    if is_past_the_token || failure.class == Class::NoToken {
        findings.pass(CheckId::Module, "it loads and starts");
    }
    if is_past_the_token {
        findings.pass(CheckId::Token, "it is there, once");
    }
    if failure.class == Class::PinAtRisk {
        findings.fail(CheckId::Login, "no login was tried: one could lock the PIN", remedy);
    }
    // Of the PIN's file all has been said, unless it has just changed or holds no PIN.
    if !findings.has_failed(cause) {
        findings.take_back(cause);
        findings.fail(cause, message, remedy);
    }
    findings.rest_untried(cause);
}

fn start(report: &Report, findings: &mut Findings<'_>) {
    let message = match report.kwp {
        Some(kwp) => format!("RFC 3394 by method \"{}\", RFC 5649 by method \"{kwp}\"", report.kw),
        // The worker's warning says what follows from it.
        None => format!("RFC 3394 by method \"{}\"", report.kw),
    };
    findings.pass(CheckId::Mechanisms, message);
    for warning in &report.warnings {
        let remedy = "docs/failure-modes.md says what follows from it";
        findings.warn(CheckId::TokenWarning, warning.clone(), remedy);
    }
    if report.warnings.is_empty() {
        findings.pass(CheckId::TokenWarning, "the start gave no warning");
    }
}

fn inspected(config: &Config, found: &Inspection, running: bool, findings: &mut Findings<'_>) {
    flags(found.flags, config.token.profile.login, findings);
    pin_counter(found.flags, findings);
    memory(found.free_private_memory, findings);
    clock(found.utc_time.as_deref(), Timestamp::now(), findings);
    sessions(config, found, running, findings);
    for used in &found.mechanisms {
        mechanism(used, findings);
    }
    answer(CheckId::KnownAnswer, &found.kw, findings);
    match &found.kwp {
        Some(kwp) => answer(CheckId::KnownAnswerKwp, kwp, findings),
        None => findings.pass(CheckId::KnownAnswerKwp, "RFC 5649 is not in use on this token"),
    }
}

fn flags(flags: TokenFlags, login: Login, findings: &mut Findings<'_>) {
    let id = CheckId::TokenFlags;
    if flags.error_state {
        findings.fail(
            id,
            "the token has failed a test of itself (CKF_ERROR_STATE)",
            "take it out of service and ask its vendor",
        );
    } else if flags.write_protected {
        findings.warn(
            id,
            "the token cannot be written to (CKF_WRITE_PROTECTED)",
            "lift the protection before the next `p11-kms key generate`; to decrypt, none is needed",
        );
    } else if !flags.login_required && login == Login::User {
        findings.warn(
            id,
            "the token wants no login (CKF_LOGIN_REQUIRED is not set)",
            "set a PIN on it, or token.login = \"none\" if something else protects it",
        );
    } else {
        findings.pass(id, "it is in order and can be written to");
    }
}

fn pin_counter(flags: TokenFlags, findings: &mut Findings<'_>) {
    if flags.pin_count_low {
        findings.warn(
            CheckId::PinCounter,
            "a wrong PIN was tried before (CKF_USER_PIN_COUNT_LOW)",
            "find out who tried it; this login may have set the counter back",
        );
    } else if flags.pin_to_be_changed {
        findings.warn(
            CheckId::PinCounter,
            "the token asks for a new user PIN (CKF_USER_PIN_TO_BE_CHANGED)",
            "change it as docs/failure-modes.md says",
        );
    } else {
        findings.pass(CheckId::PinCounter, "the token shows no wrong PIN");
    }
}

fn memory(free: Option<u64>, findings: &mut Findings<'_>) {
    match free {
        Some(free) if free < ROOM_FOR_A_KEK => findings.warn(
            CheckId::TokenMemory,
            format!("{free} bytes are free for private objects"),
            "delete what is not needed, before the next KEK has no room",
        ),
        Some(free) => {
            let message = format!("{free} bytes are free for private objects");
            findings.pass(CheckId::TokenMemory, message);
        }
        None => findings.pass(CheckId::TokenMemory, "the token does not tell what is free"),
    }
}

fn clock(shown: Option<&str>, now: Timestamp, findings: &mut Findings<'_>) {
    let Some(shown) = shown else {
        return findings.pass(CheckId::TokenClock, "the token has no clock");
    };
    let differs = shown.parse::<Timestamp>().ok();
    match differs.map(|theirs| theirs.seconds().abs_diff(now.seconds())) {
        Some(seconds) if seconds <= CLOCKS => {
            findings.pass(CheckId::TokenClock, "the token's clock and this host's agree");
        }
        Some(seconds) => findings.warn(
            CheckId::TokenClock,
            format!("the token's clock shows {shown}, {seconds} s from this host's {now}"),
            "set the one that is wrong: dates of KEKs are the token's, ages the host's",
        ),
        None => findings.warn(
            CheckId::TokenClock,
            format!("the token's clock shows \"{shown}\", which is no time"),
            "set the token's clock",
        ),
    }
}

fn sessions(config: &Config, found: &Inspection, running: bool, findings: &mut Findings<'_>) {
    let profile = &config.token.profile;
    let worker = profile.sessions as u64;
    let all = Wanted {
        worker,
        daemon: profile.workers as u64 * worker,
        // One worker may be replaced, and a command may come: it reads in one and writes in one.
        besides: worker + 2,
    };
    let writing = match profile.read_write_sessions {
        true => all,
        false => Wanted { worker: 0, daemon: 0, besides: 1 },
    };
    let kinds =
        [("sessions", found.sessions, all), ("read-write sessions", found.rw_sessions, writing)];
    let mut told = Vec::new();
    for (name, room, wanted) in kinds {
        match headroom(room, wanted, running) {
            Headroom::Enough(words) => told.push(format!("{name}: {words}")),
            Headroom::Tight(words) => {
                return findings.warn(
                    CheckId::Sessions,
                    format!("{name}: {words}"),
                    "PKCS#11 counts the sessions of one process, and that is enough. If your token \
                     counts those of all processes or hosts, lower token.sessions or \
                     token.workers, or raise its limit",
                );
            }
            Headroom::TooFew(words) => {
                return findings.fail(
                    CheckId::Sessions,
                    format!("{name}: {words}"),
                    "lower token.sessions, or raise the token's limit",
                );
            }
        }
    }
    findings.pass(CheckId::Sessions, told.join("; "));
}

#[derive(Debug, PartialEq, Eq)]
enum Headroom {
    Enough(String),
    Tight(String),
    TooFew(String),
}

/// How many sessions there should be room for.
#[derive(Clone, Copy)]
struct Wanted {
    /// In one worker. Each is a process.
    worker: u64,
    /// In all workers.
    daemon: u64,
    /// Now and then.
    besides: u64,
}

/// Is there room for a worker, whatever the token counts, and, if it counts the sessions of all
/// processes, for the daemon, which may be `running` already, and the rest?
fn headroom(room: Room, wanted: Wanted, running: bool) -> Headroom {
    let Wanted { worker, daemon, besides } = wanted;
    let wanted = daemon + besides;
    let most = match room.most {
        Most::Of(most) => most,
        Most::Infinite => return Headroom::Enough("no limit".to_owned()),
        Most::Unknown => return Headroom::Enough("the limit is not told".to_owned()),
    };
    let used = room.used.map_or(String::new(), |used| format!(", {used} in use now"));
    let words =
        format!("{most} at most{used}; {worker} wanted by a worker, {wanted} by all and a command");
    // Our own one is in use as well, and among those that are wanted.
    let free = most.saturating_sub(room.used.unwrap_or(0).saturating_sub(1));
    if most < worker {
        Headroom::TooFew(words)
    } else if most < wanted || free < if running { besides } else { wanted } {
        Headroom::Tight(words)
    } else {
        Headroom::Enough(words)
    }
}

fn mechanism(used: &MechanismUse, findings: &mut Findings<'_>) {
    let MechanismUse { purpose, number, needed, missing } = used;
    let what = format!("{purpose} by mechanism 0x{number:x}");
    let remedy = "if calls fail, choose another token.method or the token's own profile";
    match missing {
        Some(missing) if missing.is_empty() => {
            let message = format!("{what}, which has {}", needed.join(" and "));
            findings.pass(CheckId::MechanismFlags, message);
        }
        Some(missing) => findings.warn(
            CheckId::MechanismFlags,
            format!("{what}, which lacks {}", missing.join(" and ")),
            remedy,
        ),
        None => findings.warn(
            CheckId::MechanismFlags,
            format!("{what}, which the token does not list"),
            remedy,
        ),
    }
}

fn answer(id: CheckId, answer: &Answer, findings: &mut Findings<'_>) {
    match answer {
        Answer::Same => findings.pass(id, "under a known key the token and the host agree"),
        Answer::Other(how) => findings.fail(
            id,
            format!("under a known key the token and the host do not agree: {how}"),
            "do not use this token so: choose another token.method or the token's own profile",
        ),
        Answer::Untried(why) => findings.warn(
            id,
            format!("not tried to the end: a known key is there, but {why}"),
            "see what the token's own log says; round-trip tries the active KEK",
        ),
        Answer::Left(left) => findings.warn(
            id,
            format!("a key that everybody knows may be left on the token: {left}"),
            "destroy it with another tool; p11-kms never takes it for a KEK",
        ),
        Answer::NoKey(why) => findings.warn(
            id,
            format!(
                "not tried: the token takes no known key ({why}). round-trip tries the active KEK"
            ),
            format!("where the token forbids import (FIPS), say --skip {}", id.name()),
        ),
    }
}

fn state_record(config: &Config, known: &[String], report: &Report, findings: &mut Findings<'_>) {
    let wanted = state::file_name(&config.keyring.label, &report.token_serial);
    if known.is_empty() {
        findings.pass(CheckId::StateRecord, "nothing is remembered of any token yet");
    } else if known.contains(&wanted) {
        findings.pass(CheckId::StateRecord, format!("{wanted} is of this token"));
    } else {
        findings.warn(
            CheckId::StateRecord,
            format!("{} is of another token, and {wanted} is not there", known.join(", ")),
            "see whether token.uri names the token that was used before; if it was replaced by a \
             clone on purpose, start the daemon",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::all_checks;

    fn of(used: u64, most: u64) -> Room {
        Room { used: Some(used), most: Most::Of(most) }
    }

    #[test]
    fn sessions_must_do_for_all() {
        use Headroom::{Enough, Tight, TooFew};
        // Two workers with two each.
        let headroom =
            |room, running| headroom(room, Wanted { worker: 2, daemon: 4, besides: 3 }, running);
        assert!(matches!(headroom(of(1, 7), false), Enough(_)));
        assert!(matches!(headroom(of(1, 6), false), Tight(_)), "no room for a command");
        assert!(matches!(headroom(of(2, 7), false), Tight(_)), "another has one");
        assert!(matches!(headroom(of(5, 7), true), Enough(_)), "it is our daemon");
        assert!(matches!(headroom(of(6, 7), true), Tight(_)));
        assert!(matches!(headroom(of(1, 2), false), Tight(_)), "enough for each process");
        assert!(matches!(headroom(of(1, 1), false), TooFew(_)));
        let unknown = Room { used: None, most: Most::Unknown };
        assert!(matches!(headroom(unknown, false), Enough(_)));
        let infinite = Room { used: Some(10), most: Most::Infinite };
        assert!(matches!(headroom(infinite, false), Enough(_)));
        assert!(matches!(headroom(Room { used: None, ..of(0, 7) }, false), Enough(_)));
    }

    /// What each of them makes of what no token of the tests shows.
    #[test]
    fn what_a_token_can_show() {
        let args = all_checks();
        let grade = |tell: &dyn Fn(&mut Findings<'_>)| {
            let mut findings = Findings::new(&args);
            tell(&mut findings);
            format!("{:?}", findings.worst())
        };
        let good = TokenFlags { login_required: true, ..TokenFlags::default() };
        let of_flags = |shown| grade(&|it| flags(shown, Login::User, it));
        assert_eq!(of_flags(good), "Pass");
        assert_eq!(of_flags(TokenFlags { write_protected: true, ..good }), "Warn");
        assert_eq!(of_flags(TokenFlags { error_state: true, ..good }), "Fail");
        assert_eq!(of_flags(TokenFlags::default()), "Warn");
        assert_eq!(grade(&|it| flags(TokenFlags::default(), Login::None, it)), "Pass");

        for (free, wanted) in [(None, "Pass"), (Some(100), "Warn"), (Some(1 << 20), "Pass")] {
            assert_eq!(grade(&|it| memory(free, it)), wanted, "{free:?}");
        }
        let now = "2030-12-31T12:00:00Z".parse().unwrap();
        for (shown, wanted) in [
            (None, "Pass"),
            (Some("2030-12-31T11:59:30Z"), "Pass"),
            (Some("2030-12-31T13:00:00Z"), "Warn"),
            (Some("0000-00-00T00:00:00Z"), "Warn"),
        ] {
            assert_eq!(grade(&|it| clock(shown, now, it)), wanted, "{shown:?}");
        }
        for (told, wanted) in [
            (Answer::Same, "Pass"),
            (Answer::Other("how".into()), "Fail"),
            (Answer::NoKey("why".into()), "Warn"),
            (Answer::Untried("why".into()), "Warn"),
            (Answer::Left("why".into()), "Warn"),
        ] {
            assert_eq!(grade(&|it| answer(CheckId::KnownAnswer, &told, it)), wanted);
        }
        let flag = || "CKF_WRAP".to_owned();
        for (missing, wanted) in
            [(None, "Warn"), (Some(vec![flag()]), "Warn"), (Some(Vec::new()), "Pass")]
        {
            let used = MechanismUse {
                purpose: "RFC 3394".into(),
                number: 1,
                needed: vec![flag()],
                missing,
            };
            assert_eq!(grade(&|it| mechanism(&used, it)), wanted);
        }
    }
}
