#![forbid(unsafe_code)]

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tempfile::TempDir;

use super::*;

fn temp() -> (TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("kms.sock");
    (temp, path)
}

fn options(path: &Path, mode: u32) -> SocketOptions {
    SocketOptions { endpoint: Endpoint::Path(path.to_owned()), mode, owner: None, group: None }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// What a daemon that was killed leaves behind.
fn leave_a_socket(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    assert!(path.exists());
}

fn is_running(result: Result<BoundSocket, SocketError>) -> bool {
    matches!(result, Err(SocketError::AlreadyRunning { .. }))
}

#[test]
fn it_listens_with_the_mode_that_was_asked_for() {
    for asked in [0o600, 0o660, 0o666] {
        let (_temp, path) = temp();
        let socket = bind(&options(&path, asked)).unwrap();
        assert_eq!(mode(&path), asked);
        assert_eq!(socket.endpoint(), Some(Endpoint::Path(path.clone())));
        assert!(!socket.is_abstract());
        UnixStream::connect(&path).unwrap();
    }
}

#[test]
fn it_begins_with_0600_and_other_threads_keep_their_umask() {
    let (temp, _) = temp();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let beside = temp.path().join("beside");
        let done = &done;
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                fs::create_dir(&beside).unwrap();
                assert_eq!(mode(&beside) & 0o700, 0o700, "made under our umask");
                fs::remove_dir(&beside).unwrap();
            }
        });
        for number in 0..200 {
            let path = temp.path().join(number.to_string());
            let _listener = bind_closed(&path).unwrap();
            assert_eq!(mode(&path), 0o600);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn nobody_sees_it_open_before_it_is_meant_to_be() {
    let (_temp, path) = temp();
    let seen = AtomicU32::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if let Ok(found) = fs::symlink_metadata(&path) {
                    // 0600 and 0620 are what may be seen.
                    seen.fetch_or(found.mode() & 0o7777 & !0o620, Ordering::Relaxed);
                }
            }
        });
        for _ in 0..200 {
            drop(bind(&options(&path, 0o620)).unwrap());
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(seen.load(Ordering::Relaxed), 0);
}

#[test]
fn owner_and_group_are_set() {
    let (_temp, path) = temp();
    let mut asked = options(&path, 0o660);
    asked.group = Some(54321);
    if !nix::unistd::geteuid().is_root() {
        let error = bind(&asked).unwrap_err();
        assert!(matches!(error, SocketError::Io { .. }), "{error}");
        assert!(!path.exists(), "a socket that could not be given away must not stay");
        return;
    }
    asked.owner = Some(12345);
    let _socket = bind(&asked).unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.uid(), found.gid(), mode(&path)), (12345, 54321, 0o660));
}

#[test]
fn it_is_gone_when_dropped_and_the_lock_file_stays() {
    let (temp, path) = temp();
    drop(bind(&options(&path, 0o600)).unwrap());
    assert!(!path.exists());
    let lock = temp.path().join("kms.sock.lock");
    assert_eq!(mode(&lock), 0o600);
    drop(bind(&options(&path, 0o600)).unwrap());
}

#[test]
fn what_somebody_else_put_there_is_not_removed_at_the_end() {
    let (_temp, path) = temp();
    let socket = bind(&options(&path, 0o600)).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(socket);
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_leftover_socket_is_removed() {
    let (_temp, path) = temp();
    leave_a_socket(&path);
    let _socket = bind(&options(&path, 0o600)).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn one_that_is_in_use_is_left_alone() {
    let (_temp, path) = temp();
    let first = bind(&options(&path, 0o600)).unwrap();
    assert!(is_running(bind(&options(&path, 0o600))), "held by the lock");
    UnixStream::connect(&path).unwrap();
    drop(first);

    // Another program's, which knows nothing of our lock.
    let _foreign = UnixListener::bind(&path).unwrap();
    assert!(is_running(bind(&options(&path, 0o600))), "held by a listener");
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_listener_whose_queue_is_full_is_in_use_too() {
    let (_temp, path) = temp();
    let backlog = nix::sys::socket::Backlog::new(0).unwrap();
    let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
    nix::sys::socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    nix::sys::socket::listen(&listener, backlog).unwrap();
    let _waiting = UnixStream::connect(&path).unwrap();
    assert!(is_running(bind(&options(&path, 0o600))));
}

#[test]
fn a_datagram_socket_in_use_is_left_alone() {
    let (_temp, path) = temp();
    let _other = UnixDatagram::bind(&path).unwrap();
    assert!(is_running(bind(&options(&path, 0o600))));
}

#[test]
fn the_lock_alone_keeps_a_second_one_out() {
    let (_temp, path) = temp();
    let place = prepare(&path).unwrap();
    let _lock = take_lock(&place, &path, &options(&path, 0o600)).unwrap();
    leave_a_socket(&path);
    assert!(is_running(bind(&options(&path, 0o600))));
    assert!(path.exists(), "the other one may be about to listen on it");
}

#[test]
fn of_several_that_start_at_once_one_wins() {
    for leftover in [false, true] {
        let (_temp, path) = temp();
        if leftover {
            leave_a_socket(&path);
        }
        let start = Barrier::new(4);
        let results: Vec<_> = thread::scope(|scope| {
            let bind_one = || {
                start.wait();
                bind(&options(&path, 0o600))
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(bind_one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        UnixStream::connect(&path).unwrap();
        let (_winner, losers): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert!(losers.into_iter().all(is_running));
    }
}

#[test]
fn something_else_at_the_path_is_not_removed() {
    let (temp, path) = temp();
    fs::write(&path, "precious").unwrap();
    let error = bind(&options(&path, 0o600)).unwrap_err();
    assert!(matches!(error, SocketError::NotASocket { what: "a file", .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let directory = temp.path().join("directory");
    fs::create_dir(&directory).unwrap();
    let error = bind(&options(&directory, 0o600)).unwrap_err();
    assert!(matches!(error, SocketError::NotASocket { what: "a directory", .. }), "{error}");

    let link = temp.path().join("link");
    leave_a_socket(&temp.path().join("target"));
    symlink("target", &link).unwrap();
    let error = bind(&options(&link, 0o600)).unwrap_err();
    assert!(matches!(error, SocketError::NotASocket { what: "a symbolic link", .. }), "{error}");
    assert!(temp.path().join("target").exists());
}

#[test]
fn a_link_in_place_of_the_lock_file_is_not_followed() {
    let (temp, path) = temp();
    symlink("elsewhere", temp.path().join("kms.sock.lock")).unwrap();
    let error = bind(&options(&path, 0o600)).unwrap_err();
    assert!(matches!(error, SocketError::Io { .. }), "{error}");
    assert!(!temp.path().join("elsewhere").exists());
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let (temp, path) = temp();
    fs::set_permissions(temp.path(), Permissions::from_mode(0o777)).unwrap();
    let error = bind(&options(&path, 0o600)).unwrap_err();
    assert!(matches!(error, SocketError::Writable { .. }), "{error}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "not even a lock file");
}

#[test]
fn an_abstract_name_has_one_owner() {
    let name = format!("p11-kms-test-{}-owner", std::process::id());
    let asked =
        SocketOptions { endpoint: Endpoint::Abstract(name), mode: 0o600, owner: None, group: None };
    let socket = bind(&asked).unwrap();
    assert!(socket.is_abstract());
    assert_eq!(socket.endpoint(), Some(asked.endpoint.clone()));
    let error = bind(&asked).unwrap_err();
    assert!(error.to_string().contains(&asked.endpoint.to_string()), "{error}");
    assert!(is_running(Err(error)));
    drop(socket);
    bind(&asked).unwrap();
}

#[test]
fn an_abstract_name_must_fit() {
    for (length, fits) in [(107, true), (108, false), (0, false)] {
        let name = "p".repeat(length);
        let endpoint = Endpoint::Abstract(name);
        let result = bind(&SocketOptions { endpoint, mode: 0o600, owner: None, group: None });
        assert_eq!(result.is_ok(), fits, "{length}: {result:?}");
    }
}

/// Runs [`from_systemd`] in a process of its own, with `count` descriptors that are
/// all `passed`, as the service manager would start it.
fn activated(passed: impl Into<OwnedFd>, count: usize) -> String {
    let script = r#"exec 3<&0 4<&0 0</dev/null; LISTEN_PID=$$ exec "$0" "$@""#;
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "server::socket::tests::as_systemd_starts_it"])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env("LISTEN_FDS", count.to_string())
        .stdin(Stdio::from(passed.into()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().find_map(|line| line.split_once("RESULT "));
    found.unwrap_or_else(|| panic!("{output:?}")).1.to_owned()
}

#[test]
#[ignore = "from_systemd takes what is in the environment: started by the tests below in a process of its own"]
fn as_systemd_starts_it() {
    let told = match from_systemd() {
        Ok(None) => "none".to_owned(),
        Ok(Some(socket)) => format!("listens on {}", socket.endpoint().unwrap()),
        Err(error) => error.to_string(),
    };
    println!("\nRESULT {told}");
    assert!(std::env::var_os("LISTEN_FDS").is_none(), "a child would take it for its own");
}

#[test]
fn a_socket_from_systemd_is_taken_and_its_file_is_left() {
    let (_temp, path) = temp();
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(activated(listener, 1), format!("listens on unix://{}", path.display()));
    assert!(path.exists());
}

#[test]
fn nothing_from_systemd_is_no_error() {
    assert_eq!(activated(File::open("/dev/null").unwrap(), 0), "none");
}

#[test]
fn what_is_not_one_listening_stream_socket_is_refused() {
    let (temp, path) = temp();
    let told = activated(UnixListener::bind(&path).unwrap(), 2);
    assert!(told.contains("2 sockets were passed"), "{told}");

    let told = activated(TcpListener::bind("127.0.0.1:0").unwrap(), 1);
    assert!(told.contains("not a valid unix stream socket"), "{told}");

    let told = activated(UnixDatagram::bind(temp.path().join("datagram")).unwrap(), 1);
    assert!(told.contains("not a valid unix stream socket"), "{told}");

    let told = activated(UnixStream::pair().unwrap().0, 1);
    assert!(told.contains("does not listen"), "{told}");

    let told = activated(File::open("/dev/null").unwrap(), 1);
    assert!(told.contains("not a socket"), "{told}");
}
