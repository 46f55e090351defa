//! `GET auth_token/validation`: validate a token. The fast path answers it by [`verdict`].

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, header},
    response::IntoResponse,
};
use schema::token::AccessClaims;
use utoipa::ToSchema;

use super::Answer;
use crate::{
    app::App,
    http::{
        extract::{
            authority,
            credential::{self, Token},
            source::LazySource,
        },
        respond::problem::Problem,
    },
};

/// The body for an active token.
#[derive(ToSchema)]
#[allow(dead_code, reason = "for the documentation: there is but one such body")]
pub struct TokenIsValid {
    #[schema(example = "Token is valid")]
    msg: String,
}

/// The JSON body for an active token.
pub const VALID: &str = r#"{"msg":"Token is valid"}"#;

/// Checks a token, and returns its claims.
///
/// # Errors
/// The refusal.
pub async fn verdict(app: &App, token: Token<'_>, source: LazySource<'_>) -> Result<AccessClaims, Problem> {
    Ok(authority::check(app, token, source).await?)
}

/// Validate a token
#[utoipa::path(
    get, path = "/auth_token/validation", tag = "tokens", operation_id = "validate_token",
    security(("bearer" = [])),
    responses((status = 200, description = "The token is active", body = TokenIsValid)),
)]
pub async fn validate(State(app): State<Arc<App>>, request: Request) -> Answer<impl IntoResponse> {
    let source = LazySource::of(request.extensions(), request.headers());
    verdict(&app, credential::token(request.headers()), source).await?;
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], VALID))
}
