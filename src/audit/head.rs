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
use super::queue::Lost;

/// Its name.
pub const NAME: &str = "audit.head";

/// Files of the state directory that are there before the first line ever is.
const AT_FIRST: [&str; 2] = [NAME, "lock"];

/// The most that is read of it, in bytes: two numbers, a hash, a time and a reason.
const LARGEST: u64 = 512;

/// Longest reason that is kept there, in bytes.
const MOST_WHY: usize = 300;

/// The last line of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number; 0 before the first.
    pub seq: u64,
    /// The SHA-256 of the whole line, without its newline.
    pub hash: String,
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// `None`: no line was ever written, or it is damaged.
    pub(super) head: Option<Head>,
    /// Something is there that is no head.
    pub(super) is_damaged: bool,
    /// Lines that are not in the log, which nobody could tell yet.
    pub(super) lost: Lost,
}

impl Head {
    /// Before the first line.
    pub(super) fn start() -> Self {
        Self { seq: 0, hash: NO_HASH.to_owned() }
    }

    /// Reads the file at `path`, for those who write no line.
    ///
    /// # Errors
    /// It cannot be read, or is no head.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        // A FIFO must not make us wait.
        let file = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        file.lock_shared()?;
        let damaged = || io::Error::other("this is no head of an audit log, or it is damaged");
        read(&file)?.head.ok_or_else(damaged)
    }
}

impl Kept {
    /// Reads the first line: after a kill the end of an older, longer text may stand behind it.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.trim_end();
        let mut words = line.splitn(5, ' ');
        let seq = words.next()?.parse().ok()?;
        let hash = words.next().filter(|hash| is_hash(hash))?.to_owned();
        let lost = match words.next() {
            None => Lost::default(),
            Some(lines) => {
                let since = humantime::parse_rfc3339(words.next()?).ok()?;
                let why = words.next().unwrap_or_default().to_owned();
                Lost { lines: lines.parse().ok()?, since: Some((since, why)) }
            }
        };
        let head = Head { seq, hash };
        match seq {
            0 if lost.since.is_none() || head.hash != NO_HASH => None,
            0 => Some(Self { head: None, is_damaged: false, lost }),
            _ => Some(Self { head: Some(head), is_damaged: false, lost }),
        }
    }
}

fn text(head: &Head, lost: &Lost) -> String {
    let Head { seq, hash } = head;
    let Some((since, why)) = &lost.since else { return format!("{seq} {hash}\n") };
    let since = humantime::format_rfc3339_seconds(*since);
    let why = why.replace(|c: char| !matches!(c, ' '..='~'), "?");
    let why = why.get(..MOST_WHY).unwrap_or(&why);
    format!("{seq} {hash} {} {since} {why}\n", lost.lines)
}

fn read(file: &File) -> io::Result<Kept> {
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text)?;
    let damaged = Kept { is_damaged: !text.is_empty(), ..Kept::default() };
    Ok(Kept::parse(&String::from_utf8_lossy(&text)).unwrap_or(damaged))
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
#[derive(Clone, Debug)]
pub(super) struct HeadFile {
    directory: PathBuf,
    /// The directory had been used before the head was made.
    pub(super) has_past: bool,
}

/// The head, which nobody else changes before this is dropped.
pub(super) struct Locked {
    file: File,
    /// What it said.
    pub(super) kept: Kept,
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
        let is_later = |name: &std::ffi::OsStr| AT_FIRST.iter().all(|first| name != *first);
        let has_past =
            fs::read_dir(directory)?.filter_map(Result::ok).any(|it| is_later(&it.file_name()));
        let head = Self { directory: directory.to_owned(), has_past };
        head.open_file()?;
        Ok(head)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    pub(super) fn open_file(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        // A FIFO must not make us wait.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        options.read(true).write(true).mode(0o600).custom_flags(flags.bits());
        match options.clone().create_new(true).open(self.path()) {
            Ok(file) => give_to_owner_of(&self.directory, &file)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let file = options.open(self.path())?;
        let (about, directory) = (file.metadata()?, fs::metadata(&self.directory)?);
        let wrong = |what: &str| Err(io::Error::other(what));
        match about.uid() {
            _ if !about.is_file() => wrong("it is no regular file: remove it"),
            _ if about.nlink() != 1 => wrong("it has another name too (a hard link): remove that"),
            owner if owner != 0 && owner != directory.uid() => {
                wrong("it belongs neither to the owner of its directory nor to root")
            }
            _ => Ok(file),
        }
    }

    /// Waits for its turn, however long that takes.
    pub(super) fn lock(&self) -> io::Result<Locked> {
        let file = self.open_file()?;
        file.lock()?;
        let kept = read(&file)?;
        Ok(Locked { file, kept })
    }

    /// What was written is to survive a loss of power.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.open_file()?.sync_data()
    }
}

impl Locked {
    /// Puts another head in the place of the old one, and with it what no line tells yet. It is
    /// written in one piece, over the old one: that needs no room on the disk.
    pub(super) fn replace(&self, head: &Head, lost: &Lost) -> io::Result<()> {
        let text = text(head, lost);
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
    use std::time::{Duration, UNIX_EPOCH};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn it_is_read_as_it_was_written() {
        let temp = tempfile::tempdir().unwrap();
        let file = HeadFile::open(&temp.path().join("state")).unwrap();
        assert_eq!(file.lock().unwrap().kept, Kept::default());
        let since = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let lost = |lines, why: &str| Lost { lines, since: Some((since, why.to_owned())) };
        for lost in [Lost::default(), lost(7, "no room: here"), lost(0, ""), Lost::default()] {
            for seq in [9, 10, 123_456, 7] {
                let head = Head { seq, hash: "ab".repeat(32) };
                file.lock().unwrap().replace(&head, &lost).unwrap();
                let kept = file.lock().unwrap().kept;
                assert_eq!((kept.head, kept.lost), (Some(head.clone()), lost.clone()));
                assert_eq!(Head::read(&file.path()).unwrap(), head);
            }
        }
        // Before the first line, and with a reason that is long and no ASCII.
        file.lock().unwrap().replace(&Head::start(), &lost(3, &"\u{e4}\n".repeat(900))).unwrap();
        let kept = file.lock().unwrap().kept;
        assert_eq!((kept.head, kept.is_damaged, kept.lost.lines), (None, false, 3));
        // A kill comes before the end of the older text is cut off.
        let text = format!("7 {}\n8 2030-01-01T00:00:00Z why\n", "ab".repeat(32));
        fs::write(file.path(), text).unwrap();
        assert_eq!(file.lock().unwrap().kept.lost, Lost::default());
    }

    #[test]
    fn what_is_damaged_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let file = HeadFile::open(temp.path()).unwrap();
        let hash = "ab".repeat(32);
        for damaged in [
            "",
            "1",
            "1 ab\n",
            "x y",
            &format!("0 {NO_HASH}\n"),
            &"9".repeat(999),
            &format!("3 {hash} 4"),
            &format!("3 {hash} 4 today why"),
            &format!("3 {hash} x 2030-01-01T00:00:00Z why"),
        ] {
            fs::write(file.path(), damaged).unwrap();
            let kept = file.lock().unwrap().kept;
            assert_eq!((kept.head, kept.is_damaged), (None, !damaged.is_empty()), "{damaged:?}");
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

    #[test]
    fn what_somebody_else_put_there_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(NAME);
        let refused = || HeadFile::open(temp.path()).unwrap_err().to_string();
        mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        assert!(refused().contains("no regular file"));
        assert!(Head::read(&path).unwrap_err().to_string().contains("no regular file"));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(temp.path().join("other"), &path).unwrap();
        refused();
        assert!(!temp.path().join("other").exists());
        fs::remove_file(&path).unwrap();
        HeadFile::open(temp.path()).unwrap();
        fs::hard_link(&path, temp.path().join("other")).unwrap();
        assert!(refused().contains("hard link"));
        fs::remove_file(temp.path().join("other")).unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert!(refused().contains("belongs"));
        }
    }
}
