//! Sessions: opened at a log-in, kept alive by refreshing, ended by revoking.
//!
//! The session actor opens sessions and spends refresh tokens. Promises: callers that present the same
//! token at the same time share one rotation on this node; across nodes the store's compare-and-set
//! gives them the same successor. Never: an actor between a call that ends a session and its denial.

mod actor;
mod end;
mod handle;
mod memory;
mod recent;
mod refresh;

pub use handle::SessionHandle;
pub use memory::GRACE_EXTENSION;
pub use refresh::{RefreshPolicy, RefreshRefusal, RefreshRequest, Refreshed};
