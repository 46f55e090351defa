//! `users/{id}/sessions`: list sessions, newest first, and revoke one or all.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use schema::{SessionId, session::Session};
use serde::Serialize;
use store::StoreError;
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        extract::{
            authority::{ModifyUser, Named, ReadUser},
            page::{Paged, filled_page, views},
        },
        respond::{
            problem::{Problem, ProblemBody},
            receipt::WithReceipt,
        },
    },
};

/// A session.
#[derive(Serialize, ToSchema)]
pub struct SessionView {
    #[schema(value_type = uuid::Uuid)]
    uuid: SessionId,
    #[schema(required = true)]
    device: Option<String>,
    ip_address: String,
    #[schema(required = true)]
    user_agent: Option<String>,
    #[schema(format = "date-time")]
    created_at: String,
    #[schema(format = "date-time")]
    last_used_at: String,
    /// Whether it is the session of the request's token.
    current: bool,
}

impl SessionView {
    fn new(session: Session, current: SessionId) -> Self {
        Self {
            uuid: session.id,
            device: session.device,
            ip_address: session.ip_address.to_string(),
            user_agent: session.user_agent,
            created_at: session.created_at.to_string(),
            last_used_at: session.last_used_at.to_string(),
            current: session.id == current,
        }
    }
}

/// A page of sessions.
#[derive(Serialize, ToSchema)]
pub struct SessionPage {
    sessions: Vec<SessionView>,
    /// The `page_token` of the next page; null on the last one.
    #[schema(required = true)]
    next_page_token: Option<String>,
}

/// List sessions
#[utoipa::path(
    get, path = "/users/{id}/sessions", tag = "sessions", operation_id = "list_sessions",
    security(("bearer" = [])),
    params(
        ("id" = String, Path),
        ("limit" = Option<u16>, Query),
        ("page_token" = Option<String>, Query),
    ),
    responses(
        (status = 200, description = "A page of sessions, newest first", body = SessionPage),
        (status = 403, description = "Another user, and the caller lacks `users_admin` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn list(
    State(app): State<Arc<App>>,
    ReadUser(on): ReadUser,
    Paged(page): Paged<SessionId>,
) -> Result<Json<SessionPage>, Problem> {
    let user = app.stores.users.get(on.user).await?.ok_or_else(Problem::not_found)?;
    let now = app.clock.now();
    let denials = app.facts.denials();
    let is_live = |session: &Session| {
        session.user_version >= user.version
            && session.expires_at > now
            && !denials.refuses_version(user.id, session.user_version)
            && !denials.refuses_session(session.id)
    };
    let read = |page| app.stores.sessions.list(on.user, page);
    let found = filled_page(page, |session| session.id, is_live, read).await?;
    let current = on.caller.claims.session;
    let (sessions, next_page_token) = views(found, |session| SessionView::new(session, current));
    Ok(Json(SessionPage { sessions, next_page_token }))
}

/// Revoke all sessions
#[utoipa::path(
    delete, path = "/users/{id}/sessions", tag = "sessions", operation_id = "revoke_sessions",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path)),
    responses(
        (status = 204, description = "All sessions of the user are revoked, including the caller's if it is the user"),
        (status = 403, description = "Another user, and the caller may not manage that user", body = ProblemBody),
    ),
)]
pub async fn end_all(
    State(app): State<Arc<App>>,
    ModifyUser(on): ModifyUser,
) -> Result<WithReceipt<StatusCode>, Problem> {
    let receipt = app.actors.users.end_sessions(on.user).await?;
    tracing::info!(user = %on.user, by = %on.caller.claims.user, "all sessions of user revoked");
    Ok(WithReceipt(receipt, StatusCode::NO_CONTENT))
}

/// Revoke a session
#[utoipa::path(
    delete, path = "/users/{id}/sessions/{sid}", tag = "sessions", operation_id = "revoke_session",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path), ("sid" = uuid::Uuid, Path)),
    responses(
        (status = 204, description = "The session is revoked"),
        (status = 403, description = "Another user, and the caller may not manage that user", body = ProblemBody),
    ),
)]
pub async fn end(
    State(app): State<Arc<App>>,
    ModifyUser(on): ModifyUser,
    Named(session): Named<SessionId>,
) -> Result<WithReceipt<StatusCode>, Problem> {
    // The caller's own session exists; any other must be looked up in the store.
    if !(on.is_own() && session == on.caller.claims.session) {
        match app.stores.sessions.get(on.user, session).await {
            // An unreadable session can still be revoked by its id.
            Ok(Some(_)) | Err(StoreError::Inconsistent(_)) => {}
            Ok(None) => return Err(Problem::not_found()),
            Err(error) => return Err(error.into()),
        }
    }
    let receipt = app.actors.sessions.end(on.user, session).await?;
    tracing::info!(user = %on.user, %session, by = %on.caller.claims.user, "session revoked");
    Ok(WithReceipt(receipt, StatusCode::NO_CONTENT))
}
