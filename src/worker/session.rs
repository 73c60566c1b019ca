#![forbid(unsafe_code)]
//! A session thread: reads jobs from its socket, runs them one by one, answers
//! in their order.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::session::Session;
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki_sys as sys;
use serde::Serialize;
use zeroize::{Zeroize, Zeroizing};

use super::errors::{self, Verdict};
use super::ffi::{CallError, Module, Object};
use super::import;
use super::inspect;
use super::keys::{self, Handles};
use super::login_lock::LoginLock;
use super::methods::Methods;
use super::notes;
use super::relogin::{self, Relogin};
use super::wrap::{Buffer, ROOM, SLACK, Tools, WrapError, buffer};
use super::writer::Writer;
use crate::algorithm::Algorithm;
use crate::memory;
use crate::token::frame::{self, Inbox, JobRef, MAX_JOB, Operation};
use crate::token::protocol::{
    Class, Failure, Fingerprint, Found, FoundKey, Import, Inspection, Setup,
};

/// Answers that are written together when so many jobs lie ready. Each write wakes
/// the front, so few together cost CPU: with 4 a Decrypt on SoftHSM took 75 us, with
/// 16 it took 62 us. A job that comes alone is answered at once.
const GATHER: usize = 16;

/// An answer waits no longer than that for others: a slow token's callers must not
/// wait for each other, and the front must not take a slow worker for a hung one.
const LONGEST_GATHER: Duration = Duration::from_millis(5);

/// How long a change waits for its turn where logins and keys take turns.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a search waits for that. A job may wait behind it.
const PATIENCE_TO_LOOK: Duration = Duration::from_millis(500);

/// Length and outcome before each answer, in bytes.
const ANSWER_HEAD: usize = 5;

/// What all session threads of a worker share.
pub(super) struct Shared {
    pub(super) module: Module,
    pub(super) pkcs11: Pkcs11,
    pub(super) slot: Slot,
    pub(super) methods: Methods,
    pub(super) setup: Setup,
    pub(super) token_serial: String,
    /// As it was before the login.
    pub(super) token: TokenInfo,
    pub(super) handles: Handles,
    pub(super) login: Relogin,
}

/// One session and the thread that owns it.
pub(super) struct SessionThread {
    pub(super) shared: Arc<Shared>,
    pub(super) session: Session,
}

impl SessionThread {
    /// Serves jobs until the front closes its end.
    pub(super) fn run(mut self, mut socket: UnixStream) -> io::Result<()> {
        let mut inbox = Inbox::new(MAX_JOB);
        // Room for all that is gathered: growing would leave unwiped copies behind.
        let mut answers = Zeroizing::new(Vec::with_capacity(GATHER * (ANSWER_HEAD + ROOM)));
        let mut scratch = buffer();
        loop {
            let arrived = match socket.read(inbox.room()) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            inbox.filled(arrived);
            let mut gathered = 0;
            let mut since = Instant::now();
            while let Some(body) = inbox.next_frame().map_err(io::Error::other)? {
                let job = frame::decode_job(body).map_err(io::Error::other)?;
                if !job.operation.is_one_seed() {
                    // What is answered already does not wait for a search, which may take long.
                    send(&mut socket, &mut answers)?;
                    gathered = 0;
                }
                self.answer(&job, &mut scratch, &mut answers);
                wipe(&mut scratch, job.payload.len());
                gathered += 1;
                if gathered == GATHER || since.elapsed() > LONGEST_GATHER {
                    send(&mut socket, &mut answers)?;
                    gathered = 0;
                    since = Instant::now();
                }
            }
            send(&mut socket, &mut answers)?;
            inbox.wipe();
            memory::wipe_stack();
        }
    }

    fn answer(&mut self, job: &JobRef<'_>, out: &mut Buffer, answers: &mut Vec<u8>) {
        if job.deadline.has_passed() {
            return frame::encode_answer(answers, Err(&expired()));
        }
        let outcome = match job.operation {
            Operation::Wrap(algorithm) => self.transform(job, out, |tools, kek, out| {
                let blob = tools.wrap(algorithm, kek, job.payload, out)?;
                if tools.profile.verify_wraps {
                    tools.verify(algorithm, kek, job.payload, blob)?;
                }
                Ok(blob.len())
            }),
            Operation::Unwrap(algorithm) if !algorithm.can_unwrap(job.payload.len()) => {
                Err(Failure::new(Class::BadBlob, "no blob of this length comes from key wrap"))
            }
            Operation::Unwrap(algorithm) => self.transform(job, out, |tools, kek, out| {
                tools.unwrap(algorithm, kek, job.payload, out).map(<[u8]>::len)
            }),
            Operation::Find => return reply(answers, self.find()),
            Operation::Generate => {
                let made =
                    text(job.payload).and_then(|label| self.write(|writer| writer.generate(label)));
                return reply(answers, made);
            }
            Operation::WriteNote => {
                let written = self
                    .write(|writer| notes::write(writer, &self.shared.token_serial, job.payload));
                return reply(answers, written);
            }
            Operation::Destroy => return reply(answers, self.destroy(job)),
            Operation::Import => return reply(answers, self.import(job.payload)),
            Operation::Inspect => return reply(answers, self.inspect()),
        };
        let bytes = outcome.map(|len| out.get(..len).unwrap_or_default());
        frame::encode_answer(answers, bytes.as_ref().copied());
    }

    /// Runs a wrap or unwrap. Once more, inside its deadline, if the token has forgotten the
    /// handle, has dropped the session, or works after all.
    fn transform(
        &mut self,
        job: &JobRef<'_>,
        out: &mut Buffer,
        run: impl Fn(&Tools<'_>, Object, &mut Buffer) -> Result<usize, WrapError>,
    ) -> Result<usize, Failure> {
        let mut kek = self.locate(&job.kek)?;
        let error = match run(&self.tools(), kek, out) {
            Ok(len) => return Ok(len),
            Err(error) => error,
        };
        match self.judge(&error) {
            Verdict::StaleHandle => kek = self.find_again(&job.kek)?,
            Verdict::Plain(Class::SessionLost) => {
                self.reopen(is_session_gone(&error))?;
                kek = self.find_again(&job.kek)?;
            }
            // SoftHSM answers a damaged blob with CKR_GENERAL_ERROR, which on other tokens means
            // that the device is gone. A blob that is known to be good decides.
            Verdict::Ambiguous if keys::is_known_good(&self.tools(), kek, &job.kek) => {}
            Verdict::Ambiguous => return Err(conclude(Class::TokenLost, &error)),
            Verdict::BadBlob => return Err(conclude(at_fault(job), &error)),
            Verdict::Plain(class) => return Err(conclude(class, &error)),
        }
        if job.deadline.has_passed() {
            return Err(expired());
        }
        run(&self.tools(), kek, out).map_err(|error| {
            let class = match self.judge(&error) {
                Verdict::StaleHandle => Class::TokenLost,
                Verdict::Plain(class) => class,
                // The token has just shown that it works.
                Verdict::BadBlob | Verdict::Ambiguous => at_fault(job),
            };
            conclude(class, &error)
        })
    }

    fn find_again(&mut self, kek: &Fingerprint) -> Result<Object, Failure> {
        self.find()?;
        self.shared.handles.get(kek).ok_or_else(keys::unknown_kek)
    }

    /// `gone`: the old session no longer exists.
    fn reopen(&mut self, gone: bool) -> Result<(), Failure> {
        let Shared { setup, pkcs11, slot, handles, login, .. } = &*self.shared;
        let new = login.reopen(setup, pkcs11, *slot, handles)?;
        let old = std::mem::replace(&mut self.session, new);
        if gone {
            // Its number may be another's by now: closing it would close that one.
            std::mem::forget(old);
        }
        Ok(())
    }

    fn judge(&self, error: &WrapError) -> Verdict {
        match error {
            WrapError::Call(call) => errors::verdict(call.code, &self.shared.setup.profile),
            WrapError::Integrity => Verdict::BadBlob,
            WrapError::Length { .. } | WrapError::Wrong => Verdict::Ambiguous,
            WrapError::NoMethod(_) => Verdict::Plain(Class::Refused),
        }
    }

    fn locate(&mut self, kek: &Fingerprint) -> Result<Object, Failure> {
        if let Some(object) = self.shared.handles.get(kek) {
            return Ok(object);
        }
        // Another worker may have found it since we last looked.
        self.find_again(kek)
    }

    fn find(&mut self) -> Result<Found, Failure> {
        match self.search() {
            Err(failure) if failure.class == Class::SessionLost => {
                self.reopen(failure != relogin::login_lost())?;
                self.search()
            }
            found => found,
        }
    }

    fn search(&self) -> Result<Found, Failure> {
        let Shared { setup, handles, login, .. } = &*self.shared;
        // Who looks while another process makes an object may be shown none of it from then on.
        let _turn = LoginLock::share(&setup.module, setup.profile.login_lock, PATIENCE_TO_LOOK);
        login.searched(setup, &self.session, || {
            let keys = keys::find(&self.tools(), &self.session, &setup.label, handles)?;
            let notes = notes::find(&self.session, &setup.profile, &setup.label)?;
            let token_serial = self.shared.token_serial.clone();
            Ok(Found { token_serial, kw: self.shared.methods.kw.method, keys, notes })
        })
    }

    fn destroy(&self, job: &JobRef<'_>) -> Result<(), Failure> {
        let Shared { setup, handles, login, .. } = &*self.shared;
        let label = text(job.payload)?;
        self.write(|writer| {
            // Who is not logged in sees no KEK: that does not mean that it is gone.
            login.searched(setup, &writer.session, || {
                keys::destroy(writer, label, &job.kek, handles)
            })
        })
    }

    fn import(&self, payload: &[u8]) -> Result<FoundKey, Failure> {
        let (import, file) = Import::decode(payload)
            .ok_or_else(|| Failure::new(Class::Refused, "the import cannot be read"))?;
        let setup = &self.shared.setup;
        self.write(|writer| import::import(writer, &import, file, setup.require_fips))
    }

    fn inspect(&self) -> Result<Inspection, Failure> {
        let Shared { pkcs11, slot, token, setup, .. } = &*self.shared;
        inspect::inspect(&self.tools(), &self.session, pkcs11, (*slot, token), &setup.label)
    }

    /// Does what changes the token, in a session for that.
    fn write<T>(&self, work: impl FnOnce(&Writer<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let Shared { pkcs11, slot, setup, .. } = &*self.shared;
        let _turn = LoginLock::take(&setup.module, setup.profile.login_lock, PATIENCE);
        let is_well = || self.session.get_session_info().is_ok();
        work(&Writer::open(self.tools(), &setup.label, pkcs11, *slot, is_well)?)
    }

    fn tools(&self) -> Tools<'_> {
        Tools {
            module: &self.shared.module,
            session: self.session.handle(),
            methods: &self.shared.methods,
            profile: &self.shared.setup.profile,
        }
    }
}

fn is_session_gone(error: &WrapError) -> bool {
    matches!(
        error,
        WrapError::Call(CallError {
            code: sys::CKR_SESSION_HANDLE_INVALID | sys::CKR_SESSION_CLOSED,
            ..
        })
    )
}

/// A wrap has no blob that could be bad: then the token does not like the seed.
const fn at_fault(job: &JobRef<'_>) -> Class {
    match job.operation {
        Operation::Unwrap(_) => Class::BadBlob,
        _ => Class::Refused,
    }
}

fn conclude(class: Class, error: &WrapError) -> Failure {
    match class {
        Class::BadBlob => Failure::new(
            class,
            "the token's integrity check refused it: it was changed, cut, or made under another KEK",
        ),
        _ => Failure::new(class, error.to_string()),
    }
}

fn expired() -> Failure {
    Failure::new(Class::Expired, "the deadline passed before the token was free")
}

fn text(label: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(label).map_err(|_| Failure::new(Class::Refused, "the label is not UTF-8"))
}

fn reply<T: Serialize>(answers: &mut Vec<u8>, outcome: Result<T, Failure>) {
    let json = outcome.and_then(|value| {
        serde_json::to_vec(&value).map_err(|error| Failure::new(Class::Refused, error.to_string()))
    });
    frame::encode_answer(answers, json.as_deref());
}

/// Wipes what a job can have left, and not the kilobyte that one may leave.
fn wipe(scratch: &mut Buffer, payload: usize) {
    if let Some(used) = scratch.get_mut(..payload + SLACK) {
        used.zeroize();
    }
}

fn send(socket: &mut UnixStream, answers: &mut Vec<u8>) -> io::Result<()> {
    let sent = socket.write_all(answers);
    // What was used, not all of the room: that would cost more than the write.
    answers.as_mut_slice().zeroize();
    answers.clear();
    sent
}

impl std::fmt::Display for WrapError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(call) => f.write_str(&errors::describe(*call)),
            Self::Integrity => f.write_str("the integrity check failed"),
            Self::Wrong => f.write_str("what the token wrapped does not unwrap to the same"),
            Self::Length { function, wanted, got } => {
                write!(f, "{function} gave {got} bytes where {wanted} were due")
            }
            Self::NoMethod(Algorithm::Kw) => f.write_str("this token cannot do RFC 3394"),
            Self::NoMethod(Algorithm::Kwp) => f.write_str(
                "this token has no way to do RFC 5649, which lengths that are no multiple of 8 need",
            ),
        }
    }
}
