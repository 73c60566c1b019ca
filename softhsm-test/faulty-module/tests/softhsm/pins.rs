//! PINs that are wrong, and their tries, on a real token.

use crate::common::{PIN, SO_PIN, Token};

fn login() -> String {
    format!("login {PIN}")
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
    token.set("token pin-flags=count-low,final-try,locked,to-be-changed,so-final-try");
    assert_eq!(caller.ask("flags"), "ok low final locked change so-final");
}

#[test]
fn what_a_token_says_before_it_looks_at_a_pin_costs_no_try() {
    let token = Token::new();
    let mut user = token.user();
    token.set("token pin-refused\ntoken pin-tries=1");
    user.expect(&login(), "UserAlreadyLoggedIn");
    token.set("token pin-refused\ntoken pin-tries=1\ntoken sessions-dropped");
    user.expect(&login(), "SessionHandleInvalid");
    assert_eq!(token.control.failed_pins(), 0);
    user.all(&["open"]);
    user.expect(&login(), "PinIncorrect");
    user.expect(&login(), "PinLocked");
    assert_eq!(token.control.failed_pins(), 1);
}

#[test]
fn the_security_officer_opens_a_locked_token() {
    let token = Token::new();
    token.set("token pin-tries=1");
    let mut caller = token.caller();
    caller.all(&["init", "open"]);
    caller.expect("login wrong", "PinIncorrect");
    caller.expect(&login(), "PinLocked");
    // A wrong PIN of the officer is no matter.
    caller.expect("login-so wrong", "PinIncorrect");
    caller.all(&[&format!("login-so {SO_PIN}"), "init-pin 0815-0815", "logout"]);
    assert_eq!(caller.ask("flags"), "ok final");
    caller.all(&["login 0815-0815", "logout"]);
    assert_eq!(token.control.failed_pins(), 1);
    // Or begins with the token anew.
    caller.expect("login wrong", "PinIncorrect");
    assert_eq!(caller.ask("flags"), "ok low locked");
    drop(caller);
    let mut caller = token.caller();
    caller.all(&["init", &format!("init-token {SO_PIN}")]);
    assert_eq!(caller.ask("flags"), "ok final");
}

#[test]
fn a_wrong_old_pin_costs_a_try_as_well() {
    let token = Token::new();
    token.set("token pin-tries=2");
    let mut caller = token.caller();
    caller.all(&["init", "open"]);
    let change = format!("set-pin {PIN} 0815-0815");
    caller.expect("set-pin wrong 0815-0815", "PinIncorrect");
    assert_eq!(caller.ask("flags"), "ok low final");
    caller.all(&[&change]);
    assert_eq!(caller.ask("flags"), "ok");
    for _ in 0..2 {
        caller.expect(&change, "PinIncorrect");
    }
    caller.expect("set-pin 0815-0815 4711-4711", "PinLocked");
    caller.expect("login 0815-0815", "PinLocked");
    // The officer changes a PIN of his own.
    caller.all(&[&format!("login-so {SO_PIN}"), &format!("set-pin {SO_PIN} 5679"), "logout"]);
    caller.expect("login 0815-0815", "PinLocked");
}

#[test]
fn counts_and_tries_can_begin_anew() {
    let token = Token::new();
    token.set("token pin-tries=1");
    let mut caller = token.caller();
    caller.all(&["init", "open"]);
    caller.expect("login wrong", "PinIncorrect");
    caller.expect(&login(), "PinLocked");
    token.control.reset_counts().unwrap();
    assert_eq!((token.control.counts().len(), token.control.failed_pins()), (0, 0));
    caller.all(&[&login()]);
    assert_eq!(token.control.count("C_Login"), 1);
}
