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

use common::daemon::Daemon;
use common::load::Load;
use common::process::{children, pid_of};
use common::token::{LABEL, Token, module};
use common::{seed, wait_until};
use faulty_module::Control;
use nix::sys::signal::{Signal, kill, killpg};

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
async fn daemon(token: &Token) -> Daemon {
    token.misbehaving();
    let mut command = token.command();
    let address = format!("unix:path={}", token.path("p11-kit.sock").display());
    command
        .args(["--set", "token.call-timeout=1s", "serve"])
        .env("FAULTY_MODULE", p11_kit_client())
        .env("FAULTY_MECHANISMS", "2109:1036,210a:1065")
        .env("P11_KIT_SERVER_ADDRESS", address);
    let daemon = Daemon::run(token, command);
    daemon.well().await;
    daemon.all_workers(2).await;
    daemon
}

#[tokio::test]
#[ignore = "needs p11-kit: see softhsm-test/run"]
async fn a_remote_token_that_is_stopped_and_started() {
    let token = Token::with_kek();
    let mut server = Server::start(&token);
    let daemon = daemon(&token).await;
    let client = daemon.client().await;
    let before = client.encrypt(&seed(1, 32)).await.unwrap();
    for _ in 0..3 {
        server.lose();
        let status = daemon.unwell("").await;
        assert_eq!(status.key_id, before.key_id, "the key_id stays what it was");
        server.bring_back();
        daemon.well().await;
        let old = common::client::request_for(&before);
        assert!(client.decrypt(old).await.unwrap() == seed(1, 32), "another plaintext came back");
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
    let daemon = daemon(&token).await;
    let load = Load::start(&daemon.client().await, 8);
    load.go_on_for(100).await;
    server.hang();
    daemon.logged("the module hangs, its worker is replaced").await;
    load.go_on_for(100).await;
    load.finish().await;
    daemon.well().await;
    daemon.stop().await;
}
