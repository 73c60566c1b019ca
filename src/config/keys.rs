//! The keys that a configuration may hold, and what to say about any other.

#![forbid(unsafe_code)]

use super::reference::{Key, PROFILE, SECTIONS};

/// What begins the name of every environment variable of ours.
pub(super) const PREFIX: &str = "P11_KMS_";

/// Variables that are flags or belong to tools, and no keys.
const FOREIGN: &[&str] = &["CONFIG", "OUTPUT", "LOG_FORMAT", "LOG", "CACHE"];

/// Beginnings of variables that are not ours to judge. A pod in a namespace with
/// a Service called p11-kms finds `..SERVICE_HOST`, `..PORT` and so on in its
/// environment; a daemon that refuses to start over these would be no help.
const FOREIGN_GROUPS: &[&str] = &["TEST_", "SERVICE_", "PORT_"];

const PIN_REASON: &str = "a PIN never stands in a configuration, a flag or the environment, where \
    others can see it: put it into a file and set token.pin-file, or use token.pin-credential";

/// The section of this name, or what to say instead.
pub(super) fn section(name: &str) -> Result<&'static str, String> {
    if let Some(known) = sections().find(|known| *known == name) {
        return Ok(known);
    }
    let homes = homes_of(name);
    if let Some(home) = homes.first() {
        return Err(format!("unknown here: it belongs under [{home}]"));
    }
    Err(match nearest(name, sections()) {
        Some(near) => format!("unknown section; did you mean [{near}]?"),
        None => format!("unknown section; there are {}", sections().collect::<Vec<_>>().join(", ")),
    })
}

/// Whether the section has this key; otherwise what to say.
pub(super) fn check(section: &str, key: &str) -> Result<(), String> {
    if keys_of(section).any(|known| known == key) {
        return Ok(());
    }
    if is_pin(key) {
        return Err(PIN_REASON.into());
    }
    if let Some(near) = nearest(key, keys_of(section)) {
        return Err(format!("unknown key; did you mean {}?", dotted(section, near)));
    }
    Err(match homes_of(key).first() {
        Some(home) => format!("unknown key; did you mean {home}.{key}?"),
        None => "unknown key: remove it".into(),
    })
}

/// The key that an environment variable sets: none for a variable that is not
/// ours, an error for one that looks like ours and matches nothing.
pub(super) fn of_variable(name: &str) -> Result<Option<(&'static str, &'static str)>, String> {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return Ok(None);
    };
    let foreign = |rest: &str| {
        FOREIGN.contains(&rest)
            || rest == "PORT"
            || FOREIGN_GROUPS.iter().any(|group| rest.starts_with(group))
    };
    if foreign(rest) {
        return Ok(None);
    }
    let all = || sections().flat_map(|section| keys_of(section).map(move |key| (section, key)));
    if let Some(found) = all().find(|(section, key)| variable(section, key) == name) {
        return Ok(Some(found));
    }
    let lower = rest.to_ascii_lowercase().replace('_', "-");
    if lower.split_once("--").is_some_and(|(_, key)| is_pin(key)) || is_pin(&lower) {
        return Err(PIN_REASON.into());
    }
    let names: Vec<String> = all().map(|(section, key)| variable(section, key)).collect();
    // Without what all have in common, which would excuse any difference.
    let ends = names.iter().filter_map(|name| name.strip_prefix(PREFIX));
    Err(match nearest(rest, ends) {
        Some(near) => format!("matches no key; did you mean {PREFIX}{near}?"),
        None => format!(
            "matches no key: write {PREFIX}SECTION__KEY, such as {}, or unset it",
            variable("token", "module")
        ),
    })
}

/// `P11_KMS_TOKEN__PIN_FILE` for `token.pin-file`.
fn variable(section: &str, key: &str) -> String {
    let name = format!("{PREFIX}{section}__{}", key.replace('-', "_"));
    name.to_ascii_uppercase()
}

fn sections() -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().map(|section| section.name)
}

fn keys_of(section: &str) -> impl Iterator<Item = &'static str> {
    let own = SECTIONS.iter().filter(move |known| known.name == section);
    // A profile itself is a file with no sections; its keys are those of "".
    let profile: &[Key] = if matches!(section, "token" | "") { PROFILE } else { &[] };
    own.flat_map(|section| section.keys).chain(profile).map(|key| key.name)
}

fn homes_of(key: &str) -> Vec<&'static str> {
    sections().filter(|section| keys_of(section).any(|known| known == key)).collect()
}

/// Whether a key is meant to be the PIN itself.
fn is_pin(key: &str) -> bool {
    let key = key.replace('_', "-");
    matches!(key.as_str(), "pin" | "pin-value" | "user-pin" | "so-pin" | "password")
}

/// `token.module`, or the key alone in a profile, which has no sections.
pub(super) fn dotted(section: &str, key: &str) -> String {
    if section.is_empty() { key.into() } else { format!("{section}.{key}") }
}

/// The candidate that a misspelt name probably means.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong; a very long name is no slip.
    let most = (name.len() / 3).clamp(1, 4);
    if name.len() > 64 {
        return None;
    }
    candidates
        .map(|candidate| (strsim::levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_met_with_the_right_one() {
        let error = |section, key| check(section, key).unwrap_err();
        assert!(error("token", "modul").contains("did you mean token.module?"));
        assert!(error("token", "call_timeout").contains("did you mean token.call-timeout?"));
        assert!(error("server", "allow-uid").contains("did you mean server.allow-uids?"));
        assert!(error("server", "module").contains("did you mean token.module?"));
        assert!(error("health", "colour").contains("unknown key: remove it"));
        assert!(error("", "metod").contains("did you mean method?"));
        assert!(section("tokens").unwrap_err().contains("did you mean [token]?"));
        assert!(section("module").unwrap_err().contains("belongs under [token]"));
        assert!(section("x-y-z").unwrap_err().contains("there are token, keyring, server"));
    }

    #[test]
    fn variables_name_keys() {
        assert_eq!(of_variable("PATH"), Ok(None));
        assert_eq!(of_variable("P11_KMS_TOKEN__MODULE"), Ok(Some(("token", "module"))));
        assert_eq!(of_variable("P11_KMS_TOKEN__KW_MECHANISM"), Ok(Some(("token", "kw-mechanism"))));
        assert_eq!(of_variable("P11_KMS_SERVER__ALLOW_UIDS"), Ok(Some(("server", "allow-uids"))));
        for ours in ["CONFIG", "OUTPUT", "LOG_FORMAT", "LOG", "CACHE", "TEST_X"] {
            assert_eq!(of_variable(&format!("{PREFIX}{ours}")), Ok(None));
        }
        for pods in ["SERVICE_HOST", "SERVICE_PORT_METRICS", "PORT", "PORT_9807_TCP_ADDR"] {
            assert_eq!(of_variable(&format!("{PREFIX}{pods}")), Ok(None));
        }
    }

    #[test]
    fn variables_that_match_no_key_are_refused() {
        let error = |name: &str| of_variable(name).unwrap_err();
        assert!(error("P11_KMS_TOKEN_MODULE").contains("did you mean P11_KMS_TOKEN__MODULE?"));
        assert!(error("P11_KMS_token__module").contains("matches no key"));
        assert!(error("P11_KMS_").contains("write P11_KMS_SECTION__KEY"));
        for pin in ["TOKEN__PIN", "PIN", "TOKEN__PIN_VALUE", "token__pin", "SERVER__PIN"] {
            assert!(error(&format!("{PREFIX}{pin}")).contains("token.pin-file"), "{pin}");
        }
    }
}
