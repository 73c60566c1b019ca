//! Sends what kube-apiserver sends, with a seed that everybody knows, and shows what comes back.
//! For `softhsm-test/demo`: a seed that matters is never printed.
//!
//! usage: demo-client ENDPOINT SEED_FILE CIPHERTEXT_FILE
//!
//! Both files are written, so that another program can compare.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "to print is all that it is for")]

use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use p11_kms::client;
use p11_kms::config::Endpoint;
use p11_kms::proto::{DecryptRequest, EncryptRequest, StatusRequest};

/// As long as kube-apiserver's.
const SEED: &[u8; 32] = b"a demo seed of exactly 32 bytes!";

/// kube-apiserver waits as long as that.
const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next =
        || arguments.next().ok_or("usage: demo-client ENDPOINT SEED_FILE CIPHERTEXT_FILE");
    let (endpoint, seed_file, ciphertext_file) = (next()?.parse()?, next()?, next()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ciphertext = runtime.block_on(talk(&endpoint))?;
    fs::write(seed_file, SEED)?;
    fs::write(ciphertext_file, ciphertext)?;
    Ok(())
}

async fn talk(endpoint: &Endpoint) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut client = client::connect(endpoint, PATIENCE).await?;

    let began = Instant::now();
    let status = client.status(StatusRequest {}).await?.into_inner();
    answered("Status", began);
    println!("  version     {}", status.version);
    println!("  healthz     {}", status.healthz);
    println!("  key_id      {}", status.key_id);

    let began = Instant::now();
    let request = EncryptRequest { plaintext: SEED.to_vec(), uid: "demo-encrypt".to_owned() };
    let encrypted = client.encrypt(request).await?.into_inner();
    answered("Encrypt", began);
    println!("  seed        {} ({} bytes)", hex(SEED), SEED.len());
    let ciphertext = encrypted.ciphertext;
    println!("  ciphertext  {} ({} bytes)", hex(&ciphertext), ciphertext.len());
    println!("  key_id      {}", encrypted.key_id);
    for (name, value) in &encrypted.annotations {
        println!("  annotation  {name} = {}", String::from_utf8_lossy(value));
    }
    if encrypted.key_id != status.key_id {
        return Err("Encrypt and Status name different key_ids".into());
    }

    let request = |ciphertext| DecryptRequest {
        ciphertext,
        uid: "demo-decrypt".to_owned(),
        key_id: encrypted.key_id.clone(),
        annotations: encrypted.annotations.clone(),
    };
    let began = Instant::now();
    let decrypted = client.decrypt(request(ciphertext.clone())).await?;
    answered("Decrypt", began);
    if decrypted.get_ref().plaintext != SEED {
        return Err("Decrypt gave another seed back".into());
    }
    println!("  the seed is back");

    let began = Instant::now();
    let mut damaged = ciphertext.clone();
    if let Some(last) = damaged.last_mut() {
        *last ^= 1;
    }
    match client.decrypt(request(damaged)).await {
        Ok(_) => return Err("a damaged ciphertext was decrypted".into()),
        Err(refusal) => {
            answered("Decrypt of a ciphertext with one bit changed", began);
            println!("  refused     {:?}: {}", refusal.code(), refusal.message());
        }
    }
    Ok(ciphertext)
}

fn answered(what: &str, began: Instant) {
    println!("{what}, answered in {} us", began.elapsed().as_micros());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
