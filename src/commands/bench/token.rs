#![forbid(unsafe_code)]
//! The token alone: our own workers, no socket and no daemon between.

use std::time::Duration;

use serde::Serialize;
use tokio::time::sleep;

use super::bar::Bar;
use super::call::{Caller, Turn, Way};
use super::load::drive;
use super::plan::{Pair, Plan, Point, Size, Varied, recommended};
use crate::algorithm::Algorithm;
use crate::commands::token_access::{Access, PATIENCE, setup};
use crate::commands::{Exit, Failed};
use crate::config::Config;
use crate::secret::Seed;
use crate::token::protocol::{Failure, Fingerprint, Setup};
use crate::token::{self, Capacity, Client, Workers};

/// How often it is looked whether all workers have logged in.
const TICK: Duration = Duration::from_millis(10);

/// How long the workers may take to log out.
const FAREWELL: Duration = Duration::from_secs(3);

/// What the token alone has shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TokenAlone {
    pub(super) token_label: String,
    pub(super) varied: Varied,
    pub(super) configured: Size,
    /// One call at a time, with the smallest size.
    pub(super) one_at_a_time: Pair,
    /// Callers at once for all points.
    pub(super) callers: usize,
    pub(super) points: Vec<Point>,
    /// The size with which no worker could be started, if it came to that.
    pub(super) stopped: Option<Stopped>,
    pub(super) recommended: Option<Size>,
}

/// Why larger sizes were not tried.
#[derive(Debug, Serialize)]
pub(super) struct Stopped {
    #[serde(flatten)]
    pub(super) size: Size,
    pub(super) why: String,
}

/// A token that lets us in, and the KEK that is tried on it.
pub(super) struct Token {
    setup: Setup,
    label: String,
    kek: Fingerprint,
}

/// Workers of one size, all logged in.
pub(super) struct Running {
    pub(super) way: TokenWay,
    workers: Workers,
}

/// The way to the token through workers of our own.
#[derive(Clone)]
pub(super) struct TokenWay {
    client: Client,
    kek: Fingerprint,
}

impl Way for TokenWay {
    type Wrapped = Vec<u8>;

    async fn wrap(&self, seed: &Seed) -> Result<Vec<u8>, String> {
        let algorithm = Algorithm::for_len(seed.len());
        let wrapped = self.client.wrap(&self.kek, algorithm, seed, PATIENCE).await;
        wrapped.map_err(|error| error.to_string())
    }

    async fn unwrap(&self, blob: &Vec<u8>) -> Result<Seed, String> {
        let unwrapped = self.client.unwrap(&self.kek, Algorithm::Kw, blob, PATIENCE).await;
        unwrapped.map_err(|error| error.to_string())
    }
}

impl Token {
    /// Logs in once and looks for the active KEK. With a wrong PIN this is the one attempt.
    pub(super) async fn open(config: &Config) -> Result<Self, Failed> {
        let access = Access::start(config)?;
        let opened = async {
            let report = access.open().await?;
            let active = access.keyring.active();
            let active = active.map_err(|error| Failed::new(Exit::Unreachable, error))?;
            Ok(Self {
                setup: setup(config),
                label: report.token_label.clone(),
                kek: active.kek.fingerprint,
            })
        };
        let opened = opened.await;
        access.close().await;
        opened
    }

    /// Starts workers and waits until all have logged in.
    pub(super) async fn start(&self, size: Size, queue_length: usize) -> Result<Running, Failure> {
        let mut setup = self.setup.clone();
        (setup.profile.workers, setup.profile.sessions) = (size.workers, size.sessions);
        let capacity = Capacity { workers: size.workers, queue_length };
        let (client, workers) = token::start(setup, capacity);
        while client.load().sessions() < size.total() {
            if let Some(failure) = client.failed_start() {
                workers.stop(FAREWELL).await;
                return Err(failure);
            }
            sleep(TICK).await;
        }
        Ok(Running { way: TokenWay { client, kek: self.kek }, workers })
    }

    /// Measures all sizes of the plan.
    ///
    /// # Errors
    /// Not even the smallest could be started.
    pub(super) async fn measure(
        &self,
        plan: &Plan,
        time: Duration,
        bar: &Bar,
    ) -> Result<TokenAlone, Failed> {
        let mut one_at_a_time = None;
        let mut points = Vec::new();
        let mut stopped = None;
        for size in plan.sizes.iter().copied() {
            bar.says(&format!("the token, {} x {}", size.workers, size.sessions));
            let running = match self.start(size, plan.callers).await {
                Ok(running) => running,
                Err(why) if points.is_empty() => return Err(Failed::new(Exit::Unreachable, why)),
                Err(why) => {
                    stopped = Some(Stopped { size, why: why.to_string() });
                    break;
                }
            };
            if one_at_a_time.is_none() {
                one_at_a_time = Some(both_ways(&running.way, 1, time, bar).await);
            }
            let pair = both_ways(&running.way, plan.callers, time, bar).await;
            points.push(Point { size, pair });
            running.stop().await;
        }
        let Some(one_at_a_time) = one_at_a_time else {
            return Err(Failed::new(Exit::Usage, "there is no size to try"));
        };
        Ok(TokenAlone {
            token_label: self.label.clone(),
            varied: plan.varied,
            configured: Size::configured(&self.setup.profile),
            one_at_a_time,
            callers: plan.callers,
            stopped,
            recommended: recommended(&points).map(|point| point.size),
            points,
        })
    }
}

impl Running {
    /// Logs out.
    pub(super) async fn stop(self) {
        self.workers.stop(FAREWELL).await;
    }
}

/// Wraps for a while, then unwraps for a while.
pub(super) async fn both_ways<W: Way>(way: &W, count: usize, time: Duration, bar: &Bar) -> Pair {
    let (wrap, callers) = drive(Caller::some(way, count), Turn::Wrap, time).await;
    bar.steps();
    let (unwrap, _) = drive(callers, Turn::Unwrap, time).await;
    bar.steps();
    Pair { wrap, unwrap }
}
