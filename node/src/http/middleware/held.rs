//! The memory that a request holds, charged to the node's budget (`BODY_BUDGET`).
//!
//! The charge covers the head, the state of the handler and the body as it arrives; then the answer, until its
//! last byte has left the node. So clients can make the node hold only a bounded amount, however many streams
//! and connections they have. Beyond the budget, or beyond the share of the client's network, the node answers
//! 503 with `Retry-After`.
//!
//! Health probes are never charged. The fast path holds only slots in its queues, which have bounds of their
//! own.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, Uri},
};
use hyper::body::{Body as _, Frame, SizeHint};

use crate::{
    app::App,
    http::extract::source::LazySource,
    scheduling::budget::{Charge, UsedUp},
};

/// The charge of a request beside its head, body and answer, in bytes: its stream, task and handler.
const STATE_BYTES: usize = 16 * 1024;
/// The longest answer that [`STATE_BYTES`] covers, in bytes.
const SMALL_ANSWER_BYTES_MAX: usize = 4 * 1024;

/// The charge of one request. Its clones share it, and dropping the last one releases it.
#[derive(Debug, Clone)]
pub struct HeldMemory(Arc<Mutex<Charge>>);

impl HeldMemory {
    /// Charges a request without its body.
    ///
    /// # Errors
    /// The budget, or the share of the client's network, is used up.
    pub fn new(request: &Request, app: &App) -> Result<Self, UsedUp> {
        let source = LazySource::of(request.extensions(), request.headers()).resolve(&app.settings);
        let amount = STATE_BYTES + head_bytes(request.uri(), request.headers());
        Ok(Self(Arc::new(Mutex::new(app.bodies.hold(source, amount)?))))
    }

    /// The charge that the middleware has put into the request, or a new one.
    ///
    /// # Errors
    /// The budget, or the share of the client's network, is used up.
    pub fn of(request: &Request, app: &App) -> Result<Self, UsedUp> {
        request.extensions().get().cloned().map_or_else(|| Self::new(request, app), Ok)
    }

    /// Charges `by` more bytes.
    ///
    /// # Errors
    /// The budget, or the share of the client's network, is used up.
    pub fn grow(&self, by: usize) -> Result<(), UsedUp> {
        if by > 0 { self.charge(|charge| charge.grow(by)) } else { Ok(()) }
    }

    /// Replaces the charge by that of the answer, until the answer has left the node. `is_made` says whether
    /// the bytes were made for this request, so that they take memory.
    pub fn answered(self, answer: Body, is_made: bool) -> Body {
        let length = answer.size_hint().lower();
        let length = usize::try_from(length).unwrap_or(usize::MAX / 2);
        self.charge(|charge| charge.set(STATE_BYTES + if is_made { length } else { 0 }));
        let is_large = is_made && length > SMALL_ANSWER_BYTES_MAX;
        Body::new(HeldBody { body: answer, held: self, is_large })
    }

    fn charge<T>(&self, change: impl FnOnce(&mut Charge) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn head_bytes(uri: &Uri, headers: &HeaderMap) -> usize {
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    uri.path_and_query().map_or(0, |target| target.as_str().len()) + fields.sum::<usize>()
}

/// A body that keeps its charge until it has left the node.
struct HeldBody {
    body: Body,
    held: HeldMemory,
    is_large: bool,
}

impl hyper::body::Body for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        // hyper may keep bytes after the body has ended, until the client takes them.
        let keep = |bytes| Bytes::from_owner(HeldBytes { bytes, _held: self.held.clone() });
        Poll::Ready(match frame {
            Some(Ok(frame)) if self.is_large => Some(Ok(frame.map_data(keep))),
            frame => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct HeldBytes {
    bytes: Bytes,
    _held: HeldMemory,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
