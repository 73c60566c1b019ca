#![forbid(unsafe_code)]
//! `key`: what is done with KEKs, one file a command.

mod destroy;
mod generate;
mod import;
mod line;
mod list;
mod new;
mod rotate;

use self::destroy::destroy;
use self::generate::generate;
use self::import::import;
use self::list::list;
use self::rotate::rotate;
use super::token_access::Access;
use super::{Failed, runtime};
use crate::cli::{Cli, KeyCommand};
use crate::generation::Generation;

pub(super) fn run(cli: &Cli, command: &KeyCommand) -> Result<(), Failed> {
    let config = cli.load_config()?;
    runtime()?.block_on(async {
        let access = Access::start(&config)?;
        let done = match command {
            KeyCommand::Generate { generation } => {
                let wanted = generation.map(Generation::new);
                generate(cli, &config, &access, wanted).await
            }
            KeyCommand::Rotate { if_older_than } => {
                rotate(cli, &config, &access, *if_older_than).await
            }
            KeyCommand::List => list(cli, &config, &access).await,
            KeyCommand::Import(wanted) => import(cli, &config, &access, wanted).await,
            KeyCommand::Destroy(wanted) => destroy(cli, &config, &access, wanted).await,
        };
        access.close().await;
        done
    })
}
