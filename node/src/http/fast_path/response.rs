//! Answers of the fast path, as bytes on a connection or as responses for hyper.

use std::{cell::RefCell, time::Duration};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use http_body_util::Full;
use schema::{time::millis, token::AccessClaims};

use crate::http::{
    gateway,
    middleware::{
        request::{REQUEST_ID, RequestId, STALE},
        security,
    },
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The head of a 200, up to the value of `Content-Length`.
const JSON_HEAD: &str = concat!(
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n",
    security::bodiless!(),
    security::no_page!(),
    "content-length: "
);
/// The head of a 204, up to the headers that name the user.
const ADMITTED_HEAD: &str = concat!("HTTP/1.1 204 No Content\r\n", security::bodiless!());

/// An answer of the fast path.
#[derive(Debug)]
pub(super) enum FastResponse {
    /// 200 with this body.
    Json(&'static str),
    /// 204 to a gateway, with the user and session of these claims.
    Admitted(AccessClaims),
    /// An error, without the `X-Request-Id` header.
    Problem(Box<Response<Bytes>>),
}

impl FastResponse {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Json(_) => StatusCode::OK,
            Self::Admitted(_) => StatusCode::NO_CONTENT,
            Self::Problem(response) => response.status(),
        }
    }

    /// The response for hyper, without the `X-Request-Id` header.
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = match self {
            Self::Json(json) => {
                let mut response = Response::new(Full::new(Bytes::from_static(json.as_bytes())));
                response.headers_mut().insert(header::CONTENT_TYPE, JSON);
                response
            }
            Self::Problem(response) => response.map(Full::new),
            Self::Admitted(claims) => gateway::admitted(&claims).map(|()| Full::default()),
        };
        security::guard(response.headers_mut());
        response
    }

    /// Appends the answer to `out` as HTTP/1.1 (RFC 9112).
    pub(super) fn write(self, common: &CommonHeaders<'_>, out: &mut Vec<u8>) {
        let (head, body) = match self {
            Self::Json(json) => {
                out.extend_from_slice(JSON_HEAD.as_bytes());
                number(json.len(), out);
                out.extend_from_slice(b"\r\n");
                common.write(out);
                return out.extend_from_slice(json.as_bytes());
            }
            Self::Admitted(claims) => {
                out.extend_from_slice(ADMITTED_HEAD.as_bytes());
                gateway::write_admitted(&claims, out);
                return common.write(out);
            }
            Self::Problem(response) => response.into_parts(),
        };
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(head.status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in &head.headers {
            field(name.as_str(), value.as_bytes(), out);
        }
        out.extend_from_slice(security::NO_PAGE_LINES.as_bytes());
        common.write(out);
        out.extend_from_slice(&body);
    }
}

/// The headers that every answer has.
pub(super) struct CommonHeaders<'a> {
    pub(super) id: &'a RequestId<'a>,
    pub(super) cors_headers: &'a HeaderMap,
    /// The staleness of the node, if it must be disclosed.
    pub(super) stale: Option<Duration>,
    /// Whether the answer is the last on its connection.
    pub(super) is_last: bool,
    /// The time for `Date`, in seconds since the epoch.
    pub(super) now_s: u64,
}

impl CommonHeaders<'_> {
    /// Appends the headers and the end of the head.
    fn write(&self, out: &mut Vec<u8>) {
        for (name, value) in self.cors_headers {
            field(name.as_str(), value.as_bytes(), out);
        }
        if let Some(age) = self.stale {
            field(STALE.as_str(), millis(age).to_string().as_bytes(), out);
        }
        if self.is_last {
            field("connection", b"close", out);
        }
        field(REQUEST_ID.as_str(), self.id.as_bytes(), out);
        out.extend_from_slice(b"date: ");
        date(self.now_s, out);
        out.extend_from_slice(b"\r\n\r\n");
    }
}

fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn number(number: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut left = number;
    let mut at = digits.len();
    loop {
        at -= 1;
        #[allow(clippy::cast_possible_truncation, reason = "it is a digit")]
        let digit = (left % 10) as u8;
        digits[at] = b'0' + digit;
        left /= 10;
        if left == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// Appends the time as RFC 9110, section 5.6.7 formats it. A thread formats it once a second.
fn date(now_s: u64, out: &mut Vec<u8>) {
    thread_local! {
        static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    LAST.with_borrow_mut(|(second, text)| {
        if *second != now_s {
            let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now_s);
            *second = now_s;
            *text = httpdate::fmt_http_date(now);
        }
        out.extend_from_slice(text.as_bytes());
    });
}
