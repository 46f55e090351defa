//! Endpoints for gateways that authorize requests, and for services that verify tokens themselves (JWKS).

use std::sync::Arc;

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
    extract::{
        authority,
        credential::{self, Token},
        page::pairs,
        source::LazySource,
    },
    openapi::one_of,
    respond::problem::{Problem, ProblemBody},
    v1::users::combined,
};
use crate::{
    accounts::permission_queries::{QueryAnswer, QueryError},
    app::App,
    logging::occasional::excerpt,
};

const USER: HeaderName = HeaderName::from_static("x-auth-user");
const SESSION: HeaderName = HeaderName::from_static("x-auth-session");
const KIND: HeaderName = HeaderName::from_static("x-auth-kind");
/// The prefix of the headers that answers to gateways have.
const AUTH_PREFIX: &[u8] = b"x-auth-";
/// The names of those headers after the prefix. A client may send them too: the gateway overwrites them.
const AUTH_SUFFIXES: [&[u8]; 3] = [b"user", b"session", b"kind"];
/// The endpoint for gateways.
pub const PATH: &str = "/auth_request";
/// The time for which a verifier may cache the key set. A key is published for one rotation before it signs, so
/// rotation is safe unless it is more frequent than this.
const JWKS_MAX_AGE: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// Authorize a request for a gateway
///
/// For nginx (`auth_request`), Traefik (`ForwardAuth`) and Caddy (`forward_auth`). The answer uses only the
/// statuses that gateways understand: every refused token is 401. An unknown or repeated parameter, or an
/// unknown header that begins with `X-Auth-`, is 403, so that a misspelt `permissions` never lets a request
/// pass.
#[utoipa::path(
    get, path = "/auth_request", tag = "gateways", operation_id = "authorize_request",
    security(("bearer" = [])),
    params(("permissions" = Option<String>, Query)),
    responses(
        (status = 204, description = "The request may pass; the headers identify the user and the session", headers(
            ("X-Auth-User" = String, description = "The user's UUID"),
            ("X-Auth-Session" = String, description = "The session's UUID"),
            ("X-Auth-Kind" = String, description = "`user`"),
        )),
        (status = 401, description = "No active token", body = ProblemBody),
        (status = 403, description = "The query does not hold or cannot be parsed, or a parameter or header is unknown", body = ProblemBody),
        (status = 503, description = "The token or the permissions cannot be checked now; see Retry-After", body = ProblemBody),
    ),
)]
pub async fn auth_request(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let query = request.uri().query().unwrap_or_default();
    let source = LazySource::of(request.extensions(), request.headers());
    let claims = admit(&app, credential::token(request.headers()), source, query).await?;
    let mut names = request.headers().keys().map(HeaderName::as_str);
    match names.find(|name| is_unknown_header(name.as_bytes())) {
        Some(name) => Err(unknown(&app, name)),
        None => Ok(admitted(&claims).map(|()| Body::empty())),
    }
}

/// Whether a header begins with `X-Auth-` and is none of those that answers have.
pub fn is_unknown_header(name: &[u8]) -> bool {
    let Some((start, rest)) = name.split_at_checked(AUTH_PREFIX.len()) else { return false };
    start.eq_ignore_ascii_case(AUTH_PREFIX)
        && !AUTH_SUFFIXES.iter().any(|suffix| rest.eq_ignore_ascii_case(suffix))
}

/// Whether a query is empty, or has a single `permissions` and nothing else.
fn has_known_parameters(query: &str) -> bool {
    query.is_empty() || (query.starts_with("permissions=") && !query.as_bytes().contains(&b'&'))
}

/// The first parameter that is not `permissions`, or that repeats it.
fn unknown_parameter(query: &str) -> Option<String> {
    // A query that cannot be decoded is refused where it is parsed.
    let pairs = pairs(query).unwrap_or_default();
    let mut known = false;
    let unknown = |name: &String| name != "permissions" || std::mem::replace(&mut known, true);
    pairs.into_iter().map(|(name, _)| name).find(unknown)
}

fn unknown(app: &App, name: &str) -> Problem {
    if let Some(left_out) = app.warnings.unknown_parameter.due(app.clocks.monotonic()) {
        let name = excerpt(name);
        tracing::warn!(?name, left_out, "gateway request refused: unknown or repeated parameter or header");
    }
    let msg = "A parameter or header is unknown or repeated; the only one is `permissions`";
    Problem::new(StatusCode::FORBIDDEN, "unknown_parameter", msg)
}

/// Decides whether a request may pass, and returns the claims of its token.
///
/// # Errors
/// 401, 403, or 503 if the token or the permissions cannot be checked now.
pub async fn admit(
    app: &App,
    token: Token<'_>,
    source: LazySource<'_>,
    query: &str,
) -> Result<AccessClaims, Problem> {
    let claims = authority::check(app, token, source).await.map_err(|refusal| {
        let problem = Problem::from(refusal);
        if refusal.is_unknown() { problem } else { problem.with_status(StatusCode::UNAUTHORIZED) }
    })?;
    if !has_known_parameters(query)
        && let Some(name) = unknown_parameter(query)
    {
        return Err(unknown(app, &name));
    }
    match combined::ask(app, claims.user, query).await {
        Ok(None | Some(QueryAnswer { holds: true, .. })) => Ok(claims),
        Ok(Some(_)) => Err(Problem::forbidden()),
        // A gateway would report 422 as its own failure. A query that cannot be parsed allows nothing.
        Err(error @ QueryError::Unreadable(_)) => {
            Err(Problem::from(error).with_status(StatusCode::FORBIDDEN))
        }
        Err(error @ QueryError::Permissions(_)) => Err(error.into()),
    }
}

/// The 204 that lets a request pass.
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
    /// The curve of an elliptic key.
    #[schema(value_type = String, required = false)]
    crv: Option<String>,
    #[schema(value_type = String, required = false)]
    x: Option<String>,
    #[schema(value_type = String, required = false)]
    y: Option<String>,
    /// The modulus of an RSA key.
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

/// Get the public keys (RFC 7517)
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "gateways", operation_id = "get_jwks",
    responses(
        (status = 200, description = "The next, the active and the retiring keys", body = JwkSet, headers(
            ("Cache-Control" = String, description = "The time for which a verifier may cache the keys"),
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
    fn single_permissions_parameter_is_known() {
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
    fn other_x_auth_headers_are_unknown() {
        for name in ["x-auth-user", "X-Auth-Session", "x-auth-kind", "x-authority", "x-auth", "authorization"]
        {
            assert!(!is_unknown_header(name.as_bytes()), "{name}");
        }
        for name in ["x-auth-permissions", "X-AUTH-PERMISION", "x-auth-", "x-auth-users"] {
            assert!(is_unknown_header(name.as_bytes()), "{name}");
        }
    }
}
