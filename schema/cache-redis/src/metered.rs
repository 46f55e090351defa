//! A stream from which no more can be read than was asked for.
//!
//! The library reads an answer to its end, however long its length says that it is, and it does not
//! wait to be asked. So each command grants the bytes that its answer may have, and what comes
//! beyond ends the connection. That bounds what a Redis that went mad can make a node hold.

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

/// How many bytes may still be read.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: AtomicU64,
    most: u64,
}

impl Allowance {
    /// Never grants more than `most` at a time.
    pub(crate) fn new(granted: u64, most: u64) -> Self {
        Self { left: AtomicU64::new(granted.min(most)), most }
    }

    pub(crate) fn grant(&self, bytes: u64) {
        let more = |left: u64| Some(left.saturating_add(bytes).min(self.most));
        // Always `Ok`: there is always a new value.
        let _ = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
    }

    fn spend(&self, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(bytes)).is_ok()
    }
}

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
        Poll::Ready(if allowed { Ok(()) } else { Err(io::Error::other("more than was asked for")) })
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
    fn what_was_granted_can_be_spent_once() {
        let allowance = Allowance::new(10, 100);
        assert!(allowance.spend(4) && allowance.spend(6));
        assert!(allowance.spend(0));
        assert!(!allowance.spend(1));
        allowance.grant(u64::MAX);
        assert!(!allowance.spend(101), "no more than the most");
        assert!(allowance.spend(100));
    }
}
