//! One worker process, spoken to as the front speaks to it.

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use p11_kms::config::Config;
use p11_kms::token::frame::{Deadline, Inbox, MAX_ANSWER, Operation, decode_answer, encode_job};
use p11_kms::token::protocol::{
    Failure, Fingerprint, Found, FoundKey, Greeting, NewNote, Setup, WORKER_COMMAND, encode_control,
};
use serde::de::DeserializeOwned;

use super::PATIENCE;
use super::token::Token;

/// A worker with one session. Killed when dropped.
pub(crate) struct Worker {
    child: Child,
    _control: UnixStream,
    session: UnixStream,
    inbox: Inbox,
    token_serial: String,
}

impl Worker {
    /// Starts it and waits until it has logged in.
    pub(crate) fn start(token: &Token, set: &[(&str, &str)]) -> Self {
        let set: Vec<_> =
            set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let config = Config::load(&token.config(), std::iter::empty(), &set).unwrap();
        let setup = Setup {
            module: config.token.module,
            uri: config.token.uri,
            pin: config.token.pin,
            profile: config.token.profile,
            require_fips: config.token.require_fips,
            label: config.keyring.label,
            pin_stamp: None,
            login_in_doubt: false,
        };
        let (mut control, its_control) = UnixStream::pair().unwrap();
        let (session, its_session) = UnixStream::pair().unwrap();
        for socket in [&control, &session] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mut command = token.bare_command();
        command.arg(WORKER_COMMAND).stdin(Stdio::from(OwnedFd::from(its_control)));
        let child = command.spawn().unwrap();
        control.write_all(&encode_control(&setup).unwrap()).unwrap();
        sendmsg::<()>(
            control.as_raw_fd(),
            &[IoSlice::new(&[0])],
            &[ControlMessage::ScmRights(&[its_session.as_raw_fd()])],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .unwrap();
        drop((command, its_session));
        let mut len = [0; 4];
        control.read_exact(&mut len).unwrap();
        let mut greeting = vec![0; u32::from_le_bytes(len) as usize];
        control.read_exact(&mut greeting).unwrap();
        let token_serial = match serde_json::from_slice(&greeting).unwrap() {
            Greeting::Ready(report) => report.token_serial,
            Greeting::Failed(failure) => panic!("{failure}"),
        };
        Self { child, _control: control, session, inbox: Inbox::new(MAX_ANSWER), token_serial }
    }

    /// Sends a job and does not wait.
    pub(crate) fn send(&mut self, operation: Operation, kek: &Fingerprint, payload: &[u8]) {
        let frame = encode_job(operation, Deadline::after(PATIENCE), kek, payload);
        self.session.write_all(&frame).unwrap();
    }

    /// The next answer, which is JSON. None if the worker has died.
    pub(crate) fn answer<T: DeserializeOwned>(&mut self) -> Option<Result<T, Failure>> {
        Some(self.next()?.map(|json| serde_json::from_slice(&json).unwrap()))
    }

    /// The next answer, which is a blob or a seed.
    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        self.next().unwrap().unwrap()
    }

    fn next(&mut self) -> Option<Result<Vec<u8>, Failure>> {
        loop {
            if let Some(body) = self.inbox.next_frame().unwrap() {
                return Some(decode_answer(body).unwrap().map(<[u8]>::to_vec));
            }
            match self.session.read(self.inbox.room()) {
                Ok(0) => return None,
                Ok(len) => self.inbox.filled(len),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    pub(crate) fn find(&mut self) -> Found {
        self.send(Operation::Find, &Fingerprint::NONE, b"");
        self.answer().unwrap().unwrap()
    }

    /// The texts of the notes, in order.
    pub(crate) fn notes(&mut self) -> Vec<String> {
        let found = self.find().notes.unwrap();
        let mut notes: Vec<_> = found.into_iter().map(|note| note.0).collect();
        notes.sort();
        notes
    }

    pub(crate) fn generate(&mut self, label: &str) -> FoundKey {
        self.send(Operation::Generate, &Fingerprint::NONE, label.as_bytes());
        self.answer().unwrap().unwrap()
    }

    /// Writes a note that replaces those texts. None if the worker died.
    pub(crate) fn write(&mut self, text: &str, replaces: &[&str]) -> Option<Result<(), Failure>> {
        self.send_note(text, replaces);
        self.answer()
    }

    pub(crate) fn send_note(&mut self, text: &str, replaces: &[&str]) {
        let replaces = replaces.iter().map(|text| sha256(text)).collect();
        let token_serial = self.token_serial.clone();
        let note = NewNote { token_serial, text: text.to_owned(), replaces };
        let payload = serde_json::to_vec(&note).unwrap();
        self.send(Operation::WriteNote, &Fingerprint::NONE, &payload);
    }

    pub(crate) fn destroy(&mut self, kek: &Fingerprint, label: &str) -> Result<(), Failure> {
        self.send(Operation::Destroy, kek, label.as_bytes());
        self.answer().unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sha256(text: &str) -> String {
    use sha2::Digest;
    super::hex(&sha2::Sha256::digest(text.as_bytes()))
}
