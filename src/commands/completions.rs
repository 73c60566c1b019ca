#![forbid(unsafe_code)]
//! `completions`: the script that completes commands and flags in a shell.

use std::io;

use clap::CommandFactory;
use clap_complete::Shell as Generator;

use super::{Failed, printed};
use crate::cli::{Cli, Shell};

pub(super) fn run(shell: Shell) -> Result<(), Failed> {
    let generator = match shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut visible(), "p11-kms", &mut script);
    printed(mended(script)?.as_bytes())
}

/// clap_complete names the states of a bash script in two ways where the program's name has a
/// hyphen, and then nothing completes after a command (clap issue 6421).
fn mended(script: Vec<u8>) -> io::Result<String> {
    let script = String::from_utf8(script).map_err(io::Error::other)?;
    Ok(script.replace("p11__subcmd__kms", "p11__kms"))
}

/// The command line without what is hidden: the generators would offer that too.
fn visible() -> clap::Command {
    let all = Cli::command();
    clap::Command::new("p11-kms")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .args(all.get_arguments().cloned())
        .subcommands(all.get_subcommands().filter(|command| !command.is_hide_set()).cloned())
}
