//! The profiles, and the guides to the tokens that they are for.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::{fs, iter};

use p11_kms::config::{Config, EcbMechanism, KekType, Login, Method, Profile, ValueLen};

use crate::document;

const FOLDER: &str = "docs/hsm";

fn profiles() -> impl Iterator<Item = Profile> {
    Profile::built_in_names().map(|name| Profile::built_in(name).unwrap())
}

/// Whether a config with this profile and `require-fips` is taken.
fn fips(profile: &Profile) -> &'static str {
    let text = format!(
        "[token]\nmodule = '/m.so'\nuri = 'pkcs11:token=t'\npin-file = '/pin'\n\
         profile = '{}'\nrequire-fips = true",
        profile.name
    );
    let taken = Config::parse(Path::new("c.toml"), &text, iter::empty(), &[]).is_ok();
    match (taken, profile.method) {
        (false, _) => "refused",
        (true, Method::Auto) => "taken, if the token's flags show key wrap",
        (true, _) => "taken",
    }
}

const fn tried(profile: &Profile) -> &'static str {
    if profile.verified { "**yes**" } else { "no" }
}

fn mechanism(number: u64) -> String {
    match number {
        0x2109 => "CKM_AES_KEY_WRAP (`0x2109`)".to_owned(),
        0x210B => "CKM_AES_KEY_WRAP_KWP (`0x210B`)".to_owned(),
        other => format!("`0x{other:X}`"),
    }
}

const fn name(method: Method) -> &'static str {
    match method {
        Method::Auto => "auto",
        Method::Object => "object",
        Method::Encrypt => "encrypt",
        Method::Ecb => "ecb",
    }
}

/// One of the two ways to wrap, in words.
fn way(profile: &Profile, method: Method, number: Option<u64>) -> String {
    let number = number.map(mechanism);
    let cipher = match profile.ecb_mechanism {
        EcbMechanism::Ecb => "CKM_AES_ECB",
        EcbMechanism::Cbc => "CKM_AES_CBC",
    };
    match (method, number) {
        (Method::Ecb, _) if profile.ecb_stream => {
            format!("`ecb`: on the host, over {cipher}, with C_EncryptUpdate")
        }
        (Method::Ecb, _) => format!("`ecb`: on the host, over {cipher}, a C_Encrypt a block"),
        (Method::Auto, Some(number)) => {
            format!("`auto`: {number} if the token's flags show it, otherwise `ecb` over {cipher}")
        }
        (Method::Auto, None) => format!("`auto`: without a number, so `ecb` over {cipher}"),
        (method, number) => format!("`{}`: {}", name(method), number.unwrap_or_default()),
    }
}

fn overview() -> String {
    let mut text = String::from(
        "| profile | tried by this project | RFC 3394 | RFC 5649 | `require-fips` | workers x sessions | record on the token |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for profile in profiles() {
        writeln!(
            text,
            "| [`{0}`]({0}.md) | {1} | `{2}` | `{3}` | {4} | {5} x {6} | {7} |",
            profile.name,
            tried(&profile),
            name(profile.method),
            name(profile.kwp_method),
            fips(&profile),
            profile.workers,
            profile.sessions,
            if profile.data_objects { "yes" } else { "no" },
        )
        .unwrap();
    }
    text
}

/// Numbers of errors, by what they mean.
fn errors(profile: &Profile) -> String {
    let kinds = [
        ("token lost", &profile.errors_token_lost),
        ("session lost", &profile.errors_session_lost),
        ("can mean anything", &profile.errors_ambiguous),
        ("damaged ciphertext", &profile.errors_bad_input),
        ("bad PIN", &profile.errors_pin),
    ];
    let told = kinds.iter().filter(|(_, numbers)| !numbers.is_empty()).map(|(what, numbers)| {
        let numbers: Vec<String> = numbers.iter().map(|it| format!("`0x{it:X}`")).collect();
        format!("{what}: {}", numbers.join(", "))
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() { "none".to_owned() } else { told.join("; ") }
}

fn yes(is: bool) -> String {
    (if is { "yes" } else { "no" }).to_owned()
}

fn facts(profile: &Profile) -> String {
    let paths: Vec<String> = profile.module_paths.iter().map(|path| format!("`{path}`")).collect();
    let rows = [
        ("for", profile.description.clone()),
        ("tried by this project", tried(profile).to_owned()),
        ("the module is usually", if paths.is_empty() { "-".to_owned() } else { paths.join(", ") }),
        ("RFC 3394, for seeds", way(profile, profile.method, Some(profile.kw_mechanism))),
        ("RFC 5649, for other lengths", way(profile, profile.kwp_method, profile.kwp_mechanism)),
        ("with `require-fips`", fips(profile).to_owned()),
        ("worker processes", profile.workers.to_string()),
        ("sessions in each", profile.sessions.to_string()),
        ("jobs sent ahead to a session", profile.pipeline_depth.to_string()),
        ("read-write sessions", yes(profile.read_write_sessions)),
        ("a seed's object is CKA_PRIVATE", yes(profile.seed_private)),
        (
            "CKA_VALUE_LEN in C_UnwrapKey",
            match profile.value_len {
                ValueLen::Require => "required",
                ValueLen::Forbid => "left out, the token refuses it",
                ValueLen::Optional => "left out",
            }
            .to_owned(),
        ),
        (
            "login",
            match (profile.login, profile.login_user_type) {
                (Login::None, _) => "none".to_owned(),
                (Login::User, None) => "CKU_USER".to_owned(),
                (Login::User, Some(number)) => format!("user type `0x{number:X}`"),
            },
        ),
        ("logins take turns on a host", yes(profile.login_lock)),
        ("keys of others show at once", yes(!profile.new_keys_need_initialize)),
        ("C_Finalize at the end", yes(profile.finalize)),
        ("p11-kms keeps its record on the token", yes(profile.data_objects)),
        ("a new KEK gets CKA_START_DATE", yes(profile.start_date)),
        ("a new KEK is denied what it does not need", yes(profile.deny_rights)),
        ("memory that the module frees is wiped", yes(profile.wipe_freed_memory)),
        (
            "a KEK is found as",
            match profile.key_type {
                KekType::Aes => "CKK_AES",
                KekType::GenericSecret => "CKK_GENERIC_SECRET",
            }
            .to_owned(),
        ),
        (
            "a worker is replaced after",
            profile
                .replace_after_objects
                .map_or_else(|| "never".to_owned(), |objects| format!("{objects} session objects")),
        ),
        ("longest call", humantime::format_duration(profile.call_timeout).to_string()),
        ("longest start", humantime::format_duration(profile.start_timeout).to_string()),
        ("CKR numbers beside the known ones", errors(profile)),
    ];
    let mut text = String::from("| what | in this profile |\n|---|---|\n");
    for (what, value) in rows {
        assert!(!value.contains('|'), "{what}: a | ends the cell");
        writeln!(text, "| {what} | {value} |").unwrap();
    }
    let file = format!("hsm-profiles/{}.toml", profile.name);
    writeln!(text, "\n[{file}](../../{file}) says where each of these comes from.").unwrap();
    text
}

fn banner(profile: &Profile) -> String {
    if profile.verified {
        "**Tried by this project:** its tests run on this token.".to_owned()
    } else {
        "**Not tried by this project as a whole.** What is written here comes from the named \
         sources. Run `p11-kms check` on your token, and try it before you trust it with data."
            .to_owned()
    }
}

#[test]
fn the_guides_say_what_the_profiles_say() {
    for profile in profiles() {
        let parts = [("verdict", banner(&profile)), ("profile", facts(&profile))];
        document::check(&format!("{FOLDER}/{}.md", profile.name), &parts);
    }
    document::check(&format!("{FOLDER}/README.md"), &[("overview", overview())]);
}

#[test]
fn each_profile_has_a_guide_and_each_guide_a_profile() {
    let entries = fs::read_dir(document::path(FOLDER)).unwrap();
    let found: BTreeSet<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let names = Profile::built_in_names().map(|name| format!("{name}.md"));
    assert_eq!(found, names.chain(["README.md".to_owned()]).collect());
}

/// The config that a guide shows is one that p11-kms takes, and has its profile.
#[test]
fn the_config_of_each_guide_is_a_good_one() {
    for name in Profile::built_in_names() {
        let file = format!("{FOLDER}/{name}.md");
        let text = document::read(&file);
        let samples: Vec<&str> = text
            .split("```toml\n")
            .skip(1)
            .map(|rest| rest.split("```").next().unwrap())
            .filter(|sample| sample.contains("[token]"))
            .collect();
        assert!(!samples.is_empty(), "{file} shows no [token]");
        for sample in samples {
            let config = Config::parse(Path::new(&file), sample, iter::empty(), &[]).unwrap();
            assert_eq!(config.token.profile.name, name, "{file}");
        }
    }
}
