//! Asks Palisade over HTTP: `GET users/me/combined_permissions/validation`, which verifies the token and the
//! permission in one call.

use std::{
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::Value;
use tokio::{sync::Semaphore, time::timeout};

use super::{Cause, PERMISSION, Question, Standing, Verdict, Verifier};

/// Longest time until a verdict. The service promises 300 ms for its whole answer.
pub const ANSWER_MAX: Duration = Duration::from_millis(150);
/// A replica that takes longer may be gone: from then on another one is asked, too.
const HEDGE_AFTER: Duration = Duration::from_millis(50);
/// Most questions at a time, which bounds sockets and memory.
const QUESTIONS_MAX: usize = 512;
/// Most idle connections that are kept.
const IDLE_MAX: usize = 64;
/// How long an idle connection is kept. Palisade keeps them for longer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const STALE: &str = "palisade-stale";
/// W3C Trace Context, as it came: Palisade's spans become children of the caller's.
const TRACE: [&str; 2] = ["traceparent", "tracestate"];

type Pool = Client<HttpConnector, Empty<Bytes>>;

/// Palisade at one URL, which may be the name of many replicas.
pub struct Palisade {
    url: String,
    pool: Mutex<Pool>,
    /// Connects each time, and so resolves the name each time.
    fresh: Pool,
    questions: Semaphore,
}

fn pool(idle_max: usize) -> Pool {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(ANSWER_MAX));
    let mut pool = Client::builder(TokioExecutor::new());
    pool.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(idle_max);
    pool.build(connector)
}

impl Palisade {
    /// Palisade at `http://host:port`.
    pub fn at(url: &str) -> Self {
        let url =
            format!("{url}/api/v1/users/me/combined_permissions/validation?permissions=%22{PERMISSION}%22");
        let questions = Semaphore::new(QUESTIONS_MAX);
        Self { url, pool: Mutex::new(pool(IDLE_MAX)), fresh: pool(0), questions }
    }

    fn pool(&self) -> Pool {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks one replica, and another one when the first fails or is slow. The call changes nothing, so that it
    /// may be repeated.
    async fn ask(&self, question: &Question) -> Verdict {
        let mut first = pin!(self.ask_over(self.pool(), question));
        let mut second = pin!(self.ask_over(self.fresh.clone(), question));
        match timeout(HEDGE_AFTER, &mut first).await {
            Ok(Verdict::Unknown(_)) => return second.await,
            Ok(verdict) => return verdict,
            Err(_) => {}
        }
        tokio::select! {
            verdict = &mut first => if is_unknown(verdict) { second.await } else { verdict },
            verdict = &mut second => if is_unknown(verdict) { first.await } else { verdict },
        }
    }

    async fn ask_over(&self, pool: Pool, question: &Question) -> Verdict {
        let mut request = Request::new(Empty::new());
        let Ok(uri) = self.url.parse() else { return Verdict::Unknown(Cause::Silent) };
        *request.uri_mut() = uri;
        *request.headers_mut() = passed_on(question);
        let Ok(answer) = pool.request(request).await else { return Verdict::Unknown(Cause::Silent) };
        let (head, body) = answer.into_parts();
        let is_stale = head.headers.contains_key(STALE);
        match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
            Ok(body) => verdict(head.status, is_stale, &body.to_bytes()),
            Err(_) => Verdict::Unknown(Cause::Silent),
        }
    }
}

impl Verifier for Palisade {
    async fn verify(&self, question: &Question) -> Verdict {
        let Ok(_permit) = self.questions.try_acquire() else { return Verdict::Unknown(Cause::Busy) };
        let verdict = timeout(ANSWER_MAX, self.ask(question)).await;
        verdict.unwrap_or(Verdict::Unknown(Cause::Silent))
    }

    fn forget_connections(&self) {
        *self.pool.lock().unwrap_or_else(PoisonError::into_inner) = pool(IDLE_MAX);
    }
}

const fn is_unknown(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Unknown(_))
}

/// The headers of the question.
fn passed_on(question: &Question) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, question.authorization.clone());
    headers.insert(REQUEST_ID, question.request_id.clone());
    for name in TRACE {
        if let Some(value) = question.headers.get(name) {
            headers.insert(HeaderName::from_static(name), value.clone());
        }
    }
    for value in question.headers.get_all(FORWARDED_FOR) {
        headers.append(FORWARDED_FOR, value.clone());
    }
    // Palisade shares its bounds by address, and believes this if we are one of its `TRUSTED_PROXIES`.
    if let Ok(peer) = HeaderValue::from_str(&question.peer.to_string()) {
        headers.append(FORWARDED_FOR, peer);
    }
    headers
}

/// Reads an answer. Only what Palisade itself says about a token counts as one: an error page of something on the
/// way does not make a token inactive.
fn verdict(status: StatusCode, is_stale: bool, body: &[u8]) -> Verdict {
    let json = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let is_ours = json["code"].is_string();
    let standing = match (status, json["valid"].as_bool()) {
        (StatusCode::OK, Some(true)) => Standing::Pro,
        (StatusCode::OK, Some(false)) => Standing::Plain,
        (StatusCode::UNAUTHORIZED | StatusCode::UNPROCESSABLE_ENTITY, _) if is_ours => Standing::Inactive,
        (StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _) => {
            return Verdict::Unknown(Cause::Busy);
        }
        // What strangers can bring about, such as a head that is too large, is no silence either.
        (status, _) if status.is_client_error() && is_ours => return Verdict::Unknown(Cause::Busy),
        _ => return Verdict::Unknown(Cause::Silent),
    };
    if is_stale { Verdict::Stale(standing) } else { Verdict::Known(standing) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, body: &str) -> Verdict {
        verdict(StatusCode::from_u16(status).expect("a status"), false, body.as_bytes())
    }

    #[test]
    fn answers_of_palisade_are_read() {
        assert_eq!(said(200, r#"{"valid":true}"#), Verdict::Known(Standing::Pro));
        assert_eq!(said(200, r#"{"valid":false}"#), Verdict::Known(Standing::Plain));
        for status in [401, 422] {
            let body = r#"{"msg":"Token has been revoked","code":"token_revoked","request_id":"1"}"#;
            assert_eq!(said(status, body), Verdict::Known(Standing::Inactive));
        }
    }

    #[test]
    fn nothing_else_makes_a_token_inactive() {
        for status in [200, 204, 302, 401, 403, 404, 422, 500, 502, 504] {
            for body in ["", "<html>", "{}", r#"{"valid":"yes"}"#, "[]"] {
                assert_eq!(said(status, body), Verdict::Unknown(Cause::Silent), "{status} {body}");
            }
        }
        for status in [429, 503] {
            assert_eq!(said(status, ""), Verdict::Unknown(Cause::Busy));
        }
        assert_eq!(said(431, r#"{"code":"too_large"}"#), Verdict::Unknown(Cause::Busy));
    }

    #[test]
    fn stale_verdict_is_marked() {
        let stale = verdict(StatusCode::OK, true, br#"{"valid":true}"#);
        assert_eq!(stale, Verdict::Stale(Standing::Pro));
    }
}
