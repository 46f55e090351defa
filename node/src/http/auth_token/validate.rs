//! `GET auth_token/validation`: is this token good? The hot path.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::IntoResponse,
};

use super::Answer;
use crate::{
    app::App,
    http::{authority, problem::ProblemBody},
};

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
pub async fn validate(State(app): State<Arc<App>>, headers: HeaderMap) -> Answer<impl IntoResponse> {
    authority::check(&app, &headers).await?;
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], r#"{"msg":"Token is valid"}"#))
}
