//! What nodes learn of each other without links.

use cluster::protocol::replicator::MemberState;
use schema::ledger::Origin;

use super::{Micros, SECOND, World, facts::node_id};

/// Gossip calls a node dead when it has had no sign of it for this long.
const DETECTION_DELAY: Micros = 3 * SECOND;

/// What gossip has told a node of another one.
#[derive(Clone, Copy)]
pub(super) struct GossipView {
    /// When the last sign of the other node arrived.
    seen_at: Micros,
    incarnation: u64,
    departed: bool,
    /// The incarnation that the replicator knows, from gossip or a link.
    known_incarnation: u64,
    /// Whether that life has departed as far as the replicator knows.
    pub(super) known_departed: bool,
}

impl GossipView {
    /// What every node knows of every other one at the beginning of the world.
    pub(super) const FIRST: Self =
        Self { seen_at: 0, incarnation: 1, departed: false, known_incarnation: 0, known_departed: false };

    /// Notes what gossip or a link says, as the replicator does.
    pub(super) fn note(&mut self, incarnation: u64, departed: bool) {
        if incarnation > self.known_incarnation {
            self.known_incarnation = incarnation;
            self.known_departed = false;
        }
        self.known_departed |= departed && incarnation == self.known_incarnation;
    }

    /// Forgets what the replicator of a former life knew.
    pub(super) const fn forget_life(&mut self) {
        self.known_incarnation = 0;
        self.known_departed = false;
    }
}

impl World {
    /// Gives a node a sign of every node from which one can reach it, and tells its replicator.
    pub(super) fn gossip(&mut self, at: usize) {
        let now = self.now;
        for other in 0..self.settings.nodes {
            let node = &self.nodes[other];
            let Origin { incarnation, .. } = node.origin;
            let departed = node.departed;
            if other == at || self.is_cut(other, at) || !(node.runs() || departed) {
                continue;
            }
            let view = &mut self.nodes[at].views[other];
            *view = GossipView { seen_at: now, incarnation, departed, ..*view };
        }
        for view in &mut self.nodes[at].views {
            view.note(view.incarnation, view.departed);
        }
        let others = (0..self.settings.nodes).filter(|other| *other != at);
        let members: Vec<_> = others
            .map(|other| {
                let view = self.nodes[at].views[other];
                let state = match (view.departed, now < view.seen_at + DETECTION_DELAY) {
                    (true, _) => MemberState::Left,
                    (_, true) => MemberState::Alive,
                    _ => MemberState::Dead,
                };
                (Origin { node: node_id(other), incarnation: view.incarnation }, state)
            })
            .collect();
        self.nodes[at].replicator.set_members(members);
    }
}
