//! Who counts as superuser, and who is about to lose that: one small document that every change of
//! power goes through, so that the last one stays.
//!
//! `counted` are users who have [`ALL_ALL`](crate::permission::ALL_ALL). `leaving` are losses that
//! were granted and perhaps not made yet: whoever asks for another one takes them as made. So two
//! nodes that each take one of two ways of the same user cannot both be granted that.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    id::{PermissionId, RoleId, UserId},
    time::Timestamp,
};

/// How long a granted loss may take to be made. Beyond it the loss is asked for anew.
pub const LEAVE: Duration = Duration::from_secs(60);
/// How many losses may be under way at a time.
pub const MAX_LEAVING: usize = 64;

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Power {
    /// Who has it.
    pub counted: BTreeSet<UserId>,
    /// What is being taken, at most [`MAX_LEAVING`].
    #[serde(default)]
    pub leaving: Vec<Leaving>,
}

/// A loss that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// What is lost.
    pub loss: Loss,
    /// Until when it counts as made. Who makes it gives up after three quarters of [`LEAVE`], so that
    /// clocks may differ by the last one.
    pub until: Timestamp,
}

/// Something that may take [`ALL_ALL`](crate::permission::ALL_ALL) from somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
