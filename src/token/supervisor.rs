#![forbid(unsafe_code)]
//! Keeps the workers alive: starts them, notices their end, replaces them.
//!
//! Replacing a worker is the one answer to every kind of trouble, and to every
//! change: the new one is ready before the old one is let go.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::backoff::Backoff;
use super::lane::{Lane, LaneEnd};
use super::latch::Latch;
use super::measure::{after, outcome};
use super::pin::Tell;
use super::pool::{LaneId, Pool};
use super::process::{self, NotStarted, Process, Started};
use super::protocol::{Class, Failure, Method, Report, Setup};
use crate::config::Stamp;
use crate::metrics::{self, StartReason};

/// How often a latched PIN is looked at: has its file changed?
const PIN_WATCH: Duration = Duration::from_secs(1);

/// How often a worker's count of jobs is looked at.
const GROWTH_WATCH: Duration = Duration::from_millis(100);

/// How long the lanes of a worker that was killed may take to end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What all slots share.
pub(super) struct Supervisor {
    pool: Arc<Pool>,
    setup: watch::Receiver<Arc<Setup>>,
    reports: watch::Sender<Option<Arc<Report>>>,
    /// One worker logs in at a time. With a wrong PIN two at once would be two
    /// attempts, and three lock many a token.
    login: tokio::sync::Mutex<()>,
    latch: Latch,
    /// The failure that was logged last: a token that stays away fills no disk.
    said: Mutex<Option<Failure>>,
}

/// A worker at work.
struct Running {
    process: Process,
    lanes: JoinSet<LaneEnd>,
    ids: Vec<LaneId>,
    answered: Arc<AtomicU64>,
    since: Instant,
    setup: Arc<Setup>,
    /// What the PIN's file looked like when it logged in.
    stamp: Option<Stamp>,
    replace_after: Option<u64>,
}

enum Ending {
    Broken(Failure),
    Replace(StartReason),
}

impl Supervisor {
    pub(super) fn new(
        pool: Arc<Pool>,
        setup: watch::Receiver<Arc<Setup>>,
        reports: watch::Sender<Option<Arc<Report>>>,
        tell: Tell,
    ) -> Self {
        Self {
            pool,
            setup,
            reports,
            login: tokio::sync::Mutex::new(()),
            latch: Latch::new(tell),
            said: Mutex::new(None),
        }
    }

    /// Tends one worker slot for ever; ends when nobody can change the setup any more.
    pub(super) async fn tend(self: Arc<Self>, slot: usize) {
        let mut setup = self.setup.clone();
        let mut backoff = Backoff::new();
        let mut running: Option<Running> = None;
        let mut reason = StartReason::First;
        loop {
            if let Some(old) = &running {
                // One attempt a PIN: from here on it is the new worker's.
                old.process.forbid_login();
            }
            match self.start(&mut setup, slot).await {
                Ok((next, report)) => {
                    metrics::worker_started(reason);
                    // In this order: who hears of the new worker must not be served by
                    // the old one any more.
                    if let Some(old) = running.replace(next) {
                        old.feed_no_more(&self.pool);
                        tokio::spawn(old.retire());
                    }
                    self.reports.send_replace(Some(report));
                }
                Err(failure) => {
                    // A lost start may be an accident, and is soon tried again.
                    let accident = matches!(failure.class, Class::TokenLost | Class::Hung);
                    if accident && !backoff.is_serious() {
                        self.pool.start_failed(failure);
                    } else {
                        self.pool.set_down(failure);
                    }
                    let time = backoff.next();
                    let go_on =
                        self.wait_beside(&mut running, slot, &mut setup, time, &mut reason).await;
                    if !go_on {
                        return;
                    }
                    continue;
                }
            }
            let Some(current) = &mut running else {
                continue;
            };
            match current.end(&mut setup).await {
                Some(Ending::Replace(why)) => {
                    reason = why;
                    current.prove_its_token(&mut backoff);
                    info!(slot, reason = told(why), "replacing the worker");
                }
                Some(Ending::Broken(failure)) => {
                    reason = after(failure.class);
                    current.prove_its_token(&mut backoff);
                    self.give_up(&mut running, slot, failure).await;
                    if !self.wait(&mut setup, backoff.next()).await {
                        return;
                    }
                }
                None => {
                    if let Some(last) = running.take() {
                        last.feed_no_more(&self.pool);
                        last.retire().await;
                    }
                    return;
                }
            }
        }
    }

    async fn start(
        &self,
        setup: &mut watch::Receiver<Arc<Setup>>,
        slot: usize,
    ) -> Result<(Running, Arc<Report>), Failure> {
        let _one_at_a_time = self.login.lock().await;
        let setup = setup.borrow_and_update().clone();
        let stamp = setup.pin.stamp();
        if let Some(failure) = self.latch.refuses(&setup, stamp) {
            return Err(failure);
        }
        self.latch.tries();
        let login_in_doubt = self.latch.is_in_doubt(&setup, stamp);
        let sent = Setup { pin_stamp: stamp, login_in_doubt, ..Setup::clone(&setup) };
        match process::start(&sent).await {
            Ok(started) => {
                self.latch.opens(&setup);
                self.say(slot, None);
                Ok(self.adopt(started, setup, stamp, slot))
            }
            Err(NotStarted { failure, end_was_seen }) => {
                metrics::worker_start_failed(outcome(failure.class));
                if !end_was_seen {
                    self.latch.doubts(&setup, stamp);
                }
                self.latch.takes(&failure, &setup, stamp);
                self.say(slot, Some(&failure));
                Err(failure)
            }
        }
    }

    fn adopt(
        &self,
        started: Started,
        setup: Arc<Setup>,
        stamp: Option<Stamp>,
        slot: usize,
    ) -> (Running, Arc<Report>) {
        let Started { process, report, sessions } = started;
        info!(
            slot,
            pid = process.id(),
            library = report.library,
            token = report.token_label,
            serial = report.token_serial,
            kw = %report.kw,
            sessions = sessions.len(),
            "the worker is logged in"
        );
        for warning in &report.warnings {
            warn!(slot, "{warning}");
        }
        let profile = &setup.profile;
        let answered = Arc::new(AtomicU64::new(0));
        let mut lanes = JoinSet::new();
        let mut ids = Vec::new();
        let worker = self.pool.add_worker();
        for socket in sessions {
            let lane = Lane::new(
                self.pool.clone(),
                worker,
                socket,
                profile.pipeline_depth,
                profile.call_timeout,
                answered.clone(),
            );
            ids.push(lane.id());
            lanes.spawn(lane.run());
        }
        // Only the method `object` makes the objects that are counted.
        let per_job = if profile.verify_wraps { 2 } else { 1 };
        let replace_after = profile
            .replace_after_objects
            .filter(|_| report.kw == Method::Object)
            .map(|objects| objects.div_ceil(per_job));
        let since = Instant::now();
        let running = Running { process, lanes, ids, answered, since, setup, stamp, replace_after };
        (running, Arc::new(report))
    }

    /// Lets go of a worker that broke. It may have been its PIN: one that logs in again
    /// by itself can find it wrong.
    async fn give_up(&self, running: &mut Option<Running>, slot: usize, failure: Failure) {
        warn!(slot, class = ?failure.class, "{failure}");
        let Some(broken) = running.take() else { return };
        let (setup, stamp) = (broken.setup.clone(), broken.stamp);
        let (told, was_in_login) = broken.abandon(&self.pool).await;
        if was_in_login {
            self.latch.doubts(&setup, stamp);
        }
        for failure in told.into_iter().chain([failure]) {
            self.latch.takes(&failure, &setup, stamp);
        }
    }

    /// Waits before the next start: `time`, or, while the PIN as it is now is latched, until it is
    /// worth looking at its file again. `false`: the supervisor is to end.
    async fn wait(&self, setup: &mut watch::Receiver<Arc<Setup>>, time: Duration) -> bool {
        let present = setup.borrow().clone();
        let latched = self.latch.refuses(&present, present.pin.stamp()).is_some();
        tokio::select! {
            () = sleep(if latched { PIN_WATCH } else { time }) => setup.has_changed().is_ok(),
            changed = setup.changed() => changed.is_ok(),
        }
    }

    /// The same while an old worker is still at work: it may break meanwhile.
    async fn wait_beside(
        &self,
        running: &mut Option<Running>,
        slot: usize,
        setup: &mut watch::Receiver<Arc<Setup>>,
        time: Duration,
        reason: &mut StartReason,
    ) -> bool {
        let Some(old) = running else { return self.wait(setup, time).await };
        let failure = tokio::select! {
            go_on = self.wait(setup, time) => return go_on,
            failure = old.broken() => failure,
        };
        *reason = after(failure.class);
        self.give_up(running, slot, failure).await;
        true
    }

    /// Logs a failed start, once until it changes or a start succeeds.
    fn say(&self, slot: usize, failure: Option<&Failure>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.as_ref() == failure {
            return;
        }
        if let Some(failure) = failure {
            error!(slot, class = ?failure.class, "no worker could be started: {failure}");
        }
        *said = failure.cloned();
    }
}

impl Running {
    /// Waits until it breaks or is due; `None`: the supervisor is to end.
    async fn end(&mut self, setup: &mut watch::Receiver<Arc<Setup>>) -> Option<Ending> {
        let (answered, limit) = (self.answered.clone(), self.replace_after);
        tokio::select! {
            failure = self.broken() => Some(Ending::Broken(failure)),
            changed = setup.changed() => changed.ok().map(|()| {
                // Sent anew as it was: somebody wants new eyes, and not another config.
                let same = Arc::ptr_eq(&setup.borrow(), &self.setup);
                Ending::Replace(if same { StartReason::Renewed } else { StartReason::Config })
            }),
            () = grown(&answered, limit) => Some(Ending::Replace(StartReason::Grown)),
        }
    }

    /// Waits until it is of no more use.
    async fn broken(&mut self) -> Failure {
        let Self { process, lanes, .. } = self;
        let one_broke = async {
            while let Some(end) = lanes.join_next().await {
                if let Ok(LaneEnd::Broken(failure)) = end {
                    return failure;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            failure = process.died() => failure,
            failure = one_broke => failure,
        }
    }

    /// A worker that gave an answer had a token that works.
    fn prove_its_token(&self, backoff: &mut Backoff) {
        if self.answered.load(Ordering::Relaxed) > 0 {
            backoff.worked(self.since.elapsed());
        }
    }

    /// Gives it no more jobs.
    fn feed_no_more(&self, pool: &Pool) {
        for id in &self.ids {
            pool.retire(*id);
        }
    }

    /// Lets it finish what it has, then go.
    async fn retire(mut self) {
        while self.lanes.join_next().await.is_some() {}
        self.process.farewell().await;
    }

    /// Ends it at once. Its lanes give their jobs back to the pool, and tell what they
    /// had to tell. `true`: it was in the middle of a login of its own.
    async fn abandon(mut self, pool: &Pool) -> (Vec<Failure>, bool) {
        let was_in_login = self.process.kill().await;
        let mut told = Vec::new();
        let mut all_ended = async |lanes: &mut JoinSet<LaneEnd>| {
            while let Some(end) = lanes.join_next().await {
                if let Ok(LaneEnd::Broken(failure)) = end {
                    told.push(failure);
                }
            }
        };
        if timeout(LAST_WORDS, all_ended(&mut self.lanes)).await.is_err() {
            // A process that cannot die keeps its sockets open, or one that it has forked.
            for id in &self.ids {
                pool.break_off(*id);
            }
            all_ended(&mut self.lanes).await;
        }
        (told, was_in_login)
    }
}

/// Why a worker that is well is replaced, for the log.
const fn told(reason: StartReason) -> &'static str {
    match reason {
        StartReason::Grown => "it has made as many objects as the profile allows",
        _ => "a new one was asked for",
    }
}

/// Waits until a worker has answered as many jobs as it may.
async fn grown(answered: &AtomicU64, limit: Option<u64>) {
    let Some(limit) = limit else { return std::future::pending().await };
    while answered.load(Ordering::Relaxed) < limit {
        sleep(GROWTH_WATCH).await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::net::UnixStream;
    use tokio::sync::oneshot;

    use super::super::frame::Operation;
    use super::super::job::{Askers, Job};
    use super::super::latch::tests::setup;
    use super::super::protocol::Fingerprint;
    use super::*;

    fn running(process: Process, lanes: JoinSet<LaneEnd>, ids: Vec<LaneId>) -> Running {
        Running {
            process,
            lanes,
            ids,
            answered: Arc::default(),
            since: Instant::now(),
            setup: setup(Path::new("/p")),
            stamp: None,
            replace_after: None,
        }
    }

    /// One that had no job may end before the one that broke is told of.
    #[tokio::test]
    async fn a_lane_that_ended_well_does_not_hide_one_that_broke() {
        let (process, _control) = Process::fake();
        let mut lanes = JoinSet::new();
        lanes.spawn(async { LaneEnd::Retired });
        lanes.spawn(async {
            sleep(Duration::from_millis(50)).await;
            LaneEnd::Broken(Failure::new(Class::SessionLost, "the session is gone"))
        });
        let mut worker = running(process, lanes, Vec::new());
        let failure = timeout(Duration::from_secs(10), worker.broken()).await;
        worker.abandon(&Pool::new(8)).await;
        assert_eq!(failure.unwrap().class, Class::SessionLost);
    }

    /// It waits for its device in the kernel. Its callers need not wait with it.
    #[tokio::test]
    async fn a_worker_that_cannot_die_gives_its_jobs_back() {
        let pool = Arc::new(Pool::new(8));
        let (ours, _kept_open) = UnixStream::pair().unwrap();
        let (process, _control) = Process::fake();
        let time = Duration::from_secs(60);
        let lane = Lane::new(pool.clone(), pool.add_worker(), ours, 4, time, Arc::default());
        let ids = vec![lane.id()];
        let mut lanes = JoinSet::new();
        lanes.spawn(lane.run());
        let (reply, mut answer) = oneshot::channel();
        let job = Job::new(Operation::Find, &Fingerprint::NONE, b"", time, Askers::One(reply));
        pool.submit(job).unwrap();
        let worker = running(process, lanes, ids);
        worker.abandon(&pool).await;
        assert!(matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        assert_eq!(pool.load().waiting, 1);
    }

    /// Its file was mended while the token is away: that is no reason for a start every second.
    #[tokio::test(start_paused = true)]
    async fn only_a_pin_that_is_latched_as_it_is_now_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        std::fs::write(&path, "1234").unwrap();
        let setup = setup(&path);
        let (_sender, mut receiver) = watch::channel(setup.clone());
        let (reports, _) = watch::channel(None);
        let tell: Tell = Arc::new(|_| ());
        let supervisor = Supervisor::new(Arc::new(Pool::new(8)), receiver.clone(), reports, tell);
        let failure = Failure::new(Class::PinWrong, "CKR_PIN_INCORRECT");
        supervisor.latch.takes(&failure, &setup, setup.pin.stamp());
        let backoff = Duration::from_secs(30);
        let began = Instant::now();
        assert!(supervisor.wait(&mut receiver, backoff).await);
        assert!(began.elapsed() < backoff, "the file is looked at meanwhile");

        std::fs::write(&path, "123456").unwrap();
        let began = Instant::now();
        assert!(supervisor.wait(&mut receiver, backoff).await);
        assert!(began.elapsed() >= backoff);
    }
}
