//! `DELETE auth_token`, `…/all`, `…/others`: revoke this session, all sessions, all other sessions.
//!
//! This node refuses the session at once. It answers when the revocation is durable and every live node has
//! acknowledged it, or at the acknowledgement deadline.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use schema::{Timestamp, version::next_version};

use super::Answer;
use crate::{
    app::App,
    http::{
        extract::authority::CallerAllowStale,
        respond::{problem::ProblemBody, receipt::WithReceipt},
    },
};

/// Log out
#[utoipa::path(
    delete, path = "/auth_token", tag = "tokens", operation_id = "log_out",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    responses((status = 204, description = "This session is revoked")),
)]
pub async fn logout(
    State(app): State<Arc<App>>,
    CallerAllowStale(caller): CallerAllowStale,
) -> Answer<WithReceipt<StatusCode>> {
    let receipt = app
        .actors
        .sessions
        .end_beyond(Timestamp::from_secs(caller.claims.expires_at), caller.claims.user, caller.claims.session)
        .await?;
    tracing::info!(user = %caller.claims.user, session = %caller.claims.session, "logged out");
    Ok(WithReceipt(receipt, StatusCode::NO_CONTENT))
}

/// Log out everywhere
#[utoipa::path(
    delete, path = "/auth_token/all", tag = "tokens", operation_id = "log_out_everywhere",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    responses((status = 204, description = "All sessions are revoked")),
)]
pub async fn logout_all(
    State(app): State<Arc<App>>,
    CallerAllowStale(caller): CallerAllowStale,
) -> Answer<WithReceipt<StatusCode>> {
    let at_least = next_version(caller.claims.version);
    let receipt = app
        .actors
        .users
        .end_all_beyond(Timestamp::from_secs(caller.claims.expires_at), caller.claims.user, at_least)
        .await?;
    tracing::info!(user = %caller.claims.user, "logged out everywhere");
    Ok(WithReceipt(receipt, StatusCode::NO_CONTENT))
}

/// Log out everywhere else
#[utoipa::path(
    delete, path = "/auth_token/others", tag = "tokens", operation_id = "log_out_elsewhere",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    responses(
        (status = 204, description = "All other sessions are revoked"),
        (status = 503, description = "The store is unavailable, so the node cannot list the sessions", body = ProblemBody),
    ),
)]
pub async fn logout_others(
    State(app): State<Arc<App>>,
    CallerAllowStale(caller): CallerAllowStale,
) -> Answer<WithReceipt<StatusCode>> {
    let receipt = app.actors.sessions.end_others(caller.claims.user, caller.claims.session).await?;
    tracing::info!(user = %caller.claims.user, "logged out everywhere else");
    Ok(WithReceipt(receipt, StatusCode::NO_CONTENT))
}
