//! Permissions, roles, and who has which.
//!
//! Grants name roles and permissions by id, never by name: when one is deleted, what refers to it
//! means nothing any more, and a new one of the same name starts with nobody.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    id::{PermissionId, RoleId},
    name::Name,
};

/// How many permissions there may be: their list is not paged.
pub const MAX_PERMISSIONS: usize = 10_000;
/// How many roles there may be: their list is not paged.
pub const MAX_ROLES: usize = 10_000;
/// How many permissions a role, and roles or direct permissions a user, may have.
pub const MAX_GRANTS: usize = 1_000;
/// Longest description, in characters.
pub const MAX_DESCRIPTION_CHARS: usize = 500;

/// May do everything, and alone may hand out everything.
pub const ALL_ALL: &str = "all_all";
/// May manage permissions and roles.
pub const PERMISSIONS_ADMIN: &str = "permissions_admin";
/// May manage users.
pub const USERS_ADMIN: &str = "users_admin";
/// May ask what any user may do: for services.
pub const PERMISSIONS_CHECK: &str = "permissions_check";
/// May see the cluster.
pub const CLUSTER_READ: &str = "cluster_read";
/// The role that always holds [`ALL_ALL`].
pub const SUPERUSER: &str = "superuser";

/// The built-in permissions with their descriptions. They are never deleted.
pub const BUILT_IN: [(&str, &str); 5] = [
    (ALL_ALL, "Everything"),
    (PERMISSIONS_ADMIN, "Manage permissions and roles"),
    (USERS_ADMIN, "Manage users"),
    (PERMISSIONS_CHECK, "Ask what any user may do (for services)"),
    (CLUSTER_READ, "See the state of the cluster"),
];

/// Whether a permission of this name is built in.
#[must_use]
pub fn is_built_in(name: &str) -> bool {
    BUILT_IN.iter().any(|(built_in, _)| *built_in == name)
}

/// A permission, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// Its id.
    pub id: PermissionId,
    /// Unique, never changed.
    pub name: Name,
    /// At most [`MAX_DESCRIPTION_CHARS`].
    pub description: Option<String>,
}

/// A role, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its id.
    pub id: RoleId,
    /// Unique, never changed.
    pub name: Name,
    /// At most [`MAX_DESCRIPTION_CHARS`].
    pub description: Option<String>,
    /// May name permissions that exist no more.
    pub permissions: BTreeSet<PermissionId>,
}

/// What was given to a user, as stored. May name what exists no more.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grants {
    /// Roles.
    pub roles: BTreeSet<RoleId>,
    /// Direct permissions.
    pub permissions: BTreeSet<PermissionId>,
}

/// Something that can be given to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// A role.
    Role(RoleId),
    /// A direct permission.
    Permission(PermissionId),
}

/// What a user may do, resolved: only what exists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effective {
    /// The roles that the user has, by name.
    pub roles: Vec<Role>,
    /// The permissions that the user was given directly, by name.
    pub direct: Vec<Permission>,
    /// All permissions, direct or by role, by name, each once.
    pub combined: Vec<Permission>,
}
