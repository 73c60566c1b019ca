//! The table, for people: `softhsm-test/chaos`.

use std::fs::{self, OpenOptions};
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use serde_json::json;

use crate::common::watch;
use crate::row::Row;
use crate::run::Outcome;
use crate::{KILLS, RANDOM, random, run_row, table};

/// Random kills in the long form.
const LONG: usize = 200;

#[derive(Default)]
struct Options {
    long: bool,
    kills: Option<usize>,
    seed: Option<u64>,
    json: Option<String>,
    rows: Vec<String>,
}

/// Runs rows one after the other and prints each.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(problem) => {
            println!("chaos: {problem}");
            return ExitCode::from(2);
        }
    };
    if watch::program().is_none() {
        println!("chaos: KMS_CLIENT is not set: run softhsm-test/chaos, which builds that program");
        return ExitCode::from(3);
    }
    // Before the run: it takes long, and its result must have a place. What is there stays till then.
    if let Some(path) = &options.json
        && let Err(error) = OpenOptions::new().create(true).append(true).open(path)
    {
        println!("chaos: --json {path}: {error}");
        return ExitCode::from(2);
    }
    let began = Instant::now();
    let wanted = |name: &str| options.rows.is_empty() || options.rows.iter().any(|row| row == name);
    print(["row", "fault", "moment", "callers saw", "well after", "longest gap", "Status", ""]);
    let mut outcomes: Vec<Outcome> = Vec::new();
    for row in table::rows().filter(|row| wanted(row.name)) {
        outcomes.push(told(guarded(row.name, row.fault, row.moment, move || run_row(row))));
    }
    let kills = options.kills.unwrap_or(if options.long { LONG } else { KILLS });
    if options.long || options.kills.is_some() || wanted(RANDOM) {
        let seed = options.seed;
        let kill = move || random::run(kills, seed, tell_kills);
        outcomes.push(told(guarded(RANDOM, "random SIGKILLs", "at any time", kill)));
    }
    if let Some(path) = &options.json
        && let Err(error) = fs::write(path, to_json(&outcomes))
    {
        println!("chaos: --json {path}: {error}");
        return ExitCode::from(2);
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.problems.is_empty()).count();
    let passed = outcomes.len() - failed;
    println!("chaos: {passed} passed, {failed} failed, {} s", began.elapsed().as_secs());
    ExitCode::from(u8::from(failed > 0))
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: &String| format!("{word} {text}: not a number");
        match word.as_str() {
            "--long" => options.long = true,
            "--json" => options.json = Some(value()?.clone()),
            "--kills" => {
                let text = value()?;
                options.kills = Some(text.parse().map_err(|_| number(text))?);
            }
            "--seed" => {
                let text = value()?;
                options.seed = Some(text.parse().map_err(|_| number(text))?);
            }
            name if names().any(|known| known == name) => options.rows.push(name.to_owned()),
            option if option.starts_with('-') => {
                return Err(format!(
                    "there is no {option}; softhsm-test/chaos --help shows what is"
                ));
            }
            other => {
                let names: Vec<&str> = names().collect();
                return Err(format!("no row is called {other:?}; there are {}", names.join(", ")));
            }
        }
    }
    Ok(options)
}

fn names() -> impl Iterator<Item = &'static str> {
    table::rows().map(|row: &Row| row.name).chain([RANDOM])
}

/// A row that panics has failed, and the others go on.
fn guarded(
    name: &str,
    fault: &str,
    moment: &str,
    run: impl FnOnce() -> Outcome + Send + 'static,
) -> Outcome {
    thread::spawn(run).join().unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
        Outcome {
            name: name.to_owned(),
            fault: fault.to_owned(),
            moment: moment.to_owned(),
            problems: vec![words.unwrap_or("it panicked").to_owned()],
            ..Outcome::default()
        }
    })
}

fn told(outcome: Outcome) -> Outcome {
    let saw: Vec<String> =
        outcome.failed.iter().map(|(code, count)| format!("{code} ({count})")).collect();
    print([
        &outcome.name,
        &outcome.fault,
        &outcome.moment,
        &if saw.is_empty() { "nothing".to_owned() } else { saw.join(", ") },
        &format!("{:.1} s", outcome.well_after.as_secs_f64()),
        &format!("{:.0} ms", outcome.longest_gap_ms),
        &format!("{:.0} ms", outcome.status_ms_max),
        if outcome.problems.is_empty() { "ok" } else { "FAILED" },
    ]);
    if !outcome.problems.is_empty() {
        println!("{outcome}");
    }
    outcome
}

fn print(columns: [&str; 8]) {
    let [name, fault, moment, saw, well, gap, status, result] = columns;
    println!(
        "{name:<34} | {fault:<58} | {moment:<36} | {saw:<42} | {well:>10} | {gap:>11} | {status:>7} | {result}"
    );
}

fn tell_kills(done: usize) {
    if done.is_multiple_of(20) {
        println!("  {done} kills");
    }
}

fn to_json(outcomes: &[Outcome]) -> String {
    let one = |outcome: &Outcome| {
        json!({
            "name": outcome.name,
            "fault": outcome.fault,
            "moment": outcome.moment,
            "good": outcome.good,
            "failed": outcome.failed,
            "well_after_ms": outcome.well_after.as_millis() as u64,
            "longest_gap_ms": outcome.longest_gap_ms,
            "status_ms_max": outcome.status_ms_max,
            "problems": outcome.problems,
        })
    };
    let all: Vec<_> = outcomes.iter().map(one).collect();
    format!("{:#}\n", json!(all))
}
