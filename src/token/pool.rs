#![forbid(unsafe_code)]
//! Which job goes to which session: one bounded queue and the lanes it feeds.
//!
//! A lane is the front's end of one session thread. Idle lanes are filled
//! first; when all are busy, jobs are sent ahead up to the profile's
//! `pipeline-depth`; the rest waits here, where a job whose caller has gone
//! can still be dropped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::blame::{Cause, Company, Doom, Part};
use super::error::Error;
use super::job::Job;
use super::load::{Availability, Load};
use super::poison::Poison;
use super::protocol::Failure;
use crate::metrics;

/// How often a full queue is swept, at most.
const SWEEP: Duration = Duration::from_millis(10);

/// Names the worker that a lane belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WorkerId(u64);

/// Names one lane for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneId(u64);

/// What a lane is to do beside its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Orders {
    /// Nothing.
    Work,
    /// To end once it is idle.
    Retire,
    /// To end now.
    BreakOff,
}

struct Lane {
    worker: WorkerId,
    /// Another lane of its worker ended: this one will, too.
    doomed: Option<Doom>,
    /// Given to it, not yet fetched by its task.
    outbox: VecDeque<Job>,
    /// In the outbox or at the worker.
    load: usize,
    depth: usize,
    /// Nothing may be sent behind the last job that it has.
    closed: bool,
    orders: Orders,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct State {
    lanes: BTreeMap<LaneId, Lane>,
    last_lane: u64,
    last_worker: u64,
    waiting: VecDeque<Job>,
    /// Workers whose job wants no other one beside it in any lane.
    closed: Vec<WorkerId>,
    poison: Poison,
    /// When the queue was last rid of jobs that nobody waits for.
    swept: Option<Instant>,
    /// When the first of the present lanes came, or one before it without a gap.
    up_since: Option<Instant>,
    /// Why the first lane went since one came, or why no other could be started in its place.
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
        if job.key().is_some_and(|key| state.poison.refuses(key)) {
            return Err(Error::CrashesModule);
        }
        // The first who waits may have gone. Lanes can be idle because of him.
        state.refill();
        // One that waits for company to go would wait for ever if others went before it.
        let job = if state.waiting.is_empty() { state.give(job) } else { Some(job) };
        let Some(job) = job else { return Ok(()) };
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
            closed: false,
            orders: Orders::Work,
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
            lane.orders = Orders::Retire;
            lane.wake.notify_one();
        }
    }

    /// The lane ends, although its worker keeps the socket open.
    pub(super) fn break_off(&self, id: LaneId) {
        let mut state = self.state();
        if let Some(lane) = state.lanes.get_mut(&id) {
            lane.orders = Orders::BreakOff;
            lane.wake.notify_one();
        }
    }

    /// Fetches what was given to the lane.
    pub(super) fn fetch(&self, id: LaneId, into: &mut VecDeque<Job>) -> Orders {
        let mut state = self.state();
        let Some(lane) = state.lanes.get_mut(&id) else {
            return Orders::Retire;
        };
        into.append(&mut lane.outbox);
        lane.orders
    }

    /// The lane's worker answered `count` jobs: there is room for others.
    pub(super) fn finished(&self, id: LaneId, count: usize) {
        let mut state = self.state();
        if let Some(lane) = state.lanes.get_mut(&id) {
            lane.load = lane.load.saturating_sub(count);
            if lane.load == 0 {
                lane.closed = false;
                let worker = lane.worker;
                state.closed.retain(|closed| *closed != worker);
            }
        }
        state.refill();
    }

    /// The lane was retired and has no jobs left.
    pub(super) fn end_lane(&self, id: LaneId) {
        self.state().lanes.remove(&id);
    }

    /// The lane is no more. Its jobs are run again on another one: wrap and unwrap
    /// have no side effects. The last `unsent` of them never got to the worker,
    /// so they have not been run at all.
    pub(super) fn remove_lane(
        &self,
        id: LaneId,
        mut at_worker: VecDeque<Job>,
        unsent: usize,
        cause: Cause,
        why: &Failure,
    ) {
        let mut state = self.state();
        let Some(Lane { worker, doomed, outbox, .. }) = state.lanes.remove(&id) else { return };
        let sent = at_worker.len().saturating_sub(unsent);
        state.closed.retain(|closed| *closed != worker);
        // The first to break tells what became of the worker; the others fall with it.
        let siblings = || state.lanes.values().filter(|lane| lane.worker == worker);
        let at_siblings: usize = siblings().map(|lane| lane.load).sum();
        let doom = doomed.unwrap_or(Doom { cause, one_job: sent + at_siblings == 1 });
        for sibling in state.lanes.values_mut().filter(|lane| lane.worker == worker) {
            if sibling.orders == Orders::Work {
                sibling.orders = Orders::Retire;
            }
            sibling.doomed.get_or_insert(doom);
        }
        let part = doom.part(doomed.is_none(), sent);
        for job in at_worker.iter_mut().take(sent) {
            job.outlived_its_worker(part);
        }
        // Of a worker's lanes the first tells why; the others only that it was killed then.
        state.lost.get_or_insert_with(|| why.clone());
        for job in at_worker.into_iter().chain(outbox).rev() {
            if job.may_run_again() {
                state.waiting.push_front(job);
                continue;
            }
            let refusal = match job.key() {
                Some(key) if doom.cause == Cause::Died && part == Part::Run => {
                    state.poison.add(key);
                    Error::CrashesModule
                }
                _ => Error::Unavailable(why.message.clone()),
            };
            job.answer(Err(refusal));
        }
        state.refill();
    }

    /// A worker could not be started. Those who wait go on waiting for the next one.
    pub(super) fn start_failed(&self, failure: Failure) {
        let mut state = self.state();
        if state.lanes.is_empty() {
            state.lost = Some(failure);
        }
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
    /// Gives a job to the best lane; the job comes back if there is none for it.
    fn give(&mut self, job: Job) -> Option<Job> {
        let company = job.company();
        let Some(lane) = self.best_lane(company) else { return Some(job) };
        // A search has more time than a wrap, which must not find itself behind one that hangs.
        lane.closed = company != Company::Any || !job.is_one_seed();
        lane.give(job);
        let worker = lane.worker;
        if company == Company::Nobody {
            self.closed.push(worker);
        }
        None
    }

    fn best_lane(&mut self, company: Company) -> Option<&mut Lane> {
        let Self { lanes, closed, .. } = self;
        let busy: BTreeSet<WorkerId> = match company {
            Company::Nobody => {
                lanes.values().filter(|lane| lane.load > 0).map(|lane| lane.worker).collect()
            }
            Company::Any | Company::OtherSessions => BTreeSet::new(),
        };
        lanes
            .values_mut()
            .filter(|lane| {
                let has_room = match company {
                    Company::Any => lane.load < lane.depth,
                    Company::OtherSessions => lane.load == 0,
                    Company::Nobody => !busy.contains(&lane.worker),
                };
                let is_open = !lane.closed && !closed.contains(&lane.worker);
                has_room && is_open && lane.orders == Orders::Work
            })
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
            if let Some(job) = self.give(job) {
                return self.waiting.push_front(job);
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

    use zeroize::Zeroizing;

    use super::super::frame::Operation;
    use super::super::job::{Askers, Receiver};
    use super::super::merge::{Joined, Merger};
    use super::super::protocol::{Class, Fingerprint};
    use super::*;
    use crate::algorithm::Algorithm;

    const WRAP: Operation = Operation::Wrap(Algorithm::Kw);

    const TOLD: Cause = Cause::Told(Class::TokenLost);

    fn job(operation: Operation) -> (Job, Receiver) {
        let (reply, answer) = oneshot::channel();
        let (time, askers) = (Duration::from_secs(60), Askers::One(reply));
        (Job::new(operation, &Fingerprint::NONE, b"payload", time, askers), answer)
    }

    fn submit(pool: &Pool) -> Receiver {
        let (job, answer) = job(WRAP);
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
    fn nothing_is_sent_ahead_behind_a_search() {
        let pool = Pool::new(10);
        let (lane, _) = pool.add_lane(pool.add_worker(), 4);
        let _wraps = [submit(&pool), submit(&pool)];
        let (search, _answer) = job(Operation::Find);
        pool.submit(search).unwrap();
        let _behind = submit(&pool);
        assert_eq!(fetched(&pool, lane), 3);
        pool.finished(lane, 2);
        assert_eq!(fetched(&pool, lane), 0);
        pool.finished(lane, 1);
        assert_eq!(fetched(&pool, lane), 1);
    }

    /// A search may take longer than callers wait. Nobody else need wait behind one who has gone.
    #[test]
    fn nothing_waits_behind_a_job_that_waited_to_be_alone_and_whose_caller_has_gone() {
        let pool = Pool::new(10);
        let worker = pool.add_worker();
        let [(a, _), (b, _)] = [pool.add_lane(worker, 1), pool.add_lane(worker, 1)];
        let (search, _answer) = job(Operation::Find);
        pool.submit(search).unwrap();
        assert_eq!(fetched(&pool, a), 1);
        let (mut alone, its_answer) = job(WRAP);
        alone.outlived_its_worker(Part::Suspect(Company::Nobody));
        pool.submit(alone).unwrap();
        let _other = submit(&pool);
        assert_eq!(fetched(&pool, b), 0, "it would not be alone");
        drop(its_answer);
        let _next = submit(&pool);
        assert_eq!(fetched(&pool, b), 1);
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
            pool.remove_lane(lane, jobs, 0, TOLD, &gone());
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
            pool.remove_lane(lane, jobs, 0, Cause::Told(Class::SessionLost), &dropped);
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
        pool.remove_lane(lane, jobs, 0, TOLD, &gone());
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
            pool.remove_lane(lane, jobs, 1, Cause::Died, &gone());
        }
        assert!(answer.try_recv().is_err(), "still waiting");
    }

    #[test]
    fn a_failed_start_answers_those_who_wait_and_those_who_come() {
        let pool = Pool::new(10);
        let mut waiting = submit(&pool);
        assert_eq!(pool.availability(), Availability::Starting { after: None });
        pool.start_failed(gone());
        assert_eq!(pool.availability(), Availability::Starting { after: Some(gone()) });
        assert!(waiting.try_recv().is_err(), "still waiting");
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
        pool.remove_lane(a, jobs, 0, TOLD, &gone());
        assert_eq!(fetched(&pool, b), 0, "the worker is doomed");
        let (other, _) = pool.add_lane(pool.add_worker(), 1);
        assert_eq!(fetched(&pool, other), 1);
        assert!(answer.try_recv().is_err(), "still under way");
    }

    /// A new worker with so many lanes, each of which fetches what it is given.
    fn worker(pool: &Pool, lanes: usize, depth: usize) -> Vec<(LaneId, VecDeque<Job>)> {
        let worker = pool.add_worker();
        let ids: Vec<_> = (0..lanes).map(|_| pool.add_lane(worker, depth).0).collect();
        let fetch = |id| {
            let mut jobs = VecDeque::new();
            pool.fetch(id, &mut jobs);
            (id, jobs)
        };
        ids.into_iter().map(fetch).collect()
    }

    /// Its process ends. How many jobs each of its lanes had?
    fn dies(pool: &Pool, worker: Vec<(LaneId, VecDeque<Job>)>) -> Vec<usize> {
        let had = worker.iter().map(|(_, jobs)| jobs.len()).collect();
        for (lane, jobs) in worker {
            pool.remove_lane(lane, jobs, 0, Cause::Died, &gone());
        }
        had
    }

    /// The worker runs what it has until it comes to the bad job. `true`: it came to it.
    fn meets_the_bad_one(pool: &Pool, lanes: &mut [(LaneId, VecDeque<Job>)]) -> bool {
        while let Some((lane, jobs)) = lanes.iter_mut().find(|(_, jobs)| !jobs.is_empty()) {
            assert_eq!(jobs.len(), 1, "nothing behind it");
            if jobs.front().unwrap().frame().ends_with(b"bad") {
                return true;
            }
            jobs.pop_front().unwrap().answer(Ok(Zeroizing::default()));
            pool.finished(*lane, 1);
            for (lane, jobs) in &mut *lanes {
                pool.fetch(*lane, jobs);
            }
        }
        false
    }

    /// Three good jobs and a bad one.
    fn good_and_bad(pool: &Pool) -> ([Receiver; 3], Receiver) {
        let submit = |payload: &[u8]| {
            let (reply, answer) = oneshot::channel();
            let (time, askers) = (Duration::from_secs(60), Askers::One(reply));
            pool.submit(Job::new(WRAP, &Fingerprint::NONE, payload, time, askers)).unwrap();
            answer
        };
        let good = [submit(b"good"), submit(b"good"), submit(b"good")];
        (good, submit(b"bad"))
    }

    /// Its worker holds back the answers to those before it, to write them together.
    #[test]
    fn of_a_worker_that_hung_only_the_job_that_hung_it_has_been_run() {
        let pool = Pool::new(10);
        let hung = Failure::new(Class::Hung, "the module hangs");
        let (good, mut bad) = good_and_bad(&pool);
        let (lane, jobs) = worker(&pool, 1, 4).pop().unwrap();
        assert_eq!(jobs.len(), 4);
        pool.remove_lane(lane, jobs, 0, Cause::Hung, &hung);
        for _ in 0..2 {
            assert!(bad.try_recv().is_err(), "still waiting");
            let mut lanes = worker(&pool, 1, 4);
            assert!(meets_the_bad_one(&pool, &mut lanes));
            let (lane, jobs) = lanes.pop().unwrap();
            pool.remove_lane(lane, jobs, 0, Cause::Hung, &hung);
        }
        assert!(bad.try_recv().unwrap().is_err(), "alone twice, and no oftener");
        assert!(good.into_iter().all(|mut answer| answer.try_recv().unwrap().is_ok()));
    }

    /// A hung call keeps other sessions from nothing: they are not to blame for it.
    #[test]
    fn beside_a_job_of_a_worker_that_hung_other_sessions_go_on() {
        let pool = Pool::new(10);
        let hung = Failure::new(Class::Hung, "the module hangs");
        let _answers = [submit(&pool), submit(&pool)];
        let (lane, jobs) = worker(&pool, 1, 4).pop().unwrap();
        assert_eq!(jobs.len(), 2);
        pool.remove_lane(lane, jobs, 0, Cause::Hung, &hung);
        let next = worker(&pool, 2, 4);
        assert!(next.iter().all(|(_, jobs)| jobs.len() == 1));
    }

    #[test]
    fn a_job_beside_one_that_crashes_workers_is_not_given_up() {
        // In one lane behind each other, or in several.
        for (lanes, depth) in [(1, 4), (4, 1), (2, 2)] {
            let pool = Pool::new(10);
            let (good, mut bad) = good_and_bad(&pool);
            let had = dies(&pool, worker(&pool, lanes, depth));
            assert_eq!(had.iter().sum::<usize>(), 4);
            for _ in 0..2 {
                assert!(bad.try_recv().is_err(), "still waiting");
                let mut lanes = worker(&pool, lanes, depth);
                assert!(meets_the_bad_one(&pool, &mut lanes));
                assert_eq!(dies(&pool, lanes).iter().sum::<usize>(), 1, "it is alone");
            }
            assert!(bad.try_recv().unwrap().is_err(), "three workers, and no more");
            assert!(!meets_the_bad_one(&pool, &mut worker(&pool, lanes, depth)));
            assert!(good.into_iter().all(|mut answer| answer.try_recv().unwrap().is_ok()));
        }
    }

    /// They are killed at the same moment, as by one who is short of memory.
    #[test]
    fn jobs_outlive_any_two_workers() {
        let pool = Pool::new(10);
        let mut answers: Vec<_> = (0..4).map(|_| submit(&pool)).collect();
        let both = [worker(&pool, 1, 2), worker(&pool, 1, 2)];
        for worker in both {
            dies(&pool, worker);
        }
        // One of them is alone at the next, which is killed too.
        assert_eq!(dies(&pool, worker(&pool, 1, 2)), [1]);
        assert!(answers.iter_mut().all(|answer| answer.try_recv().is_err()), "still waiting");
        // What comes now waits behind them, and then has company again.
        let _others = [submit(&pool), submit(&pool), submit(&pool)];
        let (lane, mut jobs) = worker(&pool, 1, 2).pop().unwrap();
        for _ in 0..4 {
            assert_eq!(jobs.len(), 1);
            jobs.pop_front().unwrap().answer(Ok(Zeroizing::default()));
            pool.finished(lane, 1);
            pool.fetch(lane, &mut jobs);
        }
        assert_eq!(jobs.len(), 2);
        assert!(answers.iter_mut().all(|answer| answer.try_recv().unwrap().is_ok()));
    }

    #[test]
    fn a_blob_that_crashed_two_workers_is_left_alone() {
        let pool = Pool::new(10);
        let merger = Merger::default();
        let unwrap = |blob: &[u8]| {
            let operation = Operation::Unwrap(Algorithm::Kw);
            let joined = merger.join(operation, &Fingerprint::NONE, blob);
            let Joined::First(answer, merged) = joined else { panic!("nobody has asked") };
            let (time, askers) = (Duration::from_secs(60), Askers::Many(merged));
            (Job::new(operation, &Fingerprint::NONE, blob, time, askers), answer)
        };
        let (job, mut answer) = unwrap(b"poison");
        pool.submit(job).unwrap();
        for _ in 0..2 {
            assert_eq!(dies(&pool, worker(&pool, 1, 2)), [1]);
        }
        assert_eq!(answer.try_recv().unwrap().unwrap_err(), Error::CrashesModule);
        assert_eq!(pool.submit(unwrap(b"poison").0), Err(Error::CrashesModule));
        assert_eq!(pool.submit(unwrap(b"another").0), Ok(()));
    }

    #[test]
    fn while_a_new_worker_is_started_the_end_of_the_last_one_is_known() {
        let pool = Pool::new(10);
        let [(a, _), (b, _)] =
            [pool.add_lane(pool.add_worker(), 1), pool.add_lane(pool.add_worker(), 1)];
        pool.remove_lane(a, VecDeque::new(), 0, TOLD, &gone());
        assert_eq!(pool.availability(), Availability::Up);
        let killed = Failure::new(Class::TokenLost, "the worker process is gone");
        pool.remove_lane(b, VecDeque::new(), 0, Cause::Died, &killed);
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
