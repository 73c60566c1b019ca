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
    assert!(
        !audit.is_on() && !audit.refuses(Need::Changes) && audit.trouble(Need::Changes).is_none()
    );
    audit.require(Event::new(AuditEvent::Encrypt), Need::Changes).await.unwrap();
    audit.write(Event::new(AuditEvent::Key)).await.unwrap();
    writer.close().await;
}

/// A directory on a server that is gone.
#[tokio::test]
async fn a_log_that_hangs_when_it_is_opened_keeps_nobody_from_starting() {
    let log = Log::new();
    let (place, state) = (AuditPlace::File(log.path()), log.temp.path().to_owned());
    let config = config::Audit { place: place.clone(), on_failure: OnFailure::Refuse };
    let (shut, gate) = std::sync::mpsc::channel::<()>();
    let opener = move || {
        // Until the other end is gone.
        let _ = gate.recv();
        writer::open(&place, &state)
    };
    let writer = start(&config, Duration::from_millis(50), opener).unwrap();
    let audit = writer.audit();
    audit.tell(Event::new(AuditEvent::Start));
    let refused = audit.require(Event::new(AuditEvent::Encrypt), Need::Changes).await;
    assert_eq!(refused, Err(Unwritten::Late));
    let (why, _) = audit.trouble(Need::Changes).unwrap();
    assert!(why.contains("does not answer"), "{why}");
    assert_eq!(audit.trouble(Need::Reads), None);
    drop(shut);
    while audit.write(Event::new(AuditEvent::Encrypt)).await.is_err() {}
    assert_eq!(audit.trouble(Need::Changes), None);
    writer.close().await;
    assert_eq!(log.intact().lost, 0);
}

/// What is wrong with it shows only when nobody waits any more.
#[tokio::test]
async fn one_that_is_found_wrong_too_late_is_trouble_until_it_is_mended() {
    let log = Log::new();
    fs::create_dir(log.path()).unwrap();
    let (place, state) = (AuditPlace::File(log.path()), log.temp.path().to_owned());
    let config = config::Audit { place: place.clone(), on_failure: OnFailure::Refuse };
    let opener = move || {
        std::thread::sleep(Duration::from_millis(200));
        writer::open(&place, &state)
    };
    let writer = start(&config, Duration::from_millis(20), opener).unwrap();
    let audit = writer.audit();
    while audit.trouble(Need::Changes).is_none_or(|(why, _)| !why.contains("is a directory")) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fs::remove_dir(log.path()).unwrap();
    while audit.write(Event::new(AuditEvent::Start)).await.is_err() {}
    writer.close().await;
    log.intact();
}

#[tokio::test]
async fn a_head_that_is_gone_is_told_unless_it_is_the_very_first_start() {
    for (present, expected) in [
        (None, None),
        (Some(("audit.jsonl.1", "old")), Some("audit.head was missing: numbering starts anew")),
        (Some(("audit.jsonl-20300101", "")), Some("audit.head was missing: numbering starts anew")),
        (Some(("other.jsonl.1", "old")), None),
        (Some((HEAD_NAME, "nonsense")), Some("audit.head was damaged: numbering starts anew")),
    ] {
        let log = Log::new();
        if let Some((name, text)) = present {
            fs::write(log.temp.path().join(name), text).unwrap();
        }
        for _ in 0..2 {
            let writer = log.open();
            writer.audit().write(Event::new(AuditEvent::Start)).await.unwrap();
            writer.close().await;
        }
        let found = log.intact();
        assert_eq!(found.lines, 2 + u64::from(expected.is_some()), "{present:?}");
        let text = fs::read_to_string(log.path()).unwrap();
        assert!(expected.is_none_or(|words| text.contains(words)), "{present:?}: {text}");
    }
}

/// The head says so, since the disk had no room for a line.
#[tokio::test]
async fn what_the_last_writer_could_not_tell_the_next_one_tells() {
    let log = Log::new();
    let writer = log.open();
    writer.audit().write(Event::new(AuditEvent::Start)).await.unwrap();
    writer.close().await;
    let head = log.temp.path().join(HEAD_NAME);
    let text = fs::read_to_string(&head).unwrap();
    fs::write(&head, format!("{} 7 2030-01-01T00:00:00Z no room\n", text.trim_end())).unwrap();
    for _ in 0..2 {
        let writer = log.open();
        writer.audit().write(Event::new(AuditEvent::Start)).await.unwrap();
        writer.close().await;
    }
    let found = log.intact();
    assert_eq!((found.lines, found.lost), (4, 7));
    let text = fs::read_to_string(log.path()).unwrap();
    assert!(text.contains("since 2030-01-01T00:00:00Z: no room"), "{text}");
}

#[tokio::test]
async fn a_file_of_others_or_with_two_names_is_refused() {
    let log = Log::new();
    let writer = log.open();
    writer.audit().write(Event::new(AuditEvent::Start)).await.unwrap();
    writer.close().await;
    let look = || look(&AuditPlace::File(log.path())).map_err(|error| error.to_string());
    look().unwrap();
    let other = log.temp.path().join("other");
    fs::hard_link(log.path(), &other).unwrap();
    assert!(look().unwrap_err().contains("hard link"));
    fs::remove_file(&other).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(log.path(), Some(12345), None).unwrap();
        assert!(look().unwrap_err().contains("belongs to uid 12345"));
    }
}
