//! The thread that numbers facts, sends them to peers, and writes them to the journal.

use std::{ops::Range, sync::atomic::Ordering};

use actors::StoredSessions;
use schema::{Fact, ledger::Entry};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{Log, Queued};
use crate::{
    clock::runtime_now,
    revocation::journal::{Journal, JournalError, Record},
};

/// Callers that share one write to the journal.
const GROUP_MAX: usize = 512;
/// Facts without room in the journal that may wait for the ledger.
const UNJOURNALED_MAX: usize = 10_000;
/// Bytes of the longest record, for estimating how many records of other nodes fit into the journal.
const RECORD_BYTES_MAX: u64 = 320;

/// The facts or entries that a caller wants to have numbered.
pub(super) enum ToNumber {
    /// Facts of this node.
    Own(Vec<Fact>, StoredSessions, oneshot::Sender<Numbered>),
    /// Entries of other nodes, which cannot write them to the ledger themselves. The reply tells whether they
    /// are in the journal.
    OfOthers(Vec<Entry>, oneshot::Sender<bool>),
}

/// Facts of this node that were numbered.
pub(super) struct Numbered {
    /// The first record's number.
    pub(super) first: u64,
    /// The last record's number.
    pub(super) last: u64,
    /// The last fact's sequence number in this node's log.
    pub(super) seq: u64,
    /// When they were sent to peers.
    pub(super) published_at: Instant,
    /// Whether they are in the journal.
    pub(super) is_journaled: bool,
}

/// The last numbers that were assigned.
#[derive(Clone, Copy)]
struct Last {
    /// The last record's number.
    number: u64,
    /// The last sequence number in this node's log.
    seq: u64,
}

/// A caller whose facts have numbers.
struct OwnCaller {
    reply: oneshot::Sender<Numbered>,
    first: u64,
    last: u64,
    seq: u64,
}

/// The records of callers that share one write to the journal.
#[derive(Default)]
struct Group {
    records: Vec<Record>,
    /// This node's own facts among them.
    own: Vec<Fact>,
    own_callers: Vec<OwnCaller>,
    other_callers: Vec<oneshot::Sender<bool>>,
    /// For each caller, the number of its first record and the range of its records.
    calls: Vec<(u64, Range<usize>)>,
}

impl Log {
    /// Numbers facts and entries until all senders are dropped. A fact whose caller is refused gets no
    /// number. `last` is the number of the last record that the journal held at startup.
    pub(super) fn number_all(&self, mut waiting: mpsc::Receiver<ToNumber>, mut journal: Journal, last: u64) {
        let mut last = Last { number: last, seq: 0 };
        while let Some(first) = waiting.blocking_recv() {
            let before = last;
            let mut group = Group::default();
            self.number(first, &mut group, &mut last);
            for _ in 1..GROUP_MAX {
                let Ok(next) = waiting.try_recv() else { break };
                self.number(next, &mut group, &mut last);
            }
            if !group.records.is_empty() {
                self.publish_group(group, &mut journal, before.number + 1, last.seq);
            }
        }
    }

    /// Numbers one caller's facts or entries, or refuses them by dropping the reply.
    fn number(&self, caller: ToNumber, group: &mut Group, last: &mut Last) {
        let first = last.number + 1;
        let begin = group.records.len();
        match caller {
            ToNumber::Own(facts, rows, reply) => {
                let is_full = self.is_full.load(Ordering::Relaxed);
                if is_full && self.unjournaled.load(Ordering::Relaxed) + begin > UNJOURNALED_MAX {
                    return;
                }
                group.own.extend_from_slice(&facts);
                for fact in facts {
                    last.seq += 1;
                    let entry = Entry { origin: self.origin, seq: last.seq, fact };
                    group.records.push(Record::new(entry, rows));
                }
                last.number += count(&group.records[begin..]);
                group.own_callers.push(OwnCaller { reply, first, last: last.number, seq: last.seq });
            }
            // Without room, they stay in memory only.
            ToNumber::OfOthers(entries, _) if !self.has_room_for_others(entries.len()) => return,
            ToNumber::OfOthers(entries, reply) => {
                self.of_others.fetch_add(entries.len(), Ordering::Relaxed);
                let records = entries.into_iter().map(|entry| Record::new(entry, StoredSessions::Delete));
                group.records.extend(records);
                last.number += count(&group.records[begin..]);
                group.other_callers.push(reply);
            }
        }
        group.calls.push((first, begin..group.records.len()));
    }

    /// Sends a group's own facts to peers, writes its records to the journal, and queues them for the ledger.
    /// `first` is the first record's number, `seq` the last own fact's sequence number.
    fn publish_group(&self, group: Group, journal: &mut Journal, first: u64, seq: u64) {
        // Queue the rows before any caller can wait for their deletion.
        for (first, records) in group.calls {
            self.add_rows(first, &group.records[records]);
        }
        // Publish and write to disk concurrently. If this node crashes before the facts are on disk, no
        // caller was answered, and peers that have received them refuse the tokens all the same.
        let published_at = runtime_now();
        if let Some(feed) = self.feed.get()
            && !group.own.is_empty()
        {
            feed.publish(seq + 1 - count(&group.own), &group.own);
        }
        let is_journaled = self.write_to_journal(journal, &group.records, first);
        if !is_journaled {
            self.unjournaled.fetch_add(group.records.len(), Ordering::Relaxed);
        }
        let queued =
            (first..).zip(group.records).map(|(number, record)| Queued { number, record, is_journaled });
        self.unwritten().extend(queued);
        self.unwritten_added.notify_one();
        for reply in group.other_callers {
            let _ = reply.send(is_journaled);
        }
        for OwnCaller { reply, first, last, seq } in group.own_callers {
            let _ = reply.send(Numbered { first, last, seq, published_at, is_journaled });
        }
    }

    fn write_to_journal(&self, journal: &mut Journal, records: &[Record], first: u64) -> bool {
        let written = journal.append(records, first, self.released());
        self.used_bytes.store(journal.used().0, Ordering::Relaxed);
        let was_full = self.is_full.swap(written.is_err(), Ordering::Relaxed);
        match &written {
            Ok(()) if was_full => tracing::info!("journal has room again"),
            Ok(()) => {}
            Err(_) if was_full => {}
            Err(error @ JournalError::Full) => {
                tracing::error!("{error}; refusing revocations until the store is back");
            }
            Err(error) => {
                tracing::error!(%error, "journal write failed; revocations are durable in the store only");
            }
        }
        written.is_ok()
    }

    /// Whether there is room for `count` more entries of other nodes: half of the journal is this node's own.
    fn has_room_for_others(&self, count: usize) -> bool {
        let max = self.size_bytes.load(Ordering::Relaxed) / 2 / RECORD_BYTES_MAX;
        let kept = self.of_others.load(Ordering::Relaxed).saturating_add(count);
        !self.is_full.load(Ordering::Relaxed) && u64::try_from(kept).is_ok_and(|kept| kept <= max)
    }
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}
