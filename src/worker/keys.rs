#![forbid(unsafe_code)]
//! The KEKs of the keyring as they lie on the token: search, attributes,
//! fingerprints, and destroying one.

use std::sync::{Mutex, PoisonError};

use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::errors::{self, Verdict};
use super::ffi::Object;
use super::wrap::{Tools, WrapError, buffer};
use super::writer::Writer;
use crate::algorithm::Algorithm;
use crate::config::{KekType, Profile};
use crate::generation::Generation;
use crate::token::protocol::{Attributes, Class, Failure, Fingerprint, FoundKey, Method};

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

    /// Forgets that one: it is about to go.
    fn forget_one(&self, kek: &Fingerprint) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(fingerprint, _)| fingerprint != kek);
    }

    fn set(&self, found: Vec<(Fingerprint, Object)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

/// What every KEK shows to a search, whatever its label.
pub(super) fn wanted(profile: &Profile) -> [Attribute; 2] {
    let key_type = match profile.key_type {
        KekType::Aes => KeyType::AES,
        KekType::GenericSecret => KeyType::GENERIC_SECRET,
    };
    [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(key_type)]
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
    let template = wanted(tools.profile);
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

/// Destroys every key of exactly that label that is that KEK.
pub(super) fn destroy(
    writer: &Writer<'_>,
    label: &str,
    kek: &Fingerprint,
    handles: &Handles,
) -> Result<(), Failure> {
    let clones = labelled(writer, label, kek)?;
    if clones.is_empty() {
        return Err(unknown_kek());
    }
    handles.forget_one(kek);
    for clone in clones {
        match writer.session.destroy_object(clone) {
            Ok(()) => {}
            Err(error) if errors::is_gone(&error) => {}
            Err(error) => return Err(writer.failure(&error, "destroying a KEK")),
        }
    }
    if labelled(writer, label, kek)?.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Class::Refused,
        "the token says that it destroyed the KEK, and still shows it. One of several nodes may \
         take a moment: look again with `p11-kms key list`",
    ))
}

/// Where the keys of exactly that label are that are that KEK.
fn labelled(
    writer: &Writer<'_>,
    label: &str,
    kek: &Fingerprint,
) -> Result<Vec<ObjectHandle>, Failure> {
    let Writer { session, tools, base, .. } = writer;
    let failed = |error| errors::from_cryptoki(&error, "searching for a KEK", tools.profile);
    let [class, key_type] = wanted(tools.profile);
    let template = [class, key_type, Attribute::Label(label.as_bytes().to_vec())];
    let mut found = Vec::new();
    for handle in session.find_objects(&template).map_err(failed)? {
        let Some(key) = read(tools, session, handle, base).map_err(failed)? else { continue };
        match key.fingerprint {
            Ok(fingerprint) if fingerprint == *kek && key.label == label => found.push(handle),
            Ok(_) => {}
            // It may be the one, and only a look at it could tell.
            Err(failure) if failure.class.wants_new_worker() => return Err(failure),
            Err(_) => {}
        }
    }
    Ok(found)
}

/// The answer for a KEK that no search shows.
pub(super) fn unknown_kek() -> Failure {
    Failure::new(Class::UnknownKek, "this KEK is not on the token")
}

/// Reads one key. `None`: its label is not of the keyring, or it just went away.
pub(super) fn read(
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
    let start_date = date(session, handle, AttributeType::StartDate);
    let left_out = Vec::new();
    Ok(Some(FoundKey { label, generation, id, start_date, attributes, fingerprint, left_out }))
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
                // After C_UnwrapKey some tokens say 0, which is no length of a key.
                Attribute::ValueLen(len) => {
                    known.value_len = Some(u64::from(len)).filter(|len| *len > 0);
                }
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

/// `CKA_START_DATE` or `CKA_END_DATE`. None where the token tells none, or no day that there is.
pub(super) fn date(session: &Session, handle: ObjectHandle, kind: AttributeType) -> Option<String> {
    let known = session.get_attributes(handle, &[kind]).ok()?;
    let date = known.iter().find_map(|attribute| match attribute {
        Attribute::StartDate(date) | Attribute::EndDate(date) => Some(*date),
        _ => None,
    })?;
    day(&date.year, &date.month, &date.day)
}

/// `2030-12-31`, if the digits are of some day.
fn day(year: &[u8], month: &[u8], day: &[u8]) -> Option<String> {
    let number = |digits: &[u8], range: std::ops::RangeInclusive<u32>| {
        let text = std::str::from_utf8(digits).ok().filter(|_| digits.is_ascii())?;
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number| is_number && range.contains(number))
    };
    let (year, month, day) =
        (number(year, 1..=9999)?, number(month, 1..=12)?, number(day, 1..=31)?);
    Some(format!("{year:04}-{month:02}-{day:02}"))
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
pub(super) fn unwraps(
    tools: &Tools<'_>,
    kek: Object,
    fingerprint: &Fingerprint,
) -> Result<(), Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_that_is_none_is_not_told() {
        assert_eq!(day(b"2030", b"12", b"31").as_deref(), Some("2030-12-31"));
        for (year, month, of_month) in [
            (b"\0\0\0\0", b"\0\0", b"\0\0"),
            (b"0000", b"00", b"00"),
            (b"    ", b"  ", b"  "),
            (b"2030", b"13", b"01"),
            (b"2030", b"12", b"32"),
            (b"+203", b"01", b"01"),
        ] {
            assert_eq!(day(year, month, of_month), None, "{year:?} {month:?} {of_month:?}");
        }
    }
}
