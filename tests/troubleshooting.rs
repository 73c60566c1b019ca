//! `docs/troubleshooting.md` has every message of the daemon by its fixed words.

#![allow(clippy::unwrap_used, reason = "the helpers are part of the tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = "docs/troubleshooting.md";

/// Messages that are the words of an error and nothing else stand in these files, and what such
/// an error says comes from [`CAUSES`]. One in another file: add where its words come from.
const PASSED_ON: &[&str] =
    &["commands/serve.rs", "keyring/mod.rs", "keyring/tell.rs", "token/supervisor.rs"];

/// Files, and rooms, whose sentences come into the log or into Status by way of an error.
const CAUSES: &[&str] = &[
    "audit/",
    "config/pin.rs",
    "health.rs",
    "keyring/",
    "memory.rs",
    "service.rs",
    "state.rs",
    "token/",
    "worker/",
];

/// Within those: what only a command says.
const OF_COMMANDS: &[&str] =
    &["audit/verify.rs", "worker/import.rs", "worker/inspect.rs", "worker/known_answer.rs"];

/// What is no message at all.
const NOT_SAID: &[&str] = &["p11-kms KEK fingerprint constant", "a fingerprint of 40 bytes"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Every file of the source by its path under `src`, without its tests.
fn sources() -> BTreeMap<String, String> {
    let root = root().join("src");
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.contains("tests") && name != "keyring/model.rs"
            {
                let text = fs::read_to_string(&path).unwrap();
                let end = text.find("\n#[cfg(test)]\n").unwrap_or(text.len());
                found.insert(name, text.get(..end).unwrap().to_owned());
            }
        }
    }
    assert!(found.len() > 40, "the source was not found");
    found
}

/// The string literals from the start of a piece of source on, each with what stands before it,
/// up to the last literal. With `call` only those up to the parenthesis that closes the first.
fn literals(text: &str, call: bool) -> Vec<(String, String)> {
    let (mut found, mut before, mut depth) = (Vec::new(), String::new(), 0_i32);
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '/' if chars.peek() == Some(&'/') => {
                while chars.next_if(|next| *next != '\n').is_some() {}
            }
            // A quotation mark by itself: '"'.
            '\'' if chars.peek() == Some(&'"') => drop(chars.nth(1)),
            '"' => {
                let mut literal = String::new();
                while let Some(char) = chars.next() {
                    match char {
                        '"' => break,
                        '\\' => match chars.next() {
                            Some('n') => literal.push('\n'),
                            Some('\n') => while chars.next_if(|it| it.is_whitespace()).is_some() {},
                            Some(other) => literal.push(other),
                            None => break,
                        },
                        other => literal.push(other),
                    }
                }
                found.push((std::mem::take(&mut before), literal));
                continue;
            }
            '(' => depth += 1,
            ')' => {
                depth -= 1;
                if call && depth == 0 {
                    break;
                }
            }
            _ => {}
        }
        before.push(char);
    }
    found
}

/// What of a message is always the same: the parts between the braces.
fn fixed(message: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0_u32);
    for char in message.chars() {
        match char {
            '{' => {
                depth += 1;
                parts.push(String::new());
            }
            '}' => depth = depth.saturating_sub(1),
            other if depth == 0 => parts.last_mut().unwrap().push(other),
            _ => {}
        }
    }
    let words = |part: &String| part.split_whitespace().collect::<Vec<_>>().join(" ");
    let ends = |char: char| matches!(char, ' ' | '.' | ',' | ';' | ':' | '"' | '(' | ')');
    let trimmed = parts.iter().map(words).map(|part| part.trim_matches(ends).to_owned());
    trimmed.filter(|part| part.chars().filter(|char| char.is_alphabetic()).count() > 2).collect()
}

/// The message of each `warn!` and `error!`: the longest literal in it.
fn messages(text: &str) -> Vec<String> {
    let begins = ["warn!(", "error!("].iter().flat_map(|it| text.match_indices(it));
    begins
        // compile_error! is no message.
        .filter(|(at, _)| !text.get(..*at).is_some_and(|before| before.ends_with('_')))
        .filter_map(|(at, _)| {
            let inside = literals(text.get(at..)?, true);
            inside.into_iter().map(|(_, literal)| literal).max_by_key(String::len)
        })
        .collect()
}

/// The sentences of a file: parts of literals with at least four words.
fn sentences(text: &str) -> Vec<String> {
    let said = literals(text, false);
    let said = said.into_iter().filter(|(before, _)| !before.trim_end().ends_with("reason ="));
    said.flat_map(|(_, literal)| fixed(&literal))
        .filter(|part| part.split(' ').count() > 3)
        .collect()
}

/// Everything that must be in the document, by the file that says it.
fn wanted() -> Vec<(String, String)> {
    let mut wanted = Vec::new();
    for (file, text) in sources() {
        let mut add = |part| wanted.push((file.clone(), part));
        for message in messages(&text) {
            let parts = fixed(&message);
            assert!(
                !parts.is_empty() || PASSED_ON.contains(&file.as_str()),
                "{file} logs an error's own words: {message:?}. See PASSED_ON"
            );
            parts.into_iter().for_each(&mut add);
        }
        let is_cause = CAUSES.iter().any(|cause| file.starts_with(cause));
        if is_cause && !OF_COMMANDS.contains(&file.as_str()) {
            let said = sentences(&text).into_iter();
            said.filter(|part| !NOT_SAID.contains(&part.as_str())).for_each(&mut add);
        }
    }
    wanted
}

#[test]
fn every_message_is_explained() {
    let document = fs::read_to_string(root().join(DOCUMENT)).unwrap();
    let document = document.split_whitespace().collect::<Vec<_>>().join(" ");
    let missing: Vec<_> =
        wanted().into_iter().filter(|(_, part)| !document.contains(part.as_str())).collect();
    assert!(missing.is_empty(), "{DOCUMENT} lacks:\n{missing:#?}");
}

#[test]
fn messages_are_found() {
    let source = "warn!(\n  uid = 1, // a \"comment\"\n  \"no {what} at \\\n   all: {}\", join(\"; \")\n);\n\"x\"";
    assert_eq!(messages(source), ["no {what} at all: {}"]);
    assert_eq!(fixed("no {what} at all: {}"), ["at all"]);
    assert_eq!(messages("tracing::error!(\"{e}\")"), ["{e}"]);
    assert_eq!(fixed("{e}"), Vec::<String>::new());
    assert_eq!(sentences("f(\"one two three four\", \"one two\")"), ["one two three four"]);
    let wanted = wanted();
    assert!(wanted.len() > 100, "only {} messages were found", wanted.len());
    for known in
        ["the module hangs, its worker is replaced", "unhealthy", "more connections were refused"]
    {
        assert!(wanted.iter().any(|(_, part)| part.contains(known)), "{known}");
    }
}
