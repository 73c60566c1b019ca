#![forbid(unsafe_code)]
//! `bench`: how fast the token is, alone and through the socket, and whether that is fast
//! enough for kube-apiserver.

mod bar;
mod call;
mod load;
mod plan;
mod report;
mod sample;
mod socket;
mod storm;
mod token;
mod verdict;

use std::io::{self, Write};

use self::bar::Bar;
use self::plan::{Plan, Size};
use self::report::Report;
use self::socket::{CALLERS, SocketWay};
use self::storm::{Storm, Through};
use self::token::Token;
use super::{Exit, Failed, runtime};
use crate::cli::{Bench, BenchPart, Cli};
use crate::config::{Config, Endpoint};

pub(super) fn run(cli: &Cli, wanted: &Bench) -> Result<Option<Exit>, Failed> {
    let report = runtime()?.block_on(measure(cli, wanted))?;
    cli.print(report.text(), &report)?;
    Ok(report.is_bad().then_some(Exit::No))
}

async fn measure(cli: &Cli, wanted: &Bench) -> Result<Report, Failed> {
    let wants = |part| wanted.only.is_none_or(|only| only == part);
    let (through_socket, mut storm) = (wants(BenchPart::Socket), wants(BenchPart::Storm));
    let mut report = Report::default();

    let endpoint = cli.endpoint(wanted.endpoint.as_ref())?;
    let socket =
        if through_socket || storm { connect(wanted, &endpoint, &mut report).await? } else { None };
    if storm && socket.is_some() && !wanted.wants_storm() {
        storm = false;
        report.notes.push(format!(
            "the storm is left out: a daemon answers, and each of {} calls would be a line of its \
             logs. With `--storm N` or `--only storm` it goes through that daemon",
            2 * wanted.storm()
        ));
    }
    // Our own workers only where they are wanted: each is a login.
    let (sweep, storm_alone) = (wants(BenchPart::Token), storm && socket.is_none());
    let ours = if sweep || storm_alone {
        Some(Ours::plan(cli.load_config()?, wanted, sweep, storm_alone)?)
    } else {
        None
    };

    let points = ours.as_ref().map_or(0, Ours::points)
        + if socket.is_some() && through_socket { CALLERS.len() } else { 0 };
    announce(ours.as_ref(), socket.is_some());
    // A point is two measurements, and so is a storm: there and back.
    let bar = Bar::new(2 * (points + usize::from(storm)));
    if let Some(ours) = &ours {
        ours.measure(wanted, &bar, &mut report).await?;
    }
    if let Some(socket) = &socket {
        if through_socket {
            report.take_socket(socket.measure(&endpoint, wanted.seconds, &bar).await);
        }
        if storm {
            let through = Through::Socket;
            report.take_storm(Storm::measure(socket, through, wanted.storm(), &bar).await?);
        }
    }
    Ok(report)
}

/// The daemon, if there is one. Who names the socket, or wants that part alone, must have one.
async fn connect(
    wanted: &Bench,
    endpoint: &Endpoint,
    report: &mut Report,
) -> Result<Option<SocketWay>, Failed> {
    match SocketWay::connect(endpoint).await {
        Ok(socket) => Ok(Some(socket)),
        Err(failed) if wanted.endpoint.is_some() || wanted.only == Some(BenchPart::Socket) => {
            Err(failed)
        }
        Err(failed) => {
            report.notes.push(format!(
                "the socket is not measured: {} Start a daemon with `p11-kms serve` and run this \
                 again beside it",
                failed.message
            ));
            Ok(None)
        }
    }
}

/// What is to be done with workers of our own.
struct Ours {
    config: Config,
    /// The sizes to be tried, if they are to be.
    sweep: Option<Plan>,
    /// Whether the storm goes through them.
    storm: bool,
}

impl Ours {
    fn plan(config: Config, wanted: &Bench, sweep: bool, storm: bool) -> Result<Self, Failed> {
        let plan = || Plan::new(&config.token.profile, wanted.max_sessions);
        let sweep = sweep.then(plan).transpose()?;
        Ok(Self { config, sweep, storm })
    }

    fn sizes(&self) -> impl Iterator<Item = Size> {
        let swept = self.sweep.iter().flat_map(|plan| plan.sizes.iter().copied());
        let storm = self.storm.then(|| Size::configured(&self.config.token.profile));
        swept.chain(storm)
    }

    /// How many points the sweep has, with the one of one call at a time.
    fn points(&self) -> usize {
        self.sweep.as_ref().map_or(0, |plan| plan.sizes.len() + 1)
    }

    async fn measure(&self, wanted: &Bench, bar: &Bar, report: &mut Report) -> Result<(), Failed> {
        let token = Token::open(&self.config).await?;
        if let Some(plan) = &self.sweep {
            report.take_token(token.measure(plan, wanted.seconds, bar).await?);
        }
        if self.storm {
            let size = Size::configured(&self.config.token.profile);
            let running = token.start(size, wanted.storm()).await;
            let running = running.map_err(|why| Failed::new(Exit::Unreachable, why))?;
            let storm = Storm::measure(&running.way, Through::Token, wanted.storm(), bar).await;
            running.stop().await;
            report.take_storm(storm?);
        }
        Ok(())
    }
}

/// Says beforehand what this does to a token and a daemon that others need.
fn announce(ours: Option<&Ours>, socket: bool) {
    let mut text = "p11-kms: bench puts a full load on the token, and whoever else uses it gets \
                    slower meanwhile."
        .to_owned();
    if let Some(ours) = ours {
        // And one before them, which looks whether all is there.
        let logins = 1 + ours.sizes().map(|size| size.workers).sum::<usize>();
        let most = ours.sizes().map(|size| size.workers).max().unwrap_or(1);
        text.push_str(&format!(" Each worker is a login: {logins} of them, up to {most} at once."));
    }
    if socket {
        text.push_str(
            " Each call through the socket is a line in the daemon's log, and one of about 500 \
             bytes in its audit log if it has one. Alerts on slow calls may fire.",
        );
    }
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(io::stderr(), "{text}");
}
