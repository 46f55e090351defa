//! Starting, serving and stopping a node.
//!
//! | to find | look in |
//! |---|---|
//! | the order of starting, and a shutdown that loses no request | [`serve`] |
//! | which connections are accepted, and how each is served | `connections`, `by_hyper` |
//! | what a node does by itself: read the ledger, expire what has ended | [`upkeep`] |
//! | whether this machine can do what the settings say | [`machine`] |
//! | whether a start would accept what stands in the data directory | [`inspect`] |

mod by_hyper;
mod connections;
pub mod inspect;
pub mod machine;
pub mod serve;
pub(crate) mod signals;
pub mod upkeep;
