//! p11-kms
pub mod algorithm;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod generation;
pub mod grpc_status;
pub mod health;
pub mod keyring;
pub mod logging;
pub mod notify;
pub mod proto;
pub mod secret;
pub mod server;
pub mod service;
pub mod token;
pub mod worker;
