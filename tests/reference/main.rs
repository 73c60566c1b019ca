//! What the documents say of config keys and profiles is what the code knows.
//!
//! The parts between `<!-- generated: NAME -->` and `<!-- end: NAME -->` are made here. With
//! `P11_KMS_TEST_UPDATE=1` they are written anew, otherwise they are compared.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers are part of the tests")]

mod config;
mod document;
mod hsm;
mod security;
