//! `users/{id}/combined_permissions`: the permissions of a user, by roles and directly; and permission queries,
//! which the fast path answers by [`holds`].

use std::sync::Arc;

use actors::Snapshot;
use axum::{
    Json,
    extract::{FromRequestParts, Request, State},
    http::{HeaderValue, header, request::Parts},
    response::IntoResponse,
};
use schema::{
    Name, UserId,
    permission::{ALL_ALL, PERMISSIONS_ADMIN, PERMISSIONS_CHECK, USERS_ADMIN},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    accounts::permission_queries::{QueryAnswer, QueryError},
    app::App,
    http::{
        extract::{
            authority::{self, TargetUser, require_any, segment, user_named},
            credential::{self, Token},
            source::LazySource,
        },
        respond::problem::{Problem, ProblemBody},
    },
};

/// Whether a permission query holds.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "for the documentation: there are but two such bodies")]
pub struct Validity {
    valid: bool,
}

/// The JSON body if a query holds.
pub const HOLDS: &str = r#"{"valid":true}"#;
/// The JSON body if a query does not hold.
pub const HOLDS_NOT: &str = r#"{"valid":false}"#;

/// Permissions of which a caller needs one to query other users.
const MAY_QUERY_OTHERS: [&str; 4] = [USERS_ADMIN, PERMISSIONS_ADMIN, PERMISSIONS_CHECK, ALL_ALL];

/// A user whose permissions the caller may query.
pub struct QueryPermissions(TargetUser);

impl FromRequestParts<Arc<App>> for QueryPermissions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let on = TargetUser::from_request_parts(parts, app).await?;
        on.require_self_or(&MAY_QUERY_OTHERS).await?;
        Ok(Self(on))
    }
}

/// List the permissions of a user
#[utoipa::path(
    get, path = "/users/{id}/combined_permissions", tag = "grants", operation_id = "list_combined_permissions",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "The names of all permissions, by roles and direct, sorted", body = Vec<String>),
        (status = 403, description = "Another user, and the caller lacks `users_admin`, `permissions_admin`, `permissions_check` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn list(
    State(app): State<Arc<App>>,
    QueryPermissions(on): QueryPermissions,
) -> Result<Json<Vec<Name>>, Problem> {
    let names = |snapshot: &Snapshot| snapshot.exists.then(|| snapshot.names().to_vec());
    Ok(Json(app.actors.permissions.with(on.user, names).await?.ok_or_else(Problem::not_found)?))
}

/// Check the permissions of a user
///
/// A query is a permission name in quotes, or one object with the single key `any` or `all` and an
/// array of queries: `{"any":["p1",{"all":["p2","p3"]}]}`.
#[utoipa::path(
    get, path = "/users/{id}/combined_permissions/validation", tag = "grants", operation_id = "check_permissions",
    security(("bearer" = [])),
    params(("id" = String, Path), ("permissions" = String, Query)),
    responses(
        (status = 200, description = "Whether the query holds", body = Validity),
        (status = 403, description = "Another user, and the caller lacks `users_admin`, `permissions_admin`, `permissions_check` and `all_all`", body = ProblemBody),
        (status = 422, description = "The query is missing or malformed (the message says where), or the token is malformed", body = ProblemBody),
    ),
)]
pub async fn validate(State(app): State<Arc<App>>, request: Request) -> Result<impl IntoResponse, Problem> {
    let (mut parts, _) = request.into_parts();
    // A segment that cannot be decoded names no user, but the caller's token is checked first.
    let id = segment(&mut parts, &app, "id").await.unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default();
    let holds =
        holds(&app, credential::token(&parts.headers), LazySource::of_parts(&parts), &id, query).await?;
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], if holds { HOLDS } else { HOLDS_NOT }))
}

/// Whether the permission query in the URL holds for the user that `id` names.
///
/// # Errors
/// The refusal of the token, 403, 404, 422, or 503 if the token or the permissions cannot be checked now.
pub async fn holds(
    app: &App,
    token: Token<'_>,
    source: LazySource<'_>,
    id: &str,
    query: &str,
) -> Result<bool, Problem> {
    let caller = authority::check(app, token, source).await?.user;
    let user = user_named(id, caller)?;
    if user != caller {
        require_any(app, caller, &MAY_QUERY_OTHERS).await?;
    }
    match ask(app, user, query).await? {
        Some(QueryAnswer { user_exists: true, holds }) => Ok(holds),
        Some(_) => Err(Problem::not_found()),
        None => Err(QueryError::unreadable("permissions is missing: give a query in the URL").into()),
    }
}

/// The answer to the permission query in the URL; `None` if the URL has none.
///
/// # Errors
/// The query cannot be parsed, or the user's permissions cannot be read now.
pub async fn ask(app: &App, user: UserId, url_query: &str) -> Result<Option<QueryAnswer>, QueryError> {
    let names = app.facts.snapshots().names();
    app.permission_queries.ask(&app.actors.permissions, names, user, url_query).await
}
