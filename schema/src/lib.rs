//! The vocabulary of Palisade.
//!
//! Everything that two parts of the system must agree on lives here: ids and names, tokens and their exact
//! refusals, facts and how they merge, permissions and their queries. Nothing here does I/O, reads a clock
//! or draws a random number: times and random bytes are parameters. So everything here can be tested
//! exhaustively and simulated.
//!
//! | to find | look in |
//! |---|---|
//! | the answers to a client whose token is not accepted | [`refusal`] |
//! | what a verified token says, and how a refresh token is parsed | [`token`] |
//! | revocations and permission changes, and their copy in memory | [`fact`], [`denials`] |
//! | the time before which expired data may be deleted | [`horizon`] |
//! | whether a verified token is accepted | [`decide`](mod@decide) |
//! | permission names and queries | [`name`], [`query`] |
//! | the rules of input, and which emails are the same | [`text`], [`email`] |

pub mod authorization;
pub mod decide;
pub mod denials;
#[cfg(feature = "input")]
pub mod email;
pub mod fact;
pub mod horizon;
pub mod id;
pub mod key;
pub mod ledger;
pub mod limit;
pub mod login;
pub mod name;
pub mod network;
pub mod page;
pub mod permission;
pub mod place;
pub mod query;
pub mod refusal;
pub mod session;
pub mod superusers;
#[cfg(feature = "input")]
pub mod text;
pub mod time;
pub mod token;
#[cfg(feature = "input")]
pub mod user;
pub mod version;

pub use decide::decide;
pub use denials::Denials;
pub use fact::{Fact, FactKind, Subject};
pub use horizon::{Clocks, Horizon};
pub use id::{KeyId, LoginId, NodeId, PermissionId, RoleId, SessionId, TokenId, UserId};
pub use name::Name;
pub use network::Network;
pub use query::Query;
pub use refusal::Refusal;
pub use time::{Clock, Entropy, MonotonicClock, Timestamp};
