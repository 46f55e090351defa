//! `POST users`: register a user.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use schema::email::FoldedEmail;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{UserView, all_valid, email, person_name};
use crate::{
    accounts::{
        Client,
        register::{RegisterOutcome, Registration as NewRegistration},
    },
    app::App,
    credentials::passwords::Normalized,
    http::{
        extract::body::Body,
        respond::problem::{Problem, ProblemBody},
    },
};

/// The data of a new user.
#[derive(Deserialize, ToSchema)]
pub struct Registration {
    /// Unique; compared case-insensitively.
    #[schema(example = "ann@example.org")]
    email: String,
    /// 8 to 128 characters; the most common passwords are refused.
    #[schema(format = "password", min_length = 8, max_length = 128)]
    password: String,
    #[schema(max_length = 100)]
    first_name: Option<String>,
    #[schema(max_length = 100)]
    last_name: Option<String>,
}

/// Register a user
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
    let (email, first_name, last_name, password) = all_valid(
        email(&given.email),
        person_name("first_name", given.first_name.as_deref()),
        person_name("last_name", given.last_name.as_deref()),
        Normalized::new(&given.password).map_err(|error| Problem::field("password", error.to_string())),
    )?;
    let given = NewRegistration {
        email,
        typed_email: FoldedEmail::of(&given.email),
        password,
        first_name,
        last_name,
    };
    match app.accounts().register(given, &client).await? {
        RegisterOutcome::Registered(user) => Ok((StatusCode::CREATED, Json(user.into()))),
        RegisterOutcome::Limited(wait) => {
            let msg = "Too many registrations from this address; try again later";
            Err(Problem::too_many("too_many_registrations", msg, wait))
        }
    }
}
