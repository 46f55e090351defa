//! The words of Palisade.
//!
//! Everything that two parts of the system must agree on lives here: ids and names, tokens and
//! their exact refusals, facts and how they merge, permissions and their queries, and the store
//! traits. Nothing here does I/O, reads a clock or draws a random number; times and random bytes
//! are parameters. So everything here can be tested exhaustively and simulated.
//!
//! | to find | look in |
//! |---|---|
//! | what a client is told about a token | [`refusal`] |
//! | how a token is read before anything is known about it | [`token`] |
//! | what has been taken away, and how it is remembered | [`fact`], [`denials`] |
//! | by which time anything may be forgotten | [`horizon`] |
//! | whether a token is good | [`decide`](mod@decide) |
//! | permission names and queries | [`name`], [`query`] |
//! | what may be typed, and what is the same address | [`text`], [`email`] |
//! | how to add a store | [`store`] |

pub mod authorization;
pub mod check;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod decide;
pub mod denials;
pub mod email;
pub mod fact;
pub mod horizon;
pub mod id;
pub mod key;
pub mod ledger;
pub mod limit;
pub mod login;
pub mod name;
pub mod page;
pub mod permission;
pub mod place;
pub mod power;
pub mod query;
pub mod refusal;
pub mod session;
pub mod store;
pub mod text;
pub mod time;
pub mod token;
pub mod user;

pub use decide::decide;
pub use denials::Denials;
pub use fact::{Fact, FactKind, Subject};
pub use horizon::{Clocks, Horizon};
pub use id::{KeyId, LoginId, NodeId, PermissionId, RoleId, SessionId, TokenId, UserId};
pub use name::Name;
pub use query::Query;
pub use refusal::Refusal;
pub use store::{StoreError, Stores};
pub use time::{Clock, Entropy, MonotonicClock, Timestamp};
