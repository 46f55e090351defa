//! Doors for others: gateways that ask on behalf of what they guard, and who verifies by itself.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{self, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schema::token::AccessClaims;

use super::{
    authority::{self, Token},
    problem::{Problem, ProblemBody},
    queries::{self, Known},
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
    let query = request.uri().query().unwrap_or_default();
    let claims = admit(&app, authority::token(request.headers()), query).await?;
    Ok(admitted(&claims).map(|()| Body::empty()))
}

/// Whether a request may pass, and whose it is.
///
/// # Errors
/// 401, 403, or 503 when it cannot be known.
pub async fn admit(app: &App, token: Token<'_>, query: &str) -> Result<AccessClaims, Problem> {
    let claims = authority::check(app, token).await.map_err(|refusal| {
        let problem = Problem::from(refusal);
        if refusal.is_unknown() { problem } else { problem.with_status(StatusCode::UNAUTHORIZED) }
    })?;
    match queries::ask(app, claims.user, query).await {
        Ok(None | Some(Known { holds: true, .. })) => Ok(claims),
        Ok(Some(_)) => Err(Problem::forbidden()),
        // A gateway passes 422 on as its own failure; a query that cannot be read allows nothing.
        Err(problem) if problem.status() == StatusCode::UNPROCESSABLE_ENTITY => {
            Err(problem.with_status(StatusCode::FORBIDDEN))
        }
        Err(problem) => Err(problem),
    }
}

/// The answer to who may pass.
pub fn admitted(claims: &AccessClaims) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::NO_CONTENT;
    for (name, id) in [(USER, claims.user.to_string()), (SESSION, claims.session.to_string())] {
        response.headers_mut().insert(name, id.parse().unwrap_or(HeaderValue::from_static("-")));
    }
    response
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
