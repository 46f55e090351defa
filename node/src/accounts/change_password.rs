//! Setting a new password, which revokes all earlier tokens of the user.

use actors::{
    Receipt,
    user::{NewPassword, OwnChange},
};
use schema::{
    UserId,
    token::{AccessClaims, RefreshToken, refresh::TAG_BYTES},
};

use super::{
    AccountError, Accounts, Client,
    begin_session::SessionTokens,
    confirm::{Confirmation, NotConfirmed},
};
use crate::credentials::{passwords::Normalized, tokens::RefreshTokens};

/// What comes of the change of one's own password.
#[derive(Debug)]
pub enum ChangeOutcome {
    /// The password is changed; the caller's session goes on with these tokens.
    Changed(SessionTokens, Receipt),
    /// The old password is not confirmed.
    Refused(NotConfirmed),
}

impl Accounts<'_> {
    /// Changes the caller's own password, after the caller has confirmed the old one.
    ///
    /// # Errors
    /// When the session is revoked during the change, too many passwords wait, or the store does not answer.
    pub async fn change_own_password(
        self,
        caller: &AccessClaims,
        old: &str,
        new: Normalized,
        client: &Client,
    ) -> Result<ChangeOutcome, AccountError> {
        let confirmed = match self.confirm_password(caller.user, client, old).await? {
            Confirmation::Right(hash) => hash,
            Confirmation::Refused(why) => return Ok(ChangeOutcome::Refused(why)),
        };
        let session = caller.session;
        let secret = self.tokens.refresh.secret();
        let live = RefreshTokens::hash(&secret);
        let own = OwnChange { confirmed, token_version: caller.version, session, live };
        let hash = self.passwords.hash(new, client.source).await?;
        let password = NewPassword { hash, own: Some(own) };
        let (version, expires_at, receipt) = self.actors.users.change_password(caller.user, password).await?;
        tracing::info!(user = %caller.user, "password changed");
        let refresh = self.tokens.refresh.tagged(RefreshToken {
            session,
            user: caller.user,
            version,
            expires_at,
            secret,
            tag: [0; TAG_BYTES],
        });
        let tokens = SessionTokens { user: caller.user, session, user_version: version, refresh };
        Ok(ChangeOutcome::Changed(tokens, receipt))
    }

    /// Sets the password of another user for the admin `by`. `may_still` runs after the costly hash, right before
    /// the change: the admin may have lost the authority since.
    ///
    /// # Errors
    /// Those of `may_still`; or when too many passwords wait, or the store does not answer.
    pub async fn set_password<E: From<AccountError>>(
        self,
        user: UserId,
        by: UserId,
        new: Normalized,
        client: &Client,
        may_still: impl Future<Output = Result<(), E>>,
    ) -> Result<Receipt, E> {
        let hash = self.passwords.hash(new, client.source).await.map_err(AccountError::from)?;
        may_still.await?;
        let password = NewPassword { hash, own: None };
        let changed = self.actors.users.change_password(user, password).await;
        let (_, _, receipt) = changed.map_err(AccountError::from)?;
        tracing::info!(%user, %by, "password set by an admin");
        // Failures with the old password do not count against the new one. The password is set even if the lock
        // cannot be lifted.
        if let Ok(Some(user)) = self.stores.users.get(user).await {
            self.limits.unlock(&user.email.folded()).await;
        }
        Ok(receipt)
    }
}
