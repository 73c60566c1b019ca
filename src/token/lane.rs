#![forbid(unsafe_code)]
//! The task that feeds one session thread and hands its answers back.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use zeroize::{Zeroize, Zeroizing};

use super::blame::Cause;
use super::error::Error;
use super::frame::{Inbox, MAX_ANSWER, MAX_SEED_FRAME, decode_answer};
use super::job::Job;
use super::measure::Batch;
use super::pool::{LaneId, Orders, Pool, WorkerId};
use super::protocol::{Class, Failure};
use crate::metrics;

/// Why a lane ended.
#[derive(Debug)]
pub(super) enum LaneEnd {
    /// It was told to, and had nothing left to do.
    Retired,
    /// Its worker is of no more use.
    Broken(Failure),
}

/// Its worker is of no more use: why, and how that is known.
struct Broken {
    cause: Cause,
    why: Failure,
}

/// One session's lane.
pub(super) struct Lane {
    pool: Arc<Pool>,
    id: LaneId,
    wake: Arc<Notify>,
    socket: UnixStream,
    call_timeout: Duration,
    /// Jobs answered by the worker that this lane belongs to.
    answered: Arc<AtomicU64>,
    /// At the worker, in the order of the answers to come.
    at_worker: VecDeque<Job>,
    /// How many of them, from the end, have not been written to the socket.
    unsent: usize,
    /// How many of those before them went with the last write.
    last_sent: usize,
    /// Since when the first of them has been running.
    running_since: Instant,
    out: Zeroizing<Vec<u8>>,
    inbox: Inbox,
}

impl Lane {
    pub(super) fn new(
        pool: Arc<Pool>,
        worker: WorkerId,
        socket: UnixStream,
        depth: usize,
        call_timeout: Duration,
        answered: Arc<AtomicU64>,
    ) -> Self {
        let (id, wake) = pool.add_lane(worker, depth);
        Self {
            pool,
            id,
            wake,
            socket,
            call_timeout,
            answered,
            at_worker: VecDeque::new(),
            unsent: 0,
            last_sent: 0,
            running_since: Instant::now(),
            // Room for all wraps that may be at the worker: they never wait for a larger one.
            out: Zeroizing::new(Vec::with_capacity(depth * MAX_SEED_FRAME)),
            inbox: Inbox::new(MAX_ANSWER),
        }
    }

    /// Its name in the pool.
    pub(super) const fn id(&self) -> LaneId {
        self.id
    }

    /// Carries jobs and answers until the lane is retired or its worker breaks.
    pub(super) async fn run(mut self) -> LaneEnd {
        // Fine enough to notice a hung call soon after its time is up, and no
        // timer per job.
        let mut check = interval(self.call_timeout / 8);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = loop {
            match self.turn(&mut check).await {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(broken) => break Err(broken),
            }
        };
        match end {
            Ok(()) => {
                self.pool.end_lane(self.id);
                LaneEnd::Retired
            }
            Err(Broken { cause, why }) => {
                self.pool.remove_lane(self.id, self.at_worker, self.unsent, cause, &why);
                LaneEnd::Broken(why)
            }
        }
    }

    /// Sends what is new, then waits for whatever comes first. `true`: retired.
    async fn turn(&mut self, check: &mut Interval) -> Result<bool, Broken> {
        let orders = match self.send_new() {
            Ok(orders) => orders,
            Err(error) => {
                // The write says that the worker is dead. What it answered before, and whether it
                // read all that it was sent, only a read tells.
                self.receive()?;
                return Err(lost(error));
            }
        };
        let busy = !self.at_worker.is_empty();
        match orders {
            Orders::Retire if !busy => return Ok(true),
            Orders::BreakOff => {
                self.receive()?;
                return Err(lost("it was killed, and keeps its socket open"));
            }
            Orders::Work | Orders::Retire => {}
        }
        tokio::select! {
            // What has come is read before anybody is found late: it may be we who slept.
            biased;
            ready = self.socket.readable() => {
                ready.map_err(lost)?;
                self.receive()?;
            }
            () = self.wake.notified() => {}
            ready = self.socket.writable(), if !self.out.is_empty() => ready.map_err(lost)?,
            _ = check.tick(), if busy => {
                if self.late().is_some() {
                    // Timers fire before sockets are looked at where the process itself was
                    // stopped.
                    yield_now().await;
                    self.receive()?;
                    self.look_for_a_hang()?;
                }
            }
        }
        Ok(false)
    }

    /// What takes too long? A wrap or unwrap that takes longer than `call-timeout` hangs. A search
    /// or a new key is many calls, and has until its own deadline.
    fn late(&self) -> Option<&Job> {
        self.at_worker.front().filter(|first| {
            if first.is_one_seed() {
                self.running_since.elapsed() > self.call_timeout
            } else {
                first.is_late()
            }
        })
    }

    fn look_for_a_hang(&self) -> Result<(), Broken> {
        let Some(late) = self.late() else { return Ok(()) };
        let what = if late.is_one_seed() {
            metrics::stuck_call();
            let limit = humantime::format_duration(self.call_timeout);
            format!("the token has not answered in time (token.call-timeout is {limit})")
        } else {
            "the token has not answered in time (a search, or work on a key)".to_owned()
        };
        let what = format!("{what}: the module hangs, its worker is replaced");
        Err(Broken { cause: Cause::Hung, why: Failure::new(Class::Hung, what) })
    }

    fn send_new(&mut self) -> io::Result<Orders> {
        let before = self.at_worker.len();
        let orders = self.pool.fetch(self.id, &mut self.at_worker);
        if before == 0 && !self.at_worker.is_empty() {
            self.running_since = Instant::now();
        }
        for job in self.at_worker.iter().skip(before) {
            append(&mut self.out, job.frame());
            self.unsent += 1;
        }
        while !self.out.is_empty() {
            match self.socket.try_write(&self.out) {
                Ok(sent) => {
                    let left = self.out.len() - sent;
                    self.out.copy_within(sent.., 0);
                    if let Some(stale) = self.out.get_mut(left..) {
                        stale.zeroize();
                    }
                    self.out.truncate(left);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(orders),
                Err(error) => return Err(error),
            }
        }
        if self.unsent > 0 {
            self.last_sent = std::mem::take(&mut self.unsent);
        }
        Ok(orders)
    }

    fn receive(&mut self) -> Result<(), Broken> {
        loop {
            match self.socket.try_read(self.inbox.room()) {
                Ok(0) => return Err(lost("the worker process closed its socket")),
                Ok(len) => self.inbox.filled(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    if error.kind() == io::ErrorKind::ConnectionReset {
                        // The kernel's word for a peer that died without having read
                        // everything: at least the last write never got to it, or not all of it.
                        self.unsent += self.last_sent;
                    }
                    return Err(lost(error));
                }
            }
            let answered = self.deliver();
            self.inbox.wipe();
            answered?;
        }
    }

    fn deliver(&mut self) -> Result<(), Broken> {
        let mut count = 0;
        let mut batch = Batch::default();
        let outcome = loop {
            let body = match self.inbox.next_frame() {
                Ok(Some(body)) => body,
                Ok(None) => break Ok(()),
                Err(error) => break Err(lost(error)),
            };
            let Some(job) = self.at_worker.pop_front() else {
                break Err(lost("the worker answered a question that was not asked"));
            };
            let answer = match decode_answer(body) {
                Ok(answer) => answer,
                Err(error) => break Err(lost(error)),
            };
            count += 1;
            batch.saw(job.operation(), answer.as_ref().err());
            match answer {
                Ok(bytes) => job.answer(Ok(Zeroizing::new(bytes.to_vec()))),
                Err(failure) if failure.class == Class::Expired => job.answer(Err(Error::Deadline)),
                Err(failure) if failure.class.ends_worker() => {
                    // The job goes with the lane, to be run on the next one.
                    self.at_worker.push_front(job);
                    count -= 1;
                    break Err(Broken { cause: Cause::Told(failure.class), why: failure });
                }
                Err(failure) => job.answer(Err(failure.into())),
            }
        };
        batch.took(self.running_since.elapsed());
        if count > 0 {
            self.running_since = Instant::now();
            self.answered.fetch_add(count as u64, Ordering::Relaxed);
            self.pool.finished(self.id, count);
        }
        outcome
    }
}

/// Appends a frame. What has no room goes into a new buffer: growing would leave unwiped copies.
fn append(out: &mut Zeroizing<Vec<u8>>, frame: &[u8]) {
    let len = out.len() + frame.len();
    if len > out.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(len));
        larger.extend_from_slice(out);
        *out = larger;
    }
    out.extend_from_slice(frame);
}

fn lost(error: impl std::fmt::Display) -> Broken {
    let why = Failure::new(Class::TokenLost, format!("the worker process is gone: {error}"));
    Broken { cause: Cause::Died, why }
}
