#![forbid(unsafe_code)]
//! Lines for the journal of systemd, in its own form: a datagram for each.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// Where journald listens (sd_journal_send(3)).
const SOCKET: &str = "/run/systemd/journal/socket";

/// What the journal knows the lines by: `journalctl -t p11-kms-audit`.
const IDENTIFIER: &str = "p11-kms-audit";

/// How long one datagram may take. journald takes them from a queue that may be full.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to journald.
#[derive(Debug)]
pub(super) struct Journal {
    socket: Option<UnixDatagram>,
}

impl Journal {
    /// Connects.
    pub(super) fn open() -> io::Result<Self> {
        let mut journal = Self { socket: None };
        journal.connect()?;
        Ok(journal)
    }

    /// Connects when the first line comes.
    pub(super) const fn later() -> Self {
        Self { socket: None }
    }

    fn connect(&mut self) -> io::Result<&UnixDatagram> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.set_write_timeout(Some(PATIENCE))?;
                socket.connect(SOCKET)?;
                socket
            }
        };
        Ok(self.socket.insert(socket))
    }

    /// Sends each line; `ends` are the offsets behind them. How many journald took, and why not
    /// all.
    pub(super) fn append(&mut self, lines: &[u8], ends: &[usize]) -> (usize, io::Result<()>) {
        let mut begin = 0;
        for (sent, end) in ends.iter().enumerate() {
            let line = lines.get(begin..*end).unwrap_or_default();
            if let Err(error) = self.send(line) {
                // journald may have been restarted: that makes a new socket.
                self.socket = None;
                return (sent, Err(error));
            }
            begin = *end;
        }
        (ends.len(), Ok(()))
    }

    fn send(&mut self, line: &[u8]) -> io::Result<()> {
        let fields = format!("SYSLOG_IDENTIFIER={IDENTIFIER}\nPRIORITY=6\nMESSAGE=");
        let datagram = [fields.as_bytes(), line].concat();
        match self.connect()?.send(&datagram) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.socket = None;
                self.connect()?.send(&datagram)?;
            }
            sent => drop(sent?),
        }
        Ok(())
    }
}
