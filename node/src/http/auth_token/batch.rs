//! `POST auth_token/validation/batch`: the verdicts on many tokens, in their order.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use schema::Refusal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Answer;
use crate::{
    app::App,
    http::{
        authority::Caller,
        body::Body,
        problem::{Problem, ProblemBody},
    },
};

/// How many tokens a batch may have.
pub const MAX_TOKENS: usize = 1_000;
/// Longest body of a batch, in bytes.
pub const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// After so many tokens other requests have their turn: checking a signature takes 50 µs.
const TURN: usize = 16;

/// Tokens to validate.
#[derive(Deserialize, ToSchema)]
pub struct Batch {
    /// At most 1,000.
    tokens: Vec<String>,
}

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
    code: Option<&'static str>,
}

impl From<Option<Refusal>> for BatchVerdict {
    fn from(refusal: Option<Refusal>) -> Self {
        match refusal {
            None => Self { status: 200, msg: "Token is valid", code: None },
            Some(refusal) => {
                Self { status: refusal.status(), msg: refusal.msg(), code: Some(refusal.code()) }
            }
        }
    }
}

/// Validate many tokens
#[utoipa::path(
    post, path = "/auth_token/validation/batch", tag = "tokens",
    security(("bearer" = [])),
    request_body = Batch,
    responses(
        (status = 200, body = Vec<BatchVerdict>),
        (status = 401, body = ProblemBody),
        (status = 413, description = "More than 1,000 tokens or 4 MiB", body = ProblemBody),
    ),
)]
pub async fn validate_batch(
    State(app): State<Arc<App>>,
    _: Caller,
    Body(batch): Body<Batch, MAX_BATCH_BYTES>,
) -> Answer<Json<Vec<BatchVerdict>>> {
    if batch.tokens.len() > MAX_TOKENS {
        let msg = format!("A batch has at most {MAX_TOKENS} tokens");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_tokens", msg));
    }
    let mut verdicts = Vec::with_capacity(batch.tokens.len());
    for (n, token) in batch.tokens.iter().enumerate() {
        let refusal = app.tokens.check(token.as_bytes()).await.err();
        app.metrics.verdict(refusal);
        verdicts.push(refusal.into());
        if n % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
    }
    Ok(Json(verdicts))
}
