//! `GET auth_token/validation`: is this token good? The hot path.

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
        asker::Asker,
        authority::{self, Token},
        problem::Problem,
    },
};

/// A token is good.
#[derive(ToSchema)]
#[allow(dead_code, reason = "for the documentation: there is but one such body")]
pub struct TokenIsValid {
    #[schema(example = "Token is valid")]
    msg: String,
}

/// What is answered when it is.
pub const VALID: &str = r#"{"msg":"Token is valid"}"#;

/// The verdict on a token, and what it says.
///
/// # Errors
/// The refusal.
pub async fn verdict(app: &App, token: Token<'_>, asker: Asker<'_>) -> Result<AccessClaims, Problem> {
    Ok(authority::check(app, token, asker).await?)
}

/// Validate a token
#[utoipa::path(
    get, path = "/auth_token/validation", tag = "tokens", operation_id = "validate_token",
    security(("bearer" = [])),
    responses((status = 200, description = "The token is good", body = TokenIsValid)),
)]
pub async fn validate(State(app): State<Arc<App>>, request: Request) -> Answer<impl IntoResponse> {
    let asker = Asker::of(request.extensions(), request.headers());
    verdict(&app, authority::token(request.headers()), asker).await?;
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], VALID))
}
