#![forbid(unsafe_code)]
//! The log: one line an event to standard error.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{FileStat, SFlag, fstat};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::cli::LogFormat;

/// Lines that wait to be written together. A write for each line would cost the
/// daemon a tenth of its time under load.
static GATHERED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// So much is written at once even while the daemon never rests, in bytes.
const FULL: usize = 16 * 1024;

/// What waits for a log that cannot be written, in bytes. What comes after is lost:
/// to wait for it would mean to serve nobody.
const MOST: usize = 1024 * 1024;

/// When lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Each at once.
    Line,
    /// Whenever [`flush`] is called, and when many have come together. The
    /// daemon's runtime calls it each time that it has nothing left to do.
    Gathered,
}

/// Starts logging. Without a choice: text on a terminal, JSON elsewhere.
///
/// # Errors
/// The filter cannot be understood.
pub fn start(format: Option<LogFormat>, filter: &str, pace: Pace) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        format!("--log {filter:?}: {error}. Use error, warn, info, debug or trace")
    })?;
    let on_terminal = io::stderr().is_terminal();
    let format = format.unwrap_or(if on_terminal { LogFormat::Text } else { LogFormat::Json });
    let writer = match pace {
        Pace::Line => BoxMakeWriter::new(io::stderr),
        Pace::Gathered => {
            flush_before_a_panic_ends_us();
            BoxMakeWriter::new(|| Gatherer)
        }
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Text => log.with_ansi(on_terminal).init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).init(),
    }
    Ok(())
}

/// Writes what has been gathered, as far as that goes without waiting.
pub fn flush() {
    flush_lines(&mut GATHERED.lock().unwrap_or_else(PoisonError::into_inner));
}

/// A full pipe or a stopped terminal must not stop the daemon: what cannot be
/// written now stays for the next time.
fn flush_lines(lines: &mut Vec<u8>) {
    if lines.is_empty() {
        return;
    }
    let stderr = io::stderr();
    // A file takes everything at once; the rest takes this much without waiting once
    // it says that it is ready (pipe(7), PIPE_BUF).
    let piece = if is_regular_file(&stderr) { usize::MAX } else { 4096 };
    let mut written = 0;
    while let Some(left) = lines.get(written..).filter(|left| !left.is_empty()) {
        let next = left.get(..piece).unwrap_or(left);
        if piece != usize::MAX && !is_ready(&stderr) {
            break;
        }
        match stderr.lock().write(next) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Nobody reads the log any more.
            Err(_) => written = lines.len(),
        }
    }
    lines.drain(..written.min(lines.len()));
}

/// Asked once: nobody puts another standard error under a process that runs.
fn is_regular_file(stderr: &io::Stderr) -> bool {
    static IS_FILE: OnceLock<bool> = OnceLock::new();
    *IS_FILE.get_or_init(|| {
        let kind = |found: FileStat| found.st_mode & SFlag::S_IFMT.bits();
        fstat(stderr).is_ok_and(|found| kind(found) == SFlag::S_IFREG.bits())
    })
}

fn is_ready(stderr: &io::Stderr) -> bool {
    let mut asked = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    // An error counts as ready: the write will tell.
    poll(&mut asked, PollTimeout::ZERO) != Ok(0)
}

fn flush_before_a_panic_ends_us() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // Not `flush`: the thread that panics may be the one that holds the lock.
        if let Ok(mut lines) = GATHERED.try_lock() {
            flush_lines(&mut lines);
        }
        usual(panic);
    }));
}

/// Adds to [`GATHERED`]. Each call brings one whole line.
struct Gatherer;

impl Write for Gatherer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lines = GATHERED.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() + line.len() <= MOST {
            lines.extend_from_slice(line);
        }
        if lines.len() >= FULL {
            flush_lines(&mut lines);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
