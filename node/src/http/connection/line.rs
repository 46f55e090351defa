//! A connection's socket, as hyper reads and writes it, and the deadlines on it.
//!
//! One for both protocols: it tells [`Activity`] what happens, and [`Line::watch`] ends the connection when
//! nothing does.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::http::StatusCode;
use rustix::net::Shutdown;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep_until, timeout},
};

use super::{
    Timeouts,
    activity::{Activity, Over, Sent},
};
use crate::http::request::began;

/// How much, in bytes, and for how long a client is heard that still sends what nobody reads. Closing on it at
/// once would take the answer from it: the system then tells it of the reset and not of the answer.
const LINGER_BYTES: usize = 16 * 1024 * 1024;
const LINGER: Duration = Duration::from_secs(2);

/// A connection.
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    activity: Mutex<Activity>,
}

impl Line {
    /// Of this socket, from which something was read already or nothing.
    #[must_use]
    pub fn new(stream: TcpStream, timeouts: Timeouts, heard: bool) -> Arc<Self> {
        Arc::new(Self { stream, activity: Mutex::new(Activity::new(timeouts, heard)) })
    }

    /// What happens on it.
    pub fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket.
    #[must_use]
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// A request is there.
    #[must_use]
    pub fn request(self: &Arc<Self>, http2: bool) -> Work {
        Work { sent: self.activity().request(http2), line: self.clone() }
    }

    /// What `served` says, unless the connection is over before.
    ///
    /// # Errors
    /// Why it is.
    pub async fn watch<F: Future>(&self, mut served: Pin<&mut F>) -> Result<F::Output, Over> {
        let mut sleep: Option<Pin<Box<Sleep>>> = None;
        poll_fn(|cx| {
            if let Poll::Ready(output) = served.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            loop {
                let now = began();
                // While a request is handled there is none.
                let Some((at, over)) = self.activity().deadline(now) else { return Poll::Pending };
                if at <= now {
                    return Poll::Ready(Err(over));
                }
                let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
                // One that ends too early is set again when it does: most never end.
                if sleep.is_elapsed() || sleep.deadline() > at.into() {
                    sleep.as_mut().reset(at.into());
                }
                ready!(sleep.as_mut().poll(cx));
            }
        })
        .await
    }

    /// Ends a connection whose client does not take what it is sent; what it did not take is thrown away.
    pub fn abort(&self) {
        let _ = self.stream.set_zero_linger();
    }

    /// Says that nothing more comes.
    pub fn shut_down(&self) {
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Write);
    }
}

/// Hears a client out that may still be sending, until it has read that nothing more comes; within bounds.
pub async fn linger(stream: &TcpStream) {
    let heard = async {
        let mut sink = vec![0; 16 * 1024];
        let mut left = LINGER_BYTES;
        while left > 0 && stream.readable().await.is_ok() {
            match stream.try_read(&mut sink) {
                Ok(0) => return,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGER, heard).await;
}

/// A request, until its answer is sent or given up.
#[derive(Debug)]
pub struct Work {
    line: Arc<Line>,
    sent: Sent,
}

impl Work {
    /// How much of its answer is sent.
    #[must_use]
    pub const fn sent(&self) -> &Sent {
        &self.sent
    }

    /// The connection.
    #[must_use]
    pub const fn line(&self) -> &Arc<Line> {
        &self.line
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.line.activity().done(&self.sent);
    }
}

/// What hyper reads from and writes to.
#[derive(Debug)]
pub struct Io {
    line: Arc<Line>,
    /// What was read before hyper was there.
    begun: io::Cursor<Vec<u8>>,
}

impl Io {
    /// Of this connection, which begins with these bytes.
    #[must_use]
    pub const fn new(line: Arc<Line>, begun: Vec<u8>) -> Self {
        Self { line, begun: io::Cursor::new(begun) }
    }

    fn wrote(&self, written: &io::Result<usize>, length: usize) {
        if let Ok(written) = written {
            self.line.activity().took(*written, *written == length, began);
        }
    }

    fn poll_with(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.line.stream.poll_write_ready(cx)?.is_pending() {
                self.line.activity().blocked(began());
                return Poll::Pending;
            }
            match write(&self.line.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    self.wrote(&written, length);
                    return Poll::Ready(written);
                }
            }
        }
    }

    /// Where hyper's own refusal begins in what it writes, if it is there. It is not sent: ours is, see
    /// [`super::refused`].
    fn refusal(&self, bytes: &[u8]) -> Option<usize> {
        let (at, status) = automatic(bytes)?;
        let mut activity = self.line.activity();
        if activity.is_http2() {
            return None;
        }
        if at == 0 {
            activity.refuse(status);
        }
        Some(at)
    }
}

/// hyper answers a request that it cannot read by a head of its own, after which it writes nothing more. Every
/// other answer has a request id.
fn automatic(bytes: &[u8]) -> Option<(usize, StatusCode)> {
    /// Longer than hyper's is, in bytes.
    const LONGEST: usize = 192;
    const START: &[u8] = b"HTTP/1.";
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let tail = bytes.len().saturating_sub(LONGEST);
    let at = tail + bytes[tail..].windows(START.len()).rposition(|window| window == START)?;
    let head = &bytes[at..];
    let status = StatusCode::from_bytes(head.get(9..12)?).ok()?;
    let is_ours = head.windows(14).any(|window| window.eq_ignore_ascii_case(b"\r\nx-request-id"));
    (status.is_client_error() && !is_ours).then_some((at, status))
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.begun.get_ref().is_empty() {
            ready!(Pin::new(&mut self.begun).poll_read(cx, buffer))?;
            if self.begun.position() >= self.begun.get_ref().len() as u64 {
                self.begun = io::Cursor::default();
            }
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.line.stream.poll_read_ready(cx))?;
            match self.line.stream.try_read_buf(buffer) {
                Ok(read) => {
                    if read > 0 {
                        self.line.activity().heard();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = match self.refusal(bytes) {
            Some(0) => return Poll::Ready(Ok(bytes.len())),
            Some(at) => &bytes[..at],
            None => bytes,
        };
        self.poll_with(cx, bytes.len(), |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A head is in one piece; alone when there is no body.
        if let [bytes] = slices {
            return self.poll_write(cx, bytes);
        }
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.poll_with(cx, length, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Our answer is to come.
        if self.line.activity().refused().is_none() {
            self.line.shut_down();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTOMATIC: &str = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\
                             date: Mon, 30 Nov 2026 10:00:00 GMT\r\n\r\n";

    #[test]
    fn refusal_of_hypers_is_found_behind_another_answer() {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        assert_eq!(automatic(AUTOMATIC.as_bytes()), Some((0, status)));
        let before =
            format!("HTTP/1.1 200 OK\r\nx-request-id: a\r\ncontent-length: 1000\r\n\r\n{}", "x".repeat(1000));
        let both = format!("{before}{AUTOMATIC}");
        assert_eq!(automatic(both.as_bytes()), Some((before.len(), status)));
    }

    #[test]
    fn answers_of_ours_are_left_alone() {
        for ours in [
            "",
            "\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nx-request-id: a\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\nX-Request-Id: a\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nx-request-id: a\r\n\r\n{}",
            "HTTP/1.1 4",
            "HTTP/1.",
            "HTTP/1.\r\n\r\n",
        ] {
            assert_eq!(automatic(ours.as_bytes()), None, "{ours:?}");
        }
    }
}
