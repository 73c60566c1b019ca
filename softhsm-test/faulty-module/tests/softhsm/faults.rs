//! Rules for calls, on a real token.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{self, Caller, PIN, Token, module, until};
use faulty_module::Control;

#[test]
fn without_rules_it_passes_calls_on_and_counts_them() {
    let token = Token::new();
    assert!(token.control.counts().is_empty());
    let mut user = token.user();
    assert_eq!(user.bytes("wrap").len(), 40);
    assert_eq!(token.control.count("C_Login"), 1);
    assert_eq!(token.control.count("C_CreateObject"), 1);
    assert_eq!(token.control.counts().get("C_Initialize"), Some(&1));
    assert_eq!(token.control.count("C_Sign") + token.control.count("no such"), 0);
}

#[test]
fn return_answers_in_the_place_of_the_real_module() {
    let token = Token::new();
    let mut user = token.user();
    token.set("C_CreateObject after=1 every=2 times=2 return=CKR_DEVICE_ERROR");
    let struck: Vec<bool> =
        (0..7).map(|_| user.ask("value") == "DeviceError CreateObject").collect();
    assert_eq!(struck, [false, false, true, false, true, false, false]);
    assert_eq!(token.control.strikes(), 2);
    token.set("C_CreateObject return=0x30");
    assert_eq!(token.control.strikes(), 0, "new rules begin at 0");
    user.expect("value", "DeviceError CreateObject");
    token.control.clear().unwrap();
    user.expect("value", "ok");
}

#[test]
fn after_return_loses_the_answer_of_a_call_that_happened() {
    let token = Token::new();
    let mut caller = token.caller();
    caller.all(&["init", "open"]);
    token.set("C_Login times=1 after-return=CKR_FUNCTION_FAILED");
    caller.expect(&format!("login {PIN}"), "FunctionFailed Login");
    caller.expect("state", "ok RwUser");
}

#[test]
fn counters_are_shared_by_all_processes() {
    let token = Token::new();
    let [mut one, mut other] = [token.user(), token.user()];
    token.set("C_GenerateRandom after=1 times=1 return=CKR_DEVICE_ERROR");
    one.expect("random", "ok");
    other.expect("random", "DeviceError");
    one.expect("random", "ok");
    other.expect("random", "ok");
    assert_eq!((token.control.count("C_GenerateRandom"), token.control.strikes()), (4, 1));
}

#[test]
fn no_call_of_many_threads_and_processes_is_lost() {
    let token = Token::new();
    token.set("C_GenerateRandom every=10 return=CKR_DEVICE_ERROR");
    let mut users: Vec<_> = (0..3).map(|_| token.user()).collect();
    users.iter_mut().for_each(|user| user.begin("threads 4 100"));
    users.iter_mut().for_each(|user| assert_eq!(user.answer(), "ok"));
    assert_eq!((token.control.count("C_GenerateRandom"), token.control.strikes()), (1200, 120));
}

#[test]
fn a_call_that_hangs_comes_back_when_its_rule_is_gone() {
    let token = Token::new();
    let mut user = token.user();
    token.set("C_GenerateRandom hang");
    user.begin("random");
    until("it hangs", || token.control.strikes() == 1);
    // Another file in which the rule still stands does not let it go.
    token.set("C_Sign stray\nC_GenerateRandom hang");
    let mut other = token.user();
    other.begin("random");
    until("the other hangs too", || token.control.strikes() == 1);
    token.control.clear().unwrap();
    assert!(user.answer().starts_with("ok ") && other.answer().starts_with("ok "));
}

#[test]
fn one_that_is_killed_while_it_hangs_leaves_the_next_one_well() {
    let token = Token::new();
    let mut user = token.user();
    token.set("C_GenerateRandom times=1 hang");
    user.begin("random");
    until("it hangs", || token.control.strikes() == 1);
    user.kill();
    let mut next = token.user();
    next.expect("random", "ok");
    assert_eq!(token.control.count("C_GenerateRandom"), 2, "what the dead one counted stays");
    token.set("C_GenerateRandom return=CKR_DEVICE_ERROR");
    next.expect("random", "DeviceError");
}

#[test]
fn a_crash_is_a_real_one() {
    let token = Token::new();
    for (fault, signal, code) in
        [("segv", Some(11), None), ("abort", Some(6), None), ("exit=7", None, Some(7))]
    {
        let mut user = token.user();
        token.set(&format!("C_GenerateRandom {fault}"));
        assert_eq!(user.ask("random"), "", "{fault}");
        let ended = user.ended();
        assert_eq!((ended.signal(), ended.code()), (signal, code), "{fault}");
        assert_eq!(token.control.strikes(), 1, "{fault}");
    }
}

#[test]
fn corrupt_flips_one_bit() {
    let token = Token::new();
    let mut user = token.user();
    for (function, command) in [
        ("C_Encrypt", "encrypt"),
        ("C_WrapKey", "wrap"),
        ("C_GetAttributeValue", "value"),
        ("C_Digest", "digest"),
        ("C_DigestFinal", "digest-parts"),
    ] {
        let good = user.bytes(command);
        token.set(&format!("{function} times=1 corrupt"));
        let bad = user.bytes(command);
        assert_eq!(good.len(), bad.len(), "{function}");
        let flipped: u32 = good.iter().zip(&bad).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!(flipped, 1, "{function}");
        assert_eq!(user.bytes(command), good, "{function}: once, and not on the length query");
    }
}

#[test]
fn truncate_gives_fewer_bytes() {
    let token = Token::new();
    let mut user = token.user();
    let good = user.bytes("encrypt");
    token.set("C_Encrypt truncate=3");
    assert_eq!(user.bytes("encrypt"), good[..29]);
}

#[test]
fn delay_and_latency_take_their_time() {
    let token = Token::new();
    let mut user = token.user();
    for rules in ["C_GenerateRandom delay=200ms", "token latency=200ms"] {
        token.set(rules);
        let began = Instant::now();
        user.expect("random", "ok");
        assert!(began.elapsed() >= Duration::from_millis(200), "{rules}");
    }
}

#[test]
fn a_stray_line_goes_to_standard_output() {
    let token = Token::new();
    let mut user = token.user();
    token.set("C_GenerateRandom times=1 stray");
    assert_eq!(user.ask("random"), "faulty-module: a stray line");
    assert!(user.answer().starts_with("ok "));
}

#[test]
fn rules_that_are_wrong_leave_the_old_ones_in_force() {
    let token = Token::new();
    let mut user = token.user();
    token.set("C_GenerateRandom return=CKR_DEVICE_ERROR");
    assert!(token.control.set("C_GenerateRandom retrun=CKR_OK").is_err());
    user.expect("random", "DeviceError");
}

#[test]
fn a_wrong_environment_is_said_in_one_line() {
    let token = Token::new();
    for (name, value, wanted) in [
        ("FAULTY_MODULE", "", "FAULTY_MODULE is not set: set it to the path"),
        ("FAULTY_CONTROL", "", "FAULTY_CONTROL is not set"),
        ("FAULTY_CONTROL", "/nowhere", "is no directory: make it first"),
        ("FAULTY_MODULE", "/nowhere.so", "cannot be loaded"),
        ("FAULTY_MODULE", module().to_str().unwrap(), "this module itself"),
        ("FAULTY_MECHANISMS", "2109", "write them like 2109:1036"),
    ] {
        let mut tool = token.command("pkcs11-tool");
        tool.arg("--module").arg(module()).arg("-L").env(name, value);
        let done = tool.stdin(Stdio::null()).output().expect("pkcs11-tool, of the package opensc");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success());
        assert!(said.lines().any(|line| line.contains(wanted)), "{name}={value}: {said}");
    }
}

#[test]
fn mechanism_numbers_are_translated_both_ways() {
    let token = Token::new();
    let mut plain = token.user();
    let blob = plain.bytes("wrap");
    let translating = |map: &str| {
        let mut command = token.command(common::example("caller"));
        command.env("FAULTY_MECHANISMS", map);
        let mut user = Caller::start(command);
        user.all(&["init", "open"]);
        user.expect(&format!("login {PIN}"), "ok");
        user
    };
    // What asks for key wrap gets key wrap with padding, whose blob is another.
    let mut user = translating("2109:210a");
    let other = user.bytes("wrap");
    assert!(other.len() == blob.len() && other != blob);
    // ECB is asked for as key wrap, by which this token does not encrypt.
    let mut user = translating("1081:2109");
    user.expect("encrypt", "MechanismInvalid EncryptInit");
    // The list shows the caller's numbers: what is ECB there is another one here.
    let mut user = translating("7fff:1081");
    user.expect("mechanisms", "ok true false");
    plain.expect("mechanisms", "ok true true");
}

#[test]
fn the_program_steers_from_a_shell() {
    let token = Token::new();
    let directory = token.control.environment(&common::real())[1].1.clone();
    let run = |words: &[&str]| {
        let mut tool = token.command(env!("CARGO_BIN_EXE_faulty-module"));
        let done = tool.args(words).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.code(), text(done.stdout), text(done.stderr))
    };
    let directory = directory.to_str().unwrap();
    assert_eq!(run(&["set", directory, "C_GenerateRandom return=0x30"]).0, Some(0));
    let mut user = token.user();
    user.expect("random", "DeviceError");
    let (_, counts, _) = run(&["counts", directory]);
    assert!(counts.contains("C_GenerateRandom 1\n") && counts.contains("strikes 1\n"), "{counts}");
    let (code, _, said) = run(&["set", directory, "C_Sing hang"]);
    assert!(code == Some(1) && said.contains("did you mean C_Sign?"), "{said}");
    let rules = format!("{directory}/rules");
    assert_eq!(run(&["check", &rules]).0, Some(0));
    assert_eq!(run(&["clear", directory]).0, Some(0));
    user.expect("random", "ok");
    assert_eq!(run(&["reset", directory]).0, Some(0));
    assert!(run(&["counts", directory]).1.starts_with("failed-pins 0\n"));
    assert_eq!(run(&["counts", "/nowhere"]).0, Some(1));
    assert_eq!(run(&["set", directory]).0, Some(2));
    assert!(Control::new(directory).unwrap().failed_pins() == 0);
}
