//! `POST auth_token/validation/batch`: the verdicts on many tokens, in their order.

use std::{borrow::Cow, collections::VecDeque, fmt, marker::PhantomData, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::IntoResponse,
};
use schema::Refusal;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use utoipa::ToSchema;

use super::Answer;
use crate::{
    app::App,
    http::{
        authority::Caller,
        body::{self, Text},
        problem::{Problem, ProblemBody},
    },
    source::Source,
    tokens::Screened,
};

/// How many tokens a batch may have.
pub const MAX_TOKENS: usize = 1_000;
/// Longest body of a batch, in bytes.
pub const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// After so many tokens other requests have their turn: that is some 50 µs.
const TURN: usize = 128;
/// How many uncached tokens are screened in one job, off the runtime's threads: each costs ten times a cached
/// one, and needs no valid signature to cost that.
const SCREENED_AT_ONCE: usize = 16;

/// Tokens to validate.
#[derive(Deserialize, ToSchema)]
pub struct Batch<'a> {
    /// At most 1,000.
    #[serde(borrow, deserialize_with = "some_tokens")]
    #[schema(value_type = Vec<String>, max_items = 1000)]
    tokens: Vec<Token<'a>>,
}

/// Keeps at most one token more than a batch may have and skips the rest without allocating.
fn some_tokens<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Vec<Token<'a>>, D::Error> {
    struct Tokens<'a>(PhantomData<&'a ()>);
    impl<'de: 'a, 'a> Visitor<'de> for Tokens<'a> {
        type Value = Vec<Token<'a>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sequence")
        }
        fn visit_seq<S: SeqAccess<'de>>(self, mut from: S) -> Result<Self::Value, S::Error> {
            let mut tokens = Vec::new();
            while tokens.len() <= MAX_TOKENS {
                match from.next_element()? {
                    Some(token) => tokens.push(token),
                    None => return Ok(tokens),
                }
            }
            while from.next_element::<IgnoredAny>()?.is_some() {}
            Ok(tokens)
        }
    }
    from.deserialize_seq(Tokens(PhantomData))
}

/// A token where it lies in the body, unless something in it is escaped.
#[derive(Deserialize)]
struct Token<'a>(#[serde(borrow)] Cow<'a, str>);

/// The verdict on one token.
#[derive(Serialize, ToSchema)]
pub struct BatchVerdict {
    /// What `GET auth_token/validation` would answer.
    #[schema(example = 200)]
    status: u16,
    /// Its sentence.
    #[schema(example = "Token is valid")]
    msg: &'static str,
    /// Its code, when it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    code: Option<&'static str>,
}

/// The verdict on a token that is good: nearly all are.
const VALID: &[u8] = br#"{"status":200,"msg":"Token is valid"}"#;

fn refused(refusal: Refusal, out: &mut Vec<u8>) {
    let (status, msg, code) = (refusal.status(), refusal.msg(), Some(refusal.code()));
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(out, &BatchVerdict { status, msg, code });
}

/// Validate many tokens
#[utoipa::path(
    post, path = "/auth_token/validation/batch", tag = "tokens", operation_id = "validate_tokens",
    security(("bearer" = [])),
    request_body = Batch,
    responses(
        (status = 200, description = "A verdict on each token, in order", body = Vec<BatchVerdict>),
        (status = 413, description = "More than 1,000 tokens, or 4 MiB", body = ProblemBody),
    ),
)]
pub async fn validate_batch(
    State(app): State<Arc<App>>,
    source: Source,
    caller: Caller,
    Text(text): Text<MAX_BATCH_BYTES>,
) -> Answer<impl IntoResponse> {
    // What is wrong with a body is found by reading it again, slowly. An array is no body, though it could be
    // read as one.
    let quick = text.starts_with(b"{").then(|| serde_json::from_slice(&text).ok()).flatten();
    let Batch { tokens } = quick.map_or_else(|| body::parse(&text), Ok)?;
    if tokens.len() > MAX_TOKENS {
        let msg = format!("A batch has at most {MAX_TOKENS} tokens");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_tokens", msg));
    }
    let mut verdicts = Vec::with_capacity(tokens.len() * (VALID.len() + 1) + 2);
    verdicts.push(b'[');
    let (mut good, mut now) = (0, app.clock.now());
    let (mut search, mut screened) = (app.tokens.key_search(), VecDeque::new());
    for (n, Token(token)) in tokens.iter().enumerate() {
        if n > 0 {
            verdicts.push(b',');
        }
        let token = token.as_bytes();
        let verdict = match app.tokens.check_seen(token, now) {
            Some(verdict) => verdict,
            None => {
                // A token that was screened may have been cached since.
                while screened.front().is_some_and(|(of, _)| *of < n) {
                    screened.pop_front();
                }
                if screened.is_empty() {
                    screened = screen(&app, &tokens, n, &caller, source).await;
                }
                let first_look = screened.pop_front_if(|(of, _)| *of == n);
                let first_look = first_look.map_or(Screened::Plausible, |(_, first_look)| first_look);
                let verdict = app.tokens.check_screened(token, first_look, source, &mut search).await;
                now = app.clock.now();
                verdict
            }
        };
        match verdict {
            Ok(_) => {
                good += 1;
                verdicts.extend_from_slice(VALID);
            }
            Err(refusal) => {
                app.metrics.verdict(Some(refusal));
                refused(refusal, &mut verdicts);
            }
        }
        if n % TURN == TURN - 1 {
            app.metrics.valid(std::mem::take(&mut good));
            tokio::task::yield_now().await;
            now = app.clock.now();
        }
    }
    app.metrics.valid(good);
    verdicts.push(b']');
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], verdicts))
}

/// Screens the next uncached tokens, and returns their indexes with the results.
async fn screen(
    app: &App,
    tokens: &[Token<'_>],
    first: usize,
    caller: &Caller,
    source: Source,
) -> VecDeque<(usize, Screened)> {
    let next = tokens.iter().enumerate().skip(first);
    let unseen =
        next.filter(|(_, Token(token))| !app.tokens.has_seen(token.as_bytes())).take(SCREENED_AT_ONCE);
    let (places, unseen): (Vec<_>, Vec<_>) =
        unseen.map(|(n, Token(token))| (n, Box::<[u8]>::from(token.as_bytes()))).unzip();
    let screened = app.tokens.screen(unseen, caller.claims.user, source).await;
    places.into_iter().zip(screened).collect()
}
