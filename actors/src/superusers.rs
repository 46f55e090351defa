//! The last superuser stays: no removal of privileges leaves the cluster without an active user that
//! has `all_all`.
//!
//! The store keeps one small document, changed by compare-and-set ([`schema::superusers`]): the set of
//! superusers and the removals that are pending. Three rules hold:
//! - A removal reserves its place in the document *before* it happens, and its user leaves the set
//!   with the reservation.
//! - A user enters the set *after* it has gained `all_all`.
//! - Every node counts a pending removal as done when it decides about another one.
//!
//! Promises: every user in the set has `all_all`; two parallel removals meet in the compare-and-set,
//! on whatever nodes; an interruption at any step errs to the safe side: a user may have `all_all`
//! and be missing from the set, never the reverse. Giving `all_all` again adds the user again.
//! Never: changing grants, roles or users; the caller does that, within `with_reservation`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use schema::{
    PermissionId, RoleId, UserId,
    page::{MAX_LIMIT, PageOf},
    permission::{ALL_ALL, Effective, Grant, Role},
    superusers::{PENDING_REMOVALS_MAX, PendingRemoval, RESERVATION_TTL, SuperuserSet},
    time::CLOCK_SKEW,
};
use store::{
    StoreError, Stores,
    cas::{self, Attempt, Pacing},
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};

use crate::{ActorError, Context};

pub(crate) use schema::superusers::Removal;

/// How long a node may take to make a removal that it has reserved. The rest of the reservation's time
/// covers clocks that differ.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(RESERVATION_TTL.as_secs() / 4 * 3);

/// Serializes the changes of privileges on this node, so that they do not compete for the document.
#[derive(Debug, Clone, Default)]
pub struct PrivilegeLock(Arc<Mutex<()>>);

impl PrivilegeLock {
    /// Waits until the change under way has ended.
    pub(crate) async fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().await
    }
}

/// An error of a removal.
pub(crate) trait RemovalError: From<ActorError> {
    /// Whether the removal certainly did not happen.
    fn is_definite(&self) -> bool;
}

/// Reserves the removal, runs `remove`, and releases the reservation. `None` if the removal would leave
/// no active superuser; `remove` does not run then.
///
/// # Errors
/// As [`reserve_removal`], the error of `remove`, or `Unavailable` after [`REMOVAL_TIMEOUT`].
pub(crate) async fn with_reservation<T, E: RemovalError>(
    context: &Context,
    removal: Removal,
    remove: impl Future<Output = Result<T, E>> + Send,
) -> Result<Option<T>, E> {
    let Some(pending) = reserve_removal(context, removal).await? else { return Ok(None) };
    let removed = timeout(REMOVAL_TIMEOUT, Box::pin(remove)).await;
    let removed = removed.unwrap_or_else(|_| Err(ActorError::Unavailable.into()));
    // Without an answer from the store the removal may still happen: it stays pending until it expires.
    if removed.as_ref().err().is_none_or(RemovalError::is_definite) {
        release(context, pending).await;
    }
    removed.map(Some)
}

/// Adds the removal to the pending ones and takes the users that it affects out of the set; `None` if it
/// would leave no active superuser. The caller makes the removal at once.
///
/// # Errors
/// `Busy` when too many removals are pending or too many nodes change the document at the same time;
/// otherwise when the store does not answer.
async fn reserve_removal(context: &Context, removal: Removal) -> Result<Option<PendingRemoval>, ActorError> {
    let stores = &context.stores;
    cas::retry(Pacing::Jittered(&*context.entropy), (), |()| async move {
        let stored = stores.superusers.load().await?;
        // The steady clock, because a jump must not expire a reservation: two nodes would each remove the
        // last superuser.
        let now = context.clock.steady();
        let mut pending = stored.value.pending;
        // An expiry beyond this one was written by a wrong clock.
        let latest_expiry = now.plus(RESERVATION_TTL + CLOCK_SKEW);
        pending.retain(|pending| now < pending.until && pending.until <= latest_expiry);
        let before: Vec<_> = pending.iter().map(|pending| pending.removal).collect();
        let after: Vec<_> = before.iter().copied().chain([removal]).collect();
        // The other pending removals have taken their users out of the set already, unless a user was
        // given `all_all` again since.
        let counted = superusers_among(stores, &stored.value.counted, &[removal]).await?;
        let remaining = superusers_among(stores, &counted, &after).await?;
        if remaining.is_empty() && ends_a_superuser(stores, removal, &stored.value.counted, &before).await? {
            return Ok(Attempt::Done(None));
        }
        if pending.len() >= PENDING_REMOVALS_MAX {
            return Err(ActorError::Busy);
        }
        let reserved = PendingRemoval { removal, until: now.plus(RESERVATION_TTL) };
        pending.push(reserved);
        let next = SuperuserSet { counted, pending };
        let is_swapped = stores.superusers.swap(stored.revision, &next).await?;
        Ok(if is_swapped { Attempt::Done(Some(reserved)) } else { Attempt::Lost(()) })
    })
    .await
}

/// Drops a reservation whose removal has happened or failed for certain. If the store cannot be
/// written, the reservation expires by itself.
async fn release(context: &Context, reserved: PendingRemoval) {
    let superusers = &context.stores.superusers;
    let released: Result<(), StoreError> =
        cas::retry(Pacing::Jittered(&*context.entropy), (), |()| async move {
            let mut stored = superusers.load().await?;
            let pending = &mut stored.value.pending;
            let Some(index) = pending.iter().position(|pending| *pending == reserved) else {
                return Ok(Attempt::Done(()));
            };
            pending.remove(index);
            let is_swapped = superusers.swap(stored.revision, &stored.value).await?;
            Ok(if is_swapped { Attempt::Done(()) } else { Attempt::Lost(()) })
        })
        .await;
    drop(released);
}

/// Adds those of the users that are superusers to the set. The caller calls this after the users have
/// gained `all_all`.
///
/// # Errors
/// When the store does not answer, or too many nodes change the document at the same time.
pub(crate) async fn add(context: &Context, users: &[UserId]) -> Result<(), ActorError> {
    let gained = superusers_among(&context.stores, users, &[]).await?;
    if gained.is_empty() {
        return Ok(());
    }
    update_set(context, &gained).await
}

/// Adds every user that has the role to the set. The caller calls this after the role has gained
/// `all_all`.
///
/// # Errors
/// As [`add`].
pub(crate) async fn add_holders(context: &Context, role: &Role) -> Result<(), ActorError> {
    let mut after = None;
    loop {
        let page = PageOf { after, limit: MAX_LIMIT };
        let holders = context.stores.grants.holders(Grant::Role(role.id), page).await?;
        add(context, &holders.items).await?;
        after = holders.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Removes users that no longer hold `all_all` from the set, even if this empties it.
///
/// # Errors
/// As [`add`].
pub(crate) async fn prune(context: &Context) -> Result<(), ActorError> {
    update_set(context, &BTreeSet::new()).await
}

/// Keeps the users of the set that are still superusers and adds these. Pending removals stay as they are.
async fn update_set(context: &Context, gained: &BTreeSet<UserId>) -> Result<(), ActorError> {
    let stores = &context.stores;
    cas::retry(Pacing::Jittered(&*context.entropy), (), |()| async move {
        let stored = stores.superusers.load().await?;
        let mut counted = superusers_among(stores, &stored.value.counted, &[]).await?;
        counted.extend(gained);
        let next = SuperuserSet { counted, pending: stored.value.pending.clone() };
        let is_stored = next == stored.value || stores.superusers.swap(stored.revision, &next).await?;
        Ok(if is_stored { Attempt::Done(()) } else { Attempt::Lost(()) })
    })
    .await
}

/// Whether the removal takes `all_all` from a user that still has it. The user may be in the set, or be
/// missing from it after an interruption.
async fn ends_a_superuser(
    stores: &Stores,
    removal: Removal,
    counted: &BTreeSet<UserId>,
    before: &[Removal],
) -> Result<bool, ActorError> {
    match removal {
        Removal::User(user) | Removal::Permission(user, _) | Removal::Role(user, _) => {
            let after: Vec<_> = before.iter().copied().chain([removal]).collect();
            Ok(is_superuser(stores, user, before).await? && !is_superuser(stores, user, &after).await?)
        }
        Removal::OfRole(_) => Ok(!counted.is_empty()),
    }
}

/// Those of the users that are superusers after these removals.
async fn superusers_among(
    stores: &Stores,
    users: impl IntoIterator<Item = &UserId>,
    removals: &[Removal],
) -> Result<BTreeSet<UserId>, ActorError> {
    let mut superusers = BTreeSet::new();
    for user in users {
        if is_superuser(stores, *user, removals).await? {
            superusers.insert(*user);
        }
    }
    Ok(superusers)
}

/// Whether the user is active and has `all_all` after these removals.
async fn is_superuser(stores: &Stores, user: UserId, removals: &[Removal]) -> Result<bool, ActorError> {
    if removals.contains(&Removal::User(user)) {
        return Ok(false);
    }
    match stores.users.get(user).await {
        Ok(Some(user)) if user.active => {}
        Ok(_) => return Ok(false),
        // A user whose row is unreadable cannot log in, and must not block changes of other users.
        Err(StoreError::Inconsistent(what)) => {
            tracing::error!(%user, what, "user record unreadable; not counted as a superuser");
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    }
    let effective = stores.grants.effective(user).await?;
    Ok(all_all(&effective).is_some_and(|id| keeps(&effective, user, id, removals)))
}

/// The id of the permission `all_all`, if it is among these.
pub(crate) fn all_all(effective: &Effective) -> Option<PermissionId> {
    effective.combined.iter().find(|permission| permission.name.as_str() == ALL_ALL).map(|all_all| all_all.id)
}

/// Whether the user keeps `all_all`, directly or by a role, after these removals.
fn keeps(effective: &Effective, user: UserId, all_all: PermissionId, removals: &[Removal]) -> bool {
    let loses_role = |role: RoleId| {
        removals.contains(&Removal::Role(user, role)) || removals.contains(&Removal::OfRole(role))
    };
    let direct = !removals.contains(&Removal::Permission(user, all_all))
        && effective.direct.iter().any(|permission| permission.id == all_all);
    direct || effective.roles.iter().any(|role| role.permissions.contains(&all_all) && !loses_role(role.id))
}
