#![forbid(unsafe_code)]
//! The worker's end of the control socket.

use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::ffi;
use crate::token::protocol::{Greeting, MAX_CONTROL, Setup, encode_control};

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

    /// A second handle, which notices the end of the front.
    pub(super) fn watcher(&self) -> io::Result<Watcher> {
        Ok(Watcher(self.0.try_clone()?))
    }
}

/// Notices the end of the front.
pub(super) struct Watcher(UnixStream);

impl Watcher {
    /// Blocks until the front has gone. All that it sends after the setup is a byte for
    /// each start of another worker in our place.
    pub(super) fn wait_for_end(&mut self, mut on_byte: impl FnMut()) {
        let mut rest = [0; 64];
        while matches!(self.0.read(&mut rest), Ok(1..)) {
            on_byte();
        }
    }
}
