//! The `p11-kms` binary. All it does is in the library.

use std::alloc::System;
use std::process::ExitCode;

use clap::Parser;
use zeroizing_alloc::ZeroAlloc;

/// Wipes every block when it is freed: the gRPC stack copies seeds and wipes nothing.
#[global_allocator]
static WIPING: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    p11_kms::commands::run(&p11_kms::cli::Cli::parse())
}
