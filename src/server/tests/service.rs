#![forbid(unsafe_code)]
//! A server to test, and clients for it: one that is well behaved and one that is not.

use std::path::PathBuf;
use std::sync::Mutex;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::*;
use crate::proto::key_management_service_client::KeyManagementServiceClient;
use crate::proto::key_management_service_server::{
    KeyManagementService, KeyManagementServiceServer,
};
use crate::proto::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};

/// Waits for something that another task does.
pub(super) async fn eventually(happened: impl Fn() -> bool) {
    let waiting = async {
        while !happened() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it never happened");
}

/// What holds up the calls that encrypt the word "slow".
#[derive(Default)]
pub(super) struct Slow {
    pub(super) go_on: Notify,
    pub(super) waiting: AtomicU64,
    pub(super) most: AtomicU64,
}

/// Gives back what it gets, and says who called.
struct Echo(Arc<Slow>);

#[tonic::async_trait]
impl KeyManagementService for Echo {
    async fn status(
        &self,
        request: tonic::Request<StatusRequest>,
    ) -> Result<tonic::Response<StatusResponse>, Status> {
        let peer = request.extensions().get::<Peer>().expect("no peer");
        let healthz = format!("uid {} pid {}", peer.uid, peer.pid);
        Ok(tonic::Response::new(StatusResponse { healthz, ..StatusResponse::default() }))
    }

    async fn encrypt(
        &self,
        request: tonic::Request<EncryptRequest>,
    ) -> Result<tonic::Response<EncryptResponse>, Status> {
        let ciphertext = request.into_inner().plaintext;
        if ciphertext == b"slow" {
            let now = self.0.waiting.fetch_add(1, Relaxed) + 1;
            self.0.most.fetch_max(now, Relaxed);
            self.0.go_on.notified().await;
            self.0.waiting.fetch_sub(1, Relaxed);
        }
        Ok(tonic::Response::new(EncryptResponse { ciphertext, ..EncryptResponse::default() }))
    }

    async fn decrypt(
        &self,
        _: tonic::Request<DecryptRequest>,
    ) -> Result<tonic::Response<DecryptResponse>, Status> {
        Err(Status::new(Code::Unimplemented, "not needed"))
    }
}

/// A server on this test's runtime.
pub(super) struct Running {
    place: Option<(TempDir, PathBuf)>,
    pub(super) counters: Arc<Counters>,
    pub(super) slow: Arc<Slow>,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<Drained, ServerError>>,
}

/// On a path of its own.
pub(super) fn start(limits: Limits, allow: AllowList) -> Running {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("kms.sock");
    let socket = bind_at(&path).unwrap();
    start_on(socket, Some((temp, path)), limits, allow)
}

pub(super) fn start_on(
    socket: BoundSocket,
    place: Option<(TempDir, PathBuf)>,
    limits: Limits,
    allow: AllowList,
) -> Running {
    let (shutdown, resolved) = oneshot::channel();
    let slow = Arc::new(Slow::default());
    let counters = Arc::clone(&limits.counters);
    let service = KeyManagementServiceServer::new(Echo(Arc::clone(&slow)));
    let resolved = async { resolved.await.unwrap_or(()) };
    let task = tokio::spawn(serve(socket, service, limits, allow, resolved));
    Running { place, counters, slow, shutdown: Some(shutdown), task }
}

impl Running {
    pub(super) fn path(&self) -> &Path {
        &self.place.as_ref().expect("it has no path").1
    }

    pub(super) fn shut_down(&mut self) {
        drop(self.shutdown.take());
    }

    pub(super) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    pub(super) async fn result(self) -> Result<Drained, ServerError> {
        let Self { place: _place, shutdown: _shutdown, task, .. } = self;
        timeout(PATIENCE, task).await.expect("it does not end").unwrap()
    }

    pub(super) async fn stop(mut self) -> Drained {
        self.shut_down();
        self.result().await.unwrap()
    }

    pub(super) async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.unwrap()
    }

    pub(super) async fn client(&self) -> Client {
        Self::client_over(self.connect().await).await
    }

    pub(super) async fn try_client(&self) -> Result<Client, tonic::transport::Error> {
        Client::over(self.connect().await).await
    }

    pub(super) async fn client_over(stream: UnixStream) -> Client {
        Client::over(stream).await.unwrap()
    }

    /// A raw connection whose greeting is complete.
    pub(super) async fn greeted(&self) -> Raw {
        let mut raw = Raw(self.connect().await);
        raw.0.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        assert_eq!(raw.frame().await.expect("closed").0, SETTINGS);
        raw
    }
}

/// A gRPC client on one connection: it does not come back when that is closed.
#[derive(Clone)]
pub(super) struct Client(KeyManagementServiceClient<Channel>);

impl Client {
    async fn over(stream: UnixStream) -> Result<Self, tonic::transport::Error> {
        let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
        let channel =
            endpoint.connect_with_connector(Once(Mutex::new(Some(stream)).into())).await?;
        Ok(Self(KeyManagementServiceClient::new(channel)))
    }

    pub(super) async fn status(&self) -> String {
        self.try_status().await.unwrap()
    }

    pub(super) async fn try_status(&self) -> Result<String, Status> {
        let mut client = self.0.clone();
        let call = client.status(StatusRequest {});
        timeout(PATIENCE, call).await.expect("no answer").map(|answer| answer.into_inner().healthz)
    }

    pub(super) async fn encrypt(&self, plaintext: Vec<u8>) -> Result<Vec<u8>, Status> {
        let request = EncryptRequest { plaintext, ..EncryptRequest::default() };
        self.encrypt_with(tonic::Request::new(request)).await
    }

    pub(super) async fn encrypt_with(
        &self,
        request: tonic::Request<EncryptRequest>,
    ) -> Result<Vec<u8>, Status> {
        let answer = self.0.clone().encrypt(request).await;
        answer.map(|answer| answer.into_inner().ciphertext)
    }
}

/// Hands out a stream that is there already, one time.
#[derive(Clone)]
struct Once(Arc<Mutex<Option<UnixStream>>>);

impl tower_service::Service<http::Uri> for Once {
    type Response = hyper_util::rt::TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = std::future::Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), io::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let stream = self.0.lock().unwrap().take();
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        std::future::ready(stream.map(hyper_util::rt::TokioIo::new).ok_or_else(gone))
    }
}

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const CONTINUATION: u8 = 9;

/// An HTTP/2 frame with a payload of less than 64 kB.
pub(super) fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0, high, low, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A connection on which a test writes what it likes.
pub(super) struct Raw(pub(super) UnixStream);

impl Raw {
    /// The next frame's kind, flags and payload; `None` once the server has closed.
    pub(super) async fn frame(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let reading = async {
            let mut header = [0; 9];
            self.0.read_exact(&mut header).await.ok()?;
            let [_, high, low, kind, flags, ..] = header;
            let mut payload = vec![0; usize::from(u16::from_be_bytes([high, low]))];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((kind, flags, payload))
        };
        timeout(PATIENCE, reading).await.expect("neither a frame nor an end")
    }

    /// Reads and answers nothing until the server closes.
    pub(super) async fn until_closed(mut self) {
        while self.frame().await.is_some() {}
    }
}
