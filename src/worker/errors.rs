#![forbid(unsafe_code)]
//! What a `CKR_` code means: the one place where codes become classes.
//!
//! Tokens disagree about codes (see `hsm-profiles/`), so the profile may add to
//! every table here.

use cryptoki::error::{Error as CryptokiError, Rv, RvError};
use cryptoki_sys as sys;
use cryptoki_sys::CK_RV;

use super::ffi::CallError;
use crate::config::Profile;
use crate::token::protocol::{Class, Failure};

/// What one code says, before the known-good check has had its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The blob is at fault.
    BadBlob,
    /// The key handle is stale: find it again.
    StaleHandle,
    /// Only a known-good wrap and unwrap can tell.
    Ambiguous,
    /// The class is plain.
    Plain(Class),
}

const BAD_BLOB: &[CK_RV] = &[
    sys::CKR_DATA_INVALID,
    sys::CKR_DATA_LEN_RANGE,
    sys::CKR_ENCRYPTED_DATA_INVALID,
    sys::CKR_ENCRYPTED_DATA_LEN_RANGE,
    sys::CKR_WRAPPED_KEY_INVALID,
    sys::CKR_WRAPPED_KEY_LEN_RANGE,
];

const STALE_HANDLE: &[CK_RV] = &[
    sys::CKR_KEY_HANDLE_INVALID,
    sys::CKR_OBJECT_HANDLE_INVALID,
    sys::CKR_UNWRAPPING_KEY_HANDLE_INVALID,
    sys::CKR_WRAPPING_KEY_HANDLE_INVALID,
];

const AMBIGUOUS: &[CK_RV] = &[
    sys::CKR_GENERAL_ERROR,
    sys::CKR_FUNCTION_FAILED,
    sys::CKR_DEVICE_ERROR,
    sys::CKR_ARGUMENTS_BAD,
    sys::CKR_BUFFER_TOO_SMALL,
    sys::CKR_HOST_MEMORY,
];

const SESSION_LOST: &[CK_RV] = &[
    sys::CKR_SESSION_HANDLE_INVALID,
    sys::CKR_SESSION_CLOSED,
    sys::CKR_USER_NOT_LOGGED_IN,
    sys::CKR_OPERATION_ACTIVE,
    sys::CKR_SESSION_COUNT,
];

const TOKEN_LOST: &[CK_RV] = &[
    sys::CKR_DEVICE_REMOVED,
    sys::CKR_DEVICE_MEMORY,
    sys::CKR_TOKEN_NOT_PRESENT,
    sys::CKR_TOKEN_NOT_RECOGNIZED,
    sys::CKR_SLOT_ID_INVALID,
    sys::CKR_CRYPTOKI_NOT_INITIALIZED,
];

const PIN: &[CK_RV] = &[
    sys::CKR_PIN_INCORRECT,
    sys::CKR_PIN_INVALID,
    sys::CKR_PIN_LEN_RANGE,
    sys::CKR_PIN_EXPIRED,
    sys::CKR_PIN_LOCKED,
];

/// A login that was refused before any PIN was judged, so that none was counted. A
/// token that is being set up answers with the first one for a moment.
const NO_ATTEMPT: &[CK_RV] = &[
    sys::CKR_USER_PIN_NOT_INITIALIZED,
    sys::CKR_USER_TYPE_INVALID,
    sys::CKR_USER_ANOTHER_ALREADY_LOGGED_IN,
    sys::CKR_USER_TOO_MANY_TYPES,
    sys::CKR_FUNCTION_NOT_SUPPORTED,
];

/// What `code` says on this family of tokens.
pub(super) fn verdict(code: CK_RV, profile: &Profile) -> Verdict {
    // The profile comes first: it knows the token, the tables only the standard.
    let tables: [(&[u64], &[CK_RV], Verdict); 6] = [
        (&profile.errors_bad_input, BAD_BLOB, Verdict::BadBlob),
        (&profile.errors_ambiguous, AMBIGUOUS, Verdict::Ambiguous),
        (&profile.errors_session_lost, SESSION_LOST, Verdict::Plain(Class::SessionLost)),
        (&profile.errors_token_lost, TOKEN_LOST, Verdict::Plain(Class::TokenLost)),
        (&profile.errors_pin, PIN, Verdict::Plain(Class::PinWrong)),
        (&[], STALE_HANDLE, Verdict::StaleHandle),
    ];
    let by_profile = tables.iter().find(|(own, _, _)| own.contains(&code));
    let by_standard = || tables.iter().find(|(_, standard, _)| standard.contains(&code));
    by_profile
        .or_else(by_standard)
        .map_or(Verdict::Plain(Class::Refused), |(_, _, verdict)| *verdict)
}

/// The name of a code, as PKCS#11 writes it.
pub(super) fn name(code: CK_RV) -> String {
    match Rv::from(code) {
        Rv::Ok => "CKR_OK".to_owned(),
        Rv::Error(RvError::VendorDefined(_)) => format!("vendor error 0x{code:08x}"),
        // The crate writes `PinIncorrect`; people search for `CKR_PIN_INCORRECT`.
        Rv::Error(error) => {
            let mut name = String::from("CKR");
            for letter in format!("{error:?}").chars() {
                if letter.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            name
        }
    }
}

/// One line about a failed call: the function and the code.
pub(super) fn describe(error: CallError) -> String {
    format!("{} answered {} (0x{:x})", error.function, name(error.code), error.code)
}

/// A failure of the `cryptoki` crate (slots, login, search) in our classes.
pub(super) fn from_cryptoki(error: &CryptokiError, doing: &str, profile: &Profile) -> Failure {
    match error {
        CryptokiError::Pkcs11(code, function) => {
            let code = raw(*code);
            let class = match verdict(code, profile) {
                Verdict::Plain(class) => class,
                // Outside of a wrap or unwrap there is no blob to blame.
                Verdict::BadBlob => Class::Refused,
                Verdict::Ambiguous | Verdict::StaleHandle => Class::TokenLost,
            };
            let message = format!("{doing}: C_{function:?} answered {} (0x{code:x})", name(code));
            Failure::new(class, message)
        }
        other => Failure::new(Class::Refused, format!("{doing}: {other}")),
    }
}

/// What a failed login means. Unless the code says plainly that token or session are
/// gone, the token may have counted a wrong PIN, whatever it calls that: trying again
/// could lock it.
pub(super) fn login_class(error: &CryptokiError, profile: &Profile) -> Class {
    let CryptokiError::Pkcs11(code, _) = error else { return Class::PinAtRisk };
    let code = raw(*code);
    if NO_ATTEMPT.contains(&code) && !profile.errors_pin.contains(&code) {
        return Class::Refused;
    }
    match verdict(code, profile) {
        Verdict::Plain(
            class @ (Class::PinWrong | Class::PinAtRisk | Class::TokenLost | Class::SessionLost),
        ) => class,
        _ => Class::PinAtRisk,
    }
}

/// Did a key go away while it was looked at?
pub(super) fn is_gone(error: &CryptokiError) -> bool {
    matches!(error, CryptokiError::Pkcs11(code, _) if STALE_HANDLE.contains(&raw(*code)))
}

/// Has the token something against an attribute that it was given for a new key?
pub(super) fn is_about_template(error: &CryptokiError) -> bool {
    const TEMPLATE: &[CK_RV] = &[
        sys::CKR_ATTRIBUTE_READ_ONLY,
        sys::CKR_ATTRIBUTE_TYPE_INVALID,
        sys::CKR_ATTRIBUTE_VALUE_INVALID,
        sys::CKR_TEMPLATE_INCONSISTENT,
    ];
    matches!(error, CryptokiError::Pkcs11(code, _) if TEMPLATE.contains(&raw(*code)))
}

/// The number behind the crate's name for a code: it keeps only the names.
fn raw(code: RvError) -> CK_RV {
    if let RvError::VendorDefined(number) | RvError::UnknownErrorCode(number) = code {
        return number;
    }
    // Every standard code is below 0x300 (PKCS#11 3.2, header pkcs11t.h).
    (0..0x300)
        .find(|number| matches!(Rv::from(*number), Rv::Error(known) if known == code))
        .unwrap_or(sys::CKR_GENERAL_ERROR)
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    fn generic() -> Profile {
        Profile::built_in("generic").unwrap()
    }

    #[test]
    fn names_are_those_of_the_standard() {
        assert_eq!(name(sys::CKR_PIN_INCORRECT), "CKR_PIN_INCORRECT");
        assert_eq!(name(sys::CKR_GENERAL_ERROR), "CKR_GENERAL_ERROR");
        assert_eq!(name(0x8000_002a), "vendor error 0x8000002a");
    }

    #[test]
    fn a_named_code_gives_its_number_back() {
        for code in [sys::CKR_PIN_INCORRECT, sys::CKR_DEVICE_ERROR, sys::CKR_SESSION_CLOSED] {
            let Rv::Error(named) = Rv::from(code) else { panic!("{code:x} is an error") };
            assert_eq!(raw(named), code);
        }
    }

    #[test]
    fn the_profile_outranks_the_standard() {
        let mut profile = generic();
        assert_eq!(verdict(sys::CKR_DEVICE_ERROR, &profile), Verdict::Ambiguous);
        profile.errors_token_lost.push(sys::CKR_DEVICE_ERROR);
        assert_eq!(verdict(sys::CKR_DEVICE_ERROR, &profile), Verdict::Plain(Class::TokenLost));
    }

    #[test]
    fn a_login_that_failed_for_no_plain_reason_is_not_tried_again() {
        let class = |code| {
            let Rv::Error(named) = Rv::from(code) else { panic!("{code:x} is an error") };
            login_class(&CryptokiError::Pkcs11(named, Function::Login), &generic())
        };
        assert_eq!(class(sys::CKR_PIN_INCORRECT), Class::PinWrong);
        assert_eq!(class(sys::CKR_TOKEN_NOT_PRESENT), Class::TokenLost);
        assert_eq!(class(sys::CKR_DEVICE_REMOVED), Class::TokenLost);
        assert_eq!(class(sys::CKR_USER_PIN_NOT_INITIALIZED), Class::Refused);
        for unclear in [sys::CKR_GENERAL_ERROR, sys::CKR_FUNCTION_FAILED, 0x8000_000b, 0x1b8] {
            assert_eq!(class(unclear), Class::PinAtRisk, "{unclear:x}");
        }
    }

    #[test]
    fn a_profile_that_calls_a_code_a_wrong_pin_is_believed() {
        let error = CryptokiError::Pkcs11(RvError::UserPinNotInitialized, Function::Login);
        let mut profile = generic();
        assert_eq!(login_class(&error, &profile), Class::Refused);
        profile.errors_pin.push(sys::CKR_USER_PIN_NOT_INITIALIZED);
        assert_eq!(login_class(&error, &profile), Class::PinWrong);
    }

    #[test]
    fn an_unknown_code_is_a_refusal_not_a_lost_token() {
        assert_eq!(verdict(0x8765_4321, &generic()), Verdict::Plain(Class::Refused));
    }
}
