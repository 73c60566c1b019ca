#![forbid(unsafe_code)]
//! `probe`: one Encrypt and one Decrypt through the socket, as kube-apiserver
//! would do them, held against the rules of KMS v2.

use std::time::{Duration, Instant};

use rand::RngCore;
use serde::Serialize;

use super::status::{refused, unreachable};
use super::{Exit, Failed, runtime};
use crate::cli::{Cli, Dial};
use crate::client;
use crate::config::Endpoint;
use crate::health;
use crate::proto::{DecryptRequest, EncryptRequest, StatusRequest};
use crate::secret::Seed;
use crate::service::VERSION;

/// Longest ciphertext and key_id that kube-apiserver takes, in bytes.
const MAX_FIELD: usize = 1024;

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    healthz: String,
    key_id: String,
    ciphertext_bytes: usize,
    status_micros: u128,
    encrypt_micros: u128,
    decrypt_micros: u128,
    /// The rules of KMS v2 that were broken.
    broken: Vec<String>,
}

pub(super) fn run(cli: &Cli, dial: &Dial) -> Result<Option<Exit>, Failed> {
    let endpoint = cli.endpoint(dial.endpoint.as_ref())?;
    let answer = runtime()?.block_on(probe(&endpoint, dial.timeout))?;
    cli.print(answer.text(), &answer)?;
    Ok((!answer.broken.is_empty()).then_some(Exit::No))
}

async fn probe(endpoint: &Endpoint, time: Duration) -> Result<Answer, Failed> {
    let told = |status: tonic::Status| refused(endpoint, &status);
    let mut client =
        client::connect(endpoint, time).await.map_err(|error| unreachable(endpoint, &error))?;

    let began = Instant::now();
    let status = client.status(StatusRequest {}).await.map_err(told)?.into_inner();
    let status_micros = began.elapsed().as_micros();

    let mut bytes = vec![0; 32];
    rand::rng().fill_bytes(&mut bytes);
    let seed = Seed::new(bytes);
    let uid = format!("probe-{}", std::process::id());
    let request = EncryptRequest { plaintext: seed.expose().to_vec(), uid: uid.clone() };
    let began = Instant::now();
    let encrypted = client.encrypt(request).await.map_err(told)?.into_inner();
    let encrypt_micros = began.elapsed().as_micros();

    let mut broken = Vec::new();
    let mut rule = |kept: bool, text: &str| {
        if !kept {
            broken.push(text.to_owned());
        }
    };
    rule(status.version == VERSION, "Status: version is not \"v2\"");
    rule(status.healthz == health::OK, "Status: healthz is not \"ok\"");
    rule(status.key_id == encrypted.key_id, "Encrypt and Status name different key_ids");
    rule((1..=MAX_FIELD).contains(&encrypted.key_id.len()), "the key_id is empty or over 1 kB");
    let ciphertext_bytes = encrypted.ciphertext.len();
    rule((1..=MAX_FIELD).contains(&ciphertext_bytes), "the ciphertext is empty or over 1 kB");
    rule(encrypted.ciphertext != seed.expose(), "the ciphertext is the plaintext");
    let domain_names =
        encrypted.annotations.keys().all(|key| key.contains('.') && !key.contains('/'));
    rule(domain_names, "an annotation's key is no domain name");

    let request = DecryptRequest {
        ciphertext: encrypted.ciphertext,
        uid,
        key_id: encrypted.key_id,
        annotations: encrypted.annotations,
    };
    let began = Instant::now();
    let decrypted = client.decrypt(request).await.map_err(told)?.into_inner();
    let decrypt_micros = began.elapsed().as_micros();
    let back = Seed::new(decrypted.plaintext);
    rule(back.expose() == seed.expose(), "Decrypt gave another plaintext back");

    Ok(Answer {
        healthz: status.healthz,
        key_id: status.key_id,
        ciphertext_bytes,
        status_micros,
        encrypt_micros,
        decrypt_micros,
        broken,
    })
}

impl Answer {
    fn text(&self) -> String {
        let verdict = if self.broken.is_empty() {
            "the round trip is good".to_owned()
        } else {
            format!("NOT GOOD: {}", self.broken.join("; "))
        };
        format!(
            "healthz   {}\nkey_id    {}\nStatus    {} us\nEncrypt   {} us, {} bytes\nDecrypt   {} us\n{verdict}",
            self.healthz,
            self.key_id,
            self.status_micros,
            self.encrypt_micros,
            self.ciphertext_bytes,
            self.decrypt_micros,
        )
    }
}
