//! Calls that wait until peers have acknowledged entries of this node's log.

use std::collections::BTreeSet;

use schema::NodeId;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tracing::{Instrument as _, Span};

use super::{Cluster, FactHandler, State};
use crate::protocol::replicator::AckCount;

/// The maximum number of calls that wait for acknowledgements. Further calls return the current count at
/// once.
const PENDING_ACKS_MAX: usize = 4_096;

/// What a peer must have done with entries to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckLevel {
    /// The peer refuses by them.
    Applied,
    /// They are on the peer's disk too.
    OnDisk,
}

/// A call that waits until every live node has these entries of this node's log.
pub(super) struct PendingAck {
    first: u64,
    last: u64,
    level: AckLevel,
    /// When the entries were published.
    since: Instant,
    reply: oneshot::Sender<AckCount>,
    /// If the call is traced: a span for each node that has not acknowledged, which ends when it does.
    unacknowledged: Vec<(NodeId, Span)>,
}

impl Cluster {
    /// Waits until every live node has these entries, at most for the ack deadline. Does not wait for no
    /// entries (`last` 0).
    pub(super) async fn wait_for_acks(
        &self,
        first: u64,
        last: u64,
        level: AckLevel,
        since: Instant,
    ) -> AckCount {
        let span = tracing::info_span!("peers");
        let (reply, replied) = oneshot::channel();
        {
            let mut state = self.shared.state();
            let count = state.count_acks(first, last, level);
            if count.is_complete() && count.live > 0 && last > 0 && level == AckLevel::Applied {
                self.shared.handler.on_acknowledged(since.elapsed());
            }
            if count.is_complete() || last == 0 || state.pending_acks.len() >= PENDING_ACKS_MAX {
                return count;
            }
            let unacknowledged =
                if span.is_disabled() { Vec::new() } else { state.acknowledgement_spans(&span, first, last) };
            state.pending_acks.push(PendingAck { first, last, level, since, reply, unacknowledged });
        }
        match timeout(self.shared.config.ack_deadline, replied).instrument(span).await {
            Ok(Ok(count)) => count,
            _ => self.shared.state().count_acks(first, last, level),
        }
    }
}

impl State {
    fn count_acks(&self, first: u64, last: u64, level: AckLevel) -> AckCount {
        match level {
            AckLevel::Applied => self.replicator.visible(first, last),
            AckLevel::OnDisk => self.replicator.on_disk(first, last),
        }
    }

    /// A span for each live node that has not acknowledged these entries, below `span`.
    fn acknowledgement_spans(&self, span: &Span, first: u64, last: u64) -> Vec<(NodeId, Span)> {
        let _below = span.enter();
        let nodes = self.replicator.unacknowledged(first, last);
        nodes.map(|node| (node, tracing::info_span!("peer", peer = %node))).collect()
    }

    /// Answers every call whose entries all live nodes have now, and drops calls that were given up.
    pub(super) fn answer_pending(&mut self, handler: &dyn FactHandler) {
        let mut index = 0;
        while index < self.pending_acks.len() {
            let pending = &mut self.pending_acks[index];
            if !pending.unacknowledged.is_empty() {
                let lacking: BTreeSet<_> =
                    self.replicator.unacknowledged(pending.first, pending.last).collect();
                pending.unacknowledged.retain(|(node, _)| lacking.contains(node));
            }
            let pending = &self.pending_acks[index];
            let count = self.count_acks(pending.first, pending.last, pending.level);
            if count.is_complete() {
                let pending = self.pending_acks.swap_remove(index);
                if pending.level == AckLevel::Applied {
                    handler.on_acknowledged(pending.since.elapsed());
                }
                let _ = pending.reply.send(count);
            } else if pending.reply.is_closed() {
                self.pending_acks.swap_remove(index);
            } else {
                index += 1;
            }
        }
    }
}
