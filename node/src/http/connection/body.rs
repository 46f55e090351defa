//! Bodies on a connection: answers that say how they get on, and requests that are read to their end.
//!
//! A client may be refused before its body has arrived, and a connection on which half a body is left cannot
//! be used again. So what a handler leaves of a body is read and thrown away, within bounds; beyond them the
//! answer says `Connection: close`.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Bytes;
use bytes::Buf;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

use super::line::Work;

/// How much of a body, in bytes, and for how long is read that nobody wants.
const MAX_DISCARDED: u64 = 1024 * 1024;
const DISCARD: Duration = Duration::from_millis(500);

/// An answer's body that says how much of it is sent.
#[derive(Debug)]
pub struct Answer<B> {
    body: B,
    work: Arc<Work>,
}

impl<B> Answer<B> {
    /// To this request.
    #[must_use]
    pub fn new(body: B, work: Arc<Work>) -> Self {
        work.sent().is_answered();
        Self { body, work }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let piece = |bytes| Piece { bytes, work: self.work.clone() };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of an answer.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    work: Arc<Work>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.work.sent().took(count);
    }
}

/// A request's body, whose rest comes back when its reader is through with it.
#[derive(Debug)]
pub struct Lent {
    lent: Option<Rest>,
    owner: Arc<Mutex<Option<Rest>>>,
}

#[derive(Debug)]
struct Rest {
    body: Incoming,
    /// Whether any of it was asked for.
    asked: bool,
    /// Whether it cannot be read to its end.
    broken: bool,
}

/// What is left of a body that was lent.
#[derive(Debug)]
pub struct Unread {
    owner: Arc<Mutex<Option<Rest>>>,
    /// Whether the client sends it only when it is asked for (RFC 9110, section 10.1.1).
    on_demand: bool,
}

/// Lends a body to a handler.
#[must_use]
pub fn lend(body: Incoming, on_demand: bool) -> (Lent, Unread) {
    let owner = Arc::default();
    let lent = Some(Rest { body, asked: false, broken: false });
    (Lent { lent, owner: Arc::clone(&owner) }, Unread { owner, on_demand })
}

impl Unread {
    /// Reads what is left, within bounds; false when something is left after that.
    pub async fn discard(self) -> bool {
        let rest = lock(&self.owner).take();
        // `None`: the answer's body reads it.
        let Some(Rest { mut body, asked, broken }) = rest else { return false };
        if broken || body.is_end_stream() {
            return !broken;
        }
        if (self.on_demand && !asked) || body.size_hint().lower() > MAX_DISCARDED {
            return false;
        }
        let read = async {
            let mut left = MAX_DISCARDED;
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return false };
                let length = frame.data_ref().map_or(0, Bytes::len);
                left = left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
                if left == 0 {
                    return false;
                }
            }
            true
        };
        timeout(DISCARD, read).await.unwrap_or(false)
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(rest) = &mut self.lent else { return Poll::Ready(None) };
        rest.asked = true;
        let frame = ready!(Pin::new(&mut rest.body).poll_frame(cx));
        rest.broken |= matches!(frame, Some(Err(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.lent.as_ref().is_none_or(|rest| rest.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.lent.as_ref().map_or_else(SizeHint::default, |rest| rest.body.size_hint())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *lock(&self.owner) = self.lent.take();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
