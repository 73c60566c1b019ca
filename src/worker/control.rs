#![forbid(unsafe_code)]
//! The worker's end of the control socket.

use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::ffi;
use crate::token::protocol::{
    Greeting, LOGIN_BEGINS, LOGIN_IS_OVER, MAX_CONTROL, Setup, encode_control,
};

/// Most session sockets that fit into one message, under the kernel's 253.
pub(crate) const MAX_SESSIONS: usize = 64;

/// The socket that was handed to us as standard input.
pub(super) struct Control(UnixStream);

impl Control {
    /// Takes standard input.
    pub(super) fn from_stdin() -> io::Result<Self> {
        Ok(Self(io::stdin().as_fd().try_clone_to_owned()?.into()))
    }

    /// Receives the setup and one socket for each session.
    pub(super) fn receive(&mut self) -> io::Result<(Setup, Vec<UnixStream>)> {
        let mut len = [0; 4];
        self.0.read_exact(&mut len)?;
        let len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
        if len > MAX_CONTROL {
            return Err(io::Error::other("the setup is too long"));
        }
        let mut json = vec![0; len];
        self.0.read_exact(&mut json)?;
        Ok((serde_json::from_slice(&json)?, self.receive_sockets()?))
    }

    fn receive_sockets(&self) -> io::Result<Vec<UnixStream>> {
        let mut byte = [0];
        let mut space = cmsg_space!([std::os::fd::RawFd; MAX_SESSIONS]);
        let mut data = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.0.as_raw_fd(), &mut data, Some(&mut space), flags)?;
        let mut sockets = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = part {
                sockets.extend(descriptors.into_iter().map(|fd| UnixStream::from(ffi::adopt(fd))));
            }
        }
        Ok(sockets)
    }

    /// Sends the one answer.
    pub(super) fn greet(&mut self, greeting: &Greeting) -> io::Result<()> {
        self.0.write_all(&encode_control(greeting)?)
    }

    /// Another handle, which tells of logins.
    pub(super) fn teller(&self) -> io::Result<Teller> {
        Ok(Teller(self.0.try_clone()?))
    }

    /// A second handle, which notices the end of the front.
    pub(super) fn watcher(&self) -> io::Result<Watcher> {
        Ok(Watcher(self.0.try_clone()?))
    }
}

/// Tells the front of logins.
pub(super) struct Teller(UnixStream);

impl Teller {
    /// Runs a login. If the front hears of no end to it, nobody knows whether a PIN was counted.
    pub(super) fn around<T>(&self, login: impl FnOnce() -> T) -> T {
        self.tell(LOGIN_BEGINS);
        let done = login();
        self.tell(LOGIN_IS_OVER);
        done
    }

    fn tell(&self, byte: u8) {
        // A front that has gone need not know.
        let _ = (&self.0).write_all(&[byte]);
    }
}

/// Notices the end of the front.
pub(super) struct Watcher(UnixStream);

impl Watcher {
    /// Blocks until the front has gone. All that it sends after the setup is a byte for
    /// each start of another worker in our place.
    pub(super) fn wait_for_end(&mut self, on_byte: impl FnMut()) {
        read_to_end(&mut self.0, on_byte);
    }
}

fn read_to_end(from: &mut impl Read, mut on_byte: impl FnMut()) {
    let mut rest = [0; 64];
    loop {
        match from.read(&mut rest) {
            Ok(1..) => on_byte(),
            // The module may have signal handlers of its own.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read that a signal interrupts, then one byte, then nothing more.
    struct Interrupted(Vec<io::Result<usize>>);

    impl Read for Interrupted {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0.pop().unwrap_or(Ok(0))
        }
    }

    #[test]
    fn a_signal_is_not_the_end_of_the_front() {
        let mut control = Interrupted(vec![Ok(1), Err(io::ErrorKind::Interrupted.into())]);
        let mut bytes = 0;
        read_to_end(&mut control, || bytes += 1);
        assert_eq!(bytes, 1);
    }
}
