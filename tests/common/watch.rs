//! `kms-client watch`: the calls of kube-apiserver, without end, by its own code.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use serde::Deserialize;

use super::{eventually, wait_until};

/// Where the program is.
pub(crate) fn program() -> Option<String> {
    env::var("KMS_CLIENT").ok().filter(|path| !path.is_empty())
}

/// A client that calls until it is told to stop.
pub(crate) struct Watch {
    child: Child,
    seen: Arc<Mutex<Seen>>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    ready: bool,
    beats: Vec<Beat>,
    said: Vec<String>,
    summary: Option<Summary>,
}

/// What it tells every 100 ms.
#[derive(Clone)]
pub(crate) struct Beat {
    /// When we got it.
    pub(crate) at: Instant,
    /// Calls since it began.
    pub(crate) good: u64,
    /// The same.
    pub(crate) failed: u64,
    /// What Status says.
    pub(crate) healthz: String,
}

/// What it tells at its end.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Summary {
    pub(crate) good: u64,
    pub(crate) failed: BTreeMap<String, u64>,
    pub(crate) wrong: u64,
    pub(crate) longest_gap_ms: f64,
    pub(crate) status_ms_max: f64,
    pub(crate) status_failed: u64,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Ready,
    Beat { good: u64, failed: u64, healthz: String },
    Failed { at_ms: f64, method: String, code: String, message: String, took_ms: f64 },
    Wrong { at_ms: f64, method: String, message: String },
    Summary(Summary),
}

impl Watch {
    /// Starts it and waits for its first good round trip.
    pub(crate) async fn start(endpoint: &str, callers: u32) -> Self {
        let program = program().expect("KMS_CLIENT names what softhsm-test/apiserver/build built");
        let mut child = Command::new(program)
            .args(["watch", "--endpoint", endpoint, "--callers", &callers.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let reader = thread::spawn({
            let seen = seen.clone();
            move || read(stdout, &seen)
        });
        let watch = Self { child, seen, reader: Some(reader) };
        eventually("the client's first round trip", async || watch.seen().ready.then_some(()))
            .await;
        watch
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// All beats so far.
    pub(crate) fn beats(&self) -> Vec<Beat> {
        self.seen().beats.clone()
    }

    /// Waits for so many more good calls.
    pub(crate) async fn go_on_for(&self, calls: u64) {
        let good = || self.seen().beats.last().map_or(0, |beat| beat.good);
        let goal = good() + calls;
        eventually("good calls", async || (good() >= goal).then_some(())).await;
    }

    /// The first failures, in words.
    pub(crate) fn said(&self) -> Vec<String> {
        self.seen().said.clone()
    }

    /// Lets it finish its calls, and gives its sum.
    pub(crate) fn finish(&mut self) -> Summary {
        drop(self.child.stdin.take());
        // Its exit code says what the sum says.
        wait_until("the client's end", || self.child.try_wait().unwrap());
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.seen().summary.clone().expect("the client tells a sum at its end")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended already; either way it is reaped here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(stdout: ChildStdout, seen: &Mutex<Seen>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let event = serde_json::from_str(&line);
        let mut seen = seen.lock().unwrap();
        match event {
            Ok(Event::Ready) => seen.ready = true,
            Ok(Event::Beat { good, failed, healthz }) => {
                seen.beats.push(Beat { at: Instant::now(), good, failed, healthz });
            }
            Ok(Event::Failed { at_ms, method, code, message, took_ms }) => {
                seen.said.push(format!(
                    "{at_ms:.0} ms: {method}: {code} after {took_ms:.0} ms: {message}"
                ));
            }
            Ok(Event::Wrong { at_ms, method, message }) => {
                seen.said.push(format!("{at_ms:.0} ms: {method}: WRONG: {message}"));
            }
            Ok(Event::Summary(summary)) => seen.summary = Some(summary),
            Err(error) => seen.said.push(format!("{line:?} is no event: {error}")),
        }
    }
}
