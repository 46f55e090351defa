//! `GET /api/v1/cluster`: the other nodes, and how well this one knows what they take away.

use std::sync::{Arc, atomic::Ordering};

use axum::{Json, extract::State};
use cluster::Status;
use schema::{
    ledger::Origin,
    permission::{ALL_ALL, CLUSTER_READ},
    time::millis,
};
use serde::Serialize;
use utoipa::{ToSchema, openapi::Object};

use super::{
    authority::Leaver,
    docs::one_of,
    operators::store_states,
    problem::{Problem, ProblemBody},
};
use crate::app::App;

/// This node among others.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterView {
    node: ThisNode,
    /// How long ago this node last knew everything that had been taken away; null when it never did.
    freshness_ms: Option<u64>,
    /// Whether that is longer than `MAX_STALENESS`.
    stale: bool,
    /// What it answers then.
    #[schema(schema_with = stale_policies)]
    stale_policy: &'static str,
    max_staleness_ms: u64,
    members: Vec<MemberView>,
    logs: Vec<LogView>,
    /// Entries of all logs in memory, for peers that ask.
    kept: usize,
    denials: DenialsView,
    journal: JournalView,
    store: StoreView,
    redis: Option<RedisView>,
    gossip: Option<GossipView>,
    links: Option<LinksView>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ThisNode {
    uuid: String,
    name: String,
    incarnation: u64,
    /// The highest version of the protocol that it speaks.
    protocol_version: u8,
    #[schema(schema_with = node_states)]
    state: &'static str,
    /// The number of the last fact of its own log; null when it is in no cluster.
    head: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct MemberView {
    uuid: String,
    name: String,
    incarnation: u64,
    address: String,
    #[schema(schema_with = member_states)]
    state: &'static str,
    linked: bool,
    linked_ms: Option<u64>,
    ready: bool,
    /// The version that this link speaks.
    protocol_version: Option<u8>,
    /// Entries of its log that are not applied here.
    lag: Option<u64>,
    /// Entries of this node's log that it has not acknowledged.
    acknowledged_lag: Option<u64>,
    /// How long ago everything that it had taken away was known here.
    fresh_ms: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct LogView {
    node: String,
    incarnation: u64,
    /// All up to here is applied.
    applied: u64,
    /// The highest number that somebody claims.
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
    #[schema(schema_with = store_states)]
    state: &'static str,
    /// How long ago the ledger was read to its end; null before the first time.
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
    refused: std::collections::BTreeMap<&'static str, u64>,
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
    refused: std::collections::BTreeMap<&'static str, u64>,
}

fn stale_policies() -> Object {
    one_of(["open", "closed"])
}

fn node_states() -> Object {
    one_of(["starting", "ready", "leaving"])
}

fn member_states() -> Object {
    one_of(["alive", "dead", "left"])
}

/// The cluster as this node sees it
///
/// Needs `cluster_read` or `all_all`; answered also where staleness lets nothing else be decided.
#[utoipa::path(
    get, path = "/api/v1/cluster", tag = "operators", operation_id = "get_cluster",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "This node and its peers", body = ClusterView),
        (status = 403, description = "The caller lacks `cluster_read` and `all_all`", body = ProblemBody),
    ),
)]
pub async fn show(State(app): State<Arc<App>>, Leaver(caller): Leaver) -> Result<Json<ClusterView>, Problem> {
    caller.require_any(&[CLUSTER_READ, ALL_ALL]).await?;
    Ok(Json(ClusterView::of(&app)))
}

impl ClusterView {
    /// The cluster as it is now.
    pub fn of(app: &App) -> Self {
        let status = app.peers().map(|peers| peers.status());
        let Origin { node, incarnation } = app.identity.origin();
        let (denials, log) = (app.facts.denials().counts(), app.log.state());
        let own = |status: &Status| {
            status
                .logs
                .iter()
                .find(|log| log.origin.node == node && log.origin.incarnation == incarnation)
                .map(|log| log.applied.complete)
        };
        Self {
            node: ThisNode {
                uuid: node.to_string(),
                name: app.identity.name.clone(),
                incarnation,
                protocol_version: *cluster::protocol::VERSIONS.end(),
                state: match (app.is_draining(), app.is_informed()) {
                    (true, _) => "leaving",
                    (_, true) => "ready",
                    _ => "starting",
                },
                head: status.as_ref().and_then(own),
            },
            freshness_ms: app.freshness.age().map(millis),
            stale: app.freshness.staleness().is_some(),
            stale_policy: app.freshness.policy().as_str(),
            max_staleness_ms: millis(app.settings.max_staleness),
            members: status.iter().flat_map(|status| &status.members).map(MemberView::of).collect(),
            logs: status
                .iter()
                .flat_map(|status| &status.logs)
                .map(|log| LogView {
                    node: log.origin.node.to_string(),
                    incarnation: log.origin.incarnation,
                    applied: log.applied.complete,
                    known: log.known,
                    kept: log.kept,
                })
                .collect(),
            kept: status.as_ref().map_or(0, |status| status.kept),
            denials: DenialsView {
                sessions: denials.sessions,
                tokens: denials.tokens,
                users: denials.users,
                keys: denials.keys,
            },
            journal: JournalView {
                unwritten: log.unwritten,
                failing: log.failing,
                full: log.full,
                used_bytes: log.used_bytes,
                size_bytes: log.size_bytes,
            },
            store: StoreView {
                state: app.backing.health().state,
                ledger_read_ms: app.ledger_read_at().map(|at| millis(app.clock.now().since(at))),
            },
            redis: app.cache.as_ref().map(|cache| RedisView { up: cache.stats().up.load(Ordering::Relaxed) }),
            gossip: status.as_ref().map(|status| GossipView {
                sent: status.gossip.sent.0,
                received: status.gossip.received.0,
                refused: status.gossip.refused.iter().map(|(reason, n)| (reason.as_str(), *n)).collect(),
            }),
            links: status.map(|status| LinksView {
                pushed: status.counters.pushed,
                pulls: status.counters.pulled,
                diverged: status.counters.diverged,
                jumps: status.counters.jumps,
                shed: status.counters.shed,
                refused: status.refused.into_iter().collect(),
            }),
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
        let (name, state) = (self.node.name.clone(), self.node.state.to_owned());
        rows.push([name, state, link, address, lag, unacknowledged, ms(self.freshness_ms)]);
        for member in &self.members {
            let link = if member.linked { "up" } else { "down" }.to_owned();
            rows.push([
                member.name.clone(),
                member.state.to_owned(),
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

impl MemberView {
    fn of(status: &cluster::MemberStatus) -> Self {
        let (member, link) = (&status.member, status.link.as_ref());
        Self {
            uuid: member.origin.node.to_string(),
            name: member.name.clone(),
            incarnation: member.origin.incarnation,
            address: member.address.to_string(),
            state: match (member.alive, member.leaving) {
                (_, true) => "left",
                (true, false) => "alive",
                (false, false) => "dead",
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
