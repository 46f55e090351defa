//! A stream with a bound on the bytes that can be read from it.
//!
//! The Redis library reads an answer to its end, however long it claims to be, and reads answers to no
//! request. So each command grants the number of bytes that its answer may have, and one more byte ends the
//! connection. That bounds the memory that a malfunctioning Redis can make a node use.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The number of bytes that may still be read.
#[derive(Debug)]
pub(crate) struct Allowance {
    remaining: AtomicU64,
    max: u64,
}

impl Allowance {
    /// An allowance of `granted` bytes, which never exceeds `max`.
    pub(crate) fn new(granted: u64, max: u64) -> Self {
        Self { remaining: AtomicU64::new(granted.min(max)), max }
    }

    pub(crate) fn grant(&self, bytes: u64) {
        let more = |remaining: u64| Some(remaining.saturating_add(bytes).min(self.max));
        // Always `Ok`, because there is always a new value.
        let _ = self.remaining.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
    }

    fn spend(&self, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.remaining
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |remaining| remaining.checked_sub(bytes))
            .is_ok()
    }
}

/// A TCP stream that fails when more bytes are read than the allowance has.
pub(crate) struct Metered {
    pub(crate) stream: TcpStream,
    pub(crate) allowance: Arc<Allowance>,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let allowed = self.allowance.spend(buffer.filled().len() - before);
        Poll::Ready(if allowed { Ok(()) } else { Err(io::Error::other("the answer is longer than granted")) })
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granted_bytes_can_be_spent_once() {
        let allowance = Allowance::new(10, 100);
        assert!(allowance.spend(4) && allowance.spend(6));
        assert!(allowance.spend(0));
        assert!(!allowance.spend(1));
        allowance.grant(u64::MAX);
        assert!(!allowance.spend(101), "never more than the maximum");
        assert!(allowance.spend(100));
    }
}
