//! Changes of a user's own record, each a compare-and-set.

use schema::{
    Timestamp, UserId,
    email::Email,
    session::{SecretHash, Session},
    store::{Replaced, Rotated},
    user::{PasswordHash, User},
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
    pub first_name: Option<Option<String>>,
    pub last_name: Option<Option<String>>,
}

/// A new password, and what becomes of the session that asked for it.
#[derive(Debug, Clone)]
pub struct NewPassword {
    /// The hash of the new password.
    pub hash: PasswordHash,
    /// This session goes on with a new refresh token; `None` when an admin did it.
    pub keep: Option<(schema::SessionId, SecretHash)>,
}

/// Reads a user, changes it, writes it, and again when somebody was faster.
pub(super) async fn update(
    context: &Context,
    id: UserId,
    change: impl Fn(&mut User) + Send,
) -> Result<User, UserError> {
    let mut user = context.stores.users.get(id).await?.ok_or(UserError::NotFound)?;
    for _ in 0..ATTEMPTS {
        let mut next = user.clone();
        change(&mut next);
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
            user.first_name.clone_from(name);
        }
        if let Some(name) = &change.last_name {
            user.last_name.clone_from(name);
        }
    })
    .await
}

/// Raises the stored version to what was heard, so that tokens issued from it are good.
pub(super) async fn catch_up(context: &Context, id: UserId) -> Result<User, UserError> {
    let heard = context.facts.denials().user_version(id);
    update(context, id, |user| user.version = user.version.max(heard)).await
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
    let (user, receipt) =
        kill_tokens(context, &user, |user| user.password = Some(password.hash.clone())).await?;
    let now = context.clock.now();
    let expires_at = Timestamp::from_secs(now.plus(context.refresh.ttl).as_secs());
    if let Some((session, live)) = password.keep {
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
    context.stores.sessions.end_older(id, user.version).await?;
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
        match sessions.rotate(&session.live, &renew(&session)).await? {
            Rotated::Done | Rotated::Gone => return Ok(()),
            Rotated::Lost(current) => session = *current,
        }
    }
    Err(ActorError::Busy.into())
}
