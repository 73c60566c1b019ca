#![forbid(unsafe_code)]
//! Through the socket of a running daemon, over one connection, as kube-apiserver does it.

use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

use super::bar::Bar;
use super::call::Way;
use super::plan::Pair;
use super::sample::Measured;
use super::token::both_ways;
use super::verdict::TIMEOUT;
use crate::client;
use crate::commands::status::{refused, unreachable};
use crate::commands::token_access::PATIENCE;
use crate::commands::{Exit, Failed};
use crate::config::Endpoint;
use crate::proto::key_management_service_client::KeyManagementServiceClient;
use crate::proto::{DecryptRequest, EncryptRequest, StatusRequest};
use crate::secret::Seed;

/// Calls at once that are tried: one that waits for each answer, and many.
pub(super) const CALLERS: [usize; 2] = [1, 64];

/// What the socket has shown.
#[derive(Debug, Serialize)]
pub(super) struct ThroughSocket {
    pub(super) endpoint: String,
    pub(super) points: Vec<SocketPoint>,
}

/// That many calls at once.
#[derive(Debug, Serialize)]
pub(super) struct SocketPoint {
    pub(super) callers: usize,
    pub(super) encrypt: Measured,
    pub(super) decrypt: Measured,
}

/// One connection.
#[derive(Clone)]
pub(super) struct SocketWay(KeyManagementServiceClient<Channel>);

impl SocketWay {
    /// Connects and asks for the Status, in the time that kube-apiserver would wait. After that
    /// a call may take longer: how much longer is what we want to know.
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<Self, Failed> {
        let mut client = client::connect(endpoint, PATIENCE)
            .await
            .map_err(|error| unreachable(endpoint, &error))?;
        match timeout(TIMEOUT, client.status(StatusRequest {})).await {
            Ok(Ok(_)) => Ok(Self(client)),
            Ok(Err(status)) => Err(refused(endpoint, &status)),
            Err(_) => {
                let message = format!("{endpoint} did not answer Status within 3 s: it hangs");
                Err(Failed::new(Exit::Unreachable, message))
            }
        }
    }

    /// Measures Encrypt and Decrypt.
    pub(super) async fn measure(
        &self,
        endpoint: &Endpoint,
        time: Duration,
        bar: &Bar,
    ) -> ThroughSocket {
        let mut points = Vec::new();
        for callers in CALLERS {
            bar.says(&format!("the socket, {callers} at once"));
            let Pair { wrap, unwrap } = both_ways(self, callers, time, bar).await;
            points.push(SocketPoint { callers, encrypt: wrap, decrypt: unwrap });
        }
        ThroughSocket { endpoint: endpoint.to_string(), points }
    }
}

impl Way for SocketWay {
    type Wrapped = DecryptRequest;

    async fn wrap(&self, seed: &Seed) -> Result<DecryptRequest, String> {
        let uid = format!("bench-{}", std::process::id());
        let request = EncryptRequest { plaintext: seed.expose().to_vec(), uid: uid.clone() };
        let answer = self.0.clone().encrypt(request).await.map_err(|status| told(&status))?;
        let answer = answer.into_inner();
        Ok(DecryptRequest {
            ciphertext: answer.ciphertext,
            uid,
            key_id: answer.key_id,
            annotations: answer.annotations,
        })
    }

    async fn unwrap(&self, request: &DecryptRequest) -> Result<Seed, String> {
        let answer = self.0.clone().decrypt(request.clone()).await;
        answer
            .map(|answer| Seed::new(answer.into_inner().plaintext))
            .map_err(|status| told(&status))
    }
}

fn told(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
