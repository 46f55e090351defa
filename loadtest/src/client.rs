//! A blocking HTTP client for the calls before and after the load: users, tokens, permissions, metrics.
//!
//! Promises: every call has a time-out. Calls of the API are retried while a node is busy (503), but not after
//! 429, whose wait would take minutes. Errors never hold a token.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;
use thiserror::Error;

use crate::{
    answer::{Parsed, Visible, parse},
    clock::Clock,
    target::Target,
};

/// How long connecting, a read or a write may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a call is retried at a busy node, in all.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
/// The time between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The largest answer, bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why a call failed.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CallError {
    #[error("{url} does not answer: {why}")]
    Io { url: String, why: String },
    #[error(
        "{what}: 429, too many. The deployment limits these calls: for a load test set PALISADE_REGISTRATION_RATE, \
         PALISADE_LOGIN_ACCOUNT_FAILURES and PALISADE_LOGIN_ADDRESS_FAILURES to `off` on its nodes, or use fewer \
         --users"
    )]
    TooMany { what: String },
    #[error("{what}: {answer}")]
    Refused { what: String, status: u16, answer: String },
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The body; null if it is not JSON.
    pub body: Value,
    /// The body as text.
    pub text: String,
    /// `Palisade-Visible`.
    pub visible: Option<Visible>,
}

/// A connection to one target.
pub struct Client {
    target: Target,
    stream: Option<TcpStream>,
}

impl Client {
    /// A client of this target. It connects on the first call.
    #[must_use]
    pub const fn new(target: Target) -> Self {
        Self { target, stream: None }
    }

    /// Calls the API below `/api/v1`, and retries while the node is busy. The reply has one of the `expected`
    /// statuses.
    pub fn api(
        &mut self,
        (method, path): (&str, &str),
        bearer: Option<&str>,
        body: Option<&Value>,
        expected: &[u16],
    ) -> Result<Reply, CallError> {
        let began = Clock::start();
        loop {
            let reply = self.call(method, &format!("/api/v1/{path}"), bearer, body);
            let what = format!("{method} {path} at {}", self.target.url);
            match reply {
                Ok(reply) if expected.contains(&reply.status) => return Ok(reply),
                Ok(reply) if reply.status == 429 => return Err(CallError::TooMany { what }),
                Ok(reply) if reply.status == 503 && began.elapsed() < BUSY_TIMEOUT => pause(),
                Ok(reply) => {
                    let msg = reply.body.get("msg").and_then(Value::as_str).unwrap_or_default();
                    let answer = crate::session_pool::describe_status(reply.status, msg);
                    return Err(CallError::Refused { what, status: reply.status, answer });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes one call and returns its answer, whatever the status.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        bearer: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Reply, CallError> {
        let had = self.stream.is_some();
        let result = self.once(method, path, bearer, body).or_else(|error| {
            // The server may have closed the connection since the last call.
            if had { self.once(method, path, bearer, body) } else { Err(error) }
        });
        result.map_err(|error| CallError::Io { url: self.target.url.clone(), why: error.to_string() })
    }

    fn once(
        &mut self,
        method: &str,
        path: &str,
        bearer: Option<&str>,
        body: Option<&Value>,
    ) -> std::io::Result<Reply> {
        let Target { base, authority, .. } = &self.target;
        let body = body.map(Value::to_string).unwrap_or_default();
        let bearer = bearer.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let form = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let length = body.len();
        let request = format!(
            "{method} {base}{path} HTTP/1.1\r\nHost: {authority}\r\n{bearer}{form}Content-Length: {length}\r\n\r\n{body}"
        );
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.target.address, CALL_TIMEOUT)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(CALL_TIMEOUT))?;
                stream.set_write_timeout(Some(CALL_TIMEOUT))?;
                stream
            }
        };
        stream.write_all(request.as_bytes())?;
        let mut bytes = Vec::new();
        let mut scratch = Vec::new();
        let mut part = vec![0; 16 << 10];
        loop {
            let more = stream.read(&mut part)?;
            bytes.extend_from_slice(&part[..more]);
            match parse(&bytes, &mut scratch) {
                Parsed::Whole { answer, close, .. } => {
                    let reply = Reply {
                        status: answer.status,
                        body: answer.json().unwrap_or(Value::Null),
                        text: String::from_utf8_lossy(answer.body).into_owned(),
                        visible: answer.visible(),
                    };
                    if !close {
                        self.stream = Some(stream);
                    }
                    return Ok(reply);
                }
                Parsed::Partial if more > 0 && bytes.len() < ANSWER_BYTES_MAX => {}
                Parsed::Partial => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Parsed::Malformed => return Err(std::io::Error::other("the answer is not HTTP/1.1")),
            }
        }
    }
}

/// Sleeps until the next attempt.
#[allow(clippy::disallowed_methods, reason = "nothing tells when a node is less busy")]
pub fn pause() {
    std::thread::sleep(RETRY_PAUSE);
}
