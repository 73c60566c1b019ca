#![forbid(unsafe_code)]
//! `man`: the man pages, one for each command. The same version gives the same bytes: no date.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Exit, Failed, printed};
use crate::cli::Cli;

pub(super) fn run(directory: Option<&Path>) -> Result<(), Failed> {
    // `p11-kms help` says what the pages say; a page about it would be one too many.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(directory) = directory else {
        return printed(page(&command)?.as_bytes());
    };
    write(&command, directory).map_err(|error| {
        let what = format!("the man pages cannot be written to {}", directory.display());
        Failed::new(Exit::Usage, error).because(&what)
    })
}

/// Writes the page of a command and those of the commands under it.
fn write(command: &Command, directory: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write(below, directory)?;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    fs::write(directory.join(format!("{name}.1")), page(command)?)
}

/// One page.
fn page(command: &Command) -> io::Result<String> {
    let mut page = Vec::new();
    Man::new(command.clone())
        .source(concat!("p11-kms ", env!("CARGO_PKG_VERSION")))
        .manual("p11-kms")
        .render(&mut page)?;
    let page = String::from_utf8(page).map_err(io::Error::other)?;
    // clap_mangen writes nothing for an empty date, so that man takes what follows for it;
    // and a pair of breaks around an empty line, of which man drops the breaks with a warning.
    Ok(page.replacen(" 1  \"", " 1 \"\" \"", 1).replace(".br\n\n.br\n", ".sp\n"))
}
