//! The `p11-kms` binary. All it does is in the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    p11_kms::commands::run(&p11_kms::cli::Cli::parse())
}
