//! The last superuser stays.
//!
//! The store keeps one small set of the users who count as superusers, changed by compare-and-set
//! ([`schema::store::Superusers`]). Who is to lose power leaves the set *before* losing it, who
//! gains power enters *after* gaining it. So everybody in the set has `all_all`, two parallel
//! removals meet in the compare-and-set, and whatever is interrupted half-way errs to the safe
//! side: somebody has power and does not count, never the reverse. Giving again counts again.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::{Mutex, MutexGuard};

use schema::{
    PermissionId, RoleId, Stores, UserId,
    page::{MAX_LIMIT, PageOf},
    permission::{ALL_ALL, Effective, Grant, Role},
};

use crate::ActorError;

/// How often a compare-and-set is tried before the caller is told to come again.
const ATTEMPTS: usize = 64;

/// One change of power at a time on this node: from asking leave until the loss is made, and from
/// giving until it is counted. Somebody may have power by several ways, and two losses that each
/// see the other way would both be granted.
///
/// Nodes that share a store need the same between them; the compare-and-set alone does not give it.
#[derive(Debug, Clone, Default)]
pub struct PowerLock(Arc<Mutex<()>>);

impl PowerLock {
    /// Waits for the change under way.
    pub(crate) async fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().await
    }
}

/// Something that may take `all_all` from somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The user is disabled or deleted.
    User(UserId),
    /// The user loses a direct permission.
    Permission(UserId, PermissionId),
    /// The user loses a role.
    Role(UserId, RoleId),
    /// The role loses `all_all`, or is deleted: for everybody who has it.
    OfRole(RoleId),
}

/// Whether a loss may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It may; who loses power counts no more.
    Granted,
    /// It would leave no active superuser.
    LastOne,
}

/// Asks leave for a loss, to be called before it.
///
/// # Errors
/// When the store does not answer, or too many change power at the same time.
pub async fn leave(stores: &Stores, loss: Loss) -> Result<Leave, ActorError> {
    for _ in 0..ATTEMPTS {
        let counted = stores.superusers.load().await?;
        let mut remaining = BTreeSet::new();
        for user in &counted.value {
            if has_power(stores, *user, Some(loss)).await? {
                remaining.insert(*user);
            }
        }
        if remaining == counted.value && !remaining.is_empty() {
            return Ok(Leave::Granted);
        }
        if remaining.is_empty() {
            let anyone_loses = match loss {
                Loss::User(user) | Loss::Permission(user, _) | Loss::Role(user, _) => {
                    has_power(stores, user, None).await? && !has_power(stores, user, Some(loss)).await?
                }
                Loss::OfRole(_) => !counted.value.is_empty(),
            };
            return Ok(if anyone_loses { Leave::LastOne } else { Leave::Granted });
        }
        if stores.superusers.swap(counted.revision, &remaining).await? {
            return Ok(Leave::Granted);
        }
    }
    Err(ActorError::Busy)
}

/// Counts the users who have gained power, to be called after the gain.
///
/// # Errors
/// When the store does not answer, or too many change power at the same time.
pub async fn count(stores: &Stores, users: &[UserId]) -> Result<(), ActorError> {
    let mut gained = BTreeSet::new();
    for user in users {
        if has_power(stores, *user, None).await? {
            gained.insert(*user);
        }
    }
    if gained.is_empty() {
        return Ok(());
    }
    for _ in 0..ATTEMPTS {
        let counted = stores.superusers.load().await?;
        let together: BTreeSet<_> = counted.value.union(&gained).copied().collect();
        if together == counted.value || stores.superusers.swap(counted.revision, &together).await? {
            return Ok(());
        }
    }
    Err(ActorError::Busy)
}

/// Counts everybody who has the role, to be called after it has gained `all_all`.
///
/// # Errors
/// As [`count`].
pub async fn count_holders(stores: &Stores, role: &Role) -> Result<(), ActorError> {
    let mut after = None;
    loop {
        let page = PageOf { after, limit: MAX_LIMIT };
        let holders = stores.grants.holders(Grant::Role(role.id), page).await?;
        count(stores, &holders.items).await?;
        after = holders.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Drops who has no power any more from the count, also when nobody is left.
///
/// # Errors
/// As [`count`].
pub async fn recount(stores: &Stores) -> Result<(), ActorError> {
    for _ in 0..ATTEMPTS {
        let counted = stores.superusers.load().await?;
        let mut remaining = BTreeSet::new();
        for user in &counted.value {
            if has_power(stores, *user, None).await? {
                remaining.insert(*user);
            }
        }
        if remaining == counted.value || stores.superusers.swap(counted.revision, &remaining).await? {
            return Ok(());
        }
    }
    Err(ActorError::Busy)
}

/// Whether the user is active and has `all_all`, with or without a loss.
async fn has_power(stores: &Stores, user: UserId, loss: Option<Loss>) -> Result<bool, ActorError> {
    if loss == Some(Loss::User(user)) || !stores.users.get(user).await?.is_some_and(|user| user.active) {
        return Ok(false);
    }
    let effective = stores.grants.effective(user).await?;
    Ok(all_all(&effective).is_some_and(|id| keeps(&effective, user, id, loss)))
}

/// The permission `all_all`, when it is among these.
pub(crate) fn all_all(effective: &Effective) -> Option<PermissionId> {
    effective.combined.iter().find(|p| p.name.as_str() == ALL_ALL).map(|p| p.id)
}

fn keeps(effective: &Effective, user: UserId, all_all: PermissionId, loss: Option<Loss>) -> bool {
    let loses_role = |role: RoleId| match loss {
        Some(Loss::Role(of, id)) => of == user && id == role,
        Some(Loss::OfRole(id)) => id == role,
        _ => false,
    };
    let direct = loss != Some(Loss::Permission(user, all_all))
        && effective.direct.iter().any(|permission| permission.id == all_all);
    direct || effective.roles.iter().any(|role| role.permissions.contains(&all_all) && !loses_role(role.id))
}
