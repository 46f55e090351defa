//! Users: registration, changes, disabling, deletion, and grants of roles and permissions.
//!
//! Promises: the user actor runs the changes of one user one after another; across nodes the store's
//! compare-and-set orders them. Never: a part in reading permissions; readers use
//! [`permission`](crate::permission).

mod actor;
mod change;
mod grants;
mod handle;
mod revoke;

pub use change::{NewPassword, OwnChange, ProfileChange};
pub use grants::GrantChange;
pub use handle::UserHandle;

use store::cas::Contended;

use crate::{ActorError, superusers::RemovalError};

/// Why a change of a user did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// There is no such user.
    #[error("no such user")]
    NotFound,
    /// Another user has this email.
    #[error("another user has this email")]
    EmailTaken,
    /// The change would leave no active user with `all_all`.
    #[error("the last superuser stays")]
    LastSuperuser,
    /// The user has the maximum number of roles or of direct permissions.
    #[error("no more of these for one user")]
    Full,
    /// The token, session or password that authorized the change was revoked or replaced in the meantime.
    #[error("what allowed this was revoked meanwhile")]
    Revoked,
    /// An actor or the store did not carry out the change, or it is not known whether it happened.
    #[error(transparent)]
    Actor(#[from] ActorError),
}

impl RemovalError for UserError {
    fn is_definite(&self) -> bool {
        !matches!(self, Self::Actor(_))
    }
}

impl From<Contended> for UserError {
    fn from(contended: Contended) -> Self {
        Self::Actor(contended.into())
    }
}

impl From<store::StoreError> for UserError {
    fn from(error: store::StoreError) -> Self {
        Self::Actor(error.into())
    }
}
