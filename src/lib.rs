//! p11-kms
pub mod proto;
