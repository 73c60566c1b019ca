#![forbid(unsafe_code)]
//! What the audit log says of a command that changes the token: a line just before the change, so
//! that nothing is changed unseen, and one that tells how it went.

use std::cell::RefCell;
use std::io::{self, Write};

use nix::unistd::{getpid, getuid};

use crate::audit::{self, Audit, AuditEvent, Event, Need, Unwritten, Writer};
use crate::commands::{Exit, Failed};
use crate::config::Config;
use crate::generation::Generation;
use crate::keyring::{Epoch, KeyId};
use crate::token::protocol::FoundKey;

/// The trail of one command.
pub(super) struct Trail {
    writer: Writer,
    audit: Audit,
    seen: RefCell<Seen>,
}

/// What is known of the KEK so far.
struct Seen {
    event: Event,
    has_begun: bool,
    /// The token has done it, whatever comes after that.
    is_done: bool,
}

impl Trail {
    /// Of the command with that name; none of one that changes nothing.
    ///
    /// # Errors
    /// The log cannot be opened.
    pub(super) fn open(config: &Config, method: Option<&'static str>) -> Result<Self, Failed> {
        let log = config.audit.as_ref().filter(|_| method.is_some());
        let writer = audit::open(log, &config.keyring.state_dir)
            .map_err(|error| Failed::new(Exit::Usage, error))?;
        let event = Event {
            method,
            peer_uid: Some(getuid().as_raw()),
            peer_pid: Some(getpid().as_raw()),
            ..Event::new(AuditEvent::Key)
        };
        let seen = RefCell::new(Seen { event, has_begun: false, is_done: false });
        Ok(Self { audit: writer.audit(), writer, seen })
    }

    /// Which KEK it is about.
    pub(super) fn about(&self, generation: Generation, key_id: Option<&KeyId>) {
        let event = &mut self.seen.borrow_mut().event;
        event.generation = Some(generation.number());
        event.key_id = key_id.map(ToString::to_string);
    }

    /// The token is about to be changed.
    ///
    /// # Errors
    /// The log cannot be written, and the config wants that nothing is done then.
    pub(super) async fn begin(&self) -> Result<(), Failed> {
        let event = {
            let mut seen = self.seen.borrow_mut();
            seen.has_begun = true;
            Event { detail: Some("begun".to_owned()), ..seen.event.clone() }
        };
        self.audit.require(event, Need::Changes).await.map_err(|why| {
            let what = "nothing was changed, since the audit log cannot be written";
            Failed::new(Exit::Refused, format!("{what}: {why} (audit.on-failure)"))
        })
    }

    /// The token has changed.
    pub(super) fn done(&self) {
        self.seen.borrow_mut().is_done = true;
    }

    /// The KEK has come onto the token.
    pub(super) fn made(&self, made: &FoundKey) {
        self.done();
        if let Ok(fingerprint) = &made.fingerprint {
            let key_id = KeyId::new(made.generation, Epoch::FIRST, fingerprint);
            self.seen.borrow_mut().event.key_id = Some(key_id.to_string());
        }
    }

    /// The command is at its end.
    ///
    /// # Errors
    /// That of the command; or it went well, and its line could not be written.
    pub(super) async fn end(self, done: Result<(), Failed>) -> Result<(), Failed> {
        let Seen { event, has_begun, is_done } = self.seen.into_inner();
        let outcome = match &done {
            Ok(()) => "ok",
            // What failed is the printing, or whatever else came after it.
            Err(_) if is_done => "ok",
            Err(failed) if failed.exit == Exit::Refused => "refused",
            Err(_) => "failed",
        };
        let detail = done.as_ref().err().map(|failed| failed.message.clone());
        // A rotation that has to wait did nothing.
        let written = if has_begun || done.is_err() {
            let event = Event { outcome: Some(outcome), detail, ..event };
            let written = self.audit.write(event.clone()).await;
            if written == Err(Unwritten::Late) {
                // It may still come while the log is being closed.
                self.audit.tell(event);
            }
            written
        } else {
            Ok(())
        };
        let refuses = self.audit.refuses(Need::Changes);
        self.writer.close().await;
        let Err(why) = written else { return done };
        let message = format!("the audit log does not tell how it ended: {why}");
        if refuses && done.is_ok() {
            return Err(Failed::new(Exit::Unreachable, format!("it is done, but {message}")));
        }
        // Who cannot be told needs it least.
        let _ = writeln!(io::stderr(), "p11-kms: WARNING: {message}");
        done
    }
}
