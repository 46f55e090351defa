//! One call at a time, for what is done before and after the load: users, tokens, permissions, metrics.
//!
//! Promises: every call ends within its time. Patient with a node that is busy (503 with `Retry-After`);
//! never with 429, which waiting for would take minutes. No token in an error.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::Value;
use thiserror::Error;

use crate::{
    answer::{Parsed, parse},
    target::Target,
};

/// How long a call may take.
const CALL: Duration = Duration::from_secs(15);
/// How long one is patient with a busy node, in all.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// No answer is larger.
const LARGEST: usize = 16 << 20;

/// Why a call did not do what it should.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CallError {
    #[error("{url} does not answer: {why}")]
    Io { url: String, why: String },
    #[error(
        "{what}: 429, too many. The deployment limits this: for a load test set PALISADE_REGISTRATION_RATE, \
         PALISADE_LOGIN_ACCOUNT_FAILURES and PALISADE_LOGIN_ADDRESS_FAILURES to `off` on its nodes, or ask for \
         fewer --users"
    )]
    TooMany { what: String },
    #[error("{what}: {said}")]
    Refused { what: String, status: u16, said: String },
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its body, null when it is no JSON.
    pub body: Value,
    /// The body as it came.
    pub text: String,
    /// `Palisade-Visible`.
    pub visible: Option<(u32, u32)>,
}

/// A connection to one target.
pub struct Client {
    target: Target,
    stream: Option<TcpStream>,
}

impl Client {
    /// To this target; connects when it is needed.
    #[must_use]
    pub const fn new(target: Target) -> Self {
        Self { target, stream: None }
    }

    /// A call under `/api/v1`, patient with a busy node. The reply has one of the statuses that are expected.
    pub fn api(
        &mut self,
        (method, path): (&str, &str),
        bearer: Option<&str>,
        body: Option<&Value>,
        expected: &[u16],
    ) -> Result<Reply, CallError> {
        let began = Instant::now();
        loop {
            let reply = self.call(method, &format!("/api/v1/{path}"), bearer, body);
            let what = format!("{method} {path} at {}", self.target.url);
            match reply {
                Ok(reply) if expected.contains(&reply.status) => return Ok(reply),
                Ok(reply) if reply.status == 429 => return Err(CallError::TooMany { what }),
                Ok(reply) if reply.status == 503 && began.elapsed() < PATIENCE => pause(),
                Ok(reply) => {
                    let said = reply.body.get("msg").and_then(Value::as_str).unwrap_or_default();
                    let said = crate::crowd::said_of(reply.status, said);
                    return Err(CallError::Refused { what, status: reply.status, said });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One call, whatever it answers.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        bearer: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Reply, CallError> {
        let had = self.stream.is_some();
        let result = self.once(method, path, bearer, body).or_else(|error| {
            // A connection that the server closed meanwhile.
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
                let stream = TcpStream::connect_timeout(&self.target.address, CALL)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(CALL))?;
                stream.set_write_timeout(Some(CALL))?;
                stream
            }
        };
        stream.write_all(request.as_bytes())?;
        let (mut bytes, mut scratch, mut part) = (Vec::new(), Vec::new(), vec![0; 16 << 10]);
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
                Parsed::Partial if more > 0 && bytes.len() < LARGEST => {}
                Parsed::Partial => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Parsed::Malformed => return Err(std::io::Error::other("that is no HTTP/1.1")),
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "nothing tells when a node is less busy")]
pub fn pause() {
    std::thread::sleep(PAUSE);
}
