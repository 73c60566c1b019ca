//! States of the whole token, on a real one.

use crate::common::{PIN, Token};

fn login() -> String {
    format!("login {PIN}")
}

#[test]
fn a_lost_token_is_gone_and_comes_back_without_its_sessions() {
    let token = Token::new();
    let mut user = token.user();
    let slots = user.ask("slots");
    token.set("token lost return=CKR_TOKEN_NOT_PRESENT");
    user.expect("random", "TokenNotPresent");
    user.expect("slots", "ok 0");
    token.control.clear().unwrap();
    assert_eq!(user.ask("slots"), slots);
    user.expect("random", "SessionHandleInvalid");
    user.all(&["open"]);
    user.expect("state", "ok RwPublic");
    user.all(&[&login(), "wrap"]);
}

#[test]
fn one_that_saw_it_lost_may_have_to_begin_anew() {
    let token = Token::new();
    let mut user = token.user();
    token.set("token lost-until-initialize");
    user.expect("random", "DeviceRemoved");
    token.control.clear().unwrap();
    user.expect("random", "DeviceRemoved");
    user.expect("slots", "ok 0");
    token.user().all(&["random"]);
    user.all(&["finalize", "init", "open", &login(), "random"]);
}

#[test]
fn sessions_are_dropped_once() {
    let token = Token::new();
    let mut user = token.user();
    token.set("token sessions-dropped");
    user.expect("random", "SessionHandleInvalid");
    user.all(&["open", "random"]);
    user.expect("state", "ok RwPublic");
    // A new version of the file drops them again.
    token.set("token sessions-dropped");
    user.expect("random", "SessionHandleInvalid");
}

#[test]
fn a_logout_leaves_the_sessions() {
    let token = Token::new();
    let mut user = token.user();
    user.expect("state", "ok RwUser");
    token.set("token logged-out");
    user.expect("state", "ok RwPublic");
    user.all(&[&login()]);
    user.expect("state", "ok RwUser");
}

#[test]
fn there_are_only_so_many_sessions() {
    let token = Token::new();
    let mut user = token.user();
    token.set("token max-sessions=2");
    user.expect("open", "ok");
    user.expect("open", "SessionCount");
    token.set("token max-sessions=3");
    user.expect("open", "ok");
}

#[test]
fn a_refused_pin_is_counted_and_the_real_token_does_not_hear_of_it() {
    let token = Token::new();
    let mut caller = token.caller();
    caller.all(&["init", "open"]);
    token.set("token pin-refused");
    caller.expect(&login(), "PinIncorrect");
    token.control.clear().unwrap();
    caller.expect("flags", "ok");
    assert_eq!(token.control.failed_pins(), 1);
    caller.all(&[&login()]);
    assert_eq!(token.control.failed_pins(), 1);
}

#[test]
fn a_token_locks_after_so_many_wrong_pins_of_all_processes() {
    let token = Token::new();
    token.set("token pin-tries=3");
    let [mut one, mut other] = [token.caller(), token.caller()];
    one.all(&["init", "open"]);
    other.all(&["init", "open"]);
    assert_eq!(one.ask("flags"), "ok");
    one.expect("login wrong", "PinIncorrect");
    assert_eq!(other.ask("flags"), "ok low");
    other.expect("login wrong", "PinIncorrect");
    assert_eq!(one.ask("flags"), "ok low final");
    // A right one in between gives all tries back.
    one.all(&[&login()]);
    let mut third = token.caller();
    third.all(&["init", "open"]);
    assert_eq!(third.ask("flags"), "ok");
    for _ in 0..3 {
        third.expect("login wrong", "PinIncorrect");
    }
    third.expect(&login(), "PinLocked");
    assert_eq!(third.ask("flags"), "ok low locked");
    assert_eq!(token.control.failed_pins(), 5);
}

#[test]
fn flags_of_the_pin_are_shown() {
    let token = Token::new();
    let mut caller = token.caller();
    caller.all(&["init"]);
    token.set("token pin-flags=count-low,final-try,locked,to-be-changed");
    assert_eq!(caller.ask("flags"), "ok low final locked change");
}
