//! What a deletion removes besides its own row: the grants of a user, and the grants of a role or
//! permission.
//!
//! Users keep a deleted role or permission on record for a while. It means nothing there, because ids are
//! never reused. The sweep removes it from its holders, a limited number at a time.

use std::collections::BTreeSet;

use schema::{
    Name, UserId,
    permission::{Grant, Grants},
};
use store::Result;

use crate::{
    key::Key,
    rows::{Change, Row, Rows, Span},
    table::{DELETED, GRANTS, HOLDERS, Table},
};

/// Marks a role or permission as deleted, for the sweep.
pub(crate) fn mark_deleted(change: &Change<'_>, grant: Grant) -> Result<()> {
    change.put(&DELETED, &grant, &())
}

/// Removes all grants of a user.
pub(crate) fn remove_grants(change: &Change<'_>, user: UserId) -> Result<()> {
    match change.get_row(&GRANTS, &user)? {
        None => return Ok(()),
        Some(Row::Parsed(grants)) => {
            for grant in all_of(&grants) {
                change.remove(&HOLDERS, &(grant, user))?;
            }
        }
        // The index of holders tells what the user held.
        Some(Row::Unreadable) => {
            for (key, ()) in change.scan(&HOLDERS, &Span::all(), usize::MAX)? {
                if key.1 == user {
                    change.remove(&HOLDERS, &key)?;
                }
            }
        }
    }
    change.remove(&GRANTS, &user)?;
    Ok(())
}

/// Removes deleted roles and permissions from at most `limit` of their holders. Returns their number.
pub(crate) fn sweep(change: &Change<'_>, limit: usize) -> Result<usize> {
    let mut swept = 0;
    for (grant, ()) in change.scan(&DELETED, &Span::all(), limit)? {
        let holders = change.scan(&HOLDERS, &Span::of(&grant), limit - swept)?;
        swept += holders.len();
        for ((_, user), ()) in holders {
            if !remove_grant(change, user, grant)? {
                change.remove(&HOLDERS, &(grant, user))?;
            }
        }
        if swept >= limit {
            return Ok(swept);
        }
        change.remove(&DELETED, &grant)?;
    }
    Ok(swept)
}

/// Removes the ids that do not exist any more.
pub(crate) fn retain_existing<K: Key + Copy + Ord>(
    rows: &impl Rows,
    names: &Table<K, Name>,
    ids: &mut BTreeSet<K>,
) -> Result<()> {
    let mut kept = BTreeSet::new();
    for id in &*ids {
        if rows.has(names, id)? {
            kept.insert(*id);
        }
    }
    *ids = kept;
    Ok(())
}

/// Removes a grant of a user. Returns whether the user held it.
pub(crate) fn remove_grant(change: &Change<'_>, user: UserId, grant: Grant) -> Result<bool> {
    let Some(mut grants) = grants_of(change, user)? else { return Ok(false) };
    let had = match grant {
        Grant::Role(id) => grants.roles.remove(&id),
        Grant::Permission(id) => grants.permissions.remove(&id),
    };
    if had {
        if grants == Grants::default() {
            change.remove(&GRANTS, &user)?;
        } else {
            change.put(&GRANTS, &user, &grants)?;
        }
        change.remove(&HOLDERS, &(grant, user))?;
    }
    Ok(had)
}

/// The grants of a user. A row that does not parse counts as none, and the next change replaces it.
pub(crate) fn grants_of(rows: &impl Rows, user: UserId) -> Result<Option<Grants>> {
    Ok(rows.get_row(&GRANTS, &user)?.and_then(Row::parsed))
}

/// Each grant of a user.
pub(crate) fn all_of(grants: &Grants) -> impl Iterator<Item = Grant> {
    let roles = grants.roles.iter().copied().map(Grant::Role);
    roles.chain(grants.permissions.iter().copied().map(Grant::Permission))
}
