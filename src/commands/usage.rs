#![forbid(unsafe_code)]
//! `usage`: counts the stored objects by what encrypts them.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Exit, Failed, runtime};
use crate::cli::{Cli, EtcdArgs, Output};
use crate::config::Etcd;
use crate::usage::{self, Progress, Source, Tally, Unit};

pub(super) fn run(cli: &Cli, args: &EtcdArgs) -> Result<(), Failed> {
    let config = Etcd::load(&cli.config, args.names_source(), std::env::vars_os(), &cli.set)?;
    let tally = runtime()?.block_on(count(cli, args, &config))?;
    cli.print(&tally, &tally)
}

/// Counts what flags and `[etcd]` name, with a bar for people who wait.
pub(super) async fn count(cli: &Cli, args: &EtcdArgs, config: &Etcd) -> Result<Tally, Failed> {
    let source = Source::new(&args.over(config))?;
    let bar = Bar::new(cli.output == Output::Text && io::stderr().is_terminal());
    let counted = usage::count(&source, &mut |progress| bar.show(progress)).await;
    bar.0.finish_and_clear();
    Ok(counted?)
}

impl From<usage::Error> for Failed {
    fn from(error: usage::Error) -> Self {
        let exit = if error.is_usage() { Exit::Usage } else { Exit::Unreachable };
        Self::new(exit, error)
    }
}

struct Bar(ProgressBar);

impl Bar {
    fn new(shown: bool) -> Self {
        let target =
            if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self(ProgressBar::with_draw_target(Some(0), target))
    }

    fn show(&self, progress: Progress) {
        if self.0.length() != Some(progress.total) {
            let form = match progress.unit {
                Unit::Objects => "{wide_bar} {pos} of {len} objects, {eta}",
                Unit::Bytes => "{wide_bar} {bytes} of {total_bytes}, {eta}",
            };
            // The bar's own form is there if this one should not be understood.
            if let Ok(style) = ProgressStyle::with_template(form) {
                self.0.set_style(style);
            }
            self.0.set_length(progress.total);
        }
        self.0.set_position(progress.done);
    }
}
