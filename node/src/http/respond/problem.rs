//! Errors as clients see them: `{"msg", "code", "request_id"}`, in one form everywhere.
//!
//! A handler returns a [`Problem`]; the frame of the request ([`crate::http::middleware::request`]) adds the
//! request id and writes the body, so answers without a handler have this form too.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use actors::{ActorError, CatalogueError, user::UserError};
use axum::{
    body::Bytes,
    http::{self, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schema::Refusal;
use serde::Serialize;
use store::StoreError;
use utoipa::ToSchema;

use crate::{
    accounts::{AccountError, permission_queries::QueryError},
    credentials::{passwords::PoolBusy, tokens::SignError},
};

/// The error with which a request is answered.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    msg: Cow<'static, str>,
    fields: BTreeMap<String, Cow<'static, str>>,
    retry_after_s: Option<u64>,
    /// `WWW-Authenticate`, when the status is 401.
    challenge: &'static str,
}

/// `WWW-Authenticate` of a 401 to a request without a token.
const NO_TOKEN: &str = "Bearer";
/// `WWW-Authenticate` of a 403: the token is active but not sufficient (RFC 6750, section 3.1).
const INSUFFICIENT: HeaderValue = HeaderValue::from_static(r#"Bearer error="insufficient_scope""#);

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// A sentence for people.
    pub msg: &'a str,
    /// A stable code for programs.
    #[schema(example = "token_expired", pattern = "^[a-z][a-z0-9_]*$")]
    pub code: &'a str,
    /// The `X-Request-Id` of the request.
    pub request_id: &'a str,
    /// The invalid fields of the body, each with its error.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>, required = false)]
    pub fields: &'a BTreeMap<String, Cow<'static, str>>,
}

impl Problem {
    /// A problem with a status, a stable code and a sentence.
    pub fn new(status: StatusCode, code: &'static str, msg: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            msg: msg.into(),
            fields: BTreeMap::new(),
            retry_after_s: None,
            challenge: NO_TOKEN,
        }
    }

    /// 400: fields of the body are wrong.
    pub fn fields(fields: BTreeMap<String, Cow<'static, str>>) -> Self {
        let mut problem = Self::new(StatusCode::BAD_REQUEST, "invalid_body", "The body has invalid fields");
        problem.fields = fields;
        problem
    }

    /// 400: one field of the body is wrong.
    pub fn field(name: &str, msg: impl Into<Cow<'static, str>>) -> Self {
        Self::fields([(name.to_owned(), msg.into())].into())
    }

    /// This problem, with the fields of another added.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.fields.extend(other.fields);
        self
    }

    /// 404: the thing does not exist.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found")
    }

    /// 403: the caller lacks the authority.
    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "You are not allowed to do this")
    }

    /// 409: the request conflicts with the state of the server.
    pub fn conflict(code: &'static str, msg: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, msg)
    }

    /// 503: try again in a second.
    pub fn unavailable(code: &'static str, msg: &'static str) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, msg);
        problem.retry_after_s = Some(1);
        problem
    }

    /// 429, with `Retry-After` set to `wait`, rounded up to seconds.
    pub fn too_many(code: &'static str, msg: &'static str, wait: Duration) -> Self {
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, code, msg);
        problem.retry_after_s = Some(wait.as_millis().div_ceil(1000).try_into().unwrap_or(3600).max(1));
        problem
    }

    /// 429: too many failed attempts on an account or from an address.
    pub fn locked(wait: Duration) -> Self {
        Self::too_many("locked", "Too many failed attempts; try again later", wait)
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The same problem with another status.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The answer, with the request's id in its body.
    pub fn into_answer(self, request_id: &str) -> http::Response<Bytes> {
        let body = ProblemBody { msg: &self.msg, code: self.code, request_id, fields: &self.fields };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = http::Response::new(Bytes::new());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(self.challenge));
        } else if self.status == StatusCode::FORBIDDEN {
            headers.insert(header::WWW_AUTHENTICATE, INSUFFICIENT);
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response.map(|_| body.into())
    }
}

/// Leaves the problem in the extensions: the frame of the request writes it, since it knows the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        if refusal.is_unknown() {
            return Self::unavailable(refusal.code(), refusal.msg());
        }
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::UNAUTHORIZED);
        let problem = Self::new(status, refusal.code(), refusal.msg());
        Self { challenge: refusal.challenge(), ..problem }
    }
}

impl From<ActorError> for Problem {
    fn from(error: ActorError) -> Self {
        match error {
            ActorError::Busy => Self::unavailable("busy", "Too many requests wait; try again"),
            ActorError::Unavailable => {
                Self::unavailable("store_unavailable", "The store does not answer; try again")
            }
            ActorError::Inconsistent => {
                Self::unavailable("store_inconsistent", "The store contradicts itself; operators must look")
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        ActorError::from(error).into()
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Unreadable(msg) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_permission_query", msg)
            }
            QueryError::Permissions(error) => error.into(),
        }
    }
}

impl From<AccountError> for Problem {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::Busy(error) => error.into(),
            AccountError::Actor(error) => error.into(),
            AccountError::User(error) => error.into(),
            AccountError::Sign(error) => error.into(),
        }
    }
}

impl From<PoolBusy> for Problem {
    fn from(_: PoolBusy) -> Self {
        Self::unavailable("busy", "Too many passwords wait to be checked; try again")
    }
}

impl From<SignError> for Problem {
    fn from(error: SignError) -> Self {
        tracing::error!(%error, "signing a token failed");
        Self::unavailable("signing_failed", "No token could be made; operators must look")
    }
}

impl From<UserError> for Problem {
    fn from(error: UserError) -> Self {
        match error {
            UserError::NotFound => Self::not_found(),
            UserError::EmailTaken => Self::conflict("email_taken", "A user with this email exists"),
            UserError::LastSuperuser => Self::last_superuser(),
            UserError::Revoked => Refusal::Revoked.into(),
            UserError::Full => Self::conflict("too_many_grants", "The user has as many of these as may be"),
            UserError::Actor(error) => error.into(),
        }
    }
}

impl From<CatalogueError> for Problem {
    fn from(error: CatalogueError) -> Self {
        match error {
            CatalogueError::NotFound => Self::not_found(),
            CatalogueError::LastSuperuser => Self::last_superuser(),
            CatalogueError::Full => {
                Self::conflict("too_many_grants", "The role has as many permissions as may be")
            }
            CatalogueError::Actor(error) => error.into(),
        }
    }
}

impl Problem {
    fn last_superuser() -> Self {
        Self::conflict("last_superuser", "This would leave no active superuser")
    }
}
