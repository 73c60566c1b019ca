#![forbid(unsafe_code)]
//! The state directory: a small file for each keyring, which is replaced as a whole or not at
//! all.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What the name of each file ends with.
const ENDING: &str = ".toml";

/// The file that is locked while another one is replaced.
const LOCK: &str = "lock";

/// The most that is read of a file, in bytes. A thousand KEKs take a fifth of it.
const LARGEST: u64 = 1024 * 1024;

/// What stands as it is in a file's name.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

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
}

/// A state directory that may be written to.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// The name of the file about the keyring of that label on that token.
#[must_use]
pub fn file_name(label: &str, token_serial: &str) -> String {
    let plain = |text| utf8_percent_encode(text, PLAIN).to_string();
    format!("{}@{}{ENDING}", plain(label), plain(token_serial))
}

impl StateDir {
    /// Opens the directory, and makes it (mode 0700) if it is not there.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |error| StateError::Io { path: path.to_owned(), error };
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
            _ => Self::open_existing(path),
        }
    }

    /// Opens a directory that is there.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open_existing(path: &Path) -> Result<Self, StateError> {
        let failed = |error| StateError::Io { path: path.to_owned(), error };
        let about = fs::metadata(path).map_err(failed)?;
        let (owner, us) = (about.uid(), nix::unistd::geteuid().as_raw());
        if owner != us {
            return Err(StateError::Owner { path: path.to_owned(), owner, us });
        }
        let mode = about.permissions().mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(StateError::Open { path: path.to_owned(), mode });
        }
        let state = Self { path: path.to_owned() };
        // One that cannot be written to is noticed now.
        state.lock()?;
        Ok(state)
    }

    fn lock(&self) -> Result<File, StateError> {
        let path = self.path.join(LOCK);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        options.custom_flags(OFlag::O_NOFOLLOW.bits());
        let locked = options.open(&path).and_then(|file| file.lock().map(|()| file));
        locked.map_err(|error| StateError::Io { path, error })
    }

    /// Replaces a file by what becomes of it. When this returns that is on the disk; a crash
    /// before leaves the old one. Daemons that share the directory take turns.
    ///
    /// # Errors
    /// [`StateError::Io`]: the old one is still there.
    pub fn update(
        &self,
        name: &str,
        change: impl FnOnce(Option<String>) -> io::Result<String>,
    ) -> Result<(), StateError> {
        let _turn = self.lock()?;
        let place = self.path.join(name);
        let next = self.path.join(format!("{name}.new"));
        let replace = || {
            let text = change(read(&place)?)?;
            let mut options = OpenOptions::new();
            options.create(true).truncate(true).write(true).mode(0o600);
            let mut file = options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(&next)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&next, &place)?;
            // The new name is on the disk when its directory is.
            File::open(&self.path)?.sync_all()
        };
        replace().map_err(|error| StateError::Io { path: place, error })
    }
}

/// The files about the keyring of that label, on whichever tokens: their names and texts. The
/// directory need not be there, nor ours.
///
/// # Errors
/// [`StateError::Io`].
pub fn read_all(path: &Path, label: &str) -> Result<Vec<(String, String)>, StateError> {
    let failed = |path: &Path, error| StateError::Io { path: path.to_owned(), error };
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed(path, error))?,
    };
    let prefix = file_name(label, "");
    let prefix = prefix.strip_suffix(ENDING).unwrap_or_default();
    let mut found = Vec::new();
    for entry in entries {
        let place = entry.map_err(|error| failed(path, error))?.path();
        let name = place.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if !name.starts_with(prefix) || !name.ends_with(ENDING) {
            continue;
        }
        if let Some(text) = read(&place).map_err(|error| failed(&place, error))? {
            found.push((name.to_owned(), text));
        }
    }
    found.sort();
    Ok(found)
}

fn read(place: &Path) -> io::Result<Option<String>> {
    let mut text = Vec::new();
    match File::open(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(file) => file.take(LARGEST).read_to_end(&mut text)?,
    };
    // A damaged file may be no text at all: its reader finds that out.
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "k8s-kek";

    fn saved(state: &StateDir, text: &str) -> Result<(), StateError> {
        state.update(&file_name(LABEL, "1"), |_| Ok(text.to_owned()))
    }

    fn texts(path: &Path) -> Vec<String> {
        read_all(path, LABEL).unwrap().into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn what_is_saved_is_read_and_replaced_as_a_whole() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        assert!(texts(&path).is_empty());
        let state = StateDir::open(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o700);
        for text in ["a long one", "short"] {
            saved(&state, text).unwrap();
            assert_eq!(texts(&path), [text]);
        }
        assert_eq!(mode(&path.join("k8s-kek@1.toml")), 0o600);
        let appended = |old: Option<String>| Ok(format!("{} and more", old.unwrap()));
        state.update("k8s-kek@1.toml", appended).unwrap();
        assert_eq!(texts(&path), ["short and more"]);
    }

    #[test]
    fn each_token_and_each_label_has_its_file() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        for (label, serial) in [(LABEL, "1"), (LABEL, "../2 \u{1f600}"), ("k8s-kek2", "1")] {
            state.update(&file_name(label, serial), |_| Ok(serial.to_owned())).unwrap();
        }
        assert_eq!(texts(temp.path()), ["../2 \u{1f600}", "1"]);
        assert_eq!(read_all(temp.path(), "k8s-kek2").unwrap().len(), 1);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_text() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        saved(&state, "old").unwrap();
        // Not even root can open a directory for writing.
        fs::create_dir(temp.path().join("k8s-kek@1.toml.new")).unwrap();
        let error = saved(&state, "new").unwrap_err().to_string();
        assert!(error.contains("keyring.state-dir"), "{error}");
        assert_eq!(texts(temp.path()), ["old"]);
    }

    #[test]
    fn one_that_was_left_half_written_does_no_harm() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("k8s-kek@1.toml.new"), "half a rec").unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        assert!(texts(temp.path()).is_empty());
        saved(&state, "whole").unwrap();
        assert_eq!(texts(temp.path()), ["whole"]);
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
