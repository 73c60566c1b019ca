//! A real etcd of its own for a test, and the few calls that fill it.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use prost::Message;
use prost::bytes::Bytes;
use tempfile::TempDir;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic_prost::ProstCodec;

use super::process::pid_of;
use super::{PATIENCE, eventually, wait_until};

/// How often another pair of ports is tried.
const TRIES: usize = 5;

/// Most operations of one transaction, by etcd's default.
pub(crate) const BATCH: usize = 128;

/// The program: of the variable ETCD, or in PATH.
pub(crate) fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("ETCD") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|directory| directory.join("etcd"));
    found.find(|file| file.is_file()).unwrap_or_else(|| {
        panic!("there is no etcd: `softhsm-test/setup` installs it, or set ETCD to its path")
    })
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running etcd, and its client.
pub(crate) struct Etcd {
    directory: TempDir,
    child: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) authority: String,
    channel: Channel,
}

impl Etcd {
    /// One without TLS.
    pub(crate) async fn start() -> Self {
        Self::start_with("http", &[], None).await
    }

    /// One with more flags. With TLS the test's own client needs it too.
    pub(crate) async fn start_with(
        scheme: &str,
        flags: &[&str],
        tls: Option<ClientTlsConfig>,
    ) -> Self {
        for _ in 0..TRIES {
            if let Some(etcd) = Self::try_start(scheme, flags, tls.clone()).await {
                return etcd;
            }
        }
        panic!("etcd ended at once, {TRIES} times");
    }

    /// None if it ended at once: another process may have taken the port.
    async fn try_start(scheme: &str, flags: &[&str], tls: Option<ClientTlsConfig>) -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("p11-kms-etcd-").tempdir().unwrap();
        let authority = format!("127.0.0.1:{}", free_port());
        let url = format!("{scheme}://{authority}");
        let peer = format!("http://127.0.0.1:{}", free_port());
        let mut command = Command::new(program());
        command
            .args(["--name", "one", "--log-level", "error", "--data-dir"])
            .arg(directory.path().join("data"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let mut target = Endpoint::from_shared(url).unwrap();
        if let Some(tls) = tls {
            target = target.tls_config(tls).unwrap();
        }
        let channel = target.connect_lazy();
        let mut etcd = Self { directory, child, authority, channel };
        eventually("etcd answers", async || {
            if etcd.child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let put = Put { key: "ready".into(), value: Bytes::new() };
            etcd.try_call::<Put, Nothing>("KV/Put", put).await.ok().map(|_| true)
        })
        .await
        .then_some(etcd)
    }

    /// Puts all of these.
    pub(crate) async fn put_all(&self, pairs: impl Iterator<Item = (String, Vec<u8>)>) {
        let mut batch = Vec::new();
        for pair in pairs {
            batch.push(Operation::put(&pair.0, pair.1));
            if batch.len() == BATCH {
                self.transact(std::mem::take(&mut batch)).await;
            }
        }
        self.transact(batch).await;
    }

    /// Does all of these at one revision.
    pub(crate) async fn transact(&self, success: Vec<Operation>) {
        let _: Nothing = self.call("KV/Txn", Transaction { success }).await;
    }

    /// Forgets what was before the newest revision, and tells that.
    pub(crate) async fn compact(&self) -> i64 {
        let put = Put { key: "compact_rev_key".into(), value: Bytes::new() };
        let answer: Answer = self.call("KV/Put", put).await;
        let revision = answer.header.unwrap().revision;
        let _: Nothing = self.call("KV/Compact", Compaction { revision, physical: true }).await;
        revision
    }

    /// What `etcdctl snapshot save` writes.
    pub(crate) async fn snapshot(&self) -> Vec<u8> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let codec = ProstCodec::<Nothing, Part>::default();
        let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Snapshot");
        let answer = client.server_streaming(tonic::Request::new(Nothing {}), path, codec).await;
        let mut parts = answer.unwrap().into_inner();
        let mut bytes = Vec::new();
        while let Some(part) = parts.message().await.unwrap() {
            bytes.extend(part.blob);
        }
        bytes
    }

    /// Ends it, and hands out its directory, in which its file is whole.
    pub(crate) fn stop(mut self) -> TempDir {
        kill(pid_of(self.child.id()), Signal::SIGTERM).unwrap();
        wait_until("the end of etcd", || self.child.try_wait().unwrap());
        let kept = tempfile::Builder::new().prefix("p11-kms-etcd-").tempdir().unwrap();
        std::mem::replace(&mut self.directory, kept)
    }

    async fn call<Q, A>(&self, method: &str, request: Q) -> A
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.try_call(method, request).await.unwrap_or_else(|status| panic!("{method}: {status}"))
    }

    async fn try_call<Q, A>(&self, method: &str, request: Q) -> Result<A, tonic::Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let path = PathAndQuery::try_from(format!("/etcdserverpb.{method}")).unwrap();
        let answer = tokio::time::timeout(PATIENCE, async {
            client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            client.unary(tonic::Request::new(request), path, ProstCodec::default()).await
        });
        Ok(answer.await.expect("etcd does not answer")?.into_inner())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file of an etcd that was stopped.
pub(crate) fn database(directory: &TempDir) -> PathBuf {
    directory.path().join("data/member/snap/db")
}

/// What kube-apiserver stores under KMS v2: the ciphertext comes before the key_id.
pub(crate) fn kms(provider: &str, key_id: &str, size: usize) -> Vec<u8> {
    let mut value = format!("k8s:enc:kms:v2:{provider}:").into_bytes();
    let mut field = |tag: u8, bytes: &[u8]| {
        value.push(tag << 3 | 2);
        prost::encode_length_delimiter(bytes.len(), &mut value).unwrap();
        value.extend(bytes);
    };
    field(1, &vec![0xa5; size]);
    field(2, key_id.as_bytes());
    field(3, &[0x5a; 40]);
    field(4, b"\x0a\x17wrap.p11-kms.internal\x12\x02kw");
    value.extend([5 << 3, 1]);
    value
}

/// The messages of etcd that fill it (etcdserverpb), with the fields that are needed.
#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Delete {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

/// One step of a transaction.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Operation {
    #[prost(message, optional, tag = "2")]
    put: Option<Put>,
    #[prost(message, optional, tag = "3")]
    delete: Option<Delete>,
}

impl Operation {
    pub(crate) fn put(key: &str, value: Vec<u8>) -> Self {
        let put = Put { key: key.as_bytes().to_vec().into(), value: value.into() };
        Self { put: Some(put), delete: None }
    }

    pub(crate) fn delete(key: &str) -> Self {
        let delete = Delete { key: key.as_bytes().to_vec().into() };
        Self { put: None, delete: Some(delete) }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Transaction {
    #[prost(message, repeated, tag = "2")]
    success: Vec<Operation>,
}

#[derive(Clone, PartialEq, Message)]
struct Compaction {
    #[prost(int64, tag = "1")]
    revision: i64,
    #[prost(bool, tag = "2")]
    physical: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Part {
    #[prost(bytes = "bytes", tag = "3")]
    blob: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}
