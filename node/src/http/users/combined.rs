//! `users/{id}/combined_permissions`: what a user may do, by roles and directly; and the hot
//! question whether a query holds.

use std::sync::Arc;

use actors::Snapshot;
use axum::{
    Json,
    extract::{FromRequestParts, Request, State},
    http::{HeaderValue, header, request::Parts},
    response::IntoResponse,
};
use schema::{
    Name,
    permission::{ALL_ALL, PERMISSIONS_ADMIN, PERMISSIONS_CHECK, USERS_ADMIN},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        asker::Asker,
        authority::{self, OnUser, Token, require_any, segment, user_named},
        problem::{Problem, ProblemBody},
        queries::{self, Known},
    },
};

/// Whether a permission query holds.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "for the documentation: there are but two such bodies")]
pub struct Validity {
    valid: bool,
}

/// What is answered when a query holds, and when it does not.
pub const HOLDS: &str = r#"{"valid":true}"#;
pub const HOLDS_NOT: &str = r#"{"valid":false}"#;

/// Who may ask about others.
const ASKERS: [&str; 4] = [USERS_ADMIN, PERMISSIONS_ADMIN, PERMISSIONS_CHECK, ALL_ALL];

/// A user about whose permissions the caller may ask.
pub struct Asking(OnUser);

impl FromRequestParts<Arc<App>> for Asking {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let on = OnUser::from_request_parts(parts, app).await?;
        on.own_or(&ASKERS).await?;
        Ok(Self(on))
    }
}

/// See what a user may do
#[utoipa::path(
    get, path = "/users/{id}/combined_permissions", tag = "grants", operation_id = "list_combined_permissions",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "Names of role and direct permissions, sorted", body = Vec<String>),
        (status = 403, description = "Another user, and the caller may not ask about others", body = ProblemBody),
    ),
)]
pub async fn list(State(app): State<Arc<App>>, Asking(on): Asking) -> Result<Json<Vec<Name>>, Problem> {
    let names = |snapshot: &Snapshot| snapshot.exists.then(|| snapshot.names().to_vec());
    Ok(Json(app.actors.permissions.with(on.user, names).await?.ok_or_else(Problem::not_found)?))
}

/// Ask whether a user may do something
///
/// A query is a permission name in quotes, or one object with the single key `any` or `all` and an
/// array of queries: `{"any":["p1",{"all":["p2","p3"]}]}`.
#[utoipa::path(
    get, path = "/users/{id}/combined_permissions/validation", tag = "grants", operation_id = "check_permissions",
    security(("bearer" = [])),
    params(("id" = String, Path), ("permissions" = String, Query)),
    responses(
        (status = 200, description = "Whether the query holds", body = Validity),
        (status = 403, description = "Another user, and the caller may not ask about others", body = ProblemBody),
        (status = 422, description = "No query, or a token that cannot be read; says where", body = ProblemBody),
    ),
)]
pub async fn validate(State(app): State<Arc<App>>, request: Request) -> Result<impl IntoResponse, Problem> {
    let (mut parts, _) = request.into_parts();
    // A segment that cannot be decoded names nobody, after it is clear who asks.
    let id = segment(&mut parts, &app, "id").await.unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default();
    let holds = holds(&app, authority::token(&parts.headers), Asker::of_parts(&parts), &id, query).await?;
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], if holds { HOLDS } else { HOLDS_NOT }))
}

/// Whether the query in the URL's holds for the user that `id` names.
///
/// # Errors
/// The refusal of the token, 403, 404, 422, or 503 when it cannot be known.
pub async fn holds(
    app: &App,
    token: Token<'_>,
    asker: Asker<'_>,
    id: &str,
    query: &str,
) -> Result<bool, Problem> {
    let caller = authority::check(app, token, asker).await?.user;
    let user = user_named(id, caller)?;
    if user != caller {
        require_any(app, caller, &ASKERS).await?;
    }
    match queries::ask(app, user, query).await? {
        Some(Known { user_exists: true, holds }) => Ok(holds),
        Some(_) => Err(Problem::not_found()),
        None => Err(queries::unreadable("permissions is missing: give a query in the URL")),
    }
}
