//! The service's HTTP: which caller sees which films, and the form of all answers.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, RawQuery, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    catalogue,
    verify::{Question, Standing, Verdict, Verifier},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Says that the caller's token could not be checked, so that the answer is the one for anonymous callers.
const DEGRADED: HeaderName = HeaderName::from_static("x-auth-degraded");
/// Keeps browsers from taking an answer for a page.
const SAFE: [(HeaderName, &str); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];
/// Longest id of a request that is taken from the caller, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// How many films a caller gets that does not say.
const LIMIT_DEFAULT: usize = 50;
/// Most films that a caller may ask for.
const LIMIT_MAX: usize = 200;
/// RFC 9110, section 11.6.1, allows this with any status: other credentials may change the answer.
const INVALID_TOKEN: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");

/// The id of a request: the caller's if it is sane, else a new one.
#[derive(Debug, Clone)]
struct RequestId(HeaderValue);

/// What the caller's credentials are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Anonymous,
    Plain,
    Pro,
    /// Shown a token that is no good.
    Inactive,
    /// Cannot be known at the moment.
    Unknown,
}

/// All routes.
pub fn router<V: Verifier>(verifier: Arc<V>) -> Router {
    Router::new()
        .route("/api/v1/films", get(films::<V>))
        .route("/health", get(async || Json(json!({"status": "ok"}))))
        .fallback(async |request: Request| {
            problem(&request, StatusCode::NOT_FOUND, "not_found", "No such path")
        })
        .method_not_allowed_fallback(async |request: Request| {
            problem(
                &request,
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Only GET is allowed here",
            )
        })
        .layer(middleware::from_fn(identified))
        .with_state(verifier)
}

/// Gives a request its id, and the answer what all answers have.
async fn identified(mut request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).filter(|id| is_sane(id)).cloned();
    let id = id.or_else(|| HeaderValue::from_str(&Uuid::new_v4().to_string()).ok());
    let id = id.unwrap_or(HeaderValue::from_static("-"));
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    for (name, value) in SAFE {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn is_sane(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

async fn films<V: Verifier>(
    State(verifier): State<Arc<V>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let Some(limit) = limit(query.as_deref().unwrap_or_default()) else {
        let msg = "`limit` is a number from 1 to 200";
        return problem(&request, StatusCode::BAD_REQUEST, "bad_limit", msg);
    };
    let caller = caller(&*verifier, shown(peer, &request)).await;
    let mut response = Json(catalogue::films(caller == Caller::Pro, limit)).into_response();
    let headers = response.headers_mut();
    // What one caller sees is not for another.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.insert(header::VARY, HeaderValue::from_static("authorization"));
    match caller {
        Caller::Inactive => drop(headers.insert(header::WWW_AUTHENTICATE, INVALID_TOKEN)),
        Caller::Unknown => drop(headers.insert(DEGRADED, HeaderValue::from_static("true"))),
        Caller::Anonymous | Caller::Plain | Caller::Pro => {}
    }
    response
}

/// What the caller shows.
enum Shown {
    Nothing,
    /// More than one `Authorization`, which is none that a client may send.
    Several,
    Credentials(Question),
}

fn shown(peer: SocketAddr, request: &Request) -> Shown {
    let mut all = request.headers().get_all(header::AUTHORIZATION).iter();
    let authorization = match (all.next(), all.next()) {
        (Some(one), None) if !one.is_empty() => one.clone(),
        (Some(_), Some(_)) => return Shown::Several,
        _ => return Shown::Nothing,
    };
    let request_id = request_id(request).0;
    Shown::Credentials(Question {
        authorization,
        request_id,
        peer: peer.ip(),
        headers: request.headers().clone(),
    })
}

async fn caller<V: Verifier>(verifier: &V, shown: Shown) -> Caller {
    let question = match shown {
        Shown::Nothing => return Caller::Anonymous,
        Shown::Several => return Caller::Inactive,
        Shown::Credentials(question) => question,
    };
    match verifier.verify(&question).await {
        Verdict::Known(Standing::Pro) | Verdict::Stale(Standing::Pro) => Caller::Pro,
        Verdict::Known(Standing::Plain) | Verdict::Stale(Standing::Plain) => Caller::Plain,
        Verdict::Known(Standing::Inactive) | Verdict::Stale(Standing::Inactive) => Caller::Inactive,
        Verdict::Unknown(cause) => {
            tracing::debug!(?cause, id = ?question.request_id, "a caller counts as anonymous");
            Caller::Unknown
        }
    }
}

fn request_id(request: &Request) -> RequestId {
    let id = request.extensions().get::<RequestId>().cloned();
    id.unwrap_or(RequestId(HeaderValue::from_static("-")))
}

/// The number of films that a query asks for; none if that cannot be read.
fn limit(query: &str) -> Option<usize> {
    let mut limits = query.split('&').filter_map(|pair| pair.strip_prefix("limit="));
    match (limits.next(), limits.next()) {
        (None, _) => Some(LIMIT_DEFAULT),
        (Some(limit), None) if limit.bytes().all(|byte| byte.is_ascii_digit()) => {
            limit.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit))
        }
        _ => None,
    }
}

/// An error in the form that Palisade's errors have.
fn problem(request: &Request, status: StatusCode, code: &str, msg: &str) -> Response {
    let id = request_id(request).0;
    let id = id.to_str().unwrap_or("-");
    (status, Json(json!({"msg": msg, "code": code, "request_id": id}))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_read_or_refused() {
        assert_eq!(limit(""), Some(LIMIT_DEFAULT));
        assert_eq!(limit("page=2"), Some(LIMIT_DEFAULT));
        assert_eq!(limit("limit=1"), Some(1));
        assert_eq!(limit("a=b&limit=200"), Some(200));
        for query in ["limit=", "limit=0", "limit=201", "limit=+1", "limit=-1", "limit=1&limit=1", "limit=x"]
        {
            assert_eq!(limit(query), None, "{query}");
        }
    }

    #[test]
    fn only_sane_ids_are_taken() {
        let is_taken = |id: &[u8]| is_sane(&HeaderValue::from_bytes(id).expect("a header value"));
        assert!(is_taken(b"a-1"));
        assert!(is_taken(&[b'x'; REQUEST_ID_BYTES_MAX]));
        assert!(!is_taken(&[b'x'; REQUEST_ID_BYTES_MAX + 1]));
        assert!(!is_taken(b""));
        assert!(!is_taken(b"a b"));
        assert!(!is_taken("é".as_bytes()));
    }
}
