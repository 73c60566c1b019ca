#![forbid(unsafe_code)]
//! The KMS v2 service: is the request well formed? tonic's types end here.

mod heard;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::{Code, Request, Response, Status};
use tracing::{info, warn};

pub use self::heard::Heard;
use crate::algorithm::Algorithm;
use crate::audit::{Audit, AuditEvent, Event, Need, Unwritten};
use crate::grpc_status;
use crate::health::Health;
use crate::keyring::{self, Keyring, Wrapped};
use crate::metrics::{self, Method};
use crate::proto::key_management_service_server::KeyManagementService;
use crate::proto::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use crate::secret::Seed;
use crate::server::peer::Peer;

/// The version of the interface. The client wants it never to change.
pub const VERSION: &str = "v2";

/// The one annotation: which algorithm made the blob. The client refuses names
/// that are no domain names of at least two labels.
pub const ALGORITHM_ANNOTATION: &str = "wrap.p11-kms.internal";

/// Response header of Status: for how many seconds the token has been answering.
pub const TOKEN_UPTIME: &str = "p11-kms-token-uptime";

/// Longest key_id on the wire, in bytes (KMS v2).
const MAX_KEY_ID: usize = 1024;

/// Longest UID that is logged, in bytes. Kubernetes sends 36.
const MAX_UID: usize = 64;

/// Does a call of this path carry a seed, there or back? All but Status do.
#[must_use]
pub fn carries_secrets(path: &str) -> bool {
    !path.ends_with("/Status")
}

/// Answers Status, Encrypt and Decrypt.
pub struct Service {
    keyring: Arc<Keyring>,
    health: Arc<Health>,
    request_timeout: Duration,
    audit: Audit,
}

impl Service {
    /// A service over that keyring. No request takes longer than `request_timeout`.
    #[must_use]
    pub const fn new(
        keyring: Arc<Keyring>,
        health: Arc<Health>,
        request_timeout: Duration,
        audit: Audit,
    ) -> Self {
        Self { keyring, health, request_timeout, audit }
    }

    async fn encrypt_seed(&self, plaintext: Vec<u8>, time: Duration) -> Result<Wrapped, Status> {
        let seed = Seed::new(plaintext);
        let len = seed.len();
        if len == 0 || len > Algorithm::MAX_PLAINTEXT {
            return Err(Status::invalid_argument(format!(
                "the plaintext has {len} bytes; from 1 to {} can be wrapped",
                Algorithm::MAX_PLAINTEXT
            )));
        }
        let wrapped = self.keyring.wrap(&seed, time).await;
        self.note(Algorithm::for_len(len), &wrapped);
        wrapped.map_err(|error| grpc_status::from_keyring(&error))
    }

    async fn decrypt_seed(
        &self,
        request: &DecryptRequest,
        time: Duration,
        call: &mut Call,
    ) -> Result<Seed, Status> {
        let algorithm = algorithm(&request.annotations)?;
        let len = request.ciphertext.len();
        if !algorithm.can_unwrap(len) {
            return Err(Status::invalid_argument(format!(
                "no ciphertext of {len} bytes comes from {}: it was cut, lengthened, or is not ours",
                algorithm.name()
            )));
        }
        if request.key_id.is_empty() || request.key_id.len() > MAX_KEY_ID {
            return Err(Status::invalid_argument(format!(
                "the key_id has {} bytes; from 1 to {MAX_KEY_ID} are possible",
                request.key_id.len()
            )));
        }
        let told = |error: keyring::Error| grpc_status::from_keyring(&error);
        let started = Instant::now();
        let kek = self.keyring.find(&request.key_id, time).await.map_err(told)?;
        call.generation = Some(kek.generation.number());
        let left = time.saturating_sub(started.elapsed());
        let seed = self.keyring.unwrap(&kek, &request.key_id, algorithm, &request.ciphertext, left);
        let seed = seed.await;
        self.note(algorithm, &seed);
        seed.map_err(told)
    }

    /// kube-apiserver lives by KW alone. A token that cannot do KWP is still well.
    fn note<T>(&self, algorithm: Algorithm, outcome: &Result<T, keyring::Error>) {
        if algorithm == Algorithm::Kw {
            self.health.note(outcome);
        }
    }

    fn time_for<T>(&self, request: &Request<T>) -> Duration {
        let asked = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok());
        let asked = asked.and_then(parse_timeout).unwrap_or(Duration::MAX);
        asked.min(self.request_timeout)
    }
}

#[tonic::async_trait]
impl KeyManagementService for Service {
    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let mut call = Call::begin(Method::Status, &request, ("", ""), &Audit::off());
        let snapshot = self.health.snapshot();
        call.about(&snapshot.key_id);
        call.end(Ok(()));
        let mut response = Response::new(StatusResponse {
            version: VERSION.to_owned(),
            healthz: snapshot.healthz,
            key_id: snapshot.key_id,
        });
        // For `p11-kms status`; kube-apiserver does not look at it.
        if let Some(uptime) = self.health.token_uptime() {
            response.metadata_mut().insert(TOKEN_UPTIME, uptime.as_secs().into());
        }
        Ok(response)
    }

    async fn encrypt(
        &self,
        request: Request<EncryptRequest>,
    ) -> Result<Response<EncryptResponse>, Status> {
        let of = (request.get_ref().uid.as_str(), "");
        let mut call = Call::begin(Method::Encrypt, &request, of, &self.audit);
        let time = self.time_for(&request);
        match self.encrypt_seed(request.into_inner().plaintext, time).await {
            Ok(Wrapped { blob, algorithm, active }) => {
                call.generation = Some(active.kek.generation.number());
                call.about(active.key_id.as_str());
                call.end_if_audited(Need::Changes).await?;
                let name = algorithm.name().as_bytes().to_vec();
                Ok(Response::new(EncryptResponse {
                    ciphertext: blob,
                    key_id: active.key_id.as_str().to_owned(),
                    annotations: BTreeMap::from([(ALGORITHM_ANNOTATION.to_owned(), name)]),
                }))
            }
            Err(status) => {
                call.end(Err(&status));
                Err(status)
            }
        }
    }

    async fn decrypt(
        &self,
        request: Request<DecryptRequest>,
    ) -> Result<Response<DecryptResponse>, Status> {
        let of = (request.get_ref().uid.as_str(), request.get_ref().key_id.as_str());
        let mut call = Call::begin(Method::Decrypt, &request, of, &self.audit);
        let time = self.time_for(&request);
        let request = request.into_inner();
        match self.decrypt_seed(&request, time, &mut call).await {
            Ok(seed) => {
                call.end_if_audited(Need::Reads).await?;
                Ok(Response::new(DecryptResponse { plaintext: seed.into_exposed() }))
            }
            Err(status) => {
                call.end(Err(&status));
                Err(status)
            }
        }
    }
}

/// Which algorithm? Anything that we do not write ourselves is refused before
/// the token is touched.
fn algorithm(annotations: &BTreeMap<String, Vec<u8>>) -> Result<Algorithm, Status> {
    let foreign = |what: &str| {
        Err(Status::invalid_argument(format!(
            "{what}: this was not encrypted by p11-kms, or it was changed. Its only annotation is \
             {ALGORITHM_ANNOTATION} = aes-kw or aes-kwp"
        )))
    };
    let Some(name) = annotations.get(ALGORITHM_ANNOTATION) else {
        return foreign("the annotation is missing");
    };
    if annotations.len() > 1 {
        return foreign("there is an annotation that is not ours");
    }
    match Algorithm::from_name(name) {
        Some(algorithm) => Ok(algorithm),
        None => foreign("the annotation has a value that is not ours"),
    }
}

/// Reads a `grpc-timeout`: up to 8 digits and a unit (gRPC over HTTP/2, "Requests").
fn parse_timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// One request on its way, for the log, the metrics and the audit log.
struct Call {
    method: Method,
    uid: String,
    /// What a Decrypt asks for, and what is answered with otherwise.
    key_id: String,
    peer: Option<Peer>,
    began: Instant,
    generation: Option<u32>,
    audit: Audit,
    ended: bool,
}

impl Call {
    /// `of`: its uid, and the key_id that it asks for.
    fn begin<T>(method: Method, request: &Request<T>, of: (&str, &str), audit: &Audit) -> Self {
        let (uid, key_id) = (short(of.0), short(of.1));
        let peer = request.extensions().get::<Peer>().copied();
        if let Some(read) = request.extensions().get::<heard::Read>() {
            read.set();
        }
        metrics::request_begun(method);
        let (began, audit) = (Instant::now(), audit.clone());
        Self { method, uid, key_id, peer, began, generation: None, audit, ended: false }
    }

    /// Which KEK it has come to.
    fn about(&mut self, key_id: &str) {
        self.key_id = short(key_id);
    }

    /// Writes the request's lines. Never a seed, a ciphertext or a body.
    fn end(mut self, outcome: Result<(), &Status>) {
        self.ended = true;
        self.log(outcome);
        self.tell(outcome);
    }

    /// The same for a request that went well, if it may be answered: perhaps not without its line
    /// in the audit log.
    async fn end_if_audited(mut self, need: Need) -> Result<(), Status> {
        let audited = match self.event(Ok(())) {
            Some(event) => self.audit.require(event, need).await,
            None => Ok(()),
        };
        self.ended = true;
        let Err(why) = audited else {
            self.log(Ok(()));
            return Ok(());
        };
        let status = Status::unavailable(self.audit.refusal(&why));
        self.log(Err(&status));
        // One that comes late says that it went well, and nothing was given out.
        if why == Unwritten::Late {
            self.tell(Err(&status));
        }
        Err(status)
    }

    fn tell(&self, outcome: Result<(), &Status>) {
        if let Some(event) = self.event(outcome) {
            self.audit.tell(event);
        }
    }

    /// The request's line in the audit log, if there is one.
    fn event(&self, outcome: Result<(), &Status>) -> Option<Event> {
        let encrypts = self.method == Method::Encrypt;
        let kind = if encrypts { AuditEvent::Encrypt } else { AuditEvent::Decrypt };
        self.audit.is_on().then(|| Event {
            uid: Some(self.uid.clone()),
            method: Some(self.method.name()),
            key_id: Some(self.key_id.clone()),
            generation: self.generation,
            peer_uid: self.peer.map(|peer| peer.uid),
            peer_pid: self.peer.map(|peer| peer.pid),
            duration_us: Some(micros(self.began.elapsed())),
            outcome: Some(code(outcome.map_or_else(Status::code, |()| Code::Ok)).name()),
            detail: outcome.err().map(|status| status.message().to_owned()),
            ..Event::new(kind)
        })
    }

    fn log(&self, outcome: Result<(), &Status>) {
        let Self { method, uid, key_id, peer, began, .. } = self;
        let took = began.elapsed();
        let code = code(outcome.map_or_else(Status::code, |()| Code::Ok));
        metrics::request(*method, code, took);
        let method = method.name();
        let micros = micros(took);
        let (peer_uid, peer_pid) =
            peer.map_or((None, None), |peer| (Some(peer.uid), Some(peer.pid)));
        match outcome {
            Ok(()) => info!(
                target: "p11_kms::request",
                method, uid, key_id, peer_uid, peer_pid, micros, code = code.name(),
            ),
            Err(status) => warn!(
                target: "p11_kms::request",
                method, uid, key_id, peer_uid, peer_pid, micros,
                code = code.name(), error = status.message(),
            ),
        }
    }
}

impl Drop for Call {
    /// The caller has gone before the end. The token may have done it all the same.
    fn drop(&mut self) {
        if !self.ended {
            let gone = Status::cancelled("the caller did not wait for the answer");
            self.log(Err(&gone));
            self.tell(Err(&gone));
        }
    }
}

/// A caller's text: kept short, and the formats escape what could break a line.
fn short(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_UID)].to_owned()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The code as the log and the metrics have it.
const fn code(code: Code) -> metrics::Code {
    match code {
        Code::Ok => metrics::Code::Ok,
        Code::Cancelled => metrics::Code::Canceled,
        Code::InvalidArgument => metrics::Code::InvalidArgument,
        Code::DeadlineExceeded => metrics::Code::DeadlineExceeded,
        Code::NotFound => metrics::Code::NotFound,
        Code::PermissionDenied => metrics::Code::PermissionDenied,
        Code::OutOfRange => metrics::Code::OutOfRange,
        Code::Internal => metrics::Code::Internal,
        Code::ResourceExhausted => metrics::Code::ResourceExhausted,
        Code::FailedPrecondition => metrics::Code::FailedPrecondition,
        Code::Unavailable => metrics::Code::Unavailable,
        _ => metrics::Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn annotations(entries: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect()
    }

    #[test]
    fn our_own_annotation_is_read() {
        let ours = annotations(&[(ALGORITHM_ANNOTATION, b"aes-kw")]);
        assert_eq!(algorithm(&ours).unwrap(), Algorithm::Kw);
        let ours = annotations(&[(ALGORITHM_ANNOTATION, b"aes-kwp")]);
        assert_eq!(algorithm(&ours).unwrap(), Algorithm::Kwp);
    }

    #[test]
    fn every_other_annotation_is_refused() {
        for foreign in [
            annotations(&[]),
            annotations(&[(ALGORITHM_ANNOTATION, b"aes-gcm")]),
            annotations(&[("version.example.com", b"1")]),
            annotations(&[(ALGORITHM_ANNOTATION, b"aes-kw"), ("version.example.com", b"1")]),
        ] {
            let status = algorithm(&foreign).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(ALGORITHM_ANNOTATION), "{}", status.message());
        }
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(parse_timeout("2999992u"), Some(Duration::from_micros(2_999_992)));
        for bad in ["", "S", "3", "3s", "-3S", "123456789S", "3 S", "S3"] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_timeout_panics(text: String) {
            let _ = parse_timeout(&text);
        }
    }
}
