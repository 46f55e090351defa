//! What was taken away, kept and heard: the journal on this node's disk, the ledger in the store.
//!
//! | to find | look in |
//! |---|---|
//! | what survives `kill -9` while the store is down | [`journal`] |
//! | how a fact is numbered and gets into the ledger, and what a revoking call waits for | [`writer`] |
//! | how this node learns what others took away | [`reader`] |

pub mod journal;
pub mod reader;
pub mod writer;

#[cfg(test)]
mod tests;

pub use journal::Journal;
pub use reader::LedgerReader;
pub use writer::{LedgerWriter, LogState};
