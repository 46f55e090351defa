//! Changes of a user's own record, each a compare-and-set.

use schema::{
    Timestamp, UserId,
    email::Email,
    session::{SecretHash, Session},
    store::{Replaced, Rotated},
    text::PersonName,
    user::{PasswordHash, User, ended_below},
};

use super::{UserError, revoke::kill_tokens};
use crate::{ActorError, Context, Receipt};

/// How often a lost compare-and-set is tried again.
const ATTEMPTS: usize = 16;

/// What a user may change about itself. `None` leaves things as they are.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct ProfileChange {
    pub email: Option<Email>,
    pub first_name: Option<Option<PersonName>>,
    pub last_name: Option<Option<PersonName>>,
}

/// A new password, and what becomes of the session that asked for it.
#[derive(Debug, Clone)]
pub struct NewPassword {
    /// The hash of the new password.
    pub hash: PasswordHash,
    /// When the user does it itself; `None` when an admin does.
    pub own: Option<OwnChange>,
}

/// What a user's own change of its password rests on, and the session that goes on.
#[derive(Debug, Clone)]
pub struct OwnChange {
    /// The hash that the old password was checked against.
    pub confirmed: PasswordHash,
    /// The version of the token that asks.
    pub token_version: u64,
    /// The session of the token.
    pub session: schema::SessionId,
    /// Its new refresh token.
    pub live: SecretHash,
}

impl OwnChange {
    /// Whether nothing that it rests on was taken away meanwhile.
    fn still_stands(&self, context: &Context, user: &User) -> bool {
        let denials = context.facts.denials();
        user.active
            && user.password.as_ref() == Some(&self.confirmed)
            && user.version <= self.token_version
            && !denials.refuses_version(user.id, self.token_version)
            && !denials.refuses_session(self.session)
    }
}

/// Reads a user, changes it, writes it, and again when somebody was faster.
pub(super) async fn update(
    context: &Context,
    id: UserId,
    change: impl Fn(&mut User) -> Result<(), UserError> + Send,
) -> Result<User, UserError> {
    let mut user = context.stores.users.get(id).await?.ok_or(UserError::NotFound)?;
    for _ in 0..ATTEMPTS {
        let mut next = user.clone();
        change(&mut next)?;
        if next == user {
            return Ok(user);
        }
        next.revision = user.revision + 1;
        match context.stores.users.replace(&next).await? {
            Replaced::Done => return Ok(next),
            Replaced::Changed(current) => user = *current,
            Replaced::Gone => return Err(UserError::NotFound),
            Replaced::EmailTaken => return Err(UserError::EmailTaken),
        }
    }
    Err(ActorError::Busy.into())
}

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

/// Raises the stored version to what was heard, so that tokens issued from it are good.
pub(super) async fn catch_up(context: &Context, id: UserId) -> Result<User, UserError> {
    let heard = context.facts.denials().user_version(id);
    update(context, id, |user| {
        user.version = user.version.max(heard);
        Ok(())
    })
    .await
}

/// Sets the password and kills every earlier token of the user. The session to keep is given the
/// new version and a new refresh token; gives the version, the refresh token's end, and what the
/// others know.
pub(super) async fn password(
    context: &Context,
    id: UserId,
    password: NewPassword,
) -> Result<(u64, Timestamp, Receipt), UserError> {
    let user = context.stores.users.get(id).await?.ok_or(UserError::NotFound)?;
    if password.own.as_ref().is_some_and(|own| !own.still_stands(context, &user)) {
        return Err(UserError::Revoked);
    }
    let set = |user: &mut User| {
        // Changed by another node between the look above and here: that change stands.
        if password.own.as_ref().is_some_and(|own| user.password.as_ref() != Some(&own.confirmed)) {
            return Err(UserError::Revoked);
        }
        user.password = Some(password.hash.clone());
        Ok(())
    };
    let (user, receipt) = kill_tokens(context, &user, set).await?;
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

async fn renew_session(
    context: &Context,
    user: UserId,
    id: schema::SessionId,
    renew: impl Fn(&Session) -> Session,
) -> Result<(), UserError> {
    let sessions = &context.stores.sessions;
    // Gone: somebody ended it meanwhile, and its fact refuses the tokens that the caller gets.
    let Some(mut session) = sessions.get(user, id).await? else { return Ok(()) };
    for _ in 0..ATTEMPTS {
        match sessions.rotate(&session, &renew(&session)).await? {
            Rotated::Done | Rotated::Gone => return Ok(()),
            Rotated::Lost(current) => session = *current,
        }
    }
    Err(ActorError::Busy.into())
}
