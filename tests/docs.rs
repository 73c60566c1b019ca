//! The commands of the docs. Each `sh` block of README.md, CONTRIBUTING.md, SECURITY.md and docs/ has a mark in the line before it:
//!
//! ```text
//! <!-- run: SCENARIO, given FUNCTION, ends with CODE, says WORDS -->
//! <!-- run-not: why it cannot be run here -->
//! ```
//!
//! The blocks of one file and scenario are run in their order in one shell, by `softhsm-test/docs-check`.
//! The runbooks count as one file, in the order of their names: each is too short for a machine of its own.
//! `given` may be there more than once, and names what the text takes for granted: a function of
//! `given` or `trouble` in `softhsm-test/docs-machine/`, or a scenario of the README that begins with `installed_`. A block
//! that is not run is at least looked at: its syntax, the flags of p11-kms in it, and the files that it names.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers are part of the tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};

/// The scenarios of the README that others take for granted.
const INSTALLED: &str = "installed_";

/// The folder whose pages count as one.
const RUNBOOKS: &str = "docs/monitoring/runbooks";

fn main() -> ExitCode {
    let blocks: Vec<Block> = pages().iter().flat_map(|page| blocks(page)).collect();
    let scenarios: BTreeSet<(String, String)> = blocks.iter().filter_map(Block::scenario).collect();
    let can_run = can_run();
    let mut trials: Vec<Trial> = Vec::new();
    for (file, name) in scenarios {
        if name.starts_with(INSTALLED) {
            continue;
        }
        let script = script(&blocks, &file, &name);
        let trial = Trial::test(format!("run::{file}::{name}"), move || run(&script));
        trials.push(trial.with_ignored_flag(!can_run));
    }
    trials.push(Trial::test("every_block_has_a_mark", {
        let unmarked: Vec<String> =
            blocks.iter().filter(|block| block.mark.is_none()).map(Block::place).collect();
        move || told(&unmarked, "no mark before it that can be understood: <!-- run: ... --> or <!-- run-not: ... -->")
    }));
    trials.push(Trial::test("what_is_not_run_is_well_formed", move || {
        let wrong: Vec<String> = blocks.iter().flat_map(problems).collect();
        told(&wrong, "see above")
    }));
    trials.push(Trial::test("a_wrong_block_is_found", a_wrong_block_is_found));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn can_run() -> bool {
    let said = docs_check().arg("--can").output().unwrap();
    said.status.success()
}

fn docs_check() -> Command {
    let mut command = Command::new(root().join("softhsm-test/docs-check"));
    command.env("P11_KMS_BIN", env!("CARGO_BIN_EXE_p11-kms")).stdin(Stdio::null());
    command
}

fn told(wrong: &[String], what: &str) -> Result<(), Failed> {
    if wrong.is_empty() { Ok(()) } else { Err(format!("{}\n{what}", wrong.join("\n")).into()) }
}

/// The root of the checkout.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages of the root and every page of docs/, by their paths from the root.
fn pages() -> Vec<PathBuf> {
    let mut pages = ["CONTRIBUTING.md", "README.md", "SECURITY.md"].map(PathBuf::from).to_vec();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap().map(Result::unwrap) {
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

struct Block {
    file: String,
    /// Of its first fence, from 1.
    line: usize,
    mark: Option<Mark>,
    text: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum Mark {
    Run(Run),
    #[default]
    Not,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Run {
    scenario: String,
    given: Vec<String>,
    ends_with: Option<u8>,
    says: Vec<String>,
}

impl Block {
    fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    fn scenario(&self) -> Option<(String, String)> {
        let file = if self.file.starts_with(RUNBOOKS) { RUNBOOKS } else { &self.file };
        self.run().map(|run| (file.to_owned(), run.scenario.clone()))
    }

    fn run(&self) -> Option<&Run> {
        match &self.mark {
            Some(Mark::Run(run)) => Some(run),
            _ => None,
        }
    }
}

fn blocks(page: &Path) -> Vec<Block> {
    let file = page.display().to_string();
    blocks_of(&file, &fs::read_to_string(root().join(page)).unwrap())
}

fn blocks_of(file: &str, text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut before = "";
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(indent) = line.strip_suffix("```sh")
            && indent.trim().is_empty()
        {
            let body = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            let body = body.fold(String::new(), |mut body, line| {
                let _ = writeln!(body, "{}", line.strip_prefix(indent).unwrap_or(line));
                body
            });
            let mark = mark(before);
            found.push(Block { file: file.to_owned(), line: number + 1, mark, text: body });
        }
        before = line;
    }
    found
}

fn mark(line: &str) -> Option<Mark> {
    let words = line.trim().strip_prefix("<!-- ")?.strip_suffix(" -->")?;
    if let Some(why) = words.strip_prefix("run-not: ") {
        return (!why.trim().is_empty()).then_some(Mark::Not);
    }
    let mut clauses = words.strip_prefix("run: ")?.split(", ");
    let mut run = Run { scenario: clauses.next()?.to_owned(), ..Run::default() };
    for clause in clauses {
        if let Some(function) = clause.strip_prefix("given ") {
            run.given.push(function.to_owned());
        } else if let Some(code) = clause.strip_prefix("ends with ") {
            run.ends_with = Some(code.parse().ok()?);
        } else {
            run.says.push(clause.strip_prefix("says ")?.to_owned());
        }
    }
    Some(Mark::Run(run))
}

/// What the shell of `softhsm-test/docs-check` is given.
fn script(blocks: &[Block], file: &str, name: &str) -> String {
    let of = |scenario: &(String, String)| -> String {
        let of_it = |block: &&Block| block.scenario().as_ref() == Some(scenario);
        blocks.iter().filter(of_it).map(steps).collect()
    };
    let all: BTreeSet<(String, String)> = blocks.iter().filter_map(Block::scenario).collect();
    let functions = all.iter().filter(|(_, name)| name.starts_with(INSTALLED));
    let functions = functions.map(|scenario| format!("{}() {{\n{}}}\n", scenario.1, of(scenario)));
    functions.collect::<String>() + &of(&(file.to_owned(), name.to_owned()))
}

/// A block, with what its mark says. `block`, `ended_with` and `said` are in `docs-machine/given`.
fn steps(block: &Block) -> String {
    let Some(run) = block.run() else { return String::new() };
    let mut steps = String::new();
    for function in &run.given {
        let _ = writeln!(steps, "block '{}, given {function}'\n{function}", block.place());
    }
    let _ = writeln!(steps, "block '{}'", block.place());
    let (open, close) = if run.says.is_empty() { ("", "") } else { ("{\n", "} >/tmp/said 2>&1\n") };
    let _ = match run.ends_with {
        None => write!(steps, "{open}{}{close}", block.text),
        Some(code) => writeln!(
            steps,
            "set +e\n{open}{}{close}ended=$?\nset -e\nended_with {code}",
            block.text
        ),
    };
    if !run.says.is_empty() {
        steps.push_str("cat /tmp/said\n");
    }
    for words in &run.says {
        let _ = writeln!(steps, "said '{words}'");
    }
    steps
}

fn run(script: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("script");
    fs::write(&file, script)?;
    let output = docs_check().arg(file).output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}\n{said}", output.status).into()) }
}

/// What is wrong with a block that is not run.
fn problems(block: &Block) -> Vec<String> {
    if block.mark != Some(Mark::Not) {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    let syntax = Command::new("bash").args(["-n", "-c", &block.text]).output().unwrap();
    if !syntax.status.success() {
        wrong.push(format!("{}: {}", block.place(), String::from_utf8_lossy(&syntax.stderr)));
    }
    let one_line_each = block.text.replace("\\\n", " ");
    for line in one_line_each.lines() {
        let words: Vec<&str> = line.split('#').next().unwrap_or("").split_whitespace().collect();
        for (at, word) in words.iter().enumerate() {
            let rest = words.get(at + 1..).unwrap_or_default();
            // `runuser -u p11-kms` names the user.
            let is_user = at.checked_sub(1).and_then(|at| words.get(at)) == Some(&"-u");
            if ["p11-kms", "pk"].contains(word) && !is_user {
                wrong.extend(unknown(rest).map(|what| format!("{}: {what}", block.place())));
            }
            // A folder of ours that the text says to take a file from.
            let ours = ["softhsm-test/", "systemd/", "docs/", "fuzz/", "packaging/"];
            let path = word.trim_start_matches("./");
            if ours.iter().any(|folder| path.starts_with(folder)) && !root().join(path).exists() {
                wrong.push(format!("{}: there is no {path}", block.place()));
            }
        }
    }
    wrong
}

/// The first thing in a command line of p11-kms that its help does not have.
fn unknown(words: &[&str]) -> Option<String> {
    // What comes after it is another command's.
    let end = words.iter().position(|word| ["|", ">", "&&", ";", "2>&1"].contains(word));
    let words = words.get(..end.unwrap_or(words.len())).unwrap_or_default();
    let is_name = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let flags = words.iter().filter(|word| word.starts_with("--"));
    let names: Vec<&str> =
        words.iter().take_while(|word| is_name(word) && !word.starts_with('-')).copied().collect();
    let help = Command::new(env!("CARGO_BIN_EXE_p11-kms"))
        .args(names.iter().take(2))
        .arg("--help")
        .env_clear()
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&help.stdout);
    if !help.status.success() {
        return Some(format!("p11-kms has no command {names:?}"));
    }
    let mut flags = flags.map(|flag| flag.split('=').next().unwrap_or(flag));
    let known = |flag: &str| text.split_whitespace().any(|word| word.trim_end_matches(',') == flag);
    flags.find(|flag| !known(flag)).map(|flag| format!("p11-kms {} has no {flag}", names.join(" ")))
}

fn a_wrong_block_is_found() -> Result<(), Failed> {
    let not = |text: &str| Block {
        file: "page".into(),
        line: 1,
        mark: Some(Mark::Not),
        text: text.into(),
    };
    let good = [
        "runuser -u p11-kms -- p11-kms key rotate --if-older-than 90d | cat",
        "p11-kms usage --endpoints ...",
    ];
    let wrong = [
        "p11-kms key destroy 1 --force",
        "runuser -u p11-kms -- p11-kms rotate",
        "softhsm-test/no-such-script",
        "if true",
    ];
    let missed: Vec<&str> =
        wrong.into_iter().filter(|text| problems(&not(text)).is_empty()).collect();
    assert!(missed.is_empty(), "{missed:?}");
    for text in good {
        assert_eq!(problems(&not(text)), Vec::<String>::new());
    }
    let page = "- a list\n\n  ```sh\n  one\n    two\n  ```\n<!-- run: here, given it, ends with 4, says no -->\n```sh\nthree\n```\n<!-- run: here, whatever -->\n```sh\n```\n";
    let found: BTreeMap<usize, (String, Option<Mark>)> = blocks_of("page", page)
        .into_iter()
        .map(|block| (block.line, (block.text, block.mark)))
        .collect();
    let run = Run {
        scenario: "here".into(),
        given: vec!["it".into()],
        ends_with: Some(4),
        says: vec!["no".into()],
    };
    let expected = BTreeMap::from([
        (3, ("one\n  two\n".into(), None)),
        (8, ("three\n".into(), Some(Mark::Run(run)))),
        (12, (String::new(), None)),
    ]);
    assert_eq!(found, expected);
    Ok(())
}
