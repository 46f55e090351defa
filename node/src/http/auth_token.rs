//! Tokens: logged in for, refreshed, validated, revoked.

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
use schema::{SessionId, UserId, token::RefreshToken};
use serde::Serialize;
use utoipa::{ToSchema, openapi::Object};

use super::{docs::one_of, problem::Problem};
use crate::{app::App, tokens::SignError};

/// An access token and the refresh token that gets the next one (RFC 6749, section 5.1).
#[derive(Serialize, ToSchema)]
pub struct TokenPair {
    /// A JWS; goes into `Authorization: Bearer`.
    access_token: String,
    /// Opaque; begins `prt_`.
    refresh_token: String,
    /// Always `Bearer`.
    #[schema(schema_with = token_types)]
    token_type: &'static str,
    /// Life of the access token in seconds.
    expires_in: u64,
}

fn token_types() -> Object {
    one_of(["Bearer"])
}

impl TokenPair {
    /// A new access token beside this refresh token.
    ///
    /// # Errors
    /// When no token can be made.
    pub fn new(
        app: &App,
        user: UserId,
        session: SessionId,
        version: u64,
        refresh: &RefreshToken,
    ) -> Result<Self, SignError> {
        Ok(Self {
            access_token: app.tokens.issue(user, session, version)?,
            refresh_token: refresh.expose(),
            token_type: "Bearer",
            expires_in: app.tokens.access_ttl().as_secs(),
        })
    }
}

/// Tokens are for nobody's cache.
impl IntoResponse for TokenPair {
    fn into_response(self) -> Response {
        ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(self)).into_response()
    }
}

/// What an endpoint of this noun answers.
type Answer<T> = Result<T, Problem>;
