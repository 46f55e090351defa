//! The socket of a connection that hyper serves, and the deadlines on it.
//!
//! It is the same for HTTP/1.1 and HTTP/2: reads and writes are reported to [`Activity`], and [`Socket::watch`]
//! ends the connection at its deadline.

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
    activity::{Activity, AnswerProgress, CloseReason},
};
use crate::http::middleware::request::monotonic_now;

/// The most bytes that are read and discarded from a client that is still sending. If the node closed the
/// connection at once, the client's system would report a reset instead of the answer.
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The limit of the time for which a client that is still sending is read.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection's socket and its activity.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    activity: Mutex<Activity>,
}

impl Socket {
    /// Wraps a socket; `has_received` if bytes have been read from it already.
    #[must_use]
    pub fn new(stream: TcpStream, timeouts: Timeouts, has_received: bool) -> Arc<Self> {
        Arc::new(Self { stream, activity: Mutex::new(Activity::new(timeouts, has_received)) })
    }

    /// The state from which the deadlines follow, locked.
    pub fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The TCP stream.
    #[must_use]
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Registers a request that has been read, by HTTP/2 or HTTP/1.1.
    #[must_use]
    pub fn request(self: &Arc<Self>, http2: bool) -> OpenRequest {
        OpenRequest { sent: self.activity().request(http2), socket: self.clone() }
    }

    /// Awaits `served`, but not beyond the connection's deadline.
    ///
    /// # Errors
    /// The reason to close the connection.
    pub async fn watch<F: Future>(&self, mut served: Pin<&mut F>) -> Result<F::Output, CloseReason> {
        let mut sleep: Option<Pin<Box<Sleep>>> = None;
        poll_fn(|cx| {
            if let Poll::Ready(output) = served.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            loop {
                let now = monotonic_now();
                // No deadline applies while a request is handled.
                let Some((at, reason)) = self.activity().deadline(now) else { return Poll::Pending };
                if at <= now {
                    return Poll::Ready(Err(reason));
                }
                let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
                // A timer that is too early is reset only when it fires: most never do.
                if sleep.is_elapsed() || sleep.deadline() > at.into() {
                    sleep.as_mut().reset(at.into());
                }
                ready!(sleep.as_mut().poll(cx));
            }
        })
        .await
    }

    /// Makes the system discard unsent bytes when the connection closes: its client does not read them.
    pub fn abort(&self) {
        let _ = self.stream.set_zero_linger();
    }

    /// Closes the connection for writing.
    pub fn shut_down(&self) {
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Write);
    }
}

/// Reads and discards what a client still sends, until it closes its side or a limit is reached.
pub async fn linger(stream: &TcpStream) {
    let discarded = async {
        let mut sink = vec![0; 16 * 1024];
        let mut left = LINGER_BYTES_MAX;
        while left > 0 && stream.readable().await.is_ok() {
            match stream.try_read(&mut sink) {
                Ok(0) => return,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGER_TIMEOUT, discarded).await;
}

/// A request whose answer has not been sent or abandoned.
#[derive(Debug)]
pub struct OpenRequest {
    socket: Arc<Socket>,
    sent: AnswerProgress,
}

impl OpenRequest {
    /// The progress of its answer.
    #[must_use]
    pub const fn sent(&self) -> &AnswerProgress {
        &self.sent
    }

    /// The socket of its connection.
    #[must_use]
    pub const fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.socket.activity().request_done(&self.sent);
    }
}

/// The stream that hyper reads from and writes to.
#[derive(Debug)]
pub struct HyperIo {
    socket: Arc<Socket>,
    /// Bytes that were read before hyper took over.
    prefix: io::Cursor<Vec<u8>>,
}

impl HyperIo {
    /// A stream that first yields the bytes of `prefix`, then those of the socket.
    #[must_use]
    pub const fn new(socket: Arc<Socket>, prefix: Vec<u8>) -> Self {
        Self { socket, prefix: io::Cursor::new(prefix) }
    }

    fn wrote(&self, written: &io::Result<usize>, length: usize) {
        if let Ok(written) = written {
            self.socket.activity().bytes_written(*written, *written == length, monotonic_now);
        }
    }

    fn poll_with(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.socket.stream.poll_write_ready(cx)?.is_pending() {
                self.socket.activity().write_blocked(monotonic_now());
                return Poll::Pending;
            }
            match write(&self.socket.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    self.wrote(&written, length);
                    return Poll::Ready(written);
                }
            }
        }
    }

    /// The offset of hyper's own refusal in the bytes that it writes, if there is one. The node sends its own
    /// instead, see [`super::refused`].
    fn refusal(&self, bytes: &[u8]) -> Option<usize> {
        let (at, status) = hyper_refusal(bytes)?;
        let mut activity = self.socket.activity();
        if activity.is_http2() {
            return None;
        }
        if at == 0 {
            activity.hyper_refused(status);
        }
        Some(at)
    }
}

/// The offset and status of hyper's own refusal at the end of these bytes. hyper writes it for a request that
/// it cannot read, without a body, and nothing after it. Every other answer has a request id.
fn hyper_refusal(bytes: &[u8]) -> Option<(usize, StatusCode)> {
    /// The longest refusal of hyper, rounded up, in bytes.
    const REFUSAL_BYTES_MAX: usize = 192;
    const START: &[u8] = b"HTTP/1.";
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let tail = bytes.len().saturating_sub(REFUSAL_BYTES_MAX);
    let at = tail + bytes[tail..].windows(START.len()).rposition(|window| window == START)?;
    let head = &bytes[at..];
    let status = StatusCode::from_bytes(head.get(9..12)?).ok()?;
    let is_ours = head.windows(14).any(|window| window.eq_ignore_ascii_case(b"\r\nx-request-id"));
    (status.is_client_error() && !is_ours).then_some((at, status))
}

impl AsyncRead for HyperIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.get_ref().is_empty() {
            ready!(Pin::new(&mut self.prefix).poll_read(cx, buffer))?;
            if self.prefix.position() >= self.prefix.get_ref().len() as u64 {
                self.prefix = io::Cursor::default();
            }
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.socket.stream.poll_read_ready(cx))?;
            match self.socket.stream.try_read_buf(buffer) {
                Ok(read) => {
                    if read > 0 {
                        self.socket.activity().bytes_received();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for HyperIo {
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
        // hyper writes a head without a body as a single slice.
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
        // After a refusal, the node still has to send its own answer.
        if self.socket.activity().refused().is_none() {
            self.socket.shut_down();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSAL: &str = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\
                             date: Mon, 30 Nov 2026 10:00:00 GMT\r\n\r\n";

    #[test]
    fn refusal_by_hyper_is_found_after_another_answer() {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        assert_eq!(hyper_refusal(REFUSAL.as_bytes()), Some((0, status)));
        let before =
            format!("HTTP/1.1 200 OK\r\nx-request-id: a\r\ncontent-length: 1000\r\n\r\n{}", "x".repeat(1000));
        let both = format!("{before}{REFUSAL}");
        assert_eq!(hyper_refusal(both.as_bytes()), Some((before.len(), status)));
    }

    #[test]
    fn answers_of_the_node_are_not_taken_for_refusals() {
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
            assert_eq!(hyper_refusal(ours.as_bytes()), None, "{ours:?}");
        }
    }
}
