#![forbid(unsafe_code)]
//! The file that the lines go to. Others may rename it, and other processes write to it too: each
//! batch looks. Whoever calls holds the lock on the head.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, access, geteuid};

use super::head::{Head, give_to_owner_of};
use super::tail::{self, Repair, Tail};

/// Its owner writes, its group may read.
const MODE: u32 = 0o640;

/// Why the file is of no use.
#[derive(Debug)]
pub(super) enum Unusable {
    /// The config or the file is wrong: somebody has to put it right.
    Wrong(String),
    /// It may become well by itself, as a full disk does.
    Trouble(io::Error),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        Self::Trouble(error)
    }
}

impl From<Unusable> for io::Error {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Wrong(what) => Self::other(what),
            Unusable::Trouble(error) => error,
        }
    }
}

/// The log's file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    open: Option<Arc<File>>,
    /// How head and size were after our last batch: if they still are, nobody else wrote.
    known: Option<(Head, u64)>,
}

impl LogFile {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None, known: None }
    }

    /// Opens the file, and makes it if it is not there.
    pub(super) fn open(&mut self) -> Result<(), Unusable> {
        self.open = None;
        self.known = None;
        self.open = Some(Arc::new(open(&self.path)?));
        Ok(())
    }

    /// The file that the last batch went to.
    pub(super) const fn current(&self) -> Option<&Arc<File>> {
        self.open.as_ref()
    }

    /// Are there older files of this log beside it, as logrotate names them?
    pub(super) fn has_siblings(&self) -> bool {
        let Some(name) = self.path.file_name().and_then(OsStr::to_str) else { return false };
        let is_one = |other: &OsStr| {
            let rest = other.to_str().and_then(|other| other.strip_prefix(name));
            rest.is_some_and(|rest| rest.starts_with(['.', '-']))
        };
        let entries = fs::read_dir(directory_of(&self.path));
        entries.is_ok_and(|mut all| all.any(|it| it.is_ok_and(|it| is_one(&it.file_name()))))
    }

    /// Forgets the open file, so that the next batch opens it anew.
    pub(super) fn forget(&mut self) {
        self.open = None;
    }

    /// Makes sure that the end of the file fits the head: where the next line goes, and what was
    /// found wrong.
    pub(super) fn prepare(&mut self, head: Option<Head>) -> io::Result<Tail> {
        let mut what = None;
        if !self.is_still_there() {
            // One that was renamed still has a name.
            if self
                .open
                .as_ref()
                .is_some_and(|file| file.metadata().is_ok_and(|it| it.nlink() == 0))
            {
                what = Some("the log's file was deleted, or compressed too soon");
            }
            self.open()?;
        }
        let file = self.open.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let size = file.metadata()?.len();
        if size == 0 && self.known.as_ref().is_some_and(|(_, before)| *before > 0) {
            what = Some("the log's file was emptied");
        }
        if let Some(head) = &head
            && self.known.as_ref().is_some_and(|known| *known == (head.clone(), size))
        {
            return Ok(Tail::whole(head.clone()));
        }
        let mut tail = tail::look(file, size, head)?;
        let what = what.map(|what| format!("{what} after line {}", tail.head.seq));
        tail.repairs.extend(what.map(|what| Repair { lines: 0, what }));
        Ok(tail)
    }

    /// Appends lines; `ends` are the offsets behind each. How many are in the file as a whole,
    /// and why not all: of one that is not, nothing is left.
    pub(super) fn append(&mut self, lines: &[u8], ends: &[usize]) -> (usize, io::Result<()>) {
        let Some(file) = &self.open else { return (0, Err(io::ErrorKind::NotFound.into())) };
        let size = match file.metadata() {
            Ok(about) => about.len(),
            Err(error) => return (0, Err(error)),
        };
        let (length, outcome) = write_all(file, lines);
        let whole = ends.partition_point(|end| *end <= length);
        let kept = whole.checked_sub(1).and_then(|last| ends.get(last)).copied().unwrap_or(0);
        if kept < length {
            // If this fails too, the next batch finds a torn line.
            let _ = file.set_len(size + kept as u64);
        }
        (whole, outcome)
    }

    /// The head was not written: neither shall the lines be.
    pub(super) fn take_back(&self, length: usize) {
        let Some(file) = &self.open else { return };
        // If it fails, the next batch finds lines that the head does not know.
        let _ = file
            .metadata()
            .and_then(|about| file.set_len(about.len().saturating_sub(length as u64)));
    }

    /// Remembers what the batch left.
    pub(super) fn remember(&mut self, head: &Head) {
        let size = self.open.as_ref().and_then(|file| file.metadata().ok());
        self.known = size.map(|about| (head.clone(), about.len()));
    }

    /// What was written is to survive a loss of power.
    pub(super) fn sync(&self) {
        if let Some(file) = &self.open {
            // At an end nobody is left to tell.
            let _ = file.sync_data();
        }
    }

    /// Renamed by logrotate, or removed?
    fn is_still_there(&self) -> bool {
        let ours = self.open.as_ref().and_then(|file| file.metadata().ok());
        let there = fs::symlink_metadata(&self.path).ok();
        ours.zip(there)
            .is_some_and(|(ours, there)| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    }
}

fn write_all(mut file: &File, lines: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(left) = lines.get(written..).filter(|left| !left.is_empty()) {
        match file.write(left) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Could it be opened? Makes nothing.
pub(super) fn look(path: &Path) -> Result<(), Unusable> {
    if path.symlink_metadata().is_ok() {
        return open_existing(path, &options()).map(drop);
    }
    access(directory_of(path), AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|errno| why(path, errno.into()))
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // Reading too: the end is looked at. A FIFO must not make us wait.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    options.read(true).append(true).mode(MODE).custom_flags(flags.bits());
    options
}

fn open(path: &Path) -> Result<File, Unusable> {
    let options = options();
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            // The daemon's umask leaves nothing to the group.
            file.set_permissions(fs::Permissions::from_mode(MODE))?;
            give_to_owner_of(directory_of(path), &file)?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open_existing(path, &options),
        Err(error) => Err(why(path, error)),
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn open_existing(path: &Path, options: &OpenOptions) -> Result<File, Unusable> {
    let about = fs::symlink_metadata(path).map_err(|error| why(path, error))?;
    let kind = about.file_type();
    if !kind.is_file() {
        let what = match () {
            () if kind.is_symlink() => "is a symbolic link",
            () if kind.is_dir() => "is a directory",
            () if kind.is_fifo() => "is a FIFO",
            () => "is no file",
        };
        return Err(Unusable::Wrong(format!("{what}: name a regular file")));
    }
    let file = options.open(path).map_err(|error| why(path, error))?;
    let about = file.metadata()?;
    let mode = about.permissions().mode() & 0o777;
    if mode & !MODE != 0 {
        return Err(Unusable::Wrong(format!(
            "may be read or written by others (mode {mode:04o}): run chmod 0640 {}",
            path.display()
        )));
    }
    if !about.is_file() || about.nlink() != 1 {
        let what = "has another name too (a hard link): remove that, or name another file";
        return Err(Unusable::Wrong(what.to_owned()));
    }
    let directory = fs::metadata(directory_of(path))?;
    let trusted = [0, geteuid().as_raw(), directory.uid()];
    if !trusted.contains(&about.uid()) {
        return Err(Unusable::Wrong(format!(
            "belongs to uid {}: give it to the daemon's user, or name another file",
            about.uid()
        )));
    }
    Ok(file)
}

/// Which errors a person has to put right?
fn why(path: &Path, error: io::Error) -> Unusable {
    let directory = directory_of(path).display();
    let remedy = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            format!("make the directory {directory}, which the daemon's user can write to")
        }
        io::ErrorKind::PermissionDenied => {
            format!("the daemon's user must be able to write to it and to {directory}")
        }
        _ => return Unusable::Trouble(error),
    };
    Unusable::Wrong(format!("{error}: {remedy}"))
}
