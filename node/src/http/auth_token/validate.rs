//! `GET auth_token/validation`: is this token good? The hot path.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, header},
    response::IntoResponse,
};
use schema::token::AccessClaims;

use super::Answer;
use crate::{
    app::App,
    http::{
        asker::Asker,
        authority::{self, Token},
        problem::{Problem, ProblemBody},
    },
};

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
    get, path = "/auth_token/validation", tag = "tokens",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "`{\"msg\":\"Token is valid\"}`"),
        (status = 401, description = "No token, expired, or revoked", body = ProblemBody),
        (status = 422, description = "A token that cannot be believed", body = ProblemBody),
    ),
)]
pub async fn validate(State(app): State<Arc<App>>, request: Request) -> Answer<impl IntoResponse> {
    let asker = Asker::of(request.extensions(), request.headers());
    verdict(&app, authority::token(request.headers()), asker).await?;
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], VALID))
}
