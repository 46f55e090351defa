//! `users/{id}/combined_permissions`: what a user may do, by roles and directly; and the hot
//! question whether a query holds.

use std::sync::Arc;

use actors::Snapshot;
use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
};
use schema::{
    Name, Query,
    permission::{ALL_ALL, PERMISSIONS_ADMIN, PERMISSIONS_CHECK, USERS_ADMIN},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        authority::OnUser,
        page::query,
        problem::{Problem, ProblemBody},
    },
};

/// Whether a permission query holds.
#[derive(Serialize, ToSchema)]
pub struct Validity {
    valid: bool,
}

/// The `permissions` of the URL, there once and readable.
pub struct PermissionQuery(pub Query);

impl<S: Sync> FromRequestParts<S> for PermissionQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(parts)?.ok_or_else(|| unreadable("permissions is missing: give a query in the URL"))
    }
}

impl PermissionQuery {
    /// The query, if there is one.
    ///
    /// # Errors
    /// 422 that says where it cannot be read.
    pub fn of(parts: &Parts) -> Result<Option<Self>, Problem> {
        let given = query(parts).map_err(|_| unreadable("permissions: its percent-encoding is no UTF-8"))?;
        let mut given = given.into_iter().filter(|(name, _)| name == "permissions");
        let Some((_, text)) = given.next() else { return Ok(None) };
        if given.next().is_some() {
            return Err(unreadable("permissions is there more than once"));
        }
        let query = Query::parse(&text).map_err(|error| unreadable(format!("permissions: {error}")))?;
        Ok(Some(Self(query)))
    }
}

fn unreadable(msg: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_permission_query", msg)
}

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

async fn ask<T>(app: &App, on: &OnUser, read: impl Fn(&Snapshot) -> T) -> Result<T, Problem> {
    let answer = app.actors.permissions.with(on.user, |snapshot| snapshot.exists.then(|| read(snapshot)));
    answer.await?.ok_or_else(Problem::not_found)
}

/// See what a user may do
#[utoipa::path(
    get, path = "/users/{id}/combined_permissions", tag = "grants",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "UUID or `me`")),
    responses(
        (status = 200, description = "Names of role and direct permissions, sorted", body = Vec<String>),
        (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody),
    ),
)]
pub async fn list(State(app): State<Arc<App>>, Asking(on): Asking) -> Result<Json<Vec<Name>>, Problem> {
    Ok(Json(ask(&app, &on, |snapshot| snapshot.names().to_vec()).await?))
}

/// Ask whether a user may do something
///
/// A query is a permission name in quotes, or one object with the single key `any` or `all` and an
/// array of queries: `{"any":["p1",{"all":["p2","p3"]}]}`.
#[utoipa::path(
    get, path = "/users/{id}/combined_permissions/validation", tag = "grants",
    security(("bearer" = [])),
    params(
        ("id" = String, Path, description = "UUID or `me`"),
        ("permissions" = String, Query, description = "A permission query", example = json!("\"films.read\"")),
    ),
    responses(
        (status = 200, body = Validity),
        (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody),
        (status = 422, description = "No query; says where", body = ProblemBody),
    ),
)]
pub async fn validate(
    State(app): State<Arc<App>>,
    Asking(on): Asking,
    PermissionQuery(query): PermissionQuery,
) -> Result<Json<Validity>, Problem> {
    let valid = ask(&app, &on, |snapshot| query.holds(&|name| snapshot.has(name))).await?;
    Ok(Json(Validity { valid }))
}
