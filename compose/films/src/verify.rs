//! What a caller may do, as Palisade says it.
//!
//! Everything behind [`Verifier`] can be replaced: today [`palisade::Palisade`] asks over HTTP, behind a circuit
//! breaker ([`breaker`]) and a cache ([`cache`]); a client library that follows the revocations itself is
//! another implementation.

pub mod breaker;
pub mod cache;
pub mod palisade;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderValue};

use self::{breaker::Guarded, cache::Cached, palisade::Palisade};

/// The permission that shows all films.
pub const PERMISSION: &str = "pro_read";

/// What a request says about its caller, and what its trace needs.
#[derive(Debug, Clone)]
pub struct Question {
    /// `Authorization`, as it came.
    pub authorization: HeaderValue,
    /// The id of the request.
    pub request_id: HeaderValue,
    /// The caller's address.
    pub peer: IpAddr,
    /// All headers, for those that are passed on.
    pub headers: HeaderMap,
}

/// What the caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Holds [`PERMISSION`].
    Pro,
    /// Has an active token, without the permission.
    Plain,
    /// Its token has expired, is revoked, or is no token.
    Inactive,
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Palisade knows.
    Known(Standing),
    /// Palisade was cut off from news for longer than its bound, and decided all the same (`Palisade-Stale`): good
    /// for this request, not for the next.
    Stale(Standing),
    /// Palisade did not say. This is no refusal.
    Unknown(Cause),
}

/// Why a verdict is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No answer in time, or none that Palisade gives. Asking again soon is of no use.
    Silent,
    /// Palisade answers, but not this question now (503, 429).
    Busy,
    /// The circuit breaker is open: Palisade was not asked.
    NotAsked,
}

/// Says what callers may do.
pub trait Verifier: Send + Sync + 'static {
    /// Answers within [`palisade::ANSWER_MAX`], whatever happens to Palisade.
    fn verify(&self, question: &Question) -> impl Future<Output = Verdict> + Send;

    /// Forgets everything that may keep it from reaching Palisade again, such as connections.
    fn forget_connections(&self) {}
}

/// Tells the time. Tests move it.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// Asks Palisade at this URL; a verdict is used for `max_age` after it was asked for.
pub fn over_http(url: &str, max_age: Duration) -> Cached<Guarded<Palisade>> {
    let clock: Clock = Arc::new(Instant::now);
    Cached::new(Guarded::new(Palisade::at(url), clock.clone()), max_age, clock)
}
