//! The generated KMS v2 messages, client and server (see `proto/v2.proto`).

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "the code is generated"
)]

tonic::include_proto!("v2");
