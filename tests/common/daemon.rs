//! The real daemon.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use p11_kms::proto::StatusResponse;
use serde_json::Value;

use super::client::Client;
use super::process::{Process, children, pid_of};
use super::token::Token;
use super::{eventually, wait_until};

/// `p11-kms serve`. Killed when dropped; then nothing of it may be left running.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    endpoint: String,
    ended: bool,
}

impl Daemon {
    /// Starts it with the token's config and waits until it is well, with all its workers.
    pub(crate) async fn start(token: &Token) -> Self {
        Self::start_with(token, &[]).await
    }

    /// The same with `--set`.
    pub(crate) async fn start_with(token: &Token, set: &[&str]) -> Self {
        let daemon = Self::spawn(token, set);
        daemon.well().await;
        // SoftHSM writes its token at a login, and does not always stand it when another
        // process makes a key or looks at the token in that moment.
        let workers = set.iter().find_map(|setting| setting.strip_prefix("token.workers="));
        daemon.all_workers(workers.map_or(2, |count| count.parse().unwrap())).await;
        daemon
    }

    /// Starts it and does not wait.
    pub(crate) fn spawn(token: &Token, set: &[&str]) -> Self {
        let mut command = token.command();
        for setting in set {
            command.args(["--set", setting]);
        }
        command.arg("serve");
        Self::run(token, command)
    }

    /// Starts any command that becomes the daemon.
    pub(crate) fn run(token: &Token, mut command: Command) -> Self {
        let log = (0..)
            .map(|number| token.path(&format!("log-{number}.jsonl")))
            .find(|path| !path.exists())
            .unwrap();
        let child =
            command.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        Self { child, log, endpoint: token.endpoint(), ended: false }
    }

    /// It listens elsewhere than the config says.
    pub(crate) fn at(mut self, endpoint: &str) -> Self {
        endpoint.clone_into(&mut self.endpoint);
        self
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A new connection.
    pub(crate) async fn client(&self) -> Client {
        eventually("a connection", async || Client::connect(&self.endpoint).await.ok()).await
    }

    /// Waits until it is healthy.
    pub(crate) async fn well(&self) -> StatusResponse {
        self.status(|status| status.healthz == "ok").await
    }

    /// Waits until it is unhealthy and says these words.
    pub(crate) async fn unwell(&self, words: &str) -> StatusResponse {
        self.status(|status| status.healthz != "ok" && status.healthz.contains(words)).await
    }

    /// Waits for a Status.
    pub(crate) async fn status(&self, wanted: impl Fn(&StatusResponse) -> bool) -> StatusResponse {
        let look = async || {
            let client = Client::connect(&self.endpoint).await.ok()?;
            let status = client.status().await.ok()?;
            Some(status).filter(&wanted)
        };
        eventually("a certain Status", look).await
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The log's lines so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = self.log();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        // A module may write to standard error too.
        whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a line with this text in its message.
    pub(crate) async fn logged(&self, words: &str) -> Value {
        let find = || {
            self.lines()
                .into_iter()
                .find(|line| line["message"].as_str().is_some_and(|text| text.contains(words)))
        };
        eventually(&format!("{words:?} in the log"), async || find()).await
    }

    /// How many lines have this text in their message.
    pub(crate) fn count(&self, words: &str) -> usize {
        let has = |line: &Value| line["message"].as_str().is_some_and(|text| text.contains(words));
        self.lines().iter().filter(|line| has(line)).count()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its worker processes.
    pub(crate) fn workers(&self) -> Vec<Process> {
        children(self.child.id())
    }

    /// Waits until there are as many workers as the profile wants.
    pub(crate) async fn all_workers(&self, count: usize) -> Vec<Process> {
        eventually("all workers", async || {
            let logged_in = self.count("the worker is logged in") >= count;
            Some(self.workers()).filter(|workers| logged_in && workers.len() == count)
        })
        .await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(pid_of(self.child.id()), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, which must leave no worker behind.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        let workers = self.workers();
        let status = eventually("the daemon's end", async || self.child.try_wait().unwrap()).await;
        self.ended = true;
        assert_gone(&workers);
        status
    }

    /// SIGTERM, and a good end.
    pub(crate) async fn stop(self) {
        self.stop_and(|_| {}).await;
    }

    /// The same, then a look at what it left.
    pub(crate) async fn stop_and(mut self, look: impl FnOnce(&Self)) {
        self.signal(Signal::SIGTERM);
        let status = self.end().await;
        assert!(status.success(), "{status}");
        look(&self);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut workers = Vec::new();
        if !self.ended {
            // Stopped, it starts no worker between our look and its end.
            self.signal(Signal::SIGSTOP);
            workers = self.workers();
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", tail(&self.log()));
        } else {
            assert_gone(&workers);
        }
    }
}

/// The end of a text, for people.
fn tail(text: &str) -> String {
    let is_status = |line: &&str| line.contains("\"method\":\"Status\"");
    let lines: Vec<&str> = text.lines().filter(|line| !is_status(line)).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A worker dies with its front.
fn assert_gone(workers: &[Process]) {
    wait_until("the end of the workers", || {
        workers.iter().all(|worker| !worker.is_alive()).then_some(())
    });
}
