//! `users/{id}/sessions`: lists sessions, newest first, and ends one or all.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use schema::{SessionId, StoreError, session::Session};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        authority::{Changing, Named, Reading},
        page::{Paged, filled, to_token},
        problem::{Problem, ProblemBody},
        taken::Taken,
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
    /// Whether it is the caller's own.
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
    /// To ask for the next page; null at the end.
    #[schema(required = true)]
    next_page_token: Option<String>,
}

/// See sessions
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
        (status = 403, description = "Another user, and the caller may not manage users", body = ProblemBody),
    ),
)]
pub async fn list(
    State(app): State<Arc<App>>,
    Reading(on): Reading,
    Paged(page): Paged<SessionId>,
) -> Result<Json<SessionPage>, Problem> {
    let user = app.stores.users.get(on.user).await?.ok_or_else(Problem::not_found)?;
    let (now, denials) = (app.clock.now(), app.facts.denials());
    let is_live = |session: &Session| {
        session.user_version >= user.version
            && session.expires_at > now
            && !denials.refuses_version(user.id, session.user_version)
            && !denials.refuses_session(session.id)
    };
    let read = |page| app.stores.sessions.list(on.user, page);
    let found = filled(page, |session| session.id, is_live, read).await?;
    let next_page_token = found.next.as_ref().map(to_token);
    let current = on.caller.claims.session;
    let sessions = found.items.into_iter().map(|session| SessionView::new(session, current)).collect();
    Ok(Json(SessionPage { sessions, next_page_token }))
}

/// End all sessions
#[utoipa::path(
    delete, path = "/users/{id}/sessions", tag = "sessions", operation_id = "revoke_sessions",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path)),
    responses(
        (status = 204, description = "All are revoked, the caller's too when they are its own"),
        (status = 403, description = "Another user, and the caller may not manage users", body = ProblemBody),
    ),
)]
pub async fn end_all(
    State(app): State<Arc<App>>,
    Changing(on): Changing,
) -> Result<Taken<StatusCode>, Problem> {
    let receipt = app.actors.users.end_sessions(on.user).await?;
    tracing::info!(user = %on.user, by = %on.caller.claims.user, "all sessions of a user were ended");
    Ok(Taken(receipt, StatusCode::NO_CONTENT))
}

/// End a session
#[utoipa::path(
    delete, path = "/users/{id}/sessions/{sid}", tag = "sessions", operation_id = "revoke_session",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path), ("sid" = uuid::Uuid, Path)),
    responses(
        (status = 204, description = "It is revoked"),
        (status = 403, description = "Another user, and the caller may not manage users", body = ProblemBody),
    ),
)]
pub async fn end(
    State(app): State<Arc<App>>,
    Changing(on): Changing,
    Named(session): Named<SessionId>,
) -> Result<Taken<StatusCode>, Problem> {
    // The caller's own session is there; of any other only the store can say so.
    if !(on.is_own() && session == on.caller.claims.session) {
        match app.stores.sessions.get(on.user, session).await {
            // An unreadable session is ended by its id.
            Ok(Some(_)) | Err(StoreError::Inconsistent(_)) => {}
            Ok(None) => return Err(Problem::not_found()),
            Err(error) => return Err(error.into()),
        }
    }
    let receipt = app.actors.sessions.end(on.user, session).await?;
    tracing::info!(user = %on.user, %session, by = %on.caller.claims.user, "a session was ended");
    Ok(Taken(receipt, StatusCode::NO_CONTENT))
}
