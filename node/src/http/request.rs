//! The frame of every request: its id, its metrics, its log lines, and errors in their one form.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use schema::{Entropy, Refusal, time::millis};
use tracing::Instrument as _;

use super::problem::Problem;
use crate::{app::App, settings::StalePolicy};

/// `X-Request-Id`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `Palisade-Stale`: how old, in ms, what the answer rests on is, when it is older than it should be.
pub const STALE: HeaderName = HeaderName::from_static("palisade-stale");
/// Longest id that is taken from a client, in bytes.
const MAX_ID_BYTES: usize = 128;
/// No handler takes so long; a client that does not get on with its body does.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Routes whose answers are logged at `debug` only: at full rate a line each costs more than the
/// answer.
const ASKED_ALL_THE_TIME: [&str; 6] = [
    "/api/v1/auth_token/validation",
    "/api/v1/users/{id}/combined_permissions/validation",
    "/auth_request",
    "/health/live",
    "/health/ready",
    "/metrics",
];

/// Runs a request inside its frame.
pub async fn frame(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let began = began();
    let id = request_id(&request, &*app.entropy);
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or("-", MatchedPath::as_str);
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default(), %method, route);
    // RFC 9112, section 3.2: without Host it is no HTTP/1.1.
    let nameless = request.version() == Version::HTTP_11 && !request.headers().contains_key(header::HOST);
    let knowing = needs_knowledge(request.uri().path());
    let mut response = if knowing && !app.is_informed() {
        Problem::from(Refusal::CannotKnow).into_response()
    } else if nameless {
        Problem::new(StatusCode::BAD_REQUEST, "host_missing", "The Host header is missing").into_response()
    } else {
        let answered = tokio::time::timeout(TIMEOUT, next.run(request)).instrument(span.clone()).await;
        answered.unwrap_or_else(|_| {
            Problem::unavailable("timeout", "This took too long; try again").into_response()
        })
    };
    if let Some(problem) = problem_of(&mut response) {
        response = problem.into_answer(id.to_str().unwrap_or_default(), response);
    }
    response.headers_mut().insert(REQUEST_ID, id);
    if knowing
        && app.is_informed()
        && app.freshness.policy() == StalePolicy::Open
        && let Some(age) = app.freshness.staleness()
    {
        response.headers_mut().insert(STALE, HeaderValue::from(millis(age)));
    }
    if app.is_draining() {
        // Clients move to another node; hyper closes the connection after this answer.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let (status, took) = (response.status(), began.elapsed());
    app.metrics.answered(method.as_str(), path.as_ref().map(MatchedPath::as_str), status.as_u16(), took);
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    span.in_scope(|| {
        let status = status.as_u16();
        match status {
            500.. => tracing::warn!(status, took_us, "answered"),
            // Asked on every request of every service, and by every probe.
            _ if ASKED_ALL_THE_TIME.contains(&route) => tracing::debug!(status, took_us, "answered"),
            _ => tracing::info!(status, took_us, "answered"),
        }
    });
    response
}

/// Whether an answer may rest on keys or on what has been taken away: all but what operators watch, and
/// the documentation.
fn needs_knowledge(path: &str) -> bool {
    const OPEN: [&str; 4] = ["/health/", "/metrics", "/apidocs", "/openapi.json"];
    !OPEN.iter().any(|root| path.starts_with(root))
}

#[allow(clippy::disallowed_methods, reason = "a duration for metrics; nothing is decided by it")]
fn began() -> Instant {
    Instant::now()
}

/// The client's id when it is sane, else one of ours.
fn request_id(request: &Request, entropy: &dyn Entropy) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        !bytes.is_empty() && bytes.len() <= MAX_ID_BYTES && bytes.iter().all(u8::is_ascii_graphic)
    };
    if let Some(id) = request.headers().get(REQUEST_ID).filter(sane) {
        return id.clone();
    }
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut random = [0; 16];
    entropy.fill(&mut random);
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(random) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}

/// The problem of a handler, or one for an error that somebody below the handlers made.
fn problem_of(response: &mut Response) -> Option<Problem> {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return Some(problem);
    }
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t == "application/json");
    if !is_error || is_json {
        return None;
    }
    Some(match status {
        StatusCode::NOT_FOUND => Problem::not_found(),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(status, "too_large", "The body is too large"),
        _ if status.is_client_error() => {
            Problem::new(status, "bad_request", "The request cannot be understood")
        }
        _ => Problem::new(status, "internal", "Something went wrong here"),
    })
}

/// No route has this path.
pub async fn not_found() -> Problem {
    Problem::not_found()
}

/// The route has other methods; the router adds `Allow`.
pub async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not allowed here")
}
