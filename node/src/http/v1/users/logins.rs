//! `GET users/{id}/logins`: the login history, newest first.

use std::sync::Arc;

use axum::{Json, extract::State};
use schema::{
    LoginId,
    login::{LOGIN_RETENTION, Login, Outcome},
};
use serde::Serialize;
use utoipa::{ToSchema, openapi::Object};

use crate::{
    app::App,
    http::{
        extract::{
            authority::ReadUser,
            page::{Paged, filled_page, views},
        },
        openapi::{nullable, one_of},
        respond::problem::{Problem, ProblemBody},
    },
};

/// An attempt to log in.
#[derive(Serialize, ToSchema)]
pub struct LoginView {
    #[schema(value_type = uuid::Uuid)]
    uuid: LoginId,
    ip_address: String,
    #[schema(format = "date-time")]
    time: String,
    #[schema(required = true)]
    device: Option<String>,
    #[schema(required = true)]
    user_agent: Option<String>,
    success: bool,
    /// The reason of a failure; null for a success.
    #[schema(schema_with = reasons, required = true)]
    reason: Option<&'static str>,
}

fn reasons() -> Object {
    use Outcome::{BadPassword, Disabled, NoPassword, RefreshReuse, Success};
    let all = [Success, BadPassword, Disabled, NoPassword, RefreshReuse];
    nullable(one_of(all.into_iter().filter_map(Outcome::reason)))
}

impl From<Login> for LoginView {
    fn from(login: Login) -> Self {
        Self {
            uuid: login.id,
            ip_address: login.ip_address.to_string(),
            time: login.time.to_string(),
            device: login.device,
            user_agent: login.user_agent,
            success: login.outcome == Outcome::Success,
            reason: login.outcome.reason(),
        }
    }
}

/// A page of a login history.
#[derive(Serialize, ToSchema)]
pub struct LoginPage {
    logins: Vec<LoginView>,
    /// The `page_token` of the next page; null on the last one.
    #[schema(required = true)]
    next_page_token: Option<String>,
}

/// List log-ins
#[utoipa::path(
    get, path = "/users/{id}/logins", tag = "users", operation_id = "list_logins",
    security(("bearer" = [])),
    params(
        ("id" = String, Path),
        ("limit" = Option<u16>, Query),
        ("page_token" = Option<String>, Query),
    ),
    responses(
        (status = 200, description = "A page of log-ins, newest first", body = LoginPage),
        (status = 403, description = "Another user, and the caller lacks `users_admin` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn list(
    State(app): State<Arc<App>>,
    ReadUser(on): ReadUser,
    Paged(page): Paged<LoginId>,
) -> Result<Json<LoginPage>, Problem> {
    app.stores.users.get(on.user).await?.ok_or_else(Problem::not_found)?;
    let now = app.clock.now();
    let is_kept = |login: &Login| login.time.plus(LOGIN_RETENTION) > now;
    let read = |page| app.stores.logins.list(on.user, page);
    let found = filled_page(page, |login| login.id, is_kept, read).await?;
    let (logins, next_page_token) = views(found, LoginView::from);
    Ok(Json(LoginPage { logins, next_page_token }))
}
