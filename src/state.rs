#![forbid(unsafe_code)]
//! The state directory: one small file that is replaced as a whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The file that is kept.
pub const FILE: &str = "keyring.toml";

/// The file whose lock says that a daemon uses the directory.
const LOCK: &str = "lock";

/// The most that is read, in bytes. A thousand KEKs take a fifth of it.
const LARGEST: u64 = 1024 * 1024;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made, read or written.
    #[error(
        "keyring.state-dir: {path}: {error}. It must be a directory that the user of the daemon \
         can write to, on a disk that survives a restart"
    )]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Others could change what it holds.
    #[error(
        "keyring.state-dir: {path} can be written by others (mode {mode:04o}): run chmod 0700 {path}"
    )]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is another's.
    #[error("keyring.state-dir: {path} belongs to uid {owner}, and we are uid {us}: give it to us")]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Our uid.
        us: u32,
    },
    /// Another daemon has it.
    #[error("keyring.state-dir: {path} is used by another daemon: give each its own")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// A state directory that is ours alone as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Opens the directory, and makes it (mode 0700) if it is not there.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |error| StateError::Io { path: path.to_owned(), error };
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let about = fs::metadata(path).map_err(failed)?;
        let (owner, us) = (about.uid(), nix::unistd::geteuid().as_raw());
        if owner != us && us != 0 {
            return Err(StateError::Owner { path: path.to_owned(), owner, us });
        }
        let mode = about.permissions().mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(StateError::Open { path: path.to_owned(), mode });
        }
        let place = path.join(LOCK);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock =
            options.open(&place).map_err(|error| StateError::Io { path: place.clone(), error })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(StateError::Io { path: place, error }),
        }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.path.join(FILE)
    }

    /// Replaces the file. When this returns it is on the disk; a crash before leaves the old one.
    ///
    /// # Errors
    /// [`StateError::Io`]: the old one is still there.
    pub fn save(&self, text: &str) -> Result<(), StateError> {
        // There is one writer, so that one name for what is being written is enough.
        let next = self.path.join(format!("{FILE}.new"));
        let replace = || {
            let mut options = OpenOptions::new();
            let mut file =
                options.create(true).truncate(true).write(true).mode(0o600).open(&next)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&next, self.file())?;
            // The new name is on the disk when its directory is.
            File::open(&self.path)?.sync_all()
        };
        replace().map_err(|error| StateError::Io { path: self.file(), error })
    }
}

/// Reads the file of a state directory, without asking for it to be ours. `None`: there is none.
///
/// # Errors
/// [`StateError::Io`].
pub fn read(path: &Path) -> Result<Option<String>, StateError> {
    let place = path.join(FILE);
    let failed = |error| StateError::Io { path: place.clone(), error };
    let mut text = Vec::new();
    match File::open(&place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(file) => file.take(LARGEST).read_to_end(&mut text).map_err(failed)?,
    };
    // A damaged file may be no text at all: its reader finds that out.
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_and_replaced_as_a_whole() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        let state = StateDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
        assert_eq!(read(&path).unwrap(), None);
        for text in ["a long one", "short"] {
            state.save(text).unwrap();
            assert_eq!(read(&path).unwrap().as_deref(), Some(text));
        }
        assert_eq!(fs::metadata(state.file()).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_text() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        state.save("old").unwrap();
        // Not even root can open a directory for writing.
        fs::create_dir(temp.path().join("keyring.toml.new")).unwrap();
        let error = state.save("new").unwrap_err().to_string();
        assert!(error.contains("keyring.state-dir"), "{error}");
        assert_eq!(read(temp.path()).unwrap().as_deref(), Some("old"));
    }

    #[test]
    fn one_that_was_left_half_written_does_no_harm() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("keyring.toml.new"), "half a rec").unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        assert_eq!(read(temp.path()).unwrap(), None);
        state.save("whole").unwrap();
        assert_eq!(read(temp.path()).unwrap().as_deref(), Some("whole"));
    }

    #[test]
    fn two_daemons_do_not_share_one() {
        let temp = tempfile::tempdir().unwrap();
        let first = StateDir::open(temp.path()).unwrap();
        let error = StateDir::open(temp.path()).unwrap_err().to_string();
        assert!(error.contains("another daemon"), "{error}");
        drop(first);
        StateDir::open(temp.path()).unwrap();
    }

    #[test]
    fn one_that_others_can_write_to_is_refused_with_the_remedy() {
        let temp = tempfile::tempdir().unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o770)).unwrap();
        let error = StateDir::open(temp.path()).unwrap_err().to_string();
        assert!(error.contains("mode 0770") && error.contains("chmod 0700"), "{error}");
    }

    #[test]
    fn where_it_cannot_be_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let error = StateDir::open(&temp.path().join("no/such")).unwrap_err().to_string();
        assert!(error.contains("no/such"), "{error}");
    }
}
