//! `completions` and `man`: what packages install.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use common::process::{Ended, run};
use p11_kms::cli::Cli;
use tempfile::TempDir;

fn p11_kms(arguments: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p11-kms"));
    command.args(arguments);
    run(command)
}

/// Is that program here? A test that needs it says so if not.
fn has(program: &str) -> bool {
    let there = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .any(|folder| folder.join(program).exists());
    if !there {
        eprintln!("skipped: {program} is not installed");
    }
    there
}

/// Every command that shows, by its page's name, with its long flags that show.
fn commands() -> BTreeMap<String, Vec<String>> {
    fn collect(command: &clap::Command, name: &str, into: &mut BTreeMap<String, Vec<String>>) {
        let shown = command.get_arguments().filter(|it| !it.is_hide_set());
        let flags = shown.filter_map(|it| it.get_long()).map(|long| format!("--{long}"));
        into.insert(name.to_owned(), flags.collect());
        for below in command.get_subcommands().filter(|it| !it.is_hide_set()) {
            collect(below, &format!("{name}-{}", below.get_name()), into);
        }
    }
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut found = BTreeMap::new();
    collect(&command, "p11-kms", &mut found);
    assert!(found.contains_key("p11-kms-key-generate") && found["p11-kms-bench"].len() > 9);
    found
}

fn script(shell: &str) -> String {
    let ended = p11_kms(&["completions", shell]);
    ended.expect(0, &[]);
    ended.stdout
}

/// What bash offers after these words, the last of which is being typed.
fn offered(folder: &Path, words: &[&str]) -> Vec<String> {
    let script = folder.join("p11-kms.bash");
    fs::write(&script, self::script("bash")).unwrap();
    // As readline does it: the function of `complete -F`, with the words in COMP_WORDS.
    let ask = r#"
        source "$1" && shift || exit 10
        [[ $(complete -p p11-kms) =~ -F\ ([^ ]+) ]] || exit 11
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        COMPREPLY=()
        "${BASH_REMATCH[1]}" p11-kms "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut command = Command::new("bash");
    command.args(["--norc", "-c", ask, "bash"]).arg(&script).args(words);
    let ended = run(command);
    ended.expect(0, &[]);
    ended.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_flags() {
    if !has("bash") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let of = |words: &[&str]| offered(folder.path(), words);
    assert_eq!(of(&["p11-kms", "ser"]), ["serve"]);
    assert_eq!(of(&["p11-kms", "key", "gen"]), ["generate"]);
    assert_eq!(of(&["p11-kms", "bench", "--max"]), ["--max-sessions"]);
    assert_eq!(of(&["p11-kms", "bench", "--only", ""]), ["token", "socket", "storm"]);
    assert_eq!(of(&["p11-kms", "token-w"]), [""], "the hidden command is not offered");

    let mut command = Command::new("bash");
    command.arg("-n").arg(folder.path().join("p11-kms.bash"));
    let ended = run(command);
    ended.expect(0, &[]);
    assert_eq!(ended.stderr, "");
}

#[test]
fn every_shell_knows_every_command_and_flag() {
    for shell in ["bash", "zsh", "fish"] {
        let script = script(shell);
        assert_eq!(script, self::script(shell), "{shell}: not the same twice");
        assert!(!script.contains("token-worker"), "{shell}");
        for (name, flags) in commands() {
            let command = name.rsplit('-').next().unwrap();
            assert!(script.contains(command), "{shell} does not know {name}");
            for flag in flags {
                // fish: `-l flag`.
                let bare = flag.trim_start_matches('-');
                let known = script.contains(&flag) || script.contains(&format!("-l {bare} "));
                assert!(known, "{shell} does not know {flag} of {name}");
            }
        }
    }
    if has("zsh") {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("_p11-kms"), script("zsh")).unwrap();
        let mut command = Command::new("zsh");
        command.arg("-n").arg(folder.path().join("_p11-kms"));
        run(command).expect(0, &[]);
    }
    if has("fish") {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("p11-kms.fish"), script("fish")).unwrap();
        let mut command = Command::new("fish");
        command.arg("--no-execute").arg(folder.path().join("p11-kms.fish"));
        run(command).expect(0, &[]);
    }
}

/// The pages by their names.
fn pages(folder: &Path) -> BTreeMap<String, String> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().strip_suffix(".1").unwrap();
        (name.to_owned(), fs::read_to_string(&path).unwrap())
    };
    fs::read_dir(folder).unwrap().map(read).collect()
}

fn written() -> (TempDir, BTreeMap<String, String>) {
    let folder = TempDir::new().unwrap();
    let ended = p11_kms(&["man", folder.path().to_str().unwrap()]);
    ended.expect(0, &[]);
    assert_eq!(ended.stdout, "");
    let pages = pages(folder.path());
    (folder, pages)
}

#[test]
fn every_command_has_a_page_with_every_flag() {
    let (_folder, pages) = written();
    let commands = commands();
    let names: Vec<&String> = pages.keys().collect();
    assert_eq!(names, commands.keys().collect::<Vec<_>>());
    for (name, flags) in &commands {
        let page = pages[name].replace("\\-", "-");
        assert!(page.contains(&format!(".TH {name} 1 ")), "{name}");
        for flag in flags {
            assert!(
                page.contains(&format!("\\fB{flag}\\fR")),
                "{flag} is not in the page of {name}"
            );
        }
        // What a page refers to is a page.
        let words = page.split(|c: char| c.is_whitespace());
        for referred in words.filter_map(|word| word.strip_suffix("(1)")) {
            assert!(commands.contains_key(referred), "{name} refers to {referred}(1)");
        }
    }
    assert!(pages["p11-kms-key"].replace("\\-", "-").contains("p11-kms-key-generate(1)"));
    assert!(pages["p11-kms"].contains("Exit codes"));
}

#[test]
fn the_pages_are_the_same_wherever_they_are_made() {
    let (_folder, pages) = written();
    let folder = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_p11-kms"));
    command.arg("man").arg(folder.path()).env("TZ", "Asia/Tokyo").env("LANG", "C");
    command.env("P11_KMS_CONFIG", "/elsewhere").env("COLUMNS", "40").env("SOURCE_DATE_EPOCH", "0");
    run(command).expect(0, &[]);
    assert!(self::pages(folder.path()) == pages, "they depend on the environment");
    let main = p11_kms(&["man"]);
    main.expect(0, &[]);
    assert_eq!(main.stdout, pages["p11-kms"]);
}

#[test]
fn the_formatters_have_nothing_against_the_pages() {
    let (folder, pages) = written();
    // That no date is given, so that the pages can be made again.
    let wanted = |line: &&str| !line.is_empty() && !line.contains("missing date");
    let checks: [&[&str]; 3] = [
        &["mandoc", "-Tlint", "-W", "warning"],
        &["groff", "-man", "-ww", "-z", "-Tutf8"],
        &["man", "--warnings", "-l"],
    ];
    for check in checks.into_iter().filter(|check| has(check[0])) {
        for name in pages.keys() {
            let mut command = Command::new(check[0]);
            command.args(&check[1..]).arg(folder.path().join(format!("{name}.1")));
            command.env("LC_ALL", "C.UTF-8").env("MANPAGER", "cat");
            let ended = run(command);
            let output = if check[0] == "mandoc" {
                &ended.stdout
            } else {
                // mandoc ends badly for a warning that we let pass.
                ended.expect(0, &[]);
                &ended.stderr
            };
            let said: Vec<&str> = output.lines().filter(wanted).collect();
            assert!(said.is_empty(), "{check:?}: {said:?}");
        }
    }
}

#[test]
fn what_cannot_be_written_is_said() {
    let folder = TempDir::new().unwrap();
    let nowhere = folder.path().join("nowhere");
    p11_kms(&["man", nowhere.to_str().unwrap()]).expect(2, &["nowhere", "No such file"]);
    assert!(!nowhere.exists());
    p11_kms(&["completions"]).expect(2, &["SHELL"]);
    p11_kms(&["completions", "tcsh"]).expect(2, &["bash, zsh, fish"]);
}
