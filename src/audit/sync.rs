#![forbid(unsafe_code)]
//! What was written is brought onto the disk every second, by a thread of its own: a loss of
//! power takes little, and nobody waits for the disk.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::warn;

use super::head::HeadFile;

/// How long what was written may be in memory alone.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// What is not on the disk yet.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    files: Mutex<Files>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Files {
    /// The log; after a rotation the old one too.
    logs: Vec<Arc<File>>,
    head: Option<HeadFile>,
    ended: bool,
}

impl Dirty {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both were written to. The journal has no file.
    pub(super) fn note(&self, log: Option<&Arc<File>>, head: &HeadFile) {
        let mut files = self.files();
        if let Some(log) = log
            && !files.logs.iter().any(|known| Arc::ptr_eq(known, log))
        {
            files.logs.push(log.clone());
        }
        if files.head.is_none() {
            files.head = Some(head.clone());
            self.wake.notify_all();
        }
    }

    /// Nothing is written any more: whoever wrote last looks after it.
    pub(super) fn end(&self) {
        self.files().ended = true;
        self.wake.notify_all();
    }

    /// Waits until there is something, and then a while for more; `None`: it is over.
    fn take(&self, every: Duration) -> Option<(Vec<Arc<File>>, Option<HeadFile>)> {
        let idle = |files: &mut Files| files.head.is_none() && !files.ended;
        let woken = self.wake.wait_while(self.files(), idle);
        let files = woken.unwrap_or_else(PoisonError::into_inner);
        let woken = self.wake.wait_timeout_while(files, every, |files| !files.ended);
        let (mut files, _) = woken.unwrap_or_else(PoisonError::into_inner);
        let found = (std::mem::take(&mut files.logs), files.head.take());
        (!files.ended).then_some(found)
    }
}

/// Brings it onto the disk until the end: first the log, then the head, which must not be ahead.
pub(super) fn run(dirty: &Dirty, every: Duration, sync: impl Fn(&File) -> io::Result<()>) {
    let mut said = None;
    while let Some((logs, head)) = dirty.take(every) {
        let head = head.iter().map(|head| head.open_file().map(Arc::new));
        let files = logs.into_iter().map(Ok).chain(head);
        let failed = files.map(|file| sync(&*file?)).find_map(Result::err);
        let failed = failed.map(|error| error.to_string());
        // Once until it changes.
        if let Some(error) = failed.as_ref().filter(|_| failed != said) {
            warn!("the audit log: what was written is perhaps not on the disk: {error}");
        }
        said = failed;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn first_the_log_then_the_head_and_only_when_something_was_written() {
        let temp = tempfile::tempdir().unwrap();
        let head = HeadFile::open(temp.path()).unwrap();
        let [old, new] =
            ["old", "new"].map(|name| Arc::new(File::create(temp.path().join(name)).unwrap()));
        let number = |file: &File| file.metadata().unwrap().ino();
        let expected = [number(&old), number(&new), number(&head.open_file().unwrap())];
        let dirty = Arc::new(Dirty::default());
        let (told, seen) = channel();
        let thread = std::thread::spawn({
            let dirty = dirty.clone();
            move || {
                run(&dirty, Duration::from_millis(50), |file| {
                    told.send(file.metadata()?.ino()).unwrap();
                    file.sync_data()
                });
            }
        });
        for _ in 0..2 {
            for log in [&old, &old, &new] {
                dirty.note(Some(log), &head);
            }
            let synced: Vec<u64> = (0..3).map(|_| seen.recv().unwrap()).collect();
            assert_eq!(synced, expected);
        }
        dirty.end();
        thread.join().unwrap();
        assert!(seen.recv().is_err(), "nothing was written since");
    }
}
