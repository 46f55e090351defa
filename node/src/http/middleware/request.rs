//! The outermost middleware: request ids, metrics, log lines, and errors in their one form.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use schema::{Entropy, Refusal, time::millis};
use tracing::Instrument as _;

use super::{held::HeldMemory, security};
use crate::{
    app::App,
    http::{
        Policies, RoutePolicy, connection::head::has_valid_host, extract::body, respond::problem::Problem,
    },
    scheduling::budget::UsedUp,
    traces::{self, RootSpan},
};

/// The `X-Request-Id` header.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The `Palisade-Stale` header: the age of the node's knowledge in ms, if it exceeds `MAX_STALENESS`.
pub const STALE: HeaderName = HeaderName::from_static("palisade-stale");
/// The longest id that is accepted from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// The length of an id that the node makes, in bytes.
const RANDOM_ID_BYTES: usize = 16;
/// The limit of a request. No handler takes this long; a client that stops sending its body does.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The state of [`frame`].
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct Frame {
    pub app: Arc<App>,
    pub policies: Arc<Policies>,
}

/// Runs a request, and completes its answer: request id, error body, security headers, staleness. Counts and
/// logs it.
pub async fn frame(State(frame): State<Frame>, mut request: Request, next: Next) -> Response {
    let Frame { app, policies } = frame;
    let started = monotonic_now();
    let given = request.headers().get(REQUEST_ID).cloned();
    let id = RequestId::of(given.as_ref().map(HeaderValue::as_bytes), &*app.entropy);
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or("-", MatchedPath::as_str);
    let policy = policies.of(route);
    let root = traces::root(
        RootSpan {
            method: method.as_str(),
            route,
            request_id: id.as_str(),
            node: &app.identity.name,
            may_be_sampled: policy.may_be_sampled(),
        },
        request.headers(),
        &*app.entropy,
    );
    let span = span(id.as_str(), method.as_str(), route);
    let has_bad_host = !has_valid_host(request.headers(), request.version());
    let mut held = None;
    let mut response = if has_bad_host {
        let msg = "There must be one Host header, with a host and perhaps a port";
        Problem::new(StatusCode::BAD_REQUEST, "host_missing", msg).into_response()
    } else if policy.needs_synced() && !app.sync.is_synced() {
        Problem::from(Refusal::CannotKnow).into_response()
    } else {
        match charge(&mut request, &app, policy) {
            Ok(charged) => {
                held = charged;
                with_timeout(next.run(request))
                    .instrument(span)
                    .instrument(root.clone())
                    .await
                    .unwrap_or_else(IntoResponse::into_response)
            }
            Err(problem) => problem.into_response(),
        }
    };
    if let Some(problem) = problem_of(&mut response) {
        let (answer, body) = problem.into_answer(id.as_str()).into_parts();
        // Headers that inner layers have added stay: `Allow`, CORS.
        response.headers_mut().extend(answer.headers);
        *response.body_mut() = body.into();
    }
    let id_value = HeaderValue::from_bytes(id.as_bytes()).unwrap_or(HeaderValue::from_static("-"));
    response.headers_mut().insert(REQUEST_ID, id_value);
    security::guard(response.headers_mut());
    if policy.needs_synced()
        && app.sync.is_synced()
        && let Some(age) = app.freshness.disclosed()
    {
        response.headers_mut().insert(STALE, HeaderValue::from(millis(age)));
    }
    if app.is_draining() {
        // Clients move to another node; hyper closes the connection after this answer.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let status = response.status().as_u16();
    traces::answered(&root, status);
    let took = started.elapsed();
    app.metrics.answered(app.metrics.route(method.as_str(), route), status, 1, took);
    log(id.as_str(), method.as_str(), route, policy, status, || took);
    match held {
        Some(held) => response.map(|body| held.answered(body, policy.makes_bodies())),
        None => response,
    }
}

/// Charges a request to the node's budget, and puts the charge into its extensions, where extractors find it.
/// `None` for a route that is not charged.
///
/// # Errors
/// 503 if the budget is used up.
fn charge(request: &mut Request, app: &App, policy: RoutePolicy) -> Result<Option<HeldMemory>, Problem> {
    if !policy.is_charged() {
        return Ok(None);
    }
    let held = HeldMemory::new(request, app).map_err(|UsedUp| body::no_room())?;
    request.extensions_mut().insert(held.clone());
    Ok(Some(held))
}

/// Awaits an answer for at most `REQUEST_TIMEOUT`.
///
/// # Errors
/// 503 after the timeout.
pub async fn with_timeout<T>(answer: impl Future<Output = T>) -> Result<T, Problem> {
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, answer).await;
    answer.map_err(|_| Problem::unavailable("timeout", "This took too long; try again"))
}

/// The span of a request, for its log lines.
pub fn span(id: &str, method: &str, route: &str) -> tracing::Span {
    tracing::info_span!("request", id, method, route)
}

/// Logs an answer: server errors as warnings, frequent routes at `debug` only.
pub fn log(
    id: &str,
    method: &str,
    route: &str,
    policy: RoutePolicy,
    status: u16,
    took: impl Fn() -> Duration,
) {
    let took_us = || u64::try_from(took().as_micros()).unwrap_or(u64::MAX);
    let span = || span(id, method, route).entered();
    let is_frequent = policy.is_frequent();
    // A 503 of a frequent route is counted, and its cause is logged once by the part that failed.
    if status >= 500 && !(is_frequent && status == 503) {
        let _in = span();
        tracing::warn!(status, took_us = took_us(), "answered");
    } else if !is_frequent {
        let _in = span();
        tracing::info!(status, took_us = took_us(), "answered");
    } else if tracing::enabled!(tracing::Level::DEBUG) {
        let _in = span();
        tracing::debug!(status, took_us = took_us(), "answered");
    }
}

/// The current time of the monotonic clock, for durations of requests and deadlines of connections.
#[allow(clippy::disallowed_methods, reason = "a duration for metrics; nothing is decided by it")]
pub fn monotonic_now() -> Instant {
    Instant::now()
}

/// The id of a request: the client's if it is valid, else one that the node makes.
pub enum RequestId<'a> {
    /// The client's id: visible ASCII of at most `REQUEST_ID_BYTES_MAX` bytes.
    Given(&'a str),
    /// An id made here: hexadecimal digits.
    Made([u8; 2 * RANDOM_ID_BYTES]),
}

impl<'a> RequestId<'a> {
    /// Takes the client's id if it is valid, else makes one.
    pub fn of(given: Option<&'a [u8]>, entropy: &dyn Entropy) -> Self {
        let is_valid = |bytes: &&[u8]| {
            !bytes.is_empty() && bytes.len() <= REQUEST_ID_BYTES_MAX && bytes.iter().all(u8::is_ascii_graphic)
        };
        match given.filter(is_valid).map(std::str::from_utf8) {
            Some(Ok(text)) => Self::Given(text),
            _ => Self::Made(hex(random(entropy))),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Given(text) => text,
            Self::Made(hex) => std::str::from_utf8(hex).unwrap_or("-"),
        }
    }

    /// The id as bytes of ASCII.
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Given(text) => text.as_bytes(),
            Self::Made(hex) => hex,
        }
    }
}

/// Random bytes. Each thread draws a supply at once, since a few cost as much as many.
fn random(entropy: &dyn Entropy) -> [u8; RANDOM_ID_BYTES] {
    const SUPPLY: usize = 64;
    thread_local! {
        static LEFT: RefCell<(usize, [[u8; RANDOM_ID_BYTES]; SUPPLY])> =
            const { RefCell::new((0, [[0; RANDOM_ID_BYTES]; SUPPLY])) };
    }
    LEFT.with_borrow_mut(|(left, supply)| {
        if *left == 0 {
            entropy.fill(supply.as_flattened_mut());
            *left = SUPPLY;
        }
        *left -= 1;
        supply[*left]
    })
}

fn hex(bytes: [u8; RANDOM_ID_BYTES]) -> [u8; 2 * RANDOM_ID_BYTES] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 2 * RANDOM_ID_BYTES];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    text
}

/// The problem that a handler returned, or one for an error of axum or another layer; `None` for a success.
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

/// 404: no route has this path.
pub async fn not_found() -> Problem {
    Problem::not_found()
}

/// 405: the route has other methods. The router adds `Allow`.
pub async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not allowed here")
}
