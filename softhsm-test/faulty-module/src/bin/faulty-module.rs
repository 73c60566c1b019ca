#![forbid(unsafe_code)]
//! Steers a faulty module from a shell.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use faulty_module::{Control, Rules};

const USAGE: &str = "\
usage: faulty-module set DIR RULE...   put rules in force in the place of all others, one an argument
       faulty-module clear DIR         take all rules away
       faulty-module counts DIR        show the calls of each function, wrong PINs and strikes
       faulty-module reset DIR         set these to 0, except strikes; gives all PIN tries back
       faulty-module check FILE        say whether a file is right as rules
DIR is the directory that FAULTY_CONTROL names; `set` makes it. Exit codes: 0 done, 1 not, 2 usage.
";

fn main() -> ExitCode {
    let arguments: Vec<String> =
        env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["set", directory, rules @ ..] if !rules.is_empty() => set(directory, &rules.join("\n")),
        ["clear", directory] => set(directory, ""),
        ["counts", directory] => counts(directory),
        ["reset", directory] => reset(directory),
        ["check", file] => check(file),
        ["help" | "--help" | "-h"] => Ok(USAGE.to_owned()),
        _ => {
            let _ = io::stderr().write_all(USAGE.as_bytes());
            return ExitCode::from(2);
        }
    };
    let (text, code) = match done {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(problem) => {
            let _ = writeln!(io::stderr(), "faulty-module: {problem}");
            return ExitCode::FAILURE;
        }
    };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn set(directory: &str, rules: &str) -> Result<String, String> {
    let control = open(directory)?;
    control.set(rules).map_err(|error| error.to_string())?;
    Ok(String::new())
}

fn counts(directory: &str) -> Result<String, String> {
    let control = existing(directory)?;
    let mut text = String::new();
    for (function, count) in control.counts() {
        let _ = writeln!(text, "{function} {count}");
    }
    let _ = writeln!(text, "failed-pins {}", control.failed_pins());
    let _ = writeln!(text, "strikes {}", control.strikes());
    Ok(text)
}

fn reset(directory: &str) -> Result<String, String> {
    let done = existing(directory)?.reset_counts();
    done.map(|()| String::new()).map_err(|error| format!("{directory}: {error}"))
}

fn check(file: &str) -> Result<String, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    text.parse::<Rules>().map_err(|error| format!("{file}: {error}"))?;
    Ok(String::new())
}

fn existing(directory: &str) -> Result<Control, String> {
    if !Path::new(directory).is_dir() {
        return Err(format!("{directory} is no directory"));
    }
    open(directory)
}

fn open(directory: &str) -> Result<Control, String> {
    Control::new(directory).map_err(|error| format!("{directory}: {error}"))
}
