#![forbid(unsafe_code)]
//! What the front process and a worker process say to each other.
//!
//! Two kinds of socketpair join them:
//!
//! - one *control* socket (the worker's standard input). The front sends one
//!   [`Setup`] and the session sockets as passed descriptors; the worker sends
//!   one [`Greeting`]. After that it carries single bytes: from the front one
//!   for each start of another worker in this one's place, from the worker
//!   [`LOGIN_BEGINS`] and [`LOGIN_IS_OVER`] around each later login. Its end of
//!   file means that the other side is gone.
//! - one *session* socket for each session thread, with the frames of
//!   [`super::frame`]. Answers come in the order of the jobs.

mod inspection;

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::{PinSource, Profile, Stamp, TokenUri};
use crate::generation::Generation;

pub use self::inspection::{
    Answer, InspectedKey, Inspection, MechanismUse, Most, Room, TokenFlags,
};

/// The hidden command that makes this binary a worker.
pub const WORKER_COMMAND: &str = "token-worker";

/// Longest control message, in bytes. A setup or a report has a few kB.
pub const MAX_CONTROL: usize = 256 * 1024;

/// What a worker says on its control socket before it logs in again.
pub const LOGIN_BEGINS: u8 = 1;

/// What it says when it knows how that ended.
pub const LOGIN_IS_OVER: u8 = 0;

/// The bytes of a control message: its length as a little-endian u32, then JSON.
///
/// # Errors
/// It is longer than a length can say; none of ours is.
pub fn encode_control(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(message)?;
    let len = u32::try_from(json.len()).map_err(io::Error::other)?;
    Ok([len.to_le_bytes().as_slice(), &json].concat())
}

/// All that a worker must know. It holds the way to the PIN, never the PIN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The PKCS#11 module to load.
    pub module: PathBuf,
    /// Which token to use.
    pub uri: TokenUri,
    /// Where the PIN is read from, by the worker itself.
    pub pin: PinSource,
    /// How this family of tokens is to be treated.
    pub profile: Profile,
    /// Never let key wrap run on the host.
    pub require_fips: bool,
    /// The keyring's label: other keys on the token are left alone.
    pub label: String,
    /// What the PIN's file looked like when the worker was started. One that looks
    /// otherwise is left for the next worker.
    pub pin_stamp: Option<Stamp>,
    /// Whether the end of an earlier login was not seen: the token may have counted
    /// a wrong PIN.
    pub login_in_doubt: bool,
}

/// The worker's first control message, and the only one of more than a byte.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Greeting {
    /// Logged in; the session threads answer.
    Ready(Report),
    /// It could not start, and ends.
    Failed(Failure),
}

/// What a worker found out about its module and token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `CK_INFO`: description, manufacturer and version of the module.
    pub library: String,
    /// The token's label, without its padding.
    pub token_label: String,
    /// The token's serial number.
    pub token_serial: String,
    /// The token's model.
    pub token_model: String,
    /// The token's manufacturer.
    pub token_manufacturer: String,
    /// How RFC 3394 is done on this token.
    pub kw: Method,
    /// How RFC 5649 is done on this token; `None` if it cannot be.
    pub kwp: Option<Method>,
    /// Warnings of the start: PIN counters, flags that are odd.
    pub warnings: Vec<String>,
}

/// A way of wrapping that has been chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// `C_CreateObject` + `C_WrapKey` + `C_DestroyObject` and the way back.
    Object,
    /// `C_EncryptInit` + `C_Encrypt` with the key-wrap mechanism.
    Encrypt,
    /// Key wrap on the host, each AES block on the token.
    Ecb,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Object => "object",
            Self::Encrypt => "encrypt",
            Self::Ecb => "ecb",
        })
    }
}

/// Why a worker could not do something, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the front does about it.
    pub class: Class,
    /// For the operator: what is wrong and what to do. Never holds a secret.
    pub message: String,
}

impl Failure {
    /// A failure of that class.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }
}

/// Who or what is at fault. This alone decides what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The blob is damaged, foreign or of an impossible length. Nobody retries.
    BadBlob,
    /// No KEK with that fingerprint is on the token.
    UnknownKek,
    /// The deadline had passed before the job was begun. It was not run.
    Expired,
    /// The token works and says no (policy, attribute, mechanism).
    Refused,
    /// The session or the login is gone: another worker may do it.
    SessionLost,
    /// The device, the module or the slot is gone: another worker may do it.
    TokenLost,
    /// The module did not come back from a call in time: another worker may do it.
    Hung,
    /// The module cannot be loaded or initialised.
    Module,
    /// No token, or more than one, matches the URI.
    NoToken,
    /// The PIN cannot be read from where the config says.
    PinSource,
    /// The token said that the PIN is wrong. Never tried again as it is.
    PinWrong,
    /// A login now could lock the token, or it is locked already.
    PinAtRisk,
}

impl Class {
    /// May the same job succeed on a new worker?
    #[must_use]
    pub const fn wants_new_worker(self) -> bool {
        matches!(self, Self::SessionLost | Self::TokenLost | Self::Hung)
    }

    /// Is a worker that answers a job so of no more use?
    #[must_use]
    pub const fn ends_worker(self) -> bool {
        self.wants_new_worker() || self.latches()
    }

    /// Must no login be tried until the operator has changed something?
    #[must_use]
    pub const fn latches(self) -> bool {
        matches!(self, Self::PinWrong | Self::PinAtRisk)
    }
}

/// A KEK's fingerprint: the token's own KW of [`Fingerprint::CONSTANT`] under it.
///
/// It follows the key material, so clones of one KEK share it, and it is public:
/// it tells as much about the KEK as any wrapped seed does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; Self::LEN]);

impl Fingerprint {
    /// Its length in bytes: RFC 3394 of 32 bytes.
    pub const LEN: usize = 40;

    /// The fixed, public 32 bytes that are wrapped.
    pub const CONSTANT: &'static [u8; 32] = b"p11-kms KEK fingerprint constant";

    /// For jobs that need no KEK.
    pub const NONE: Self = Self([0; Self::LEN]);

    /// The fingerprint with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(")?;
        for byte in self.0.iter().take(4) {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("..)")
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        let len = bytes.len();
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| serde::de::Error::invalid_length(len, &"a fingerprint of 40 bytes"))
    }
}

/// What one search of the token shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The token that was searched. Others may be about to be used in its place.
    pub token_serial: String,
    /// How RFC 3394 is done on it.
    pub kw: Method,
    /// The keys of the keyring's label.
    pub keys: Vec<FoundKey>,
    /// What was noted beside them. Nothing on a token that stores no data objects; `None` if it
    /// should store them, and would not be searched.
    pub notes: Option<Vec<Note>>,
}

/// A text that a keyring keeps on the token as a data object (PKCS#11 3.1 section 4.5).
/// Nodes may write at the same time, so that there can be several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note(pub String);

/// A note to be written, and those that it makes needless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewNote {
    /// The token that it is for.
    pub token_serial: String,
    /// What it says.
    pub text: String,
    /// SHA-256 of their texts, in lower-case hex.
    pub replaces: Vec<String>,
}

/// How a KEK that was made elsewhere is brought onto the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Its `CKA_LABEL` to be.
    pub label: String,
    /// What the file is.
    pub form: ImportForm,
}

/// What a file with a KEK in it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImportForm {
    /// The key itself: 32 bytes, or 64 hex digits and at most one newline.
    Plain,
    /// Encrypted with RSA-OAEP (`CKM_RSA_PKCS_OAEP`).
    RsaOaep(UnwrappingKey),
    /// An AES key under RSA-OAEP, and the KEK under that (`CKM_RSA_AES_KEY_WRAP`).
    RsaAes(UnwrappingKey),
}

/// The RSA key pair that a file was wrapped for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwrappingKey {
    /// `CKA_LABEL` of the private key on the token.
    pub label: String,
    /// The hash of OAEP and of its MGF1.
    pub hash: OaepHash,
}

/// A hash for RSA-OAEP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OaepHash {
    /// SHA-1 and MGF1 with SHA-1.
    Sha1,
    /// SHA-256 and MGF1 with SHA-256.
    Sha256,
}

impl Import {
    /// The payload of a job: this as a control message, then the bytes of the file.
    ///
    /// # Errors
    /// This is longer than a length can say; none of ours is.
    pub fn encode(&self, file: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
        let head = encode_control(self)?;
        let mut payload = Zeroizing::new(Vec::with_capacity(head.len() + file.len()));
        payload.extend_from_slice(&head);
        payload.extend_from_slice(file);
        Ok(payload)
    }

    /// The way back. `None`: it is no such payload.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (len, rest) = payload.split_first_chunk()?;
        let (head, file) = rest.split_at_checked(u32::from_le_bytes(*len).try_into().ok()?)?;
        Some((serde_json::from_slice(head).ok()?, file))
    }
}

/// A key of the keyring's label, as it lies on the token, good or bad.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoundKey {
    /// Its `CKA_LABEL`.
    pub label: String,
    /// What the label says.
    pub generation: Generation,
    /// Its `CKA_ID`.
    pub id: Vec<u8>,
    /// `CKA_START_DATE`, the day it was made: `2030-12-31`.
    pub start_date: Option<String>,
    /// What may be done with it.
    pub attributes: Attributes,
    /// Its fingerprint, or why the token would not make one.
    pub fingerprint: Result<Fingerprint, Failure>,
    /// Of a key that was just made: the attributes that the token would not have in its
    /// template, such as `CKA_DERIVE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// The PKCS#11 attributes of a KEK that decide whether we trust it
/// (PKCS#11 3.1 section 4.10.2). `None`: the token does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attributes {
    /// `CKA_VALUE_LEN`, in bytes.
    pub value_len: Option<u64>,
    /// `CKA_TOKEN`
    pub token: Option<bool>,
    /// `CKA_PRIVATE`
    pub private: Option<bool>,
    /// `CKA_SENSITIVE`
    pub sensitive: Option<bool>,
    /// `CKA_ALWAYS_SENSITIVE`
    pub always_sensitive: Option<bool>,
    /// `CKA_EXTRACTABLE`
    pub extractable: Option<bool>,
    /// `CKA_NEVER_EXTRACTABLE`
    pub never_extractable: Option<bool>,
    /// `CKA_LOCAL`
    pub local: Option<bool>,
    /// `CKA_WRAP`
    pub wrap: Option<bool>,
    /// `CKA_UNWRAP`
    pub unwrap: Option<bool>,
    /// `CKA_ENCRYPT`
    pub encrypt: Option<bool>,
    /// `CKA_DECRYPT`
    pub decrypt: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_survives_json_and_a_short_one_is_refused() {
        let fingerprint = Fingerprint::new([7; 40]);
        let json = serde_json::to_string(&fingerprint).unwrap();
        assert_eq!(serde_json::from_str::<Fingerprint>(&json).unwrap(), fingerprint);
        assert!(serde_json::from_str::<Fingerprint>("[1,2,3]").is_err());
    }

    #[test]
    fn an_import_comes_back_with_its_file() {
        let key = UnwrappingKey { label: "u".into(), hash: OaepHash::Sha1 };
        let import = Import { label: "k8s-kek-0001".into(), form: ImportForm::RsaOaep(key) };
        for file in [&b"a file"[..], b""] {
            let payload = import.encode(file).unwrap();
            assert_eq!(Import::decode(&payload), Some((import.clone(), file)));
        }
        for broken in [&b""[..], b"\x01\0\0", b"\x05\0\0\0{}", b"\xff\xff\xff\xff{}"] {
            assert_eq!(Import::decode(broken), None);
        }
    }

    #[test]
    fn a_worker_ends_with_its_session_its_token_or_its_pin() {
        assert!(Class::PinWrong.ends_worker() && !Class::PinWrong.wants_new_worker());
        assert!(Class::TokenLost.ends_worker() && !Class::Refused.ends_worker());
    }

    #[test]
    fn only_lost_sessions_and_tokens_call_for_a_new_worker() {
        assert!(Class::TokenLost.wants_new_worker());
        assert!(Class::SessionLost.wants_new_worker());
        for class in [Class::BadBlob, Class::UnknownKek, Class::Refused, Class::PinWrong] {
            assert!(!class.wants_new_worker(), "{class:?}");
        }
    }
}
