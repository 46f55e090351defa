//! The last superuser stays.
//!
//! The store keeps one small document, changed by compare-and-set ([`schema::power`]): the users who
//! count as superusers, and the losses that are under way. Who is to lose power leaves the count
//! *before* losing it, who gains power enters *after* gaining it, and a loss that was granted counts
//! as made by everybody who asks for another one. So everybody in the count has `all_all`, two
//! parallel removals meet in the compare-and-set, on whatever nodes, and whatever is interrupted
//! half-way errs to the safe side: somebody has power and does not count, never the reverse. Giving
//! again counts again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use schema::{
    PermissionId, RoleId, StoreError, Stores, UserId,
    page::{MAX_LIMIT, PageOf},
    permission::{ALL_ALL, Effective, Grant, Role},
    power::{LEAVE, Leaving, Loss, MAX_LEAVING, Power},
    time::CLOCK_SKEW,
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};

use crate::{ActorError, Context};

/// How often a compare-and-set is tried before the caller is told to come again.
const ATTEMPTS: usize = 64;
/// How long a loss may take to be made; the rest of its time is for clocks that differ.
const MAKING: Duration = Duration::from_secs(LEAVE.as_secs() / 4 * 3);

/// One change of power at a time on this node, so that its own do not fight over the document.
#[derive(Debug, Clone, Default)]
pub struct PowerLock(Arc<Mutex<()>>);

impl PowerLock {
    /// Waits for the change under way.
    pub(crate) async fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().await
    }
}

/// Makes a loss when it may be made; `None` when it would leave no active superuser.
///
/// # Errors
/// As [`leave`], or what making it came to.
pub(crate) async fn lose<T, E: Refusal>(
    context: &Context,
    loss: Loss,
    make: impl Future<Output = Result<T, E>> + Send,
) -> Result<Option<T>, E> {
    let Some(granted) = leave(context, loss).await? else { return Ok(None) };
    let made = timeout(MAKING, Box::pin(make)).await.unwrap_or_else(|_| Err(ActorError::Unavailable.into()));
    // Without an answer it may come yet: it counts as made until its time is over.
    if made.as_ref().err().is_none_or(Refusal::is_certain) {
        ended(context, granted).await;
    }
    made.map(Some)
}

/// Why a loss was not made.
pub(crate) trait Refusal: From<ActorError> {
    /// Whether it is known not to have been made.
    fn is_certain(&self) -> bool;
}

/// Asks leave for a loss; `None` when it would leave no active superuser. Once granted, who loses
/// power counts no more, and the loss is to be made at once.
///
/// # Errors
/// When the store does not answer, or too many change power at the same time.
async fn leave(context: &Context, loss: Loss) -> Result<Option<Leaving>, ActorError> {
    let stores = &context.stores;
    for _ in 0..ATTEMPTS {
        let stored = stores.superusers.load().await?;
        // A jump of the clock ends no leave: two nodes would each grant the last one.
        let now = context.clock.steady();
        let mut leaving = stored.value.leaving;
        // Nor one whose end no clock that is right has written.
        leaving.retain(|leaving| now < leaving.until && leaving.until <= now.plus(LEAVE + CLOCK_SKEW));
        let before: Vec<_> = leaving.iter().map(|leaving| leaving.loss).collect();
        let after: Vec<_> = before.iter().copied().chain([loss]).collect();
        // Who is leaving otherwise has left the count already, or was given power anew.
        let counted = with_power(stores, &stored.value.counted, &[loss]).await?;
        let left = with_power(stores, &counted, &after).await?;
        if left.is_empty() && takes_power(stores, loss, &stored.value.counted, &before).await? {
            return Ok(None);
        }
        if leaving.len() >= MAX_LEAVING {
            break;
        }
        let granted = Leaving { loss, until: now.plus(LEAVE) };
        leaving.push(granted);
        if stores.superusers.swap(stored.revision, &Power { counted, leaving }).await? {
            return Ok(Some(granted));
        }
    }
    Err(ActorError::Busy)
}

/// The loss was made. When the store cannot be told, it ends by itself.
async fn ended(context: &Context, granted: Leaving) {
    let superusers = &context.stores.superusers;
    for _ in 0..ATTEMPTS {
        let Ok(mut stored) = superusers.load().await else { return };
        let Some(place) = stored.value.leaving.iter().position(|leaving| *leaving == granted) else { return };
        stored.value.leaving.remove(place);
        match superusers.swap(stored.revision, &stored.value).await {
            Ok(false) => {}
            Ok(true) | Err(_) => return,
        }
    }
}

/// Counts the users who have gained power, to be called after the gain.
///
/// # Errors
/// When the store does not answer, or too many change power at the same time.
pub async fn count(stores: &Stores, users: &[UserId]) -> Result<(), ActorError> {
    let gained = with_power(stores, users, &[]).await?;
    if gained.is_empty() {
        return Ok(());
    }
    counting(stores, gained).await
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
    counting(stores, BTreeSet::new()).await
}

/// Those who count and have power still, and these. Who is leaving stays as it is.
async fn counting(stores: &Stores, gained: BTreeSet<UserId>) -> Result<(), ActorError> {
    for _ in 0..ATTEMPTS {
        let stored = stores.superusers.load().await?;
        let mut counted = with_power(stores, &stored.value.counted, &[]).await?;
        counted.extend(&gained);
        let next = Power { counted, leaving: stored.value.leaving.clone() };
        if next == stored.value || stores.superusers.swap(stored.revision, &next).await? {
            return Ok(());
        }
    }
    Err(ActorError::Busy)
}

/// Whether the loss takes power from somebody who has it still. Somebody of the count, or who does
/// not count although it should.
async fn takes_power(
    stores: &Stores,
    loss: Loss,
    counted: &BTreeSet<UserId>,
    before: &[Loss],
) -> Result<bool, ActorError> {
    match loss {
        Loss::User(user) | Loss::Permission(user, _) | Loss::Role(user, _) => {
            let after: Vec<_> = before.iter().copied().chain([loss]).collect();
            Ok(has_power(stores, user, before).await? && !has_power(stores, user, &after).await?)
        }
        Loss::OfRole(_) => Ok(!counted.is_empty()),
    }
}

async fn with_power(
    stores: &Stores,
    users: impl IntoIterator<Item = &UserId>,
    losses: &[Loss],
) -> Result<BTreeSet<UserId>, ActorError> {
    let mut powerful = BTreeSet::new();
    for user in users {
        if has_power(stores, *user, losses).await? {
            powerful.insert(*user);
        }
    }
    Ok(powerful)
}

/// Whether the user is active and has `all_all` after these losses.
async fn has_power(stores: &Stores, user: UserId, losses: &[Loss]) -> Result<bool, ActorError> {
    if losses.contains(&Loss::User(user)) {
        return Ok(false);
    }
    match stores.users.get(user).await {
        Ok(Some(user)) if user.active => {}
        Ok(_) => return Ok(false),
        // Nobody logs in as a user whose row cannot be read, and it must not stop changes of others.
        Err(StoreError::Inconsistent(what)) => {
            tracing::error!(%user, what, "a user cannot be read, and has no power");
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    }
    let effective = stores.grants.effective(user).await?;
    Ok(all_all(&effective).is_some_and(|id| keeps(&effective, user, id, losses)))
}

/// The permission `all_all`, when it is among these.
pub(crate) fn all_all(effective: &Effective) -> Option<PermissionId> {
    effective.combined.iter().find(|p| p.name.as_str() == ALL_ALL).map(|p| p.id)
}

fn keeps(effective: &Effective, user: UserId, all_all: PermissionId, losses: &[Loss]) -> bool {
    let loses_role =
        |role: RoleId| losses.contains(&Loss::Role(user, role)) || losses.contains(&Loss::OfRole(role));
    let direct = !losses.contains(&Loss::Permission(user, all_all))
        && effective.direct.iter().any(|permission| permission.id == all_all);
    direct || effective.roles.iter().any(|role| role.permissions.contains(&all_all) && !loses_role(role.id))
}
