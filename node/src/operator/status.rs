//! The cluster as one node sees it: for the HTTP API, the command line and the console.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use cluster::{Status, protocol::replicator::LogState};
use schema::{denials, time::millis};
use serde::Serialize;
use utoipa::{PartialSchema as _, ToSchema};

use crate::{app::App, revocation, settings::StalePolicy, storage::backend::StoreState};

/// This node, its peers, and how fresh this node is.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterView {
    node: ThisNode,
    /// How long ago this node had last applied every revocation of every other node; null if it never has.
    #[schema(required = true)]
    freshness_ms: Option<u64>,
    /// Whether that is longer than `MAX_STALENESS`.
    stale: bool,
    /// What the node does when it is stale.
    #[schema(schema_with = StalePolicy::schema)]
    stale_policy: StalePolicy,
    max_staleness_ms: u64,
    members: Vec<MemberView>,
    logs: Vec<LogView>,
    /// Entries of all logs in memory, for peers that ask.
    kept: usize,
    denials: DenialsView,
    journal: JournalView,
    store: StoreView,
    #[schema(required = true)]
    redis: Option<RedisView>,
    #[schema(required = true)]
    gossip: Option<GossipView>,
    #[schema(required = true)]
    links: Option<LinksView>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ThisNode {
    uuid: String,
    name: String,
    incarnation: u64,
    /// The highest version of the protocol that it speaks.
    protocol_version: u8,
    #[schema(inline)]
    state: NodeState,
    /// The number of the last fact of its own log; null when it is in no cluster.
    #[schema(required = true)]
    head: Option<u64>,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum NodeState {
    Starting,
    Ready,
    Leaving,
}

impl NodeState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Leaving => "leaving",
        }
    }
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum MemberState {
    Alive,
    Dead,
    Left,
}

impl MemberState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct MemberView {
    uuid: String,
    name: String,
    incarnation: u64,
    address: String,
    #[schema(inline)]
    state: MemberState,
    linked: bool,
    #[schema(required = true)]
    linked_ms: Option<u64>,
    ready: bool,
    /// The version that this link speaks.
    #[schema(required = true)]
    protocol_version: Option<u8>,
    /// Entries of its log that are not applied here.
    #[schema(required = true)]
    lag: Option<u64>,
    /// Entries of this node's log that it has not acknowledged.
    #[schema(required = true)]
    acknowledged_lag: Option<u64>,
    /// How long ago every revocation of this member had been applied here.
    #[schema(required = true)]
    fresh_ms: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct LogView {
    node: String,
    incarnation: u64,
    /// All up to here is applied.
    applied: u64,
    /// The highest number that any node claims.
    known: u64,
    /// Entries in memory.
    kept: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct DenialsView {
    sessions: usize,
    tokens: usize,
    users: usize,
    keys: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct JournalView {
    /// Facts that the ledger does not have.
    unwritten: usize,
    failing: bool,
    full: bool,
    used_bytes: u64,
    size_bytes: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct StoreView {
    #[schema(schema_with = StoreState::schema)]
    state: StoreState,
    /// How long ago the ledger was read to its end; null before the first time.
    #[schema(required = true)]
    ledger_read_ms: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct RedisView {
    up: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct GossipView {
    sent: u64,
    received: u64,
    /// By reason.
    refused: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct LinksView {
    /// Facts sent without being asked for.
    pushed: u64,
    /// Ranges asked for.
    pulls: u64,
    /// Blocks that differed from a peer's.
    diverged: u64,
    /// Times a peer was too far behind and was told to ask.
    jumps: u64,
    /// Facts that were dropped before they had ended, for want of room; they are in the ledger.
    shed: u64,
    /// By reason.
    refused: BTreeMap<&'static str, u64>,
}

impl ClusterView {
    /// The cluster as it is now.
    pub fn of(app: &App) -> Self {
        let status = app.peers().map(|peers| peers.status());
        let ledger_read_at = app.sync.ledger_read_at();
        Self {
            node: ThisNode::of(app, status.as_ref()),
            freshness_ms: app.freshness.age().map(millis),
            stale: app.freshness.staleness().is_some(),
            stale_policy: app.freshness.policy(),
            max_staleness_ms: millis(app.settings.max_staleness),
            members: status.iter().flat_map(|status| &status.members).map(MemberView::of).collect(),
            logs: status.iter().flat_map(|status| &status.logs).map(LogView::of).collect(),
            kept: status.as_ref().map_or(0, |status| status.kept),
            denials: DenialsView::of(app.facts.denials().counts()),
            journal: JournalView::of(app.log.state()),
            store: StoreView {
                state: app.backend.health().state,
                ledger_read_ms: ledger_read_at.map(|at| millis(app.clock.now().since(at))),
            },
            redis: app.cache.as_ref().map(|cache| RedisView { up: cache.stats().up.load(Ordering::Relaxed) }),
            gossip: status.as_ref().map(GossipView::of),
            links: status.map(LinksView::of),
        }
    }

    /// For people: a line for this node, and one for every other.
    pub fn table(&self) -> String {
        let ms = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let mut rows =
            vec![["NODE", "STATE", "LINK", "ADDRESS", "LAG", "UNACKNOWLEDGED", "KNOWN"].map(str::to_owned)];
        let own = ["this node", "-", "-", "-"].map(str::to_owned);
        let [link, address, lag, unacknowledged] = own;
        let (name, state) = (self.node.name.clone(), self.node.state.as_str().to_owned());
        rows.push([name, state, link, address, lag, unacknowledged, ms(self.freshness_ms)]);
        for member in &self.members {
            let link = if member.linked { "up" } else { "down" }.to_owned();
            rows.push([
                member.name.clone(),
                member.state.as_str().to_owned(),
                link,
                member.address.clone(),
                number(member.lag),
                number(member.acknowledged_lag),
                ms(member.fresh_ms),
            ]);
        }
        let widths: Vec<_> = (0..7)
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let line = |row: &[String; 7]| {
            let cells: Vec<_> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        };
        rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl ThisNode {
    fn of(app: &App, status: Option<&Status>) -> Self {
        let origin = app.identity.origin();
        let own_log = |status: &Status| status.logs.iter().find(|log| log.origin == origin).cloned();
        Self {
            uuid: origin.node.to_string(),
            name: app.identity.name.clone(),
            incarnation: origin.incarnation,
            protocol_version: *cluster::protocol::VERSIONS.end(),
            state: match (app.is_draining(), app.sync.is_synced()) {
                (true, _) => NodeState::Leaving,
                (_, true) => NodeState::Ready,
                _ => NodeState::Starting,
            },
            head: status.and_then(own_log).map(|log| log.applied.complete),
        }
    }
}

impl LogView {
    fn of(log: &LogState) -> Self {
        Self {
            node: log.origin.node.to_string(),
            incarnation: log.origin.incarnation,
            applied: log.applied.complete,
            known: log.known,
            kept: log.kept,
        }
    }
}

impl DenialsView {
    const fn of(counts: denials::Counts) -> Self {
        Self { sessions: counts.sessions, tokens: counts.tokens, users: counts.users, keys: counts.keys }
    }
}

impl JournalView {
    const fn of(log: revocation::LogState) -> Self {
        Self {
            unwritten: log.unwritten,
            failing: log.failing,
            full: log.full,
            used_bytes: log.used_bytes,
            size_bytes: log.size_bytes,
        }
    }
}

impl GossipView {
    fn of(status: &Status) -> Self {
        let refused = status.gossip.refused.iter().map(|(reason, count)| (reason.as_str(), *count));
        Self { sent: status.gossip.sent.0, received: status.gossip.received.0, refused: refused.collect() }
    }
}

impl LinksView {
    fn of(status: Status) -> Self {
        Self {
            pushed: status.counters.pushed,
            pulls: status.counters.pulled,
            diverged: status.counters.diverged,
            jumps: status.counters.jumps,
            shed: status.counters.shed,
            refused: status.refused.into_iter().collect(),
        }
    }
}

impl MemberView {
    fn of(status: &cluster::MemberStatus) -> Self {
        let (member, link) = (&status.member, status.link.as_ref());
        Self {
            uuid: member.origin.node.to_string(),
            name: member.name.clone(),
            incarnation: member.origin.incarnation,
            address: member.address.to_string(),
            state: match (member.alive, member.leaving) {
                (_, true) => MemberState::Left,
                (true, false) => MemberState::Alive,
                (false, false) => MemberState::Dead,
            },
            linked: link.is_some(),
            linked_ms: link.map(|(_, since)| millis(*since)),
            ready: member.ready,
            protocol_version: link.map(|(peer, _)| peer.version),
            lag: link.map(|(peer, _)| peer.lag),
            acknowledged_lag: link.map(|(peer, _)| peer.acknowledged_lag),
            fresh_ms: status.freshness.map(millis),
        }
    }
}
