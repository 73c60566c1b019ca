#![forbid(unsafe_code)]
//! Tells systemd how we are (sd_notify(3)). Without `NOTIFY_SOCKET` nothing happens.
//!
//! Nobody waits for a service manager that does not read: it may be stuck, and we are not.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::sleep;

/// How often what must be heard is said again while there is no room for it.
const AGAIN: Duration = Duration::from_millis(100);

/// Start-up is done: the socket is up. With `Type=notify` the units that are ordered after
/// ours, such as the kubelet, start now.
///
/// Without it the service manager ends us, so it is said again until there is room for it.
///
/// Must be called within a tokio runtime.
pub fn ready(status: &str) {
    let status = one_line(status);
    if !is_ready_told(&status) {
        tokio::spawn(async move {
            while !is_ready_told(&status) {
                sleep(AGAIN).await;
            }
        });
    }
}

/// `false`: there is no room for it now.
fn is_ready_told(status: &str) -> bool {
    match notify(&[NotifyState::Ready, NotifyState::Status(status)]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
        Err(error) => report(&error),
        Ok(()) => {}
    }
    true
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    send(&[NotifyState::Status(&one_line(text))]);
}

/// The config is being read again; [`ready`] must follow, whether it was good or not.
pub fn reloading() {
    // systemd 253 and newer want to know when it began, to tell this reload from an earlier one.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => report(&error),
    }
}

/// How long systemd waits for [`alive`] before it ends us; none if it does not watch.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
}

/// A sign of life.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// The drain has begun.
pub fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
}

/// Each line of a message is a field of its own: text from elsewhere must not add one.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

/// Errors with `WouldBlock` where there is no room for it now.
fn notify(states: &[NotifyState<'_>]) -> io::Result<()> {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &address(&place)?).map(drop)
}

fn address(place: &OsStr) -> io::Result<SocketAddr> {
    match place.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(place),
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        report(&error);
    }
}

/// The daemon works without: not a reason to stop.
fn report(error: &io::Error) {
    tracing::warn!(%error, "cannot notify the service manager");
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    #[ignore = "started by what_systemd_is_told, with a socket to write to"]
    fn says_everything() {
        ready("serving\non unix:///x\nMAINPID=1");
        reloading();
        status("reloading");
        stopping("draining");
    }

    fn say_everything(socket: &str) {
        let status = Command::new(env::current_exe().unwrap())
            .args(["--exact", "notify::tests::says_everything", "--ignored"])
            .env("NOTIFY_SOCKET", socket)
            .output()
            .unwrap();
        assert!(status.status.success(), "{status:?}");
    }

    #[test]
    fn what_systemd_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        say_everything(path.to_str().unwrap());

        socket.set_nonblocking(true).unwrap();
        let next = || {
            let mut buffer = [0; 1000];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        assert_eq!(next(), "READY=1\nSTATUS=serving on unix:///x MAINPID=1\n");
        let reloading = next();
        let begun = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(begun.trim_end().parse::<u64>().unwrap() > 0, "{reloading}");
        assert_eq!(next(), "STATUS=reloading\n");
        assert_eq!(next(), "STOPPING=1\nSTATUS=draining\n");
    }

    /// sd_notify(3): a name that begins with `@` is an abstract one.
    #[test]
    fn an_abstract_socket_is_one_too() {
        let name = format!("p11-kms-test-{}-notify", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        say_everything(&format!("@{name}"));
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 1000];
        let length = socket.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"READY=1\n"));
    }

    #[test]
    fn a_service_manager_that_is_gone_or_absent_does_no_harm() {
        say_everything("/nonexistent/notify");
        ready("no NOTIFY_SOCKET is set in a test");
    }
}
