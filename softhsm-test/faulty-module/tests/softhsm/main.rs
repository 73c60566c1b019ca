//! The module in front of a real token: SoftHSM.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the helpers are part of the tests"
)]

mod common;
mod faults;
mod interfaces;
mod pins;
mod token;
