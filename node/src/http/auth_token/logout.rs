//! `DELETE auth_token`, `…/all`, `…/others`: end this session, every one, every other one.
//!
//! The session is refused here before anything else happens; the answer comes when that is durable
//! and known to every live node, or the ack deadline is over.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use schema::{Timestamp, user::next_version};

use super::Answer;
use crate::{
    app::App,
    http::{authority::Leaver, problem::ProblemBody, taken::Taken},
};

/// Log out
#[utoipa::path(
    delete, path = "/auth_token", tag = "tokens", operation_id = "log_out",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    responses((status = 204, description = "This session is revoked")),
)]
pub async fn logout(State(app): State<Arc<App>>, Leaver(caller): Leaver) -> Answer<Taken<StatusCode>> {
    let receipt = app
        .actors
        .sessions
        .end_beyond(Timestamp::from_secs(caller.claims.expires_at), caller.claims.user, caller.claims.session)
        .await?;
    tracing::info!(user = %caller.claims.user, session = %caller.claims.session, "logged out");
    Ok(Taken(receipt, StatusCode::NO_CONTENT))
}

/// Log out everywhere
#[utoipa::path(
    delete, path = "/auth_token/all", tag = "tokens", operation_id = "log_out_everywhere",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    responses((status = 204, description = "Every session is revoked")),
)]
pub async fn logout_all(State(app): State<Arc<App>>, Leaver(caller): Leaver) -> Answer<Taken<StatusCode>> {
    let at_least = next_version(caller.claims.version);
    let receipt = app
        .actors
        .users
        .end_all_beyond(Timestamp::from_secs(caller.claims.expires_at), caller.claims.user, at_least)
        .await?;
    tracing::info!(user = %caller.claims.user, "logged out everywhere");
    Ok(Taken(receipt, StatusCode::NO_CONTENT))
}

/// Log out everywhere else
#[utoipa::path(
    delete, path = "/auth_token/others", tag = "tokens", operation_id = "log_out_elsewhere",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    responses(
        (status = 204, description = "Every other session is revoked"),
        (status = 503, description = "The store is away: nobody can say which sessions there are", body = ProblemBody),
    ),
)]
pub async fn logout_others(State(app): State<Arc<App>>, Leaver(caller): Leaver) -> Answer<Taken<StatusCode>> {
    let receipt = app.actors.sessions.end_others(caller.claims.user, caller.claims.session).await?;
    tracing::info!(user = %caller.claims.user, "logged out everywhere else");
    Ok(Taken(receipt, StatusCode::NO_CONTENT))
}
