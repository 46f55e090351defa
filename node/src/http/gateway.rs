//! Doors for others: gateways that ask on behalf of what they guard, and who verifies by itself.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{self, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schema::token::AccessClaims;
use utoipa::{ToSchema, openapi::Object};

use super::{
    authority::{self, Token},
    docs::one_of,
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
    get, path = "/auth_request", tag = "gateways", operation_id = "authorize_request",
    security(("bearer" = [])),
    params(("permissions" = Option<String>, Query)),
    responses(
        (status = 204, description = "Let it pass; the headers say whose request it is", headers(
            ("X-Auth-User" = String, description = "The user's UUID"),
            ("X-Auth-Session" = String, description = "The session's UUID"),
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

/// Public keys (RFC 7517, section 5).
#[derive(ToSchema)]
#[allow(dead_code, reason = "for the documentation: the ring keeps the set as text")]
pub struct JwkSet {
    keys: Vec<Jwk>,
}

/// A public key (RFC 7517, section 4; RFC 8037 for EdDSA).
#[derive(ToSchema)]
#[allow(dead_code, reason = "for the documentation: the ring keeps the set as text")]
struct Jwk {
    #[schema(schema_with = key_types)]
    kty: String,
    kid: String,
    #[schema(schema_with = algorithms)]
    alg: String,
    #[schema(schema_with = key_uses, required = true)]
    r#use: String,
    /// Of an elliptic key.
    #[schema(value_type = String, required = false)]
    crv: Option<String>,
    #[schema(value_type = String, required = false)]
    x: Option<String>,
    #[schema(value_type = String, required = false)]
    y: Option<String>,
    /// Of an RSA key.
    #[schema(value_type = String, required = false)]
    n: Option<String>,
    #[schema(value_type = String, required = false)]
    e: Option<String>,
}

fn key_types() -> Object {
    one_of(["OKP", "EC", "RSA"])
}

fn algorithms() -> Object {
    one_of(["EdDSA", "ES256", "RS256"])
}

fn key_uses() -> Object {
    one_of(["sig"])
}

/// The public keys (RFC 7517)
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "gateways", operation_id = "get_jwks",
    responses(
        (status = 200, description = "The next, the active and the retiring keys", body = JwkSet, headers(
            ("Cache-Control" = String, description = "How long a verifier may keep it"),
        )),
    ),
)]
pub async fn jwks(State(app): State<Arc<App>>) -> impl IntoResponse {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json), (header::CACHE_CONTROL, JWKS_MAX_AGE)], app.ring.jwks())
}
