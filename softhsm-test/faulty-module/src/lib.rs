//! A PKCS#11 module that passes every call on to a real one, counts it, and misbehaves on command.
//!
//! ```text
//!  program ──C_...──▶ ffi ──▶ module ──▶ faults ──▶ token ──▶ real module
//!                               │          │ rules for calls    │ the token as a whole, and pins
//!                             follow ◀─────┴── $FAULTY_CONTROL/rules, written by control
//!                               │
//!                             state ◀──────── $FAULTY_CONTROL/state, shared by all processes
//! ```
//!
//! As a shared library it is the module; as a Rust library it is [`Control`], with which a test
//! steers the module, and [`library`], which finds it. The rule language is in `README.md`.

mod control;
mod editions;
mod faults;
mod ffi;
mod follow;
mod functions;
mod mechanisms;
mod module;
mod pins;
mod rules;
mod state;
mod token;

pub use control::{Control, SetError, library};
pub use rules::{RuleError, Rules};

/// Says one line on standard error. Nobody may listen there, and that is no reason to fail.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "faulty-module: {line}");
}
