//! HTTP: one endpoint, one file, named `v1/<noun>/<verb>.rs`.
//!
//! To add an endpoint: write its file with a handler and its `#[utoipa::path]`, and register it in
//! `api` with `routes!`; the OpenAPI document, the metrics and the tests that walk all routes
//! take it from there. Its extractors state what a handler may rely on ([`extract::authority`]).

pub mod connection;
pub mod extract;
pub mod fast_path;
mod gateway;
pub mod middleware;
mod openapi;
mod operators;
mod policy;
pub mod respond;
mod v1;

use std::sync::Arc;

use axum::Router;
use utoipa::openapi::OpenApi;
use utoipa_axum::routes;

use middleware::request::Frame;
use policy::Routes;
pub use policy::{Policies, RoutePolicy};
use v1::{auth_token, permissions, roles, users};

use crate::{app::App, settings::PublicUrl};

/// The longest body of a request, in bytes. Batch validation accepts more.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Every documented endpoint, with its documentation.
fn api() -> Routes {
    use RoutePolicy::{Api, Frequent};
    let v1 = Routes::default()
        .add(Api, routes!(auth_token::login::login, auth_token::logout::logout))
        .add(Api, routes!(auth_token::refresh::refresh))
        .add(Frequent, routes!(auth_token::validate::validate))
        .add(Frequent, routes!(auth_token::batch::validate_batch))
        .add(Api, routes!(auth_token::logout::logout_all))
        .add(Api, routes!(auth_token::logout::logout_others))
        .add(Api, routes!(users::register::register, users::list::list))
        .add(Api, routes!(users::profile::get, users::update::update, users::delete::delete))
        .add(Api, routes!(users::password::change_password))
        .add(Api, routes!(users::logins::list))
        .add(Api, routes!(users::unlock::unlock))
        .add(Api, routes!(users::sessions::list, users::sessions::end_all))
        .add(Api, routes!(users::sessions::end))
        .add(Api, routes!(users::roles::list, users::roles::give))
        .add(Api, routes!(users::roles::take))
        .add(Api, routes!(users::permissions::list, users::permissions::give))
        .add(Api, routes!(users::permissions::take))
        .add(Api, routes!(users::combined::list))
        .add(Frequent, routes!(users::combined::validate))
        .add(Api, routes!(permissions::list, permissions::create))
        .add(Api, routes!(permissions::update, permissions::delete))
        .add(Api, routes!(roles::list, roles::create))
        .add(Api, routes!(roles::get, roles::update, roles::delete))
        .add(Api, routes!(roles::members::add))
        .add(Api, routes!(roles::members::remove));
    Routes::documented_in(openapi::document())
        .nest("/api/v1", v1)
        .add(Frequent, routes!(gateway::auth_request))
        .add(Api, routes!(gateway::jwks))
}

/// The routes of operators: health, metrics and the state of the cluster.
fn operators() -> Routes {
    Routes::default()
        .add(RoutePolicy::Health, routes!(operators::live))
        .add(RoutePolicy::Health, routes!(operators::ready))
        .add(RoutePolicy::Metrics, routes!(operators::metrics))
        .add(RoutePolicy::Api, routes!(v1::cluster::show))
}

/// The OpenAPI document of a node that does not know its public URL.
#[must_use]
pub fn openapi() -> OpenApi {
    document(None)
}

fn document(public_url: Option<&PublicUrl>) -> OpenApi {
    let Routes { router, policies } = api().merge(operators());
    let mut document = router.into_openapi();
    openapi::finish(&mut document, public_url, &policies);
    document
}

/// Every documented route, as (method, path).
pub fn routes() -> Vec<(String, String)> {
    openapi::routes(&openapi())
}

/// The routers of a node's listeners.
pub struct Routers {
    /// The router of the public listener.
    pub public: Router,
    /// The router of the operators' listener, if there is one.
    pub operators: Option<Router>,
    /// The policies of all routes.
    pub policies: Arc<Policies>,
}

/// The routers of this node. Without an operators' listener, the public one serves the routes of operators too.
pub fn routers(app: &Arc<App>) -> Routers {
    let public_url = app.settings.public_url.as_ref();
    let pages = openapi::pages::router(&document(public_url), public_url);
    let api = api();
    let operators = operators();
    let policies = api.policies.and(operators.policies).and(openapi::pages::policies());
    let policies = Arc::new(policies);
    let public = api.router.split_for_parts().0.merge(pages);
    let operators = operators.router.split_for_parts().0;
    if app.settings.operator_listen.is_some() {
        let operators = Some(finish(operators, app, &policies));
        Routers { public: finish(public, app, &policies), operators, policies }
    } else {
        Routers { public: finish(public.merge(operators), app, &policies), operators: None, policies }
    }
}

/// Adds the middleware of every request, from the outside in: the frame (id, metrics, errors in their one
/// form), then CORS. Bodies are bounded where they are read ([`extract::body`]).
fn finish(router: Router<Arc<App>>, app: &Arc<App>, policies: &Arc<Policies>) -> Router {
    let mut router = router
        .fallback(middleware::request::not_found)
        .method_not_allowed_fallback(middleware::request::method_not_allowed);
    if let Some(cors) = middleware::cors::layer(&app.settings.cors_origins) {
        router = router.layer(cors);
    }
    let frame = Frame { app: app.clone(), policies: policies.clone() };
    router
        .layer(axum::middleware::from_fn_with_state(frame, middleware::request::frame))
        .with_state(app.clone())
}
