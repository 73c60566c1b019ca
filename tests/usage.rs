//! `p11-kms usage`, on a real etcd and on snapshots of it.
//!
//! Those that need an etcd take the one that ETCD names, or the one in PATH.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::etcd::{Etcd, Operation, database, free_port, kms};
use common::process::{Ended, run};
use common::{names, set};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

const OLD: &str = "3d51aa0000000000000000000000000000000000000000000000000000000001";
const NEW: &str = "77e2aa0000000000000000000000000000000000000000000000000000000002";

/// As `usage` is run by hand: no config is there.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p11-kms"));
    command.env_clear().args(["--config", "/no/such/config.toml", "usage"]).args(arguments);
    command
}

/// The same, while this test's own tasks go on.
async fn usage(arguments: &[&str]) -> Ended {
    let command = command(arguments);
    tokio::task::spawn_blocking(move || run(command)).await.unwrap()
}

async fn counted(arguments: &[&str]) -> serde_json::Value {
    let ended = usage(&[arguments, &["--output", "json"]].concat()).await;
    ended.expect(0, &[]);
    assert_eq!(ended.stderr, "");
    ended.json()
}

/// An object of the mix: its resource by the API's name, its key, and what its value
/// counts as.
struct Object {
    resource: &'static str,
    key: String,
    kind: Kind,
}

/// Bytes of an object of the mix.
const SIZE: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Kms(&'static str, &'static str),
    Other(&'static str, &'static str),
    Plain,
    Unreadable,
}

fn object(number: u32) -> Object {
    let name = format!("ns-{}/object-{number:06}", number % 17);
    let (resource, path) = match number % 10 {
        0..6 => ("secrets", "secrets"),
        6 | 7 => ("configmaps", "configmaps"),
        8 => ("widgets.apps.example.com", "apps.example.com/widgets"),
        _ => ("services", "services/specs"),
    };
    let kind = match (resource, number % 7, number % 1009) {
        (_, _, 1008) => Kind::Unreadable,
        ("services", ..) => Kind::Plain,
        (_, 0, _) => Kind::Kms("p11-kms", OLD),
        (_, 1, _) => Kind::Kms("vault", OLD),
        (_, 2, _) => Kind::Other("kms v1", "older"),
        (_, 3, _) => Kind::Other("aescbc", "key1"),
        (_, 4, _) => Kind::Plain,
        _ => Kind::Kms("p11-kms", NEW),
    };
    Object { resource, key: format!("/registry/{path}/{name}"), kind }
}

impl Kind {
    fn value(self) -> Vec<u8> {
        let behind = |prefix: &str| [prefix.as_bytes(), &[0xa5; SIZE]].concat();
        match self {
            Self::Kms(provider, key_id) => kms(provider, key_id, SIZE),
            Self::Other("kms v1", name) => behind(&format!("k8s:enc:kms:v1:{name}:")),
            Self::Other(kind, name) => behind(&format!("k8s:enc:{kind}:v1:{name}:")),
            Self::Plain => behind("k8s\0"),
            Self::Unreadable => kms("p11-kms", "", SIZE),
        }
    }
}

/// What the answer has to be, counted here.
#[derive(Default)]
struct Expected(BTreeMap<&'static str, BTreeMap<Kind, u64>>);

impl Expected {
    fn of(objects: impl Iterator<Item = Object>) -> Self {
        let mut expected = Self::default();
        objects.for_each(|object| expected.add(object.resource, object.kind, 1));
        expected
    }

    fn add(&mut self, resource: &'static str, kind: Kind, count: u64) {
        *self.0.entry(resource).or_default().entry(kind).or_default() += count;
    }

    fn json(&self) -> serde_json::Value {
        let resources: serde_json::Map<_, _> = self
            .0
            .iter()
            .map(|(resource, kinds)| ((*resource).to_owned(), Self::counts(kinds)))
            .collect();
        resources.into()
    }

    fn total(&self) -> serde_json::Value {
        let mut all = BTreeMap::new();
        for (kind, count) in self.0.values().flatten() {
            *all.entry(*kind).or_default() += count;
        }
        Self::counts(&all)
    }

    fn counts(kinds: &BTreeMap<Kind, u64>) -> serde_json::Value {
        let mut key_ids = BTreeMap::<_, u64>::new();
        let (mut kms, mut others) = (BTreeMap::new(), BTreeMap::new());
        for (kind, count) in kinds {
            match kind {
                Kind::Kms(provider, key_id) => {
                    *key_ids.entry(key_id).or_default() += count;
                    kms.entry(provider).or_insert_with(BTreeMap::new).insert(key_id, count);
                }
                Kind::Other(kind, name) => {
                    others.entry(kind).or_insert_with(BTreeMap::new).insert(name, count);
                }
                Kind::Plain | Kind::Unreadable => {}
            }
        }
        json!({
            "objects": kinds.values().sum::<u64>(),
            "key-ids": key_ids,
            "kms-v2": kms,
            "other-providers": others,
            "unencrypted": kinds.get(&Kind::Plain).unwrap_or(&0),
            "unreadable": kinds.get(&Kind::Unreadable).unwrap_or(&0),
        })
    }

    #[track_caller]
    fn check(&self, answer: &serde_json::Value) {
        assert_eq!(names(answer), set(["resources", "revision", "total", "unreadable-keys"]));
        let unreadable = answer["total"]["unreadable"].as_u64().unwrap();
        let named = answer["unreadable-keys"].as_array().unwrap().len();
        assert_eq!(named, usize::try_from(unreadable.min(10)).unwrap());
        assert_eq!(answer["resources"], self.json());
        assert_eq!(answer["total"], self.total());
    }
}

async fn fill(etcd: &Etcd, numbers: std::ops::Range<u32>) {
    let objects = numbers.map(object);
    etcd.put_all(objects.map(|object| (object.key, object.kind.value()))).await;
}

/// Runs it to its end, and tells the most memory that it had, in kB.
fn watched(arguments: &[&str]) -> (serde_json::Value, u64) {
    let mut command = command(&[arguments, &["--output", "json"]].concat());
    let out = tempfile::NamedTempFile::new().unwrap();
    command.stdin(Stdio::null()).stdout(out.reopen().unwrap());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let ended = child.try_wait().unwrap();
        // A process that has ended has no memory, and no such line.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(size) = line.and_then(|line| line.trim().strip_suffix(" kB")) {
            peak = peak.max(size.trim().parse().unwrap());
        }
        if let Some(ended) = ended {
            assert!(ended.success(), "{ended}");
            assert!(peak > 0);
            return (serde_json::from_slice(&fs::read(out.path()).unwrap()).unwrap(), peak);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Moves objects from the beginning of the keys to their end and back, each with all the
/// others at one revision: there are as many at every moment, but not to one who looks
/// at the beginning now and at the end later.
struct Movers {
    stop: Arc<AtomicBool>,
    moves: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

const MOVERS: u64 = 50;

impl Movers {
    async fn start(etcd: Arc<Etcd>) -> Self {
        let (stop, moves) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let step = move |from: &'static str, to: &'static str| -> Vec<Operation> {
            let key = |place, number| format!("/registry/secrets/{place}/mover-{number}");
            let moved = |number| {
                let value = kms("p11-kms", NEW, 100);
                [Operation::delete(&key(from, number)), Operation::put(&key(to, number), value)]
            };
            (0..MOVERS as u32).flat_map(moved).collect()
        };
        etcd.transact(step("zzz", "aaa")).await;
        let task = tokio::spawn({
            let (stop, moves) = (stop.clone(), moves.clone());
            async move {
                while !stop.load(Ordering::Relaxed) {
                    etcd.transact(step("aaa", "zzz")).await;
                    etcd.transact(step("zzz", "aaa")).await;
                    moves.fetch_add(2, Ordering::Relaxed);
                }
            }
        });
        Self { stop, moves, task }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

/// How much more memory 50 times as many objects may take, in kB. They are 200 MB.
const FLAT: u64 = 6 << 10;

#[tokio::test]
#[ignore = "needs etcd (ETCD, or in PATH)"]
async fn fifty_thousand_objects_to_the_object_in_flat_memory_while_others_write() {
    let etcd = Arc::new(Etcd::start().await);
    let authority = etcd.authority.clone();
    let measure = move || {
        let authority = authority.clone();
        tokio::task::spawn_blocking(move || watched(&["--endpoints", &authority]))
    };

    fill(&etcd, 0..1000).await;
    let (answer, few) = measure().await.unwrap();
    Expected::of((0..1000).map(object)).check(&answer);

    fill(&etcd, 1000..50_000).await;
    let movers = Movers::start(etcd.clone()).await;
    let before = movers.moves.load(Ordering::Relaxed);
    let (answer, many) = measure().await.unwrap();
    let meanwhile = movers.moves.load(Ordering::Relaxed) - before;
    movers.stop().await;

    let mut expected = Expected::of((0..50_000).map(object));
    expected.add("secrets", Kind::Kms("p11-kms", NEW), MOVERS);
    expected.check(&answer);
    assert_eq!(answer["total"]["objects"], 50_000 + MOVERS);
    assert!(meanwhile > 2, "nothing moved while it counted");
    assert!(many < few + FLAT, "1,000 objects: {few} kB, 50,000 objects: {many} kB");

    // And the same of a snapshot of it, on which there is a hash for each key besides.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), etcd.snapshot().await).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let measure = move || watched(&["--snapshot", &path]);
    let (answer, snapshot) = tokio::task::spawn_blocking(measure).await.unwrap();
    expected.check(&answer);
    assert!(snapshot < few + FLAT, "1,000 objects: {few} kB, the snapshot: {snapshot} kB");
}

#[tokio::test]
#[ignore = "needs etcd (ETCD, or in PATH)"]
async fn a_snapshot_gives_what_etcd_gives_and_a_damaged_one_nothing() {
    let etcd = Etcd::start().await;
    fill(&etcd, 0..3000).await;
    // Written again, deleted, and deleted and written again; and some of it forgotten.
    fill(&etcd, 0..500).await;
    let deleted = (500..700).map(|number| Operation::delete(&object(number).key));
    let deleted: Vec<_> = deleted.collect();
    for part in deleted.chunks(100) {
        etcd.transact(part.to_vec()).await;
    }
    etcd.compact().await;
    fill(&etcd, 600..650).await;
    etcd.transact((0..50).map(|number| Operation::delete(&object(number).key)).collect()).await;
    let kept = (50..500).chain(600..650).chain(700..3000);
    let expected = Expected::of(kept.map(object));

    let live = counted(&["--endpoints", &etcd.authority]).await;
    expected.check(&live);
    let bytes = etcd.snapshot().await;
    assert_eq!(bytes.len() % 512, 32, "etcd puts a checksum at its end");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("snapshot.db");
    let path = file.to_str().unwrap();
    fs::write(&file, &bytes).unwrap();
    assert_eq!(counted(&["--snapshot", path]).await, live);

    let stopped = etcd.stop();
    let copy = database(&stopped);
    assert_eq!(counted(&["--snapshot", copy.to_str().unwrap()]).await, live);

    let refused = async |bytes: &[u8], said: &str| {
        fs::write(&file, bytes).unwrap();
        let ended = usage(&["--snapshot", path]).await;
        ended.expect(3, &[path, said]);
        assert_eq!(ended.stdout, "");
    };
    let len = bytes.len();
    for cut in [len - 1, len - 32, len - 4096, len / 2 / 512 * 512 + 32, 32, 0] {
        let said = match cut % 512 {
            0 if cut == 0 => "no snapshot of etcd",
            0 => continue,
            32 => "checksum",
            _ => "not whole",
        };
        refused(&bytes[..cut], said).await;
    }
    refused(&bytes[..len / 2 / 4096 * 4096], "its end is missing").await;
    for place in [0, 30, 4096 + 60, len / 2, len - 33, len - 1] {
        let mut bytes = bytes.clone();
        bytes[place] ^= 0x40;
        refused(&bytes, "checksum").await;
    }
}

#[tokio::test]
#[ignore = "needs etcd (ETCD, or in PATH)"]
async fn objects_that_are_larger_than_a_page() {
    let etcd = Etcd::start().await;
    let large = |number: u32| (format!("/registry/secrets/a/{number:03}"), 1 << 20);
    let small = |number: u32| (format!("/registry/configmaps/a/{number:03}"), 10);
    let objects = (0..30).map(large).chain((0..300).map(small));
    for (key, size) in objects {
        etcd.put_all([(key, kms("p11-kms", NEW, size))].into_iter()).await;
    }
    let mut expected = Expected::default();
    expected.add("secrets", Kind::Kms("p11-kms", NEW), 30);
    expected.add("configmaps", Kind::Kms("p11-kms", NEW), 300);
    expected.check(&counted(&["--endpoints", &etcd.authority]).await);
}

#[tokio::test]
#[ignore = "needs etcd (ETCD, or in PATH)"]
async fn the_text_is_for_people_and_the_prefix_is_kept_to() {
    let etcd = Etcd::start().await;
    let pairs = [
        ("/registry/secrets/a/b", kms("p11-kms", NEW, 10)),
        ("/registry/secrets/a/c", b"k8s:enc:aescbc:v1:key1:x".to_vec()),
        ("/registry/pods/a/c", b"k8s\0".to_vec()),
        ("/registry.of/secrets/a/b", kms("p11-kms", NEW, 10)),
        ("/registry", b"".to_vec()),
        ("/other/secrets/a/b", kms("p11-kms", OLD, 10)),
        ("compact_rev_key", b"1".to_vec()),
    ];
    etcd.put_all(pairs.into_iter().map(|(key, value)| (key.to_owned(), value))).await;
    let ended = usage(&["--endpoints", &etcd.authority]).await;
    ended.expect(0, &[]);
    let expected = format!(
        "secrets: 2 objects\n  1 need key_id {NEW} (provider p11-kms)\n  1 under aescbc \"key1\"\n\
         not encrypted at all: pods 1\n\
         total: 3 objects\n  1 need key_id {NEW} (provider p11-kms)\n  1 under aescbc \"key1\"\n  \
         1 not encrypted\ncounted at revision "
    );
    assert!(ended.stdout.starts_with(&expected), "{}", ended.stdout);
    let other = counted(&["--endpoints", &etcd.authority, "--prefix", "other"]).await;
    assert_eq!(other["total"]["key-ids"], json!({ OLD: 1 }));
    let nothing = usage(&["--endpoints", &etcd.authority, "--prefix", "/else"]).await;
    nothing.expect(2, &["no key in etcd begins with /else/", "--etcd-prefix"]);
}

/// Stands before etcd until so many bytes of answers have passed it.
struct Gate {
    authority: String,
    reached: Arc<Notify>,
    go_on: Arc<Notify>,
}

/// What it does then.
#[derive(Clone, Copy)]
enum Then {
    HangUp,
    Wait,
}

impl Gate {
    async fn before(etcd: &Etcd, bytes: usize, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let (reached, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let gate = Self { authority, reached: reached.clone(), go_on: go_on.clone() };
        let etcd = etcd.authority.clone();
        tokio::spawn(async move {
            let (client, _) = listener.accept().await.unwrap();
            // Nobody else is let in.
            drop(listener);
            let (mut asked, mut answered) = client.into_split();
            let (mut from, mut to) = TcpStream::connect(etcd).await.unwrap().into_split();
            let up = tokio::spawn(async move {
                let _ = tokio::io::copy(&mut asked, &mut to).await;
            });
            let mut passed = 0;
            let mut is_open = false;
            let mut buffer = vec![0; 4096];
            loop {
                let len = from.read(&mut buffer).await.unwrap_or(0);
                if len == 0 || answered.write_all(&buffer[..len]).await.is_err() {
                    break;
                }
                passed += len;
                if passed > bytes && !is_open {
                    is_open = true;
                    reached.notify_one();
                    match then {
                        Then::HangUp => break,
                        Then::Wait => go_on.notified().await,
                    }
                }
            }
            up.abort();
        });
        gate
    }
}

#[tokio::test]
#[ignore = "needs etcd (ETCD, or in PATH)"]
async fn the_next_endpoint_is_asked_when_one_fails() {
    let etcd = Etcd::start().await;
    fill(&etcd, 0..3000).await;
    let expected = Expected::of((0..3000).map(object));
    let dead = format!("http://127.0.0.1:{}", free_port());

    let endpoints = format!("{dead},{}", etcd.authority);
    expected.check(&counted(&["--endpoints", &endpoints]).await);

    // In the middle of the count.
    let gate = Gate::before(&etcd, 5 << 20, Then::HangUp).await;
    let endpoints = format!("{},{dead},{}", gate.authority, etcd.authority);
    expected.check(&counted(&["--endpoints", &endpoints]).await);
    gate.reached.notified().await;

    let gate = Gate::before(&etcd, 5 << 20, Then::HangUp).await;
    let ended = usage(&["--endpoints", &gate.authority]).await;
    ended.expect(3, &["etcd cannot be read", &gate.authority, "the connection broke"]);
    let ended = usage(&["--endpoints", &format!("{dead},{}", gate.authority)]).await;
    ended.expect(3, &[&dead, &gate.authority, "cannot connect", "Connection refused"]);
    assert_eq!(ended.stdout, "");
}

#[tokio::test]
#[ignore = "needs etcd (ETCD, or in PATH)"]
async fn a_count_begins_anew_when_its_revision_is_compacted() {
    let etcd = Etcd::start().await;
    fill(&etcd, 0..3000).await;
    let gate = Gate::before(&etcd, 5 << 20, Then::Wait).await;
    let authority = gate.authority.clone();
    let count = tokio::spawn(async move { counted(&["--endpoints", &authority]).await });
    gate.reached.notified().await;
    fill(&etcd, 3000..3010).await;
    let revision = etcd.compact().await;
    gate.go_on.notify_one();
    let answer = count.await.unwrap();
    Expected::of((0..3010).map(object)).check(&answer);
    assert_eq!(answer["revision"], revision);
}

/// A CA, and certificates of it, in files.
struct Pki {
    directory: TempDir,
}

impl Pki {
    fn new(name: &str) -> Self {
        let pki = Self { directory: tempfile::tempdir().unwrap() };
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(pki.file("ca.crt"), ca.pem()).unwrap();
        for name in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            let cert = params.signed_by(&key, &ca).unwrap();
            fs::write(pki.file(&format!("{name}.crt")), cert.pem()).unwrap();
            fs::write(pki.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        pki
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    async fn etcd(&self) -> Etcd {
        let (cert, key, ca) =
            (self.file("server.crt"), self.file("server.key"), self.file("ca.crt"));
        let flags = ["--client-cert-auth", "--trusted-ca-file", &ca];
        let own = ["--cert-file", &cert, "--key-file", &key];
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.read("ca.crt")))
            .identity(Identity::from_pem(self.read("client.crt"), self.read("client.key")));
        Etcd::start_with("https", &[&flags[..], &own].concat(), Some(tls)).await
    }
}

#[tokio::test]
#[ignore = "needs etcd (ETCD, or in PATH)"]
async fn tls_with_a_client_certificate() {
    let (pki, other) = (Pki::new("one"), Pki::new("another"));
    let etcd = pki.etcd().await;
    fill(&etcd, 0..1000).await;
    let expected = Expected::of((0..1000).map(object));
    let https = format!("https://{}", etcd.authority);
    let (ca, cert, key) = (pki.file("ca.crt"), pki.file("client.crt"), pki.file("client.key"));
    let identity = ["--cert", &cert, "--key", &key];

    // One that takes the call and says nothing stops nobody.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let after_it = format!("https://{},{https}", mute.local_addr().unwrap());
    for endpoint in [&https, &etcd.authority, &after_it] {
        let arguments = [&["--endpoints", endpoint, "--cacert", &ca], &identity[..]].concat();
        expected.check(&counted(&arguments).await);
    }

    // The same from the config, of which nothing but this section is needed.
    let config = pki.file("config.toml");
    let text = format!(
        "[etcd]\nendpoints = [{https:?}]\ncacert = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n"
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_p11-kms"));
    command.env_clear().args(["usage", "--output", "json", "--config", &config]);
    expected.check(&run(command).json());

    let fails = async |endpoint: &str, flags: &[&str], code, said: &[&str]| {
        let ended = usage(&[&["--endpoints", endpoint], flags].concat()).await;
        ended.expect(code, said);
        assert_eq!(ended.stdout, "");
    };
    let wrong = other.file("ca.crt");
    let flags = [&["--cacert", &wrong], &identity[..]].concat();
    fails(&https, &flags, 3, &[&https, "UnknownIssuer", "is --cacert its CA"]).await;
    fails(&https, &["--cacert", &ca], 3, &[&https, "a client certificate (--cert, --key)"]).await;
    let (odd, odd_key) = (other.file("client.crt"), other.file("client.key"));
    let flags = ["--cacert", &ca, "--cert", &odd, "--key", &odd_key];
    fails(&https, &flags, 3, &[&https, "does it trust --cert?"]).await;
    let http = format!("http://{}", etcd.authority);
    fails(&http, &[], 3, &[&http, "write https://"]).await;
    fails(&https, &identity, 2, &["needs a CA to trust: give --cacert"]).await;
    fails(&https, &["--cacert", &ca, "--cert", &cert], 2, &["both, --cert and --key"]).await;
    fails(&https, &["--cacert", &key], 2, &[&key, "holds no certificate in PEM form"]).await;
    let flags = ["--cacert", &ca, "--cert", &cert, "--key", &odd_key];
    fails(&https, &flags, 2, &[&https, "KeyMismatch"]).await;
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    usage(&[]).await.expect(2, &["/no/such/config.toml", "cannot read the configuration"]);
    usage(&["--snapshot", "/no/such.db"]).await.expect(3, &["/no/such.db", "No such file"]);
    usage(&["--snapshot", "/"]).await.expect(3, &["it is not a file"]);
    let two = usage(&["--snapshot", "/a", "--endpoints", "a:1"]).await;
    two.expect(2, &["cannot be used with"]);
    usage(&["--endpoints", "10.0.0.1"]).await.expect(2, &["write it as https://10.0.0.1:2379"]);
    let cacert = usage(&["--endpoints", "https://a:1", "--cacert", "/no/such.crt"]).await;
    cacert.expect(2, &["cannot read --cacert /no/such.crt"]);

    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    let with = |text: &str| {
        fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_p11-kms"));
        command.env_clear().arg("usage").arg("--config").arg(&config);
        run(command)
    };
    with("").expect(2, &["--endpoints", "etcd.snapshot"]);
    with("[etcd]\nendpoint = 'a:1'").expect(2, &["line 2: etcd.endpoint: unknown key"]);
    let gone = format!("[etcd]\nendpoints = '127.0.0.1:{}'", free_port());
    with(&gone).expect(3, &["etcd cannot be read", "Connection refused"]);
}
