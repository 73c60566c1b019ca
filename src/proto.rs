//! The generated messages: KMS v2 with client and server (`proto/v2.proto`), the
//! reading part of etcd (`proto/etcd.proto`), and what kube-apiserver stores
//! (`proto/envelope.proto`).

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "the code is generated"
)]

tonic::include_proto!("v2");

/// Reading etcd.
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}

/// Objects that are encrypted through KMS v2.
pub mod envelope {
    tonic::include_proto!("envelope");
}
