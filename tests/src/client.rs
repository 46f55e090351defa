//! Requests, and what an answer must be.
//!
//! A path without a leading slash is one of `/api/v1`; with one it is as it stands. The checks on
//! [`Answer`] know the form that all answers have, so that no test can forget to look at it: an
//! error is JSON with a sentence, a code and the id of the request, a 401 says how to
//! authenticate, a 429 and a 503 say when to come back. Whatever a test asks, the answer is one that the
//! OpenAPI document promises ([`document`]).

use std::{
    any::Any,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue},
};
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use crate::{document, store::is_cql};

/// Longest time of an answer, even in an unoptimised build behind a queue of log-ins.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a retrying client retries.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between its tries: shorter than the node asks for, to save test time.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// A client of one node, with its own connections. It finds the node again after a restart.
///
/// Connections belong to the runtime that made them: a test makes its own client.
#[derive(Clone, Debug)]
pub struct Client {
    port: Arc<AtomicU16>,
    is_retrying: bool,
    /// Keeps the node alive for as long as this client may send requests.
    _kept: Option<Arc<dyn Any + Send + Sync>>,
    pool: Pool<HttpConnector, Full<Bytes>>,
}

/// Why there was no answer: not connected, closed, or too late.
#[derive(Debug)]
pub struct NoAnswer(pub String);

/// A request, not sent yet.
#[derive(Clone, Debug)]
pub struct Request {
    client: Client,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What was asked, for messages.
    pub asked: String,
}

impl Client {
    /// A client for the server on this port of 127.0.0.1. The port may change.
    #[must_use]
    pub fn new(port: Arc<AtomicU16>) -> Self {
        Self { port, is_retrying: false, _kept: None, pool: Pool::builder(TokioExecutor::new()).build_http() }
    }

    /// The same client, which keeps something alive: the node that it asks.
    #[must_use]
    pub fn keeping(self, kept: Arc<dyn Any + Send + Sync>) -> Self {
        Self { _kept: Some(kept), ..self }
    }

    /// The same client, which does what a 503 asks for: it tries again.
    #[must_use]
    pub fn retrying(&self) -> Self {
        Self { is_retrying: true, ..self.clone() }
    }

    /// Where the node listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.load(Ordering::SeqCst)))
    }

    /// Any request.
    ///
    /// # Panics
    /// When `method` is none.
    #[must_use]
    pub fn request(&self, method: &str, path: &str) -> Request {
        Request {
            client: self.clone(),
            method: method.parse().expect("a method"),
            path: if path.starts_with('/') { path.to_owned() } else { format!("/api/v1/{path}") },
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// `GET`
    #[must_use]
    pub fn get(&self, path: &str) -> Request {
        self.request("GET", path)
    }

    /// `POST`
    #[must_use]
    pub fn post(&self, path: &str) -> Request {
        self.request("POST", path)
    }

    /// `PATCH`
    #[must_use]
    pub fn patch(&self, path: &str) -> Request {
        self.request("PATCH", path)
    }

    /// `DELETE`
    #[must_use]
    pub fn delete(&self, path: &str) -> Request {
        self.request("DELETE", path)
    }

    /// What the node says about a token.
    pub async fn validate(&self, token: &str) -> Answer {
        self.get("auth_token/validation").bearer(token).send().await
    }

    /// Shows a refresh token.
    pub async fn refresh(&self, token: &str) -> Answer {
        self.post("auth_token/token_refresh").bearer(token).send().await
    }

    /// Tries to log in.
    pub async fn log_in(&self, email: &str, password: &str) -> Answer {
        let body = serde_json::json!({"email": email, "password": password});
        self.post("auth_token").json(&body).send().await
    }

    /// The value of a metric, by its name and the labels that it has as they stand in `/metrics`; none
    /// when it is not there.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let metrics = self.get("/metrics").send().await.is(200).text();
        let value = |line: &str| {
            let rest = line.strip_prefix(series)?;
            rest.strip_prefix("{}").unwrap_or(rest).strip_prefix(' ')?.parse().ok()
        };
        metrics.lines().find_map(value)
    }
}

impl Request {
    /// Shows this token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a token is a header value");
        self.with(AUTHORIZATION, value)
    }

    /// Sends `Authorization` with exactly these bytes; may be called twice.
    ///
    /// # Panics
    /// When they cannot be a header's value.
    #[must_use]
    pub fn authorization(self, value: &[u8]) -> Self {
        self.with(AUTHORIZATION, HeaderValue::from_bytes(value).expect("a header value"))
    }

    /// Adds a header; one that is there stays.
    ///
    /// # Panics
    /// When it cannot be one.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        self.with(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header value"))
    }

    /// Sends this JSON.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    /// Sends these bytes as of this type; of none when it is empty.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        if content_type.is_empty() { self } else { self.header("content-type", content_type) }
    }

    /// Sends the request and awaits the whole answer. A retrying client repeats it while the answer is 503.
    ///
    /// # Panics
    /// When there is none.
    pub async fn send(self) -> Answer {
        let asked = format!("{} {}", self.method, self.path);
        let start = Instant::now();
        loop {
            let answer = self.clone().try_send().await;
            let answer = answer.unwrap_or_else(|NoAnswer(why)| panic!("{asked}: no answer: {why}"));
            if answer.status != 503 || !self.client.is_retrying || start.elapsed() > RETRY_TIMEOUT {
                return answer;
            }
            answer.is_refused(503);
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Sends it to a node that may be dying.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn try_send(self) -> Result<Answer, NoAnswer> {
        let method = self.method.to_string();
        let asked = format!("{method} {}", self.path);
        let mut request = hyper::Request::builder()
            .method(self.method)
            .uri(format!("http://{}{}", self.client.address(), self.path))
            .body(Full::new(self.body))
            .map_err(|error| NoAnswer(error.to_string()))?;
        *request.headers_mut() = self.headers;
        let exchange = async {
            let response = self.client.pool.request(request).await.map_err(|e| NoAnswer(format!("{e:?}")))?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| NoAnswer(format!("{e:?}")))?.to_bytes();
            let answer = Answer { status: parts.status.as_u16(), headers: parts.headers, body, asked };
            if let Err(why) = document::check(&method, &self.path, &answer) {
                panic!("{why}\n{answer}");
            }
            Ok(answer)
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(NoAnswer("too late".into())))
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }
}

#[track_caller]
fn has(condition: bool, answer: &Answer, what: &str) {
    assert!(condition, "{what}\n{answer}");
}

impl Answer {
    /// A header's value; the first when there are more.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none, or its content type does not say so.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        has(kind.starts_with("application/json"), self, "the content type is not JSON");
        match serde_json::from_slice(&self.body) {
            Ok(json) => json,
            Err(error) => panic!("the body is not JSON: {error}\n{self}"),
        }
    }

    /// A text in the JSON body.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn field(&self, name: &str) -> String {
        let json = self.json();
        match json[name].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("no text `{name}`\n{self}"),
        }
    }

    /// The answer has this status, the id of its request, and the headers that keep browsers from misusing it.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn is(&self, status: u16) -> &Self {
        has(self.status == status, self, &format!("expected {status}"));
        has(self.header("x-request-id").is_some_and(|id| !id.is_empty()), self, "no X-Request-Id");
        has(self.header("x-content-type-options") == Some("nosniff"), self, "no nosniff");
        has(self.header("referrer-policy") == Some("no-referrer"), self, "no Referrer-Policy");
        if self.header("content-type") == Some("application/json") {
            let policy = self.header("content-security-policy");
            let closed = Some("default-src 'none'; frame-ancestors 'none'");
            has(policy == closed, self, "another Content-Security-Policy");
        }
        self
    }

    /// 204, with nothing in it.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn is_done(&self) -> &Self {
        has(self.body.is_empty(), self, "expected an empty body");
        self.is(204)
    }

    /// An error of the form that all errors have, with this status and sentence.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn is_error(&self, status: u16, msg: &str) -> &Self {
        has(self.field("msg") == msg, self, &format!("expected the msg {msg:?}"));
        self.is_refused(status)
    }

    /// An error of the form that all errors have, with this status.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn is_refused(&self, status: u16) -> &Self {
        self.is(status);
        has(!self.field("msg").is_empty(), self, "the msg is empty");
        let code = self.field("code");
        let snake = !code.is_empty()
            && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && code.starts_with(|c: char| c.is_ascii_lowercase());
        has(snake, self, "the code is not in snake_case");
        has(
            Some(self.field("request_id").as_str()) == self.header("x-request-id"),
            self,
            "another request_id",
        );
        if status == 401 {
            let scheme = self.header("www-authenticate").unwrap_or_default();
            has(scheme.starts_with("Bearer"), self, "a 401 without WWW-Authenticate: Bearer");
        }
        if status == 403 {
            let challenge = self.header("www-authenticate");
            let insufficient = Some("Bearer error=\"insufficient_scope\"");
            has(challenge == insufficient, self, "a 403 without WWW-Authenticate: insufficient_scope");
        }
        if matches!(status, 429 | 503) {
            let seconds: Option<u64> = self.header("retry-after").and_then(|s| s.parse().ok());
            has(seconds.is_some(), self, "a 429 or 503 without seconds in Retry-After");
        }
        self
    }

    /// An error that says which field of the body is wrong.
    ///
    /// # Panics
    /// When it is not, or `field` is not named.
    #[track_caller]
    pub fn is_about_field(&self, field: &str) -> &Self {
        self.is_refused(400);
        let why = &self.json()["fields"][field];
        has(why.as_str().is_some_and(|why| !why.is_empty()), self, &format!("`fields` lacks {field}"));
        self
    }

    /// Checks that every live node has acknowledged the change, and that it is durable: in the embedded
    /// store, the ledger or the journal.
    ///
    /// # Panics
    /// When the headers do not say so.
    #[track_caller]
    pub fn is_visible_everywhere(&self) -> &Self {
        let visible = self.header("palisade-visible").and_then(|text| text.split_once('/'));
        let counts = visible.and_then(|(k, n)| Some((k.parse::<u32>().ok()?, n.parse::<u32>().ok()?)));
        has(counts.is_some_and(|(k, n)| k == n), self, "not `Palisade-Visible: n/n`");
        let durable = match self.header("palisade-durability") {
            Some("store") => true,
            // A database on a busy machine may take its time; the answer does not wait for it.
            Some("journal") => is_cql(),
            _ => false,
        };
        has(durable, self, "not durable where it should be");
        self
    }

    /// Checks that all `others` live nodes besides this one have acknowledged the change.
    ///
    /// # Panics
    /// When the header says something else.
    #[track_caller]
    pub fn is_visible_at(&self, others: u32) -> &Self {
        let expected = format!("{others}/{others}");
        has(self.header("palisade-visible") == Some(&expected), self, &format!("not visible at {expected}"));
        self
    }

    /// Checks that no cache on the way may store the answer.
    ///
    /// # Panics
    /// When a cache might.
    #[track_caller]
    pub fn is_not_stored(&self) -> &Self {
        let control = self.header("cache-control").unwrap_or_default();
        has(control.contains("no-store"), self, "no `Cache-Control: no-store`");
        self
    }

    /// The access and the refresh token of a token pair.
    ///
    /// # Panics
    /// When it is no token pair.
    #[must_use]
    #[track_caller]
    pub fn pair(&self) -> (String, String) {
        self.is(200).is_not_stored();
        let pair = (self.field("access_token"), self.field("refresh_token"));
        has(self.field("token_type") == "Bearer", self, "another token_type");
        has(self.json()["expires_in"].as_u64().is_some(), self, "expires_in is no number");
        has(pair.1.starts_with("prt_"), self, "the refresh token does not begin with prt_");
        pair
    }

    /// The body without what differs from request to request, to compare two refusals.
    ///
    /// # Panics
    /// When it is no JSON object.
    #[must_use]
    #[track_caller]
    pub fn apart_from_its_id(&self) -> Value {
        let mut json = self.json();
        json.as_object_mut().expect("an object").remove("request_id");
        json
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} -> {}", self.asked, self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        let body: String = self.text().chars().take(1_000).collect();
        f.write_str(&body)
    }
}
