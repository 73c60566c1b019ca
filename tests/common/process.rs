//! Looking at processes, and running one to its end.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait_until;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output as JSON, and nothing else on it.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not JSON alone: {error}; {self:?}"))
    }

    /// Fails unless it ended with this code and said all of these on standard error.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code(), Some(code), "{self:?}");
        for words in said {
            assert!(self.stderr.contains(words), "{words:?} is missing: {self:?}");
        }
    }
}

/// Runs it to its end; kills it and fails if that does not come.
pub(crate) fn run(mut command: Command) -> Ended {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let read = |source: &mut dyn Read| {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    thread::scope(|scope| {
        let out = scope.spawn(move || read(&mut stdout));
        let err = scope.spawn(move || read(&mut stderr));
        let pid = pid_of(child.id());
        let guard = Guard(Some(pid));
        let status = wait_until("the end of a command", || child.try_wait().unwrap());
        guard.disarm();
        Ended { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
    })
}

/// Kills the process if the wait for its end fails.
struct Guard(Option<Pid>);

impl Guard {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

pub(crate) fn pid_of(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap())
}

/// A process, told apart from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    id: i32,
    started: u64,
}

impl Process {
    pub(crate) fn signal(self, signal: Signal) {
        assert!(self.is_alive(), "{self:?} is gone");
        kill(Pid::from_raw(self.id), signal).unwrap();
    }

    /// Stops it, as a hung module would. A signal stops one thread, which then stops the
    /// others: this waits for the last.
    pub(crate) fn suspend(self) {
        self.signal(Signal::SIGSTOP);
        wait_until("a process that stands still", || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.id)).unwrap();
            let mut states = threads.flatten().map(|thread| {
                let id = thread.file_name().to_str().and_then(|name| name.parse().ok());
                id.and_then(stat).map(|stat| stat.state)
            });
            states.all(|state| state.as_deref() == Some("T")).then_some(())
        });
    }

    pub(crate) fn id(self) -> u32 {
        u32::try_from(self.id).unwrap()
    }

    /// A zombie is not alive: it waits only for its parent.
    pub(crate) fn is_alive(self) -> bool {
        stat(self.id).is_some_and(|stat| stat.started == self.started && stat.state != "Z")
    }
}

struct Stat {
    state: String,
    parent: i32,
    started: u64,
}

/// Reads `/proc/ID/stat` (proc(5)).
fn stat(id: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name in brackets may hold anything, even brackets.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: (*fields.first()?).to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// The living children of a process.
pub(crate) fn children(parent: u32) -> Vec<Process> {
    let (living, _) = all_children(parent);
    living
}

/// Those that have ended and that it has not reaped yet.
pub(crate) fn zombies(parent: u32) -> Vec<Process> {
    let (_, ended) = all_children(parent);
    ended
}

fn all_children(parent: u32) -> (Vec<Process>, Vec<Process>) {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Some(stat) = stat(id) else { continue };
        if u32::try_from(stat.parent) == Ok(parent) {
            found.insert(id, (Process { id, started: stat.started }, stat.state));
        }
    }
    let (living, ended): (Vec<_>, Vec<_>) =
        found.into_values().partition(|(_, state)| state != "Z");
    let processes = |found: Vec<(Process, String)>| found.into_iter().map(|(it, _)| it).collect();
    (processes(living), processes(ended))
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
}
