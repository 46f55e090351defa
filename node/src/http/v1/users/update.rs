//! `PATCH users/{id}`: change names and email; admins may also enable or disable the user.

use std::sync::Arc;

use actors::user::ProfileChange;
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schema::permission::{ALL_ALL, USERS_ADMIN};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{UserView, all_valid, confirm::confirm, email, person_name};
use crate::{
    accounts::Client,
    app::App,
    http::{
        extract::{
            authority::{Authorized, ModifyUser},
            body::present,
        },
        respond::{
            problem::{Problem, ProblemBody},
            receipt::WithReceipt,
        },
    },
};

/// The fields to change. Absent fields stay, and null removes a name.
#[derive(Deserialize, ToSchema)]
pub struct UserChange {
    /// The new email; requires `password`.
    email: Option<String>,
    /// The caller's own password; required to change the email.
    #[schema(format = "password")]
    password: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    first_name: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    last_name: Option<Option<String>>,
    /// Needs `users_admin` or `all_all`. False revokes all sessions of the user.
    active: Option<bool>,
}

/// Change a user
#[utoipa::path(
    patch, path = "/users/{id}", tag = "users", operation_id = "update_user",
    security(("bearer" = [])),
    extensions(("x-changes" = json!("sometimes"))),
    params(("id" = String, Path)),
    request_body = UserChange,
    responses(
        (status = 200, description = "The user as it is now", body = UserView),
        (status = 400, description = "Invalid fields", body = ProblemBody),
        (status = 403, description = "The caller may not change this user, or the password is missing or wrong", body = ProblemBody),
        (status = 409, description = "The email is taken, or this would leave no active superuser", body = ProblemBody),
        (status = 429, description = "Too many wrong passwords", body = ProblemBody),
    ),
)]
pub async fn update(
    State(app): State<Arc<App>>,
    client: Client,
    Authorized(ModifyUser(on), change): Authorized<ModifyUser, UserChange>,
) -> Result<Response, Problem> {
    let (email, first_name, last_name, ()) = all_valid(
        change.email.as_deref().map(email).transpose(),
        change.first_name.map(|name| person_name("first_name", name.as_deref())).transpose(),
        change.last_name.map(|name| person_name("last_name", name.as_deref())).transpose(),
        Ok(()),
    )?;
    if change.active.is_some() {
        on.caller.require_any(&[USERS_ADMIN, ALL_ALL]).await?;
    }
    if let Some(email) = &email {
        // The password proves that the caller is not a passer-by at an unlocked screen.
        let password = change.password.ok_or_else(|| {
            Problem::new(StatusCode::FORBIDDEN, "password_required", "Changing the email needs your password")
        })?;
        confirm(&app, &on.caller, &client, &password).await?;
        on.require_still_modify(&app).await?;
        // Detects a taken email before anything is changed; the store still decides.
        let holder = app.stores.users.by_email(&email.folded()).await?;
        if holder.is_some_and(|holder| holder.id != on.user) {
            return Err(actors::user::UserError::EmailTaken.into());
        }
    }
    // Changes that may be refused come first, so that a request is applied completely or not at all.
    let mut receipt = None;
    if let Some(active) = change.active {
        receipt = Some(app.actors.users.set_active(on.user, active).await?.1);
        tracing::info!(user = %on.user, by = %on.caller.claims.user, active, "user enabled or disabled");
    }
    let (renamed, before) = match &email {
        Some(_) => (on.is_own(), app.stores.users.get(on.user).await.ok().flatten()),
        None => (false, None),
    };
    let profile = ProfileChange { email, first_name, last_name };
    let user = app.actors.users.change_profile(on.user, profile).await?;
    if let Some(before) = before.map(|before| before.email.folded()).filter(|b| *b != user.email.folded()) {
        // The next owner of this email must not inherit its known places.
        app.limits.forget_places(&before).await;
    }
    if renamed {
        // The caller has proved the password here, so failures of others must not lock it out from this
        // address.
        app.limits.owner_is_at(&user.email.folded(), client.ip_address).await;
    }
    let view = UserView::for_caller(&app, &on.caller, user).await?;
    Ok(match receipt {
        Some(receipt) => WithReceipt(receipt, Json(view)).into_response(),
        None => Json(view).into_response(),
    })
}
