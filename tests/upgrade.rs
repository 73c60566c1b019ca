//! `systemctl restart` with socket activation, under load from the Kubernetes client: the
//! socket stays with the service manager, and no connection is refused.
//!
//! Ignored without that client, which `softhsm-test/run` builds: `KMS_CLIENT`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "the helpers are part of the tests"
)]

mod common;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Lines};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Child, ChildStdout, Command, Stdio};

use common::daemon::Daemon;
use common::token::Token;
use serde_json::Value;

/// Callers that go on until they are told to end.
struct Watch {
    child: Child,
    events: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(endpoint: &str) -> Self {
        let client = std::env::var_os("KMS_CLIENT").expect("softhsm-test/run sets KMS_CLIENT");
        let mut child = Command::new(client)
            .args(["watch", "--endpoint", endpoint])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, events }
    }

    /// Waits for an event that is wanted.
    fn next(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.events.next().expect("the client has ended").unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Waits for so many more good calls.
    fn go_on_for(&mut self, count: u64) {
        let good = |event: &Value| event["good"].as_u64().filter(|_| event["event"] == "beat");
        let now = good(&self.next(|event| good(event).is_some())).unwrap();
        self.next(|event| good(event).is_some_and(|good| good >= now + count));
    }

    /// Ends it; gives what it saw.
    fn end(mut self) -> Value {
        drop(self.child.stdin.take());
        let summary = self.next(|event| event["event"] == "summary");
        self.child.wait().unwrap();
        summary
    }
}

/// The daemon as the service manager starts it.
fn start(token: &Token, listener: &UnixListener) -> Daemon {
    let mut command = token.prepared("sh");
    let script = r#"exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@""#;
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_p11-kms"), "--config"])
        .arg(token.config())
        .arg("serve")
        .stdin(OwnedFd::from(listener.try_clone().unwrap()));
    Daemon::run(token, command)
}

#[tokio::test]
#[ignore = "needs the Kubernetes client: see softhsm-test/run"]
async fn a_restart_with_socket_activation_refuses_nobody() {
    let token = Token::with_kek();
    let socket = token.path("run/kms.sock");
    fs::create_dir(socket.parent().unwrap()).unwrap();
    fs::set_permissions(socket.parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let mut daemon = start(&token, &listener);
    daemon.well().await;
    let mut watch = Watch::start(&token.endpoint());
    watch.next(|event| event["event"] == "ready");
    for _ in 0..3 {
        watch.go_on_for(200);
        daemon.stop().await;
        daemon = start(&token, &listener);
    }
    watch.go_on_for(200);
    let summary = watch.end();
    assert_eq!(summary["failed"], serde_json::json!({}), "{summary}");
    assert_eq!((&summary["wrong"], &summary["status_failed"]), (&0.into(), &0.into()), "{summary}");
    daemon.stop().await;
}
