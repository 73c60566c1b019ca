//! Compiles `proto/` with a compiler written in Rust, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["proto/v2.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // One annotation at most: a hash map would be the larger part of the request.
        .btree_map(".")
        .compile_fds(files)?;
    Ok(())
}
