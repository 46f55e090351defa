//! Taking everything from a user: disable, delete.

use schema::{
    StoreError, Subject, UserId,
    fact::FactKind,
    page::{MAX_LIMIT, PageOf},
    power::Loss,
    user::{User, ended_below, next_version},
};

use super::{UserError, change::update};
use crate::{ActorError, Context, Receipt, superusers};

/// Lets the user log in again, or no more. Done before is done again: the first time may have
/// stopped half-way.
pub(super) async fn set_active(
    context: &Context,
    id: UserId,
    active: bool,
) -> Result<(User, Receipt), UserError> {
    let _one_at_a_time = context.power.lock().await;
    if active {
        let user = update(context, id, |user| {
            user.active = true;
            Ok(())
        })
        .await?;
        superusers::count(&context.stores, &[id]).await?;
        let changed = FactKind::PermissionsChanged { subject: Subject::User(id) };
        return Ok((user, context.facts.take_away(&[changed]).await?));
    }
    let user = found(context, id).await?;
    let disabled = superusers::lose(context, Loss::User(id), disable(context, id, user)).await?;
    disabled.ok_or(UserError::LastSuperuser)
}

/// A user that is there; `None` when its row cannot be read. What is taken from a user needs no more
/// than the id.
pub(super) async fn found(context: &Context, id: UserId) -> Result<Option<User>, UserError> {
    match context.stores.users.get(id).await {
        Ok(Some(user)) => Ok(Some(user)),
        Ok(None) => Err(UserError::NotFound),
        Err(StoreError::Inconsistent(what)) => {
            tracing::error!(user = %id, what, "a user cannot be read");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

async fn disable(context: &Context, id: UserId, user: Option<User>) -> Result<(User, Receipt), UserError> {
    let Some(user) = user else {
        // Nobody logs in as this user, and who is in is out now. The row stays as it is.
        deny(context, id, None).await?;
        return Err(ActorError::Inconsistent.into());
    };
    if !user.active {
        let at_least = user.version;
        return Ok((user, context.facts.take_away(&[FactKind::UserVersion { user: id, at_least }]).await?));
    }
    let (user, receipt) = kill_tokens(context, &user, |user| {
        user.active = false;
        Ok(())
    })
    .await?;
    context.stores.sessions.end_older(id, ended_below(user.version)).await?;
    Ok((user, receipt))
}

/// Changes a user so that no token of before is good any more.
///
/// They are denied first, then the change is made and the stored version rises by at least one.
/// Should somebody have logged in between the two, with what the change takes away, the version
/// rose beyond what was denied, and that is denied too.
pub(super) async fn kill_tokens(
    context: &Context,
    user: &User,
    change: impl Fn(&mut User) -> Result<(), UserError> + Send + Sync,
) -> Result<(User, Receipt), UserError> {
    let id = user.id;
    let at_least = unused_version(context, user);
    let mut receipt = context.facts.take_away(&[FactKind::UserVersion { user: id, at_least }]).await?;
    let updated = update(context, id, |user| {
        change(user)?;
        user.version = next_version(user.version).max(at_least);
        Ok(())
    })
    .await;
    // Without an answer it may have happened all the same.
    let beyond = updated.as_ref().map_or_else(|_| next_version(at_least), |user| user.version);
    if beyond > at_least {
        let raised = FactKind::UserVersion { user: id, at_least: beyond };
        receipt = context.facts.take_away(&[raised]).await?;
    }
    Ok((updated?, receipt))
}

/// Ends every session of a user.
pub(super) async fn end_sessions(context: &Context, id: UserId) -> Result<Receipt, UserError> {
    let Some(user) = found(context, id).await? else {
        let at_least = deny(context, id, None).await?;
        return Ok(context.facts.take_away(&[FactKind::UserVersion { user: id, at_least }]).await?);
    };
    let (user, receipt) = kill_tokens(context, &user, |_| Ok(())).await?;
    context.stores.sessions.end_older(id, ended_below(user.version)).await?;
    Ok(receipt)
}

/// Removes the user and all it has.
pub(super) async fn delete(context: &Context, id: UserId) -> Result<Receipt, UserError> {
    let _one_at_a_time = context.power.lock().await;
    let user = found(context, id).await?;
    let deleted = superusers::lose(context, Loss::User(id), remove(context, id, user)).await?;
    deleted.ok_or(UserError::LastSuperuser)
}

/// The facts are durable first: afterwards nobody could say what to refuse.
async fn remove(context: &Context, id: UserId, user: Option<User>) -> Result<Receipt, UserError> {
    let at_least = deny(context, id, user.as_ref()).await?;
    let deleted = context.stores.users.delete(id).await;
    // Who logged in meanwhile has the version that was denied up to, and nothing beyond it.
    let last = FactKind::UserVersion { user: id, at_least: next_version(at_least) };
    let changed = FactKind::PermissionsChanged { subject: Subject::User(id) };
    let receipt = context.facts.take_away(&[last, changed]).await?;
    deleted?;
    Ok(receipt)
}

/// Refuses all tokens of a user; says up to which version. Of one that cannot be read, the sessions say
/// which tokens there are.
async fn deny(context: &Context, id: UserId, user: Option<&User>) -> Result<u64, UserError> {
    let mut kinds = Vec::new();
    let at_least = if let Some(user) = user {
        unused_version(context, user)
    } else {
        let (mut version, mut after) = (0, None);
        loop {
            let page = context.stores.sessions.list(id, PageOf { after, limit: MAX_LIMIT }).await?;
            let versions = page.items.iter().map(|session| session.user_version);
            version = versions.fold(version, u64::max);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let sessions = context.stores.sessions.ids(id).await?;
        kinds.extend(sessions.into_iter().map(|session| FactKind::SessionRevoked { user: id, session }));
        next_version(version.max(context.facts.denials().user_version(id)))
    };
    kinds.push(FactKind::UserVersion { user: id, at_least });
    context.facts.take_away(&kinds).await?;
    Ok(at_least)
}

/// A version that no token carries yet, below [`MAX_VERSION`](schema::user::MAX_VERSION).
fn unused_version(context: &Context, user: &User) -> u64 {
    next_version(user.version.max(context.facts.denials().user_version(user.id)))
}
