//! Users: registered, changed, disabled, deleted, given and deprived of roles and permissions.
//!
//! The user actor runs the changes of one user one after another. Across nodes the store's
//! compare-and-set does the same.

mod actor;
mod change;
mod grants;
mod handle;
mod revoke;

pub use change::{NewPassword, OwnChange, ProfileChange};
pub use grants::GrantChange;
pub use handle::UserHandle;

use crate::{ActorError, superusers::Refusal};

/// Why a change of a user did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// There is no such user.
    #[error("no such user")]
    NotFound,
    /// Somebody has this email.
    #[error("somebody has this email")]
    EmailTaken,
    /// Nobody active would have `all_all` any more.
    #[error("the last superuser stays")]
    LastSuperuser,
    /// The user has as many of these as may be.
    #[error("no more of these for one user")]
    Full,
    /// What the change rested on was taken away while it was made.
    #[error("what allowed this was revoked meanwhile")]
    Revoked,
    /// It was not done.
    #[error(transparent)]
    Actor(#[from] ActorError),
}

impl Refusal for UserError {
    fn is_certain(&self) -> bool {
        !matches!(self, Self::Actor(_))
    }
}

impl From<schema::StoreError> for UserError {
    fn from(error: schema::StoreError) -> Self {
        Self::Actor(error.into())
    }
}
