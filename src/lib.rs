//! p11-kms: a KMS v2 plugin for Kubernetes whose key-encryption key (KEK) lives
//! in a PKCS#11 token and never leaves it.
//!
//! The way of a request, and the rooms it passes:
//!
//! ```text
//! socket ─► server ─► service ─► keyring ─► token ══ socketpair ══► worker ─► PKCS#11 module
//!           who is    is it      which      queue, deadlines,        a process of its own:
//!           there?    well       KEK?       supervisor               session threads
//!                     formed?
//! ```
//!
//! Bytes go down, answers come back up. A room uses only rooms below it and the
//! leaves ([`config`], [`secret`], [`algorithm`], [`generation`]). tonic's types
//! end at [`service`]; PKCS#11's never leave [`worker`]; `unsafe` is in one file,
//! `worker/ffi.rs`.

// The room that a request comes in by, and what stands beside it.
pub mod monitor;
pub mod notify;
pub mod server;

// Meaning: what Kubernetes asks, and what it is told.
pub mod grpc_status;
pub mod health;
pub mod proto;
pub mod service;

// Which KEK, and how to get to the token.
pub mod keyring;
pub mod token;
pub mod worker;

// Which KEK the stored objects need.
pub mod usage;

// Leaves.
pub mod algorithm;
pub mod audit;
pub mod config;
pub mod generation;
pub mod memory;
pub mod metrics;
pub mod secret;
pub mod state;
pub mod timestamp;

// The command line.
pub mod cli;
pub mod client;
pub mod commands;
pub mod logging;

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!(
    "p11-kms is for 64-bit Linux: CK_ULONG, SO_PEERCRED and /proc are taken for granted"
);
