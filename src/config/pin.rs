//! Where the PIN is, and how it is read: from a file that only its owner and a
//! group may read, never from a flag or an environment value.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::secret::Pin;

/// Set by systemd for a unit that has credentials (systemd.exec(5)).
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// The longest PIN in bytes. The longest that a known token takes has 255.
const LONGEST: usize = 256;

/// What the file is called in errors.
const PIN_FILE: &str = "PIN file";

/// Where the PIN is. The daemon's front never reads it, only its workers do.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum PinSource {
    /// A file, by its absolute path.
    File(PathBuf),
    /// A systemd credential (`LoadCredential=`), by its name.
    Credential(String),
}

/// Tells whether a file is still the one that was seen before, without reading it.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

/// Why there is no PIN. It holds the path and never what is in the file.
#[derive(Debug, Error)]
pub enum PinError {
    /// A credential was asked for outside a unit that has any.
    #[error(
        "PIN credential {0:?}: {CREDENTIALS_DIRECTORY} is not set. By hand: set it to the \
         directory of the file {0}, or say --set token.pin-file=/path/of/the/pin. In a systemd unit: \
         LoadCredential={0}:/path/of/the/pin"
    )]
    NoCredentials(String),
    /// It cannot be opened or read.
    #[error("{what} {path}: {error}", path = .path.display())]
    Io {
        /// What the file is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The system does not let us read it.
    #[error(
        "{what} {path}: uid {us}, which p11-kms runs as, may not read it; run: chown {us} {path}, \
         and let it into the directories above",
        path = .path.display()
    )]
    Denied {
        /// What the file is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The user that we run as.
        us: u32,
    },
    /// A directory, a pipe or a device.
    #[error("{0}: not a regular file")]
    NotAFile(String),
    /// Others may read or change it, or its group may change it.
    #[error(
        "{what} {path} is open to others (mode {mode:04o}); run: chmod {remedy:04o} {path}",
        path = .path.display()
    )]
    Mode {
        /// What the file is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        remedy: u32,
    },
    /// It belongs to somebody who is neither root nor us.
    #[error(
        "{what} {path} belongs to uid {owner}, neither root nor uid {us} that p11-kms runs as; \
         run: chown {us} {path}",
        path = .path.display()
    )]
    Owner {
        /// What the file is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user that we run as.
        us: u32,
    },
    /// There is no PIN in it.
    #[error("PIN file {} is empty; write the user PIN into it", .0.display())]
    Empty(PathBuf),
    /// It is not a PIN.
    #[error("PIN file {} is longer than {LONGEST} bytes; it must hold the PIN alone", .0.display())]
    TooLong(PathBuf),
    /// A NUL or a second line. A wrong PIN costs one of a few tries, so it is
    /// better to ask.
    #[error(
        "PIN file {} has a NUL or more than one line; it must hold the PIN and at most one newline",
        .0.display()
    )]
    NotAPin(PathBuf),
}

impl PinSource {
    /// The file that holds the PIN: for a credential
    /// `$CREDENTIALS_DIRECTORY/NAME`.
    ///
    /// # Errors
    /// A credential, and no directory of credentials.
    pub fn path(&self) -> Result<PathBuf, PinError> {
        self.path_in(std::env::var_os(CREDENTIALS_DIRECTORY).as_deref())
    }

    fn path_in(&self, credentials: Option<&OsStr>) -> Result<PathBuf, PinError> {
        match (self, credentials) {
            (Self::File(path), _) => Ok(path.clone()),
            (Self::Credential(name), Some(directory)) => Ok(Path::new(directory).join(name)),
            (Self::Credential(name), None) => Err(PinError::NoCredentials(name.clone())),
        }
    }

    /// Reads the PIN: the content of the file without one newline at its end.
    ///
    /// Symbolic links are followed, since Kubernetes and systemd use them; what
    /// counts is the file that was opened. Credentials get no exception:
    /// systemd makes them 0400 or 0440, owned by root or by us.
    ///
    /// # Errors
    /// See [`PinError`]; each says how to put it right.
    pub fn read(&self) -> Result<Pin, PinError> {
        let (path, mut file) = self.open()?;
        let bytes =
            read_short(&mut file, LONGEST + 2).map_err(|error| failed(PIN_FILE, &path, error))?;
        pin_in(&path, &bytes)
    }

    /// Looks whether only those who may can get at the PIN, without reading it.
    ///
    /// # Errors
    /// See [`PinError`]; each says how to put it right.
    pub fn check(&self) -> Result<(), PinError> {
        self.open().map(|_| ())
    }

    fn open(&self) -> Result<(PathBuf, File), PinError> {
        let path = self.path()?;
        let file = open_secret(PIN_FILE, &path)?;
        Ok((path, file))
    }

    /// What the file looks like from outside; none when it is not there.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        let found = fs::metadata(self.path().ok()?).ok()?;
        Some(Stamp {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }
}

/// Opens a file with a secret in it, by the rules for the PIN's. `what` names it in errors.
///
/// # Errors
/// See [`PinError`]; each says how to put it right.
pub fn open_secret(what: &'static str, path: &Path) -> Result<File, PinError> {
    let opened = OpenOptions::new()
        .read(true)
        // A pipe under this name must not hang us.
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)
        .and_then(|file| Ok((file.metadata()?, file)));
    let (found, file) = opened.map_err(|error| failed(what, path, error))?;
    check_access(what, path, &found, geteuid().as_raw())?;
    Ok(file)
}

fn failed(what: &'static str, path: &Path, error: io::Error) -> PinError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            PinError::Denied { what, path: path.into(), us: geteuid().as_raw() }
        }
        _ => PinError::Io { what, path: path.into(), error },
    }
}

fn check_access(
    what: &'static str,
    path: &Path,
    found: &fs::Metadata,
    us: u32,
) -> Result<(), PinError> {
    if !found.is_file() {
        return Err(PinError::NotAFile(format!("{what} {}", path.display())));
    }
    // Its group may read it: root:p11-kms 0640 is how a packager would do it, and
    // the remedy must not lock us out of that.
    if found.mode() & 0o027 != 0 {
        let mode = found.mode() & 0o7777;
        let remedy = if found.uid() == us { 0o600 } else { 0o640 };
        return Err(PinError::Mode { what, path: path.into(), mode, remedy });
    }
    // Root may run a command with the daemon's own file.
    if us != 0 && found.uid() != 0 && found.uid() != us {
        return Err(PinError::Owner { what, path: path.into(), owner: found.uid(), us });
    }
    Ok(())
}

/// Reads into one buffer that never grows: growing would leave a copy behind. What has more
/// than `longest` bytes comes back with one more, which tells that it is too long.
///
/// # Errors
/// It cannot be read.
pub fn read_short(file: &mut impl Read, longest: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(vec![0; longest + 1]);
    let mut length = 0;
    while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty()) {
        match file.read(room) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(length);
    Ok(buffer)
}

fn pin_in(path: &Path, bytes: &[u8]) -> Result<Pin, PinError> {
    let pin = match bytes.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => bytes,
    };
    if pin.is_empty() {
        return Err(PinError::Empty(path.into()));
    }
    if pin.len() > LONGEST {
        return Err(PinError::TooLong(path.into()));
    }
    if pin.iter().any(|byte| matches!(byte, 0 | b'\n')) {
        return Err(PinError::NotAPin(path.into()));
    }
    Ok(Pin::from_bytes(pin.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn file(directory: &Path, content: &[u8], mode: u32) -> PinSource {
        let path = directory.join("pin");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        PinSource::File(path)
    }

    fn read(content: &[u8]) -> Result<Vec<u8>, String> {
        let directory = tempfile::tempdir().unwrap();
        let pin = file(directory.path(), content, 0o600).read();
        pin.map(|pin| pin.expose().to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_newline_is_no_part_of_the_pin() {
        for (content, pin) in [
            (&b"1234"[..], &b"1234"[..]),
            (b"1234\n", b"1234"),
            (b"1234\r\n", b"1234"),
            (b" 12 34 \n", b" 12 34 "),
            (b"user:pass\xff", b"user:pass\xff"),
            (b"1234\r", b"1234\r"),
        ] {
            assert_eq!(read(content).as_deref(), Ok(pin));
        }
        let longest = [b'9'; LONGEST];
        assert_eq!(read(&longest).as_deref(), Ok(&longest[..]));
        assert_eq!(read(&[&longest[..], b"\r\n"].concat()).as_deref(), Ok(&longest[..]));
    }

    #[test]
    fn what_is_not_a_pin_is_refused_and_not_echoed() {
        for (content, what) in [
            (&b""[..], "is empty; write the user PIN"),
            (b"\n", "is empty"),
            (b"\r\n", "is empty"),
            (b"87654321\n\n", "more than one line"),
            (b"87654321\nfoo", "more than one line"),
            (b"87654321\0", "has a NUL"),
            (&[b'8'; LONGEST + 1], "longer than 256 bytes"),
            (&[b'8'; 5000], "longer than 256 bytes"),
        ] {
            let error = read(content).unwrap_err();
            assert!(error.starts_with("PIN file /") && error.contains(what), "{error}");
            assert!(!error.contains("8765") && !error.contains("888"), "{error}");
        }
    }

    #[test]
    fn a_pin_that_others_can_reach_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o400, 0o440, 0o600, 0o640] {
            assert!(file(directory.path(), b"1234", mode).read().is_ok(), "{mode:o}");
        }
        let path = directory.path().join("pin").display().to_string();
        for mode in [0o604, 0o602, 0o601, 0o660, 0o644, 0o666, 0o777] {
            let error = file(directory.path(), b"1234", mode).read().unwrap_err().to_string();
            let expected = format!(
                "PIN file {path} is open to others (mode {mode:04o}); run: chmod 0600 {path}"
            );
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn a_pin_of_somebody_else_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let PinSource::File(path) = file(directory.path(), b"1234", 0o600) else {
            panic!("not a file");
        };
        // A file of root is good for everybody; the tests may run as root.
        if fs::metadata(&path).unwrap().uid() == 0 {
            assert!(check_access(PIN_FILE, &path, &fs::metadata(&path).unwrap(), 4711).is_ok());
            nix::unistd::chown(&path, Some(1.into()), None).unwrap();
        }
        let found = fs::metadata(&path).unwrap();
        let error = check_access(PIN_FILE, &path, &found, 4711).unwrap_err().to_string();
        assert!(error.contains(&format!("belongs to uid {}", found.uid())), "{error}");
        assert!(error.ends_with(&format!("run: chown 4711 {}", path.display())), "{error}");
        assert!(check_access(PIN_FILE, &path, &found, found.uid()).is_ok());
        assert!(check_access(PIN_FILE, &path, &found, 0).is_ok(), "root may use the daemon's");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let found = fs::metadata(&path).unwrap();
        let error = check_access(PIN_FILE, &path, &found, 4711).unwrap_err().to_string();
        assert!(error.ends_with(&format!("run: chmod 0640 {}", path.display())), "{error}");
    }

    #[test]
    fn what_is_not_a_file_is_refused_and_links_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let source = PinSource::File(directory.path().into());
        assert!(source.read().unwrap_err().to_string().contains("not a regular file"));

        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let error = PinSource::File(pipe).read().unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");

        let missing = PinSource::File(directory.path().join("missing"));
        let error = missing.read().unwrap_err().to_string();
        assert!(error.contains("/missing: No such file"), "{error}");
        assert_eq!(missing.stamp(), None);

        let PinSource::File(path) = file(directory.path(), b"1234", 0o600) else {
            panic!("not a file");
        };
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(PinSource::File(link.clone()).read().unwrap().expose(), b"1234");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(PinSource::File(link).read().is_err());
    }

    #[test]
    fn a_credential_is_a_file_in_the_directory_of_the_unit() {
        let source = PinSource::Credential("pin".into());
        let path = source.path_in(Some(OsStr::new("/run/credentials/x"))).unwrap();
        assert_eq!(path, Path::new("/run/credentials/x/pin"));
        let error = source.path_in(None).unwrap_err().to_string();
        assert!(error.contains("CREDENTIALS_DIRECTORY is not set"), "{error}");
        assert!(error.contains("token.pin-file"), "{error}");
    }

    #[test]
    fn the_stamp_changes_with_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let source = file(directory.path(), b"1234", 0o600);
        let before = source.stamp().unwrap();
        assert_eq!(source.stamp(), Some(before));
        let other = directory.path().join("other");
        fs::write(&other, b"4321").unwrap();
        fs::rename(&other, directory.path().join("pin")).unwrap();
        assert_ne!(source.stamp(), Some(before));
    }

    #[test]
    fn it_goes_to_the_worker_and_back() {
        for source in [PinSource::File("/a/b".into()), PinSource::Credential("pin".into())] {
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(serde_json::from_str::<PinSource>(&json).unwrap(), source);
        }
    }
}
