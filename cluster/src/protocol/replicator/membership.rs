//! Other nodes: what gossip says of them, and which of them are linked.
//!
//! A member that was alive once and did not leave may still run and publish, so it is remembered and counts
//! against freshness until [`Replicator::expire_members`] drops it.

use std::{collections::BTreeMap, time::Duration};

use schema::{NodeId, ledger::Origin};

use super::{LogProgress, PeerLink, Replicator, clocks::ClockReport};
use crate::protocol::{Now, peer::Peer};

/// The maximum number of other nodes that are remembered.
const MEMBERS_MAX: usize = 16_384;

/// What gossip says of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// It lives.
    Alive,
    /// It is dead, or no member can reach it.
    Dead,
    /// It announced that it stops.
    Left,
}

/// What this node knows of another one, linked or not.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemberInfo {
    pub(super) incarnation: u64,
    pub(super) alive: bool,
    /// Whether it announced that it stops.
    pub(super) departed: bool,
    /// The last time that it reported.
    pub(super) clock: Option<ClockReport>,
    /// Since when it has been neither alive by gossip nor linked.
    pub(super) gone_since: Option<Duration>,
    /// The latest time at which every fact that it had published was applied here.
    pub(super) fresh_at: Option<Duration>,
}

impl Replicator {
    /// Takes what gossip says of all other nodes.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = (Origin, MemberState)>) {
        let members: BTreeMap<_, _> =
            members.into_iter().map(|(origin, state)| (origin.node, (origin, state))).collect();
        self.members.retain(|node, member| {
            member.alive &= members.contains_key(node);
            !member.departed || members.contains_key(node) || self.peers.contains_key(node)
        });
        for (origin, state) in members.into_values() {
            if self.members.len() >= MEMBERS_MAX && !self.members.contains_key(&origin.node) {
                continue;
            }
            let member = self.member_mut(origin);
            // Gossip may lag behind what the node said over a link.
            if origin.incarnation == member.incarnation {
                member.alive = state == MemberState::Alive;
                member.departed |= state == MemberState::Left;
            }
        }
    }

    /// The entry of another node. A node that starts again is neither alive nor departed yet.
    pub(super) fn member_mut(&mut self, origin: Origin) -> &mut MemberInfo {
        let Origin { node, incarnation } = origin;
        let member = self.members.entry(node).or_insert(MemberInfo {
            incarnation,
            alive: false,
            departed: false,
            clock: None,
            gone_since: None,
            fresh_at: None,
        });
        if incarnation > member.incarnation {
            *member = MemberInfo { incarnation, alive: false, departed: false, ..*member };
        }
        member
    }

    /// Forgets members that have been gone for
    /// [`Tuning::member_expiry`](crate::protocol::Tuning::member_expiry). Call it when the ledger was read to
    /// its end at `at`: it then has what they published.
    pub fn expire_members(&mut self, at: Duration) {
        for (node, member) in &mut self.members {
            let is_here = member.alive || self.peers.contains_key(node);
            member.gone_since = if is_here { None } else { member.gone_since.or(Some(at)) };
        }
        let expiry = self.tuning.member_expiry;
        self.members.retain(|_, member| member.gone_since.is_none_or(|since| at < since + expiry));
    }

    /// Registers a new link to `origin`, replacing any previous one to that node.
    pub fn add_link(&mut self, origin: Origin, version: u8, now: Now) {
        let mut peer = Peer::new(version, now.monotonic);
        peer.pushed.insert(self.own, self.head());
        self.peers.insert(origin.node, PeerLink { origin, peer });
        if self.members.len() >= MEMBERS_MAX && !self.members.contains_key(&origin.node) {
            // A member names nodes that do not exist. A linked node counts more.
            let is_gone =
                |(node, member): &(&NodeId, &MemberInfo)| !member.alive && !self.peers.contains_key(*node);
            if let Some(node) = self.members.iter().find(is_gone).map(|(node, _)| *node) {
                self.members.remove(&node);
            }
        }
        self.member_mut(origin);
        if self.logs.len() >= self.tuning.logs_max && !self.logs.contains_key(&origin) {
            self.replace_idle_log(origin);
        }
    }

    /// Gives the log of a linked peer the place of the smallest log whose origin is neither alive nor linked.
    fn replace_idle_log(&mut self, origin: Origin) {
        let is_idle = |(origin, _): &(&Origin, &LogProgress)| {
            **origin != self.own && !self.is_linked(**origin) && !self.is_alive(**origin)
        };
        let idle = self.logs.iter().filter(is_idle).min_by_key(|(_, progress)| progress.log.bytes());
        if let Some(idle) = idle.map(|(origin, _)| *origin) {
            self.drop_log(idle);
            self.logs.insert(origin, LogProgress::default());
        }
    }

    /// Removes the link to `origin`, if there is one to this life of the node.
    pub fn remove_link(&mut self, origin: Origin) {
        if self.is_linked(origin) {
            self.peers.remove(&origin.node);
        }
    }

    /// Whether gossip says that this life of the node is alive: it may publish more.
    pub(super) fn is_alive(&self, origin: Origin) -> bool {
        let member = self.members.get(&origin.node);
        member.is_some_and(|member| member.alive && member.incarnation == origin.incarnation)
    }

    /// Whether this life of the node announced that it stops.
    #[must_use]
    pub fn has_left(&self, origin: Origin) -> bool {
        let member = self.members.get(&origin.node);
        member.is_some_and(|member| member.departed && member.incarnation == origin.incarnation)
    }

    /// Whether there are more members than a full mesh has, so that links are few and every node forwards
    /// what it receives.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        let is_here =
            |(node, member): &(&NodeId, &MemberInfo)| member.alive || self.peers.contains_key(*node);
        self.members.iter().filter(is_here).count() > self.tuning.mesh_max
    }
}
