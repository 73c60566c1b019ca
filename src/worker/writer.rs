#![forbid(unsafe_code)]
//! What changes the token: a session for it, and what every new key has.

use cryptoki::context::Pkcs11;
use cryptoki::error::Error as CryptokiError;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use cryptoki::types::Date;
use data_encoding::HEXLOWER;

use super::errors;
use super::keys;
use super::wrap::Tools;
use crate::timestamp::Timestamp;
use crate::token::protocol::{Class, Failure, FoundKey};

/// Bytes of a `CKA_ID` that we give.
const ID_LEN: u32 = 16;

/// Bytes of a KEK: AES-256.
pub(super) const KEK_LEN: u64 = 32;

/// What a new key does without, try after try, until the token takes the rest of the template:
/// each one alone, then what tokens refuse together. So few that a slow token is not taken
/// for a hung one.
const LEFT_OUT: [&[AttributeType]; 9] = {
    use AttributeType::{Derive, Sign, StartDate, Verify};
    [
        &[],
        &[StartDate],
        &[Derive],
        &[Verify],
        &[Sign],
        &[Verify, Sign],
        &[StartDate, Derive],
        &[StartDate, Verify, Sign],
        &[StartDate, Derive, Verify, Sign],
    ]
};

/// A key that was just made, and the attributes that the token would not have, by their names.
pub(super) struct Made {
    pub(super) key: ObjectHandle,
    pub(super) left_out: Vec<String>,
}

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
        let made = self.make(&template, "making a KEK", |template| {
            self.session.generate_key(&Mechanism::AesKeyGen, template)
        })?;
        match self.read(&made, label) {
            Ok(Some(key)) => Ok(key),
            // Nobody can have taken it for a KEK.
            Ok(None) => Err(self.undo(made.key, |undone| {
                format!("the token made a key but gave it another label than {label}; {undone}")
            })),
            // The label is that of a KEK, and a daemon may have begun to use it: it stays.
            Err(failure) => Err(Failure::new(
                failure.class,
                format!(
                    "{}. It was made, and it is there: its CKA_ID is {}",
                    failure.message,
                    id_of(&template).map_or_else(String::new, |id| HEXLOWER.encode(id))
                ),
            )),
        }
    }

    /// Reads the key that was just made. `None`: it has another label.
    pub(super) fn read(&self, made: &Made, label: &str) -> Result<Option<FoundKey>, Failure> {
        let key = keys::read(&self.tools, &self.session, made.key, self.base)
            .map_err(|error| self.failure(&error, "reading the new KEK"))?;
        let key = key.filter(|key| key.label == label);
        Ok(key.map(|key| FoundKey { left_out: made.left_out.clone(), ..key }))
    }

    /// Destroys a key that was just made, and says in words whether that went well.
    pub(super) fn undo(&self, made: ObjectHandle, say: impl FnOnce(&str) -> String) -> Failure {
        // A token that destroys it is not lost, whatever was met before.
        match self.session.destroy_object(made) {
            Ok(()) => Failure::new(Class::Refused, say("it was destroyed again")),
            Err(error) => {
                let why = self.failure(&error, "destroying it");
                let undone = format!(
                    "and it could not be destroyed again ({why}): do that with another tool before \
                     anything else"
                );
                Failure::new(why.class, say(&undone))
            }
        }
    }

    /// What every KEK has, however it comes onto the token.
    pub(super) fn template(&self, label: &str) -> Result<Vec<Attribute>, Failure> {
        let id = self
            .session
            .generate_random_vec(ID_LEN)
            .map_err(|error| self.failure(&error, "making an id for a KEK"))?;
        let (wraps, encrypts) = (self.tools.methods.wrap(), self.tools.methods.encrypt());
        let mut template = vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Id(id),
        ];
        if wraps || self.tools.profile.deny_rights {
            template.extend([Attribute::Wrap(wraps), Attribute::Unwrap(wraps)]);
        }
        if encrypts || self.tools.profile.deny_rights {
            template.extend([Attribute::Encrypt(encrypts), Attribute::Decrypt(encrypts)]);
        }
        Ok(template)
    }

    /// Makes a key with no right that is not in its template, and with today's date; without
    /// what the token will not have. Of a try that failed nothing stays.
    pub(super) fn make(
        &self,
        template: &[Attribute],
        doing: &str,
        make: impl Fn(&[Attribute]) -> Result<ObjectHandle, CryptokiError>,
    ) -> Result<Made, Failure> {
        let wishes = self.wishes();
        let mut tried: Vec<Vec<Attribute>> = Vec::new();
        let mut refusal = None;
        for left_out in LEFT_OUT {
            let (without, with): (Vec<_>, Vec<_>) =
                wishes.iter().cloned().partition(|wish| left_out.contains(&wish.attribute_type()));
            if tried.contains(&with) {
                continue;
            }
            match make(&[template, &with].concat()) {
                Ok(key) => {
                    let left_out = without.iter().map(name).collect();
                    return Ok(Made { key, left_out });
                }
                Err(error) => {
                    let failure = self.failure(&error, doing);
                    self.clear(template, &failure)?;
                    refusal = Some(failure);
                    if !errors::is_about_template(&error) {
                        break;
                    }
                }
            }
            tried.push(with);
        }
        // There is a first try in any case.
        Err(refusal.unwrap_or_else(|| Failure::new(Class::Refused, doing)))
    }

    /// What a new key is to have beside its template, if the token lets it.
    fn wishes(&self) -> Vec<Attribute> {
        let profile = self.tools.profile;
        let mut wishes = Vec::new();
        if profile.deny_rights {
            // Some tokens give these rights to every key that does not say no.
            wishes.extend([
                Attribute::Sign(false),
                Attribute::Verify(false),
                Attribute::Derive(false),
            ]);
        }
        if profile.start_date {
            wishes.extend(today().map(Attribute::StartDate));
        }
        wishes
    }

    /// Destroys what a token has made of a template although it answered with that error.
    fn clear(&self, template: &[Attribute], error: &Failure) -> Result<(), Failure> {
        let Some(id) = id_of(template) else { return Ok(()) };
        let wanted = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Id(id.to_vec())];
        let unseen = |why: CryptokiError| {
            let why = self.failure(&why, "looking for it");
            let message = format!(
                "{}. Whether it made a key all the same could not be seen ({why})",
                error.message
            );
            Failure::new(error.class, message)
        };
        for key in self.session.find_objects(&wanted).map_err(unseen)? {
            // A token that does not search by the id shows other keys as well.
            let names = [AttributeType::Id, AttributeType::Label];
            match self.session.get_attributes(key, &names) {
                Ok(found)
                    if found.len() == names.len()
                        && found.iter().all(|name| template.contains(name)) => {}
                Err(why) if !errors::is_gone(&why) => return Err(unseen(why)),
                _ => continue,
            }
            if let Err(why) = self.session.destroy_object(key)
                && !errors::is_gone(&why)
            {
                let why = self.failure(&why, "destroying it");
                return Err(Failure::new(
                    why.class,
                    format!(
                        "{}. It made a key all the same, with the CKA_ID {}, which could not be \
                         destroyed again ({why}): do that with another tool before anything else",
                        error.message,
                        HEXLOWER.encode(id)
                    ),
                ));
            }
        }
        Ok(())
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

/// The `CKA_ID` in a template. It is random: no other key has it.
fn id_of(template: &[Attribute]) -> Option<&[u8]> {
    template.iter().find_map(|attribute| match attribute {
        Attribute::Id(id) => Some(id.as_slice()),
        _ => None,
    })
}

/// Of an attribute that a token may refuse.
fn name(attribute: &Attribute) -> String {
    match attribute {
        Attribute::Sign(_) => "CKA_SIGN",
        Attribute::Verify(_) => "CKA_VERIFY",
        Attribute::Derive(_) => "CKA_DERIVE",
        _ => "CKA_START_DATE",
    }
    .to_owned()
}

/// The day by UTC, as `CK_DATE` has it.
fn today() -> Option<Date> {
    let now = Timestamp::now().to_string();
    let (year, month, day) = (now.get(..4)?, now.get(5..7)?, now.get(8..10)?);
    Date::new_from_str_slice(year, month, day).ok()
}
