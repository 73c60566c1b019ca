//! Compiles `proto/` with a compiler written in Rust, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    tonic_prost_build::configure()
        // One annotation at most: a hash map would be the larger part of the request.
        .btree_map(".")
        .compile_fds(protox::compile(["proto/v2.proto"], ["proto"])?)?;
    tonic_prost_build::configure()
        .build_server(false)
        // Keys and values stay where they were received.
        .bytes(".")
        .compile_fds(protox::compile(["proto/etcd.proto", "proto/envelope.proto"], ["proto"])?)?;
    Ok(())
}
