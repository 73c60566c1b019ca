#![forbid(unsafe_code)]
//! Makes the listening socket, so that it is never open to others, not for a moment,
//! and takes it away again.
//!
//! Two daemons that start at once are kept apart by a lock file beside the socket. It is
//! left in place at exit: if it were removed, one process could lock the file that
//! was just unlinked while another locks a new one of the same name, and both would
//! believe that they are alone.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use listenfd::ListenFd;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstatat, umask};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use super::directory::{PATH_LIMIT, Place, failed, prepare};
use super::error::SocketError;
use crate::config::Endpoint;

/// Where to listen, and who may open the socket.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// The path or the abstract name.
    pub endpoint: Endpoint,
    /// Permission bits of the socket file; an abstract socket has none.
    pub mode: u32,
    /// Owner of the socket file, as a uid; ours if `None`. Needs CAP_CHOWN.
    pub owner: Option<u32>,
    /// Group of the socket file, as a gid; ours if `None`.
    pub group: Option<u32>,
}

/// A listening socket. Dropping it closes it, removes the file that
/// [`bind`] made, if it is still that file, and then lets the lock go.
#[derive(Debug)]
pub struct BoundSocket {
    // Dropped first: an inode number cannot be used again while its listener lives.
    pub(super) file: Option<SocketFile>,
    pub(super) listener: UnixListener,
    passed: bool,
}

impl BoundSocket {
    /// One that the service manager made and keeps.
    pub(super) const fn passed(listener: UnixListener) -> Self {
        Self { file: None, listener, passed: true }
    }

    /// Whether it has no file, and so no permissions: then only the peer's credentials decide.
    #[must_use]
    pub fn is_abstract(&self) -> bool {
        self.listener.local_addr().is_ok_and(|address| address.as_abstract_name().is_some())
    }

    /// Where it listens, for the log; `None` if that has no name of either kind.
    #[must_use]
    pub fn endpoint(&self) -> Option<Endpoint> {
        let address = self.listener.local_addr().ok()?;
        let path = address.as_pathname().map(|path| Endpoint::Path(path.to_owned()));
        path.or_else(|| {
            let name = address.as_abstract_name()?;
            Some(Endpoint::Abstract(String::from_utf8_lossy(name).into_owned()))
        })
    }
}

/// A listener on the runtime, and the file that [`bind`] made for it. Dropping it is as with a
/// [`BoundSocket`].
#[derive(Debug)]
pub struct Listening {
    pub(super) file: Option<SocketFile>,
    /// Takes connections.
    pub listener: tokio::net::UnixListener,
    /// The service manager's, which keeps it and those who wait there for the next daemon.
    pub(super) passed: bool,
}

impl BoundSocket {
    /// Hands it to the runtime that this is called on.
    ///
    /// # Errors
    /// The runtime does not take it.
    pub fn listen(self) -> io::Result<Listening> {
        let Self { file, listener, passed } = self;
        listener.set_nonblocking(true)?;
        Ok(Listening { file, listener: tokio::net::UnixListener::from_std(listener)?, passed })
    }
}

/// The socket file that we made, and the lock that says so.
#[derive(Debug)]
pub(super) struct SocketFile {
    place: Place,
    path: PathBuf,
    identity: (u64, u64),
    removed: bool,
    /// Held, not used: unlocked after the file is gone.
    _lock: Flock<File>,
}

impl SocketFile {
    /// Removes the socket if it is still the one that we made. The lock stays held.
    pub(super) fn remove(&mut self) {
        if std::mem::replace(&mut self.removed, true) {
            return;
        }
        let found = status(&self.place);
        if !found.is_ok_and(|found| identity(&found) == self.identity) {
            tracing::warn!(path = %self.path.display(), "the socket was replaced or removed by somebody else: left alone");
            return;
        }
        let name = self.place.name.as_os_str();
        if let Err(error) = unlinkat(&self.place.directory, name, UnlinkatFlags::NoRemoveDir) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Makes the socket and listens.
///
/// Call this before there are other threads: where the system forbids a thread a umask of its
/// own, that of the whole process is changed for a moment.
///
/// # Errors
/// [`SocketError::AlreadyRunning`] if somebody listens there or holds the lock. All others
/// say what is wrong with the path or what the system refused.
pub fn bind(options: &SocketOptions) -> Result<BoundSocket, SocketError> {
    match &options.endpoint {
        Endpoint::Path(path) => bind_path(path, options),
        Endpoint::Abstract(name) => bind_abstract(name, options),
    }
}

fn bind_path(path: &Path, options: &SocketOptions) -> Result<BoundSocket, SocketError> {
    let place = prepare(path)?;
    let lock = take_lock(&place, path, options)?;
    remove_leftover(&place, path, options)?;
    let listener = bind_closed(path).map_err(|error| in_use_or(error, options, path))?;
    let made = status(&place).map_err(|errno| failed("look at", path, errno.into()))?;
    let file = SocketFile {
        place,
        path: path.to_owned(),
        identity: identity(&made),
        removed: false,
        _lock: lock,
    };
    // If this fails, dropping the file removes it.
    open_up(&file.place, &made, path, options)?;
    Ok(BoundSocket { file: Some(file), listener, passed: false })
}

/// Sets the owner, then the mode: the other way round a group that
/// should never have access would have it in between.
fn open_up(
    place: &Place,
    made: &FileStat,
    path: &Path,
    options: &SocketOptions,
) -> Result<(), SocketError> {
    let (directory, name) = (&place.directory, place.name.as_os_str());
    // What is right already is left alone: chown may be forbidden altogether (the unit's filter).
    let owner = options.owner.filter(|owner| *owner != made.st_uid).map(Uid::from_raw);
    let group = options.group.filter(|group| *group != made.st_gid).map(Gid::from_raw);
    if owner.is_some() || group.is_some() {
        fchownat(directory, name, owner, group, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("change the owner of", path, errno.into()))?;
    }
    let mode = Mode::from_bits_truncate(options.mode);
    fchmodat(directory, name, mode, FchmodatFlags::NoFollowSymlink)
        .map_err(|errno| failed("change the mode of", path, errno.into()))
}

fn bind_abstract(name: &str, options: &SocketOptions) -> Result<BoundSocket, SocketError> {
    // The zero byte in front takes the place of the one at the end.
    if name.len() > PATH_LIMIT {
        return Err(SocketError::TooLong {
            endpoint: options.endpoint.clone(),
            length: name.len(),
            limit: PATH_LIMIT,
        });
    }
    let shown = PathBuf::from(format!("@{name}"));
    // An empty name would make the kernel choose one.
    if name.is_empty() {
        return Err(SocketError::NotPlain { path: shown });
    }
    let listener = SocketAddr::from_abstract_name(name)
        .and_then(|address| UnixListener::bind_addr(&address))
        .map_err(|error| in_use_or(error, options, &shown))?;
    Ok(BoundSocket { file: None, listener, passed: false })
}

fn in_use_or(error: io::Error, options: &SocketOptions, path: &Path) -> SocketError {
    if error.kind() == io::ErrorKind::AddrInUse {
        return SocketError::AlreadyRunning { endpoint: options.endpoint.clone() };
    }
    failed("listen on", path, error)
}

fn take_lock(
    place: &Place,
    path: &Path,
    options: &SocketOptions,
) -> Result<Flock<File>, SocketError> {
    let mut name = place.name.clone();
    name.push(".lock");
    let shown = path.with_file_name(&name);
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let owner_only = Mode::S_IRUSR | Mode::S_IWUSR;
    let opened = openat(&place.directory, name.as_os_str(), flags, owner_only)
        .map_err(|errno| failed("open the lock file", &shown, errno.into()))?;
    match Flock::lock(File::from(opened), FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => {
            Err(SocketError::AlreadyRunning { endpoint: options.endpoint.clone() })
        }
        Err((_, errno)) => Err(failed("lock", &shown, errno.into())),
    }
}

/// Removes what a daemon that was killed left behind. The caller holds the
/// lock, so no other daemon of ours is between its bind and its listen.
fn remove_leftover(place: &Place, path: &Path, options: &SocketOptions) -> Result<(), SocketError> {
    let found = match status(place) {
        Ok(found) => found,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(failed("look at", path, errno.into())),
    };
    if let Some(what) = other_than_socket(&found) {
        return Err(SocketError::NotASocket { path: path.to_owned(), what });
    }
    match call(path) {
        Err(Errno::ECONNREFUSED) => {}
        // Gone by itself.
        Err(Errno::ENOENT) => return Ok(()),
        // EAGAIN: its queue is full, so somebody listens. EPROTOTYPE: not a stream socket, but alive.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => {
            return Err(SocketError::AlreadyRunning { endpoint: options.endpoint.clone() });
        }
        Err(errno) => {
            return Err(SocketError::Unclear { path: path.to_owned(), source: errno.into() });
        }
    }
    tracing::info!(path = %path.display(), "removing a leftover socket on which nobody listens");
    unlinkat(&place.directory, place.name.as_os_str(), UnlinkatFlags::NoRemoveDir)
        .map_err(|errno| failed("remove the leftover socket", path, errno.into()))
}

/// Non-blocking: connect(2) waits for ever on a listener whose queue is full.
fn call(path: &Path) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(probe.as_raw_fd(), &UnixAddr::new(path)?)
}

/// Binds with mode 0600, whatever the umask was.
fn bind_closed(path: &Path) -> io::Result<UnixListener> {
    // The umask is the process's, so other threads would make files with ours meanwhile.
    // A thread that gave up sharing it (unshare(2)) has one of its own.
    let apart = || unshare(CloneFlags::CLONE_FS).is_ok().then(|| bind_under_umask(path));
    let done = thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, apart).ok()?;
        thread.join().ok()?
    });
    done.unwrap_or_else(|| {
        // A container's filter may forbid it. Two threads here would each restore the other's.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        bind_under_umask(path)
    })
}

fn bind_under_umask(path: &Path) -> io::Result<UnixListener> {
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    bound
}

fn status(place: &Place) -> Result<FileStat, Errno> {
    fstatat(&place.directory, place.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn identity(status: &FileStat) -> (u64, u64) {
    (status.st_dev, status.st_ino)
}

fn other_than_socket(status: &FileStat) -> Option<&'static str> {
    match SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFSOCK => None,
        SFlag::S_IFLNK => Some("a symbolic link"),
        SFlag::S_IFDIR => Some("a directory"),
        SFlag::S_IFREG => Some("a file"),
        _ => Some("a device or a pipe"),
    }
}

/// Takes the socket that systemd passed (`LISTEN_FDS`), if it passed any. It is the
/// service manager's: its file is neither changed nor removed by us.
///
/// Takes the variables out of the environment, so that no child believes that they are
/// meant for it: call this once, before there are other threads.
///
/// # Errors
/// [`SocketError::Passed`] if there are several, or one that is not a
/// listening stream Unix socket.
pub fn from_systemd() -> Result<Option<BoundSocket>, SocketError> {
    let mut passed = ListenFd::from_env();
    match passed.len() {
        0 => return Ok(None),
        1 => {}
        several => {
            return Err(SocketError::Passed(format!(
                "{several} sockets were passed: p11-kms.socket must have exactly one ListenStream="
            )));
        }
    }
    let wrong = |why: String| {
        SocketError::Passed(format!(
            "{why}: p11-kms.socket must have one ListenStream= with a path or @name"
        ))
    };
    let listener = passed
        .take_unix_listener(0)
        .map_err(|error| wrong(error.to_string()))?
        .ok_or_else(|| wrong("the socket was already taken".to_owned()))?;
    match getsockopt(&listener, sockopt::AcceptConn) {
        Ok(true) => Ok(Some(BoundSocket::passed(listener))),
        Ok(false) => Err(wrong("the socket that was passed does not listen".to_owned())),
        Err(errno) => Err(wrong(errno.to_string())),
    }
}

#[cfg(test)]
mod tests;
