//! Holds `docs/failure-modes.md` against what is tried: its last column names rows of ours, or
//! tests elsewhere, and what it quotes must be what these ask for.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use libtest_mimic::Failed;

use crate::row::{Act, Load, Row, Status};
use crate::table;

const DOCUMENT: &str = "docs/failure-modes.md";

/// What callers may be told: as gRPC spells it, and as the client prints it.
const CODES: [(&str, &str); 7] = [
    ("DEADLINE_EXCEEDED", "DeadlineExceeded"),
    ("FAILED_PRECONDITION", "FailedPrecondition"),
    ("INVALID_ARGUMENT", "InvalidArgument"),
    ("NOT_FOUND", "NotFound"),
    ("PERMISSION_DENIED", "PermissionDenied"),
    ("RESOURCE_EXHAUSTED", "ResourceExhausted"),
    ("UNAVAILABLE", "Unavailable"),
];

/// A line of one of the document's tables.
struct Line<'a> {
    what: &'a str,
    log: &'a str,
    status: &'a str,
    callers: &'a str,
    tried: Vec<&'a str>,
    says_why_not: bool,
}

/// Everything that is not as it should be.
pub(crate) fn check() -> Result<(), Failed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(DOCUMENT)).unwrap();
    let lines = lines(&text);
    let mut problems: Vec<String> = lines.iter().flat_map(|line| line.problems(root)).collect();
    for row in table::rows() {
        if !lines.iter().any(|line| line.tried.contains(&row.name)) {
            problems.push(format!("no line has the row {}", row.name));
        }
    }
    if lines.len() < 40 {
        problems.push(format!("only {} lines were found", lines.len()));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n").into()) }
}

/// What is wrong is found: the check could not fail otherwise.
pub(crate) fn check_itself() -> Result<(), Failed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let good = "| x | `the worker process ` | `ok` | nothing | | `wrap-crashes` |\n";
    let wrong = [
        ("`ok`", "`no KEK is active`", "Status"),
        ("`ok`", "`the token is well`", "the token is well"),
        ("worker process", "worker proceeds", "worker proceeds"),
        ("nothing", "NOT_FOUND", "callers"),
        ("wrap-crashes", "wrap-smashes", "wrap-smashes"),
        ("`wrap-crashes`", "", "not tried"),
        ("`wrap-crashes`", "`tests/pins.rs`: `a_test_that_is_none...`", "a_test_that_is_none"),
    ];
    let said = |text: &str| lines(text)[0].problems(root).join("\n");
    let mut problems = vec![said(good)];
    problems.extend(wrong.into_iter().filter_map(|(from, to, words)| {
        let said = said(&good.replacen(from, to, 1));
        (!said.contains(words)).then(|| format!("{to} is taken: {said:?}"))
    }));
    problems.retain(|problem| !problem.is_empty());
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n").into()) }
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let cells = |line| {
        let line: &str = str::strip_prefix(line, "|")?.strip_suffix('|')?;
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [what, log, status, callers, _, tried] = cells[..] else { return None };
        let is_head = what == "what happens" || what.starts_with("---");
        let says_why_not = tried.starts_with("not tried: ");
        let tried = quoted(tried);
        (!is_head).then_some(Line { what, log, status, callers, tried, says_why_not })
    };
    text.lines().filter_map(cells).collect()
}

/// Is it a file with tests?
fn is_file(name: &str) -> bool {
    name.starts_with("tests/") || name.starts_with("src/")
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

impl Line<'_> {
    fn problems(&self, root: &Path) -> Vec<String> {
        let mut problems = Vec::new();
        let (mut rows, mut asked) = (Vec::<&Row>::new(), String::new());
        let mut source = String::new();
        for name in &self.tried {
            if is_file(name) {
                source = fs::read_to_string(root.join(name)).unwrap_or_default();
                asked.push_str(&literals(&source));
            } else if let Some(row) = table::rows().find(|row| row.name == *name) {
                rows.push(row);
            } else if *name != crate::RANDOM
                && !source.contains(&format!("fn {}", name.trim_end_matches("...")))
            {
                problems.push(format!("{name} is no row, and no test of the file before it"));
            }
        }
        if self.tried.is_empty() && !self.says_why_not {
            problems.push("it is not tried".to_owned());
        }
        rows.iter().flat_map(|row| words(row)).for_each(|words| {
            asked.push('\n');
            asked.push_str(words);
        });
        let told = quoted(self.log).into_iter().chain(quoted(self.status));
        for part in told.flat_map(fixed).filter(|part| !asked.contains(part)) {
            problems.push(format!("{part:?} is asked for by none of its tests"));
        }
        if !rows.is_empty() {
            problems.extend(self.callers_differ(&rows));
            problems.extend(self.status_differs(&rows));
        }
        problems.into_iter().map(|problem| format!("{:?}: {problem}", self.what)).collect()
    }

    fn callers_differ(&self, rows: &[&Row]) -> Option<String> {
        let told = CODES.iter().filter(|(code, _)| self.callers.contains(code));
        let told: BTreeSet<&str> = told.map(|(_, code)| *code).collect();
        let may: BTreeSet<&str> = rows.iter().flat_map(|row| row.may_see).copied().collect();
        // Where nobody calls, nobody sees anything.
        if rows.iter().all(|row| row.load == Load::NotDuring) {
            return None;
        }
        let has_tests = self.tried.iter().any(|name| is_file(name));
        let is_right = if has_tests { told.is_superset(&may) } else { told == may };
        (!is_right).then(|| format!("callers see {told:?}, and its rows allow {may:?}"))
    }

    fn status_differs(&self, rows: &[&Row]) -> Option<String> {
        let is_well = |row: &&&Row| matches!(row.status, Status::Well | Status::MaySay(_));
        let told = self.status.starts_with("`ok`");
        let anything = rows.iter().all(|row| row.status == Status::Anything);
        let is_right = anything || told == rows.iter().any(|row| is_well(&row));
        (!is_right).then(|| format!("Status is {:?}, and its rows ask for another", self.status))
    }
}

/// The words that a row asks for.
fn words(row: &Row) -> Vec<&'static str> {
    let status: &[&str] = match row.status {
        Status::Says(all) => all,
        Status::MaySay(words) => &[words],
        Status::Well | Status::Anything => &[],
    };
    let logged = row.begin.iter().filter_map(|act| match act {
        Act::Logged(words) => Some(*words),
        _ => None,
    });
    status.iter().chain(row.logs).copied().chain(logged).collect()
}

/// The parts of a quoted text that are always the same. Names and settings are no text.
fn fixed(text: &str) -> impl Iterator<Item = &str> {
    let is_text = text.contains(' ') && !text.contains(" = ");
    let parts = text.split("...").map(|part| part.trim_matches([' ', ':', ';', '(', ')']));
    parts.filter(move |part| is_text && part.contains(' '))
}

/// All string literals of a test, one a line.
fn literals(source: &str) -> String {
    let plain = source.replace("\\\"", "\u{1}");
    let inside = plain.split('"').skip(1).step_by(2).collect::<Vec<_>>();
    inside.join("\n").replace('\u{1}', "\"")
}
