//! `POST users/{id}/password`: a new password; every earlier token of the user is dead.

use std::sync::Arc;

use actors::user::{NewPassword, OwnChange};
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schema::{
    session::SecretHash,
    token::{RefreshToken, refresh::TAG_BYTES},
    user::PasswordHash,
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::confirm::confirm;
use crate::{
    app::App,
    http::{
        auth_token::TokenPair,
        authority::{Authorized, Changing, OnUser},
        client::Client,
        problem::{Problem, ProblemBody},
        taken::Taken,
    },
    passwords::Normalized,
    tokens::RefreshTokens,
};

/// The old and the new password.
#[derive(Deserialize, ToSchema)]
pub struct PasswordChange {
    /// Due when it is the caller's own password.
    #[schema(format = "password")]
    old_password: Option<String>,
    #[schema(format = "password", min_length = 8, max_length = 128)]
    new_password: String,
}

/// Change a password
#[utoipa::path(
    post, path = "/users/{id}/password", tag = "users", operation_id = "change_password",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("always"))),
    params(("id" = String, Path)),
    request_body = PasswordChange,
    responses(
        (status = 200, description = "The caller's own password: a new pair for this session", body = TokenPair),
        (status = 204, description = "Another user's, by an admin"),
        (status = 400, description = "Invalid fields", body = ProblemBody),
        (status = 403, description = "Not the caller's to change, or the old password is wrong", body = ProblemBody),
        (status = 429, description = "Too many wrong old passwords", body = ProblemBody),
    ),
)]
pub async fn change_password(
    State(app): State<Arc<App>>,
    client: Client,
    Authorized(Changing(on), given): Authorized<Changing, PasswordChange>,
) -> Result<Response, Problem> {
    let new =
        Normalized::new(&given.new_password).map_err(|e| Problem::field("new_password", e.to_string()))?;
    if on.is_own() {
        let Some(old) = given.old_password else { return Err(Problem::field("old_password", "is missing")) };
        let confirmed = confirm(&app, &on.caller, &client, &old).await?;
        own(&app, &on, &client, new, confirmed).await
    } else {
        let password = NewPassword { hash: app.passwords.hash(new, client.source).await?, own: None };
        on.still_may_change(&app).await?;
        let (_, _, receipt) = app.actors.users.change_password(on.user, password).await?;
        tracing::info!(user = %on.user, by = %on.caller.claims.user, "a password was set by an admin");
        // Failures with the old password say nothing about the new one. The password is set, whether or
        // not the lock can be lifted.
        if let Ok(Some(user)) = app.stores.users.get(on.user).await {
            app.limits.unlock(&user.email.folded()).await;
        }
        Ok(Taken(receipt, StatusCode::NO_CONTENT).into_response())
    }
}

async fn own(
    app: &App,
    on: &OnUser,
    client: &Client,
    new: Normalized,
    confirmed: PasswordHash,
) -> Result<Response, Problem> {
    let session = on.caller.claims.session;
    let secret = app.tokens.refresh.secret();
    let live: SecretHash = RefreshTokens::hash(&secret);
    let own = OwnChange { confirmed, token_version: on.caller.claims.version, session, live };
    let password = NewPassword { hash: app.passwords.hash(new, client.source).await?, own: Some(own) };
    let (version, expires_at, receipt) = app.actors.users.change_password(on.user, password).await?;
    tracing::info!(user = %on.user, "a password was changed");
    let refresh = app.tokens.refresh.tagged(RefreshToken {
        session,
        user: on.user,
        version,
        expires_at,
        secret,
        tag: [0; TAG_BYTES],
    });
    Ok(Taken(receipt, TokenPair::new(app, on.user, session, version, &refresh)?).into_response())
}
