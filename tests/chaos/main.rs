//! Faults, each done to the real daemon while Kubernetes' own KMS v2 client calls it.
//!
//! The rows are in `table/`; each is a test. `softhsm-test/chaos` prints them as a table, and
//! has a long form with random kills. All need the program that `softhsm-test/apiserver/build`
//! builds, in the environment variable KMS_CLIENT; without it they count as ignored.
//!
//! `document.rs` holds `docs/failure-modes.md` against them, and needs nothing.
//!
//! One fault is not in the table: a token that gives out another value for a seed than the one
//! that was wrapped. Key wrap protects the blob, not what the token says that it unwrapped, so
//! nobody on our side can see that.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "the helpers are part of the tests"
)]

#[path = "../common/mod.rs"]
mod common;

mod document;
mod faults;
mod flood;
mod print;
mod random;
mod row;
mod run;
mod table;

use std::env;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::row::Row;
use crate::run::Outcome;

/// What the random kills are called among the rows.
const RANDOM: &str = "random-kills";

/// Random kills in the short form.
const KILLS: usize = 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("flood") => flood::run(&arguments[1..]),
        Some("table") => print::run(&arguments[1..]),
        _ => libtest_mimic::run(&Arguments::from_args(), trials()).exit_code(),
    }
}

fn trials() -> Vec<Trial> {
    let rows = table::rows().map(|row| trial(row.name, move || run_row(row)));
    let random = trial(RANDOM, || random::run(KILLS, None, |_| {}));
    let document = [
        Trial::test("failure-modes", document::check),
        Trial::test("failure-modes-itself", document::check_itself),
    ];
    rows.chain([random]).chain(document).collect()
}

fn trial(name: &str, run: impl Fn() -> Outcome + Send + 'static) -> Trial {
    let test = move || {
        let outcome = run();
        println!("{outcome}");
        if outcome.problems.is_empty() { Ok(()) } else { Err(Failed::without_message()) }
    };
    Trial::test(name, test).with_ignored_flag(common::watch::program().is_none())
}

fn run_row(row: &'static Row) -> Outcome {
    runtime().block_on(run::run(row))
}

/// Each row has its own: it is run in a thread or a process of its own.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
