//! Runs one row and judges it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::common::client::request_for;
use crate::common::daemon::Daemon;
use crate::common::process::{descriptors, zombies};
use crate::common::watch::{Beat, Summary, Watch};
use crate::common::{PATIENCE, eventually, seed};
use crate::faults::Scene;
use crate::row::{Act, Front, Load, Row, Status, Workers};

/// Good calls before anything goes wrong.
const WARM_UP: u64 = 100;

/// So many beats without any trouble mean that all is well again.
const WELL: usize = 4;

/// How long a Status may take. It is answered from memory in less than a millisecond; the rest is
/// for a machine that does other things too.
const STATUS_WITHIN: Duration = Duration::from_millis(500);

/// Descriptors that may be more or fewer afterwards: a connection is just coming or going.
const DESCRIPTORS: usize = 2;

/// What came of a row.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) fault: String,
    pub(crate) moment: String,
    pub(crate) good: u64,
    pub(crate) failed: BTreeMap<String, u64>,
    pub(crate) well_after: Duration,
    pub(crate) longest_gap_ms: f64,
    pub(crate) status_ms_max: f64,
    pub(crate) problems: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}, {}", self.name, self.fault, self.moment)?;
        writeln!(
            f,
            "  {} good calls, failed: {:?}; well after {:.1?}, longest gap {:.0} ms, slowest Status {:.0} ms",
            self.good, self.failed, self.well_after, self.longest_gap_ms, self.status_ms_max
        )?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "  FAILED: {problem}"))
    }
}

impl Outcome {
    pub(crate) fn check(&mut self, good: bool, problem: impl FnOnce() -> String) {
        if !good {
            self.problems.push(problem());
        }
    }

    /// Takes in what a client has seen, and judges it.
    pub(crate) fn take(&mut self, watch: &mut Watch, may_see: &[&str]) -> Summary {
        let summary = watch.finish();
        self.good += summary.good;
        self.longest_gap_ms = self.longest_gap_ms.max(summary.longest_gap_ms);
        self.status_ms_max = self.status_ms_max.max(summary.status_ms_max);
        self.check(summary.wrong == 0, || format!("{} wrong answers", summary.wrong));
        for (code, count) in &summary.failed {
            *self.failed.entry(code.clone()).or_default() += count;
            self.check(may_see.contains(&code.as_str()), || format!("{count} calls saw {code}"));
        }
        summary
    }
}

/// Does it, and tells what came of it.
pub(crate) async fn run(row: &Row) -> Outcome {
    let mut outcome = Outcome {
        name: row.name.to_owned(),
        fault: row.fault.to_owned(),
        moment: row.moment.to_owned(),
        ..Outcome::default()
    };
    let log_is_a_pipe = row.begin.iter().any(|act| matches!(act, Act::StopLogReader));
    let mut scene = Scene::new(row.set, log_is_a_pipe).await;
    let written = write(&scene.daemon).await;
    scene.call(row.callers).await;
    watch(&scene).go_on_for(WARM_UP).await;
    let open = descriptors(scene.daemon.id());
    if row.load == Load::NotDuring {
        scene.watch = None;
    }

    for act in row.begin {
        scene.act(*act).await;
    }
    tokio::time::sleep(row.lasts).await;
    if let Status::Says(all) = row.status {
        for words in all {
            status_says(&scene, words).await;
        }
        stays_unwell(&mut outcome, &scene);
    }
    if row.load == Load::AnotherAfter {
        let first = scene.watch.as_mut().unwrap();
        judge_client(&mut outcome, row, first);
        scene.watch = None;
    }
    for act in row.end {
        scene.act(*act).await;
    }
    let over = Instant::now();
    if scene.watch.is_none() {
        scene.call(row.callers).await;
    }
    let well = well_since(watch(&scene), over, WELL).await;
    outcome.well_after = well.duration_since(over);
    outcome.check(outcome.well_after <= row.well_within, || {
        format!(
            "well after {:.1?}, and not within {:?}",
            well.duration_since(over),
            row.well_within
        )
    });
    let last = row.load == Load::Throughout;
    look_at_processes(&mut outcome, row, &scene, open).await;
    let (watch, undisturbed) = (scene.watch.as_mut().unwrap(), Row { may_see: &[], ..*row });
    judge_client(&mut outcome, if last { row } else { &undisturbed }, watch);
    look_at_what_was_written(&mut outcome, row, &scene.daemon, &written).await;
    outcome.check(!row.is_seen || !outcome.failed.is_empty(), || "nobody saw the fault".to_owned());
    for words in row.logs {
        outcome.check(scene.has_logged(words), || format!("{words:?} is not in the log"));
    }
    let pins = scene.token.misbehaving().failed_pins();
    outcome.check(pins == row.failed_pins, || format!("{pins} wrong PINs were tried"));
    if !outcome.problems.is_empty() {
        tell(&mut outcome, &scene);
    }
    scene.watch = None;
    scene.daemon.stop().await;
    outcome
}

fn watch(scene: &Scene) -> &Watch {
    scene.watch.as_ref().unwrap()
}

/// Waits until all was well for some beats in a row after `since`, and tells since when.
pub(crate) async fn well_since(watch: &Watch, since: Instant, beats: usize) -> Instant {
    let found = async || first_streak(&watch.beats(), since, beats);
    eventually("that all is well", found).await
}

fn first_streak(beats: &[Beat], since: Instant, wanted: usize) -> Option<Instant> {
    let mut streak = Vec::new();
    for (before, beat) in beats.iter().zip(beats.iter().skip(1)) {
        let progress = beat.good > before.good && beat.failed == before.failed;
        if before.at >= since && progress && beat.healthz == "ok" {
            streak.push(beat.at);
        } else {
            streak.clear();
        }
        if streak.len() == wanted {
            return streak.first().copied();
        }
    }
    None
}

async fn status_says(scene: &Scene, words: &str) {
    let Some(watch) = &scene.watch else {
        scene.daemon.unwell(words).await;
        return;
    };
    let says = |beat: &Beat| beat.healthz != "ok" && beat.healthz.contains(words);
    let end = Instant::now() + PATIENCE;
    while !watch.beats().iter().any(says) {
        let mut said: Vec<String> = watch.beats().into_iter().map(|beat| beat.healthz).collect();
        said.dedup();
        assert!(Instant::now() < end, "Status never said {words:?}; it said {said:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whoever says that all is well while it is not would stop the search for what is wrong.
fn stays_unwell(outcome: &mut Outcome, scene: &Scene) {
    let Some(watch) = &scene.watch else { return };
    let beats = watch.beats();
    let since = beats.iter().skip_while(|beat| beat.healthz == "ok");
    let well = since.filter(|beat| beat.healthz == "ok").count();
    outcome.check(well == 0, || format!("Status said ok {well} times during the fault"));
}

fn judge_client(outcome: &mut Outcome, row: &Row, watch: &mut Watch) {
    let summary = outcome.take(watch, row.may_see);
    if row.front != Front::Dies {
        let failed = summary.status_failed;
        outcome.check(failed == 0, || format!("{failed} Statuses were not answered"));
    }
    if row.front == Front::Lives {
        let slowest = summary.status_ms_max;
        outcome.check(slowest <= STATUS_WITHIN.as_millis() as f64, || {
            format!("a Status took {slowest:.0} ms")
        });
    }
    let may_say = match row.status {
        Status::Well => Some(None),
        Status::MaySay(words) => Some(Some(words)),
        Status::Says(_) | Status::Anything => None,
    };
    if let Some(words) = may_say {
        let beats = watch.beats();
        let is_right = |said: &str| said == "ok" || words.is_some_and(|words| said.contains(words));
        let unwell = beats.iter().find(|beat| !is_right(&beat.healthz));
        outcome.check(unwell.is_none(), || {
            format!("Status said {:?}", unwell.map_or("", |beat| &beat.healthz))
        });
    }
    if !outcome.problems.is_empty() {
        outcome.problems.extend(watch.said().into_iter().take(5));
    }
}

async fn look_at_processes(outcome: &mut Outcome, row: &Row, scene: &Scene, open: usize) {
    let front = scene.daemon.id();
    // One that was let go may still be taking its leave.
    let workers = scene.daemon.all_workers(scene.usual_workers()).await;
    let left = scene.left().len();
    let (first, now) = (scene.workers.len(), workers.len());
    let right = match row.workers {
        Workers::Same => left == first,
        Workers::Replaced(count) => first - left >= count,
        Workers::Any => true,
    };
    outcome.check(right, || format!("{left} of the first {first} workers are there, {now} in all"));
    let gone = async || zombies(front).is_empty().then_some(());
    eventually("the end of all zombies", gone).await;
    let close = async || (descriptors(front).abs_diff(open) <= DESCRIPTORS).then_some(());
    eventually("as many open descriptors as before", close).await;
}

/// What is written before, to be read afterwards.
type Written = Vec<(Vec<u8>, p11_kms::proto::EncryptResponse)>;

async fn write(daemon: &Daemon) -> Written {
    let client = daemon.client().await;
    let mut written = Vec::new();
    for salt in 0..5 {
        let plaintext = seed(salt, 32);
        let encrypted = client.encrypt(&plaintext).await.unwrap();
        written.push((plaintext, encrypted));
    }
    written
}

async fn look_at_what_was_written(
    outcome: &mut Outcome,
    row: &Row,
    daemon: &Daemon,
    written: &Written,
) {
    let client = daemon.client().await;
    // To say that a key_id is unknown takes a fresh look at the token, and those are rare.
    let enough = if row.readable { written.len() } else { 1 };
    for (plaintext, encrypted) in written.iter().take(enough) {
        let back = client.decrypt(request_for(encrypted)).await;
        let right = match &back {
            Ok(back) => row.readable && back == plaintext,
            Err(refusal) => !row.readable && refusal.code() == tonic::Code::NotFound,
        };
        outcome.check(right, || match back {
            Ok(_) => "a wrong plaintext came back".to_owned(),
            Err(refusal) => format!("what was written before cannot be read: {refusal}"),
        });
    }
}

/// Adds what helps to understand.
fn tell(outcome: &mut Outcome, scene: &Scene) {
    let lines = scene.daemon.lines();
    let of_interest = lines.iter().filter(|line| line.get("method").is_none());
    let told: Vec<String> = of_interest.map(|line| format!("log: {line}")).collect();
    outcome.problems.extend(told.into_iter().take(60));
}
