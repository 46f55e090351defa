//! The frame of every request: its id, its metrics, its log lines, and errors in their one form.

use std::{
    cell::RefCell,
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

use super::{body, held::Held, problem::Problem, security};
use crate::{app::App, budget::UsedUp};

/// `X-Request-Id`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `Palisade-Stale`: how old, in ms, what the answer rests on is, when it is older than it should be.
pub const STALE: HeaderName = HeaderName::from_static("palisade-stale");
/// Longest id that is taken from a client, in bytes.
const MAX_ID_BYTES: usize = 128;
const RANDOM_BYTES: usize = 16;
/// No handler takes so long; a client that does not get on with its body does.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Routes whose answers are logged at `debug` only: at full rate a line each costs more than the
/// answer.
const ASKED_ALL_THE_TIME: [&str; 7] = [
    "/api/v1/auth_token/validation",
    "/api/v1/auth_token/validation/batch",
    "/api/v1/users/{id}/combined_permissions/validation",
    "/auth_request",
    "/health/live",
    "/health/ready",
    "/metrics",
];

/// Runs a request inside its frame.
pub async fn frame(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let began = began();
    let given = request.headers().get(REQUEST_ID).cloned();
    let id = RequestId::of(given.as_ref().map(HeaderValue::as_bytes), &*app.entropy);
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or("-", MatchedPath::as_str);
    let span = span(id.as_str(), method.as_str(), route);
    // RFC 9112, section 3.2: one Host, and without it it is no HTTP/1.1.
    let hosts = request.headers().get_all(header::HOST).iter().count();
    let nameless = hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11);
    let knowing = needs_knowledge(request.uri().path());
    let is_made = !is_static(request.uri().path());
    let mut held = None;
    let mut response = if knowing && !app.is_informed() {
        Problem::from(Refusal::CannotKnow).into_response()
    } else if nameless {
        Problem::new(StatusCode::BAD_REQUEST, "host_missing", "There must be one Host header").into_response()
    } else {
        match hold(&mut request, &app) {
            Ok(holding) => {
                held = holding;
                in_time(next.run(request)).instrument(span).await.unwrap_or_else(IntoResponse::into_response)
            }
            Err(problem) => problem.into_response(),
        }
    };
    if let Some(problem) = problem_of(&mut response) {
        let (answer, body) = problem.into_answer(id.as_str()).into_parts();
        // What others have added stays: `Allow`, CORS.
        response.headers_mut().extend(answer.headers);
        *response.body_mut() = body.into();
    }
    let id_value = HeaderValue::from_bytes(id.as_bytes()).unwrap_or(HeaderValue::from_static("-"));
    response.headers_mut().insert(REQUEST_ID, id_value);
    security::guard(response.headers_mut());
    if knowing
        && app.is_informed()
        && let Some(age) = app.freshness.disclosed()
    {
        response.headers_mut().insert(STALE, HeaderValue::from(millis(age)));
    }
    if app.is_draining() {
        // Clients move to another node; hyper closes the connection after this answer.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let (status, took) = (response.status().as_u16(), began.elapsed());
    app.metrics.answered(app.metrics.route(method.as_str(), route), status, 1, took);
    log(id.as_str(), method.as_str(), route, status, || took);
    match held {
        Some(held) => response.map(|body| held.answered(body, is_made)),
        None => response,
    }
}

/// Charges a request to the node's budget, and lets its handler find the charge; `None` for health, which is
/// answered whatever else there is.
///
/// # Errors
/// 503.
fn hold(request: &mut Request, app: &App) -> Result<Option<Held>, Problem> {
    if request.uri().path().starts_with("/health/") {
        return Ok(None);
    }
    let held = Held::new(request, app).map_err(|UsedUp| body::no_room())?;
    request.extensions_mut().insert(held.clone());
    Ok(Some(held))
}

/// Whether the answers of a path are parts of the binary, or made once.
fn is_static(path: &str) -> bool {
    path.starts_with("/apidocs") || path == "/openapi.json"
}

/// What an answer takes, unless it takes too long.
///
/// # Errors
/// 503 then.
pub async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, Problem> {
    let answer = tokio::time::timeout(TIMEOUT, answer).await;
    answer.map_err(|_| Problem::unavailable("timeout", "This took too long; try again"))
}

/// What is logged about a request carries this.
pub fn span(id: &str, method: &str, route: &str) -> tracing::Span {
    tracing::info_span!("request", id, method, route)
}

/// The line about an answer.
pub fn log(id: &str, method: &str, route: &str, status: u16, took: impl Fn() -> Duration) {
    let took_us = || u64::try_from(took().as_micros()).unwrap_or(u64::MAX);
    let span = || span(id, method, route).entered();
    let often = ASKED_ALL_THE_TIME.contains(&route);
    // That it cannot be known now is in the metrics, and said once by what cannot be read.
    if status >= 500 && !(often && status == 503) {
        let _in = span();
        tracing::warn!(status, took_us = took_us(), "answered");
    } else if !often {
        let _in = span();
        tracing::info!(status, took_us = took_us(), "answered");
    } else if tracing::enabled!(tracing::Level::DEBUG) {
        let _in = span();
        tracing::debug!(status, took_us = took_us(), "answered");
    }
}

/// Whether an answer may rest on keys or on what has been taken away: all but what operators watch, and
/// the documentation.
pub(super) fn needs_knowledge(path: &str) -> bool {
    const OPEN: [&str; 4] = ["/health/", "/metrics", "/apidocs", "/openapi.json"];
    !OPEN.iter().any(|root| path.starts_with(root))
}

/// When a request began, or ended.
#[allow(clippy::disallowed_methods, reason = "a duration for metrics; nothing is decided by it")]
pub fn began() -> Instant {
    Instant::now()
}

/// The id of a request: the client's when it is sane, else one of ours.
pub enum RequestId<'a> {
    /// Visible ASCII.
    Given(&'a str),
    /// Hexadecimal digits.
    Made([u8; 2 * RANDOM_BYTES]),
}

impl<'a> RequestId<'a> {
    /// From what the client gave.
    pub fn of(given: Option<&'a [u8]>, entropy: &dyn Entropy) -> Self {
        let is_sane = |bytes: &&[u8]| {
            !bytes.is_empty() && bytes.len() <= MAX_ID_BYTES && bytes.iter().all(u8::is_ascii_graphic)
        };
        match given.filter(is_sane).map(std::str::from_utf8) {
            Some(Ok(text)) => Self::Given(text),
            _ => Self::Made(hex(random(entropy))),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Given(text) => text,
            Self::Made(hex) => std::str::from_utf8(hex).unwrap_or("-"),
        }
    }

    /// The same.
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Given(text) => text.as_bytes(),
            Self::Made(hex) => hex,
        }
    }
}

/// Random bytes, of which a thread takes a supply at a time: asking for a few costs as much as for many.
fn random(entropy: &dyn Entropy) -> [u8; RANDOM_BYTES] {
    const SUPPLY: usize = 64;
    thread_local! {
        static LEFT: RefCell<(usize, [[u8; RANDOM_BYTES]; SUPPLY])> =
            const { RefCell::new((0, [[0; RANDOM_BYTES]; SUPPLY])) };
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

fn hex(bytes: [u8; RANDOM_BYTES]) -> [u8; 2 * RANDOM_BYTES] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 2 * RANDOM_BYTES];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    text
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
