//! The one way in which a session begins, after the user has proved who it is.

use std::net::IpAddr;

use schema::{
    LoginId, SessionId, Timestamp, UserId,
    login::{Login, MAX_LOGINS, Outcome},
    session::Session,
    text::Device,
    token::RefreshToken,
    user::User,
};

use super::{AccountError, Accounts, Client};
use crate::{credentials::tokens::RefreshTokens, metrics::LoginResult};

/// A session and its live refresh token: what the client's token pair is made from.
#[derive(Debug)]
pub struct SessionTokens {
    /// The user.
    pub user: UserId,
    /// The session.
    pub session: SessionId,
    /// The user's version, which access tokens carry.
    pub user_version: u64,
    /// The session's live refresh token.
    pub refresh: RefreshToken,
}

/// The client of a log-in, and what it calls itself.
#[derive(Debug, Clone)]
pub struct LoginClient {
    /// The client.
    pub client: Client,
    /// For the user's list of sessions.
    pub device: Option<Device>,
}

impl LoginClient {
    /// An attempt of this client to log in as the user, for the user's history.
    pub(super) fn attempt(&self, accounts: Accounts<'_>, user: UserId, outcome: Outcome) -> Login {
        let time = accounts.clock.now();
        Login {
            id: LoginId::new(time, accounts.entropy.id()),
            user,
            time,
            ip_address: self.client.ip_address,
            device: self.device(),
            user_agent: self.client.user_agent.clone(),
            outcome,
        }
    }

    pub(super) const fn ip_address(&self) -> IpAddr {
        self.client.ip_address
    }

    fn device(&self) -> Option<String> {
        self.device.clone().map(Device::into_string)
    }
}

impl Accounts<'_> {
    /// Opens a session for a user who has just proved who it is, and records that in the user's history.
    ///
    /// # Errors
    /// When the store does not take the session or the history: then the client gets no token, and the session,
    /// if it is there, ends by itself.
    pub async fn begin_session(self, user: &User, from: &LoginClient) -> Result<SessionTokens, AccountError> {
        let now = self.clock.now();
        let secret = self.tokens.refresh.secret();
        let session = Session {
            id: SessionId::new(now, self.entropy.id()),
            user: user.id,
            user_version: user.version,
            device: from.device(),
            ip_address: from.ip_address(),
            user_agent: from.client.user_agent.clone(),
            created_at: now,
            last_used_at: now,
            expires_at: Timestamp::from_secs(now.plus(self.refresh_ttl).as_secs()),
            live: RefreshTokens::hash(&secret),
            spent: Vec::new(),
        };
        let new = SessionTokens {
            user: user.id,
            session: session.id,
            user_version: user.version,
            refresh: self.tokens.refresh.token(&session, secret),
        };
        let history = from.attempt(self, user.id, Outcome::Success);
        tokio::try_join!(
            async { self.actors.sessions.open(session).await.map_err(AccountError::from) },
            async { self.stores.logins.record(&history, MAX_LOGINS).await.map_err(AccountError::from) },
        )?;
        self.metrics.login(LoginResult::Success);
        tracing::info!(user = %user.id, session = %new.session, ip = %from.ip_address(), "logged in");
        Ok(new)
    }
}
