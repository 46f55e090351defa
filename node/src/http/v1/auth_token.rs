//! Endpoints of tokens: log in, refresh, validate, log out.

pub mod batch;
pub mod login;
pub mod logout;
pub mod refresh;
pub mod validate;

use axum::{
    Json,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::{ToSchema, openapi::Object};

use crate::{
    accounts::begin_session::SessionTokens,
    app::App,
    credentials::tokens::SignError,
    http::{openapi::one_of, respond::problem::Problem},
};

/// An access token and the refresh token for the next one (RFC 6749, section 5.1).
#[derive(Serialize, ToSchema)]
pub struct TokenPair {
    /// A JWS, for `Authorization: Bearer`.
    access_token: String,
    /// Opaque; begins with `prt_`.
    refresh_token: String,
    /// Always `Bearer`.
    #[schema(schema_with = token_types)]
    token_type: &'static str,
    /// Lifetime of the access token in seconds.
    expires_in: u64,
}

fn token_types() -> Object {
    one_of(["Bearer"])
}

impl TokenPair {
    /// A new access token for the session, with its live refresh token.
    ///
    /// # Errors
    /// Signing fails.
    pub fn of(app: &App, tokens: &SessionTokens) -> Result<Self, SignError> {
        Ok(Self {
            access_token: app.tokens.issue(tokens.user, tokens.session, tokens.user_version)?,
            refresh_token: tokens.refresh.expose(),
            token_type: "Bearer",
            expires_in: app.tokens.access_ttl().as_secs(),
        })
    }
}

/// Forbids caching: the body contains tokens.
impl IntoResponse for TokenPair {
    fn into_response(self) -> Response {
        ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(self)).into_response()
    }
}

/// The result of the handlers of this module.
type Answer<T> = Result<T, Problem>;
