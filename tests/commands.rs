//! The commands that make and print things, and how commands end.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use common::token::{GOOD, PIN, Token};
use common::{names, set};
use serde_json::{Value, json};

#[test]
fn key_generate_makes_the_next_generation_never_to_be_extracted() {
    let token = Token::new();
    let first = token.run(&["key", "generate", "--output", "json"]);
    first.expect(0, &[]);
    let first = first.json();
    assert_eq!((&first["label"], &first["generation"]), (&json!("k8s-kek-0001"), &json!(1)));
    let second = token.run(&["key", "generate", "--output", "json"]).json();
    assert_eq!((&second["label"], &second["generation"]), (&json!("k8s-kek-0002"), &json!(2)));
    for (made, state) in [(&first, "active"), (&second, "pre-active")] {
        let attributes = &made["attributes"];
        for (name, wanted) in [
            ("value-len", json!(32)),
            ("token", json!(true)),
            ("private", json!(true)),
            ("sensitive", json!(true)),
            ("always-sensitive", json!(true)),
            ("extractable", json!(false)),
            ("never-extractable", json!(true)),
            ("local", json!(true)),
            ("wrap", json!(true)),
            ("unwrap", json!(true)),
        ] {
            assert_eq!(attributes[name], wanted, "{name} in {attributes}");
        }
        assert_eq!(made["problems"], json!([]));
        assert_eq!(made["state"], state);
    }
    assert_ne!(first["key-id"], second["key-id"]);

    let text = token.run(&["key", "generate"]);
    text.expect(0, &[]);
    assert!(text.stdout.contains("made KEK \"k8s-kek-0003\" (generation 3)"), "{text:?}");
    assert!(!text.stdout.contains(PIN) && !text.stderr.contains(PIN));
}

#[test]
fn key_generate_goes_on_after_the_highest_even_a_refused_one() {
    let token = Token::new();
    token.keygen("k8s-kek-0041", "AES:32", &[GOOD, &["--extractable"]].concat());
    let made = token.run(&["key", "generate", "--output", "json"]).json();
    assert_eq!(made["label"], "k8s-kek-0042");
    let other = ["--set", "keyring.label=other", "key", "generate", "--output", "json"];
    assert_eq!(token.run(&other).json()["label"], "other-0001");
}

#[test]
fn key_list() {
    let token = Token::new();
    let none = token.run(&["key", "list"]);
    none.expect(0, &[]);
    assert!(none.stdout.contains("p11-kms key generate"), "{none:?}");
    assert_eq!(token.run(&["key", "list", "--output", "json"]).json(), json!([]));

    token.run(&["key", "generate"]).expect(0, &[]);
    token.run(&["key", "generate"]).expect(0, &[]);
    let list = token.run(&["key", "list", "--output", "json"]).json();
    let lines = list.as_array().unwrap();
    assert_eq!(lines.len(), 2);
    for line in lines {
        let wanted = set([
            "generation",
            "label",
            "state",
            "key-id",
            "key-id-hash",
            "attributes",
            "problems",
        ]);
        assert!(names(line).is_superset(&wanted), "{line}");
        let key_id = line["key-id"].as_str().unwrap();
        assert_eq!(key_id.len(), 64);
        assert!(key_id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{line}");
        let hash = p11_kms::keyring::metrics_label(key_id);
        assert_eq!(line["key-id-hash"], hash);
        assert!(hash.starts_with("sha256:"));
    }
    assert_eq!((&lines[0]["state"], &lines[0]["generation"]), (&json!("deactivated"), &json!(1)));
    assert_eq!((&lines[1]["state"], &lines[1]["generation"]), (&json!("active"), &json!(2)));

    let text = token.run(&["key", "list"]).stdout;
    for line in lines {
        for part in ["label", "key-id", "key-id-hash", "state"] {
            assert!(text.contains(line[part].as_str().unwrap()), "{part} in {text}");
        }
    }
    assert!(text.contains("never-extractable"), "{text}");
}

#[test]
fn encryption_config() {
    let token = Token::without_token();
    let yaml = token.run(&["encryption-config"]);
    yaml.expect(0, &[]);
    let expected = format!(
        "apiVersion: apiserver.config.k8s.io/v1\n\
         kind: EncryptionConfiguration\n\
         resources:\n  \
           - resources:\n      \
               - \"secrets\"\n    \
             providers:\n      \
               - kms:\n          \
                   apiVersion: v2\n          \
                   name: \"p11-kms\"\n          \
                   endpoint: {:?}\n          \
                   timeout: 3s\n      \
               - identity: {{}}\n",
        token.endpoint()
    );
    assert_eq!(yaml.stdout, expected);

    let mut line = vec!["encryption-config", "--output", "json", "--name", "other"];
    line.extend(["--resources", "secrets,configmaps", "--no-identity"]);
    line.extend(["--endpoint", "unix:///@kms"]);
    let document = token.run(&line).json();
    let kms = json!({
        "kms": {"apiVersion": "v2", "name": "other", "endpoint": "unix:///@kms", "timeout": "3s"}
    });
    assert_eq!(
        document,
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["secrets", "configmaps"], "providers": [kms]}],
        })
    );
    let bad_name = ["encryption-config", "--name", "a:b"];
    assert_eq!(token.run(&bad_name).code(), Some(2));
}

#[test]
fn wrong_usage_ends_with_2() {
    let token = Token::without_token();
    for line in [
        ["nonsense"].as_slice(),
        &[],
        &["key"],
        &["key", "nonsense"],
        &["status", "--endpoint", "http://localhost"],
        &["status", "--timeout", "soon"],
        &["serve", "--output", "xml"],
        &["serve", "--set", "nonsense"],
        &["serve", "--log", "p11_kms=loud"],
    ] {
        let ended = token.run(line);
        assert_eq!(ended.code(), Some(2), "{line:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{line:?}");
    }
    for line in [["--help"].as_slice(), &["--version"], &["key", "--help"]] {
        assert_eq!(token.run(line).code(), Some(0), "{line:?}");
    }
}

#[test]
fn the_general_flags_stand_before_and_after_the_command() {
    let token = Token::with_kek();
    let config = token.config();
    let config = config.to_str().unwrap();
    let general = ["--config", config, "--output", "json", "--log-format", "text"];
    let before = general.iter().chain(&["key", "list"]);
    let after = ["key", "list"].iter().chain(&general);
    let between = ["key"].iter().chain(&general).chain(&["list"]);
    for line in [before.collect::<Vec<_>>(), after.collect(), between.collect()] {
        let mut command = token.bare_command();
        command.args(&line);
        let ended = common::process::run(command);
        ended.expect(0, &[]);
        assert_eq!(ended.json()[0]["generation"], 1, "{line:?}");
    }
}

#[test]
fn json_has_standard_output_for_itself_and_the_log_is_elsewhere() {
    let token = Token::with_kek();
    for line in [["key", "list"].as_slice(), &["check"], &["key", "generate"]] {
        let loud = ["--output", "json", "--log", "debug", "--log-format", "json"];
        let ended = token.run(&[line, &loud].concat());
        ended.expect(0, &[]);
        assert!(!ended.json().is_null(), "{line:?}");
        let mut log = ended.stderr.lines();
        assert!(log.clone().count() > 0, "{line:?} logged nothing");
        assert!(log.all(|line| serde_json::from_str::<Value>(line).is_ok()), "{ended:?}");
    }
}
