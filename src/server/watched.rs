#![forbid(unsafe_code)]
//! A connection's bytes, with two clocks that HTTP/2 does not have: a peer that does not
//! begin to speak it, and one that does not take what we write, are let go.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::crowd::Spoken;

/// What every HTTP/2 client sends first (RFC 9113, section 3.4); h2 checks its text.
const PREFACE: usize = 24;
/// Length (3 bytes), type, flags, stream (4 bytes): RFC 9113, section 4.1.
const FRAME_HEADER: usize = 9;
/// Type of a SETTINGS frame, which has to be the first one. h2 does not insist on it.
const SETTINGS: u8 = 4;

/// The stream of one connection.
pub(super) struct Watched<IO> {
    io: IO,
    /// Until the preface and the client's SETTINGS are here.
    greeting: Option<Greeting>,
    /// Set when they are.
    greeted: Spoken,
    write_timeout: Duration,
    /// Set while a write waits: a healthy connection needs no timer.
    stalled: Option<Pin<Box<Sleep>>>,
}

struct Greeting {
    deadline: Pin<Box<Sleep>>,
    opening: [u8; PREFACE + FRAME_HEADER],
    seen: usize,
}

impl<IO> Watched<IO> {
    /// Errors with `TimedOut` if the greeting takes longer than `handshake`, or any
    /// later write longer than `write`. Sets `greeted` once the greeting is complete.
    pub(super) fn new(io: IO, handshake: Duration, write: Duration, greeted: Spoken) -> Self {
        let greeting = Greeting {
            deadline: Box::pin(sleep(handshake)),
            opening: [0; PREFACE + FRAME_HEADER],
            seen: 0,
        };
        Self { io, greeting: Some(greeting), greeted, write_timeout: write, stalled: None }
    }

    /// Set once the greeting is complete.
    pub(super) fn greeted(&self) -> Spoken {
        self.greeted.clone()
    }

    fn watch_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let timeout = self.write_timeout;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(timed_out("the peer does not read what we write")))
    }
}

impl Greeting {
    /// Takes in the next bytes; true when the whole SETTINGS frame has gone by.
    fn complete(&mut self, bytes: &[u8]) -> bool {
        let room = self.opening.get_mut(self.seen..).unwrap_or_default();
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.seen = self.seen.saturating_add(bytes.len());
        let [.., high, middle, low, kind, _, _, _, _, _] = self.opening;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let opened = self.seen >= self.opening.len();
        opened && kind == SETTINGS && self.seen - self.opening.len() >= length
    }
}

fn timed_out(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        let Some(greeting) = &mut me.greeting else {
            return Pin::new(&mut me.io).poll_read(cx, buffer);
        };
        // First the clock: a peer that sends a byte now and then gets no more time.
        if greeting.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(timed_out("no HTTP/2 preface and SETTINGS in time")));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut me.io).poll_read(cx, buffer))?;
        if greeting.complete(buffer.filled().get(before..).unwrap_or_default()) {
            me.greeting = None;
            me.greeted.set();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watch_write(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.watch_write(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting() -> Greeting {
        Greeting {
            deadline: Box::pin(sleep(Duration::from_secs(1))),
            opening: [0; PREFACE + FRAME_HEADER],
            seen: 0,
        }
    }

    fn opening(kind: u8, length: u8) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend([0, 0, length, kind, 0, 0, 0, 0, 0]);
        bytes.extend(vec![0; usize::from(length)]);
        bytes
    }

    #[tokio::test]
    async fn the_greeting_ends_with_the_settings_frame_in_pieces_of_any_size() {
        let bytes = opening(SETTINGS, 12);
        for size in 1..=bytes.len() {
            let mut greeting = greeting();
            let mut pieces = bytes.chunks(size).peekable();
            while let Some(piece) = pieces.next() {
                assert_eq!(greeting.complete(piece), pieces.peek().is_none(), "pieces of {size}");
            }
        }
    }

    #[tokio::test]
    async fn another_first_frame_is_no_greeting() {
        let mut bytes = opening(6, 8);
        bytes.extend(opening(SETTINGS, 0));
        assert!(!greeting().complete(&bytes));
    }
}
