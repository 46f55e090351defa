//! Bodies on a connection: answers report their progress, and requests are read to their end.
//!
//! A client may be refused before its body has arrived, and a connection with an unread body cannot be used
//! again. So the node reads and discards what a handler leaves of a body, within bounds; beyond them the answer
//! says `Connection: close`.

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

use super::socket::OpenRequest;

/// The most bytes of an unread body that are read and discarded.
const DISCARD_BYTES_MAX: u64 = 1024 * 1024;
/// The limit of the time in which an unread body is discarded.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// An answer's body that reports how much of it has been sent.
#[derive(Debug)]
pub struct TrackedBody<B> {
    body: B,
    request: Arc<OpenRequest>,
}

impl<B> TrackedBody<B> {
    /// The body of the answer to this request, which counts as handled from now on.
    #[must_use]
    pub fn new(body: B, request: Arc<OpenRequest>) -> Self {
        request.sent().mark_answered();
        Self { body, request }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for TrackedBody<B> {
    type Data = TrackedBytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<TrackedBytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let piece = |bytes| TrackedBytes { bytes, request: self.request.clone() };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of an answer, which report when they are sent.
#[derive(Debug)]
pub struct TrackedBytes {
    bytes: Bytes,
    request: Arc<OpenRequest>,
}

impl Buf for TrackedBytes {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.request.sent().add(count);
    }
}

/// A request's body, lent to a handler. On drop, the unread rest goes back to its [`UnreadBody`].
#[derive(Debug)]
pub struct LentBody {
    lent: Option<BodyRest>,
    owner: Arc<Mutex<Option<BodyRest>>>,
}

#[derive(Debug)]
struct BodyRest {
    body: Incoming,
    /// Whether the handler has polled the body.
    was_polled: bool,
    /// Whether an error ended the body.
    is_broken: bool,
}

/// The claim to the unread rest of a body that was lent.
#[derive(Debug)]
pub struct UnreadBody {
    owner: Arc<Mutex<Option<BodyRest>>>,
    /// Whether the client sends the body only after `100 Continue` (RFC 9110, section 10.1.1).
    on_demand: bool,
}

/// Lends a body to a handler; `on_demand` if the request has `Expect`.
#[must_use]
pub fn lend(body: Incoming, on_demand: bool) -> (LentBody, UnreadBody) {
    let owner = Arc::default();
    let lent = Some(BodyRest { body, was_polled: false, is_broken: false });
    (LentBody { lent, owner: Arc::clone(&owner) }, UnreadBody { owner, on_demand })
}

impl UnreadBody {
    /// Reads and discards the rest, within bounds. False if the body has not been read to its end.
    pub async fn discard(self) -> bool {
        let rest = lock(&self.owner).take();
        // `None`: the body of the answer still owns it.
        let Some(BodyRest { mut body, was_polled, is_broken }) = rest else { return false };
        if is_broken || body.is_end_stream() {
            return !is_broken;
        }
        if (self.on_demand && !was_polled) || body.size_hint().lower() > DISCARD_BYTES_MAX {
            return false;
        }
        let read = async {
            let mut left = DISCARD_BYTES_MAX;
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
        timeout(DISCARD_TIMEOUT, read).await.unwrap_or(false)
    }
}

impl Body for LentBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(rest) = &mut self.lent else { return Poll::Ready(None) };
        rest.was_polled = true;
        let frame = ready!(Pin::new(&mut rest.body).poll_frame(cx));
        rest.is_broken |= matches!(frame, Some(Err(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.lent.as_ref().is_none_or(|rest| rest.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.lent.as_ref().map_or_else(SizeHint::default, |rest| rest.body.size_hint())
    }
}

impl Drop for LentBody {
    fn drop(&mut self) {
        *lock(&self.owner) = self.lent.take();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
