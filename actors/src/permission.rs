//! What users may do: loaded once for all who ask, published to readers without a lock.

mod actor;
mod handle;
mod snapshot;

pub use handle::PermissionHandle;
pub use snapshot::{Snapshot, Snapshots};
