#![forbid(unsafe_code)]
//! Starting one worker process and handing it what it needs.

use std::env;
use std::ffi::OsString;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::config::Profile;

use super::protocol::{
    Class, Failure, Greeting, LOGIN_BEGINS, MAX_CONTROL, Report, Setup, WORKER_COMMAND,
    encode_control,
};

/// How long a worker that was let go may take to close its sessions.
const FAREWELL: Duration = Duration::from_secs(2);

/// For glibc in the worker, whose module is not ours and does not use our allocator: what is freed is
/// filled with a pattern (p11-kit's client leaves each seed in what it frees). The per-thread cache is
/// not reached by that, and goes without.
const WIPING: &str =
    "glibc.malloc.perturb=85:glibc.malloc.tcache_count=0:glibc.malloc.trim_threshold=67108864";

/// The same for a module that wipes by itself. SoftHSM makes some 50 small allocations for each seed,
/// more than that cache holds by default. With room for them a wrap takes an eighth less CPU.
const FAST: &str = "glibc.malloc.tcache_count=512:glibc.malloc.trim_threshold=67108864";

/// How long what a worker said before it was killed may take to be read.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A worker that is logged in.
pub(super) struct Process {
    child: Child,
    /// Held open: its end of file tells the worker that we are gone.
    control: UnixStream,
    /// It has said that it begins to log in again, and not yet that this is over.
    in_login: bool,
}

/// Why there is no new worker.
pub(super) struct NotStarted {
    pub(super) failure: Failure,
    /// `false`: it may have been in the middle of its login.
    pub(super) end_was_seen: bool,
}

/// A new worker, what it found, and a socket for each of its sessions.
pub(super) struct Started {
    pub(super) process: Process,
    pub(super) report: Report,
    pub(super) sessions: Vec<UnixStream>,
}

/// Starts a worker and waits until it has logged in.
///
/// Whoever drops this half way does not kill the worker: it sees that its control
/// socket is closed, and ends once its login is over.
///
/// # Errors
/// What the worker said, or that it said nothing in time.
pub(super) async fn start(setup: &Setup) -> Result<Started, NotStarted> {
    let lost = |message| Failure::new(Class::TokenLost, message);
    let seen = |failure| NotStarted { failure, end_was_seen: true };
    let unseen = |failure| NotStarted { failure, end_was_seen: false };
    let (mut child, mut control, sessions) = spawn(setup)
        .map_err(|error| seen(lost(format!("cannot start a worker process: {error}"))))?;
    let limit = setup.profile.start_timeout;
    match timeout(limit, receive(&mut control)).await {
        Ok(Ok(Greeting::Ready(report))) => {
            let process = Process { child, control, in_login: false };
            Ok(Started { process, report, sessions })
        }
        Ok(Ok(Greeting::Failed(failure))) => Err(seen(failure)),
        Ok(Err(error)) if is_end(&error) => {
            let status = match timeout(FAREWELL, wait(&mut child)).await {
                Ok(status) => status,
                Err(_) => {
                    end(child);
                    "it has closed its socket, and does not end".to_owned()
                }
            };
            let what = "the worker process ended while the module was starting";
            Err(unseen(lost(format!("{what}: {status}"))))
        }
        Ok(Err(error)) => {
            Err(unseen(lost(format!("the worker process cannot be understood: {error}"))))
        }
        Err(_) => {
            end(child);
            let limit = humantime::format_duration(limit);
            Err(unseen(Failure::new(
                Class::Hung,
                format!("the module did not start and log in within {limit} (token.start-timeout)"),
            )))
        }
    }
}

/// A process that has died, perhaps before it read all that it was sent.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

fn spawn(setup: &Setup) -> io::Result<(Child, UnixStream, Vec<UnixStream>)> {
    let (mut control, its_control) = StdUnixStream::pair()?;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..setup.profile.sessions {
        let (our_end, their_end) = StdUnixStream::pair()?;
        ours.push(into_tokio(our_end)?);
        theirs.push(their_end);
    }
    // The running binary, not the path: an upgrade on disk must not mix versions.
    let child = Command::new("/proc/self/exe")
        .arg0("p11-kms")
        .arg(WORKER_COMMAND)
        .stdin(Stdio::from(OwnedFd::from(its_control)))
        // Standard output is for the answers of commands; a module that prints
        // must not get in there.
        .stdout(Stdio::null())
        .env("GLIBC_TUNABLES", malloc_tunables(&setup.profile, env::var_os("GLIBC_TUNABLES")))
        // systemd speaks with the front alone.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .process_group(0)
        .spawn()?;
    control.write_all(&encode_control(setup)?)?;
    let descriptors: Vec<RawFd> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
    sendmsg::<()>(
        control.as_raw_fd(),
        &[IoSlice::new(&[0])],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok((child, into_tokio(control)?, ours))
}

/// What the operator has set comes after and wins. Of a text with a malformed part newer versions
/// of glibc take nothing (2.39): such parts are left out.
fn malloc_tunables(profile: &Profile, own: Option<OsString>) -> OsString {
    let mut tunables = OsString::from(if profile.wipe_freed_memory { WIPING } else { FAST });
    let own = own.unwrap_or_default();
    for part in own.to_string_lossy().split(':').filter(|part| part.matches('=').count() == 1) {
        tunables.push(":");
        tunables.push(part);
    }
    tunables
}

fn into_tokio(socket: StdUnixStream) -> io::Result<UnixStream> {
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

async fn receive(control: &mut UnixStream) -> io::Result<Greeting> {
    let len = usize::try_from(control.read_u32_le().await?).unwrap_or(usize::MAX);
    if len > MAX_CONTROL {
        return Err(io::Error::other("its greeting is too long"));
    }
    let mut json = vec![0; len];
    control.read_exact(&mut json).await?;
    Ok(serde_json::from_slice(&json)?)
}

impl Process {
    /// Its process id, for the log.
    pub(super) fn id(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Waits until it ends by itself, which it should not.
    pub(super) async fn died(&mut self) -> Failure {
        let Self { child, control, in_login } = self;
        let status = tokio::select! {
            status = wait(child) => status,
            never = async {
                hear(control, in_login).await;
                std::future::pending().await
            } => never,
        };
        Failure::new(Class::TokenLost, format!("the worker process ended: {status}"))
    }

    /// From here on it must not log in again by itself.
    pub(super) fn forbid_login(&self) {
        // One that does not take this byte is gone, or will be soon.
        let _ = self.control.try_write(&[0]);
    }

    /// Ends it now. A hung module is no reason to wait. `true`: it was in the middle of a
    /// login of its own.
    pub(super) async fn kill(mut self) -> bool {
        end(self.child);
        // To the end of file, which comes with its death.
        let _ = timeout(LAST_WORDS, hear(&self.control, &mut self.in_login)).await;
        self.in_login
    }

    /// Gives it a moment to close its sessions on the device, then ends it. Its
    /// session sockets must be closed already.
    pub(super) async fn farewell(mut self) {
        if timeout(FAREWELL, wait(&mut self.child)).await.is_err() {
            self.kill().await;
        }
    }
}

/// Takes in what a worker says of its logins, to the end of file.
async fn hear(control: &UnixStream, in_login: &mut bool) {
    let mut said = [0; 64];
    while control.readable().await.is_ok() {
        match control.try_read(&mut said) {
            Ok(len) => match said.get(..len).and_then(<[u8]>::last) {
                Some(last) => *in_login = *last == LOGIN_BEGINS,
                None => return,
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Waits until a worker has ended, and ends what its module may have forked.
async fn wait(child: &mut Child) -> String {
    let group = group(child);
    let status = child.wait().await;
    end_group(group);
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// The process group that it leads, if it has not been reaped.
fn group(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
}

fn end_group(group: Option<Pid>) {
    if let Some(group) = group {
        // Mostly there is nobody left. Then the number is free, and not given away so soon.
        let _ = killpg(group, Signal::SIGKILL);
    }
}

/// Kills a worker, and reaps it when it has died: one that waits for a device in the
/// kernel may take its time, and nobody must wait for that.
fn end(mut child: Child) {
    end_group(group(&child));
    // It may have ended by itself just now.
    let _ = child.start_kill();
    tokio::spawn(async move { child.wait().await });
}

#[cfg(test)]
impl Process {
    /// A process that does nothing, and the other end of its control socket.
    pub(super) fn fake() -> (Self, UnixStream) {
        let (control, its_control) = UnixStream::pair().unwrap();
        let child = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        (Self { child, control, in_login: false }, its_control)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::AsyncWriteExt;

    use super::super::latch::tests::setup;
    use super::super::protocol::LOGIN_IS_OVER;
    use super::*;

    #[test]
    fn nothing_that_the_operator_has_set_makes_glibc_ignore_the_rest() {
        let setup = setup(Path::new("/p"));
        for (own, kept) in [
            (None, ""),
            (Some(""), ""),
            (Some("glibc.malloc.arena_max=1:"), ":glibc.malloc.arena_max=1"),
            (Some("a=1:nonsense:b=2=3:c=4"), ":a=1:c=4"),
        ] {
            let tunables = malloc_tunables(&setup.profile, own.map(OsString::from));
            assert_eq!(tunables.to_str().unwrap(), format!("{WIPING}{kept}"), "{own:?}");
        }
    }

    #[tokio::test]
    async fn the_last_that_a_worker_said_of_its_logins_counts() {
        for (said, in_login) in [
            (&[][..], false),
            (&[LOGIN_BEGINS], true),
            (&[LOGIN_BEGINS, LOGIN_IS_OVER], false),
            (&[LOGIN_BEGINS, LOGIN_IS_OVER, LOGIN_BEGINS], true),
        ] {
            let (worker, mut its_control) = Process::fake();
            its_control.write_all(said).await.unwrap();
            assert_eq!(worker.kill().await, in_login, "{said:?}");
        }
    }
}
