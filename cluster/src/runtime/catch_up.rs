//! When a node that starts has caught up with its peers.

use std::time::Duration;

use schema::ledger::Origin;
use tokio::time::interval;

use super::{Cluster, dial::DIAL_INTERVAL};
use crate::timer;

/// How long the set of live members must have been the same before a node that starts believes that it is
/// all.
const STABLE_MEMBERS_MIN: Duration = Duration::from_secs(1);
/// How long a node that has seeds and sees no member waits for the first one.
const FIRST_MEMBER_TIMEOUT: Duration = Duration::from_secs(2);

/// What grows while a node catches up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    links: usize,
    entries: usize,
}

impl Cluster {
    /// Waits until this node is linked with every live member and has applied what they have. Gives up when
    /// there has been no progress for `idle_timeout`. Returns whether the node has caught up.
    pub async fn catch_up(&self, idle_timeout: Duration) -> bool {
        let mut rounds = interval(DIAL_INTERVAL);
        let mut alive: Vec<Origin> = Vec::new();
        let mut alive_changed_at = timer::now();
        let mut progress = Progress::default();
        let mut progress_at = timer::now();
        loop {
            rounds.tick().await;
            let current = self.live_members();
            if current != alive {
                alive = current;
                alive_changed_at = timer::now();
            }
            // Gossip may not have found the first member yet.
            let is_alone = alive.is_empty() && !self.shared.config.seeds.is_empty();
            let settle_time = if is_alone { FIRST_MEMBER_TIMEOUT } else { STABLE_MEMBERS_MIN };
            let has_settled = alive_changed_at.elapsed() >= settle_time;
            let current = {
                let state = self.shared.state();
                let mut linked = alive.iter().map(|origin| state.is_linked(*origin));
                let is_linked = if state.replicator.is_sparse() {
                    alive.is_empty() || linked.any(|is_linked| is_linked)
                } else {
                    linked.all(|is_linked| is_linked)
                };
                if has_settled && is_linked && state.replicator.is_caught_up() {
                    return true;
                }
                Progress { links: state.links.len(), entries: state.replicator.kept() }
            };
            if current != progress {
                progress = current;
                progress_at = timer::now();
            }
            if progress_at.elapsed() >= idle_timeout {
                return false;
            }
        }
    }

    fn live_members(&self) -> Vec<Origin> {
        let members = self.shared.members.watch().borrow().clone();
        let alive = members.iter().filter(|member| member.alive && !member.leaving);
        alive.map(|member| member.origin).collect()
    }
}
