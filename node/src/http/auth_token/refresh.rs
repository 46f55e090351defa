//! `POST auth_token/token_refresh`: spend a refresh token for a new pair.

use std::sync::Arc;

use actors::session::{RefreshRefusal, RefreshRequest};
use axum::{extract::State, http::HeaderMap};
use schema::Refusal;

use super::{Answer, TokenPair};
use crate::{
    app::App,
    http::{authority, client::Client, problem::ProblemBody},
    tokens::RefreshTokens,
};

/// Exchange a refresh token
///
/// Shown again within the grace it gets the same successor; later the session is revoked, since
/// somebody has a copy (RFC 9700, section 4.14.2).
#[utoipa::path(
    post, path = "/auth_token/token_refresh", tag = "tokens", operation_id = "refresh_token",
    security(("refresh" = [])),
    responses(
        (status = 200, description = "The next token pair", body = TokenPair),
        (status = 401, description = "Ended, or past its life", body = ProblemBody),
        (status = 422, description = "No refresh token", body = ProblemBody),
        (status = 503, description = "The store is away; the token is not spent", body = ProblemBody),
    ),
)]
pub async fn refresh(State(app): State<Arc<App>>, client: Client, headers: HeaderMap) -> Answer<TokenPair> {
    let text = authority::token(&headers)?;
    let spent = match app.tokens.refresh.read(text, app.clock.now()) {
        Ok(token) => token,
        // No refresh token at all: what is wrong with it is said by the other table.
        Err(Refusal::NotRefresh) => {
            return Err(app.tokens.refuse_as_refresh(text, || client.source).await.into());
        }
        Err(refusal) => {
            app.metrics.refresh_refused();
            return Err(refusal.into());
        }
    };
    let request = RefreshRequest {
        user: spent.user,
        session: spent.session,
        version: spent.version,
        presented: RefreshTokens::hash(&spent.secret),
        successor: RefreshTokens::hash(&app.tokens.refresh.successor(&spent.secret)),
        ip_address: client.ip_address,
        user_agent: client.user_agent,
    };
    let refreshed = app.actors.sessions.refresh(request).await?.map_err(|refusal| {
        app.metrics.refresh_refused();
        match refusal {
            RefreshRefusal::Revoked => Refusal::Revoked,
            RefreshRefusal::Expired => Refusal::Expired,
        }
    })?;
    app.metrics.refreshed();
    let next = app.tokens.refresh.next(&spent, refreshed.version, refreshed.expires_at);
    Ok(TokenPair::new(&app, spent.user, spent.session, refreshed.version, &next)?)
}
