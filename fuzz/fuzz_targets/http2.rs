//! A connection to the server: nothing that a peer sends ends more than its own connection.
//!
//! The first byte of the input tells whether what opens a good connection goes before the rest,
//! which then is frames; otherwise the rest is all that is sent.

#![no_main]

use std::cell::RefCell;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream as StdStream};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use p11_kms::config::Endpoint;
use p11_kms::proto::key_management_service_server::{
    KeyManagementService, KeyManagementServiceServer,
};
use p11_kms::proto::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use p11_kms::server::peer::AllowList;
use p11_kms::server::socket::{SocketOptions, bind};
use p11_kms::server::{Limits, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

/// The preface and an empty SETTINGS frame (RFC 9113, section 3.4).
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A connection whose peer has closed its side ends at once. Only a target that fails waits
/// for it; the server's own clocks are longer.
const PATIENCE: Duration = Duration::from_secs(5);

thread_local! {
    static SERVER: RefCell<Server> = RefCell::new(Server::start());
}

fuzz_target!(|input: (bool, &[u8])| {
    let (is_opened, bytes) = input;
    let opening = if is_opened { OPENING } else { b"" };
    SERVER.with_borrow(|server| server.send(&[opening, bytes].concat()));
});

/// The server and its one thread, which only runs while an input is sent.
struct Server {
    runtime: Runtime,
    task: JoinHandle<()>,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let name = format!("p11-kms-fuzz-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let endpoint = Endpoint::Abstract(name);
        let socket = bind(&SocketOptions { endpoint, mode: 0o600, owner: None, group: None });
        let us = AllowList::new(vec![nix::unistd::geteuid().as_raw()], vec![]);
        let service = KeyManagementServiceServer::new(Echo);
        let serving =
            serve(socket.unwrap(), service, Limits::default(), us, std::future::pending());
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let task = runtime.spawn(async { drop(serving.await) });
        Self { runtime, task, address }
    }

    fn send(&self, bytes: &[u8]) {
        let exchange = async {
            let stream = StdStream::connect_addr(&self.address).unwrap();
            stream.set_nonblocking(true).unwrap();
            let (mut reader, mut writer) = UnixStream::from_std(stream).unwrap().into_split();
            let mut answer = Vec::new();
            // The server may close before it has read all: that is an error here, and its right.
            let sending = async {
                let _ = writer.write_all(bytes).await;
                let _ = writer.shutdown().await;
            };
            let _ = tokio::join!(sending, reader.read_to_end(&mut answer));
        };
        self.runtime.block_on(async {
            timeout(PATIENCE, exchange).await.expect("the connection does not end");
        });
        assert!(!self.task.is_finished(), "the server has ended");
    }
}

/// Gives back what it gets.
struct Echo;

#[tonic::async_trait]
impl KeyManagementService for Echo {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse::default()))
    }

    async fn encrypt(
        &self,
        request: Request<EncryptRequest>,
    ) -> Result<Response<EncryptResponse>, Status> {
        let EncryptRequest { plaintext, uid } = request.into_inner();
        Ok(Response::new(EncryptResponse {
            ciphertext: plaintext,
            key_id: uid,
            ..EncryptResponse::default()
        }))
    }

    async fn decrypt(
        &self,
        request: Request<DecryptRequest>,
    ) -> Result<Response<DecryptResponse>, Status> {
        let DecryptRequest { ciphertext, key_id, .. } = request.into_inner();
        if key_id.is_empty() {
            return Err(Status::invalid_argument("no key_id"));
        }
        Ok(Response::new(DecryptResponse { plaintext: ciphertext }))
    }
}
