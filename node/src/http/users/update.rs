//! `PATCH users/{id}`: names, email, and for admins whether the user is active.

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

use super::{UserView, confirm::confirm, email, person_name, together};
use crate::{
    app::App,
    http::{
        authority::{Authorized, Changing},
        body::present,
        client::Client,
        problem::{Problem, ProblemBody},
        taken::Taken,
    },
};

/// What is to change. What is absent stays; a name that is null goes.
#[derive(Deserialize, ToSchema)]
pub struct UserChange {
    /// Needs `password` beside it.
    email: Option<String>,
    /// The caller's own, for a change of the email.
    #[schema(format = "password")]
    password: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    first_name: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    last_name: Option<Option<String>>,
    /// Needs `users_admin`. False ends every session of the user.
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
        (status = 403, description = "Not the caller's to change, or the password is missing or wrong", body = ProblemBody),
        (status = 409, description = "The email is taken, or this would leave no active superuser", body = ProblemBody),
        (status = 429, description = "Too many wrong passwords", body = ProblemBody),
    ),
)]
pub async fn update(
    State(app): State<Arc<App>>,
    client: Client,
    Authorized(Changing(on), change): Authorized<Changing, UserChange>,
) -> Result<Response, Problem> {
    let (email, first_name, last_name, ()) = together(
        change.email.as_deref().map(email).transpose(),
        change.first_name.map(|name| person_name("first_name", name.as_deref())).transpose(),
        change.last_name.map(|name| person_name("last_name", name.as_deref())).transpose(),
        Ok(()),
    )?;
    if change.active.is_some() {
        on.caller.require_any(&[USERS_ADMIN, ALL_ALL]).await?;
    }
    if let Some(email) = &email {
        // Who changes an email shows that it is no passer-by at an open screen.
        let password = change.password.ok_or_else(|| {
            Problem::new(StatusCode::FORBIDDEN, "password_required", "Changing the email needs your password")
        })?;
        confirm(&app, &on.caller, &client, &password).await?;
        on.still_may_change(&app).await?;
        // Known now is known before anything is changed; the store decides all the same.
        let holder = app.stores.users.by_email(&email.folded()).await?;
        if holder.is_some_and(|holder| holder.id != on.user) {
            return Err(actors::user::UserError::EmailTaken.into());
        }
    }
    // What may be refused comes first, so that a request is done whole or not at all.
    let mut receipt = None;
    if let Some(active) = change.active {
        receipt = Some(app.actors.users.set_active(on.user, active).await?.1);
        tracing::info!(user = %on.user, by = %on.caller.claims.user, active, "a user was enabled or disabled");
    }
    let (renamed, before) = match &email {
        Some(_) => (on.is_own(), app.stores.users.get(on.user).await.ok().flatten()),
        None => (false, None),
    };
    let profile = ProfileChange { email, first_name, last_name };
    let user = app.actors.users.change_profile(on.user, profile).await?;
    if let Some(before) = before.map(|before| before.email.folded()).filter(|b| *b != user.email.folded()) {
        // The next owner of this address has other known places.
        app.limits.forget_places(&before).await;
    }
    if renamed {
        // Who has shown the password here may be locked out here by nobody.
        app.limits.owner_is_at(&user.email.folded(), client.ip_address).await;
    }
    let view = UserView::for_caller(&app, &on.caller, user).await?;
    Ok(match receipt {
        Some(receipt) => Taken(receipt, Json(view)).into_response(),
        None => Json(view).into_response(),
    })
}
