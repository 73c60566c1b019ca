#![forbid(unsafe_code)]
//! A close look for `p11-kms check`: the token, its mechanisms, the KEKs' attributes. None of
//! it changes the token.

use cryptoki::context::Pkcs11;
use cryptoki::error::Error as CryptokiError;
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::{Limit, Slot, TokenInfo};
use cryptoki_sys as sys;

use super::errors;
use super::keys;
use super::known_answer;
use super::methods::{Methods, Route};
use super::wrap::Tools;
use crate::algorithm::Algorithm;
use crate::token::protocol::{
    Attributes, Failure, InspectedKey, Inspection, MechanismUse, Method, Most, Room, TokenFlags,
};

/// Looks at all of it. `before` is the token as it was before the login.
pub(super) fn inspect(
    tools: &Tools<'_>,
    session: &Session,
    pkcs11: &Pkcs11,
    (slot, before): (Slot, &TokenInfo),
    base: &str,
) -> Result<Inspection, Failure> {
    let lost = |error| errors::from_cryptoki(&error, "looking at the token", tools.profile);
    let module = pkcs11.get_library_info().map_err(lost)?;
    let now = pkcs11.get_token_info(slot).map_err(lost)?;
    let keys = keys(tools, session, base).map_err(lost)?;
    let try_known = |algorithm| known_answer::compare(tools, session, algorithm);
    Ok(Inspection {
        cryptoki_version: module.cryptoki_version().to_string(),
        hardware: now.hardware_version().to_string(),
        firmware: now.firmware_version().to_string(),
        flags: TokenFlags {
            write_protected: before.write_protected(),
            login_required: before.login_required(),
            error_state: before.error_state() || now.error_state(),
            pin_count_low: before.user_pin_count_low(),
            pin_to_be_changed: before.user_pin_to_be_changed(),
        },
        sessions: room(now.session_count(), now.max_session_count()),
        rw_sessions: room(now.rw_session_count(), now.max_rw_session_count()),
        free_private_memory: free(now.total_private_memory(), now.free_private_memory()),
        utc_time: now.utc_time().map(|time| time.as_iso8601_string()),
        mechanisms: mechanisms(tools, slot),
        kw: try_known(Algorithm::Kw)?,
        kwp: match tools.methods.kwp {
            Some(_) => Some(try_known(Algorithm::Kwp)?),
            None => None,
        },
        keys,
    })
}

fn room(used: Option<u64>, most: Limit) -> Room {
    let most = match most {
        Limit::Max(most) => Most::Of(most),
        Limit::Infinite => Most::Infinite,
        Limit::Unavailable => Most::Unknown,
    };
    Room { used, most }
}

/// A token that has no memory at all just does not tell.
fn free(total: Option<usize>, free: Option<usize>) -> Option<u64> {
    total.filter(|total| *total > 0).and(free).map(|bytes| bytes as u64)
}

fn mechanisms(tools: &Tools<'_>, slot: Slot) -> Vec<MechanismUse> {
    let Methods { kw, kwp } = *tools.methods;
    let used = [("RFC 3394", Some(kw)), ("RFC 5649", kwp)];
    let used = used.into_iter().filter_map(|(purpose, route)| Some((purpose, route?)));
    used.map(|(purpose, Route { method, mechanism })| {
        let needed = match method {
            Method::Object => [("CKF_WRAP", sys::CKF_WRAP), ("CKF_UNWRAP", sys::CKF_UNWRAP)],
            Method::Encrypt | Method::Ecb => {
                [("CKF_ENCRYPT", sys::CKF_ENCRYPT), ("CKF_DECRYPT", sys::CKF_DECRYPT)]
            }
        };
        let names = |lacks: u64| {
            let named = needed.iter().filter(move |(_, flag)| lacks & flag != 0);
            named.map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>()
        };
        let has = tools.module.mechanism_flags(slot.id(), mechanism).ok();
        MechanismUse {
            purpose: purpose.to_owned(),
            number: mechanism,
            needed: names(u64::MAX),
            missing: has.map(|flags| names(!flags)),
        }
    })
    .collect()
}

fn keys(
    tools: &Tools<'_>,
    session: &Session,
    base: &str,
) -> Result<Vec<InspectedKey>, CryptokiError> {
    let mut found = Vec::new();
    for handle in session.find_objects(&keys::wanted(tools.profile))? {
        let Some(key) = keys::read(tools, session, handle, base)? else { continue };
        let attributes = key.attributes;
        let (needed, surplus) = rights(tools.methods, &attributes, session, handle);
        found.push(InspectedKey {
            label: key.label,
            attributes,
            start_date: key.start_date,
            end_date: keys::date(session, handle, AttributeType::EndDate),
            needed,
            surplus,
            modifiable: flag(session, handle, AttributeType::Modifiable),
            copyable: flag(session, handle, AttributeType::Copyable),
        });
    }
    found.sort_by(|a, b| a.label.cmp(&b.label));
    Ok(found)
}

/// What the methods in use need of a KEK, and what it may do besides.
fn rights(
    methods: &Methods,
    attributes: &Attributes,
    session: &Session,
    handle: ObjectHandle,
) -> (Vec<String>, Vec<String>) {
    let (wraps, encrypts) = (methods.wrap(), methods.encrypt());
    let asked = |kind| flag(session, handle, kind);
    let rights = [
        ("CKA_WRAP", attributes.wrap, wraps),
        ("CKA_UNWRAP", attributes.unwrap, wraps),
        ("CKA_ENCRYPT", attributes.encrypt, encrypts),
        ("CKA_DECRYPT", attributes.decrypt, encrypts),
        ("CKA_SIGN", asked(AttributeType::Sign), false),
        ("CKA_VERIFY", asked(AttributeType::Verify), false),
        ("CKA_DERIVE", asked(AttributeType::Derive), false),
    ];
    let named = |wanted: &dyn Fn(Option<bool>, bool) -> bool| {
        let chosen = rights.iter().filter(|(_, has, needed)| wanted(*has, *needed));
        chosen.map(|(name, ..)| (*name).to_owned()).collect()
    };
    (named(&|_, needed| needed), named(&|has, needed| has == Some(true) && !needed))
}

/// An attribute that is yes or no. `None`: the token does not tell.
fn flag(session: &Session, handle: ObjectHandle, kind: AttributeType) -> Option<bool> {
    let values = session.get_attributes(handle, &[kind]).ok()?;
    values.into_iter().find_map(|value| match value {
        Attribute::Sign(is)
        | Attribute::Verify(is)
        | Attribute::Derive(is)
        | Attribute::Modifiable(is)
        | Attribute::Copyable(is) => Some(is),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_leaves_its_memory_0_does_not_tell_it() {
        assert_eq!(free(Some(0), Some(0)), None);
        assert_eq!(free(None, Some(100)), None);
        assert_eq!(free(Some(1000), None), None);
        assert_eq!(free(Some(1000), Some(0)), Some(0));
        assert_eq!(free(Some(1000), Some(100)), Some(100));
    }
}
