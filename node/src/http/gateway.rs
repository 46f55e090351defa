//! Doors for others: gateways that ask on behalf of what they guard, and who verifies by itself.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use schema::Refusal;

use super::{
    authority,
    problem::{Problem, ProblemBody},
    users::combined::PermissionQuery,
};
use crate::app::App;

const USER: HeaderName = HeaderName::from_static("x-auth-user");
const SESSION: HeaderName = HeaderName::from_static("x-auth-session");
/// How long a verifier may keep the key set. A key is published from one rotation to the next before
/// it signs, so who rotates less often than this needs no care.
const JWKS_MAX_AGE: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// Decide about a request for a gateway
///
/// For nginx (`auth_request`), Traefik (`ForwardAuth`) and Caddy (`forward_auth`). The answer has
/// only the statuses that gateways understand: whatever is wrong with the token is 401.
#[utoipa::path(
    get, path = "/auth_request", tag = "gateways",
    security(("bearer" = [])),
    params(("permissions" = Option<String>, Query, description = "A permission query that must hold")),
    responses(
        (status = 204, description = "Let it pass; X-Auth-User and X-Auth-Session say who", headers(
            ("X-Auth-User" = String), ("X-Auth-Session" = String),
        )),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "The query does not hold, or cannot be read", body = ProblemBody),
    ),
)]
pub async fn auth_request(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let claims = authority::check(&app, &parts.headers).await.map_err(|refusal| match refusal {
        Refusal::CannotKnow | Refusal::TooStale => refusal.into(),
        _ => Problem::from(refusal).with_status(StatusCode::UNAUTHORIZED),
    })?;
    // A gateway passes 422 on as its own failure; a query that cannot be read allows nothing.
    let query = PermissionQuery::of(&parts).map_err(|problem| problem.with_status(StatusCode::FORBIDDEN))?;
    if let Some(PermissionQuery(query)) = query {
        let holds = app.actors.permissions.with(claims.user, |user| query.holds(&|name| user.has(name)));
        if !holds.await? {
            return Err(Problem::forbidden());
        }
    }
    let mut headers = HeaderMap::new();
    for (name, id) in [(USER, claims.user.to_string()), (SESSION, claims.session.to_string())] {
        headers.insert(name, id.parse().unwrap_or(HeaderValue::from_static("-")));
    }
    Ok((StatusCode::NO_CONTENT, headers).into_response())
}

/// The public keys (RFC 7517)
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "gateways",
    responses((status = 200, description = "A JWK set: the next, the active and the retiring keys")),
)]
pub async fn jwks(State(app): State<Arc<App>>) -> impl IntoResponse {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json), (header::CACHE_CONTROL, JWKS_MAX_AGE)], app.ring.jwks())
}
