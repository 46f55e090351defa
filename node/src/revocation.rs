//! The path of revocations: the node numbers them, writes them to the journal and the ledger, sends them to
//! peers, reads those of others, and knows how fresh its knowledge is.
//!
//! | to find | look in |
//! |---|---|
//! | what survives `kill -9` while the store is down | [`journal`] |
//! | how a fact is numbered and written to the ledger, and what a revoking call waits for | [`ledger_writer`] |
//! | how this node reads the facts of others | [`ledger_reader`] |
//! | how facts are sent to peers | [`feed`] |
//! | how this node joins its cluster | [`peers`] |
//! | how facts reach the ledger if their own node cannot write them | [`adopt`] |
//! | whether this node may decide, and how stale it is | [`sync_state`], [`freshness`] |

pub mod adopt;
pub mod feed;
pub mod freshness;
pub mod journal;
pub mod ledger_reader;
pub mod ledger_writer;
pub mod peers;
pub mod sync_state;

#[cfg(test)]
mod tests;

pub use feed::FactFeed;
pub use journal::Journal;
pub use ledger_reader::LedgerReader;
pub use ledger_writer::{LedgerWriter, LogState};
