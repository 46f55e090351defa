//! This node's log of facts, on its way to the ledger.
//!
//! One task numbers the facts of all callers, writes what has come together in one append with the
//! new head, and answers all of them: so the log has no gaps, and the head never runs ahead of the
//! entries. What could not be written keeps its numbers and goes with the next append.
//!
//! This is the [`FactSink`] of a node that is alone: nobody else has to hear, so a fact is where
//! it must be when the ledger has it.

use std::time::Duration;

use actors::{Durability, FactSink, Facts, Receipt};
use async_trait::async_trait;
use schema::{
    Fact, Stores,
    ledger::{Entry, Head, Origin},
    store::{Result as StoreResult, StoreError},
};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

/// How many callers may wait for the next append.
const QUEUE: usize = 4_096;
/// How many callers share one append.
const BATCH: usize = 512;
/// How many facts wait for a store that does not answer, before callers are refused.
const MAX_UNWRITTEN: usize = 100_000;
const RETRY: Duration = Duration::from_secs(1);
/// How many entries are read at a time at the start.
const READ: usize = 10_000;

type Waiting = (Vec<Fact>, oneshot::Sender<bool>);

/// Writes facts to the ledger.
pub struct LedgerWriter {
    queue: mpsc::Sender<Waiting>,
}

impl LedgerWriter {
    /// Starts the task.
    #[must_use]
    pub fn start(stores: Stores, origin: Origin) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(write(stores, origin, waiting));
        Self { queue }
    }
}

#[async_trait]
impl FactSink for LedgerWriter {
    async fn publish(&self, facts: &[Fact]) -> StoreResult<Receipt> {
        let receipt = Receipt { visible: 0, live: 0, durability: Durability::Store };
        if facts.is_empty() {
            return Ok(receipt);
        }
        let (reply, written) = oneshot::channel();
        self.queue.try_send((facts.to_vec(), reply)).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::unavailable("too many revocations wait for the ledger"),
            TrySendError::Closed(_) => {
                StoreError::unavailable("the ledger's task has ended; restart the node")
            }
        })?;
        match written.await {
            Ok(true) => Ok(receipt),
            _ => Err(StoreError::unavailable("the ledger could not be written")),
        }
    }
}

async fn write(stores: Stores, origin: Origin, mut waiting: mpsc::Receiver<Waiting>) {
    let mut unwritten: Vec<Entry> = Vec::new();
    let mut seq = 0;
    loop {
        let mut batch = Vec::new();
        let received = waiting.recv_many(&mut batch, BATCH);
        if unwritten.is_empty() {
            if received.await == 0 {
                return;
            }
        } else if let Ok(0) = tokio::time::timeout(RETRY, received).await {
            return;
        }
        let mut replies = Vec::with_capacity(batch.len());
        for (facts, reply) in batch {
            if unwritten.len() + facts.len() > MAX_UNWRITTEN {
                let _ = reply.send(false);
                continue;
            }
            unwritten.extend(facts.into_iter().map(|fact| {
                seq += 1;
                Entry { origin, seq, fact }
            }));
            replies.push(reply);
        }
        let written = stores.ledger.append(&unwritten, &[Head { origin, seq }]).await;
        match &written {
            Ok(()) => unwritten.clear(),
            Err(error) => tracing::warn!(%error, facts = unwritten.len(), "the ledger could not be written"),
        }
        for reply in replies {
            let _ = reply.send(written.is_ok());
        }
    }
}

/// Reads every fact that is in the ledger and applies it; gives how many there were.
///
/// # Errors
/// When the store does not answer: a node must not serve without knowing what was taken away.
pub async fn read_all(stores: &Stores, facts: &Facts) -> StoreResult<usize> {
    let mut count = 0;
    for head in stores.ledger.heads().await? {
        let mut after = 0;
        loop {
            let entries = stores.ledger.entries(head.origin, after, READ).await?;
            entries.iter().for_each(|entry| facts.hear(&entry.fact));
            count += entries.len();
            match entries.last() {
                Some(last) if entries.len() == READ => after = last.seq,
                _ => break,
            }
        }
    }
    Ok(count)
}
