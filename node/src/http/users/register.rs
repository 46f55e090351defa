//! `POST users`: register.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use schema::email::FoldedEmail;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{UserView, email, person_name, together};
use crate::{
    app::App,
    http::{
        body::Body,
        client::Client,
        problem::{Problem, ProblemBody},
    },
    passwords::Normalized,
};

/// Who registers.
#[derive(Deserialize, ToSchema)]
pub struct Registration {
    /// Unique, compared without case.
    #[schema(example = "ann@example.org")]
    email: String,
    /// 8 to 128 characters, not one of the most common ones.
    #[schema(format = "password", min_length = 8, max_length = 128)]
    password: String,
    #[schema(max_length = 100)]
    first_name: Option<String>,
    #[schema(max_length = 100)]
    last_name: Option<String>,
}

/// Register
#[utoipa::path(
    post, path = "/users", tag = "users", operation_id = "register_user",
    request_body = Registration,
    responses(
        (status = 201, description = "The new user", body = UserView),
        (status = 400, description = "Invalid fields", body = ProblemBody),
        (status = 409, description = "A user with this email exists", body = ProblemBody),
        (status = 429, description = "Too many registrations from this address", body = ProblemBody),
    ),
)]
pub async fn register(
    State(app): State<Arc<App>>,
    client: Client,
    Body(given): Body<Registration>,
) -> Result<(StatusCode, Json<UserView>), Problem> {
    let (email, first_name, last_name, password) = together(
        email(&given.email),
        person_name("first_name", given.first_name.as_deref()),
        person_name("last_name", given.last_name.as_deref()),
        Normalized::new(&given.password).map_err(|error| Problem::field("password", error.to_string())),
    )?;
    app.limits.may_register(client.ip_address).await.map_err(|wait| {
        let msg = "Too many registrations from this address; try again later";
        Problem::too_many("too_many_registrations", msg, wait)
    })?;
    // Known now is known before the work of hashing; the store decides all the same. As it was typed: an
    // earlier version may have stored it so.
    if app.stores.users.by_email(&FoldedEmail::of(&given.email)).await?.is_some() {
        return Err(actors::user::UserError::EmailTaken.into());
    }
    let hash = app.passwords.hash(password, client.source).await?;
    let user = app.new_user(email, Some(hash), first_name, last_name);
    app.actors.users.register(user.clone()).await?;
    tracing::info!(user = %user.id, "registered");
    Ok((StatusCode::CREATED, Json(user.into())))
}
