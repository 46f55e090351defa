//! `GET users`: list users, for admins.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::request::Parts,
};
use schema::{
    UserId,
    email::FoldedEmail,
    page::{Page, PageOf},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::UserView;
use crate::{
    app::App,
    http::{
        extract::{
            authority::UsersAdmin,
            page::{Paged, parameter, to_token},
        },
        respond::problem::{Problem, ProblemBody},
    },
};

/// A page of users.
#[derive(Serialize, ToSchema)]
pub struct UserPage {
    users: Vec<UserView>,
    /// The `page_token` of the next page; null on the last one.
    #[schema(required = true)]
    next_page_token: Option<String>,
}

/// The filter by email in the query (`?email=`).
pub struct EmailFilter(Option<FoldedEmail>);

impl<S: Sync> FromRequestParts<S> for EmailFilter {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let email = parameter(parts.uri.query().unwrap_or_default(), "email", "bad_email")?;
        Ok(Self(email.map(|email| FoldedEmail::of(&email))))
    }
}

/// List users
#[utoipa::path(
    get, path = "/users", tag = "users", operation_id = "list_users",
    security(("bearer" = [])),
    params(
        ("limit" = Option<u16>, Query),
        ("page_token" = Option<String>, Query),
        ("email" = Option<String>, Query, description = "Only the user with this email"),
    ),
    responses(
        (status = 200, description = "A page of users", body = UserPage),
        (status = 403, description = "The caller lacks `users_admin` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn list(
    State(app): State<Arc<App>>,
    _: UsersAdmin,
    Paged(page): Paged<UserId>,
    EmailFilter(email): EmailFilter,
) -> Result<Json<UserPage>, Problem> {
    let found = match email {
        Some(email) => {
            let user = app.stores.users.by_email(&email).await?;
            let after = |id| page.after.is_none_or(|after| id > after);
            Page { items: user.into_iter().filter(|user| after(user.id)).collect(), next: None }
        }
        None => app.stores.users.list(PageOf { ..page }).await?,
    };
    let mut users = Vec::with_capacity(found.items.len());
    for user in found.items {
        users.push(UserView::for_admin(&app, user).await);
    }
    Ok(Json(UserPage { users, next_page_token: found.next.as_ref().map(to_token) }))
}
