//! A KMS v2 client over both kinds of socket.

use std::time::Duration;

use p11_kms::client::connect;
use p11_kms::config::Endpoint;
use p11_kms::proto::key_management_service_client::KeyManagementServiceClient;
use p11_kms::proto::{
    DecryptRequest, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use tonic::transport::Channel;

/// The one annotation.
pub(crate) const ANNOTATION: &str = "wrap.p11-kms.internal";

/// Longer than the daemon's own limit, so that its answer is what counts.
const TIME: Duration = Duration::from_secs(20);

/// One connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Client(KeyManagementServiceClient<Channel>);

impl Client {
    pub(crate) async fn connect(endpoint: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint: Endpoint = endpoint.parse().unwrap();
        connect(&endpoint, TIME).await.map(Self)
    }

    pub(crate) async fn status(&self) -> Result<StatusResponse, tonic::Status> {
        let answer = self.0.clone().status(StatusRequest {}).await?;
        Ok(answer.into_inner())
    }

    pub(crate) async fn encrypt(&self, plaintext: &[u8]) -> Result<EncryptResponse, tonic::Status> {
        self.encrypt_as("test-uid", plaintext).await
    }

    pub(crate) async fn encrypt_as(
        &self,
        uid: &str,
        plaintext: &[u8],
    ) -> Result<EncryptResponse, tonic::Status> {
        let request = EncryptRequest { plaintext: plaintext.to_vec(), uid: uid.to_owned() };
        Ok(self.0.clone().encrypt(request).await?.into_inner())
    }

    pub(crate) async fn decrypt(&self, request: DecryptRequest) -> Result<Vec<u8>, tonic::Status> {
        Ok(self.0.clone().decrypt(request).await?.into_inner().plaintext)
    }

    /// There and back again.
    pub(crate) async fn round_trip(&self, plaintext: &[u8]) -> Result<(), tonic::Status> {
        let encrypted = self.encrypt(plaintext).await?;
        let back = self.decrypt(request_for(&encrypted)).await?;
        assert!(back == plaintext, "another plaintext came back");
        Ok(())
    }
}

/// The Decrypt that belongs to an Encrypt.
pub(crate) fn request_for(encrypted: &EncryptResponse) -> DecryptRequest {
    DecryptRequest {
        ciphertext: encrypted.ciphertext.clone(),
        uid: "test-uid".to_owned(),
        key_id: encrypted.key_id.clone(),
        annotations: encrypted.annotations.clone(),
    }
}

/// A Decrypt of a blob that was made elsewhere.
pub(crate) fn request(algorithm: &str, key_id: &str, ciphertext: &[u8]) -> DecryptRequest {
    DecryptRequest {
        ciphertext: ciphertext.to_vec(),
        uid: "test-uid".to_owned(),
        key_id: key_id.to_owned(),
        annotations: [(ANNOTATION.to_owned(), algorithm.as_bytes().to_vec())].into(),
    }
}
