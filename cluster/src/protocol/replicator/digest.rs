//! Checksums of whole blocks, which find entries that a link changed or a defect lost.

use schema::ledger::Origin;

use super::{LogProgress, Replicator};
use crate::protocol::{
    Message, Now,
    peer::{BlockRef, PeerHead, REPAIRS_MAX},
};

/// The maximum number of checksums in one message.
const SUMS_BATCH_MAX: u64 = 64;

impl Replicator {
    /// Schedules a repair of every block whose checksum differs from the peer's.
    pub(super) fn compare_digests(&mut self, from: Origin, origin: Origin, first: u64, sums: &[u64]) {
        let Some(LogProgress { log, .. }) = self.logs.get_mut(&origin) else { return };
        let ours = log.sums(first, u64::try_from(sums.len()).unwrap_or(0));
        let differing = (first..).zip(ours.iter().zip(sums)).filter(|(block, (ours, theirs))| {
            **theirs != 0 && ours != theirs && (**ours != 0 || log.has_lost(*block))
        });
        let differing: Vec<_> = differing.map(|(block, _)| BlockRef { origin, block }).collect();
        self.counters.diverged += u64::try_from(differing.len()).unwrap_or(0);
        let Some(peer) = self.peer_mut(from) else { return };
        for block in differing {
            if peer.repairs.len() < REPAIRS_MAX && !peer.repairs.contains(&block) {
                peer.repairs.push_back(block);
            }
        }
    }

    pub(super) fn next_digests(&mut self, to: Origin, now: Now) -> Option<Message> {
        let interval = self.tuning.digest_interval;
        let Self { logs, peers, .. } = self;
        let peer = &mut peers.get_mut(&to.node)?.peer;
        if peer.digests_to_send.is_empty() {
            if now.monotonic < peer.digests_sent_at + interval {
                return None;
            }
            peer.digests_sent_at = now.monotonic;
            let whole = logs.iter().filter(|(_, progress)| progress.log.has_whole_block());
            let begun = whole.filter_map(|(origin, progress)| {
                let first = *progress.log.blocks()?.start();
                Some(BlockRef { origin: *origin, block: first })
            });
            peer.digests_to_send = begun.collect();
            // Heads are sent again and gaps pulled again, in case a message was lost.
            peer.heads.values_mut().for_each(PeerHead::allow_pull);
            peer.heads_sent_rev = 0;
            peer.heads_sent_at = None;
            peer.ack_due = true;
        }
        let BlockRef { origin, block: first } = peer.digests_to_send.pop_front()?;
        let log = &mut logs.get_mut(&origin)?.log;
        let last = *log.blocks()?.end();
        let count = SUMS_BATCH_MAX.min((last + 1).saturating_sub(first));
        let sums = log.sums(first, count);
        if first + count <= last {
            peer.digests_to_send.push_front(BlockRef { origin, block: first + count });
        }
        Some(Message::Digests { origin, first, sums })
    }
}
