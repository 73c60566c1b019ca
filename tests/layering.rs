//! How the source is laid out. One crate means that the compiler stops no upward `use`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, and what each may use beside itself. A room is a file or folder of `src`;
/// `room::part` allows that part alone.
const ALLOWED: &[(&str, &[&str])] = &[
    // Leaves: they use nothing, or a leaf.
    ("algorithm", &[]),
    ("generation", &[]),
    ("memory", &[]),
    ("metrics", &[]),
    ("notify", &[]),
    ("proto", &[]),
    ("secret", &[]),
    ("state", &[]),
    ("timestamp", &[]),
    ("config", &["secret"]),
    // It reads nothing of a request: whoever knows tells it.
    ("audit", &["config", "metrics"]),
    // Bytes go down: server, service, keyring, token, and over a socketpair to the worker.
    ("server", &["audit", "config"]),
    (
        "service",
        &[
            "algorithm",
            "audit",
            "grpc_status",
            "health",
            "keyring",
            "metrics",
            "proto",
            "secret",
            "server::peer",
        ],
    ),
    ("grpc_status", &["keyring", "token"]),
    ("health", &["algorithm", "audit", "keyring", "notify", "secret", "token"]),
    ("keyring", &["algorithm", "generation", "secret", "state", "timestamp", "token"]),
    ("token", &["algorithm", "config", "generation", "metrics", "secret"]),
    (
        "worker",
        &[
            "algorithm",
            "config",
            "generation",
            "memory",
            "secret",
            "timestamp",
            "token::frame",
            "token::protocol",
        ],
    ),
    // Beside them: those who watch, and what is stored.
    ("monitor", &["config", "health", "keyring", "metrics", "server", "timestamp", "token"]),
    ("usage", &["config", "proto"]),
    // Above them all: the command line. Only `commands` sees every room.
    ("client", &["config", "proto"]),
    ("cli", &["config", "token::protocol"]),
    ("logging", &["cli"]),
    ("main", &[]),
];

/// Files that hold the unsafe code, or a module that does: a `forbid` there would forbid it.
const MAY_NOT_FORBID: &[&str] = &["lib.rs", "main.rs", "proto.rs", "worker/mod.rs", UNSAFE];
const UNSAFE: &str = "worker/ffi.rs";

/// Most lines of a file, its tests not counted.
const LONGEST: usize = 400;

/// Names of vendors and their products, which belong into profiles.
const VENDORS: &[&str] = &[
    "softhsm",
    "luna",
    "thales",
    "safenet",
    "nshield",
    "entrust",
    "ncipher",
    "yubihsm",
    "yubico",
    "nethsm",
    "nitrokey",
    "utimaco",
    "cloudhsm",
    "fortanix",
    "primus",
    "securosys",
    "kryoptic",
    "opencryptoki",
    "softokn",
    "nss",
    "tpm2",
];

/// Every file of the source by its path under `src`, without its tests.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let is_test = name.ends_with("/tests.rs") || name.contains("/tests/");
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !is_test {
                let text = fs::read_to_string(&path).unwrap();
                let end = text.find("\n#[cfg(test)]\n").unwrap_or(text.len());
                found.insert(name, text[..end].to_owned());
            }
        }
    }
    assert!(found.len() > 40, "the source was not found");
    found
}

/// The lines of code: without those that are comments, and without what follows one.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| line.split_once(" // ").map_or(line, |(code, _)| code))
}

/// `server/socket.rs` and `server/mod.rs` are of the room `server`.
fn room(file: &str) -> &str {
    let end = file.find(['/', '.']).unwrap();
    &file[..end]
}

/// The paths that a file takes from the crate: `token::protocol`, or only `config`.
fn uses(text: &str) -> BTreeSet<String> {
    let code: String = code(text).collect::<Vec<_>>().join("\n");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    for (place, _) in code.match_indices("crate::") {
        let rest = &code[place + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            // `use crate::{logging, worker};`: no braces within.
            let group = &group[..group.find('}').unwrap()];
            assert!(!group.contains('{'), "write nested groups on lines of their own: {group}");
            found.extend(group.split(',').map(|name| name.trim().to_owned()));
            continue;
        }
        let parts = rest.split("::").take(2).map_while(|part| {
            let end = part.find(|c| !is_name(c)).unwrap_or(part.len());
            (end > 0).then(|| (&part[..end], end == part.len()))
        });
        let mut path = Vec::new();
        for (name, goes_on) in parts {
            path.push(name);
            if !goes_on {
                break;
            }
        }
        found.insert(path.join("::"));
    }
    found.retain(|path| !path.is_empty());
    found
}

#[test]
fn rooms_depend_only_downwards() {
    let mut breaches = Vec::new();
    for (file, text) in sources() {
        let from = room(&file);
        // These two are there to see all.
        if matches!(from, "lib" | "commands") || file == "main.rs" {
            continue;
        }
        let (_, allowed) = ALLOWED
            .iter()
            .find(|(name, _)| *name == from)
            .unwrap_or_else(|| panic!("{file}: tell tests/layering.rs what this room may use"));
        for path in uses(&text) {
            let to = path.split("::").next().unwrap();
            let fits = |rule: &&str| [path.as_str(), to].contains(rule);
            if to != from && !allowed.iter().any(fits) {
                breaches.push(format!("{file} uses {path}"));
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// `super` must not be a way around: from a room's own file it leads to the other rooms.
#[test]
fn no_room_reaches_another_by_super() {
    for (file, text) in sources() {
        let depth = file.matches('/').count();
        let is_folder = file.ends_with("/mod.rs");
        let out = "super::".repeat(depth + usize::from(!is_folder));
        let reaches = code(&text).any(|line| line.contains(&out));
        assert!(!reaches, "{file} leaves its room by {out}");
    }
}

#[test]
fn unsafe_code_is_in_one_file() {
    for (file, text) in sources() {
        let mut lines = code(&text).map(str::trim).filter(|line| !line.is_empty());
        let first = lines.next().unwrap();
        if MAY_NOT_FORBID.contains(&file.as_str()) {
            assert!(file == UNSAFE || !text.contains("allow(unsafe_code"), "{file}");
        } else {
            assert_eq!(first, "#![forbid(unsafe_code)]", "{file} must begin with it");
        }
        let word = |line: &str| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|it| it == "unsafe")
        };
        if file != UNSAFE {
            assert!(!code(&text).any(word), "{file} has unsafe code");
        }
    }
}

#[test]
fn no_file_is_long() {
    for (file, text) in sources() {
        let lines = text.lines().count();
        assert!(
            lines <= LONGEST,
            "{file} has {lines} lines without its tests, more than {LONGEST}"
        );
    }
}

#[test]
fn vendors_are_named_in_profiles_alone() {
    for (file, text) in sources() {
        if file == "config/profile.rs" {
            continue;
        }
        for line in code(&text) {
            let lower = line.to_ascii_lowercase();
            let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric());
            let named = words.find(|word| VENDORS.contains(word));
            assert_eq!(named, None, "{file}: {line}");
        }
    }
}

/// tonic ends at the service, cryptoki never leaves the worker.
#[test]
fn foreign_types_stay_in_their_rooms() {
    let homes: &[(&str, &[&str])] = &[
        ("cryptoki", &["worker"]),
        ("cryptoki_sys", &["worker"]),
        ("tonic", &["service", "grpc_status", "server", "client", "commands", "proto", "usage"]),
        ("hyper", &["client", "monitor", "server"]),
        ("metrics_exporter_prometheus", &["metrics"]),
        ("metrics_process", &["metrics"]),
        ("aes_kw", &["worker"]),
    ];
    for (file, text) in sources() {
        for (library, rooms) in homes {
            let inside = rooms.contains(&room(&file));
            let path = format!("{library}::");
            let named = |line: &str| {
                line.match_indices(&path).any(|(place, _)| {
                    let before = line[..place].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                })
            };
            assert!(inside || !code(&text).any(named), "{file} uses {library}");
        }
    }
}

/// The checks themselves see what they should.
#[test]
fn a_planted_breach_is_caught() {
    let text = "//! [`crate::worker`]\nuse crate::token::protocol::Setup;\nlet x = crate::config::y();\nuse crate::{logging, worker};\n// crate::cli\n";
    let found = uses(text);
    let expected = ["config::y", "logging", "token::protocol", "worker"];
    assert_eq!(found, expected.map(str::to_owned).into());
}
