#![forbid(unsafe_code)]
//! The KEKs of the keyring as they lie on the token: search, attributes,
//! fingerprints, and making a new one.

use std::sync::{Mutex, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::errors::{self, Verdict};
use super::ffi::Object;
use super::wrap::{Tools, WrapError, buffer};
use crate::algorithm::Algorithm;
use crate::config::Profile;
use crate::generation::Generation;
use crate::token::protocol::{Attributes, Class, Failure, Fingerprint, FoundKey, Method};

/// Bytes of a `CKA_ID` that we give.
const ID_LEN: u32 = 16;

/// Bytes of a KEK: AES-256.
const KEK_LEN: u64 = 32;

/// Where each KEK is, for all sessions of a worker: a handle of a token object
/// holds in every session of the process (PKCS#11 3.1 section 2.5).
#[derive(Debug, Default)]
pub(super) struct Handles(Mutex<Vec<(Fingerprint, Object)>>);

impl Handles {
    /// The handle of that KEK, if the last search found it.
    pub(super) fn get(&self, kek: &Fingerprint) -> Option<Object> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(fingerprint, _)| fingerprint == kek).map(|(_, object)| *object)
    }

    /// Forgets them all: after a login they may be others'.
    pub(super) fn forget(&self) {
        self.set(Vec::new());
    }

    fn set(&self, found: Vec<(Fingerprint, Object)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

/// Finds all keys of the keyring's label and remembers where they are.
///
/// Every fingerprint is made anew: a token may give a new key the handle, the
/// label and the id of one that was deleted, and a stale fingerprint would then
/// file data under a KEK that does not exist.
pub(super) fn find(
    tools: &Tools<'_>,
    session: &Session,
    label: &str,
    handles: &Handles,
) -> Result<Vec<FoundKey>, Failure> {
    let lost = |error| errors::from_cryptoki(&error, "searching for KEKs", tools.profile);
    let template = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(KeyType::AES)];
    let mut found: Vec<FoundKey> = Vec::new();
    let mut places: Vec<(Fingerprint, Object)> = Vec::new();
    for handle in session.find_objects(&template).map_err(lost)? {
        let Some(mut key) = read(tools, session, handle, label).map_err(lost)? else { continue };
        if let Ok(fingerprint) = key.fingerprint {
            // A KEK that is new to us is tried both ways before anything is written under it.
            let tried = handles.get(&fingerprint).is_some();
            match if tried { Ok(()) } else { unwraps(tools, handle.handle(), &fingerprint) } {
                Ok(()) => places.push((fingerprint, handle.handle())),
                Err(failure) => key.fingerprint = Err(failure),
            }
        }
        found.push(key);
    }
    handles.set(places.clone());
    // A code that can mean a lost token: is it that, or only this key's own trouble?
    let is_lost = |failure: &Failure| failure.class.wants_new_worker();
    let in_doubt =
        found.iter().find_map(|key| key.fingerprint.as_ref().err().filter(|it| is_lost(it)));
    if let Some(failure) = in_doubt.cloned() {
        let works =
            |(fingerprint, kek): &(Fingerprint, Object)| is_known_good(tools, *kek, fingerprint);
        if !places.first().is_some_and(works) {
            return Err(failure);
        }
        for key in &mut found {
            if let Err(failure) = &mut key.fingerprint {
                failure.class = Class::Refused;
            }
        }
    }
    Ok(found)
}

/// Makes the KEK of that label: AES-256, made on the token, never to leave it.
pub(super) fn generate(
    tools: &Tools<'_>,
    pkcs11: &Pkcs11,
    slot: Slot,
    base: &str,
    key_label: &str,
) -> Result<FoundKey, Failure> {
    let failed = |error| errors::from_cryptoki(&error, "making a KEK", tools.profile);
    // Token objects can only be made in a read-write session.
    let session = pkcs11.open_rw_session(slot).map_err(failed)?;
    let id = session.generate_random_vec(ID_LEN).map_err(failed)?;
    let needs = |method: Method| {
        tools.methods.kw.method == method
            || tools.methods.kwp.is_some_and(|route| route.method == method)
    };
    let wraps = needs(Method::Object);
    let encrypts = needs(Method::Encrypt) || needs(Method::Ecb);
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(KEK_LEN.into()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Wrap(wraps),
        Attribute::Unwrap(wraps),
        Attribute::Encrypt(encrypts),
        Attribute::Decrypt(encrypts),
        Attribute::Label(key_label.as_bytes().to_vec()),
        Attribute::Id(id),
    ];
    let handle = session.generate_key(&Mechanism::AesKeyGen, &template).map_err(failed)?;
    let tools = Tools { session: session.handle(), ..*tools };
    let key = read(&tools, &session, handle, base).map_err(failed)?;
    key.ok_or_else(|| {
        Failure::new(
            Class::Refused,
            format!("the token made a key but gave it another label than {key_label}"),
        )
    })
}

/// Reads one key. `None`: its label is not of the keyring, or it just went away.
fn read(
    tools: &Tools<'_>,
    session: &Session,
    handle: ObjectHandle,
    base: &str,
) -> Result<Option<FoundKey>, cryptoki::error::Error> {
    let mut label = None;
    let mut id = Vec::new();
    let wanted = [AttributeType::Label, AttributeType::Id];
    let known = match session.get_attributes(handle, &wanted) {
        Ok(known) => known,
        Err(error) if errors::is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    for attribute in known {
        match attribute {
            Attribute::Label(bytes) => label = String::from_utf8(bytes).ok(),
            Attribute::Id(bytes) => id = bytes,
            _ => {}
        }
    }
    let Some(label) = label else { return Ok(None) };
    let Some(generation) = Generation::of_label(&label, base) else {
        return Ok(None);
    };
    let attributes = attributes(session, handle);
    let fingerprint = if may_wrap(tools.methods.kw.method, &attributes) {
        fingerprint(tools, handle.handle())
    } else {
        Err(Failure::new(Class::Refused, "its attributes do not let it wrap"))
    };
    Ok(Some(FoundKey { label, generation, id, start_date: None, attributes, fingerprint }))
}

/// A key that says itself that it cannot is not tried: nobody knows what code a token
/// would answer with.
fn may_wrap(method: Method, attributes: &Attributes) -> bool {
    let right = match method {
        Method::Object => attributes.wrap,
        Method::Encrypt | Method::Ecb => attributes.encrypt,
    };
    right != Some(false)
}

/// Reads attribute by attribute: a token that does not know one may refuse the
/// whole list.
fn attributes(session: &Session, handle: ObjectHandle) -> Attributes {
    let mut known = Attributes::default();
    let wanted = [
        AttributeType::ValueLen,
        AttributeType::Token,
        AttributeType::Private,
        AttributeType::Sensitive,
        AttributeType::AlwaysSensitive,
        AttributeType::Extractable,
        AttributeType::NeverExtractable,
        AttributeType::Local,
        AttributeType::Wrap,
        AttributeType::Unwrap,
        AttributeType::Encrypt,
        AttributeType::Decrypt,
    ];
    for kind in wanted {
        let Ok(values) = session.get_attributes(handle, &[kind]) else {
            continue;
        };
        for value in values {
            match value {
                Attribute::ValueLen(len) => known.value_len = Some(u64::from(len)),
                Attribute::Token(is) => known.token = Some(is),
                Attribute::Private(is) => known.private = Some(is),
                Attribute::Sensitive(is) => known.sensitive = Some(is),
                Attribute::AlwaysSensitive(is) => known.always_sensitive = Some(is),
                Attribute::Extractable(is) => known.extractable = Some(is),
                Attribute::NeverExtractable(is) => known.never_extractable = Some(is),
                Attribute::Local(is) => known.local = Some(is),
                Attribute::Wrap(is) => known.wrap = Some(is),
                Attribute::Unwrap(is) => known.unwrap = Some(is),
                Attribute::Encrypt(is) => known.encrypt = Some(is),
                Attribute::Decrypt(is) => known.decrypt = Some(is),
                _ => {}
            }
        }
    }
    known
}

/// The token's own KW of the public constant.
pub(super) fn fingerprint(tools: &Tools<'_>, kek: Object) -> Result<Fingerprint, Failure> {
    let mut out = buffer();
    let wrapped = tools.wrap(Algorithm::Kw, kek, Fingerprint::CONSTANT, &mut out);
    match wrapped.map(<[u8; Fingerprint::LEN]>::try_from) {
        Ok(Ok(bytes)) => Ok(Fingerprint::new(bytes)),
        Ok(Err(_)) => Err(Failure::new(Class::Refused, "the token's key wrap has a wrong length")),
        Err(error) => Err(Failure::new(class_of(&error, tools.profile), error.to_string())),
    }
}

/// Does the fingerprint unwrap to what was wrapped? A KEK that wraps wrongly would otherwise
/// pass for another one, and whatever is written under that is lost.
fn unwraps(tools: &Tools<'_>, kek: Object, fingerprint: &Fingerprint) -> Result<(), Failure> {
    const WRONG: &str = "the token does not unwrap what it has just wrapped: do not trust it";
    let mut out = buffer();
    match tools.unwrap(Algorithm::Kw, kek, fingerprint.as_bytes(), &mut out) {
        Ok(constant) if constant == Fingerprint::CONSTANT => Ok(()),
        Ok(_) => Err(Failure::new(Class::Refused, WRONG)),
        Err(error) => {
            Err(Failure::new(class_of(&error, tools.profile), format!("{WRONG} ({error})")))
        }
    }
}

/// Wraps and unwraps the constant: does this KEK work, here and now?
pub(super) fn is_known_good(tools: &Tools<'_>, kek: Object, fingerprint: &Fingerprint) -> bool {
    unwraps(tools, kek, fingerprint).is_ok()
        && self::fingerprint(tools, kek).is_ok_and(|now| now == *fingerprint)
}

/// Is this key at fault, or the token? There is no second key to ask.
fn class_of(error: &WrapError, profile: &Profile) -> Class {
    match error {
        WrapError::Call(call) => match errors::verdict(call.code, profile) {
            Verdict::Plain(class) => class,
            Verdict::Ambiguous => Class::TokenLost,
            Verdict::BadBlob | Verdict::StaleHandle => Class::Refused,
        },
        _ => Class::Refused,
    }
}
