//! Permissions of users: loaded once for all callers that wait, published to readers without a lock.

mod actor;
mod compiled;
mod handle;
mod snapshot;

pub use compiled::{Compiled, Names};
pub use handle::PermissionHandle;
pub use snapshot::{Snapshot, Snapshots};
