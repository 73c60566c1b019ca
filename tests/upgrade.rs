//! `systemctl restart` with socket activation, under load from the Kubernetes client: the
//! socket stays with the service manager, and no connection is refused.
//!
//! Ignored without that client, which `softhsm-test/run` builds: `KMS_CLIENT`.

#![allow(clippy::unwrap_used, reason = "the helpers are part of the tests")]

mod common;

use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use common::daemon::Daemon;
use common::token::Token;
use common::watch::Watch;

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
    let mut watch = Watch::start(&token.endpoint(), 8).await;
    for _ in 0..3 {
        watch.go_on_for(200).await;
        daemon.stop().await;
        daemon = start(&token, &listener);
    }
    watch.go_on_for(200).await;
    let summary = watch.finish();
    assert!(summary.failed.is_empty(), "{summary:?}; {:?}", watch.said());
    assert_eq!((summary.wrong, summary.status_failed), (0, 0), "{summary:?}");
    daemon.stop().await;
}
