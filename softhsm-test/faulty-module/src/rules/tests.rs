use proptest::prelude::*;

use super::token::Lost;
use super::*;

fn good(text: &str) -> Rules {
    text.parse().unwrap()
}

fn bad(text: &str) -> String {
    text.parse::<Rules>().unwrap_err().to_string()
}

fn only(text: &str) -> Rule {
    let [rule] = <[_; 1]>::try_from(good(text).calls).unwrap();
    rule
}

#[test]
fn a_line_says_which_calls_when_and_what() {
    let rule = only("C_WrapKey,C_UnwrapKey times=2 after=3 return=CKR_DEVICE_ERROR # why");
    assert!(rule.is_for(Function::C_WrapKey) && rule.is_for(Function::C_UnwrapKey));
    assert!(!rule.is_for(Function::C_Encrypt));
    assert_eq!(rule.when, When { after: 3, every: 1, times: Some(2) });
    assert_eq!(rule.faults.end, Some(End::Return(Code(0x30))));
}

#[test]
fn empty_lines_and_comments_are_no_rules() {
    assert_eq!(good("\n  # only this\n\t\n"), Rules::default());
}

#[test]
fn neither_group_has_the_way_in() {
    for text in ["* hang", "device hang"] {
        assert!(!only(text).is_for(Function::C_GetFunctionList), "{text}");
        assert!(only(text).is_for(Function::C_Login), "{text}");
    }
    assert!(only("* hang").is_for(Function::C_Initialize));
    assert!(!only("device hang").is_for(Function::C_Initialize));
}

#[test]
fn a_number_is_a_return_value_too() {
    assert_eq!(only("* return=0x30"), only("* return=CKR_DEVICE_ERROR"));
    assert_eq!(only("* return=0xce534351").faults.end, Some(End::Return(Code(0xce53_4351))));
}

#[test]
fn a_call_may_do_something_to_the_token() {
    let faults = only("C_Sign sessions-dropped logged-out lost=2s").faults;
    assert!(faults.sessions_dropped && faults.logged_out);
    assert_eq!(faults.lost, Some(Duration::from_secs(2)));
    assert_eq!(only("C_Sign lost").to_string(), "C_Sign lost");
}

#[test]
fn calls_are_counted_from_the_first_that_is_not_left_alone() {
    let struck = |text: &str| {
        let when = only(&format!("* stray {text}")).when;
        (1..=10).filter(|number| when.strikes(*number)).collect::<Vec<_>>()
    };
    assert_eq!(struck("after=8"), [9, 10]);
    assert_eq!(struck("times=2"), [1, 2]);
    assert_eq!(struck("every=4"), [4, 8]);
    assert_eq!(struck("after=1 every=3 times=2"), [4, 7]);
    assert_eq!(struck("times=2 every=3 after=1"), [4, 7]);
}

#[test]
fn token_lines_are_taken_together() {
    let token = good(
        "token lost return=CKR_TOKEN_NOT_PRESENT\ntoken pin-tries=3\ntoken latency=5ms\n\
         token pin-flags=count-low,final-try\ntoken sessions-dropped",
    )
    .token;
    assert_eq!(token.lost, Some(Lost { code: Code(0xe0), until_initialize: false }));
    assert_eq!(token.pin_tries, Some(3));
    assert_eq!(token.pin_flags, 0x0003_0000);
    assert_eq!(token.latency, Some(Duration::from_millis(5)));
    assert!(token.sessions_dropped && !token.logged_out);
    let lost = good("token lost-until-initialize").token.lost;
    assert_eq!(lost, Some(Lost { code: Code(0x32), until_initialize: true }));
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_what_would_be_right() {
    for (text, wanted) in [
        (
            "* stray\nC_WrapKy hang",
            "line 2: no function is called \"C_WrapKy\": did you mean C_WrapKey?",
        ),
        ("C_Wrap, hang", "did you mean"),
        ("devcie hang", "did you mean device?"),
        ("tokn lost", "did you mean token?"),
        ("C_GetFunctionList hang", "C_GetFunctionList cannot be struck"),
        ("C_GetInterface hang", "C_GetInterface cannot be struck"),
        ("C_Sign lost=2", "write it like 50ms"),
        ("C_Sign sessions-dropped=1", "sessions-dropped takes no value"),
        ("C_Sign", "does not say what to do"),
        ("C_Sign after=1", "does not say what to do"),
        ("C_Sign hng", "Did you mean hang?"),
        ("C_Sign hang=1", "hang takes no value"),
        ("C_Sign delay", "delay= needs a value"),
        ("C_Sign delay=5", "write it like 50ms"),
        ("C_Sign delay=2days", "at most a day"),
        ("C_Sign hang hang", "\"hang\" is there twice"),
        ("C_Sign hang every=0", "a number from 1 on"),
        ("C_Sign hang after=-1", "a number from 0 on"),
        ("C_Sign exit=256", "from 0 to 255"),
        ("C_Sign segv abort", "one way only"),
        ("C_Sign return=CKR_DEVICE_EROR", "did you mean CKR_DEVICE_ERROR?"),
        ("C_Sign return=0xzz", "write it like 0x30"),
        ("C_Verify corrupt", "corrupt is for functions that give out bytes: C_GetOperationState"),
        ("* corrupt", "corrupt is for functions"),
        ("C_GenerateRandom truncate=1", "truncate is for functions"),
        ("C_Encrypt corrupt segv", "no return, segv"),
        ("token", "token what?"),
        ("token losst", "did you mean token lost?"),
        (
            "token lost\ntoken lost-until-initialize",
            "line 2: token lost-until-initialize is there twice",
        ),
        ("token pin-tries=0", "a number from 1 on"),
        ("token pin-flags=low", "count-low, final-try, locked, to-be-changed"),
        ("token pin-refused return=CKR_OK", "token \"return=CKR_OK\" is unknown"),
    ] {
        let said = bad(text);
        assert!(said.contains(wanted), "{text:?} gives {said:?}, not {wanted:?}");
        assert!(!said.contains('\n'), "{said:?} is more than a line");
    }
    let many = "* stray\n".repeat(Rules::MOST + 1);
    assert!(bad(&many).starts_with("line 257: too many rules"));
}

/// Words of the language in any order: often nearly right, and now and then right.
fn soup() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "C_WrapKey",
        "C_Encrypt,C_WrapKey",
        "*",
        "device",
        "token",
        "lost",
        "after=1",
        "every=2",
        "times=3",
        "delay=1500ms",
        "hang",
        "lost=2s",
        "return=CKR_DEVICE_ERROR",
        "return=0x80000001",
        "after-return=CKR_OK",
        "segv",
        "abort",
        "exit=3",
        "corrupt",
        "truncate=2",
        "stray",
        "#",
        "lost-until-initialize",
        "sessions-dropped",
        "logged-out",
        "max-sessions=0",
        "pin-refused",
        "pin-tries=3",
        "pin-flags=locked,count-low",
        "latency=5ms",
        "\n",
        "=",
        ",",
    ]);
    prop::collection::vec(word, 0..8).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn any_text_is_rules_or_an_error(text in any::<String>()) {
        if let Err(error) = text.parse::<Rules>() {
            prop_assert!(error.to_string().starts_with("line "));
        }
    }

    #[test]
    fn rules_written_out_are_the_same_rules(text in soup()) {
        if let Ok(rules) = text.parse::<Rules>() {
            prop_assert_eq!(rules.to_string().parse::<Rules>(), Ok(rules));
        }
    }

    #[test]
    fn a_rule_with_any_numbers_is_the_same_when_written_out(
        after in 0..=u32::MAX, every in 1..=u32::MAX, times in 1..=u32::MAX,
        code in any::<u64>(), millis in 0_u64..86_400_000,
    ) {
        let text = format!(
            "device after={after} every={every} times={times} return=0x{code:x} delay={millis}ms"
        );
        let rules: Rules = text.parse().unwrap();
        prop_assert_eq!(rules.to_string().parse::<Rules>(), Ok(rules));
    }
}
