//! The hot lane: the three questions that services ask on every request, answered ahead of the router.
//!
//! | question | answered by |
//! |---|---|
//! | `GET /api/v1/auth_token/validation` | `auth_token::validate::verdict` |
//! | `GET /api/v1/users/{id}/combined_permissions/validation` | `users::combined::holds` |
//! | `GET /auth_request` | `gateway::admit` |
//!
//! Promises: what it answers is what the router would answer, by the same functions, with the same request
//! id, metrics and log lines. It takes a request only when nothing about it is unusual; everything else goes
//! to hyper and the router, untouched: another method, a body, `Origin`, `Expect`, `Upgrade`, a connection to
//! be closed, a node that is stale or does not know enough yet.
//!
//! It is entered from two sides: [`wire`] reads HTTP/1.1 from the connection itself, and gives the connection
//! to hyper with the first request that is not for this lane; [`Lane::take`] looks at what hyper has read
//! (HTTP/2, and connections that were given to it).

mod answer;
mod question;
pub mod wire;

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
    http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header},
};
use http_body_util::Full;
use hyper::body::Body;
use schema::time::millis;
use tracing::Instrument as _;

use super::{
    asker::Asker,
    authority::{self, Token},
    connection::Timeouts,
    gateway,
    problem::Problem,
    request::{self, REQUEST_ID, RequestId, STALE, began},
};
use crate::{app::App, metrics::RouteId};
use answer::Answered;
use question::Question;

/// Headers that ask for something that this lane does not do.
const UNUSUAL: [&str; 8] =
    ["content-length", "transfer-encoding", "expect", "upgrade", "te", "trailer", "origin", "http2-settings"];

/// The hot lane of a node.
pub struct Lane {
    app: Arc<App>,
    routes: [RouteId; Question::ROUTES.len()],
    timeouts: Timeouts,
    /// What answers carry beside, where browsers may call.
    extra: HeaderMap,
}

impl Lane {
    /// Of this node.
    #[must_use]
    pub async fn new(app: &Arc<App>) -> Self {
        let routes = Question::ROUTES.map(|route| app.metrics.route("GET", route));
        let timeouts = Timeouts::new(app.settings.idle_timeout);
        let extra = super::cors::headers(&app.settings.cors_origins).await;
        Self { app: app.clone(), routes, timeouts, extra }
    }

    /// Answers a request that hyper has read from this peer, if it is for this lane.
    pub async fn take<B: Body>(
        &self,
        request: &Request<B>,
        peer: SocketAddr,
    ) -> Option<Response<Full<Bytes>>> {
        let target = request.uri();
        let question = Question::of(target.path(), target.query())?;
        let headers = request.headers();
        let usual = request.method() == Method::GET
            && target.scheme().is_none_or(|_| request.version() == Version::HTTP_2)
            && request.body().is_end_stream()
            && match (request.version(), headers.get_all(header::HOST).iter().count()) {
                (Version::HTTP_11, hosts) => hosts == 1,
                (Version::HTTP_2, hosts) => hosts <= 1,
                _ => false,
            }
            && !UNUSUAL.iter().any(|name| headers.contains_key(*name))
            && !(question.is_admit() && headers.keys().any(|name| gateway::is_unknown_header(name.as_ref())));
        if !usual || !self.decides() || self.app.is_draining() {
            return None;
        }
        let began = began();
        let id = RequestId::of(given_id(headers), &*self.app.entropy);
        let asker = Asker::with_headers(peer, headers);
        let (answered, stale) = self.answer(question, authority::token(headers), asker, &id).await;
        self.log(question, &answered, &id, began);
        self.count(question.route(), answered.status().as_u16(), 1, began.elapsed());
        let mut response = answered.into_response();
        let id = HeaderValue::from_bytes(id.as_bytes());
        response.headers_mut().insert(REQUEST_ID, id.unwrap_or(HeaderValue::from_static("-")));
        if let Some(age) = stale {
            response.headers_mut().insert(STALE, HeaderValue::from(millis(age)));
        }
        response.headers_mut().extend(self.extra.clone());
        Some(response)
    }

    /// Whether the node decides, and has nothing to say about how it knows.
    fn decides(&self) -> bool {
        self.app.is_informed() && self.app.freshness.staleness().is_none()
    }

    /// Waits for a store, for keys or for a signature's turn only where nothing else is known, and not longer
    /// than any request may take. The node may become stale meanwhile: then its age comes with the answer.
    async fn answer(
        &self,
        question: Question<'_>,
        token: Token<'_>,
        asker: Asker<'_>,
        id: &RequestId<'_>,
    ) -> (Answered, Option<Duration>) {
        let mut asking = pin!(question.ask(&self.app, token, asker));
        let (answer, stale) = match poll_once(asking.as_mut()).await {
            Poll::Ready(answer) => (answer, None),
            Poll::Pending => {
                let span = request::span(id.as_str(), "GET", Question::ROUTES[question.route()]);
                let answer = request::in_time(asking).instrument(span).await.unwrap_or_else(Err);
                (answer, self.app.freshness.disclosed())
            }
        };
        let problem = |problem: Problem| Answered::Problem(Box::new(problem.into_answer(id.as_str())));
        (answer.unwrap_or_else(problem), stale)
    }

    /// Logs an answer.
    fn log(&self, question: Question<'_>, answered: &Answered, id: &RequestId<'_>, began: Instant) {
        let route = Question::ROUTES[question.route()];
        request::log(id.as_str(), "GET", route, answered.status().as_u16(), || began.elapsed());
    }

    /// Counts answers to the same question that went the same way together.
    fn count(&self, route: usize, status: u16, count: u64, took: Duration) {
        self.app.metrics.answered(self.routes[route], status, count, took);
    }
}

/// What a future says at once.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

fn given_id(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(REQUEST_ID).map(HeaderValue::as_bytes)
}
