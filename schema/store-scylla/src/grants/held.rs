//! The grants of one user at one revision, as the partition of `grants` holds them.

use schema::permission::{Grant, Grants, MAX_GRANTS};
use scylla::DeserializeRow;
use uuid::Uuid;

use crate::catalogue::{Catalogue, grant};

/// Limit of grants that one change removes.
pub(super) const REMOVALS_PER_BATCH_MAX: usize = 50;

/// A row of the table `grants`. The partition of a user without grants has one row without kind and id.
#[derive(DeserializeRow)]
pub(super) struct GrantRow {
    kind: Option<String>,
    pub(super) id: Option<Uuid>,
    revision: Option<i64>,
}

/// The grants of a user, and the revision of their last change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HeldGrants {
    /// `None` before the first change.
    pub(super) revision: Option<i64>,
    pub(super) grants: Grants,
}

impl HeldGrants {
    pub(super) fn of(rows: Vec<GrantRow>) -> Self {
        let mut held = Self { revision: rows.first().and_then(|row| row.revision), ..Self::default() };
        for (kind, id) in rows.into_iter().filter_map(|row| row.kind.zip(row.id)) {
            match grant(&kind, id) {
                Grant::Role(id) => held.grants.roles.insert(id),
                Grant::Permission(id) => held.grants.permissions.insert(id),
            };
        }
        held
    }

    /// The revision of the next change.
    pub(super) fn next_revision(&self) -> i64 {
        self.revision.unwrap_or(0).saturating_add(1)
    }

    pub(super) fn has(&self, grant: Grant) -> bool {
        match grant {
            Grant::Role(id) => self.grants.roles.contains(&id),
            Grant::Permission(id) => self.grants.permissions.contains(&id),
        }
    }

    /// All grants of the same kind as `grant`: roles or permissions.
    fn of_kind(&self, grant: Grant) -> Vec<Grant> {
        match grant {
            Grant::Role(_) => self.grants.roles.iter().copied().map(Grant::Role).collect(),
            Grant::Permission(_) => self.grants.permissions.iter().copied().map(Grant::Permission).collect(),
        }
    }

    pub(super) fn remove(&mut self, grant: Grant) {
        match grant {
            Grant::Role(id) => self.grants.roles.remove(&id),
            Grant::Permission(id) => self.grants.permissions.remove(&id),
        };
    }

    pub(super) fn all(&self) -> Vec<Grant> {
        let roles = self.grants.roles.iter().copied().map(Grant::Role);
        roles.chain(self.grants.permissions.iter().copied().map(Grant::Permission)).collect()
    }

    /// Whether the user can be given `wanted`, and which grants of deleted roles or permissions the store must
    /// remove first.
    pub(super) fn capacity(&self, wanted: Grant, catalogue: &Catalogue) -> GrantCapacity {
        if self.has(wanted) {
            return GrantCapacity::AlreadyHeld;
        }
        let same_kind = self.of_kind(wanted);
        if same_kind.len() < MAX_GRANTS {
            return GrantCapacity::AfterRemoving(Vec::new());
        }
        let existing = same_kind.iter().filter(|grant| catalogue.has(**grant)).count();
        if existing >= MAX_GRANTS {
            return GrantCapacity::Full;
        }
        // Removing one batch of dangling grants is enough: each removed grant makes room for one more.
        let dangling = same_kind.into_iter().filter(|grant| !catalogue.has(*grant));
        GrantCapacity::AfterRemoving(dangling.take(REMOVALS_PER_BATCH_MAX).collect())
    }
}

/// Whether a user can be given one more grant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GrantCapacity {
    /// The user has this grant already.
    AlreadyHeld,
    /// The user has the maximum of grants of this kind.
    Full,
    /// There is room once these are removed.
    AfterRemoving(Vec<Grant>),
}

#[cfg(test)]
pub(super) mod tests {
    use schema::{PermissionId, RoleId};

    use super::*;
    use crate::catalogue::kind_and_id;

    pub(in super::super) fn role(n: u128) -> Grant {
        Grant::Role(RoleId::from_bytes(n.to_be_bytes()))
    }

    pub(in super::super) fn held(revision: i64, grants: &[Grant]) -> HeldGrants {
        let mut rows = vec![GrantRow { kind: None, id: None, revision: Some(revision) }];
        rows.extend(grants.iter().map(|grant| {
            let (kind, id) = kind_and_id(*grant);
            GrantRow { kind: Some(kind.to_owned()), id: Some(id), revision: Some(revision) }
        }));
        HeldGrants::of(rows)
    }

    #[test]
    fn rows_become_the_grants_of_a_user() {
        let both = [role(1), Grant::Permission(PermissionId::from_bytes([2; 16]))];
        assert_eq!(held(7, &both).all(), both);
        assert_eq!(held(7, &both).revision, Some(7));
        assert_eq!(held(7, &both).next_revision(), 8);
        assert_eq!(HeldGrants::of(Vec::new()), HeldGrants::default());
        assert_eq!(HeldGrants::default().next_revision(), 1);
        let mut fewer = held(7, &both);
        fewer.remove(role(1));
        assert_eq!(fewer, held(7, &both[1..]));
    }

    #[test]
    fn grants_of_deleted_roles_make_room() {
        let grants: Vec<_> = (0..MAX_GRANTS as u128).map(role).collect();
        let full = held(1, &grants);
        let wanted = role(99_999);
        assert_eq!(full.capacity(role(3), &Catalogue::default()), GrantCapacity::AlreadyHeld);
        assert_eq!(
            held(1, &grants[1..]).capacity(wanted, &Catalogue::default()),
            GrantCapacity::AfterRemoving(Vec::new())
        );
        // The catalogue has none of these roles and permissions.
        assert_eq!(
            full.capacity(wanted, &Catalogue::default()),
            GrantCapacity::AfterRemoving(grants[..REMOVALS_PER_BATCH_MAX].to_vec())
        );
        let permission = Grant::Permission(PermissionId::from_bytes([1; 16]));
        assert_eq!(
            full.capacity(permission, &Catalogue::default()),
            GrantCapacity::AfterRemoving(Vec::new()),
            "of another kind"
        );
    }
}
