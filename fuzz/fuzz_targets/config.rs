//! The configuration. The input is a file's text, then perhaps a line `---` and lines
//! `NAME=VALUE`: environment variables if they begin with P11_KMS_, otherwise flags.

#![no_main]

use std::path::Path;

use libfuzzer_sys::{Corpus, fuzz_target};
use p11_kms::config::{Config, ConfigError, PinSource, Profile, TokenUri};
use p11_kms_fuzz::{SECRET, check_refusal, with_pin};

/// Every place that an error may name.
const PLACES: &[&str] = &["c.toml", "built-in profile ", "P11_KMS_", "command line"];

fuzz_target!(|input: &str| -> Corpus {
    let (text, more) = input.split_once("\n---\n").unwrap_or((input, ""));
    if reaches_outside(text, more) {
        return Corpus::Reject;
    }
    match parse(text, more) {
        Ok(config) => check_taken(&config),
        Err(error) => check_refusal(&error, PLACES),
    }
    // A flag may replace the value that the PIN ended up in, or hold the same word.
    if let Some(Err(error)) = with_pin(text).map(|text| parse(&text, more))
        && !more.contains(SECRET)
    {
        let error = error.to_string();
        assert!(!error.contains(SECRET), "{error}");
    }
    Corpus::Keep
});

/// What is taken keeps to its limits, lets nobody in by mistake, and comes to the worker unchanged.
fn check_taken(config: &Config) {
    let Config { token, keyring, server, health, metrics, .. } = config;
    assert!(token.module.is_absolute() && keyring.state_dir.is_absolute());
    assert_eq!(token.uri.to_string().parse().as_ref(), Ok(&token.uri));
    let json = serde_json::to_string(&(&token.uri, &token.pin, &token.profile)).unwrap();
    let (uri, pin, profile): (TokenUri, PinSource, Profile) = serde_json::from_str(&json).unwrap();
    assert_eq!((&uri, &pin, &profile), (&token.uri, &token.pin, &token.profile));
    assert!(profile.sessions > 0 && profile.workers > 0 && !profile.call_timeout.is_zero());
    assert!((1..=200).contains(&keyring.label.len()));
    assert!((1..=3600).contains(&keyring.scan_interval.as_secs()));
    assert!(keyring.activation_delay.as_secs() <= 86400);
    assert!(keyring.reinstate.is_none_or(|wanted| (1..=63).contains(&wanted.epoch)));
    assert_eq!(server.endpoint.to_string().parse().as_ref(), Ok(&server.endpoint));
    assert!(!server.allow_uids.is_empty() || !server.allow_gids.is_empty());
    assert_eq!((server.socket_mode | metrics.socket_mode) & !0o777, 0);
    assert_eq!(server.socket_mode & 0o007, 0, "others may get in");
    assert!((100..=60_000).contains(&server.request_timeout.as_millis()));
    assert!(server.queue_length > 0 && server.max_connections > 0 && server.max_streams > 0);
    assert!((1..=600).contains(&health.interval.as_secs()));
}

fn parse(text: &str, more: &str) -> Result<Config, ConfigError> {
    let (env, flags): (Vec<_>, Vec<_>) = more
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .partition(|(name, _)| name.starts_with("P11_KMS_"));
    let env = env.into_iter().map(|(name, value)| (name.into(), value.into()));
    Config::parse(Path::new("c.toml"), text, env, &flags)
}

/// A profile named by its path would be opened, and a user's name looked up, perhaps over the
/// network: neither is for a fuzzer to choose.
fn reaches_outside(text: &str, more: &str) -> bool {
    let reaches = |key: &str, value: &str| match key {
        "profile" => value.contains('/'),
        "socket-owner" | "socket-group" => value.bytes().any(|byte| !byte.is_ascii_digit()),
        _ => false,
    };
    let file = text.parse::<toml::Table>().unwrap_or_default();
    let mut in_file = file.values().filter_map(toml::Value::as_table).flatten();
    let mut in_lines = more.lines().filter_map(|line| line.split_once('='));
    in_file.any(|(key, value)| value.as_str().is_some_and(|value| reaches(key, value)))
        || in_lines.any(|(name, value)| {
            let name = name.to_ascii_lowercase().replace('_', "-");
            let key = name.rsplit(['.', '-']).next().unwrap_or_default();
            let key = if matches!(key, "owner" | "group") { "socket-owner" } else { key };
            reaches(key, value)
        })
}
