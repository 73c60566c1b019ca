#![forbid(unsafe_code)]
//! `check`: every precondition, one line each, with the remedy.
//!
//! The list of all checks is [`CheckId`]; docs/check.md explains them. Each area has a file.

mod files;
mod findings;
mod host;
mod keks;
mod socket;
mod token;

use nix::unistd::geteuid;

use self::findings::{Findings, Grade, text};
use super::token_access::Access;
use super::{Exit, Failed, runtime};
use crate::cli::{CheckArgs, CheckId, Cli, Output};
use crate::config::Config;

/// For what only its owner can find out.
const AS_THE_DAEMON: &str =
    "run `check` as the user that serves: runuser -u p11-kms -- p11-kms check";

pub(super) fn run(cli: &Cli, args: &CheckArgs) -> Result<Option<Exit>, Failed> {
    let config = cli.load_config()?;
    let mut findings = Findings::new(args);
    findings.pass(CheckId::Config, format!("{} is in order", cli.config.display()));
    let daemon = daemon_uid(&config);
    files::check(cli, &config, daemon, &mut findings);
    let running = socket::check(&config, daemon, &mut findings);
    host::check(cli, &config, &mut findings);
    let records = files::state(&config, &mut findings);
    if findings.want_token() {
        let known: Vec<String> = records.iter().map(|(name, _)| name.clone()).collect();
        runtime()?.block_on(async {
            let access = Access::with(&config, records);
            let all = token::check(&config, &access, (&known, running), &mut findings);
            if tokio::time::timeout(args.timeout, all).await.is_err() {
                let time = humantime::format_duration(args.timeout);
                let message = format!("the token was not done within {time} (--timeout)");
                findings.fail(CheckId::Answers, message, token::SLOW);
                findings.rest_untried(CheckId::Answers);
            }
            access.close().await;
        });
    }
    let worst = findings.worst();
    let shown = findings.shown();
    // Quiet is silent for people; programs want an array all the same.
    if !shown.is_empty() || cli.output == Output::Json {
        cli.print(text(&shown), &shown)?;
    }
    let no = worst == Grade::Fail || (args.strict && worst == Grade::Warn);
    Ok(no.then_some(Exit::No))
}

/// The user that serves: us, or, if we are root, the one that the state directory belongs to.
fn daemon_uid(config: &Config) -> u32 {
    let us = geteuid().as_raw();
    match std::fs::metadata(&config.keyring.state_dir) {
        Ok(found) if us == 0 => std::os::unix::fs::MetadataExt::uid(&found),
        _ => us,
    }
}
