//! Which token: the part of a PKCS#11 URI (RFC 7512) that names one.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Everything but the unreserved characters of RFC 3986 is written as %XX.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Names one token by what it says of itself in `CK_TOKEN_INFO`, and by its
/// slot. Every attribute that is set must fit.
///
/// A slot number alone is a poor name: most modules number slots anew when a
/// device is added.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TokenUri {
    /// `CK_TOKEN_INFO.label`.
    pub token: Option<String>,
    /// `CK_TOKEN_INFO.serialNumber`.
    pub serial: Option<String>,
    /// `CK_TOKEN_INFO.manufacturerID`.
    pub manufacturer: Option<String>,
    /// `CK_TOKEN_INFO.model`.
    pub model: Option<String>,
    /// The slot's number, a `CK_SLOT_ID`.
    pub slot_id: Option<u64>,
}

/// Why a text is not a [`TokenUri`]. It names attributes and never their values:
/// one of them may be a PIN.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum UriError {
    /// Another scheme, or none.
    #[error("must begin with \"pkcs11:\", such as \"pkcs11:token=k8s\" (RFC 7512)")]
    Scheme,
    /// Nothing that tells tokens apart.
    #[error("names no token: write at least one of token, serial, manufacturer, model, slot-id")]
    Empty,
    /// An attribute without `=`.
    #[error("attribute {0:?} has no value: write name=value, with \";\" between attributes")]
    NoValue(String),
    /// An attribute with nothing after `=`.
    #[error("attribute \"{0}\" is empty: leave it out or give it a value")]
    EmptyValue(&'static str),
    /// An attribute that is there twice.
    #[error("attribute \"{0}\" is there twice: keep one")]
    Twice(&'static str),
    /// A PIN, or where to find one.
    #[error(
        "must not hold \"{0}\": a URI shows up in logs and process lists; put the PIN into a file \
         and set token.pin-file, or use token.pin-credential"
    )]
    Pin(&'static str),
    /// Which module to load.
    #[error("must not hold \"{0}\": set token.module to the module's path instead")]
    Module(&'static str),
    /// An attribute about a key rather than a token.
    #[error("must not hold \"{0}\": it names an object; KEKs are found by keyring.label")]
    Object(&'static str),
    /// An attribute that we do not know.
    #[error("attribute {0:?} is not supported: use token, serial, manufacturer, model, slot-id")]
    Unknown(String),
    /// A `%` without two hexadecimal digits.
    #[error("the value of \"{0}\" has a % without two hexadecimal digits: write % itself as %25")]
    Escape(&'static str),
    /// A character that must be escaped.
    #[error("the value of \"{0}\" has a character that must be written as {1}")]
    Character(&'static str, String),
    /// The bytes are not text.
    #[error("the value of \"{0}\" is not UTF-8 once its %XX are read")]
    Utf8(&'static str),
    /// Longer than the field that it is compared with.
    #[error("the value of \"{0}\" has {1} bytes, and a token has room for {2} (CK_TOKEN_INFO)")]
    Length(&'static str, usize, usize),
    /// A slot that is not a number.
    #[error("the value of \"slot-id\" must be a decimal number")]
    Slot,
}

impl TokenUri {
    /// Whether a token fits. The texts are the fields of its `CK_TOKEN_INFO`;
    /// the blanks that fill them up (PKCS#11 v3.1, section 3.2), and the NULs
    /// that some modules use instead, do not count.
    #[must_use]
    pub fn matches(
        &self,
        label: &str,
        serial: &str,
        manufacturer: &str,
        model: &str,
        slot_id: u64,
    ) -> bool {
        let fits = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| unpadded(wanted) == unpadded(found))
        };
        fits(&self.token, label)
            && fits(&self.serial, serial)
            && fits(&self.manufacturer, manufacturer)
            && fits(&self.model, model)
            && self.slot_id.is_none_or(|wanted| wanted == slot_id)
    }
}

fn unpadded(text: &str) -> &str {
    text.trim_end_matches([' ', '\0'])
}

impl FromStr for TokenUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        // A scheme has no case (RFC 3986, section 3.1).
        let (scheme, rest) = text.split_once(':').ok_or(UriError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("pkcs11") {
            return Err(UriError::Scheme);
        }
        let (path, query) = rest.split_once('?').map_or((rest, None), |(p, q)| (p, Some(q)));
        let attributes = || {
            let query = query.into_iter().flat_map(|query| query.split('&'));
            path.split(';').chain(query).filter(|attribute| !attribute.is_empty())
        };
        // First of all, so that no other error can be about a PIN.
        attributes().try_for_each(|attribute| refuse_foreign(name_of(attribute)))?;
        let mut queries = query.into_iter().flat_map(|query| query.split('&'));
        if let Some(other) = queries.find(|attribute| !attribute.is_empty()) {
            return Err(UriError::Unknown(shown(name_of(other))));
        }
        let mut uri = Self::default();
        for attribute in attributes() {
            uri.add(attribute)?;
        }
        if uri == Self::default() { Err(UriError::Empty) } else { Ok(uri) }
    }
}

impl TokenUri {
    fn add(&mut self, attribute: &str) -> Result<(), UriError> {
        let name = name_of(attribute);
        let value = attribute.split_once('=').map(|(_, value)| value);
        let (name, field, room) = match name {
            "token" => ("token", &mut self.token, 32),
            "serial" => ("serial", &mut self.serial, 16),
            "manufacturer" => ("manufacturer", &mut self.manufacturer, 32),
            "model" => ("model", &mut self.model, 16),
            "slot-id" => return self.add_slot(value),
            other => return Err(UriError::Unknown(shown(other))),
        };
        if field.is_some() {
            return Err(UriError::Twice(name));
        }
        let value = value.ok_or_else(|| UriError::NoValue(name.into()))?;
        let value = decoded(name, value)?;
        match unpadded(&value).len() {
            0 => return Err(UriError::EmptyValue(name)),
            length if length > room => return Err(UriError::Length(name, length, room)),
            _ => {}
        }
        *field = Some(value);
        Ok(())
    }

    fn add_slot(&mut self, value: Option<&str>) -> Result<(), UriError> {
        if self.slot_id.is_some() {
            return Err(UriError::Twice("slot-id"));
        }
        let value = value.ok_or_else(|| UriError::NoValue("slot-id".into()))?;
        // Only digits: parse() would take a plus sign too (RFC 7512, section 2.3).
        if !value.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(UriError::Slot);
        }
        self.slot_id = Some(value.parse().map_err(|_| UriError::Slot)?);
        Ok(())
    }
}

fn name_of(attribute: &str) -> &str {
    attribute.split_once('=').map_or(attribute, |(name, _)| name)
}

/// An attribute's name for an error, short enough for a line.
fn shown(name: &str) -> String {
    name.chars().take(40).collect()
}

/// Refuses attributes that RFC 7512 knows and that have another place here.
fn refuse_foreign(name: &str) -> Result<(), UriError> {
    match name {
        "pin-value" => Err(UriError::Pin("pin-value")),
        "pin-source" => Err(UriError::Pin("pin-source")),
        "module-path" => Err(UriError::Module("module-path")),
        "module-name" => Err(UriError::Module("module-name")),
        "object" => Err(UriError::Object("object")),
        "type" => Err(UriError::Object("type")),
        "id" => Err(UriError::Object("id")),
        _ => Ok(()),
    }
}

/// Reads %XX, and refuses what RFC 7512 wants written so.
fn decoded(name: &'static str, value: &str) -> Result<String, UriError> {
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        match c {
            '%' => {
                let hex = |c: Option<char>| c.is_some_and(|c| c.is_ascii_hexdigit());
                if !(hex(rest.next()) && hex(rest.next())) {
                    return Err(UriError::Escape(name));
                }
            }
            // pk11-pchar in RFC 7512, section 2.3.
            'a'..='z' | 'A'..='Z' | '0'..='9' => {}
            _ if "-._~:[]@!$'()*+,=&".contains(c) => {}
            c => {
                let escaped = utf8_percent_encode(c.encode_utf8(&mut [0; 4]), ENCODED).to_string();
                return Err(UriError::Character(name, escaped));
            }
        }
    }
    let text = percent_decode_str(value).decode_utf8().map_err(|_| UriError::Utf8(name))?;
    Ok(text.into_owned())
}

impl fmt::Display for TokenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = [
            ("token", &self.token),
            ("serial", &self.serial),
            ("manufacturer", &self.manufacturer),
            ("model", &self.model),
        ];
        f.write_str("pkcs11:")?;
        let mut separator = "";
        for (name, value) in texts {
            if let Some(value) = value {
                write!(f, "{separator}{name}={}", utf8_percent_encode(value, ENCODED))?;
                separator = ";";
            }
        }
        match self.slot_id {
            Some(slot_id) => write!(f, "{separator}slot-id={slot_id}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> TokenUri {
        text.parse().unwrap()
    }

    fn error(text: &str) -> String {
        text.parse::<TokenUri>().unwrap_err().to_string()
    }

    #[test]
    fn attributes_are_read() {
        let uri = read(
            "pkcs11:token=My%20token%3B;serial=0123;manufacturer=Snake%20Oil;model=a=b;slot-id=7",
        );
        assert_eq!(uri.token.as_deref(), Some("My token;"));
        assert_eq!(uri.serial.as_deref(), Some("0123"));
        assert_eq!(uri.manufacturer.as_deref(), Some("Snake Oil"));
        assert_eq!(uri.model.as_deref(), Some("a=b"));
        assert_eq!(uri.slot_id, Some(7));
        assert_eq!(read("PKCS11:token=a;").to_string(), "pkcs11:token=a");
        assert_eq!(read("pkcs11:token=a?").to_string(), "pkcs11:token=a");
        assert_eq!(read("pkcs11:token=%C3%84").token.as_deref(), Some("Ä"));
    }

    #[test]
    fn a_pin_is_refused_and_not_echoed() {
        for text in [
            "pkcs11:token=a?pin-value=87654321",
            "pkcs11:token=a;pin-value=87654321",
            "pkcs11:token=%zz87654321?x=%zz&pin-source=file:87654321",
            "pkcs11:pin-value=87654321;pin-value=87654321",
        ] {
            let error = error(text);
            assert!(error.contains("token.pin-file") && error.contains("\"pin-"), "{error}");
            assert!(!error.contains("8765"), "{error}");
        }
    }

    #[test]
    fn what_belongs_elsewhere_is_refused_with_the_place() {
        for name in ["module-path", "module-name"] {
            let error = error(&format!("pkcs11:token=a?{name}=/x.so"));
            assert!(error.contains("token.module") && error.contains(name), "{error}");
        }
        assert!(error("pkcs11:token=a;object=kek").contains("keyring.label"));
        assert!(error("pkcs11:token=a;slot-description=b").contains("\"slot-description\""));
        assert!(error("pkcs11:tokne=a").contains("\"tokne\" is not supported: use token,"));
        assert!(error("pkcs11:token=a?x-vendor=1").contains("\"x-vendor\""));
        assert!(error("pkcs11:token=a?serial=1").contains("\"serial\""));
    }

    #[test]
    fn malformed_text_is_refused() {
        for text in ["", "token=a", "pkcs12:token=a", "p:"] {
            assert!(error(text).contains("must begin with \"pkcs11:\""), "{text}");
        }
        for text in ["pkcs11:", "pkcs11:;;"] {
            assert!(error(text).contains("names no token"), "{text}");
        }
        assert!(error("pkcs11:token").contains("\"token\" has no value"));
        assert!(error("pkcs11:token=").contains("\"token\" is empty"));
        assert!(error("pkcs11:token=%20%20").contains("\"token\" is empty"));
        assert!(error("pkcs11:token=a;token=a").contains("\"token\" is there twice"));
        assert!(error("pkcs11:slot-id=1;slot-id=1").contains("\"slot-id\" is there twice"));
        for text in ["pkcs11:token=%", "pkcs11:token=%2", "pkcs11:token=%2g", "pkcs11:token=%é0"] {
            assert!(error(text).contains("write % itself as %25"), "{text}");
        }
        assert!(error("pkcs11:token=%ff").contains("not UTF-8"));
        assert!(error("pkcs11:token=a b").contains("must be written as %20"));
        assert!(error("pkcs11:token=Ä").contains("must be written as %C3%84"));
        for text in ["pkcs11:slot-id=", "pkcs11:slot-id=+1", "pkcs11:slot-id=0x1"] {
            assert!(error(text).contains("decimal number"), "{text}");
        }
        assert!(error("pkcs11:slot-id=18446744073709551616").contains("decimal number"));
        let long = error(&format!("pkcs11:serial={}", "1".repeat(17)));
        assert!(long.contains("\"serial\" has 17 bytes, and a token has room for 16"), "{long}");
    }

    #[test]
    fn a_token_matches_when_every_attribute_fits() {
        let uri = read("pkcs11:token=k8s;serial=12;manufacturer=m;model=x;slot-id=3");
        let padded = "k8s                             ";
        assert!(uri.matches(padded, "12\0\0", "m ", "x", 3));
        assert!(!uri.matches("K8s", "12", "m", "x", 3));
        assert!(!uri.matches("k8s", "123", "m", "x", 3));
        assert!(!uri.matches("k8s", "12", "n", "x", 3));
        assert!(!uri.matches("k8s", "12", "m", "y", 3));
        assert!(!uri.matches("k8s", "12", "m", "x", 4));
        assert!(read("pkcs11:slot-id=3").matches("any", "", "", "", 3));
        assert!(read("pkcs11:token=k8s%20").matches("k8s", "", "", "", 0));
        assert!(!read("pkcs11:token=k8s").matches("", "", "", "", 0));
    }

    fn field(most: usize) -> impl Strategy<Value = Option<String>> {
        proptest::option::of("\\PC{1,8}").prop_map(move |text| {
            text.filter(|text| !unpadded(text).is_empty() && text.len() <= most)
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            token in field(32), serial in field(16), manufacturer in field(32),
            model in field(16), slot_id in any::<Option<u64>>(),
        ) {
            let uri = TokenUri { token, serial, manufacturer, model, slot_id };
            prop_assume!(uri != TokenUri::default());
            prop_assert_eq!(&uri.to_string().parse::<TokenUri>().unwrap(), &uri);
            let json = serde_json::to_string(&uri).unwrap();
            prop_assert_eq!(&serde_json::from_str::<TokenUri>(&json).unwrap(), &uri);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(pkcs11:)?((token|serial|slot-id|pin-value)=)?.*") {
            if let Ok(uri) = text.parse::<TokenUri>() {
                prop_assert_eq!(uri.to_string().parse::<TokenUri>(), Ok(uri));
            }
        }
    }
}
