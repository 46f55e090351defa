//! Taking everything from a user: log out everywhere, disable, delete.

use schema::{UserId, fact::FactKind, user::User};

use super::{UserError, change::update};
use crate::{
    ActorError, Context, Receipt,
    superusers::{self, Leave, Loss},
};

/// Ends all sessions. `at_least` comes from the caller's own token: it needs no read.
pub(super) async fn all_sessions(
    context: &Context,
    user: UserId,
    at_least: u64,
) -> Result<Receipt, UserError> {
    let raised = [FactKind::UserVersion { user, at_least }];
    let (receipt, _) = tokio::try_join!(
        async { Ok::<_, UserError>(context.facts.take_away(&raised).await?) },
        update(context, user, |user| user.version = user.version.max(at_least)),
    )?;
    context.stores.sessions.end_all(user, None).await?;
    Ok(receipt)
}

/// Lets the user log in again, or no more.
pub(super) async fn set_active(
    context: &Context,
    id: UserId,
    active: bool,
) -> Result<(User, Option<Receipt>), UserError> {
    let user = context.stores.users.get(id).await?.ok_or(UserError::NotFound)?;
    if user.active == active {
        return Ok((user, None));
    }
    if active {
        let user = update(context, id, |user| user.active = true).await?;
        superusers::count(&context.stores, &[id]).await?;
        return Ok((user, None));
    }
    may_lose_power(context, id).await?;
    let heard = context.facts.denials().user_version(id);
    let at_least = user.version.max(heard) + 1;
    let raised = [FactKind::UserVersion { user: id, at_least }];
    let (receipt, user) = tokio::try_join!(
        async { Ok::<_, UserError>(context.facts.take_away(&raised).await?) },
        update(context, id, |user| {
            user.active = false;
            user.version = user.version.max(at_least);
        }),
    )?;
    context.stores.sessions.end_all(id, None).await?;
    Ok((user, Some(receipt)))
}

/// Removes the user and all it has.
pub(super) async fn delete(context: &Context, id: UserId) -> Result<Receipt, UserError> {
    let user = context.stores.users.get(id).await?.ok_or(UserError::NotFound)?;
    may_lose_power(context, id).await?;
    let at_least = user.version.max(context.facts.denials().user_version(id)) + 1;
    let subject = schema::Subject::User(id);
    let gone = [FactKind::UserVersion { user: id, at_least }, FactKind::PermissionsChanged { subject }];
    let (receipt, ()) = tokio::try_join!(context.facts.take_away(&gone), async {
        Ok::<_, ActorError>(context.stores.users.delete(id).await?)
    })?;
    // Who loaded the permissions in between saw the user alive.
    context.facts.snapshots().invalidate(subject);
    Ok(receipt)
}

async fn may_lose_power(context: &Context, id: UserId) -> Result<(), UserError> {
    match superusers::leave(&context.stores, Loss::User(id)).await? {
        Leave::Granted => Ok(()),
        Leave::LastOne => Err(UserError::LastSuperuser),
    }
}
