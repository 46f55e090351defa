//! `POST auth_token/token_refresh`: exchange a refresh token for a new pair.

use std::sync::Arc;

use axum::{extract::State, http::HeaderMap};

use super::{Answer, TokenPair};
use crate::{
    accounts::{Client, refresh::RefreshOutcome},
    app::App,
    http::{extract::credential, respond::problem::ProblemBody},
};

/// Exchange a refresh token
///
/// A token that is presented again within the grace period gets the same successor. Later the session is
/// revoked, since the token has been copied (RFC 9700, section 4.14.2).
#[utoipa::path(
    post, path = "/auth_token/token_refresh", tag = "tokens", operation_id = "refresh_token",
    security(("refresh" = [])),
    responses(
        (status = 200, description = "The next token pair", body = TokenPair),
        (status = 401, description = "The session has ended, or the token has expired", body = ProblemBody),
        (status = 422, description = "The token is not a refresh token", body = ProblemBody),
        (status = 503, description = "The store is unavailable; the token can still be used", body = ProblemBody),
    ),
)]
pub async fn refresh(State(app): State<Arc<App>>, client: Client, headers: HeaderMap) -> Answer<TokenPair> {
    let presented = credential::token(&headers)?;
    match app.accounts().refresh(presented, client).await? {
        RefreshOutcome::Next(tokens) => Ok(TokenPair::of(&app, &tokens)?),
        RefreshOutcome::Refused(refusal) => Err(refusal.into()),
    }
}
