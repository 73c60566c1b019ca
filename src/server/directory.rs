#![forbid(unsafe_code)]
//! Is the way to the socket safe?
//!
//! A Unix socket's path is all that tells kube-apiserver whom it sends its seeds to. Whoever can
//! write to a directory on the way can put a socket of their own there. So each one must
//! belong to root or to us and be writable by nobody else. Then nobody can change
//! the way between this look and the bind either, and looking by path is enough.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use super::error::SocketError;
use crate::config::Endpoint;

/// `sun_path` has 108 bytes, and a path ends with a zero (unix(7)).
pub(super) const PATH_LIMIT: usize = 107;

/// The sticky bit: in such a directory only its owner and a file's owner may
/// rename or remove that file, so what is below it is safe.
const STICKY: u32 = 0o1000;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The socket's directory, held open: what is done by this descriptor is
/// done there, whatever becomes of the path.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: OwnedFd,
    pub(super) name: OsString,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Ready,
    /// Only the last component is missing.
    CanBeMade,
}

/// Checks the way to the socket at `path` and makes nothing: for `p11-kms check`.
///
/// `path` is the socket's own path; the socket itself is not looked at. A directory that
/// [`bind`](super::socket::bind) would make is fine.
///
/// # Errors
/// The first thing that is wrong, from `/` downwards.
pub fn check_directory(path: &Path) -> Result<(), SocketError> {
    let (directory, _) = split(path)?;
    look(path, directory, geteuid().as_raw()).map(drop)
}

/// Checks the way, makes the last directory if it is missing, and opens it.
pub(super) fn prepare(path: &Path) -> Result<Place, SocketError> {
    let us = geteuid().as_raw();
    let (directory, name) = split(path)?;
    if look(path, directory, us)? == Found::CanBeMade {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("make the directory", directory, error));
            }
            _ => {}
        }
        // Also tells whether somebody else was faster, and with what.
        look(path, directory, us)?;
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = open(directory, flags, Mode::empty())
        .map_err(|errno| failed("open", directory, errno.into()))?;
    Ok(Place { directory: opened, name })
}

fn split(path: &Path) -> Result<(&Path, OsString), SocketError> {
    let length = path.as_os_str().len();
    if length > PATH_LIMIT {
        return Err(SocketError::TooLong {
            endpoint: Endpoint::Path(path.to_owned()),
            length,
            limit: PATH_LIMIT,
        });
    }
    let plain = path.is_absolute()
        && !path.as_os_str().as_encoded_bytes().contains(&0)
        && !path.as_os_str().as_encoded_bytes().ends_with(b"/")
        && path.components().all(|part| part != Component::ParentDir);
    match (plain, path.parent(), path.file_name()) {
        (true, Some(directory), Some(name)) => Ok((directory, name.to_owned())),
        _ => Err(SocketError::NotPlain { path: path.to_owned() }),
    }
}

fn look(socket: &Path, directory: &Path, us: u32) -> Result<Found, SocketError> {
    let mut way: Vec<&Path> = directory.ancestors().collect();
    way.reverse();
    for step in way {
        let last = step == directory;
        match fs::symlink_metadata(step) {
            Ok(metadata) => judge(socket, step, &metadata, last, us)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if last {
                    Ok(Found::CanBeMade)
                } else {
                    Err(SocketError::Missing { path: step.to_owned() })
                };
            }
            Err(error) => return Err(failed("look at", step, error)),
        }
    }
    Ok(Found::Ready)
}

fn judge(
    socket: &Path,
    step: &Path,
    metadata: &Metadata,
    last: bool,
    us: u32,
) -> Result<(), SocketError> {
    let path = step.to_owned();
    if metadata.is_symlink() {
        return Err(SocketError::Link { link: path, instead: real_path(socket, step) });
    }
    if !metadata.is_dir() {
        return Err(SocketError::NotADirectory { path });
    }
    let owner = metadata.uid();
    if owner != us && owner != 0 {
        return Err(SocketError::Owner { path, owner, us });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    // Sticky is enough above, but not in the socket's own directory: there others could
    // make the socket or its lock file before we do, and keep us out for good.
    match (mode & STICKY != 0, last) {
        (true, false) => Ok(()),
        (true, true) => Err(SocketError::Shared { path, mode }),
        (false, _) => Err(SocketError::Writable { path, mode }),
    }
}

/// The socket's path with `link`, and any link after it, resolved. Where that
/// fails the link's own target is the best that can be said.
fn real_path(socket: &Path, link: &Path) -> PathBuf {
    let rest = socket.strip_prefix(link).unwrap_or(socket);
    let mut known = link.to_owned();
    let mut tail = rest.components();
    let mut real = fs::canonicalize(link).or_else(|_| fs::read_link(link)).unwrap_or_default();
    // The part that exists may hold links of its own; the rest is taken as it is.
    for part in tail.by_ref() {
        known.push(part);
        match fs::canonicalize(&known) {
            Ok(path) => real = path,
            Err(_) => {
                real.push(part);
                break;
            }
        }
    }
    real.extend(tail);
    real
}

pub(super) fn failed(doing: &'static str, path: &Path, source: io::Error) -> SocketError {
    SocketError::Io { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    fn temp() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    fn make(path: &Path, mode: u32) {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_private_directory_below_tmp_is_fine() {
        let temp = temp();
        check_directory(&temp.path().join("kms.sock")).unwrap();
    }

    #[test]
    fn check_makes_nothing_and_prepare_makes_the_last_directory_alone() {
        let temp = temp();
        let path = temp.path().join("new/kms.sock");
        check_directory(&path).unwrap();
        assert!(!temp.path().join("new").exists());

        prepare(&path).unwrap();
        let mode = fs::metadata(temp.path().join("new")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700);

        let deep = temp.path().join("one/two/kms.sock");
        let error = prepare(&deep).unwrap_err();
        assert!(
            matches!(&error, SocketError::Missing { path } if path.ends_with("one")),
            "{error}"
        );
        assert!(!temp.path().join("one").exists());
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused_with_its_remedy() {
        for mode in [0o777, 0o770, 0o702] {
            let temp = temp();
            let open = temp.path().join("open");
            make(&open, mode);
            let error = check_directory(&open.join("kms.sock")).unwrap_err().to_string();
            assert!(error.ends_with(&format!("chmod go-w {}", open.display())), "{error}");

            // One further up is as bad.
            make(&open.join("private"), 0o700);
            let error = check_directory(&open.join("private/kms.sock")).unwrap_err();
            assert!(
                matches!(&error, SocketError::Writable { path, .. } if *path == open),
                "{error}"
            );
        }
    }

    #[test]
    fn a_sticky_directory_will_do_above_but_not_for_the_socket_itself() {
        let temp = temp();
        let shared = temp.path().join("shared");
        make(&shared, 0o1777);
        let error = check_directory(&shared.join("kms.sock")).unwrap_err();
        assert!(matches!(error, SocketError::Shared { mode: 0o1777, .. }), "{error}");
        check_directory(&shared.join("p11-kms/kms.sock")).unwrap();
    }

    #[test]
    fn the_owner_must_be_root_or_us() {
        let temp = temp();
        let path = temp.path().join("kms.sock");
        let metadata = fs::metadata(temp.path()).unwrap();
        let us = metadata.uid();
        judge(&path, temp.path(), &metadata, true, us).unwrap();
        if us != 0 {
            let error = judge(&path, temp.path(), &metadata, true, us + 1).unwrap_err();
            assert!(matches!(error, SocketError::Owner { owner, .. } if owner == us), "{error}");
            return;
        }
        let theirs = temp.path().join("theirs");
        make(&theirs, 0o755);
        std::os::unix::fs::chown(&theirs, Some(12345), None).unwrap();
        for path in ["kms.sock", "below/kms.sock"] {
            let error = check_directory(&theirs.join(path)).unwrap_err();
            assert!(matches!(error, SocketError::Owner { owner: 12345, us: 0, .. }), "{error}");
        }
    }

    #[test]
    fn a_symbolic_link_on_the_way_is_named_with_the_real_path() {
        let temp = temp();
        let real = fs::canonicalize(temp.path()).unwrap();
        make(&real.join("run"), 0o755);
        make(&real.join("elsewhere"), 0o755);
        symlink("run", real.join("var-run")).unwrap();
        symlink("../elsewhere", real.join("run/second")).unwrap();
        for (asked, link, instead) in [
            ("var-run/kms.sock", "var-run", "run/kms.sock"),
            ("var-run/not/yet/kms.sock", "var-run", "run/not/yet/kms.sock"),
            ("var-run/second/kms.sock", "var-run", "elsewhere/kms.sock"),
            ("run/second/kms.sock", "run/second", "elsewhere/kms.sock"),
        ] {
            match check_directory(&real.join(asked)).unwrap_err() {
                SocketError::Link { link: found, instead: told } => {
                    assert_eq!((found, told), (real.join(link), real.join(instead)), "{asked}");
                }
                other => panic!("{asked}: {other}"),
            }
        }
    }

    #[test]
    fn a_file_on_the_way_is_named() {
        let temp = temp();
        fs::write(temp.path().join("file"), "").unwrap();
        let error = check_directory(&temp.path().join("file/kms.sock")).unwrap_err();
        assert!(matches!(error, SocketError::NotADirectory { .. }), "{error}");
    }

    #[test]
    fn paths_that_are_none_are_refused() {
        for path in
            ["kms.sock", "", "/", "/run/../etc/kms.sock", "/run/..", "/run/p11-kms/", "/run/\0/a"]
        {
            let error = check_directory(Path::new(path)).unwrap_err();
            assert!(matches!(error, SocketError::NotPlain { .. }), "{path:?}: {error}");
        }
    }

    #[test]
    fn the_kernel_takes_107_bytes() {
        let temp = temp();
        let name = |length: usize| {
            let used = temp.path().as_os_str().len() + 1;
            temp.path().join("x".repeat(length - used))
        };
        check_directory(&name(107)).unwrap();
        let error = check_directory(&name(108)).unwrap_err();
        assert!(matches!(error, SocketError::TooLong { length: 108, limit: 107, .. }), "{error}");
    }
}
