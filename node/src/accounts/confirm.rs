//! A logged-in user shows its password once more: an access token alone does not take an account over.

use std::time::Duration;

use schema::{UserId, user::PasswordHash};

use super::{AccountError, Accounts, Client};
use crate::credentials::passwords::{Normalized, Verdict};

/// What comes of a confirmation.
#[derive(Debug)]
pub enum Confirmation {
    /// The password is right; it was checked against this hash.
    Right(PasswordHash),
    /// The password is not confirmed.
    Refused(NotConfirmed),
}

/// Why a password is not confirmed.
#[derive(Debug, Clone, Copy)]
pub enum NotConfirmed {
    /// The password is wrong.
    Wrong,
    /// The account or the client's address has failed too often; it may try again after this time.
    Locked(Duration),
    /// The user has been deleted.
    NoUser,
}

impl From<NotConfirmed> for Confirmation {
    fn from(why: NotConfirmed) -> Self {
        Self::Refused(why)
    }
}

impl Accounts<'_> {
    /// Checks the user's password, with the limits of logging in.
    ///
    /// # Errors
    /// When too many passwords wait, or the store does not answer.
    pub async fn confirm_password(
        self,
        user: UserId,
        client: &Client,
        password: &str,
    ) -> Result<Confirmation, AccountError> {
        let Some(user) = self.stores.users.get(user).await? else { return Ok(NotConfirmed::NoUser.into()) };
        let email = user.email.folded();
        let ip = client.ip_address;
        if let Err(wait) = self.limits.may_log_in(&email, ip).await {
            return Ok(NotConfirmed::Locked(wait).into());
        }
        let verdict = match (Normalized::typed(password), user.password.clone()) {
            (Some(typed), Some(hash)) => self.passwords.verify(typed, hash, client.source).await?,
            _ => Verdict::Wrong,
        };
        // Again, as at a log-in: a lock hides whether the password was right.
        if let Err(wait) = self.limits.may_log_in(&email, ip).await {
            return Ok(NotConfirmed::Locked(wait).into());
        }
        if let (Verdict::Good | Verdict::GoodButOld, Some(hash)) = (verdict, user.password) {
            return Ok(Confirmation::Right(hash));
        }
        if let Some(locked) = self.limits.failed(&email, ip).await {
            tracing::warn!(user = %user.id, %ip, locked_s = locked.as_secs(), "an account is locked");
        }
        Ok(NotConfirmed::Wrong.into())
    }
}
