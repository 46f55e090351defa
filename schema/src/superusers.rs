//! The superusers, and the removals of `all_all` under way: one small document that every such removal goes
//! through, so that at least one superuser stays.
//!
//! A node that decides about a removal counts all pending ones as made. So if a user has `all_all` by two
//! grants, two nodes cannot each be allowed to remove one of them in the belief that the other stays.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    id::{PermissionId, RoleId, UserId},
    time::Timestamp,
};

/// How long a granted removal counts as made. A removal that takes longer must be requested again.
pub const RESERVATION_TTL: Duration = Duration::from_secs(60);
/// Limit of removals under way at a time.
pub const PENDING_REMOVALS_MAX: usize = 64;

/// The document of the superusers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SuperuserSet {
    /// The users with [`ALL_ALL`](crate::permission::ALL_ALL).
    pub counted: BTreeSet<UserId>,
    /// The removals that were granted and may not be made yet, at most [`PENDING_REMOVALS_MAX`].
    #[serde(default, rename = "leaving")]
    pub pending: Vec<PendingRemoval>,
}

/// A removal that was granted and may not be made yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRemoval {
    /// What is removed.
    #[serde(rename = "loss")]
    pub removal: Removal,
    /// Until when it counts as made. The node that makes it gives up after three quarters of
    /// [`RESERVATION_TTL`], so that clocks may differ by the last quarter.
    pub until: Timestamp,
}

/// A change that may remove [`ALL_ALL`](crate::permission::ALL_ALL) from a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// The user is disabled or deleted.
    User(UserId),
    /// The user loses a direct permission.
    Permission(UserId, PermissionId),
    /// The user loses a role.
    Role(UserId, RoleId),
    /// The role loses `all_all`, or is deleted: all its holders lose it.
    OfRole(RoleId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_form_keeps_its_names() {
        let user = UserId::from_bytes([1; 16]);
        let removal = Removal::Role(user, RoleId::from_bytes([2; 16]));
        let pending = PendingRemoval { removal, until: Timestamp::from_secs(9) };
        let set = SuperuserSet { counted: [user].into(), pending: vec![pending] };
        let user = "01010101-0101-0101-0101-010101010101";
        let role = "02020202-0202-0202-0202-020202020202";
        let stored = format!(
            r#"{{"counted":["{user}"],"leaving":[{{"loss":{{"role":["{user}","{role}"]}},"until":9000}}]}}"#
        );
        assert_eq!(serde_json::to_string(&set).unwrap(), stored);
        assert_eq!(serde_json::from_str::<SuperuserSet>(&stored).unwrap(), set);
    }
}
