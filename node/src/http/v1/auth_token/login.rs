//! `POST auth_token`: log in with email and password.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use schema::{email::FoldedEmail, text::Device};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Answer, TokenPair};
use crate::{
    accounts::{Client, begin_session::LoginClient, login::LoginOutcome},
    app::App,
    http::{
        extract::body::Body,
        respond::problem::{Problem, ProblemBody},
    },
};

/// The credentials of a user.
#[derive(Deserialize, ToSchema)]
pub struct Credentials {
    /// Compared case-insensitively.
    #[schema(example = "ann@example.org")]
    email: String,
    /// Compared after Unicode normalization.
    #[schema(format = "password")]
    password: String,
    /// The device's name in the list of sessions; at most 200 characters.
    #[schema(example = "Ann's phone")]
    device: Option<String>,
}

/// Log in
#[utoipa::path(
    post, path = "/auth_token", tag = "tokens", operation_id = "log_in",
    request_body = Credentials,
    responses(
        (status = 200, description = "The token pair of a new session", body = TokenPair),
        (status = 401, description = "Bad email or password", body = ProblemBody),
        (status = 429, description = "Too many failed attempts on the account or from the address", body = ProblemBody),
        (status = 503, description = "Too many log-ins are waiting, or the store is unavailable", body = ProblemBody),
    ),
)]
pub async fn login(
    State(app): State<Arc<App>>,
    client: Client,
    Body(given): Body<Credentials>,
) -> Answer<TokenPair> {
    let device = given.device.as_deref().map(Device::parse).transpose();
    let device = device.map_err(|why| Problem::field("device", why.to_string()))?.flatten();
    let email = FoldedEmail::of(&given.email);
    let from = LoginClient { client, device };
    match app.accounts().log_in(&email, &given.password, &from).await? {
        LoginOutcome::Session(session) => Ok(TokenPair::of(&app, &session)?),
        LoginOutcome::Refused => {
            Err(Problem::new(StatusCode::UNAUTHORIZED, "bad_credentials", "Bad email or password"))
        }
        LoginOutcome::Locked(wait) => Err(Problem::locked(wait)),
    }
}
