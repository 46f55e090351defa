//! What a request holds in memory, charged to the node's budget (`BODY_BUDGET`).
//!
//! From its head on: the head, the state of its handler, and its body as it arrives; then the answer, until its
//! last byte has left the node. So what strangers can make the node hold is bounded, however many streams and
//! connections they have. Beyond the budget, or the share of the client's network: 503 with `Retry-After`.
//!
//! Health is answered whatever is held; the hot lane holds nothing but a place in its queues, which have bounds
//! of their own.

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

use super::asker::Asker;
use crate::{
    app::App,
    budget::{Charge, UsedUp},
};

/// What a request takes beside its head, its body and its answer, in bytes: its stream, its task, its handler's
/// state.
const STATE_BYTES: usize = 16 * 1024;
/// Answers that are not longer are part of that.
const SMALL_ANSWER: usize = 4 * 1024;

/// What a request holds; shared by those who work on it, and given back by the last of them.
#[derive(Debug, Clone)]
pub struct Held(Arc<Mutex<Charge>>);

impl Held {
    /// Holds what a request takes without its body.
    ///
    /// # Errors
    /// When that is not there.
    pub fn new(request: &Request, app: &App) -> Result<Self, UsedUp> {
        let source = Asker::of(request.extensions(), request.headers()).source(&app.settings);
        let amount = STATE_BYTES + head_bytes(request.uri(), request.headers());
        Ok(Self(Arc::new(Mutex::new(app.bodies.hold(source, amount)?))))
    }

    /// What this request holds already; something of its own when it is not known to hold anything.
    ///
    /// # Errors
    /// When that is not there.
    pub fn of(request: &Request, app: &App) -> Result<Self, UsedUp> {
        request.extensions().get().cloned().map_or_else(|| Self::new(request, app), Ok)
    }

    /// Holds so many bytes more.
    ///
    /// # Errors
    /// When they are not there.
    pub fn grow(&self, by: usize) -> Result<(), UsedUp> {
        if by > 0 { self.charge(|charge| charge.grow(by)) } else { Ok(()) }
    }

    /// From now on the request holds its answer and nothing else. `is_made` says that the answer's bytes were
    /// made for this request, so that they take memory.
    pub fn answered(self, answer: Body, is_made: bool) -> Body {
        let length = answer.size_hint().lower();
        let length = usize::try_from(length).unwrap_or(usize::MAX / 2);
        self.charge(|charge| charge.set(STATE_BYTES + if is_made { length } else { 0 }));
        let large = is_made && length > SMALL_ANSWER;
        Body::new(HeldBody { body: answer, held: self, large })
    }

    fn charge<T>(&self, change: impl FnOnce(&mut Charge) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn head_bytes(uri: &Uri, headers: &HeaderMap) -> usize {
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    uri.path_and_query().map_or(0, |target| target.as_str().len()) + fields.sum::<usize>()
}

/// An answer that is held until it has left the node.
struct HeldBody {
    body: Body,
    held: Held,
    large: bool,
}

impl hyper::body::Body for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        // hyper keeps bytes that the client does not take after the body has ended.
        let keep = |bytes| Bytes::from_owner(HeldBytes { bytes, _held: self.held.clone() });
        Poll::Ready(match frame {
            Some(Ok(frame)) if self.large => Some(Ok(frame.map_data(keep))),
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
    _held: Held,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
