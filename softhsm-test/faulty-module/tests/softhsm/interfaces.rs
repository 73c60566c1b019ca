//! The function lists of PKCS#11 3.x, in front of a real module that has them, and one that has not.

use crate::common::{Caller, PIN, Token, example, real};

/// A user of a real module whose newest edition is this.
fn user(token: &Token, edition: &str) -> Caller {
    let mut command = token.command(example("caller"));
    command
        .env("FAULTY_MODULE", example("libnewer.so"))
        .env("NEWER_MODULE", real())
        .env("NEWER_EDITION", edition);
    let mut user = Caller::start(command);
    user.all(&["init", "open"]);
    user.expect(&format!("login {PIN}"), "ok");
    user
}

#[test]
fn functions_of_3_0_are_passed_on_counted_and_struck() {
    let token = Token::new();
    let mut user = user(&token, "3.0");
    assert_eq!(user.bytes("message"), [7; 8]);
    assert_eq!(token.control.count("C_EncryptMessage"), 2, "the length is asked for first");
    token.set("C_EncryptMessage times=1 corrupt");
    assert_eq!(user.bytes("message"), [7, 7, 7, 7, 6, 7, 7, 7]);
    token.set("C_EncryptMessage return=CKR_DEVICE_ERROR");
    user.expect("message", "DeviceError EncryptMessage");
    token.set("token sessions-dropped");
    user.expect("message", "SessionHandleInvalid");
    user.all(&["open", "random"]);
    assert_eq!(user.ask("verify"), "NullFunctionPointer", "it has no 3.2");
}

#[test]
fn functions_of_3_2_are_passed_on_too() {
    let token = Token::new();
    let mut user = user(&token, "3.2");
    user.expect("verify", "SignatureInvalid VerifySignature");
    assert_eq!(user.bytes("message"), [7; 8]);
    token.set("device return=CKR_DEVICE_ERROR");
    user.expect("verify", "DeviceError VerifySignature");
}

#[test]
fn an_older_real_module_is_offered_as_it_is() {
    let token = Token::new();
    let mut user = token.user();
    assert_eq!(user.ask("message"), "NullFunctionPointer");
    assert_eq!(token.control.count("C_GetInterface"), 1);
}
