#![forbid(unsafe_code)]
//! What a worker tells of its token when it is looked at closely: for `p11-kms check`.

use serde::{Deserialize, Serialize};

use super::Attributes;

/// One close look at the module, the token, the mechanisms and the KEKs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// `CK_INFO`: the PKCS#11 version that the module speaks, such as `2.40`.
    pub cryptoki_version: String,
    /// `CK_TOKEN_INFO`: the version of the hardware.
    pub hardware: String,
    /// `CK_TOKEN_INFO`: the version of the firmware.
    pub firmware: String,
    /// The flags of the token as they were before the login, which may clear some.
    pub flags: TokenFlags,
    /// Sessions of this worker: PKCS#11 counts those of one process, though some tokens count
    /// those of all.
    pub sessions: Room,
    /// The same for read-write sessions.
    pub rw_sessions: Room,
    /// Bytes that are free for private objects; `None` if the token does not tell, or tells of no
    /// memory at all.
    pub free_private_memory: Option<u64>,
    /// What its clock showed, if it has one: `2030-12-31T23:59:59Z`.
    pub utc_time: Option<String>,
    /// The mechanism of each algorithm that is in use, and what it may be used for.
    pub mechanisms: Vec<MechanismUse>,
    /// What RFC 3394 came to under a key that is known.
    pub kw: Answer,
    /// The same for RFC 5649; `None` if this token cannot do it.
    pub kwp: Option<Answer>,
    /// The keys of the keyring's label.
    pub keys: Vec<InspectedKey>,
}

/// The flags of `CK_TOKEN_INFO` that matter here (PKCS#11 3.1 section 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenFlags {
    /// `CKF_WRITE_PROTECTED`
    pub write_protected: bool,
    /// `CKF_LOGIN_REQUIRED`
    pub login_required: bool,
    /// `CKF_ERROR_STATE`
    pub error_state: bool,
    /// `CKF_USER_PIN_COUNT_LOW`
    pub pin_count_low: bool,
    /// `CKF_USER_PIN_TO_BE_CHANGED`
    pub pin_to_be_changed: bool,
}

/// How many of something are in use, and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// In use; `None` for `CK_UNAVAILABLE_INFORMATION`.
    pub used: Option<u64>,
    /// How many there may be.
    pub most: Most,
}

/// A limit as `CK_TOKEN_INFO` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Most {
    /// So many.
    Of(u64),
    /// `CK_EFFECTIVELY_INFINITE`
    Infinite,
    /// `CK_UNAVAILABLE_INFORMATION`
    Unknown,
}

/// A mechanism, and what `C_GetMechanismInfo` says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MechanismUse {
    /// What it is for: `RFC 3394` or `RFC 5649`.
    pub purpose: String,
    /// Its number.
    pub number: u64,
    /// The flags that its method needs, by their names in PKCS#11.
    pub needed: Vec<String>,
    /// Those of them that it does not have; `None` if the token does not list the mechanism.
    pub missing: Option<Vec<String>>,
}

/// What came of work under a key that everybody knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The token and the host agree to the last byte.
    Same,
    /// Their bytes differ, and where.
    Other(String),
    /// The token takes no key that is known, and why.
    NoKey(String),
    /// A call failed, and how: nobody knows whether they would agree.
    Untried(String),
    /// The known key could not be destroyed, and what may be left of it.
    Left(String),
}

/// A key of the keyring's label, with all that is not asked of it every day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectedKey {
    /// Its `CKA_LABEL`.
    pub label: String,
    /// What is asked of it every day.
    pub attributes: Attributes,
    /// `CKA_START_DATE`, as `2030-12-31`.
    pub start_date: Option<String>,
    /// `CKA_END_DATE`, as `2030-12-31`.
    pub end_date: Option<String>,
    /// What the method in use needs of it, by attribute: `CKA_WRAP`.
    pub needed: Vec<String>,
    /// What it may do beyond that.
    pub surplus: Vec<String>,
    /// `CKA_MODIFIABLE`
    pub modifiable: Option<bool>,
    /// `CKA_COPYABLE`
    pub copyable: Option<bool>,
}
