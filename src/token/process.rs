#![forbid(unsafe_code)]
//! Starting one worker process and handing it what it needs.

use std::env;
use std::ffi::OsString;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::protocol::{
    Class, Failure, Greeting, MAX_CONTROL, Report, Setup, WORKER_COMMAND, encode_control,
};

/// How long a worker that was let go may take to close its sessions.
const FAREWELL: Duration = Duration::from_secs(2);

/// For glibc in the worker: SoftHSM makes some 50 small allocations for each
/// seed, more than glibc's per-thread cache holds by default. With room for them
/// a wrap takes an eighth less CPU. What the operator has set comes after and wins.
const MALLOC_TUNABLES: &str = "glibc.malloc.tcache_count=512:glibc.malloc.trim_threshold=67108864";

/// A worker that is logged in.
pub(super) struct Process {
    child: Child,
    /// Held open: its end of file tells the worker that we are gone.
    control: UnixStream,
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
pub(super) async fn start(setup: &Setup) -> Result<Started, Failure> {
    let lost = |message| Failure::new(Class::TokenLost, message);
    let (mut child, mut control, sessions) =
        spawn(setup).map_err(|error| lost(format!("cannot start a worker process: {error}")))?;
    let limit = setup.profile.start_timeout;
    match timeout(limit, receive(&mut control)).await {
        Ok(Ok(Greeting::Ready(report))) => {
            Ok(Started { process: Process { child, control }, report, sessions })
        }
        Ok(Ok(Greeting::Failed(failure))) => Err(failure),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let status = child.wait().await.map_or_else(|error| error.to_string(), describe);
            Err(lost(format!("the worker process ended while the module was starting: {status}")))
        }
        Ok(Err(error)) => Err(lost(format!("the worker process cannot be understood: {error}"))),
        Err(_) => {
            end(child);
            let limit = humantime::format_duration(limit);
            Err(Failure::new(
                Class::Hung,
                format!("the module did not start and log in within {limit} (token.start-timeout)"),
            ))
        }
    }
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
        .env("GLIBC_TUNABLES", malloc_tunables())
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

fn malloc_tunables() -> OsString {
    let mut tunables = OsString::from(MALLOC_TUNABLES);
    if let Some(own) = env::var_os("GLIBC_TUNABLES") {
        tunables.push(":");
        tunables.push(own);
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
        let status = self.child.wait().await.map_or_else(|error| error.to_string(), describe);
        Failure::new(Class::TokenLost, format!("the worker process ended: {status}"))
    }

    /// From here on it must not log in again by itself.
    pub(super) fn forbid_login(&self) {
        // One that does not take this byte is gone, or will be soon.
        let _ = self.control.try_write(&[0]);
    }

    /// Ends it now. A hung module is no reason to wait.
    pub(super) fn kill(self) {
        end(self.child);
    }

    /// Gives it a moment to close its sessions on the device, then ends it. Its
    /// session sockets must be closed already.
    pub(super) async fn farewell(mut self) {
        if timeout(FAREWELL, self.child.wait()).await.is_err() {
            self.kill();
        }
    }
}

/// Kills a worker, and reaps it when it has died: one that waits for a device in the
/// kernel may take its time, and nobody must wait for that.
fn end(mut child: Child) {
    // It may have ended by itself just now.
    let _ = child.start_kill();
    tokio::spawn(async move { child.wait().await });
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}
