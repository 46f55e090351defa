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
    credentials::tokens::Screened,
    http::{
        extract::{
            authority::Caller,
            body::{self, Text},
        },
        respond::problem::{Problem, ProblemBody},
    },
    scheduling::source::Source,
};

/// The most tokens of a batch.
pub const BATCH_TOKENS_MAX: usize = 1_000;
/// The longest body of a batch, in bytes.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The handler yields to other requests after this many tokens, which take some 50 µs.
const TOKENS_BETWEEN_YIELDS: usize = 128;
/// The most uncached tokens that one job screens, off the runtime's threads. Each costs ten times as much as a
/// cached one, even if its signature is invalid.
const SCREENED_TOKENS_MAX: usize = 16;

/// Tokens to validate.
#[derive(Deserialize, ToSchema)]
pub struct Batch<'a> {
    /// At most 1,000 access tokens.
    #[serde(borrow, deserialize_with = "deserialize_tokens")]
    #[schema(value_type = Vec<String>, max_items = 1000)]
    tokens: Vec<Token<'a>>,
}

/// Keeps at most one token more than a batch may have and skips the rest without allocating.
fn deserialize_tokens<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Vec<Token<'a>>, D::Error> {
    struct Tokens<'a>(PhantomData<&'a ()>);
    impl<'de: 'a, 'a> Visitor<'de> for Tokens<'a> {
        type Value = Vec<Token<'a>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sequence")
        }
        fn visit_seq<S: SeqAccess<'de>>(self, mut from: S) -> Result<Self::Value, S::Error> {
            let mut tokens = Vec::new();
            while tokens.len() <= BATCH_TOKENS_MAX {
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

/// A token, borrowed from the body unless it contains escapes.
#[derive(Deserialize)]
struct Token<'a>(#[serde(borrow)] Cow<'a, str>);

/// The verdict on one token.
#[derive(Serialize, ToSchema)]
pub struct BatchVerdict {
    /// The status that `GET auth_token/validation` would answer.
    #[schema(example = 200)]
    status: u16,
    /// The sentence that it would answer.
    #[schema(example = "Token is valid")]
    msg: &'static str,
    /// The code of the refusal; absent for an active token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    code: Option<&'static str>,
}

/// The verdict on an active token, prepared since nearly all tokens are active.
const VALID: &[u8] = br#"{"status":200,"msg":"Token is valid"}"#;

fn write_refusal(refusal: Refusal, out: &mut Vec<u8>) {
    let status = refusal.status();
    let msg = refusal.msg();
    let code = Some(refusal.code());
    // Writes to memory do not fail.
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
    Text(text): Text<BATCH_BYTES_MAX>,
) -> Answer<impl IntoResponse> {
    // Only a body that this fast parse refuses is parsed again, slowly, for its error. serde would also read an
    // array.
    let quick = text.starts_with(b"{").then(|| serde_json::from_slice(&text).ok()).flatten();
    let Batch { tokens } = quick.map_or_else(|| body::parse(&text), Ok)?;
    if tokens.len() > BATCH_TOKENS_MAX {
        let msg = format!("A batch has at most {BATCH_TOKENS_MAX} tokens");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_tokens", msg));
    }
    let mut verdicts = Vec::with_capacity(tokens.len() * (VALID.len() + 1) + 2);
    verdicts.push(b'[');
    let mut active = 0;
    let mut now = app.clock.now();
    let mut search = app.tokens.key_search();
    let mut screened = VecDeque::new();
    for (n, Token(token)) in tokens.iter().enumerate() {
        if n > 0 {
            verdicts.push(b',');
        }
        let token = token.as_bytes();
        let verdict = match app.tokens.check_seen(token, now) {
            Some(verdict) => verdict,
            None => {
                // A screened token may have been cached since: skip its result.
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
                active += 1;
                verdicts.extend_from_slice(VALID);
            }
            Err(refusal) => {
                app.metrics.verdict(Some(refusal));
                write_refusal(refusal, &mut verdicts);
            }
        }
        if n % TOKENS_BETWEEN_YIELDS == TOKENS_BETWEEN_YIELDS - 1 {
            app.metrics.valid(std::mem::take(&mut active));
            tokio::task::yield_now().await;
            now = app.clock.now();
        }
    }
    app.metrics.valid(active);
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
        next.filter(|(_, Token(token))| !app.tokens.has_seen(token.as_bytes())).take(SCREENED_TOKENS_MAX);
    let (indexes, unseen): (Vec<_>, Vec<_>) =
        unseen.map(|(n, Token(token))| (n, Box::<[u8]>::from(token.as_bytes()))).unzip();
    let screened = app.tokens.screen(unseen, caller.claims.user, source).await;
    indexes.into_iter().zip(screened).collect()
}
