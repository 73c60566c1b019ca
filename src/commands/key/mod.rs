#![forbid(unsafe_code)]
//! `key`: what is done with KEKs, one file a command.

mod generate;
mod line;
mod list;

use self::generate::generate;
use self::list::list;
use super::token_access::Access;
use super::{Failed, runtime};
use crate::cli::{Cli, KeyCommand};
use crate::generation::Generation;

pub(super) fn run(cli: &Cli, command: &KeyCommand) -> Result<(), Failed> {
    let config = cli.load_config()?;
    runtime()?.block_on(async {
        let access = Access::start(&config);
        let done = match command {
            KeyCommand::Generate { generation } => {
                let wanted = generation.map(Generation::new);
                generate(cli, &config, &access, wanted).await
            }
            KeyCommand::List => list(cli, &access).await,
        };
        access.close().await;
        done
    })
}
