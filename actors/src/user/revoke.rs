//! Changes that revoke all tokens of a user: disabling, deleting, ending all sessions.
//!
//! Promises: the node refuses the tokens before the store changes. A user whose row is unreadable can
//! still be revoked by its id.

use schema::{
    Subject, UserId,
    fact::FactKind,
    page::{MAX_LIMIT, PageOf},
    user::User,
    version::{ended_below, next_version},
};
use store::StoreError;

use super::{UserError, change::update};
use crate::{
    ActorError, Context, Receipt,
    superusers::{self, Removal},
};

/// Enables or disables the user. A repeated call does all steps again, because the first may have
/// stopped half way.
pub(super) async fn set_active(
    context: &Context,
    id: UserId,
    active: bool,
) -> Result<(User, Receipt), UserError> {
    let _serialized = context.privileges.lock().await;
    if active {
        let user = update(context, id, |user| {
            user.active = true;
            Ok(())
        })
        .await?;
        superusers::add(context, &[id]).await?;
        let changed = FactKind::PermissionsChanged { subject: Subject::User(id) };
        return Ok((user, context.facts.apply_and_publish(&[changed]).await?));
    }
    let user = find(context, id).await?;
    let disable = disable(context, id, user);
    let disabled = superusers::with_reservation(context, Removal::User(id), disable).await?;
    disabled.ok_or(UserError::LastSuperuser)
}

/// Reads a user that must exist; `None` if its row is unreadable. Revoking needs no more than the id.
pub(super) async fn find(context: &Context, id: UserId) -> Result<Option<User>, UserError> {
    match context.stores.users.get(id).await {
        Ok(Some(user)) => Ok(Some(user)),
        Ok(None) => Err(UserError::NotFound),
        Err(StoreError::Inconsistent(what)) => {
            tracing::error!(user = %id, what, "user record unreadable");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Disables the user and revokes all its tokens. If it is disabled already, the revocation is published
/// again.
async fn disable(context: &Context, id: UserId, user: Option<User>) -> Result<(User, Receipt), UserError> {
    let Some(user) = user else {
        // A user whose row is unreadable cannot log in, and its tokens are revoked now. The row stays.
        deny(context, id, None).await?;
        return Err(ActorError::Inconsistent.into());
    };
    if !user.active {
        let at_least = user.version;
        return Ok((
            user,
            context.facts.apply_and_publish(&[FactKind::UserVersion { user: id, at_least }]).await?,
        ));
    }
    let (user, receipt) = revoke_tokens(context, &user, |user| {
        user.active = false;
        Ok(())
    })
    .await?;
    context.stores.sessions.end_older(id, ended_below(user.version)).await?;
    Ok((user, receipt))
}

/// Changes a user and revokes all tokens that were issued before the change.
///
/// The node denies the tokens first; then it makes the change and raises the stored version by at least
/// one. If a log-in came between the two, with credentials that the change revokes, the stored version
/// rose beyond the denied one, and the node denies that version too.
pub(super) async fn revoke_tokens(
    context: &Context,
    user: &User,
    change: impl Fn(&mut User) -> Result<(), UserError> + Send + Sync,
) -> Result<(User, Receipt), UserError> {
    let id = user.id;
    let at_least = unused_version(context, user);
    let mut receipt =
        context.facts.apply_and_publish(&[FactKind::UserVersion { user: id, at_least }]).await?;
    let updated = update(context, id, |user| {
        change(user)?;
        user.version = next_version(user.version).max(at_least);
        Ok(())
    })
    .await;
    // Without an answer from the store the change may have happened.
    let beyond = updated.as_ref().map_or_else(|_| next_version(at_least), |user| user.version);
    if beyond > at_least {
        let raised = FactKind::UserVersion { user: id, at_least: beyond };
        receipt = context.facts.apply_and_publish(&[raised]).await?;
    }
    Ok((updated?, receipt))
}

/// Ends every session of a user.
pub(super) async fn end_sessions(context: &Context, id: UserId) -> Result<Receipt, UserError> {
    let Some(user) = find(context, id).await? else {
        let at_least = deny(context, id, None).await?;
        return Ok(context.facts.apply_and_publish(&[FactKind::UserVersion { user: id, at_least }]).await?);
    };
    let (user, receipt) = revoke_tokens(context, &user, |_| Ok(())).await?;
    context.stores.sessions.end_older(id, ended_below(user.version)).await?;
    Ok(receipt)
}

/// Deletes the user with its sessions and grants, unless it is the last superuser.
pub(super) async fn delete(context: &Context, id: UserId) -> Result<Receipt, UserError> {
    let _serialized = context.privileges.lock().await;
    let user = find(context, id).await?;
    let remove = remove(context, id, user);
    let deleted = superusers::with_reservation(context, Removal::User(id), remove).await?;
    deleted.ok_or(UserError::LastSuperuser)
}

/// Deletes the user after its revocation is durable: without the rows, no node could tell what to refuse.
async fn remove(context: &Context, id: UserId, user: Option<User>) -> Result<Receipt, UserError> {
    let at_least = deny(context, id, user.as_ref()).await?;
    let deleted = context.stores.users.delete(id).await;
    // A log-in since the denial carries exactly the version that was denied up to.
    let last = FactKind::UserVersion { user: id, at_least: next_version(at_least) };
    let changed = FactKind::PermissionsChanged { subject: Subject::User(id) };
    let receipt = context.facts.apply_and_publish(&[last, changed]).await?;
    deleted?;
    Ok(receipt)
}

/// Denies all tokens of a user and returns the lowest version that is still accepted. For a user whose
/// row is unreadable, the versions come from its sessions.
async fn deny(context: &Context, id: UserId, user: Option<&User>) -> Result<u64, UserError> {
    let mut kinds = Vec::new();
    let at_least = if let Some(user) = user {
        unused_version(context, user)
    } else {
        let mut version = 0;
        let mut after = None;
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
    context.facts.apply_and_publish(&kinds).await?;
    Ok(at_least)
}

/// A version that no token carries yet, below [`MAX_VERSION`](schema::version::MAX_VERSION).
fn unused_version(context: &Context, user: &User) -> u64 {
    next_version(user.version.max(context.facts.denials().user_version(user.id)))
}
