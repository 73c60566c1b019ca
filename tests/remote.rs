//! A token on another host, as far as one machine can show it: SoftHSM behind
//! `p11-kit server`, which is stopped, started and hung.
//!
//! Its RPC lets no key wrap through. The faulty module on either side gives those
//! mechanisms other numbers on the way.
//!
//! Ignored without p11-kit, which `softhsm-test/run` installs.

#![allow(clippy::unwrap_used, reason = "the helpers are part of the tests")]

mod common;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::client::{Client, request_for};
use common::daemon::Daemon;
use common::load::Load;
use common::memory::Search;
use common::process::{children, pid_of};
use common::token::{LABEL, Token, module};
use common::{eventually, seed, wait_until};
use faulty_module::Control;
use nix::sys::signal::{Signal, kill, killpg};
use p11_kms::proto::EncryptResponse;
use tokio::task::JoinHandle;
use tonic::Code;

/// What is promised for a token that is back.
const SOON: Duration = Duration::from_secs(5);

/// The same with what a machine takes that does other things too: all that the start of a worker costs.
const SOON_ON_A_BUSY_MACHINE: Duration = Duration::from_secs(10);

/// What callers may see while it is away.
const AWAY: [Code; 2] = [Code::Unavailable, Code::DeadlineExceeded];

/// Calls at once.
const CALLERS: u32 = 4;

/// The client's half of p11-kit, on one architecture or another.
fn p11_kit_client() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten();
    let mut places = folders.map(|folder| folder.path().join("pkcs11/p11-kit-client.so"));
    let fedora = PathBuf::from("/usr/lib64/pkcs11/p11-kit-client.so");
    places.find(|place| place.exists()).unwrap_or(fedora)
}

/// `p11-kit server` with a token. Killed when dropped.
struct Server<'a> {
    token: &'a Token,
    running: Option<Child>,
}

impl<'a> Server<'a> {
    fn start(token: &'a Token) -> Self {
        let mut server = Self { token, running: None };
        server.bring_back();
        server
    }

    fn bring_back(&mut self) {
        let socket = self.token.path("p11-kit.sock");
        let faults = Control::new(self.token.path("server-faults")).unwrap();
        let mut command = Command::new("p11-kit");
        command
            .args(["server", "--foreground", "--provider"])
            .arg(faulty_module::library().unwrap())
            .arg("--name")
            .arg(&socket)
            .arg(format!("pkcs11:token={LABEL}"))
            .env("SOFTHSM2_CONF", self.token.path("softhsm2.conf"))
            .envs(faults.environment(&module()))
            .env("FAULTY_MECHANISMS", "1036:2109,1065:210a")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        self.running = Some(command.spawn().unwrap());
        wait_until("the server's socket", || socket.exists().then_some(()));
    }

    /// Ends it and its connections, as a host does that loses its power.
    fn lose(&mut self) {
        if let Some(mut server) = self.running.take() {
            killpg(pid_of(server.id()), Signal::SIGKILL).unwrap();
            server.wait().unwrap();
            fs::remove_file(self.token.path("p11-kit.sock")).unwrap();
        }
    }

    /// Stops its connections, as a network does that loses packets.
    fn hang(&self) {
        for connection in children(self.running.as_ref().unwrap().id()) {
            kill(pid_of(connection.id()), Signal::SIGSTOP).unwrap();
        }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.lose();
    }
}

/// The daemon that uses the token through the server.
async fn daemon(token: &Token, settings: &[&str]) -> Daemon {
    token.misbehaving();
    let mut command = token.command();
    let address = format!("unix:path={}", token.path("p11-kit.sock").display());
    command
        .args(settings.iter().flat_map(|setting| ["--set", setting]))
        .args(["--set", "token.call-timeout=1s", "serve"])
        .env("FAULTY_MODULE", p11_kit_client())
        .env("FAULTY_MECHANISMS", "2109:1036,210a:1065")
        .env("P11_KIT_SERVER_ADDRESS", address);
    let daemon = Daemon::run(token, command);
    daemon.well().await;
    daemon.all_workers(2).await;
    daemon
}

/// Callers that go on whatever comes, and keep what they were given.
struct Callers {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<Seen>>,
}

#[derive(Default)]
struct Seen {
    written: Vec<(u32, EncryptResponse)>,
    /// When each was begun, and what came of it.
    failed: Vec<(Instant, tonic::Status)>,
}

impl Callers {
    fn start(client: &Client) -> Self {
        let (stop, good) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let call = |number| {
            let (stop, good, client) = (stop.clone(), good.clone(), client.clone());
            async move {
                let (mut seen, mut salt) = (Seen::default(), number);
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    match round_trip(&client, salt).await {
                        Ok(encrypted) => {
                            good.fetch_add(1, Ordering::Relaxed);
                            seen.written.push((salt, encrypted));
                        }
                        Err(status) => {
                            seen.failed.push((began, status));
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    }
                    salt += CALLERS;
                }
                seen
            }
        };
        let tasks = (0..CALLERS).map(|number| tokio::spawn(call(number))).collect();
        Self { stop, good, tasks }
    }

    /// Waits for so many more good round trips.
    async fn go_on_for(&self, count: usize) {
        let good = || self.good.load(Ordering::Relaxed);
        let goal = good() + count;
        eventually("calls under load", async || (good() >= goal).then_some(())).await;
    }

    async fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for task in self.tasks {
            let seen = task.await.unwrap();
            all.written.extend(seen.written);
            all.failed.extend(seen.failed);
        }
        all
    }
}

async fn round_trip(client: &Client, salt: u32) -> Result<EncryptResponse, tonic::Status> {
    let encrypted = client.encrypt(&seed(salt, 32)).await?;
    let back = client.decrypt(request_for(&encrypted)).await?;
    assert!(back == seed(salt, 32), "another plaintext came back");
    Ok(encrypted)
}

/// Longer each time: the pauses between two tries to start a worker grow.
#[tokio::test]
#[ignore = "needs p11-kit: see softhsm-test/run"]
async fn a_remote_token_that_is_stopped_and_started() {
    let token = Token::with_kek();
    let mut server = Server::start(&token);
    let daemon = daemon(&token, &[]).await;
    let client = daemon.client().await;
    let key_id = daemon.well().await.key_id;
    let callers = Callers::start(&client);
    let mut away = Vec::new();
    for seconds in [0, 2, 6] {
        callers.go_on_for(20).await;
        let lost = Instant::now();
        server.lose();
        let status = daemon.unwell("no token matches token.uri").await;
        assert_eq!(status.key_id, key_id, "the key_id stays what it was");
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert_ne!(daemon.status(|_| true).await.healthz, "ok");
        server.bring_back();
        let back = Instant::now();
        assert_eq!(daemon.well().await.key_id, key_id);
        assert!(back.elapsed() <= SOON_ON_A_BUSY_MACHINE, "well after {:?}", back.elapsed());
        away.push((lost, Instant::now()));
    }
    callers.go_on_for(20).await;
    let seen = callers.finish().await;
    for (began, status) in &seen.failed {
        assert!(AWAY.contains(&status.code()), "{status:?}");
        let is_away = |(lost, well): &(Instant, Instant)| began <= well && began >= lost;
        // One that was under way when it was lost waits for its end.
        let under_way =
            |(lost, _): &(Instant, Instant)| began < lost && lost.duration_since(*began) < SOON;
        assert!(away.iter().any(is_away) || away.iter().any(under_way), "{status:?}");
    }
    assert!(!seen.failed.is_empty(), "nobody has seen that it was away");
    for (salt, encrypted) in &seen.written {
        let back = client.decrypt(request_for(encrypted)).await.unwrap();
        assert!(back == seed(*salt, 32), "another plaintext came back");
    }
    daemon.all_workers(2).await;
    daemon.stop().await;
}

/// Nobody has to undo it: the worker is killed, and the next one has a connection of its own.
#[tokio::test]
#[ignore = "needs p11-kit: see softhsm-test/run"]
async fn a_remote_token_whose_connections_hang() {
    let token = Token::with_kek();
    let server = Server::start(&token);
    let daemon = daemon(&token, &[]).await;
    let load = Load::start(&daemon.client().await, 8);
    load.go_on_for(100).await;
    server.hang();
    daemon.logged("the module hangs, its worker is replaced").await;
    load.go_on_for(100).await;
    load.finish().await;
    daemon.well().await;
    daemon.stop().await;
}

/// p11-kit's client leaves what it has sent and received in what it frees. Glibc wipes that for it.
#[tokio::test]
#[ignore = "needs p11-kit: see softhsm-test/run"]
async fn a_module_that_wipes_nothing_leaves_no_seed() {
    let token = Token::with_kek();
    let _server = Server::start(&token);
    // Its own calls would write over what ours have left.
    let alone = ["keyring.scan-interval=1h", "health.interval=10m"];
    let found = async |wipe: &str| {
        let wipe = format!("token.wipe-freed-memory={wipe}");
        let daemon = daemon(&token, &[alone[0], alone[1], &wipe]).await;
        let client = daemon.client().await;
        let seeds: Vec<Vec<u8>> = (0..100).map(|number| seed(number, 32)).collect();
        for seed in &seeds {
            client.round_trip(seed).await.unwrap();
        }
        drop(client);
        tokio::time::sleep(SOON).await;
        let search = Search::new(&seeds);
        let workers = daemon.workers();
        let left: usize =
            workers.iter().map(|worker| search.in_process(worker.id()).secrets.len()).sum();
        daemon.stop().await;
        left
    };
    assert!(found("false").await > 0, "without that, some are there to be found");
    assert_eq!(found("true").await, 0);
}
