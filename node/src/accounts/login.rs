//! Logging in with email and password.
//!
//! Promises: an unknown email, a wrong password, a disabled user and a user without a password get the same
//! outcome in the same time: a hash is computed in every case, and a failure is written to the history of a known
//! user after the outcome is returned. A lock hides whether a password was right.

use std::time::Duration;

use actors::user::UserError;
use schema::{
    email::FoldedEmail,
    login::{MAX_LOGINS, Outcome},
    user::User,
};

use super::{
    AccountError, Accounts,
    begin_session::{LoginClient, SessionTokens},
};
use crate::{
    credentials::passwords::{Normalized, Verdict},
    metrics::LoginResult,
    scheduling::source::Source,
};

/// What comes of a log-in.
#[derive(Debug)]
pub enum LoginOutcome {
    /// A session has begun.
    Session(SessionTokens),
    /// The email or the password is wrong, or the user may not log in.
    Refused,
    /// The account or the client's address has failed too often; it may try again after this time.
    Locked(Duration),
}

/// A user whose password was checked, and what came of it.
struct Checked {
    user: User,
    outcome: Outcome,
}

impl Accounts<'_> {
    /// Checks the password and begins a session.
    ///
    /// # Errors
    /// When too many log-ins wait, or the store does not answer.
    pub async fn log_in(
        self,
        email: &FoldedEmail,
        password: &str,
        from: &LoginClient,
    ) -> Result<LoginOutcome, AccountError> {
        if let Err(wait) = self.limits.may_log_in(email, from.ip_address()).await {
            return Ok(self.locked(wait));
        }
        let user = self.stores.users.by_email(email).await?;
        let checked = self.check_password(user, password, from.client.source).await;
        // Again: while this attempt waited for its turn, others may have locked the account.
        if let Err(wait) = self.limits.may_log_in(email, from.ip_address()).await {
            return Ok(self.locked(wait));
        }
        let checked = checked.inspect_err(|_| self.metrics.login(LoginResult::Busy))?;
        let checked = match checked {
            Some(Checked { user, outcome: Outcome::Success }) => Some(self.check_again(user).await?),
            other => other,
        };
        match checked {
            Some(Checked { user, outcome: Outcome::Success }) => {
                let session = self.begin_session(&user, from).await?;
                self.limits.succeeded(email, from.ip_address()).await;
                Ok(LoginOutcome::Session(session))
            }
            other => {
                self.record_failure(email, from, other).await;
                Ok(LoginOutcome::Refused)
            }
        }
    }

    fn locked(self, wait: Duration) -> LoginOutcome {
        self.metrics.login(LoginResult::Locked);
        LoginOutcome::Locked(wait)
    }

    /// Checks the password, in the same time whatever there is to check; `None` if there is no user.
    async fn check_password(
        self,
        user: Option<User>,
        password: &str,
        source: Source,
    ) -> Result<Option<Checked>, AccountError> {
        let typed = Normalized::typed(password);
        let Some(user) = user else {
            self.passwords.verify_nobody(typed, source).await?;
            return Ok(None);
        };
        let (Some(hash), Some(typed)) = (user.password.clone(), typed.clone()) else {
            let outcome = if user.password.is_none() { Outcome::NoPassword } else { Outcome::BadPassword };
            self.passwords.verify_nobody(typed, source).await?;
            return Ok(Some(Checked { user, outcome }));
        };
        let outcome = match self.passwords.verify(typed.clone(), hash.clone(), source).await? {
            Verdict::Wrong => Outcome::BadPassword,
            Verdict::Damaged => {
                tracing::error!(user = %user.id, "the stored password hash is damaged");
                self.passwords.verify_nobody(Some(typed), source).await?;
                Outcome::BadPassword
            }
            Verdict::Good | Verdict::GoodButOld if !user.active => Outcome::Disabled,
            Verdict::Good => Outcome::Success,
            Verdict::GoodButOld => {
                // Without a stronger hash, the log-in goes on.
                if let Ok(stronger) = self.passwords.hash(typed, source).await
                    && let Err(error) = self.actors.users.rehash_password(user.id, hash, stronger).await
                {
                    tracing::warn!(user = %user.id, %error, "the password hash could not be upgraded");
                }
                Outcome::Success
            }
        };
        Ok(Some(Checked { user, outcome }))
    }

    /// Reads the user again. Since the hash was read, the password may have been changed and the user disabled
    /// or deleted; then the old password no longer lets anyone in.
    async fn check_again(self, checked: User) -> Result<Checked, AccountError> {
        let Some(mut user) = self.stores.users.get(checked.id).await? else {
            return Ok(Checked { user: checked, outcome: Outcome::BadPassword });
        };
        if user.version < self.facts.denials().user_version(user.id) {
            user = match self.actors.users.catch_up(user.id).await {
                Ok(user) => user,
                Err(UserError::NotFound) => return Ok(Checked { user, outcome: Outcome::BadPassword }),
                Err(error) => return Err(error.into()),
            };
        }
        let outcome = if !user.active {
            Outcome::Disabled
        } else if user.version == checked.version || user.password == checked.password {
            Outcome::Success
        } else {
            Outcome::BadPassword
        };
        Ok(Checked { user, outcome })
    }

    async fn record_failure(self, email: &FoldedEmail, from: &LoginClient, checked: Option<Checked>) {
        let ip = from.ip_address();
        let locked = self.limits.failed(email, ip).await;
        self.metrics.login(LoginResult::Failure);
        tracing::info!(%ip, locked = locked.is_some(), "a log-in failed");
        if let Some(locked) = locked {
            // The email that was typed may be a password, so an account without a user is not named.
            let user = checked.as_ref().map(|checked| tracing::field::display(checked.user.id));
            tracing::warn!(user, %ip, locked_s = locked.as_secs(), "an account is locked");
        }
        let Some(Checked { user, outcome }) = checked else { return };
        let history = from.attempt(self, user.id, outcome);
        let logins = self.stores.logins.clone();
        tokio::spawn(async move {
            if let Err(error) = logins.record(&history, MAX_LOGINS).await {
                tracing::warn!(user = %history.user, %error, "a failed log-in is not in the history");
            }
        });
    }
}
