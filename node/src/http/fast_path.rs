//! The fast path: the three calls that services make on every request, answered ahead of the router.
//!
//! | call | answered by |
//! |---|---|
//! | `GET /api/v1/auth_token/validation` | `auth_token::validate::verdict` |
//! | `GET /api/v1/users/{id}/combined_permissions/validation` | `users::combined::holds` |
//! | `GET /auth_request` | `gateway::admit` |
//!
//! Promises: it answers as the router would, by the same functions, with the same request id, metrics and log
//! lines. It takes only eligible requests. All others go to hyper and the router untouched: another method, a
//! body, `Origin`, `Expect`, `Upgrade`, `Connection: close`, a node that is stale or has not synced yet.
//!
//! It has two entrances: [`http1`] reads HTTP/1.1 from the connection itself, and hands the connection to hyper
//! at the first ineligible request; [`FastPath::take`] checks the requests that hyper has read (HTTP/2, and
//! connections that were handed over).

pub mod http1;
mod response;
mod route;

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, Method, Request, Response, Version},
};
use http_body_util::Full;
use hyper::body::Body;
use schema::time::millis;
use tracing::Instrument as _;

use super::{
    RoutePolicy,
    connection::{Timeouts, head::has_valid_host},
    extract::{
        credential::{self, Token},
        source::LazySource,
    },
    gateway,
    middleware::request::{self, REQUEST_ID, RequestId, STALE, monotonic_now},
    respond::problem::Problem,
};
use crate::{
    app::App,
    metrics::RouteId,
    traces::{self, TRACEPARENT},
};
use response::FastResponse;
use route::FastRoute;

/// Headers that make a request ineligible: they ask for something that the fast path does not do.
const INELIGIBLE_HEADERS: [&str; 8] =
    ["content-length", "transfer-encoding", "expect", "upgrade", "te", "trailer", "origin", "http2-settings"];

/// Answers eligible requests ahead of the router. A node has one.
pub struct FastPath {
    app: Arc<App>,
    routes: [RouteId; FastRoute::ROUTES.len()],
    timeouts: Timeouts,
    /// The CORS headers of every answer; empty where no other origin may call.
    cors_headers: HeaderMap,
}

impl FastPath {
    /// Prepares the fast path of this node: its metrics, timeouts and CORS headers.
    #[must_use]
    pub async fn new(app: &Arc<App>) -> Self {
        let routes = FastRoute::ROUTES.map(|route| app.metrics.route("GET", route));
        let timeouts = Timeouts::new(app.settings.idle_timeout);
        let cors_headers = super::middleware::cors::headers(&app.settings.cors_origins).await;
        Self { app: app.clone(), routes, timeouts, cors_headers }
    }

    /// Answers a request that hyper has read from this peer; `None` if the request is ineligible.
    pub async fn take<B: Body>(
        &self,
        request: &Request<B>,
        peer: SocketAddr,
    ) -> Option<Response<Full<Bytes>>> {
        let target = request.uri();
        let route = FastRoute::of(target.path(), target.query())?;
        let headers = request.headers();
        let is_eligible = request.method() == Method::GET
            && target.scheme().is_none_or(|_| request.version() == Version::HTTP_2)
            && request.body().is_end_stream()
            && matches!(request.version(), Version::HTTP_11 | Version::HTTP_2)
            && has_valid_host(headers, request.version())
            && !INELIGIBLE_HEADERS.iter().any(|name| headers.contains_key(*name))
            && !headers.get(TRACEPARENT).is_some_and(|value| traces::is_sampled(value.as_bytes()))
            && !(route.is_admit() && headers.keys().any(|name| gateway::is_unknown_header(name.as_ref())));
        if !is_eligible || !self.can_decide() || self.app.is_draining() {
            return None;
        }
        let started = monotonic_now();
        let id = RequestId::of(request_id(headers), &*self.app.entropy);
        let source = LazySource::with_headers(peer, headers);
        let (answer, stale) = self.answer(route, credential::token(headers), source, &id).await;
        self.log(route, &answer, &id, started);
        self.count(route.index(), answer.status().as_u16(), 1, started.elapsed());
        let mut response = answer.into_response();
        let id = HeaderValue::from_bytes(id.as_bytes());
        response.headers_mut().insert(REQUEST_ID, id.unwrap_or(HeaderValue::from_static("-")));
        if let Some(age) = stale {
            response.headers_mut().insert(STALE, HeaderValue::from(millis(age)));
        }
        response.headers_mut().extend(self.cors_headers.clone());
        Some(response)
    }

    /// Whether the node has synced and is fresh, so that answers need no `Palisade-Stale`.
    fn can_decide(&self) -> bool {
        self.app.sync.is_synced() && self.app.freshness.staleness().is_none()
    }

    /// Answers from memory where possible. Otherwise waits for the store, for keys or for a slot to verify a
    /// signature, within the timeout of every request. If the node becomes stale during the wait, its age is
    /// returned beside the answer.
    async fn answer(
        &self,
        route: FastRoute<'_>,
        token: Token<'_>,
        source: LazySource<'_>,
        id: &RequestId<'_>,
    ) -> (FastResponse, Option<Duration>) {
        let mut pending = pin!(route.answer(&self.app, token, source));
        let (answer, stale) = match poll_once(pending.as_mut()).await {
            Poll::Ready(answer) => (answer, None),
            Poll::Pending => {
                let span = request::span(id.as_str(), "GET", FastRoute::ROUTES[route.index()]);
                let answer = request::with_timeout(pending).instrument(span).await.unwrap_or_else(Err);
                (answer, self.app.freshness.disclosed())
            }
        };
        let problem = |problem: Problem| FastResponse::Problem(Box::new(problem.into_answer(id.as_str())));
        (answer.unwrap_or_else(problem), stale)
    }

    /// Logs an answer as the router's middleware would.
    fn log(&self, route: FastRoute<'_>, answer: &FastResponse, id: &RequestId<'_>, started: Instant) {
        let path = FastRoute::ROUTES[route.index()];
        let status = answer.status().as_u16();
        request::log(id.as_str(), "GET", path, RoutePolicy::Frequent, status, || started.elapsed());
    }

    /// Counts `count` answers of one route (its index in [`FastRoute::ROUTES`]) and status at once.
    fn count(&self, route: usize, status: u16, count: u64, took: Duration) {
        self.app.metrics.answered(self.routes[route], status, count, took);
    }
}

/// Polls a future once, without waiting.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

fn request_id(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(REQUEST_ID).map(HeaderValue::as_bytes)
}
