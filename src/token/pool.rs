#![forbid(unsafe_code)]
//! Which job goes to which session: one bounded queue and the lanes it feeds.
//!
//! A lane is the front's end of one session thread. Idle lanes are filled
//! first; when all are busy, jobs are sent ahead up to the profile's
//! `pipeline-depth`; the rest waits here, where a job whose caller has gone
//! can still be dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::Error;
use super::job::Job;
use super::protocol::{Class, Failure};
use crate::metrics;

/// How often a full queue is swept, at most.
const SWEEP: Duration = Duration::from_millis(10);

/// Names the worker that a lane belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WorkerId(u64);

/// Names one lane for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneId(u64);

struct Lane {
    worker: WorkerId,
    /// Why another lane of its worker ended: this one will, too.
    doomed: Option<Class>,
    /// Given to it, not yet fetched by its task.
    outbox: VecDeque<Job>,
    /// In the outbox or at the worker.
    load: usize,
    depth: usize,
    retiring: bool,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct State {
    lanes: BTreeMap<LaneId, Lane>,
    last_lane: u64,
    last_worker: u64,
    waiting: VecDeque<Job>,
    /// When the queue was last rid of jobs that nobody waits for.
    swept: Option<Instant>,
    /// When the first of the present lanes came, or one before it without a gap.
    up_since: Option<Instant>,
    /// Why the first lane went since one came.
    lost: Option<Failure>,
    /// Why a worker could not be started, since one could.
    failed_start: Option<Failure>,
    /// The same, while there is no other.
    down: Option<Failure>,
    closing: bool,
}

/// The queue and the lanes.
pub(super) struct Pool {
    state: Mutex<State>,
    limit: usize,
}

/// How much there is to do, and who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Jobs that wait for a session.
    pub waiting: usize,
    /// How many may.
    pub limit: usize,
    /// Sessions that have a job.
    pub busy: usize,
    /// Sessions that have none.
    pub idle: usize,
}

impl Load {
    /// All sessions.
    #[must_use]
    pub const fn sessions(&self) -> usize {
        self.busy + self.idle
    }
}

/// Is there a token to ask?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// At least one session answers.
    Up,
    /// A worker is being started: the first one, or one in place of those that ended so.
    Starting {
        /// How the last one ended.
        after: Option<Failure>,
    },
    /// The last start failed.
    Down(Failure),
}

impl Pool {
    /// A pool whose queue holds at most `limit` jobs.
    pub(super) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), limit }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing here panics half way, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a job to the best lane, or lets it wait.
    pub(super) fn submit(&self, job: Job) -> Result<(), Error> {
        let mut state = self.state();
        if state.closing {
            return Err(Error::Unavailable("p11-kms is shutting down".to_owned()));
        }
        if let Some(lane) = state.best_lane() {
            lane.give(job);
            return Ok(());
        }
        if state.lanes.is_empty()
            && let Some(failure) = &state.down
        {
            return Err(Error::Unavailable(failure.message.clone()));
        }
        if state.waiting.len() >= self.limit {
            state.sweep();
        }
        if state.waiting.len() >= self.limit {
            return Err(Error::QueueFull(self.limit));
        }
        state.waiting.push_back(job);
        Ok(())
    }

    /// A name for a worker whose lanes are to come.
    pub(super) fn add_worker(&self) -> WorkerId {
        let mut state = self.state();
        state.last_worker += 1;
        WorkerId(state.last_worker)
    }

    /// A worker's session is ready for jobs.
    pub(super) fn add_lane(&self, worker: WorkerId, depth: usize) -> (LaneId, Arc<Notify>) {
        let mut state = self.state();
        state.down = None;
        state.failed_start = None;
        state.lost = None;
        if state.lanes.is_empty() {
            state.up_since = Some(Instant::now());
        }
        state.last_lane += 1;
        let id = LaneId(state.last_lane);
        let wake = Arc::new(Notify::new());
        let lane = Lane {
            worker,
            doomed: None,
            outbox: VecDeque::new(),
            load: 0,
            depth,
            retiring: false,
            wake: wake.clone(),
        };
        state.lanes.insert(id, lane);
        state.refill();
        (id, wake)
    }

    /// The lane gets no more jobs; it may end when it has none left.
    pub(super) fn retire(&self, id: LaneId) {
        let mut state = self.state();
        if let Some(lane) = state.lanes.get_mut(&id) {
            lane.retiring = true;
            lane.wake.notify_one();
        }
    }

    /// Fetches what was given to the lane. `true`: it is to end once it is idle.
    pub(super) fn fetch(&self, id: LaneId, into: &mut VecDeque<Job>) -> bool {
        let mut state = self.state();
        let Some(lane) = state.lanes.get_mut(&id) else {
            return true;
        };
        into.append(&mut lane.outbox);
        lane.retiring
    }

    /// The lane's worker answered `count` jobs: there is room for others.
    pub(super) fn finished(&self, id: LaneId, count: usize) {
        let mut state = self.state();
        if let Some(lane) = state.lanes.get_mut(&id) {
            lane.load = lane.load.saturating_sub(count);
        }
        state.refill();
    }

    /// The lane was retired and has no jobs left.
    pub(super) fn end_lane(&self, id: LaneId) {
        self.state().lanes.remove(&id);
    }

    /// The lane is no more. Its jobs run once more on another one: wrap and unwrap
    /// have no side effects. The last `unsent` of them never got to the worker,
    /// so they have not been run at all.
    pub(super) fn remove_lane(
        &self,
        id: LaneId,
        mut at_worker: VecDeque<Job>,
        unsent: usize,
        why: &Failure,
    ) {
        let mut state = self.state();
        let Some(Lane { worker, doomed, outbox, .. }) = state.lanes.remove(&id) else { return };
        // The first to break tells what became of the worker; the others fall with it.
        let class = doomed.unwrap_or(why.class);
        for sibling in state.lanes.values_mut().filter(|lane| lane.worker == worker) {
            sibling.retiring = true;
            sibling.doomed.get_or_insert(class);
        }
        let sent = at_worker.len().saturating_sub(unsent);
        for (place, job) in at_worker.iter_mut().take(sent).enumerate() {
            job.was_run(class, place == 0 && doomed.is_none());
        }
        // Of a worker's lanes the first tells why; the others only that it was killed then.
        state.lost.get_or_insert_with(|| why.clone());
        for job in at_worker.into_iter().chain(outbox).rev() {
            if job.may_run_again() {
                state.waiting.push_front(job);
            } else {
                job.answer(Err(Error::Unavailable(why.message.clone())));
            }
        }
        state.refill();
    }

    /// No worker can be started. Those who wait are told why.
    pub(super) fn set_down(&self, failure: Failure) {
        let mut state = self.state();
        if state.lanes.is_empty() {
            for job in state.waiting.drain(..) {
                job.answer(Err(Error::Unavailable(failure.message.clone())));
            }
            state.down = Some(failure.clone());
        }
        state.failed_start = Some(failure);
    }

    /// Why a worker could not be started, since one could. Another may be at work.
    pub(super) fn failed_start(&self) -> Option<Failure> {
        self.state().failed_start.clone()
    }

    /// Takes no more jobs. Those that are in go on.
    pub(super) fn close(&self) {
        self.state().closing = true;
    }

    /// Since when at least one lane has been there without a break.
    pub(super) fn up_since(&self) -> Option<Instant> {
        let state = self.state();
        state.up_since.filter(|_| !state.lanes.is_empty())
    }

    /// How much there is to do.
    pub(super) fn load(&self) -> Load {
        let state = self.state();
        let busy = state.lanes.values().filter(|lane| lane.load > 0).count();
        let idle = state.lanes.len() - busy;
        Load { waiting: state.waiting.len(), limit: self.limit, busy, idle }
    }

    /// Is there a token to ask?
    pub(super) fn availability(&self) -> Availability {
        let state = self.state();
        match &state.down {
            _ if !state.lanes.is_empty() => Availability::Up,
            Some(failure) => Availability::Down(failure.clone()),
            None => Availability::Starting { after: state.lost.clone() },
        }
    }
}

impl State {
    fn best_lane(&mut self) -> Option<&mut Lane> {
        self.lanes
            .values_mut()
            .filter(|lane| !lane.retiring && lane.load < lane.depth)
            .min_by_key(|lane| lane.load)
    }

    /// Drops the jobs that nobody waits for. Now and then: under a flood of calls
    /// each refusal would otherwise cost a look at the whole queue.
    fn sweep(&mut self) {
        let now = Instant::now();
        if self.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP) {
            self.waiting.retain(Job::is_wanted);
            self.swept = Some(now);
        }
    }

    fn refill(&mut self) {
        while let Some(job) = self.waiting.pop_front() {
            if !job.is_wanted() {
                continue;
            }
            match self.best_lane() {
                Some(lane) => lane.give(job),
                None => return self.waiting.push_front(job),
            }
        }
    }
}

impl Lane {
    fn give(&mut self, mut job: Job) {
        if let Some(waited) = job.end_wait() {
            metrics::queue_wait(waited);
        }
        self.load += 1;
        self.outbox.push_back(job);
        if self.outbox.len() == 1 {
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::frame::Operation;
    use super::super::job::{Askers, Receiver};
    use super::super::protocol::Fingerprint;
    use super::*;

    fn job(operation: Operation) -> (Job, Receiver) {
        let (reply, answer) = oneshot::channel();
        let (time, askers) = (Duration::from_secs(60), Askers::One(reply));
        (Job::new(operation, &Fingerprint::NONE, b"payload", time, askers), answer)
    }

    fn submit(pool: &Pool) -> Receiver {
        let (job, answer) = job(Operation::Find);
        pool.submit(job).unwrap();
        answer
    }

    fn fetched(pool: &Pool, lane: LaneId) -> usize {
        let mut jobs = VecDeque::new();
        pool.fetch(lane, &mut jobs);
        jobs.len()
    }

    fn gone() -> Failure {
        Failure::new(Class::TokenLost, "the device is gone")
    }

    #[test]
    fn idle_lanes_come_first_then_jobs_are_sent_ahead() {
        let pool = Pool::new(10);
        let (a, _) = pool.add_lane(pool.add_worker(), 2);
        let (b, _) = pool.add_lane(pool.add_worker(), 2);
        let _answers: Vec<_> = (0..3).map(|_| submit(&pool)).collect();
        assert_eq!((fetched(&pool, a), fetched(&pool, b)), (2, 1));
    }

    #[test]
    fn what_has_no_lane_waits_up_to_the_limit() {
        let pool = Pool::new(2);
        let _answers = [submit(&pool), submit(&pool)];
        assert_eq!(pool.submit(job(Operation::Find).0), Err(Error::QueueFull(2)));
        let (lane, _) = pool.add_lane(pool.add_worker(), 8);
        assert_eq!(fetched(&pool, lane), 2);
    }

    #[test]
    fn a_job_whose_caller_has_gone_is_not_run() {
        let pool = Pool::new(1);
        drop(submit(&pool));
        let _other = submit(&pool);
        let (lane, _) = pool.add_lane(pool.add_worker(), 8);
        assert_eq!(fetched(&pool, lane), 1);
    }

    #[test]
    fn a_dead_workers_jobs_run_once_more_and_no_oftener() {
        let pool = Pool::new(10);
        let mut answer = submit(&pool);
        for _ in 0..2 {
            let (lane, _) = pool.add_lane(pool.add_worker(), 1);
            let mut jobs = VecDeque::new();
            pool.fetch(lane, &mut jobs);
            assert_eq!(jobs.len(), 1);
            pool.remove_lane(lane, jobs, 0, &gone());
        }
        let told = answer.try_recv().unwrap().unwrap_err();
        assert_eq!(told, Error::Unavailable("the device is gone".to_owned()));
    }

    #[test]
    fn a_dropped_session_does_not_count_as_a_run_but_there_is_an_end() {
        let pool = Pool::new(10);
        let mut answer = submit(&pool);
        let dropped = Failure::new(Class::SessionLost, "the session is gone");
        let mut tries = 0;
        while answer.try_recv().is_err() {
            tries += 1;
            let (lane, _) = pool.add_lane(pool.add_worker(), 1);
            let mut jobs = VecDeque::new();
            pool.fetch(lane, &mut jobs);
            pool.remove_lane(lane, jobs, 0, &dropped);
        }
        assert_eq!(tries, 6);
    }

    #[test]
    fn a_kek_is_never_made_twice() {
        let pool = Pool::new(10);
        let (generate, mut answer) = job(Operation::Generate);
        let (lane, _) = pool.add_lane(pool.add_worker(), 1);
        pool.submit(generate).unwrap();
        let mut jobs = VecDeque::new();
        pool.fetch(lane, &mut jobs);
        pool.remove_lane(lane, jobs, 0, &gone());
        assert!(answer.try_recv().unwrap().is_err());
    }

    #[test]
    fn what_never_got_to_the_worker_was_not_run() {
        let pool = Pool::new(10);
        let mut answer = submit(&pool);
        for _ in 0..5 {
            let (lane, _) = pool.add_lane(pool.add_worker(), 1);
            let mut jobs = VecDeque::new();
            pool.fetch(lane, &mut jobs);
            pool.remove_lane(lane, jobs, 1, &gone());
        }
        assert!(answer.try_recv().is_err(), "still waiting");
    }

    #[test]
    fn a_failed_start_answers_those_who_wait_and_those_who_come() {
        let pool = Pool::new(10);
        let mut waiting = submit(&pool);
        assert_eq!(pool.availability(), Availability::Starting { after: None });
        pool.set_down(gone());
        assert!(waiting.try_recv().unwrap().is_err());
        assert!(matches!(pool.submit(job(Operation::Find).0), Err(Error::Unavailable(_))));
        assert_eq!(pool.availability(), Availability::Down(gone()));
        pool.add_lane(pool.add_worker(), 1);
        assert_eq!(pool.availability(), Availability::Up);
    }

    #[test]
    fn when_one_lane_breaks_its_worker_gets_nothing_more() {
        let pool = Pool::new(10);
        let worker = pool.add_worker();
        let [(a, _), (b, _)] = [pool.add_lane(worker, 1), pool.add_lane(worker, 1)];
        let mut answer = submit(&pool);
        let mut jobs = VecDeque::new();
        pool.fetch(a, &mut jobs);
        pool.remove_lane(a, jobs, 0, &gone());
        assert_eq!(fetched(&pool, b), 0, "the worker is doomed");
        let (other, _) = pool.add_lane(pool.add_worker(), 1);
        assert_eq!(fetched(&pool, other), 1);
        assert!(answer.try_recv().is_err(), "still under way");
    }

    #[test]
    fn of_a_worker_that_hung_only_the_job_that_hung_it_has_been_run() {
        let pool = Pool::new(10);
        let hung = Failure::new(Class::Hung, "the module hangs");
        let mut answers = [submit(&pool), submit(&pool)];
        for _ in 0..2 {
            let (lane, _) = pool.add_lane(pool.add_worker(), 2);
            let mut jobs = VecDeque::new();
            pool.fetch(lane, &mut jobs);
            pool.remove_lane(lane, jobs, 0, &hung);
        }
        assert!(answers[0].try_recv().unwrap().is_err(), "once more, and no oftener");
        assert!(answers[1].try_recv().is_err(), "still waiting");
    }

    #[test]
    fn while_a_new_worker_is_started_the_end_of_the_last_one_is_known() {
        let pool = Pool::new(10);
        let [(a, _), (b, _)] =
            [pool.add_lane(pool.add_worker(), 1), pool.add_lane(pool.add_worker(), 1)];
        pool.remove_lane(a, VecDeque::new(), 0, &gone());
        assert_eq!(pool.availability(), Availability::Up);
        let killed = Failure::new(Class::TokenLost, "the worker process is gone");
        pool.remove_lane(b, VecDeque::new(), 0, &killed);
        assert_eq!(pool.availability(), Availability::Starting { after: Some(gone()) });
    }

    #[test]
    fn a_retiring_lane_gets_nothing_new() {
        let pool = Pool::new(10);
        let (lane, _) = pool.add_lane(pool.add_worker(), 4);
        pool.retire(lane);
        let _answer = submit(&pool);
        assert_eq!(fetched(&pool, lane), 0);
    }
}
