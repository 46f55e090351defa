//! Cross-origin requests from browsers (CORS, in the Fetch standard).
//!
//! Answers preflights only: `OPTIONS` with `Origin` and `Access-Control-Request-Method`. Any other `OPTIONS`
//! goes to the router, as it does when CORS is off. `/auth_request` never answers a preflight, because a
//! gateway treats every 2xx as permission.

use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, Method, header},
    response::Response,
};
use futures_util::future::BoxFuture;
use tower::{Layer, Service, ServiceExt as _};
use tower_http::cors::{self, AllowOrigin, CorsLayer};

use crate::{http::gateway, settings::CorsOrigins};

/// Methods that other origins may use.
const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "PATCH", "DELETE"];
/// Request headers that other origins may send: those that the API reads, and those that tracing and HTTP
/// libraries add in browsers.
const ALLOWED_HEADERS: [&str; 18] = [
    "authorization",
    "content-type",
    "accept",
    "accept-language",
    "cache-control",
    "if-none-match",
    "last-event-id",
    "x-request-id",
    "x-correlation-id",
    "x-requested-with",
    "x-csrf-token",
    "x-xsrf-token",
    "traceparent",
    "tracestate",
    "baggage",
    "sentry-trace",
    "b3",
    "idempotency-key",
];
/// Response headers that other origins may read.
const EXPOSED_HEADERS: [&str; 7] = [
    "x-request-id",
    "retry-after",
    "www-authenticate",
    "palisade-visible",
    "palisade-durability",
    "palisade-stale",
    "etag",
];
/// How long a browser may cache a preflight. Chromium caps it at two hours.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(2 * 60 * 60);

/// A layer that answers preflights and adds CORS headers to responses.
#[derive(Clone)]
pub struct Cors(CorsLayer);

/// A service with [`Cors`].
#[derive(Clone)]
pub struct WithCors<S> {
    cors: cors::Cors<S>,
    plain: S,
}

impl<S: Clone> Layer<S> for Cors {
    type Service = WithCors<S>;
    fn layer(&self, plain: S) -> WithCors<S> {
        WithCors { cors: self.0.layer(plain.clone()), plain }
    }
}

impl<S> Service<Request> for WithCors<S>
where
    S: Service<Request, Response = Response> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response, S::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // `call` clones the service and waits until the clone is ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if request.method() == Method::OPTIONS && !is_preflight(&request) {
            Box::pin(self.plain.clone().oneshot(request))
        } else {
            Box::pin(self.cors.clone().oneshot(request))
        }
    }
}

fn is_preflight(request: &Request) -> bool {
    let has = |name| request.headers().contains_key(name);
    request.uri().path() != gateway::PATH && has(header::ORIGIN) && has(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The headers that CORS adds to every response, also without an `Origin`.
pub async fn headers(origins: &CorsOrigins) -> HeaderMap {
    let Some(Cors(cors)) = layer(origins) else { return HeaderMap::new() };
    let nothing = tower::service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::empty())));
    let answer = cors.layer(nothing).oneshot(Request::default()).await;
    answer.map(|response| response.headers().clone()).unwrap_or_default()
}

/// The layer, or `None` if no other origin is allowed.
pub fn layer(origins: &CorsOrigins) -> Option<Cors> {
    if *origins == CorsOrigins::None {
        return None;
    }
    let origins = origins.clone();
    let allow =
        AllowOrigin::predicate(move |origin, _| origin.to_str().is_ok_and(|origin| origins.allows(origin)));
    let cors = CorsLayer::new()
        .allow_origin(allow)
        .allow_methods(METHODS.map(|method| method.parse().unwrap_or_default()))
        .allow_headers(ALLOWED_HEADERS.map(HeaderName::from_static))
        .expose_headers(EXPOSED_HEADERS.map(HeaderName::from_static))
        .max_age(PREFLIGHT_MAX_AGE);
    Some(Cors(cors))
}
