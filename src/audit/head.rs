#![forbid(unsafe_code)]
//! How far the chain has come: `audit.head` in the state directory. Whoever writes a line
//! holds the lock on it meanwhile.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::line::{NO_HASH, is_hash};

/// Its name.
pub const NAME: &str = "audit.head";

/// The most that is read of it, in bytes: a number, a space, a hash, a newline.
const LARGEST: u64 = 128;

/// The last line of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number; 0 before the first.
    pub seq: u64,
    /// The SHA-256 of the whole line, without its newline.
    pub hash: String,
}

impl Head {
    /// Before the first line.
    pub(super) fn start() -> Self {
        Self { seq: 0, hash: NO_HASH.to_owned() }
    }

    /// Reads what the file says.
    fn parse(text: &str) -> Option<Self> {
        let (seq, hash) = text.trim_end().split_once(' ')?;
        let seq = seq.parse().ok().filter(|seq| *seq > 0)?;
        is_hash(hash).then(|| Self { seq, hash: hash.to_owned() })
    }

    /// Reads the file at `path`, for those who write no line.
    ///
    /// # Errors
    /// It cannot be read, or is no head.
    pub fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        file.lock_shared()?;
        let damaged = || io::Error::other("this is no head of an audit log, or it is damaged");
        read(&file)?.ok_or_else(damaged)
    }
}

fn read(file: &File) -> io::Result<Option<Head>> {
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text)?;
    Ok(Head::parse(&String::from_utf8_lossy(&text)))
}

/// Gives what root has made to the owner of the directory that it is in: the daemon must be able
/// to write to it.
pub(super) fn give_to_owner_of(directory: &Path, file: &File) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let about = fs::metadata(directory)?;
    fchown(file, Some(about.uid()), Some(about.gid()))
}

/// Where the head is.
#[derive(Debug)]
pub(super) struct HeadFile {
    directory: PathBuf,
}

/// The head, which nobody else changes before this is dropped.
pub(super) struct Locked {
    file: File,
    /// `None`: there is none yet, or it is damaged.
    pub(super) head: Option<Head>,
}

impl HeadFile {
    /// Makes the directory (mode 0700) if it is not there, and looks whether it can be
    /// written to.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        if let Err(error) = DirBuilder::new().mode(0o700).create(directory)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        let head = Self { directory: directory.to_owned() };
        head.file()?;
        Ok(head)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    fn file(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
        match options.open(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        let file = options.create(true).truncate(false).open(self.path())?;
        give_to_owner_of(&self.directory, &file)?;
        Ok(file)
    }

    /// Waits for its turn, however long that takes.
    pub(super) fn lock(&self) -> io::Result<Locked> {
        let file = self.file()?;
        file.lock()?;
        let head = read(&file)?;
        Ok(Locked { file, head })
    }
}

impl Locked {
    /// Puts another head in the place of the old one. It is written in one piece, over the old
    /// one: that needs no room on the disk.
    pub(super) fn replace(&self, head: &Head) -> io::Result<()> {
        let text = format!("{} {}\n", head.seq, head.hash);
        self.file.write_all_at(text.as_bytes(), 0)?;
        let length = text.len() as u64;
        if self.file.metadata()?.len() != length {
            self.file.set_len(length)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written() {
        let temp = tempfile::tempdir().unwrap();
        let file = HeadFile::open(&temp.path().join("state")).unwrap();
        assert_eq!(file.lock().unwrap().head, None);
        for seq in [9, 10, 123_456, 7] {
            let head = Head { seq, hash: "ab".repeat(32) };
            file.lock().unwrap().replace(&head).unwrap();
            assert_eq!(file.lock().unwrap().head, Some(head.clone()));
            assert_eq!(Head::read(&file.path()).unwrap(), head);
        }
    }

    #[test]
    fn what_is_damaged_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let file = HeadFile::open(temp.path()).unwrap();
        for damaged in ["", "1", "1 ab\n", "x y", &format!("0 {NO_HASH}\n"), &"9".repeat(999)] {
            fs::write(file.path(), damaged).unwrap();
            assert_eq!(file.lock().unwrap().head, None, "{damaged:?}");
            Head::read(&file.path()).unwrap_err();
        }
    }

    #[test]
    fn one_writer_waits_for_the_other() {
        let temp = tempfile::tempdir().unwrap();
        let file = HeadFile::open(temp.path()).unwrap();
        let first = file.lock().unwrap();
        assert!(File::open(file.path()).unwrap().try_lock().is_err());
        drop(first);
        File::open(file.path()).unwrap().try_lock().unwrap();
    }
}
