#![forbid(unsafe_code)]
//! What changes the token: a session for it, and what every new key has.

use cryptoki::context::Pkcs11;
use cryptoki::error::Error as CryptokiError;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use cryptoki::types::Date;

use super::errors;
use super::keys;
use super::wrap::Tools;
use crate::timestamp::Timestamp;
use crate::token::protocol::{Class, Failure, FoundKey};

/// Bytes of a `CKA_ID` that we give.
const ID_LEN: u32 = 16;

/// Bytes of a KEK: AES-256.
pub(super) const KEK_LEN: u64 = 32;

/// A read-write session: token objects come and go in no other.
pub(super) struct Writer<'a> {
    pub(super) session: Session,
    /// They use this session.
    pub(super) tools: Tools<'a>,
    /// The label of the keyring.
    pub(super) base: &'a str,
    pub(super) slot: Slot,
}

impl<'a> Writer<'a> {
    /// Opens the session. Where the token has none left, and the one that we have `is_well`,
    /// nothing is lost.
    pub(super) fn open(
        tools: Tools<'a>,
        base: &'a str,
        pkcs11: &Pkcs11,
        slot: Slot,
        is_well: impl FnOnce() -> bool,
    ) -> Result<Self, Failure> {
        let session = pkcs11.open_rw_session(slot).map_err(|error| {
            let doing = "opening a read-write session";
            let mut failure = errors::from_cryptoki(&error, doing, tools.profile);
            if failure.class.ends_worker() && is_well() {
                failure.class = Class::Refused;
            }
            failure
        })?;
        let tools = Tools { session: session.handle(), ..tools };
        Ok(Self { session, tools, base, slot })
    }

    /// Makes the KEK of that label: AES-256, made on the token, never to leave it.
    pub(super) fn generate(&self, label: &str) -> Result<FoundKey, Failure> {
        let mut template = self.template(label)?;
        template.push(Attribute::ValueLen(KEK_LEN.into()));
        let made = self
            .make(&template, |template| self.session.generate_key(&Mechanism::AesKeyGen, template))
            .map_err(|error| self.failure(&error, "making a KEK"))?;
        self.read(made, label)
    }

    /// Reads the key that was just made.
    pub(super) fn read(&self, made: ObjectHandle, label: &str) -> Result<FoundKey, Failure> {
        let key = keys::read(&self.tools, &self.session, made, self.base)
            .map_err(|error| self.failure(&error, "reading the new KEK"))?;
        key.filter(|key| key.label == label).ok_or_else(|| {
            Failure::new(
                Class::Refused,
                format!("the token made a key but gave it another label than {label}"),
            )
        })
    }

    /// What every KEK has, however it comes onto the token.
    pub(super) fn template(&self, label: &str) -> Result<Vec<Attribute>, Failure> {
        let id = self
            .session
            .generate_random_vec(ID_LEN)
            .map_err(|error| self.failure(&error, "making an id for a KEK"))?;
        let (wraps, encrypts) = (self.tools.methods.wrap(), self.tools.methods.encrypt());
        Ok(vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Wrap(wraps),
            Attribute::Unwrap(wraps),
            Attribute::Encrypt(encrypts),
            Attribute::Decrypt(encrypts),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Id(id),
        ])
    }

    /// Makes a key with no right that is not in its template, and with today's date; without
    /// what the token will not have.
    pub(super) fn make(
        &self,
        template: &[Attribute],
        make: impl Fn(&[Attribute]) -> Result<ObjectHandle, CryptokiError>,
    ) -> Result<ObjectHandle, CryptokiError> {
        // Some tokens give these rights to every key that does not say no.
        let no_more = [Attribute::Sign(false), Attribute::Verify(false), Attribute::Derive(false)];
        let date = if self.tools.profile.start_date { today() } else { None };
        let date = date.map(Attribute::StartDate);
        let date = date.as_slice();
        let all = [[&no_more, date].concat(), no_more.to_vec(), date.to_vec()];
        let wishes = if date.is_empty() { &all[1..2] } else { &all[..] };
        for wish in wishes {
            match make(&[template, wish].concat()) {
                Err(error) if errors::is_about_template(&error) => {}
                made => return made,
            }
        }
        make(template)
    }

    /// A failure to change the token. A code that can mean a lost token can also mean that it
    /// is full or will not do this: one that still knows our session is not lost.
    pub(super) fn failure(&self, error: &CryptokiError, doing: &str) -> Failure {
        let mut failure = errors::from_cryptoki(error, doing, self.tools.profile);
        if failure.class == Class::TokenLost && self.session.get_session_info().is_ok() {
            failure.class = Class::Refused;
        }
        failure
    }
}

/// The day by UTC, as `CK_DATE` has it.
fn today() -> Option<Date> {
    let now = Timestamp::now().to_string();
    let (year, month, day) = (now.get(..4)?, now.get(5..7)?, now.get(8..10)?);
    Date::new_from_str_slice(year, month, day).ok()
}
