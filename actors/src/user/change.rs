//! Changes of a user's record, each a compare-and-set.

use schema::{
    Timestamp, UserId,
    email::Email,
    session::{SecretHash, Session},
    text::PersonName,
    user::{PasswordHash, User},
    version::ended_below,
};
use store::{
    Replaced, Rotated,
    cas::{self, Attempt, Pacing, ROW_ATTEMPTS_MAX},
};

use super::{UserError, revoke::revoke_tokens};
use crate::{Context, Receipt};

/// A change of a user's profile. `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct ProfileChange {
    pub email: Option<Email>,
    pub first_name: Option<Option<PersonName>>,
    pub last_name: Option<Option<PersonName>>,
}

/// A new password, and the session that stays when the user changes it itself.
#[derive(Debug, Clone)]
pub struct NewPassword {
    /// The hash of the new password.
    pub hash: PasswordHash,
    /// The user's own authority; `None` when an admin sets the password.
    pub own: Option<OwnChange>,
}

/// What authorizes a user's own change of its password, and the session that it keeps.
#[derive(Debug, Clone)]
pub struct OwnChange {
    /// The hash that the old password was verified against.
    pub confirmed: PasswordHash,
    /// The user version in the caller's access token.
    pub token_version: u64,
    /// The session of the caller's token, which the change keeps.
    pub session: schema::SessionId,
    /// The hash of the new refresh token of that session.
    pub live: SecretHash,
}

impl OwnChange {
    /// Whether the user still has the confirmed password and no fact has revoked the caller's token.
    fn is_still_valid(&self, context: &Context, user: &User) -> bool {
        let denials = context.facts.denials();
        user.active
            && user.password.as_ref() == Some(&self.confirmed)
            && user.version <= self.token_version
            && !denials.refuses_version(user.id, self.token_version)
            && !denials.refuses_session(self.session)
    }
}

/// Changes a user's record by compare-and-set, and returns the changed user. `change` runs again on the
/// current record when another writer was faster.
pub(super) async fn update(
    context: &Context,
    id: UserId,
    change: impl Fn(&mut User) -> Result<(), UserError> + Send + Sync,
) -> Result<User, UserError> {
    let users = &context.stores.users;
    let change = &change;
    let user = users.get(id).await?.ok_or(UserError::NotFound)?;
    cas::retry(Pacing::AtOnce(ROW_ATTEMPTS_MAX), user, |user: User| async move {
        let mut next = user.clone();
        change(&mut next)?;
        if next == user {
            return Ok(Attempt::Done(user));
        }
        next.revision = user.revision + 1;
        match users.replace(&next).await? {
            Replaced::Done => Ok(Attempt::Done(next)),
            Replaced::Changed(current) => Ok(Attempt::Lost(*current)),
            Replaced::Gone => Err(UserError::NotFound),
            Replaced::EmailTaken => Err(UserError::EmailTaken),
        }
    })
    .await
}

/// Changes the profile. An email that folds to another address becomes unconfirmed.
pub(super) async fn profile(context: &Context, id: UserId, change: ProfileChange) -> Result<User, UserError> {
    update(context, id, |user| {
        if let Some(email) = &change.email {
            user.email_confirmed &= email.folded() == user.email.folded();
            user.email = email.clone();
        }
        if let Some(name) = &change.first_name {
            user.first_name = name.clone().map(PersonName::into_string);
        }
        if let Some(name) = &change.last_name {
            user.last_name = name.clone().map(PersonName::into_string);
        }
        Ok(())
    })
    .await
}

/// Raises the stored version to the version that this node's denials require, so that tokens issued from
/// it are accepted.
pub(super) async fn catch_up(context: &Context, id: UserId) -> Result<User, UserError> {
    let required = context.facts.denials().user_version(id);
    update(context, id, |user| {
        user.version = user.version.max(required);
        Ok(())
    })
    .await
}

/// Sets the password and revokes all earlier tokens of the user. The kept session gets the new version
/// and a new refresh token. Returns the version, the expiry of that refresh token, and the receipt.
pub(super) async fn password(
    context: &Context,
    id: UserId,
    password: NewPassword,
) -> Result<(u64, Timestamp, Receipt), UserError> {
    let user = context.stores.users.get(id).await?.ok_or(UserError::NotFound)?;
    if password.own.as_ref().is_some_and(|own| !own.is_still_valid(context, &user)) {
        return Err(UserError::Revoked);
    }
    let set = |user: &mut User| {
        // Another node changed the password since the check above: that change stands.
        if password.own.as_ref().is_some_and(|own| user.password.as_ref() != Some(&own.confirmed)) {
            return Err(UserError::Revoked);
        }
        user.password = Some(password.hash.clone());
        Ok(())
    };
    let (user, receipt) = revoke_tokens(context, &user, set).await?;
    let now = context.clock.now();
    let expires_at = Timestamp::from_secs(now.plus(context.refresh.ttl).as_secs());
    if let Some(OwnChange { session, live, .. }) = password.own {
        let renew = |old: &Session| Session {
            user_version: user.version,
            live,
            spent: Vec::new(),
            last_used_at: now,
            expires_at,
            ..old.clone()
        };
        renew_session(context, id, session, renew).await?;
    }
    context.stores.sessions.end_older(id, ended_below(user.version)).await?;
    Ok((user.version, expires_at, receipt))
}

/// Replaces the stored session by compare-and-set.
async fn renew_session(
    context: &Context,
    user: UserId,
    id: schema::SessionId,
    renew: impl Fn(&Session) -> Session + Send + Sync,
) -> Result<(), UserError> {
    let sessions = &context.stores.sessions;
    // Without a row, another call has ended the session, and its fact refuses the caller's new tokens.
    let renew = &renew;
    let Some(session) = sessions.get(user, id).await? else { return Ok(()) };
    cas::retry(Pacing::AtOnce(ROW_ATTEMPTS_MAX), session, |session: Session| async move {
        Ok(match sessions.rotate(&session, &renew(&session)).await? {
            Rotated::Done | Rotated::Gone => Attempt::Done(()),
            Rotated::Lost(current) => Attempt::Lost(*current),
        })
    })
    .await
}
