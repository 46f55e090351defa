//! `POST users/{id}/password`: set a new password, and revoke all earlier tokens of the user.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    accounts::{Client, change_password::ChangeOutcome},
    app::App,
    credentials::passwords::Normalized,
    http::{
        extract::authority::{Authorized, ModifyUser},
        respond::{
            problem::{Problem, ProblemBody},
            receipt::WithReceipt,
        },
        v1::auth_token::TokenPair,
    },
};

/// The old and the new password.
#[derive(Deserialize, ToSchema)]
pub struct PasswordChange {
    /// Required if the user is the caller.
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
        (status = 200, description = "The caller's own password has changed: a new pair for this session", body = TokenPair),
        (status = 204, description = "An admin has changed the password of another user"),
        (status = 400, description = "Invalid fields", body = ProblemBody),
        (status = 403, description = "The caller may not change this user, or the old password is wrong", body = ProblemBody),
        (status = 429, description = "Too many wrong old passwords", body = ProblemBody),
    ),
)]
pub async fn change_password(
    State(app): State<Arc<App>>,
    client: Client,
    Authorized(ModifyUser(on), given): Authorized<ModifyUser, PasswordChange>,
) -> Result<Response, Problem> {
    let new =
        Normalized::new(&given.new_password).map_err(|e| Problem::field("new_password", e.to_string()))?;
    if !on.is_own() {
        let may_still = on.require_still_modify(&app);
        let by = on.caller.claims.user;
        let receipt = app.accounts().set_password(on.user, by, new, &client, may_still).await?;
        return Ok(WithReceipt(receipt, StatusCode::NO_CONTENT).into_response());
    }
    let Some(old) = given.old_password else { return Err(Problem::field("old_password", "is missing")) };
    match app.accounts().change_own_password(&on.caller.claims, &old, new, &client).await? {
        ChangeOutcome::Changed(tokens, receipt) => {
            Ok(WithReceipt(receipt, TokenPair::of(&app, &tokens)?).into_response())
        }
        ChangeOutcome::Refused(why) => Err(why.into()),
    }
}
