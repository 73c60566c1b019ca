//! The stage of a row, and how each fault is done on it.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::daemon::Daemon;
use crate::common::process::{Process, descriptors, pid_of};
use crate::common::token::Token;
use crate::common::watch::Watch;
use crate::common::{eventually, wait_until};
use crate::flood::Flood;
use crate::row::Act;

/// A token, a daemon and a client. What is started here ends when it is dropped, in this order.
pub(crate) struct Scene {
    pub(crate) watch: Option<Watch>,
    others: Option<Watch>,
    flood: Option<Flood>,
    log_reader: Option<LogReader>,
    pub(crate) daemon: Daemon,
    /// The workers that were there first, all logged in.
    pub(crate) workers: Vec<Process>,
    pub(crate) token: Token,
    set: Vec<String>,
    /// Before there was a second one.
    first_tokens: Vec<PathBuf>,
    /// How often each function had been called when all was well at first.
    calls: BTreeMap<&'static str, u64>,
    /// How many lines of the daemon's log are from before.
    first_lines: usize,
}

impl Scene {
    /// All is well, and nobody calls yet.
    pub(crate) async fn new(set: &[&str], log_is_a_pipe: bool) -> Self {
        let token = Token::with_kek();
        token.misbehaving();
        let daemon = if log_is_a_pipe {
            Daemon::run(&token, with_log_reader(&token, set))
        } else {
            Daemon::spawn(&token, set)
        };
        let log_reader = log_is_a_pipe.then(|| LogReader::find(&token));
        let set = set.iter().map(|&setting| setting.to_owned()).collect();
        let mut scene = Self {
            watch: None,
            others: None,
            flood: None,
            log_reader,
            daemon,
            workers: Vec::new(),
            token,
            set,
            first_tokens: Vec::new(),
            calls: BTreeMap::new(),
            first_lines: 0,
        };
        scene.daemon.well().await;
        scene.workers = scene.daemon.all_workers(scene.usual_workers()).await;
        scene.calls = scene.token.misbehaving().counts();
        scene.first_lines = scene.daemon.lines().len();
        scene
    }

    /// How many workers there should be.
    pub(crate) fn usual_workers(&self) -> usize {
        let mut settings = self.set.iter();
        let set = settings.find_map(|setting| setting.strip_prefix("token.workers="));
        set.map_or(2, |count| count.parse().unwrap())
    }

    /// A client begins to call.
    pub(crate) async fn call(&mut self, callers: u32) {
        self.watch = Some(Watch::start(self.daemon.endpoint(), callers).await);
    }

    fn set(&self) -> Vec<&str> {
        self.set.iter().map(String::as_str).collect()
    }

    /// Those of the first workers that are still there.
    pub(crate) fn left(&self) -> Vec<Process> {
        self.workers.iter().copied().filter(|worker| worker.is_alive()).collect()
    }

    /// Is it in the log, in any line that is new since all was well at first? Those of requests
    /// do not count.
    pub(crate) fn has_logged(&self, words: &str) -> bool {
        let says = |line: &Value| {
            let mut parts = line.as_object().unwrap().values().filter_map(Value::as_str);
            parts.any(|part| part.contains(words))
        };
        let lines = self.daemon.lines();
        let mut new = lines.iter().skip(self.first_lines);
        new.any(|line| line.get("method").is_none() && says(line))
    }

    /// Does what a row says.
    pub(crate) async fn act(&mut self, act: Act) {
        match act {
            Act::Rules(rules) => self.token.misbehaving().set(rules).unwrap(),
            Act::Struck(times) => {
                let enough = || self.token.misbehaving().strikes() >= times;
                eventually("strikes of the module", async || enough().then_some(())).await;
            }
            Act::Called(function) => {
                let faults = self.token.misbehaving();
                let before = self.calls.get(function).copied().unwrap_or(0);
                let again = async || (faults.count(function) > before).then_some(());
                eventually(&format!("{function} again"), again).await;
            }
            Act::KillWorkers(count) => self.signal_workers(count, Signal::SIGKILL),
            Act::StopWorkers(count) => self.left().iter().take(count).for_each(|it| it.suspend()),
            Act::Workers(signal) => self.signal_workers(self.workers.len(), signal),
            Act::KillNewcomer => self.newcomer().await.signal(Signal::SIGKILL),
            Act::WorkersGone(count) => {
                let gone = || self.workers.len() - self.left().len() >= count;
                eventually("the end of workers", async || gone().then_some(())).await;
            }
            Act::Front(signal) => self.daemon.signal(signal),
            Act::StartFront => self.start_front().await,
            Act::Hangups(count) => {
                for _ in 0..count {
                    self.daemon.signal(Signal::SIGHUP);
                    tokio::time::sleep(Duration::from_secs(1) / count).await;
                }
            }
            Act::Hide(name) => fs::rename(self.token.path(name), self.hidden(name)).unwrap(),
            Act::Show(name) => fs::rename(self.hidden(name), self.token.path(name)).unwrap(),
            Act::Remove(name) => fs::remove_file(self.token.path(name)).unwrap(),
            Act::Config(from, to) => self.token.change_config(from, to),
            Act::StopLogReader => self.log_reader.as_ref().unwrap().signal(Signal::SIGSTOP),
            Act::LogIsFull => {
                let path = self.token.path("log-pipe");
                eventually("a full pipe", async || is_full(&path).then_some(())).await;
            }
            Act::ContinueLogReader => self.log_reader.as_ref().unwrap().signal(Signal::SIGCONT),
            Act::Flood(connections) => {
                self.flood = Some(Flood::start(&self.token.path("run/kms.sock"), connections));
            }
            Act::OthersCall(callers) => {
                self.others = Some(Watch::start(self.daemon.endpoint(), callers).await);
            }
            Act::OthersStop => drop(self.others.take()),
            Act::EndFlood => drop(self.flood.take()),
            Act::DeleteKek => self.token.delete("k8s-kek-0001"),
            Act::BackUp => self.copy("tokens", "tokens.copy"),
            Act::Restore => {
                fs::rename(self.token.path("tokens"), self.token.path("tokens.lost")).unwrap();
                fs::rename(self.token.path("tokens.copy"), self.token.path("tokens")).unwrap();
            }
            Act::MakeTokenAnew => {
                for token in self.tokens() {
                    fs::remove_dir_all(token).unwrap();
                }
                self.token.initialise();
            }
            Act::SecondToken => {
                self.first_tokens = self.tokens();
                self.token.initialise();
            }
            Act::NoSecondToken => {
                let others = self.tokens().into_iter().filter(|it| !self.first_tokens.contains(it));
                others.for_each(|token| fs::remove_dir_all(token).unwrap());
            }
            Act::Descriptors(more) => {
                let most = if more { 1024 } else { descriptors(self.daemon.id()) };
                let mut limit = Command::new("prlimit");
                limit.args(["--pid", &self.daemon.id().to_string(), &format!("--nofile={most}:")]);
                assert!(limit.status().unwrap().success());
            }
            Act::MakeKek => {
                self.token.run(&["key", "generate", "--generation", "2"]).expect(0, &[]);
            }
            Act::Logged(words) => {
                let said = async || self.has_logged(words).then_some(());
                eventually(&format!("{words:?} in the log"), said).await;
            }
            Act::Pause(time) => tokio::time::sleep(time).await,
        }
    }

    /// Where SoftHSM keeps them, one directory each.
    fn tokens(&self) -> Vec<PathBuf> {
        let found = fs::read_dir(self.token.path("tokens")).unwrap();
        found.map(|entry| entry.unwrap().path()).collect()
    }

    fn copy(&self, from: &str, to: &str) {
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(self.token.path(from)).arg(self.token.path(to));
        assert!(copy.status().unwrap().success());
    }

    fn hidden(&self, name: &str) -> PathBuf {
        self.token.path(&format!("{name}.hidden"))
    }

    fn signal_workers(&self, count: usize, signal: Signal) {
        let left = self.left();
        assert!(left.len() >= count, "only {} of the first workers are left", left.len());
        left.iter().take(count).for_each(|worker| worker.signal(signal));
    }

    async fn newcomer(&self) -> Process {
        let is_new = |worker: &Process| !self.workers.contains(worker);
        let find = async || self.daemon.workers().into_iter().find(is_new);
        eventually("a new worker", find).await
    }

    async fn start_front(&mut self) {
        let ended = self.daemon.end().await;
        let was_killed = ended.signal() == Some(Signal::SIGKILL as i32);
        assert!(ended.success() || was_killed, "the front ended: {ended}");
        self.daemon = Daemon::spawn(&self.token, &self.set());
        self.first_lines = 0;
    }
}

/// `cat` between the daemon and its log. It ends when nobody can write any more.
struct LogReader(Pid);

impl LogReader {
    fn find(token: &Token) -> Self {
        let path = token.path("log-reader");
        let id = wait_until("the reader of the log", || {
            fs::read_to_string(&path).ok()?.trim().parse().ok()
        });
        Self(pid_of(id))
    }

    fn signal(&self, signal: Signal) {
        kill(self.0, signal).unwrap();
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        // A stopped one would see no end; most have gone.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

fn is_full(pipe: &Path) -> bool {
    // Without a wait for a reader: there is one, but it stands still.
    let flags = OFlag::O_NONBLOCK.bits();
    let pipe = fs::OpenOptions::new().write(true).custom_flags(flags).open(pipe).unwrap();
    poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO).unwrap() == 0
}

/// `serve` with a pipe for its log. The reader is no child of the daemon, whose children are
/// its workers.
fn with_log_reader(token: &Token, set: &[&str]) -> Command {
    let mut shell = token.prepared("sh");
    shell.arg("-c").arg(
        "mkfifo log-pipe && (cat log-pipe >&2 & echo $! >log-reader) && exec \"$0\" \"$@\" 2>log-pipe",
    );
    shell.arg(env!("CARGO_BIN_EXE_p11-kms")).arg("--config").arg(token.config());
    for setting in set {
        shell.args(["--set", setting]);
    }
    shell.arg("serve");
    shell
}
