//! HTTP: one endpoint, one file, named `<noun>/<verb>.rs`.
//!
//! To add an endpoint: write its file with a handler and its `#[utoipa::path]`, and register it in
//! `api` with `routes!`; the OpenAPI document, the metrics and the tests that walk all routes
//! take it from there. What a handler may rely on is said by its extractors ([`authority`]).

pub mod asker;
pub mod authority;
pub mod body;
pub mod client;
pub mod connection;
pub mod held;
pub mod hot;
pub mod page;
pub mod problem;
pub mod queries;
pub mod request;
mod security;
pub mod taken;

mod auth_token;
pub mod cluster;
mod docs;
mod gateway;
mod operators;
mod permissions;
mod power;
mod roles;
mod users;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName},
    response::Response,
};
use tower::{Layer as _, ServiceExt as _};
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    settings::{CorsOrigins, PublicUrl},
};

/// Longest body of a request, in bytes; batch validation takes more.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Methods that pages of other origins may use.
const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "PATCH", "DELETE"];
/// Headers that pages of other origins may send, beside those that need no permission: what the API reads, and
/// what tracing and HTTP libraries of browsers add by themselves.
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
/// Headers of answers that pages of other origins may read.
const EXPOSED_HEADERS: [&str; 7] = [
    "x-request-id",
    "retry-after",
    "www-authenticate",
    "palisade-visible",
    "palisade-durability",
    "palisade-stale",
    "etag",
];
/// How long a browser may remember the answer to a preflight; longer than two hours no browser but one does.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(2 * 60 * 60);

/// Every documented endpoint, with its documentation.
fn api() -> OpenApiRouter<Arc<App>> {
    let v1 = OpenApiRouter::new()
        .routes(routes!(auth_token::login::login, auth_token::logout::logout))
        .routes(routes!(auth_token::refresh::refresh))
        .routes(routes!(auth_token::validate::validate))
        .routes(routes!(auth_token::batch::validate_batch))
        .routes(routes!(auth_token::logout::logout_all))
        .routes(routes!(auth_token::logout::logout_others))
        .routes(routes!(users::register::register, users::list::list))
        .routes(routes!(users::profile::get, users::update::update, users::delete::delete))
        .routes(routes!(users::password::change_password))
        .routes(routes!(users::logins::list))
        .routes(routes!(users::unlock::unlock))
        .routes(routes!(users::sessions::list))
        .routes(routes!(users::sessions::end))
        .routes(routes!(users::roles::list, users::roles::give))
        .routes(routes!(users::roles::take))
        .routes(routes!(users::permissions::list, users::permissions::give))
        .routes(routes!(users::permissions::take))
        .routes(routes!(users::combined::list))
        .routes(routes!(users::combined::validate))
        .routes(routes!(permissions::list, permissions::create))
        .routes(routes!(permissions::update, permissions::delete))
        .routes(routes!(roles::list, roles::create))
        .routes(routes!(roles::get, roles::update, roles::delete))
        .routes(routes!(roles::members::add))
        .routes(routes!(roles::members::remove));
    OpenApiRouter::with_openapi(docs::document())
        .nest("/api/v1", v1)
        .routes(routes!(gateway::auth_request))
        .routes(routes!(gateway::jwks))
}

/// What operators watch.
fn operators() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(operators::live))
        .routes(routes!(operators::ready))
        .routes(routes!(operators::metrics))
        .routes(routes!(cluster::show))
}

/// The OpenAPI document of a node that does not know its public URL.
#[must_use]
pub fn openapi() -> OpenApi {
    document(None)
}

fn document(public_url: Option<&PublicUrl>) -> OpenApi {
    let mut document = api().merge(operators()).into_openapi();
    docs::finish(&mut document, public_url);
    document
}

/// Every documented route, as (method, path).
pub fn routes() -> Vec<(String, String)> {
    docs::routes(&openapi())
}

/// The routers of the two listeners; the second when operators have one of their own.
pub fn routers(app: &Arc<App>) -> (Router, Option<Router>) {
    let public_url = app.settings.public_url.as_ref();
    let public = api().split_for_parts().0.merge(docs::pages::router(&document(public_url), public_url));
    let operators = operators().split_for_parts().0;
    if app.settings.operator_listen.is_some() {
        (finish(public, app), Some(finish(operators, app)))
    } else {
        (finish(public.merge(operators), app), None)
    }
}

/// What every request goes through, from the outside in: the frame of a request (id, metrics,
/// errors in their one form), CORS. Bodies have their bound where they are read ([`body`]).
fn finish(router: Router<Arc<App>>, app: &Arc<App>) -> Router {
    let mut router =
        router.fallback(request::not_found).method_not_allowed_fallback(request::method_not_allowed);
    if let Some(cors) = cors(&app.settings.cors_origins) {
        router = router.layer(cors);
    }
    router.layer(axum::middleware::from_fn_with_state(app.clone(), request::frame)).with_state(app.clone())
}

/// What CORS adds to every answer, also to those that no browser asked for.
async fn cors_headers(origins: &CorsOrigins) -> HeaderMap {
    let Some(cors) = cors(origins) else { return HeaderMap::new() };
    let nothing = tower::service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::empty())));
    let answer = cors.layer(nothing).oneshot(Request::default()).await;
    answer.map(|response| response.headers().clone()).unwrap_or_default()
}

fn cors(origins: &CorsOrigins) -> Option<CorsLayer> {
    if *origins == CorsOrigins::None {
        return None;
    }
    let origins = origins.clone();
    let allow =
        AllowOrigin::predicate(move |origin, _| origin.to_str().is_ok_and(|origin| origins.allows(origin)));
    Some(
        CorsLayer::new()
            .allow_origin(allow)
            .allow_methods(METHODS.map(|method| method.parse().unwrap_or_default()))
            .allow_headers(ALLOWED_HEADERS.map(HeaderName::from_static))
            .expose_headers(EXPOSED_HEADERS.map(HeaderName::from_static))
            .max_age(PREFLIGHT_MAX_AGE),
    )
}
