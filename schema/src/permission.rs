//! Permissions, roles, and the grants of users.
//!
//! Grants name roles and permissions by id, never by name: after a deletion, what refers to the id means
//! nothing, and a new role or permission of the same name has no holders.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    id::{PermissionId, RoleId},
    name::Name,
};

/// Limit of permissions, because their list has no pages.
pub const MAX_PERMISSIONS: usize = 10_000;
/// Limit of roles, because their list has no pages.
pub const MAX_ROLES: usize = 10_000;
/// Limit of the permissions of a role, of the roles of a user, and of the direct permissions of a user.
pub const MAX_GRANTS: usize = 1_000;
/// Limit of the length of a description, in characters.
pub const MAX_DESCRIPTION_CHARS: usize = 500;

/// The permission to do everything. Only its holders may grant everything.
pub const ALL_ALL: &str = "all_all";
/// The permission to manage permissions and roles.
pub const PERMISSIONS_ADMIN: &str = "permissions_admin";
/// The permission to manage users.
pub const USERS_ADMIN: &str = "users_admin";
/// The permission to query the permissions of any user, for services.
pub const PERMISSIONS_CHECK: &str = "permissions_check";
/// The permission to read the state of the cluster.
pub const CLUSTER_READ: &str = "cluster_read";
/// The role that always holds [`ALL_ALL`].
pub const SUPERUSER: &str = "superuser";

/// The built-in permissions with their descriptions. They cannot be deleted.
pub const BUILT_IN: [(&str, &str); 5] = [
    (ALL_ALL, "Everything"),
    (PERMISSIONS_ADMIN, "Manage permissions and roles"),
    (USERS_ADMIN, "Manage users"),
    (PERMISSIONS_CHECK, "Ask what any user may do (for services)"),
    (CLUSTER_READ, "See the state of the cluster"),
];

/// Whether a permission with this name is built in.
#[must_use]
pub fn is_built_in(name: &str) -> bool {
    BUILT_IN.iter().any(|(built_in, _)| *built_in == name)
}

/// A permission, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// The id of the permission.
    pub id: PermissionId,
    /// The name: unique, never changed.
    pub name: Name,
    /// The description, at most [`MAX_DESCRIPTION_CHARS`].
    pub description: Option<String>,
}

/// A role, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// The id of the role.
    pub id: RoleId,
    /// The name: unique, never changed.
    pub name: Name,
    /// The description, at most [`MAX_DESCRIPTION_CHARS`].
    pub description: Option<String>,
    /// The permissions of the role. May include ids of deleted permissions.
    pub permissions: BTreeSet<PermissionId>,
}

/// The grants of a user, as stored. May include ids of deleted roles and permissions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grants {
    /// The roles of the user.
    pub roles: BTreeSet<RoleId>,
    /// The permissions that the user has directly.
    pub permissions: BTreeSet<PermissionId>,
}

/// A role or permission that can be given to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// A role.
    Role(RoleId),
    /// A direct permission.
    Permission(PermissionId),
}

/// The roles and permissions of a user, resolved: only those that exist.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effective {
    /// The roles of the user, by name.
    pub roles: Vec<Role>,
    /// The permissions that the user has directly, by name.
    pub direct: Vec<Permission>,
    /// All permissions of the user, direct or by role, by name, without duplicates.
    pub combined: Vec<Permission>,
}
