#![forbid(unsafe_code)]
//! A KEK that was made elsewhere becomes the key of a label. What comes of it is checked, and
//! destroyed again if it is not what was wanted.

use cryptoki::context::Function;
use cryptoki::error::{Error as CryptokiError, Rv};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki_sys as sys;
use data_encoding::HEXLOWER_PERMISSIVE;
use zeroize::{Zeroize, Zeroizing};

use super::keys;
use super::writer::{KEK_LEN, Made, Writer};
use crate::config::ValueLen;
use crate::generation::Generation;
use crate::token::protocol::{
    Class, Failure, FoundKey, Import, ImportForm, OaepHash, UnwrappingKey,
};

/// Bytes that RFC 3394 and RFC 5649 add to a KEK.
const KW_OVERHEAD: usize = 8;

/// Makes a token object of the file, with a template.
type Bring<'a> = dyn Fn(&[Attribute]) -> Result<ObjectHandle, CryptokiError> + 'a;

/// Brings the KEK in `file` onto the token.
pub(super) fn import(
    writer: &Writer<'_>,
    import: &Import,
    file: &[u8],
    require_fips: bool,
) -> Result<FoundKey, Failure> {
    let label = import.label.as_str();
    if Generation::of_label(label, writer.base).is_none() {
        return Err(refused(format!("the label \"{label}\" is not one of this keyring")));
    }
    demand_free(writer, label)?;
    match &import.form {
        ImportForm::Plain if require_fips => {
            Err(refused("token.require-fips allows no key that lies open on the host".to_owned()))
        }
        ImportForm::Plain => {
            let key = plain_key(file)?;
            let bring = |template: &[Attribute]| {
                let mut template = template.to_vec();
                template.push(Attribute::Value(key.to_vec()));
                let made = writer.session.create_object(&template);
                if let Some(Attribute::Value(copy)) = template.last_mut() {
                    copy.zeroize();
                }
                made
            };
            bring_in(writer, label, &bring, false, || {
                "this token may take no keys in the clear: try a wrapped one".to_owned()
            })
        }
        ImportForm::RsaOaep(key) => {
            demand(writer, sys::CKM_RSA_PKCS_OAEP, || {
                "this token cannot unwrap with CKM_RSA_PKCS_OAEP".to_owned()
            })?;
            let rsa = unwrapping_key(writer, key, file.len(), 0)?;
            let (hash, mgf) = match key.hash {
                OaepHash::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
                OaepHash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
            };
            let oaep = PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty());
            let mechanism = Mechanism::RsaPkcsOaep(oaep);
            let bring =
                |template: &[Attribute]| writer.session.unwrap_key(&mechanism, rsa, file, template);
            bring_in(writer, label, &bring, true, || advice(key))
        }
        ImportForm::RsaAes(key) => {
            demand(writer, sys::CKM_RSA_AES_KEY_WRAP, || {
                let instead = match can_unwrap(writer, sys::CKM_RSA_PKCS_OAEP) {
                    true => {
                        ". It has CKM_RSA_PKCS_OAEP: wrap the key with RSA-OAEP alone, and say --wrapped-with rsa-oaep"
                    }
                    false => ", nor with CKM_RSA_PKCS_OAEP",
                };
                format!("this token cannot unwrap with CKM_RSA_AES_KEY_WRAP{instead}")
            })?;
            let kwp = usize::try_from(KEK_LEN).unwrap_or_default() + KW_OVERHEAD;
            let rsa = unwrapping_key(writer, key, file.len(), kwp)?;
            let oaep = match key.hash {
                OaepHash::Sha1 => (sys::CKM_SHA_1, sys::CKG_MGF1_SHA1),
                OaepHash::Sha256 => (sys::CKM_SHA256, sys::CKG_MGF1_SHA256),
            };
            let session = writer.session.handle();
            let bring = |template: &[Attribute]| {
                let module = writer.tools.module;
                module.unwrap_rsa_aes(session, rsa.handle(), oaep, file, template).map_err(|call| {
                    let error = Rv::from(call.code).into_result(Function::UnwrapKey);
                    error.err().unwrap_or(CryptokiError::NotSupported)
                })
            };
            bring_in(writer, label, &bring, true, || advice(key))
        }
    }
}

/// Makes the key, and destroys it again if it is not what it should be.
fn bring_in(
    writer: &Writer<'_>,
    label: &str,
    bring: &Bring<'_>,
    is_wrapped: bool,
    advice: impl FnOnce() -> String,
) -> Result<FoundKey, Failure> {
    let mut template = writer.template(label)?;
    if is_wrapped && writer.tools.profile.value_len == ValueLen::Require {
        template.push(Attribute::ValueLen(KEK_LEN.into()));
    }
    let made =
        writer.make(&template, "bringing the key onto the token", bring).map_err(|failure| {
            Failure::new(failure.class, format!("{}: {}", failure.message, advice()))
        })?;
    check(writer, &made, label, bring, is_wrapped).map_err(|failure| {
        writer.undo(made.key, |undone| {
            format!("the key is no good as a KEK ({}); {undone}", failure.message)
        })
    })
}

/// Is it an AES-256 key that works and will never leave?
fn check(
    writer: &Writer<'_>,
    made: &Made,
    label: &str,
    bring: &Bring<'_>,
    is_wrapped: bool,
) -> Result<FoundKey, Failure> {
    let key = writer
        .read(made, label)?
        .ok_or_else(|| refused(format!("the token gave it another label than {label}")))?;
    let told = key.attributes.value_len;
    let len = if told.is_none() && is_wrapped { measured(writer, bring) } else { told };
    if let Some(len) = len.filter(|len| *len != KEK_LEN) {
        return Err(refused(format!("it is AES-{}, and must be AES-256", len * 8)));
    }
    if key.attributes.extractable == Some(true) || key.attributes.sensitive == Some(false) {
        return Err(refused("the token would let the key out, though it was told not to".into()));
    }
    let fingerprint = key.fingerprint.clone()?;
    keys::unwraps(&writer.tools, made.key.handle(), &fingerprint)?;
    Ok(key)
}

/// The length of a wrapped key where the token does not tell it, in bytes. A copy that lives
/// in this session alone is wrapped under a key that nobody keeps: that is [`KW_OVERHEAD`]
/// bytes longer. `None`: this token cannot do that.
fn measured(writer: &Writer<'_>, bring: &Bring<'_>) -> Option<u64> {
    let Writer { session, tools, slot, .. } = writer;
    let mechanism = tools.profile.kw_mechanism;
    let flags = tools.module.mechanism_flags(slot.id(), mechanism).ok()?;
    if flags & sys::CKF_WRAP == 0 {
        return None;
    }
    let [yes, no] = [true, false];
    let passing = [
        Attribute::Token(no),
        Attribute::Private(yes),
        Attribute::Sensitive(yes),
        Attribute::Extractable(no),
        Attribute::Wrap(yes),
        Attribute::ValueLen(KEK_LEN.into()),
    ];
    let copy = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(no),
        Attribute::Private(yes),
        Attribute::Sensitive(yes),
        Attribute::Extractable(yes),
    ];
    let passing = session.generate_key(&Mechanism::AesKeyGen, &passing).ok()?;
    let len = bring(&copy).ok().and_then(|copy| {
        let mut out = Zeroizing::new([0; 128]);
        let (under, copy) = (passing.handle(), copy.handle());
        let wrapped = tools.module.wrap_key(session.handle(), mechanism, under, copy, &mut out[..]);
        // Both go with the session, if not now.
        let _ = tools.module.destroy(session.handle(), copy);
        wrapped.ok()?.checked_sub(KW_OVERHEAD)
    });
    let _ = session.destroy_object(passing);
    u64::try_from(len?).ok()
}

/// The key in a file of 32 bytes, or of 64 hex digits and at most one newline.
fn plain_key(file: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let wrong = |what: &str| {
        refused(format!("{what}: the file must hold 32 bytes, or 64 hex digits and a newline"))
    };
    let len = usize::try_from(KEK_LEN).unwrap_or_default();
    if file.len() == len {
        // A random key does not look like that.
        return match file.iter().all(u8::is_ascii_hexdigit) {
            true => Err(wrong("32 hex digits are an AES-128 key")),
            false => Ok(Zeroizing::new(file.to_vec())),
        };
    }
    let digits = file.strip_suffix(b"\n").unwrap_or(file);
    if digits.len() != 2 * len {
        return Err(wrong(&format!("it has {} bytes", file.len())));
    }
    match HEXLOWER_PERMISSIVE.decode(digits) {
        Ok(key) => Ok(Zeroizing::new(key)),
        // The error would show a digit.
        Err(_) => Err(wrong("it has 64 characters that are not all hex digits")),
    }
}

/// The RSA private key of that label, if the file can be for it: one block of RSA, and `more`.
fn unwrapping_key(
    writer: &Writer<'_>,
    wanted: &UnwrappingKey,
    file: usize,
    more: usize,
) -> Result<ObjectHandle, Failure> {
    let label = &wanted.label;
    let template = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    let failed = |error| writer.failure(&error, "searching for the unwrapping key");
    let found = writer.session.find_objects(&template).map_err(failed)?;
    let [key] = found.as_slice() else {
        let count = found.len();
        return Err(refused(format!(
            "{count} RSA private keys on the token have the label \"{label}\", and it must be one"
        )));
    };
    // A token that does not tell will tell when the key is used.
    for kind in [AttributeType::Unwrap, AttributeType::Modulus] {
        for attribute in writer.session.get_attributes(*key, &[kind]).unwrap_or_default() {
            match attribute {
                Attribute::Unwrap(false) => {
                    return Err(refused(format!("CKA_UNWRAP of the key \"{label}\" is false")));
                }
                Attribute::Modulus(modulus) => {
                    let block = modulus.iter().skip_while(|byte| **byte == 0).count();
                    if file != block + more {
                        return Err(refused(format!(
                            "the file has {file} bytes, and an AES-256 key that was wrapped for \
                             \"{label}\" has {}",
                            block + more
                        )));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(*key)
}

fn demand_free(writer: &Writer<'_>, label: &str) -> Result<(), Failure> {
    let template =
        [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(label.as_bytes().to_vec())];
    let failed = |error| writer.failure(&error, "looking whether the label is taken");
    match writer.session.find_objects(&template).map_err(failed)?.is_empty() {
        true => Ok(()),
        false => Err(refused(format!("a key with the label \"{label}\" is there already"))),
    }
}

fn demand(
    writer: &Writer<'_>,
    mechanism: sys::CK_MECHANISM_TYPE,
    lack: impl FnOnce() -> String,
) -> Result<(), Failure> {
    if can_unwrap(writer, mechanism) { Ok(()) } else { Err(refused(lack())) }
}

fn can_unwrap(writer: &Writer<'_>, mechanism: sys::CK_MECHANISM_TYPE) -> bool {
    let flags = writer.tools.module.mechanism_flags(writer.slot.id(), mechanism);
    flags.is_ok_and(|flags| flags & sys::CKF_UNWRAP != 0)
}

/// What can be wrong when a token does not unwrap: it tells as little as it can.
fn advice(key: &UnwrappingKey) -> String {
    let (hash, other) = match key.hash {
        OaepHash::Sha1 => ("SHA-1", "SHA-256"),
        OaepHash::Sha256 => ("SHA-256", "SHA-1"),
    };
    format!(
        "the file is damaged or holds no AES key, or it was not wrapped for \"{}\" with {hash} and \
         MGF1 of {hash}, or the token does not know that hash: then wrap it with {other}",
        key.label
    )
}

fn refused(why: String) -> Failure {
    Failure::new(Class::Refused, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_key_is_raw_or_hex() {
        let raw: Vec<u8> = (100..132).collect();
        let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
        for file in [raw.clone(), hex.clone().into(), format!("{}\n", hex.to_uppercase()).into()] {
            assert_eq!(*plain_key(&file).unwrap(), raw);
        }
    }

    #[test]
    fn what_is_no_plain_key_is_refused_and_not_shown() {
        let hex = "5a".repeat(32);
        let cases = [
            (Vec::new(), "it has 0 bytes"),
            (vec![0x5a; 31], "it has 31 bytes"),
            (vec![0xfa; 33], "it has 33 bytes"),
            ("5a".repeat(16).into(), "an AES-128 key"),
            (format!("{hex}\n\n").into(), "it has 66 bytes"),
            (hex.replacen("5a", "5g", 1).into(), "not all hex digits"),
            (vec![0xff; 64], "not all hex digits"),
        ];
        for (file, why) in cases {
            let failure = plain_key(&file).unwrap_err();
            assert!(failure.message.contains(why), "{failure}");
            assert!(!failure.message.contains("5a"), "{failure}");
        }
    }
}
