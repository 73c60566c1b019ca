#![forbid(unsafe_code)]
//! `key`: what is done with KEKs, one file a command.

mod destroy;
mod generate;
mod import;
mod line;
mod list;
mod new;
mod rotate;
mod trail;

use self::destroy::destroy;
use self::generate::generate;
use self::import::import;
use self::list::list;
use self::rotate::rotate;
use self::trail::Trail;
use super::token_access::Access;
use super::{Failed, runtime};
use crate::cli::{Cli, KeyCommand};
use crate::config::Config;
use crate::generation::Generation;

pub(super) fn run(cli: &Cli, command: &KeyCommand) -> Result<(), Failed> {
    let config = cli.load_config()?;
    runtime()?.block_on(async {
        let trail = Trail::open(&config, changing(command))?;
        let done = with_token(cli, &config, &trail, command).await;
        trail.end(done).await
    })
}

async fn with_token(
    cli: &Cli,
    config: &Config,
    trail: &Trail,
    command: &KeyCommand,
) -> Result<(), Failed> {
    let access = Access::start(config)?;
    let done = match command {
        KeyCommand::Generate { generation } => {
            let wanted = generation.map(Generation::new);
            generate(cli, config, &access, trail, wanted).await
        }
        KeyCommand::Rotate { if_older_than } => {
            rotate(cli, config, &access, trail, *if_older_than).await
        }
        KeyCommand::List => list(cli, config, &access).await,
        KeyCommand::Import(wanted) => import(cli, config, &access, trail, wanted).await,
        KeyCommand::Destroy(wanted) => destroy(cli, config, &access, trail, wanted).await,
    };
    access.close().await;
    done
}

/// The name of a command that changes the token.
const fn changing(command: &KeyCommand) -> Option<&'static str> {
    match command {
        KeyCommand::Generate { .. } => Some("generate"),
        KeyCommand::Rotate { .. } => Some("rotate"),
        KeyCommand::Import(_) => Some("import"),
        KeyCommand::Destroy(_) => Some("destroy"),
        KeyCommand::List => None,
    }
}
