//! States of the whole token, on a real one.

use std::thread::sleep;
use std::time::{Duration, Instant};

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
    // What is about the slot is answered; an event is none that this real module knows of.
    assert_eq!(user.ask("present"), "ok false");
    assert_eq!(user.ask("event"), "ok None");
    token.control.clear().unwrap();
    assert_eq!((user.ask("slots"), user.ask("present")), (slots, "ok true".to_owned()));
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
    assert_eq!(user.ask("limit"), "ok Max(2)");
    token.set("token max-sessions=3");
    user.expect("open", "ok");
}

#[test]
fn a_call_can_lose_the_token_for_all_until_its_rule_is_gone() {
    let token = Token::new();
    let [mut user, mut other] = [token.user(), token.user()];
    token.set("C_GenerateRandom after=1 times=1 lost");
    user.all(&["random"]);
    other.all(&["state"]);
    user.expect("random", "DeviceRemoved");
    other.expect("state", "DeviceRemoved");
    assert_eq!(token.control.strikes(), 1);
    token.control.clear().unwrap();
    user.expect("random", "SessionHandleInvalid");
    other.expect("state", "SessionHandleInvalid");
    user.all(&["open", &login(), "random"]);
}

#[test]
fn a_token_that_a_call_has_lost_comes_back_by_itself() {
    let token = Token::new();
    let mut user = token.user();
    token.set("C_GenerateRandom times=1 lost=1s return=CKR_DEVICE_ERROR");
    let began = Instant::now();
    user.expect("random", "DeviceError");
    user.expect("slots", "ok 0");
    // Asking a caller changes it, so this is no `until`.
    while user.ask("slots") == "ok 0" {
        assert!(began.elapsed() < Duration::from_secs(20));
        sleep(Duration::from_millis(5));
    }
    assert!(began.elapsed() >= Duration::from_secs(1));
    user.expect("random", "SessionHandleInvalid");
    user.all(&["open", &login(), "random"]);
}

#[test]
fn a_call_can_take_the_sessions_or_the_login_of_its_process_away() {
    let token = Token::new();
    let [mut user, mut other] = [token.user(), token.user()];
    token.set("C_GenerateRandom after=1 every=2 sessions-dropped");
    user.all(&["random"]);
    other.all(&["random"]);
    user.expect("random", "SessionHandleInvalid");
    other.expect("state", "ok RwUser");
    user.all(&["open", &login(), "random"]);
    token.set("C_GenerateRandom times=1 logged-out");
    user.all(&["random"]);
    user.expect("state", "ok RwPublic");
    other.expect("state", "ok RwUser");
}
