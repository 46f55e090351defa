//! Sessions: begun at a log-in, kept alive by refreshing, ended by revoking.
//!
//! The session actor opens sessions and spends refresh tokens. Callers who show the same token at
//! the same time meet there and share one rotation; callers on other nodes meet in the store's
//! compare-and-set. Ending a session needs no actor: denying never waits in a mailbox.

mod actor;
mod end;
mod handle;
mod memory;
mod recent;
mod refresh;

pub use handle::SessionHandle;
pub use memory::OWED;
pub use refresh::{RefreshPolicy, RefreshRefusal, RefreshRequest, Refreshed};
