//! The OpenAPI document, made from the routes, and Swagger UI, served from the binary.

use std::sync::Arc;

use axum::Router;
use utoipa::{
    OpenApi as _,
    openapi::{
        OpenApi,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::app::App;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Palisade", description = "Is this token good? May this user do that?"),
    tags(
        (name = "tokens", description = "Log in, refresh, validate, log out"),
        (name = "users", description = "Register, see, change, delete"),
        (name = "sessions", description = "See and end sessions"),
        (name = "grants", description = "What a user may do"),
        (name = "roles", description = "Sets of permissions"),
        (name = "permissions", description = "What can be allowed"),
        (name = "gateways", description = "For proxies, and for who verifies tokens by itself"),
        (name = "operators", description = "Health and metrics"),
    )
)]
struct Document;

/// The document before the routes are in it.
pub fn document() -> OpenApi {
    Document::openapi()
}

/// Adds what the routes do not say: how to authorize.
pub fn finish(document: &mut OpenApi) {
    let scheme = |form: &str, about: &str| {
        let http =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format(form).description(Some(about));
        SecurityScheme::Http(http.build())
    };
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", scheme("JWT", "An access token"));
    components.add_security_scheme("refresh", scheme("prt_", "A refresh token"));
}

/// Every route of a document, as (method, path).
pub fn routes(document: &OpenApi) -> Vec<(String, String)> {
    let mut routes = Vec::new();
    for (path, item) in &document.paths.paths {
        let methods = [
            ("GET", &item.get),
            ("POST", &item.post),
            ("PATCH", &item.patch),
            ("DELETE", &item.delete),
            ("PUT", &item.put),
        ];
        for (method, operation) in methods {
            if operation.is_some() {
                routes.push((method.to_owned(), path.clone()));
            }
        }
    }
    routes
}

/// `/openapi.json` and `/apidocs/`.
pub fn router(document: OpenApi) -> Router<Arc<App>> {
    let config = Config::from("/openapi.json").persist_authorization(false).try_it_out_enabled(true);
    SwaggerUi::new("/apidocs").url("/openapi.json", document).config(config).into()
}
