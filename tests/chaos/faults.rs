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

use crate::common::daemon::Daemon;
use crate::common::process::{Process, pid_of};
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
    /// How often each function had been called when all was well at first.
    calls: BTreeMap<&'static str, u64>,
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
            calls: BTreeMap::new(),
        };
        scene.daemon.well().await;
        scene.workers = scene.daemon.all_workers(scene.usual_workers()).await;
        scene.calls = scene.token.misbehaving().counts();
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
            Act::MakeKek => {
                self.token.run(&["key", "generate", "--generation", "2"]).expect(0, &[]);
            }
            Act::Logged(words) => drop(self.daemon.logged(words).await),
            Act::Pause(time) => tokio::time::sleep(time).await,
        }
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
