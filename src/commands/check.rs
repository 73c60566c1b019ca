#![forbid(unsafe_code)]
//! `check`: every precondition, one line each, with the remedy.

use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;

use super::token_access::{Access, PATIENCE, records};
use super::{Exit, Failed, runtime};
use crate::algorithm::Algorithm;
use crate::cli::Cli;
use crate::config::{Config, Endpoint};
use crate::keyring::{Record, Ring};
use crate::secret::Seed;
use crate::server::{SocketError, check_directory};
use crate::state::{StateDir, StateError};
use crate::token::protocol::{Class, Failure, Fingerprint, Report};

/// For what only its owner can find out.
const AS_THE_DAEMON: &str =
    "run `check` as the user that serves: runuser -u p11-kms -- p11-kms check";

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Grade {
    Pass,
    Warn,
    Fail,
}

/// One line. The ids are stable: programs look for them.
#[derive(Serialize)]
struct Finding {
    id: &'static str,
    result: Grade,
    message: String,
    remedy: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn pass(&mut self, id: &'static str, message: impl Into<String>) {
        self.add(id, Grade::Pass, message, "");
    }

    fn add(
        &mut self,
        id: &'static str,
        result: Grade,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding { id, result, message: message.into(), remedy: remedy.into() });
    }

    fn worst(&self) -> Grade {
        self.0.iter().map(|finding| finding.result).max().unwrap_or(Grade::Pass)
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        for Finding { id, result, message, remedy } in &self.0 {
            let result = match result {
                Grade::Pass => "pass",
                Grade::Warn => "WARN",
                Grade::Fail => "FAIL",
            };
            lines.push(format!("{result}  {id:<18} {message}"));
            if !remedy.is_empty() {
                lines.push(format!("      {:<18} -> {remedy}", ""));
            }
        }
        lines.join("\n")
    }
}

pub(super) fn run(cli: &Cli) -> Result<Option<Exit>, Failed> {
    let config = cli.load_config()?;
    let mut findings = Findings::default();
    findings.pass("config", format!("{} is in order", cli.config.display()));
    profile(&config, &mut findings);
    socket(&config, &mut findings);
    pin(&config, &mut findings);
    let records = state(&config, &mut findings);
    runtime()?.block_on(async {
        let access = Access::with(&config, records);
        token(&access, &mut findings).await;
        access.close().await;
    });
    cli.print(findings.text(), &findings.0)?;
    Ok((findings.worst() == Grade::Fail).then_some(Exit::No))
}

fn profile(config: &Config, findings: &mut Findings) {
    let profile = &config.token.profile;
    if profile.verified {
        findings.pass("profile", format!("{} is tried by this project's tests", profile.name));
    } else {
        findings.add(
            "profile",
            Grade::Warn,
            format!("{} follows documentation and was never tried by this project", profile.name),
            "try it with `p11-kms probe` before you rely on it, and tell us how it went",
        );
    }
    if config.token.allow_weak_kek {
        findings.add(
            "weak-kek",
            Grade::Warn,
            "token.allow-weak-kek is set: a KEK that can leave the token is accepted",
            "remove it, unless this is a test",
        );
    }
}

fn socket(config: &Config, findings: &mut Findings) {
    match &config.server.endpoint {
        Endpoint::Abstract(name) => {
            findings.pass("socket-directory", format!("@{name} is abstract: it has no directory"));
        }
        Endpoint::Path(path) => match check_directory(path) {
            Ok(()) => {
                findings.pass("socket-directory", format!("{} can be used", path.display()));
            }
            // Root is not the daemon's user, whose directory it may well be.
            Err(SocketError::Owner { path, owner, us: 0 }) => findings.add(
                "socket-directory",
                Grade::Warn,
                format!("{} belongs to uid {owner}", path.display()),
                AS_THE_DAEMON,
            ),
            Err(error) => findings.add("socket-directory", Grade::Fail, error.to_string(), ""),
        },
    }
}

fn pin(config: &Config, findings: &mut Findings) {
    match config.token.pin.read() {
        Ok(_) => findings.pass("pin-source", "the PIN can be read, and by few"),
        Err(error) => findings.add("pin-source", Grade::Fail, error.to_string(), ""),
    }
}

/// What the daemon remembers. The checks go on without it.
fn state(config: &Config, findings: &mut Findings) -> Vec<(String, Record)> {
    let path = &config.keyring.state_dir;
    let dir = path.display();
    let records = match records(config) {
        Ok(records) => records,
        Err(failed) => {
            findings.add("state", Grade::Fail, failed.message, "");
            return Vec::new();
        }
    };
    match StateDir::open_existing(path) {
        Ok(_) => findings.pass("state", format!("{dir} can be used")),
        Err(StateError::Io { error, .. })
            if error.kind() == ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) =>
        {
            findings.pass("state", format!("{dir} is not there yet: the daemon makes it"));
        }
        // Root is not the daemon's user, whose directory it may well be.
        Err(StateError::Owner { owner, us: 0, .. }) => findings.add(
            "state",
            Grade::Warn,
            format!("{dir} belongs to uid {owner}"),
            AS_THE_DAEMON,
        ),
        Err(error) => findings.add("state", Grade::Fail, error.to_string(), ""),
    }
    records
}

async fn token(access: &Access, findings: &mut Findings) {
    let report = match access.client.ready().await {
        Ok(report) => report,
        Err(failure) => return not_reached(&failure, findings),
    };
    findings.pass("module", report.library.clone());
    findings.pass(
        "token",
        format!(
            "token \"{}\" (serial {}, model {}, manufacturer {})",
            report.token_label, report.token_serial, report.token_model, report.token_manufacturer
        ),
    );
    findings.pass("login", "the token took the PIN");
    for warning in &report.warnings {
        findings.add("token-warning", Grade::Warn, warning.clone(), "");
    }
    mechanisms(&report, findings);
    match access.keyring.look().await {
        Ok(()) => keks(access, findings).await,
        Err(error) => {
            findings.add("kek", Grade::Fail, error.to_string(), "");
        }
    }
}

/// The start went as far as the class says: what came before it is good.
fn not_reached(failure: &Failure, findings: &mut Findings) {
    let remedy = match failure.class {
        Class::NoToken => {
            "set token.uri to what is there, or make the token as the user that serves: what \
             another user made may not be visible"
        }
        _ => "",
    };
    let id = match failure.class {
        Class::Module => "module",
        Class::NoToken => "token",
        Class::PinSource => return,
        Class::PinWrong | Class::PinAtRisk => "login",
        Class::Refused => "mechanisms",
        _ => "token",
    };
    if id != "module" {
        findings.pass("module", "it loads and starts");
    }
    if matches!(id, "login" | "mechanisms") {
        findings.pass("token", "it is there, once");
    }
    findings.add(id, Grade::Fail, failure.message.clone(), remedy);
}

fn mechanisms(report: &Report, findings: &mut Findings) {
    match report.kwp {
        Some(kwp) => findings.pass(
            "mechanisms",
            format!("RFC 3394 by method \"{}\", RFC 5649 by method \"{kwp}\"", report.kw),
        ),
        // The worker's warning says what follows from it.
        None => findings.pass("mechanisms", format!("RFC 3394 by method \"{}\"", report.kw)),
    }
}

async fn keks(access: &Access, findings: &mut Findings) {
    let ring = access.keyring.ring();
    attributes(&ring, findings);
    let active = match access.keyring.active() {
        Ok(active) => active,
        Err(error) => {
            // One that has vanished may come back: the message has the choice.
            let remedy = match ring.record().active {
                None => "make a KEK with `p11-kms key generate`",
                Some(_) => "",
            };
            return findings.add("active-kek", Grade::Fail, error.to_string(), remedy);
        }
    };
    let kek = &active.kek;
    findings.pass("active-kek", format!("\"{}\", key_id {}", kek.label, active.key_id));
    let constant = Seed::new(Fingerprint::CONSTANT.to_vec());
    let client = &access.client;
    let round_trip = async {
        let blob = client.wrap(&kek.fingerprint, Algorithm::Kw, &constant, PATIENCE).await?;
        client.unwrap(&kek.fingerprint, Algorithm::Kw, &blob, PATIENCE).await
    };
    match round_trip.await {
        Ok(back) if back.expose() == constant.expose() => {
            findings.pass("round-trip", "32 bytes were wrapped and unwrapped on the token");
        }
        Ok(_) => findings.add(
            "round-trip",
            Grade::Fail,
            "the token gave other bytes back than it was given",
            "do not use this token; try another profile or method",
        ),
        Err(error) => {
            findings.add("round-trip", Grade::Fail, error.to_string(), "");
        }
    }
}

fn attributes(ring: &Ring, findings: &mut Findings) {
    for kek in ring.keks() {
        if kek.weaknesses.is_empty() {
            findings.pass("kek", format!("\"{}\" cannot leave the token", kek.label));
        } else {
            findings.add(
                "kek",
                Grade::Warn,
                format!("\"{}\" is weak: {}", kek.label, kek.weaknesses.join("; ")),
                "make a good one with `p11-kms key generate`",
            );
        }
    }
    for bad in ring.refused() {
        let remedy = if bad.may_be_imported {
            "if `p11-kms key import` brought it, set token.allow-imported-kek or mend the record \
             (docs/rotation.md). Do not rename or delete it before you know that nothing needs it"
        } else {
            "make a good one with `p11-kms key generate`, and move the bad one out of the keyring \
             by another label"
        };
        findings.add(
            "kek",
            Grade::Fail,
            format!("\"{}\": {}", bad.label, bad.reasons.join("; ")),
            remedy,
        );
    }
}
