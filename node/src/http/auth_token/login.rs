//! `POST auth_token`: log in with email and password.
//!
//! Unknown email, wrong password, disabled user and user without a password get the same answer in
//! the same time: a hash is computed in every case, and what goes to the history of a known user
//! is written after the answer.

use std::sync::Arc;

use axum::extract::State;
use schema::{
    LoginId, SessionId, Timestamp,
    email::FoldedEmail,
    login::{Login, MAX_LOGINS, Outcome},
    session::Session,
    text::Device,
    user::User,
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Answer, TokenPair};
use crate::{
    app::App,
    http::{
        body::Body,
        client::Client,
        problem::{Problem, ProblemBody},
    },
    metrics::LoginResult,
    passwords::{Normalized, Verdict},
    source::Source,
    tokens::RefreshTokens,
};

/// Who logs in.
#[derive(Deserialize, ToSchema)]
pub struct Credentials {
    /// Compared without case.
    #[schema(example = "ann@example.org")]
    email: String,
    /// Compared in its Unicode normal form.
    #[schema(format = "password")]
    password: String,
    /// What the client calls itself, for the list of sessions; at most 200 characters.
    #[schema(example = "Ann's phone")]
    device: Option<String>,
}

/// Log in
#[utoipa::path(
    post, path = "/auth_token", tag = "tokens", operation_id = "log_in",
    request_body = Credentials,
    responses(
        (status = 200, description = "A token pair of a new session", body = TokenPair),
        (status = 401, description = "Bad email or password", body = ProblemBody),
        (status = 429, description = "The account is locked, or the address is slowed", body = ProblemBody),
        (status = 503, description = "Too many log-ins wait, or the store is away", body = ProblemBody),
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
    if let Err(wait) = app.limits.may_log_in(&email, client.ip_address).await {
        app.metrics.login(LoginResult::Locked);
        return Err(Problem::locked(wait));
    }
    let user = app.stores.users.by_email(&email).await?;
    let checked = check(&app, user, &given.password, client.source).await;
    // Asked again: while this one waited for its turn, others may have locked the account, and a
    // lock hides whether a password was right.
    if let Err(wait) = app.limits.may_log_in(&email, client.ip_address).await {
        app.metrics.login(LoginResult::Locked);
        return Err(Problem::locked(wait));
    }
    let attempt = Attempt { app: &app, email: &email, client, device: device.map(Device::into_string) };
    match checked {
        Ok((user, Outcome::Success)) => match still_good(&app, user).await? {
            Ok(user) => attempt.succeeded(user).await,
            Err(known) => Err(attempt.failed(Some(known)).await),
        },
        Ok((user, outcome)) => Err(attempt.failed(Some((user, outcome))).await),
        Err(Failed::NoUser) => Err(attempt.failed(None).await),
        Err(Failed::Problem(problem)) => {
            app.metrics.login(LoginResult::Busy);
            Err(problem)
        }
    }
}

enum Failed {
    NoUser,
    Problem(Problem),
}

impl<E: Into<Problem>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Problem(error.into())
    }
}

/// Checks the password, in the same time whatever there is to check.
async fn check(
    app: &App,
    user: Option<User>,
    password: &str,
    source: Source,
) -> Result<(User, Outcome), Failed> {
    let typed = Normalized::typed(password);
    let Some(user) = user else {
        app.passwords.verify_nobody(typed, source).await?;
        return Err(Failed::NoUser);
    };
    let (Some(hash), Some(typed)) = (user.password.clone(), typed.clone()) else {
        let outcome = if user.password.is_none() { Outcome::NoPassword } else { Outcome::BadPassword };
        app.passwords.verify_nobody(typed, source).await?;
        return Ok((user, outcome));
    };
    let verdict = app.passwords.verify(typed.clone(), hash.clone(), source).await?;
    let outcome = match verdict {
        Verdict::Wrong => Outcome::BadPassword,
        Verdict::Damaged => {
            tracing::error!(user = %user.id, "the stored password hash is damaged");
            app.passwords.verify_nobody(Some(typed), source).await?;
            Outcome::BadPassword
        }
        Verdict::Good | Verdict::GoodButOld if !user.active => Outcome::Disabled,
        Verdict::Good => Outcome::Success,
        Verdict::GoodButOld => {
            // A stronger hash is welcome, not required: the login goes on without it.
            if let Ok(stronger) = app.passwords.hash(typed, source).await
                && let Err(error) = app.actors.users.rehash_password(user.id, hash, stronger).await
            {
                tracing::warn!(user = %user.id, %error, "the password hash stays as it is");
            }
            Outcome::Success
        }
    };
    Ok((user, outcome))
}

/// The user as it is now. Between reading the hash and here the password may have been changed, the
/// user disabled or deleted: then the old password opens nothing any more.
async fn still_good(app: &App, checked: User) -> Answer<Result<User, (User, Outcome)>> {
    let Some(mut user) = app.stores.users.get(checked.id).await? else {
        return Ok(Err((checked, Outcome::BadPassword)));
    };
    if user.version < app.facts.denials().user_version(user.id) {
        user = app.actors.users.catch_up(user.id).await?;
    }
    Ok(if !user.active {
        Err((user, Outcome::Disabled))
    } else if user.version == checked.version || user.password == checked.password {
        Ok(user)
    } else {
        Err((user, Outcome::BadPassword))
    })
}

struct Attempt<'a> {
    app: &'a Arc<App>,
    email: &'a FoldedEmail,
    client: Client,
    device: Option<String>,
}

impl Attempt<'_> {
    async fn succeeded(self, user: User) -> Answer<TokenPair> {
        let app = self.app;
        let user_version = user.version;
        let now = app.clock.now();
        let secret = app.tokens.refresh.secret();
        let session = Session {
            id: SessionId::new(now, app.entropy.id()),
            user: user.id,
            user_version,
            device: self.device.clone(),
            ip_address: self.client.ip_address,
            user_agent: self.client.user_agent.clone(),
            created_at: now,
            last_used_at: now,
            expires_at: Timestamp::from_secs(now.plus(app.settings.refresh_ttl).as_secs()),
            live: RefreshTokens::hash(&secret),
            spent: Vec::new(),
        };
        let refresh = app.tokens.refresh.token(&session, secret);
        let id = session.id;
        let history = self.entry(&user, Outcome::Success);
        tokio::try_join!(async { app.actors.sessions.open(session).await.map_err(Problem::from) }, async {
            app.stores.logins.record(&history, MAX_LOGINS).await.map_err(Problem::from)
        },)?;
        app.limits.succeeded(self.email, self.client.ip_address).await;
        app.metrics.login(LoginResult::Success);
        tracing::info!(user = %user.id, session = %id, ip = %self.client.ip_address, "logged in");
        Ok(TokenPair::new(app, user.id, id, user_version, &refresh)?)
    }

    async fn failed(self, known: Option<(User, Outcome)>) -> Problem {
        let app = self.app.clone();
        let ip = self.client.ip_address;
        let locked = app.limits.failed(self.email, ip).await;
        app.metrics.login(LoginResult::Failure);
        tracing::info!(%ip, locked = locked.is_some(), "a login failed");
        if let Some(locked) = locked {
            // What was typed may be a password: an account without a user has no name here.
            let user = known.as_ref().map(|(user, _)| tracing::field::display(user.id));
            tracing::warn!(user, %ip, locked_s = locked.as_secs(), "an account is locked");
        }
        if let Some((user, outcome)) = known {
            let history = self.entry(&user, outcome);
            tokio::spawn(async move {
                if let Err(error) = app.stores.logins.record(&history, MAX_LOGINS).await {
                    tracing::warn!(user = %history.user, %error, "a failed login is not in the history");
                }
            });
        }
        Problem::new(axum::http::StatusCode::UNAUTHORIZED, "bad_credentials", "Bad email or password")
    }

    fn entry(&self, user: &User, outcome: Outcome) -> Login {
        let time = self.app.clock.now();
        Login {
            id: LoginId::new(time, self.app.entropy.id()),
            user: user.id,
            time,
            ip_address: self.client.ip_address,
            device: self.device.clone(),
            user_agent: self.client.user_agent.clone(),
            outcome,
        }
    }
}
