#![forbid(unsafe_code)]
//! What can go wrong before the first request: every text says what to do.

use std::io;
use std::path::PathBuf;

use crate::config::Endpoint;

/// Why there is no socket. All of these are the operator's to mend: `serve`
/// ends with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there, or holds the lock beside the socket.
    #[error(
        "already running: {endpoint} is in use; stop the other process first, or choose another endpoint"
    )]
    AlreadyRunning {
        /// The endpoint that was asked for.
        endpoint: Endpoint,
    },

    /// There is something at the path that no daemon of ours left behind.
    #[error("{} is {what}, not a socket; nothing was removed: move it away, or choose another endpoint", path.display())]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
        /// What was found, with its article.
        what: &'static str,
    },

    /// Something listens there or not: it could not be told.
    #[error("cannot tell whether {} is still in use ({source}); nothing was removed: remove it by hand if no daemon runs", path.display())]
    Unclear {
        /// The socket's path.
        path: PathBuf,
        /// What connect(2) said.
        source: io::Error,
    },

    /// A symbolic link on the way: whoever owns it decides where the socket is.
    #[error("{} is a symbolic link: set the endpoint to unix://{}", link.display(), instead.display())]
    Link {
        /// The first link on the way.
        link: PathBuf,
        /// The same socket by its real path.
        instead: PathBuf,
    },

    /// A directory above the socket's own does not exist.
    #[error("the directory {} does not exist: make it, owned by root or by the user of p11-kms, with mode 0755 or less", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },

    /// A file where a directory is needed.
    #[error("{} is not a directory: choose another endpoint", path.display())]
    NotADirectory {
        /// The file.
        path: PathBuf,
    },

    /// The owner of a directory can put another socket in place of ours.
    #[error("the directory {} belongs to uid {owner}; it must belong to root or to the user of p11-kms. Run this as uid {owner}, or give it to us (uid {us}): chown {us} {}", path.display(), path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The effective uid of this process.
        us: u32,
    },

    /// So can anyone who may write to it.
    #[error("the directory {} is writable by others (mode {mode:04o}): chmod go-w {}", path.display(), path.display())]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },

    /// As `Writable`, where `chmod` would be the wrong advice: /tmp and the like.
    #[error("the directory {} is shared (mode {mode:04o}): give the socket a directory of its own, such as {}", path.display(), path.join("p11-kms").display())]
    Shared {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },

    /// Not absolute, no file name, or with `..` in it.
    #[error("{:?} is no path for a socket: it must begin with / and hold no ..", path)]
    NotPlain {
        /// The path as it was given.
        path: PathBuf,
    },

    /// `sockaddr_un` has no room for it.
    #[error(
        "{endpoint} is {length} bytes long without its scheme, the kernel allows {limit}: choose a shorter one"
    )]
    TooLong {
        /// The endpoint that was asked for.
        endpoint: Endpoint,
        /// Its length, in bytes.
        length: usize,
        /// What the kernel allows, in bytes.
        limit: usize,
    },

    /// The service manager passed something else than one listening stream socket.
    #[error("socket activation: {0}")]
    Passed(String),

    /// The operating system refused.
    #[error("cannot {doing} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// What was being done, as in "cannot ... PATH".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// The commonest reason has a commonest cause.
fn hint(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied {
        " (is it another user's, or left by a run as another user?)"
    } else {
        ""
    }
}

/// Why `serve` gave up. A connection that fails is never the reason.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An abstract socket has no permissions: without a list the whole machine could call.
    #[error(
        "the endpoint is an abstract socket, which anyone on this machine can reach: set server.allow-uids or server.allow-gids"
    )]
    NoAllowList,

    /// The listener could not be handed to the runtime.
    #[error("cannot listen: {0}")]
    Listen(#[source] io::Error),
}
