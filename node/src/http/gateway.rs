//! Doors for others: gateways that ask on behalf of what they guard, and who verifies by itself.

use std::sync::Arc;

use ::cluster::boottime;
use axum::{
    body::Body,
    extract::{Request, State},
    http::{self, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schema::token::AccessClaims;
use utoipa::{ToSchema, openapi::Object};
use uuid::fmt::Hyphenated;

use super::{
    asker::Asker,
    authority::{self, Token},
    docs::one_of,
    page::pairs,
    problem::{Problem, ProblemBody},
    queries::{self, Known},
};
use crate::{app::App, occasional::excerpt};

const USER: HeaderName = HeaderName::from_static("x-auth-user");
const SESSION: HeaderName = HeaderName::from_static("x-auth-session");
const KIND: HeaderName = HeaderName::from_static("x-auth-kind");
/// What our headers begin with.
const OURS: &[u8] = b"x-auth-";
/// Those that answers carry. A client may send them too: the gateway overwrites them.
const ANSWERED: [&[u8]; 3] = [b"user", b"session", b"kind"];
/// The endpoint for gateways.
pub const PATH: &str = "/auth_request";
/// How long a verifier may keep the key set. A key is published from one rotation to the next before
/// it signs, so who rotates less often than this needs no care.
const JWKS_MAX_AGE: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// Decide about a request for a gateway
///
/// For nginx (`auth_request`), Traefik (`ForwardAuth`) and Caddy (`forward_auth`). The answer has
/// only the statuses that gateways understand: whatever is wrong with the token is 401. A request
/// with any other parameter, a repeated one, or another header that begins with `X-Auth-` is 403: a
/// misspelt `permissions` never lets anybody pass.
#[utoipa::path(
    get, path = "/auth_request", tag = "gateways", operation_id = "authorize_request",
    security(("bearer" = [])),
    params(("permissions" = Option<String>, Query)),
    responses(
        (status = 204, description = "Let it pass; the headers say whose request it is", headers(
            ("X-Auth-User" = String, description = "The user's UUID"),
            ("X-Auth-Session" = String, description = "The session's UUID"),
            ("X-Auth-Kind" = String, description = "`user`"),
        )),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "The query does not hold or cannot be read, or a parameter is unknown", body = ProblemBody),
        (status = 503, description = "It cannot be known now; see Retry-After", body = ProblemBody),
    ),
)]
pub async fn auth_request(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let query = request.uri().query().unwrap_or_default();
    let asker = Asker::of(request.extensions(), request.headers());
    let claims = admit(&app, authority::token(request.headers()), asker, query).await?;
    let mut names = request.headers().keys().map(HeaderName::as_str);
    match names.find(|name| is_unknown_header(name.as_bytes())) {
        Some(name) => Err(unknown(&app, name)),
        None => Ok(admitted(&claims).map(|()| Body::empty())),
    }
}

/// Whether a header begins like ours and has no meaning here.
pub fn is_unknown_header(name: &[u8]) -> bool {
    let Some((start, rest)) = name.split_at_checked(OURS.len()) else { return false };
    start.eq_ignore_ascii_case(OURS) && !ANSWERED.iter().any(|answered| rest.eq_ignore_ascii_case(answered))
}

/// Whether a query has nothing but one `permissions`, or nothing at all.
fn has_known_parameters(query: &str) -> bool {
    query.is_empty() || (query.starts_with("permissions=") && !query.as_bytes().contains(&b'&'))
}

/// The first parameter that is not `permissions`, or is there for the second time.
fn unknown_parameter(query: &str) -> Option<String> {
    // What cannot be decoded is refused where the query is read.
    let pairs = pairs(query).unwrap_or_default();
    let mut known = false;
    let unknown = |name: &String| name != "permissions" || std::mem::replace(&mut known, true);
    pairs.into_iter().map(|(name, _)| name).find(unknown)
}

fn unknown(app: &App, name: &str) -> Problem {
    if let Some(left_out) = app.warnings.unknown_parameter.due(boottime()) {
        let name = excerpt(name);
        tracing::warn!(?name, left_out, "a gateway was refused: unknown or repeated parameter or header");
    }
    let msg = "A parameter or header is unknown or repeated; the only one is `permissions`";
    Problem::new(StatusCode::FORBIDDEN, "unknown_parameter", msg)
}

/// Whether a request may pass, and whose it is.
///
/// # Errors
/// 401, 403, or 503 when it cannot be known.
pub async fn admit(
    app: &App,
    token: Token<'_>,
    asker: Asker<'_>,
    query: &str,
) -> Result<AccessClaims, Problem> {
    let claims = authority::check(app, token, asker).await.map_err(|refusal| {
        let problem = Problem::from(refusal);
        if refusal.is_unknown() { problem } else { problem.with_status(StatusCode::UNAUTHORIZED) }
    })?;
    if !has_known_parameters(query)
        && let Some(name) = unknown_parameter(query)
    {
        return Err(unknown(app, &name));
    }
    match queries::ask(app, claims.user, query).await {
        Ok(None | Some(Known { holds: true, .. })) => Ok(claims),
        Ok(Some(_)) => Err(Problem::forbidden()),
        // A gateway passes 422 on as its own failure; a query that cannot be read allows nothing.
        Err(problem) if problem.status().is_client_error() => Err(problem.with_status(StatusCode::FORBIDDEN)),
        Err(problem) => Err(problem),
    }
}

/// The answer to who may pass.
pub fn admitted(claims: &AccessClaims) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(KIND, HeaderValue::from_static("user"));
    for (name, id) in [(USER, claims.user.to_string()), (SESSION, claims.session.to_string())] {
        response.headers_mut().insert(name, id.parse().unwrap_or(HeaderValue::from_static("-")));
    }
    response
}

/// The fields of [`admitted`] as HTTP/1.1.
pub fn write_admitted(claims: &AccessClaims, out: &mut Vec<u8>) {
    let mut id = [0; Hyphenated::LENGTH];
    out.extend_from_slice(b"x-auth-kind: user\r\nx-auth-user: ");
    out.extend_from_slice(claims.user.uuid().as_hyphenated().encode_lower(&mut id).as_bytes());
    out.extend_from_slice(b"\r\nx-auth-session: ");
    out.extend_from_slice(claims.session.uuid().as_hyphenated().encode_lower(&mut id).as_bytes());
    out.extend_from_slice(b"\r\n");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_permissions_is_known() {
        let unknown = |query| if has_known_parameters(query) { None } else { unknown_parameter(query) };
        for query in ["", "&", "permissions=%22a%22", "&permissions=x&", "permission%73=x", "permissions"] {
            assert_eq!(unknown(query), None, "{query}");
        }
        for (query, name) in [
            ("permision=x", "permision"),
            ("Permissions=x", "Permissions"),
            ("x;permissions=x", "x;permissions"),
            ("permissions=x&permissions=x", "permissions"),
            ("permissions=x&x", "x"),
            ("permissions=x&=", ""),
            ("=", ""),
            ("+permissions=x", " permissions"),
            ("permissions%3Dx", "permissions=x"),
            ("permissions[]=x", "permissions[]"),
        ] {
            assert_eq!(unknown(query).as_deref(), Some(name), "{query}");
        }
    }

    #[test]
    fn only_the_headers_of_answers_are_known() {
        for name in ["x-auth-user", "X-Auth-Session", "x-auth-kind", "x-authority", "x-auth", "authorization"]
        {
            assert!(!is_unknown_header(name.as_bytes()), "{name}");
        }
        for name in ["x-auth-permissions", "X-AUTH-PERMISION", "x-auth-", "x-auth-users"] {
            assert!(is_unknown_header(name.as_bytes()), "{name}");
        }
    }
}
