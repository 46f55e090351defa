//! What operators see of the cluster.

use std::time::Duration;

use super::Cluster;
use crate::{
    members::{GossipCounters, Member},
    protocol::replicator::{Counters, LogState, PeerState},
};

/// The cluster, as this node sees it.
#[derive(Debug, Clone)]
pub struct Status {
    /// All other nodes.
    pub members: Vec<MemberStatus>,
    /// All logs.
    pub logs: Vec<LogState>,
    /// The number of entries held, over all logs.
    pub kept: usize,
    /// What the protocol has done since the node started.
    pub counters: Counters,
    /// Gossip datagrams sent, received and refused.
    pub gossip: GossipCounters,
    /// The number of links that were refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// How long ago this node last knew everything that all other members had published. `None` if there is
    /// no other member, or if that has never been the case.
    pub freshness: Option<Duration>,
}

/// Another node, as this node sees it.
#[derive(Debug, Clone)]
pub struct MemberStatus {
    /// What gossip says.
    pub member: Member,
    /// The state and the age of the link, if there is one.
    pub link: Option<(PeerState, Duration)>,
    /// How long ago this node last knew everything that the member had published.
    pub freshness: Option<Duration>,
}

impl Cluster {
    /// The cluster, as this node sees it now.
    #[must_use]
    pub fn status(&self) -> Status {
        let now = self.shared.now();
        let members = self.shared.members.watch().borrow().clone();
        let state = self.shared.state();
        let peers = state.replicator.peers();
        let age = |at: Duration| now.monotonic.saturating_sub(at);
        let members = members.iter().map(|member| {
            let peer = peers.iter().find(|peer| peer.origin == member.origin);
            let link_age = state.links.get(&member.origin.node).map(|link| link.since.elapsed());
            MemberStatus {
                member: member.clone(),
                link: peer.copied().zip(link_age),
                freshness: state.replicator.fresh_at_of(member.origin.node).map(age),
            }
        });
        Status {
            members: members.collect(),
            logs: state.replicator.logs(),
            kept: state.replicator.kept(),
            counters: state.replicator.counters(),
            gossip: self.shared.members.counters(),
            refused: self.shared.refused.read(),
            freshness: state.replicator.fresh_at(now).map(age),
        }
    }
}
