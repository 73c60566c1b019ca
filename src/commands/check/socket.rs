#![forbid(unsafe_code)]
//! The socket: is the way to it safe, can kube-apiserver go it, and is somebody there already?

use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use nix::unistd::{Gid, Uid, User, getgrouplist};

use super::AS_THE_DAEMON;
use super::findings::Findings;
use crate::cli::CheckId;
use crate::config::{Config, Endpoint, Listen, Server};
use crate::server::{SocketError, check_directory};

/// What one must be allowed to do with a directory to go through it.
const SEARCH: u32 = 0o1;
/// What one must be allowed to do with a socket to connect (unix(7)), and with a directory to make something in it.
const WRITE: u32 = 0o2;

/// Tells whether a daemon is running.
pub(super) fn check(config: &Config, daemon: u32, findings: &mut Findings<'_>) -> bool {
    let server = &config.server;
    match &server.endpoint {
        Endpoint::Abstract(name) => {
            let message = format!("@{name} is abstract: it has no directory");
            findings.pass(CheckId::SocketDirectory, message);
            let who = list("uid", &server.allow_uids) + &list("gid", &server.allow_gids);
            let message = format!("@{name} is abstract: its list decides, which has{who}");
            findings.pass(CheckId::SocketAccess, message);
        }
        Endpoint::Path(path) => {
            directory(path, daemon, findings);
            for peer in peers(server) {
                access(&peer, path, &of_socket(path, server, daemon), daemon, findings);
            }
        }
    }
    let running = is_running(&server.endpoint);
    let message = if running { "one listens on" } else { "none listens on" };
    findings.pass(CheckId::Daemon, format!("{message} {}", server.endpoint));
    metrics(config, running, findings);
    running
}

/// Where metrics and health are shown. The daemon that runs has it already.
fn metrics(config: &Config, running: bool, findings: &mut Findings<'_>) {
    let id = CheckId::MetricsListen;
    let remedy = "choose another place for metrics.listen, or do what the message says";
    match &config.metrics.listen {
        None => findings.pass(id, "metrics.listen is not set: nobody can watch"),
        Some(Listen::Tcp(address)) => match TcpListener::bind(address) {
            Ok(_) => findings.pass(id, format!("{address} is free")),
            Err(error) if running && error.kind() == ErrorKind::AddrInUse => {
                findings.pass(id, format!("{address} is in use: by the daemon that runs"));
            }
            Err(error) => findings.fail(id, format!("{address}: {error}"), remedy),
        },
        Some(Listen::Unix(path)) => match check_directory(path) {
            Ok(()) => findings.pass(id, format!("{} can be used", path.display())),
            Err(SocketError::Owner { path, owner, us: 0 }) => findings.warn(
                id,
                format!("{} belongs to uid {owner}", path.display()),
                AS_THE_DAEMON,
            ),
            Err(error) => findings.fail(id, error.to_string(), remedy),
        },
    }
}

fn list(kind: &str, ids: &[u32]) -> String {
    ids.iter().map(|id| format!(" {kind} {id}")).collect()
}

fn directory(path: &Path, daemon: u32, findings: &mut Findings<'_>) {
    match check_directory(path) {
        Ok(()) => match cannot_be_made(path, daemon) {
            None => {
                findings.pass(CheckId::SocketDirectory, format!("{} can be used", path.display()));
            }
            Some(missing) => findings.warn(
                CheckId::SocketDirectory,
                format!("{} does not exist, and uid {daemon} may not make it", missing.display()),
                format!(
                    "nothing under systemd, whose RuntimeDirectory= makes /run/p11-kms; \
                     otherwise: install -d -m 0700 -o {daemon} {}",
                    missing.display()
                ),
            ),
        },
        // Root is not the daemon's user, whose directory it may well be.
        Err(SocketError::Owner { path, owner, us: 0 }) => findings.warn(
            CheckId::SocketDirectory,
            format!("{} belongs to uid {owner}", path.display()),
            AS_THE_DAEMON,
        ),
        Err(error) => findings.fail(
            CheckId::SocketDirectory,
            error.to_string(),
            "do what it says, or set server.endpoint to a socket below /run/p11-kms",
        ),
    }
}

/// The socket's directory, if it is not there and that user may not make it.
fn cannot_be_made(path: &Path, daemon: u32) -> Option<&Path> {
    let directory = path.parent()?;
    if directory.exists() {
        return None;
    }
    let name = format!("uid {daemon}");
    let daemon = Peer { name, uid: Some(daemon), gids: groups(daemon) };
    let above = fs::metadata(directory.parent()?).ok()?;
    (!daemon.may(SEARCH | WRITE, &rights(&above))).then_some(directory)
}

/// Somebody who may call, by the list.
struct Peer {
    name: String,
    uid: Option<u32>,
    gids: Vec<u32>,
}

fn peers(server: &Server) -> Vec<Peer> {
    let by_uid = server.allow_uids.iter().map(|uid| Peer {
        name: format!("uid {uid}"),
        uid: Some(*uid),
        gids: groups(*uid),
    });
    let by_gid = server.allow_gids.iter().map(|gid| Peer {
        name: format!("gid {gid}"),
        uid: None,
        gids: vec![*gid],
    });
    by_uid.chain(by_gid).collect()
}

/// The groups of a user that this host knows.
fn groups(uid: u32) -> Vec<u32> {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return Vec::new() };
    let Ok(name) = CString::new(user.name) else { return Vec::new() };
    let groups = getgrouplist(&name, user.gid).unwrap_or_default();
    groups.into_iter().map(Gid::as_raw).collect()
}

/// Owner, group and mode of something in the file system.
struct Rights {
    owner: u32,
    group: u32,
    mode: u32,
}

impl Peer {
    /// By the permission bits; an ACL is not seen.
    fn may(&self, what: u32, rights: &Rights) -> bool {
        let shift = match self.uid {
            Some(0) => return true,
            Some(uid) if uid == rights.owner => 6,
            _ if self.gids.contains(&rights.group) => 3,
            _ => 0,
        };
        (rights.mode >> shift) & what == what
    }
}

/// Of the socket that is there, or of the one that the daemon will make.
fn of_socket(path: &Path, server: &Server, daemon: u32) -> Rights {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => rights(&found),
        _ => Rights {
            owner: server.socket_owner.unwrap_or(daemon),
            group: server.socket_group.unwrap_or_else(|| group_of(daemon)),
            mode: server.socket_mode,
        },
    }
}

fn rights(found: &fs::Metadata) -> Rights {
    Rights { owner: found.uid(), group: found.gid(), mode: found.mode() }
}

fn group_of(uid: u32) -> u32 {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.gid.as_raw(),
        _ => Gid::effective().as_raw(),
    }
}

fn access(peer: &Peer, path: &Path, socket: &Rights, daemon: u32, findings: &mut Findings<'_>) {
    let name = &peer.name;
    for step in path.ancestors().skip(1) {
        let rights = match fs::metadata(step) {
            Ok(found) => rights(&found),
            // The daemon makes the last one so.
            Err(_) if path.parent() == Some(step) => {
                Rights { owner: daemon, group: group_of(daemon), mode: 0o700 }
            }
            Err(_) => {
                return findings.untried(CheckId::SocketAccess, CheckId::SocketDirectory);
            }
        };
        if !peer.may(SEARCH, &rights) {
            return findings.fail(
                CheckId::SocketAccess,
                format!("{name} may call, and may not enter {}", step.display()),
                format!(
                    "chmod o+x {}, or take {name} off the list if kube-apiserver is another user",
                    step.display()
                ),
            );
        }
    }
    if peer.may(WRITE, socket) {
        let message = format!("{name} can connect to {}", path.display());
        findings.pass(CheckId::SocketAccess, message);
    } else {
        findings.fail(
            CheckId::SocketAccess,
            format!(
                "{name} may call, and may not write to the socket (uid {}, gid {}, mode {:04o})",
                socket.owner,
                socket.group,
                socket.mode & 0o777
            ),
            "set server.socket-owner, or server.socket-group and server.socket-mode = \"0660\"; \
             with a systemd socket: SocketUser=, SocketGroup=, SocketMode=",
        );
    }
}

/// Found out without connecting: a daemon would log that as a peer that it refused.
fn is_running(endpoint: &Endpoint) -> bool {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    match endpoint {
        Endpoint::Abstract(name) => is_listed(&sockets, &format!("@{name}")),
        Endpoint::Path(path) => {
            // One in a network of its own is not listed. It holds its lock all the same.
            let mut lock = path.clone().into_os_string();
            lock.push(".lock");
            is_listed(&sockets, &path.to_string_lossy()) || is_locked(&PathBuf::from(lock))
        }
    }
}

/// Is that name in the list of /proc/net/unix as one that is listened on (`__SO_ACCEPTCON`)?
fn is_listed(sockets: &str, name: &str) -> bool {
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(3) == Some("00010000") && fields.nth(3) == Some(name)
    })
}

/// Does anybody hold a lock on that file (flock(2), proc_locks(5))?
fn is_locked(path: &Path) -> bool {
    let Ok(found) = fs::metadata(path) else { return false };
    let (device, inode) = (found.dev(), found.ino());
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(1) == Some("FLOCK") && fields.nth(3) == Some(file.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: Option<u32>, gids: &[u32]) -> Peer {
        Peer { name: String::new(), uid, gids: gids.to_vec() }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let rights = Rights { owner: 5, group: 7, mode: 0o060 };
        assert!(peer(Some(0), &[]).may(WRITE, &rights), "root may all");
        assert!(!peer(Some(5), &[7]).may(WRITE, &rights), "the owner's bits count for the owner");
        assert!(peer(Some(6), &[7]).may(WRITE, &rights));
        assert!(peer(None, &[7]).may(WRITE, &rights));
        assert!(!peer(Some(6), &[]).may(WRITE, &rights));
    }

    #[test]
    fn listeners_are_told_from_connections() {
        let list = "Num       RefCount Protocol Flags    Type St Inode Path\n\
             00000000f7c4: 00000002 00000000 00010000 0001 01 311 /run/p11-kms/kms.sock\n\
             00000000f7c5: 00000003 00000000 00000000 0001 03 312 /run/other.sock\n\
             00000000f7c6: 00000002 00000000 00010000 0001 01 313 @p11-kms\n";
        assert!(is_listed(list, "/run/p11-kms/kms.sock") && is_listed(list, "@p11-kms"));
        assert!(!is_listed(list, "/run/other.sock") && !is_listed(list, "/run/p11-kms"));
    }
}
