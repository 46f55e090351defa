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
mod cors;
mod docs;
mod gateway;
mod operators;
mod permissions;
mod power;
mod roles;
mod users;

use std::sync::Arc;

use axum::Router;
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::App, settings::PublicUrl};

/// Longest body of a request, in bytes; batch validation takes more.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

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
        .routes(routes!(users::sessions::list, users::sessions::end_all))
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
    if let Some(cors) = cors::layer(&app.settings.cors_origins) {
        router = router.layer(cors);
    }
    router.layer(axum::middleware::from_fn_with_state(app.clone(), request::frame)).with_state(app.clone())
}
