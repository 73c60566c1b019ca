//! The keys of the configuration.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::iter;
use std::path::Path;

use p11_kms::config::reference::{Key, PROFILE, SECTIONS, Unset};
use p11_kms::config::{Config, Profile};

use crate::document;

const SAMPLE: &str = "systemd/config.toml";

/// What must be set, and nothing else, but for `without`; then a section more.
fn parse(without: &str, section: &str, line: &str) -> Result<Config, String> {
    let mut text = String::from("[token]\n");
    for required in ["module = '/m.so'", "uri = 'pkcs11:token=t'", "pin-file = '/pin'"] {
        if !required.starts_with(&format!("{without} =")) {
            writeln!(text, "{required}").unwrap();
        }
    }
    if section != "token" && !section.is_empty() {
        writeln!(text, "[{section}]").unwrap();
    }
    writeln!(text, "{line}").unwrap();
    Config::parse(Path::new("c.toml"), &text, iter::empty(), &[]).map_err(|error| error.to_string())
}

/// Every key by its section, those of a profile under `[token]`.
fn all() -> impl Iterator<Item = (&'static str, &'static Key)> {
    let own = SECTIONS.iter().flat_map(|it| it.keys.iter().map(move |key| (it.name, key)));
    own.chain(PROFILE.iter().map(|key| ("token", key)))
}

fn table(keys: &[Key]) -> String {
    let mut text = String::from("| key | default | meaning |\n|---|---|---|\n");
    for Key { name, default, meaning } in keys {
        assert!(!meaning.contains('|'), "{name}: a | ends the cell");
        let default = match default {
            Unset::Value(value) => format!("`{value}`"),
            Unset::Words(words) => (*words).to_owned(),
        };
        writeln!(text, "| `{name}` | {default} | {meaning} |").unwrap();
    }
    text
}

#[test]
fn the_tables_are_those_of_the_code() {
    let own = SECTIONS.iter().filter(|section| !section.keys.is_empty());
    let mut parts: Vec<_> = own.map(|section| (section.name, table(section.keys))).collect();
    parts.push(("profile", table(PROFILE)));
    document::check("docs/configuration.md", &parts);
}

#[test]
fn no_key_is_listed_twice() {
    let mut seen = BTreeSet::new();
    for (section, key) in all() {
        assert!(seen.insert((section, key.name)), "{section}.{}", key.name);
    }
}

/// To set a key to its default changes nothing.
#[test]
fn the_defaults_are_those_that_hold() {
    let usual = parse("", "", "").unwrap();
    let generic = Profile::parse("p", "").unwrap();
    for section in SECTIONS {
        for key in section.keys {
            let Unset::Value(value) = key.default else { continue };
            let line = format!("{} = {value}", key.name);
            let same = parse("", section.name, &line).unwrap() == usual;
            assert!(same, "{}: {line} is not what holds when it is not set", section.name);
        }
    }
    for key in PROFILE {
        let Unset::Value(value) = key.default else { continue };
        let profile = Profile::parse("p", &format!("{} = {value}", key.name)).unwrap();
        assert!(profile == generic, "{} = {value} is not what holds when it is not set", key.name);
    }
}

/// Where no value says what holds, nothing is set. A key more of this kind is a line more here.
#[test]
fn what_has_no_default_is_not_set() {
    let Config { token, keyring, server, metrics, audit, etcd, .. } = parse("", "", "").unwrap();
    let profile = &token.profile;
    let unset = [
        ("keyring.reinstate", keyring.reinstate.is_none()),
        ("server.socket-owner", server.socket_owner.is_none()),
        ("server.socket-group", server.socket_group.is_none()),
        ("metrics.listen", metrics.listen.is_none()),
        ("audit.file", audit.is_none()),
        ("audit.on-failure", audit.is_none()),
        ("etcd.cacert", etcd.cacert.is_none()),
        ("etcd.cert", etcd.cert.is_none()),
        ("etcd.key", etcd.key.is_none()),
        ("etcd.snapshot", etcd.snapshot.is_none()),
        ("token.kwp-mechanism", profile.kwp_mechanism.is_none()),
        ("token.login-user-type", profile.login_user_type.is_none()),
        ("token.init-args", profile.init_args.is_none()),
    ];
    for (name, is_unset) in unset {
        assert!(is_unset, "{name}");
    }
    let required = ["token.module", "token.uri", "token.pin-file", "token.pin-credential"];
    for key in &required[..3] {
        let missing = key.strip_prefix("token.").unwrap();
        let error = parse(missing, "", "").unwrap_err();
        assert!(error.contains(&format!("{key}: missing")), "{error}");
    }
    let told: BTreeSet<String> = all()
        .filter(|(_, key)| matches!(key.default, Unset::Words(_)))
        .map(|(section, key)| format!("{section}.{}", key.name))
        .collect();
    let known = unset.iter().map(|(name, _)| *name).chain(required);
    assert_eq!(told, known.map(str::to_owned).collect());
}

/// A date is a value that no key takes.
#[test]
fn every_key_is_read() {
    for (section, key) in all() {
        let without = if key.name == "pin-credential" { "pin-file" } else { key.name };
        let Err(error) = parse(without, section, &format!("{} = 2030-01-01", key.name)) else {
            panic!("{section}.{} is not read", key.name);
        };
        assert!(error.contains(&format!("{section}.{}: ", key.name)), "{error}");
        assert!(!error.contains("missing"), "{error}");
    }
}

/// The lines of the sample that set a key, also those that a `#` keeps from it: section, key
/// and value.
fn sample() -> Vec<(String, String, String)> {
    let (mut section, mut found) = (String::new(), Vec::new());
    for line in document::read(SAMPLE).lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        let is_name = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'-' | b'0'..=b'9'))
        };
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, value)) = line.split_once(" = ").filter(|(key, _)| is_name(key)) {
            let value = value.split(" #").next().unwrap().trim_end();
            found.push((section.clone(), key.to_owned(), value.to_owned()));
        }
    }
    found
}

#[test]
fn the_sample_has_every_key_with_its_default() {
    /// Those with an example instead.
    const EXAMPLES: &[(&str, &str)] = &[("token", "profile"), ("etcd", "endpoints")];
    let sample = sample();
    for section in SECTIONS {
        for key in section.keys {
            let lines =
                sample.iter().filter(|(it, name, _)| it == section.name && name == key.name);
            let values: Vec<&str> = lines.map(|(_, _, value)| value.as_str()).collect();
            let [value] = values[..] else {
                panic!("{SAMPLE} needs {}.{} once, and has {values:?}", section.name, key.name);
            };
            if let Unset::Value(default) = key.default
                && !EXAMPLES.contains(&(section.name, key.name))
            {
                assert_eq!(value, default, "{SAMPLE}: {}.{}", section.name, key.name);
            }
        }
    }
    for (section, key, _) in sample {
        let known = all().any(|(home, known)| home == section && known.name == key);
        assert!(known, "{SAMPLE}: there is no {section}.{key}");
    }
}
