#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::path::PathBuf;

use super::verify::{Findings, Verifier};
use super::*;

/// A log in a directory of its own.
struct Log {
    temp: tempfile::TempDir,
}

impl Log {
    fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.temp.path().join("audit.jsonl")
    }

    fn open(&self) -> Writer {
        let place = AuditPlace::File(self.path());
        let config = config::Audit { place, on_failure: OnFailure::Refuse };
        open(Some(&config), self.temp.path()).unwrap()
    }

    /// What is found in it. It must be intact up to its end.
    #[track_caller]
    fn intact(&self) -> Findings {
        let head = Head::read(&self.temp.path().join(HEAD_NAME)).unwrap();
        let mut verifier = Verifier::new(Some(head));
        verifier.read("log", &mut &*fs::read(self.path()).unwrap()).unwrap();
        let found = verifier.finish();
        assert!(found.intact && found.end_proven, "{found}");
        found
    }
}

/// A disk that does not answer for long.
#[tokio::test]
async fn what_the_queue_does_not_hold_is_counted_and_told() {
    const MORE: u64 = 17_000;
    let log = Log::new();
    let writer = log.open();
    let audit = writer.audit();
    audit.write(Event::new(AuditEvent::Start)).await.unwrap();
    let lock = File::open(log.temp.path().join(HEAD_NAME)).unwrap();
    lock.lock().unwrap();
    for _ in 0..MORE {
        audit.tell(Event::new(AuditEvent::Decrypt));
    }
    let refused = audit.write(Event::new(AuditEvent::Encrypt)).await.unwrap_err();
    assert!(matches!(refused, Unwritten::Lost(_)), "{refused:?}");
    lock.unlock().unwrap();
    // It is well by itself, and has told of the gap before this line.
    while audit.write(Event::new(AuditEvent::Encrypt)).await.is_err() {}
    writer.close().await;
    let found = log.intact();
    let gaps = fs::read_to_string(log.path()).unwrap().matches("\"event\":\"gap\"").count() as u64;
    assert!((1..=2).contains(&gaps), "{gaps}");
    // The first line, the decrypts, one encrypt that was lost at least, and the last.
    assert!(found.lost > 300, "{found}");
    assert!(found.lines - gaps + found.lost >= MORE + 3, "{found}");
}

#[tokio::test]
async fn two_writers_make_one_chain() {
    let log = Log::new();
    let writers = [log.open(), log.open()];
    let [one, other] = writers.each_ref().map(Writer::audit);
    for _ in 0..300 {
        let (one, other) = tokio::join!(
            one.write(Event::new(AuditEvent::Encrypt)),
            other.write(Event::new(AuditEvent::Decrypt))
        );
        one.unwrap();
        other.unwrap();
    }
    for writer in writers {
        writer.close().await;
    }
    let found = log.intact();
    assert_eq!((found.lines, found.lost), (600, 0));
}

/// A caller that goes away has another line: its own is not written, nor counted.
#[tokio::test]
async fn a_line_that_nobody_waits_for_any_more_is_left_out() {
    let log = Log::new();
    let writer = log.open();
    let audit = writer.audit();
    audit.write(Event::new(AuditEvent::Start)).await.unwrap();
    let lock = File::open(log.temp.path().join(HEAD_NAME)).unwrap();
    lock.lock().unwrap();
    // The writer waits for the lock with the first one.
    audit.tell(Event::new(AuditEvent::Decrypt));
    assert!(timeout(Duration::ZERO, audit.write(Event::new(AuditEvent::Encrypt))).await.is_err());
    audit.tell(Event::new(AuditEvent::Stop));
    lock.unlock().unwrap();
    writer.close().await;
    let found = log.intact();
    assert_eq!(found.lost, 0);
    assert!((3..=4).contains(&found.lines), "{found}");
}

#[tokio::test]
async fn without_a_log_nothing_is_refused() {
    let writer = open(None, Path::new("/no/such")).unwrap();
    let audit = writer.audit();
    assert!(!audit.is_on() && !audit.refuses(Need::Changes) && audit.trouble().is_none());
    audit.require(Event::new(AuditEvent::Encrypt), Need::Changes).await.unwrap();
    audit.write(Event::new(AuditEvent::Key)).await.unwrap();
    writer.close().await;
}
