#![forbid(unsafe_code)]
//! The server as its peers see it: real sockets, a tiny service behind them.

mod limits;
mod service;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream as StdStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;
use crate::config::Endpoint;
use service::{Running, eventually, start, start_on};

/// Long enough for a loaded machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

fn us() -> AllowList {
    AllowList::new(vec![geteuid().as_raw()], vec![])
}

fn others() -> AllowList {
    AllowList::new(vec![geteuid().as_raw() + 1], vec![])
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

/// Whether the server closes this connection without a word.
async fn is_closed(mut stream: UnixStream) -> bool {
    let mut rest = Vec::new();
    // A reset is a close too.
    let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    end.is_ok() && rest.is_empty()
}

fn abstract_socket(name: &str) -> (BoundSocket, SocketAddr) {
    let name = format!("p11-kms-test-{}-{name}", std::process::id());
    let socket = socket::bind(&socket::SocketOptions {
        endpoint: Endpoint::Abstract(name.clone()),
        mode: 0o600,
        owner: None,
        group: None,
    });
    (socket.unwrap(), SocketAddr::from_abstract_name(name).unwrap())
}

fn connect_abstract(address: &SocketAddr) -> UnixStream {
    let stream = StdStream::connect_addr(address).unwrap();
    stream.set_nonblocking(true).unwrap();
    UnixStream::from_std(stream).unwrap()
}

#[tokio::test]
async fn a_request_carries_its_peer() {
    let server = start(Limits::default(), us());
    let status = server.client().await.status().await;
    let (uid, pid) = (geteuid().as_raw(), std::process::id());
    assert_eq!(status, format!("uid {uid} pid {pid}"));
    assert_eq!(count(&server.counters.accepted), 1);
    assert_eq!(server.stop().await, Drained::Complete);
}

#[tokio::test]
async fn a_peer_that_is_not_listed_is_closed_at_once() {
    let server = start(Limits::default(), others());
    assert!(is_closed(server.connect().await).await);
    assert_eq!(count(&server.counters.refused), 1);
    assert_eq!(count(&server.counters.accepted), 0);
}

#[tokio::test]
async fn an_abstract_socket_is_never_open_to_all() {
    let (socket, _) = abstract_socket("open");
    let nobody = AllowList::new(vec![], vec![]);
    let result = start_on(socket, None, Limits::default(), nobody).result().await;
    assert!(matches!(result, Err(ServerError::NoAllowList)), "{result:?}");

    let (socket, address) = abstract_socket("list");
    let allow = us();
    let server = start_on(socket, None, Limits::default(), allow.clone());
    let client = Running::client_over(connect_abstract(&address)).await;
    client.status().await;

    let (socket, address_of_others) = abstract_socket("others");
    let refusing = start_on(socket, None, Limits::default(), others());
    assert!(is_closed(connect_abstract(&address_of_others)).await);
    assert_eq!(count(&refusing.counters.refused), 1);

    // A reload that empties the list closes the door, and does not take it off its hinges.
    allow.replace(vec![], vec![]);
    assert!(is_closed(connect_abstract(&address)).await);
    // The one that knocked, and the one that was there.
    eventually(|| count(&server.counters.refused) == 2).await;
    assert!(client.try_status().await.is_err());
}

#[tokio::test]
async fn a_new_list_counts_for_open_connections_too() {
    let allow = us();
    let server = start(Limits::default(), allow.clone());
    let client = server.client().await;
    client.status().await;

    allow.replace(vec![], vec![nix::unistd::getegid().as_raw()]);
    client.status().await;
    assert_eq!(count(&server.counters.accepted), 1, "the gid is listed: the connection stays");

    let raw = server.greeted().await;
    allow.replace(vec![geteuid().as_raw() + 1], vec![]);
    raw.until_closed().await;
    assert!(client.try_status().await.is_err());
    eventually(|| count(&server.counters.refused) == 2).await;
}

#[tokio::test]
async fn no_more_connections_than_the_limit() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let server = start(limits, us());
    let first = server.client().await;
    first.status().await;
    let second = server.greeted().await;
    eventually(|| count(&server.counters.accepted) == 2).await;

    for refused in 1..=5 {
        assert!(is_closed(server.connect().await).await);
        assert_eq!(count(&server.counters.full), refused);
    }
    first.status().await;
    drop(second);
    // The server has to notice first.
    loop {
        if let Ok(third) = server.try_client().await
            && third.try_status().await.is_ok()
        {
            break;
        }
    }
}

#[tokio::test]
async fn those_who_ask_nothing_keep_nobody_out_for_long() {
    let idle_time = Duration::from_millis(50);
    // None of its connections is ended for falling quiet.
    let carries_secrets = |_: &str| false;
    let limits = Limits { connections: 2, idle_time, carries_secrets, ..Limits::default() };
    let server = start(limits, us());
    let idle = [server.client().await, server.client().await];
    let busy = idle[0].clone();
    for client in &idle {
        client.status().await;
    }
    let call = tokio::spawn(async move { busy.encrypt(b"slow".to_vec()).await });
    eventually(|| count(&server.slow.waiting) == 1).await;
    sleep(idle_time).await;
    let enters = async {
        loop {
            if let Ok(client) = server.try_client().await
                && client.try_status().await.is_ok()
            {
                break;
            }
            sleep(idle_time).await;
        }
    };
    timeout(PATIENCE, enters).await.expect("it finds no place");
    // Who has a call under way stays.
    server.slow.go_on.notify_waiters();
    assert_eq!(call.await.unwrap().unwrap(), b"slow");
}

#[tokio::test]
async fn a_flood_of_connections_passes() {
    let limits = Limits { connections: 64, ..Limits::default() };
    let server = start(limits, us());
    let early = server.client().await;
    early.status().await;

    let mut held = std::collections::VecDeque::new();
    for _ in 0..2000 {
        held.push_back(server.connect().await);
        // Not more than a small limit of open files allows.
        if held.len() > 300 {
            held.pop_front();
        }
    }
    early.status().await;
    let counters = &server.counters;
    eventually(|| count(&counters.accepted) == 2001).await;
    assert!(count(&counters.full) > 0);
    // Those who say nothing keep nobody out, not even while they stay.
    server.client().await.status().await;
    drop(held);
    assert_eq!(server.stop().await, Drained::Complete);
}

#[tokio::test]
async fn thousands_of_calls_at_once_on_one_connection() {
    let server = start(Limits::default(), us());
    let client = server.client().await;
    let mut calls = JoinSet::new();
    for number in 0..5000_u32 {
        let client = client.clone();
        // The largest legal seed: the windows have to stand it.
        let seed = [number.to_be_bytes().to_vec(), vec![7; 996]].concat();
        calls.spawn(async move { client.encrypt(seed.clone()).await.unwrap() == seed });
    }
    let right = timeout(PATIENCE, calls.join_all()).await.unwrap();
    assert!(right.into_iter().all(|right| right));
    assert_eq!(count(&server.counters.accepted), 1);
}

#[tokio::test]
async fn a_call_in_flight_is_answered_before_the_end() {
    let mut server = start(Limits::default(), us());
    let client = server.client().await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.encrypt(b"slow".to_vec()).await }
    });
    eventually(|| count(&server.slow.waiting) == 1).await;
    server.shut_down();
    let path = server.path().to_owned();
    eventually(|| !path.exists()).await;
    assert!(StdStream::connect(&path).is_err());
    assert!(!server.is_finished(), "one call is still in flight");
    let rounds = count(&server.counters.rounds);
    eventually(|| count(&server.counters.rounds) > rounds + 1).await;
    assert!(
        matches!(bind_at(&path), Err(SocketError::AlreadyRunning { .. })),
        "the lock is held until the end"
    );

    server.slow.go_on.notify_waiters();
    assert_eq!(call.await.unwrap().unwrap(), b"slow");
    assert_eq!(server.stop().await, Drained::Complete);
    bind_at(&path).unwrap();
}

/// The kernel had let them in already, and they may have sent a request.
#[tokio::test]
async fn who_stands_in_the_queue_at_the_end_is_answered() {
    let mut server = start(Limits::default(), us());
    // The server accepts nobody before this test waits for something.
    let streams: Vec<_> = (0..5).map(|_| StdStream::connect(server.path()).unwrap()).collect();
    server.shut_down();
    let mut calls = JoinSet::new();
    for stream in streams {
        stream.set_nonblocking(true).unwrap();
        let stream = UnixStream::from_std(stream).unwrap();
        // At once: none of them has long to begin.
        calls.spawn(async move { Running::client_over(stream).await.status().await });
    }
    calls.join_all().await;
    assert_eq!(server.stop().await, Drained::Complete);
}

/// The service manager hands the socket to the next daemon, and with it those who wait there.
#[tokio::test]
async fn who_stands_in_the_queue_of_a_passed_socket_is_left_to_the_next_daemon() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("kms.sock");
    let kept = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let passed = || BoundSocket::passed(kept.try_clone().unwrap());
    let mut first = start_on(passed(), None, Limits::default(), us());
    let stream = StdStream::connect(&path).unwrap();
    first.shut_down();
    assert_eq!(first.stop().await, Drained::Complete);
    let second = start_on(passed(), None, Limits::default(), us());
    stream.set_nonblocking(true).unwrap();
    let client = Running::client_over(UnixStream::from_std(stream).unwrap()).await;
    client.status().await;
    assert_eq!(count(&second.counters.accepted), 1);
    assert_eq!(second.stop().await, Drained::Complete);
    StdStream::connect(&path).unwrap();
}

fn bind_at(path: &Path) -> Result<BoundSocket, SocketError> {
    socket::bind(&socket::SocketOptions {
        endpoint: Endpoint::Path(path.to_owned()),
        mode: 0o600,
        owner: None,
        group: None,
    })
}

#[tokio::test]
async fn a_call_that_never_ends_is_cut() {
    let limits = Limits { drain_timeout: Duration::from_millis(200), ..Limits::default() };
    let mut server = start(limits, us());
    let client = server.client().await;
    let idle = server.client().await;
    idle.status().await;
    let call = tokio::spawn(async move { client.encrypt(b"slow".to_vec()).await });
    eventually(|| count(&server.slow.waiting) == 1).await;
    server.shut_down();
    assert_eq!(server.stop().await, Drained::Cut { connections: 1 });
    assert!(call.await.unwrap().is_err());
}

#[tokio::test]
async fn the_drain_does_not_wait_for_a_connection_that_never_spoke() {
    let limits = Limits {
        handshake_timeout: PATIENCE * 2,
        drain_timeout: PATIENCE * 2,
        ..Limits::default()
    };
    let server = start(limits, us());
    let silent = server.connect().await;
    eventually(|| count(&server.counters.accepted) == 1).await;
    assert_eq!(timeout(PATIENCE, server.stop()).await, Ok(Drained::Complete));
    drop(silent);
}
