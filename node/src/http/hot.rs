//! The hot lane: the three questions that services ask on every request, answered ahead of the router.
//!
//! | question | answered by |
//! |---|---|
//! | `GET /api/v1/auth_token/validation` | [`validate::verdict`] |
//! | `GET /api/v1/users/{id}/combined_permissions/validation` | [`combined::holds`] |
//! | `GET /auth_request` | [`gateway::admit`] |
//!
//! Promises: what it answers is what the router would answer, by the same functions, with the same request
//! id, metrics and log lines. It takes a request only when nothing about it is unusual; everything else goes
//! to hyper and the router, untouched: another method, a body, `Origin`, `Expect`, `Upgrade`, a connection to
//! be closed, a node that drains, is stale or does not know enough yet.
//!
//! It is entered from two sides: [`wire`] reads HTTP/1.1 from the connection itself, and gives the connection
//! to hyper with the first request that is not for this lane; [`Lane::take`] looks at what hyper has read
//! (HTTP/2, and connections that were given to it).
//!
//! [`validate::verdict`]: super::auth_token::validate::verdict
//! [`combined::holds`]: super::users::combined::holds
//! [`gateway::admit`]: super::gateway::admit

mod answer;
mod question;
pub mod wire;

use std::{sync::Arc, time::Instant};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header},
};
use http_body_util::Full;
use hyper::body::Body;

use super::{
    authority::{self, Token},
    request::{self, REQUEST_ID, RequestId, began},
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
    /// What answers carry beside, where browsers may call.
    extra: HeaderMap,
}

impl Lane {
    /// Of this node.
    #[must_use]
    pub async fn new(app: &Arc<App>) -> Self {
        let routes = Question::ROUTES.map(|route| app.metrics.route("GET", route));
        Self { app: app.clone(), routes, extra: super::cors_headers(&app.settings.cors_origins).await }
    }

    /// Answers a request that hyper has read, if it is for this lane.
    pub async fn take<B: Body>(&self, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
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
            && !UNUSUAL.iter().any(|name| headers.contains_key(*name));
        if !usual || !self.is_open() {
            return None;
        }
        let began = began();
        let id = RequestId::of(given_id(headers), &*self.app.entropy);
        let answered = self.answer(&question, authority::token(headers), &id).await;
        self.note(&question, &answered, &id, began, request::began());
        let mut response = answered.into_response();
        let id = HeaderValue::from_bytes(id.as_bytes());
        response.headers_mut().insert(REQUEST_ID, id.unwrap_or(HeaderValue::from_static("-")));
        response.headers_mut().extend(self.extra.clone());
        Some(response)
    }

    /// Whether answers need nothing that this lane does not do.
    fn is_open(&self) -> bool {
        self.app.is_informed() && !self.app.is_draining() && self.app.freshness.staleness().is_none()
    }

    async fn answer(&self, question: &Question<'_>, token: Token<'_>, id: &RequestId<'_>) -> Answered {
        match question.ask(&self.app, token).await {
            Ok(answer) => answer,
            Err(problem) => Answered::Problem(Box::new(problem.into_answer(id.as_str()))),
        }
    }

    /// Counts and logs an answer.
    fn note(
        &self,
        question: &Question<'_>,
        answered: &Answered,
        id: &RequestId<'_>,
        began: Instant,
        now: Instant,
    ) {
        let (status, took) = (answered.status().as_u16(), now.saturating_duration_since(began));
        self.app.metrics.answered(self.routes[question.route()], status, took);
        request::log(id.as_str(), "GET", Question::ROUTES[question.route()], status, took);
    }
}

fn given_id(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(REQUEST_ID).map(HeaderValue::as_bytes)
}
