//! JSON bodies: typed, bounded, and refused with the errors of the API.
//!
//! A body is charged to the node's budget as it arrives, and stays charged until its request is finished
//! ([`crate::http::middleware::held`]).

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body as Stream,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use crate::{
    app::App,
    http::{middleware::held::HeldMemory, respond::problem::Problem},
    scheduling::budget::UsedUp,
};

/// The limit for a client to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a too large body that are read and discarded.
const DISCARD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The first allocation for a body that declares at least this length, in bytes.
const FIRST_ALLOCATION_BYTES: usize = 4 * 1024;

/// A JSON body of at most `MAX` bytes.
#[derive(Debug)]
pub struct Body<T, const MAX: usize = { crate::http::MAX_BODY_BYTES }>(pub T);

impl<T, const MAX: usize> FromRequest<Arc<App>> for Body<T, MAX>
where
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let Text(bytes) = Text::<MAX>::from_request(request, app).await?;
        parse(&bytes).map(Self)
    }
}

/// The unparsed text of a JSON body of at most `MAX` bytes.
#[derive(Debug)]
pub struct Text<const MAX: usize>(pub Vec<u8>);

impl<const MAX: usize> FromRequest<Arc<App>> for Text<MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let msg = "The body must be JSON, with Content-Type: application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", msg));
        }
        let too_large = || {
            Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                format!("The body has more than {MAX} bytes"),
            )
        };
        let length =
            request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        // The client waits for `100 Continue`, and the declared length is too large already.
        let awaits_continue =
            request.headers().contains_key(header::EXPECT) && length.is_some_and(|length| length > MAX);
        let held = HeldMemory::of(&request, app).map_err(|UsedUp| no_room())?;
        let mut body = request.into_body();
        let read = tokio::time::timeout(BODY_TIMEOUT, read(&mut body, MAX, length, &held)).await;
        match read {
            Err(_) => {
                let msg = "The body did not arrive in time";
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", msg))
            }
            Ok(Read::Whole(bytes)) => Ok(Self(bytes)),
            Ok(Read::BrokenOff) => {
                Err(Problem::new(StatusCode::BAD_REQUEST, "body_incomplete", "The body broke off"))
            }
            Ok(Read::NoRoom) => Err(no_room()),
            Ok(Read::TooLarge) => {
                // A client that is still sending does not read the answer: discard its body, up to a bound,
                // before the connection is closed.
                if !awaits_continue {
                    let _ = tokio::time::timeout(BODY_TIMEOUT, discard(&mut body)).await;
                }
                Err(too_large())
            }
        }
    }
}

/// 503: the requests of the node, or of the client's network, hold as much memory as they may.
pub fn no_room() -> Problem {
    Problem::unavailable("busy", "Requests hold as much memory as they may; try again")
}

enum Read {
    Whole(Vec<u8>),
    NoRoom,
    TooLarge,
    BrokenOff,
}

async fn read(body: &mut Stream, max: usize, length: Option<usize>, held: &HeldMemory) -> Read {
    if length.is_some_and(|length| length > max) {
        return Read::TooLarge;
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Read::BrokenOff };
        let data = frame.data_ref().map_or(&[][..], |data| data);
        if bytes.len() + data.len() > max {
            return Read::TooLarge;
        }
        let more = more_capacity(&bytes, data.len(), length.unwrap_or(max));
        if held.grow(more).is_err() {
            return Read::NoRoom;
        }
        bytes.reserve_exact(if more > 0 { bytes.capacity() + more - bytes.len() } else { 0 });
        bytes.extend_from_slice(data);
    }
    Read::Whole(bytes)
}

/// The additional capacity that a buffer needs for `coming` more bytes: at least double, but not more than the
/// `whole` body. So a client that declares a large body and sends little holds little.
fn more_capacity(bytes: &Vec<u8>, coming: usize, whole: usize) -> usize {
    let needed = bytes.len() + coming;
    if needed <= bytes.capacity() {
        return 0;
    }
    let wanted = (2 * bytes.capacity()).max(FIRST_ALLOCATION_BYTES).min(whole).max(needed);
    wanted - bytes.capacity()
}

async fn discard(body: &mut Stream) {
    let mut left = DISCARD_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len()));
        if left == 0 {
            return;
        }
    }
}

/// Deserializes a field of a change, and distinguishes null (remove the value) from absent (keep it).
///
/// # Errors
/// The value is of another type.
pub fn present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// `application/json` or a `+json` type, with any parameters (RFC 8259, RFC 6839).
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Parses a JSON object. An error names the position and never repeats the content, which may be a password.
///
/// # Errors
/// 400.
pub fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Problem> {
    // serde would also read a struct from an array of its fields, which no client intends.
    if bytes
        .trim_ascii_start()
        .first()
        .is_some_and(|first| !b"{".contains(first) && b"[\"-0123456789tfn".contains(first))
    {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_body", "The body must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if !inner.is_data() {
            return malformed(&inner);
        }
        // Only "missing field `x`" and "duplicate field `x`" name a field of the API, not of the client.
        let text = inner.to_string();
        let named = ["missing field `", "duplicate field `"].iter().find_map(|start| {
            let (field, _) = text.strip_prefix(start)?.split_once('`')?;
            Some((field.to_owned(), if start.starts_with('m') { "is missing" } else { "is there twice" }))
        });
        match named {
            Some((field, what)) => Problem::field(&field, what),
            None if path == "." => {
                Problem::new(StatusCode::BAD_REQUEST, "invalid_body", "The body must be a JSON object")
            }
            None => Problem::field(&path, "is of the wrong type"),
        }
    })?;
    json.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> Problem {
    let msg = format!("The body is no JSON: line {}, column {}", error.line(), error.column());
    Problem::new(StatusCode::BAD_REQUEST, "malformed_json", msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its reading is tested")]
    struct Sample {
        email: String,
        password: String,
    }

    #[test]
    fn error_never_repeats_the_content_of_a_body() {
        for body in [
            r#"{"email": "a@b", "password": 1234567}"#,
            r#"{"email": {"hunter2": 1}, "password": "hunter2"}"#,
            r#"{"password": "hunter2"}"#,
            r#"{"email": "a", "email": "hunter2"}"#,
            r#""hunter2""#,
            r#"{"password": "hunter2"#,
            r#"{"password": "hunter2"} hunter2"#,
        ] {
            let text = format!("{:?}", parse::<Sample>(body.as_bytes()).unwrap_err());
            assert!(!text.contains("hunter2") && !text.contains("1234567"), "{body}: {text}");
        }
    }

    #[test]
    fn error_names_the_field() {
        for (body, field) in [
            (r#"{"email": 1, "password": ""}"#, "email"),
            (r#"{"email": ""}"#, "password"),
            (r#"{"email": "", "email": "", "password": ""}"#, "email"),
        ] {
            let text = format!("{:?}", parse::<Sample>(body.as_bytes()).unwrap_err());
            assert!(text.contains(&format!("fields: {{\"{field}\"")), "{body}: {text}");
        }
    }
}
