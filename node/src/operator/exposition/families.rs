//! Which metrics there are, and what each means: one function for each part of the node.

use std::{sync::atomic::Ordering, time::Duration};

use prometheus_client::registry::Unit;
use schema::Refusal;

use crate::{
    app::App,
    logging,
    metrics::{LOGIN_LABELS, Metrics, read},
    scheduling::background::{TaskStatus, UPKEEP},
    storage::backend::StoreBackend,
    traces,
};

/// One metric, with a value for each set of labels.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) unit: Option<Unit>,
    pub(super) kind: Kind,
    pub(super) values: Values,
}

/// Whether a metric only rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

type Labels = Vec<(&'static str, String)>;
type Values = Vec<(Labels, u64)>;

fn counter(name: &'static str, help: &'static str, values: Values) -> Family {
    Family { name, help, unit: None, kind: Kind::Counter, values }
}

fn gauge(name: &'static str, help: &'static str, values: Values) -> Family {
    Family { name, help, unit: None, kind: Kind::Gauge, values }
}

fn bytes(name: &'static str, help: &'static str, value: u64) -> Family {
    Family { unit: Some(Unit::Bytes), ..gauge(name, help, one(value)) }
}

fn seconds(name: &'static str, help: &'static str, values: Values) -> Family {
    Family { unit: Some(Unit::Seconds), ..gauge(name, help, values) }
}

/// A value without labels.
fn one(value: u64) -> Values {
    vec![(Vec::new(), value)]
}

/// Values by one label.
fn by<'a>(name: &'static str, values: impl IntoIterator<Item = (&'a str, u64)>) -> Values {
    values.into_iter().map(|(label, value)| (vec![(name, label.to_owned())], value)).collect()
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// All metrics but the histograms. `requests` are the answers by route and status.
pub(super) fn all(metrics: &Metrics, app: &App, requests: Values) -> Vec<Family> {
    let mut families = of_requests(metrics, app, requests);
    families.extend(of_accounts(metrics, app));
    families.extend(of_tokens(metrics, app));
    families.extend(of_clocks(app));
    families.extend(of_node(app));
    families.extend(of_background(&app.background.statuses()));
    families.extend(of_revocations(app));
    families.extend(of_store(app));
    if let Some(peers) = app.peers() {
        families.extend(of_cluster(&peers.status()));
    }
    if let Some(cache) = &app.cache {
        families.extend(of_cache(cache.stats()));
    }
    families
}

fn of_requests(metrics: &Metrics, app: &App, requests: Values) -> Vec<Family> {
    vec![
        counter("palisade_http_requests", "Requests answered", requests),
        counter(
            "palisade_http_connections_refused",
            "Connections beyond the share of their address or beyond all that the node has",
            one(read(&metrics.connections_refused)),
        ),
        counter(
            "palisade_forwarded_unreadable",
            "Requests from trusted proxies whose X-Forwarded-For cannot be read",
            one(read(&metrics.forwarded_unreadable)),
        ),
        bytes(
            "palisade_body_budget_held",
            "Memory that requests and answers under way hold",
            count(app.bodies.held()),
        ),
        bytes(
            "palisade_body_budget_size",
            "Memory that requests and answers under way may hold",
            count(app.bodies.total()),
        ),
        counter(
            "palisade_body_budget_refusals",
            "Requests refused because the budget, or their client's share of it, was used up",
            one(app.bodies.refusals()),
        ),
    ]
}

fn of_accounts(metrics: &Metrics, app: &App) -> Vec<Family> {
    let logins = LOGIN_LABELS.into_iter().zip(metrics.logins.iter().map(read));
    let limits = &app.limits.counts;
    vec![
        counter("palisade_logins", "Attempts to log in", by("result", logins)),
        counter(
            "palisade_limits_reached",
            "Accounts locked and addresses slowed",
            by(
                "kind",
                [
                    ("account", read(&limits.accounts)),
                    ("address", read(&limits.addresses)),
                    ("registration", read(&limits.registrations)),
                ],
            ),
        ),
        counter(
            "palisade_limits_lifted",
            "Limits that an operator or an admin lifted",
            one(read(&limits.lifted)),
        ),
        gauge(
            "palisade_password_queue_length",
            "Passwords that wait to be hashed",
            one(count(app.passwords.waiting())),
        ),
        gauge(
            "palisade_permission_snapshots",
            "Users whose permissions are in memory",
            one(count(app.facts.snapshots().count())),
        ),
    ]
}

fn of_tokens(metrics: &Metrics, app: &App) -> Vec<Family> {
    let refusals = Refusal::ALL.iter().map(|refusal| refusal.code());
    let verdicts = ["valid"].into_iter().chain(refusals).zip(metrics.verdicts.iter().map(read));
    vec![
        counter("palisade_token_verdicts", "Verdicts on access tokens", by("verdict", verdicts)),
        counter("palisade_refreshes", "Refresh tokens exchanged", one(read(&metrics.refreshes))),
        counter("palisade_refresh_refusals", "Refresh tokens refused", one(read(&metrics.refresh_refusals))),
        gauge(
            "palisade_signature_queue_length",
            "Tokens that wait for their signature to be checked",
            one(count(app.tokens.waiting())),
        ),
        bytes(
            "palisade_verified_tokens",
            "Memory of the tokens whose signature is known to be good",
            count(app.tokens.remembered_bytes()),
        ),
        counter(
            "palisade_key_lookups",
            "Times the store was asked for an unknown signing key",
            one(app.ring.lookups()),
        ),
    ]
}

fn of_clocks(app: &App) -> Vec<Family> {
    vec![
        counter("palisade_clock_jumps", "Times the wall clock jumped", one(app.clocks.jumps())),
        seconds(
            "palisade_clock_offset",
            "Difference between the wall clock and where it would be without recent jumps",
            one(app.clocks.disagreement().as_secs()),
        ),
    ]
}

fn of_node(app: &App) -> Vec<Family> {
    let is_ready = app.sync.is_synced() && !app.is_draining();
    let spans = traces::counts().map(|counts| {
        [("exported", counts.exported), ("refused", counts.refused), ("dropped", counts.dropped)]
    });
    vec![
        counter(
            "palisade_trace_spans",
            "Ended spans of traces: taken by the collector, refused by it, or dropped because the queue was full",
            by("result", spans.into_iter().flatten()),
        ),
        gauge("palisade_ready", "1 if the node takes requests", one(u64::from(is_ready))),
        counter(
            "palisade_log_lines_lost",
            "Log lines dropped because stderr was full, slow or closed",
            one(logging::lines_lost()),
        ),
        gauge("palisade_build_info", "Build information", by("version", [(env!("CARGO_PKG_VERSION"), 1)])),
    ]
}

fn of_background(tasks: &[(&'static str, TaskStatus, Duration)]) -> Vec<Family> {
    let upkeep = tasks.iter().find(|(name, ..)| *name == UPKEEP).map_or(0, |(_, status, _)| status.rounds);
    let rounds = tasks.iter().map(|(name, status, _)| (*name, status.rounds));
    let failures = tasks.iter().map(|(name, status, _)| (*name, status.failures));
    let ages = tasks.iter().map(|(name, _, age)| (*name, age.as_secs()));
    vec![
        counter(
            "palisade_upkeep_rounds",
            "Times this node removed what has expired: denials, rows, keys",
            one(upkeep),
        ),
        counter(
            "palisade_background_rounds",
            "Rounds that a background task has finished",
            by("task", rounds),
        ),
        counter(
            "palisade_background_failures",
            "Rounds of a background task that failed",
            by("task", failures),
        ),
        seconds(
            "palisade_background_age",
            "Time since a background task last finished a round",
            by("task", ages),
        ),
    ]
}

fn of_revocations(app: &App) -> Vec<Family> {
    let denials = app.facts.denials().counts();
    let log = app.log.state();
    let mut families = vec![
        gauge(
            "palisade_denials",
            "Facts in memory that refuse tokens",
            by(
                "kind",
                [
                    ("session", count(denials.sessions)),
                    ("token", count(denials.tokens)),
                    ("user_version", count(denials.users)),
                    ("key", count(denials.keys)),
                ],
            ),
        ),
        gauge("palisade_ledger_unwritten", "Facts that are not in the ledger yet", one(count(log.unwritten))),
        gauge(
            "palisade_journal_full",
            "1 if revocations find no room in the journal",
            one(u64::from(log.full)),
        ),
        bytes(
            "palisade_journal_used",
            "Journal in use, including records that are not needed any more",
            log.used_bytes,
        ),
        bytes("palisade_journal_size", "Disk reserved for the journal", log.size_bytes),
    ];
    if app.backend.is_shared() {
        let now = app.clock.now();
        // A node that has never synced is as stale as it is old.
        let age = app.freshness.age().unwrap_or_else(|| now.since(app.started_at));
        families.push(seconds(
            "palisade_freshness_age",
            "Time since this node had applied every revocation of every other node",
            one(age.as_secs()),
        ));
        families.extend(app.sync.ledger_read_at().map(|at| {
            let age = now.since(at).as_secs();
            seconds("palisade_ledger_age", "Time since the ledger was last read to its end", one(age))
        }));
    }
    families
}

fn of_store(app: &App) -> Vec<Family> {
    let is_up = u64::from(app.backend.health().is_up);
    let mut families = vec![gauge("palisade_store_up", "1 if the store answers", one(is_up))];
    families.extend(match &app.backend {
        StoreBackend::Embedded(stats) => vec![
            counter("palisade_store_commits", "Durable commits of the store", one(stats.commits())),
            counter("palisade_store_changes", "Changes in durable commits", one(stats.changes())),
        ],
        StoreBackend::Cql(status) => {
            let counted = status.counters();
            let kinds =
                [("read", counted.reads), ("write", counted.writes), ("conditional", counted.conditional)];
            vec![
                counter("palisade_store_statements", "Statements sent", by("kind", kinds)),
                counter("palisade_store_errors", "Statements that failed", one(counted.errors)),
                counter(
                    "palisade_store_asked_again",
                    "Conditional writes without an answer whose outcome was read",
                    one(counted.asked),
                ),
                counter(
                    "palisade_store_unknown_outcomes",
                    "Conditional writes without an answer whose outcome could not be read",
                    one(counted.unknown),
                ),
                counter(
                    "palisade_ledger_unreadable",
                    "Facts of a newer version, or damaged ones, that were skipped",
                    one(counted.unreadable),
                ),
                counter(
                    "palisade_store_reconnects",
                    "Connections that were replaced",
                    one(counted.reconnects),
                ),
            ]
        }
    });
    families
}

fn of_cluster(status: &cluster::Status) -> Vec<Family> {
    let members = |alive: bool| {
        let members = status.members.iter().filter(|status| status.member.alive == alive);
        count(members.count())
    };
    let links = status.members.iter().filter_map(|member| member.link.as_ref());
    let lag = links.clone().map(|(peer, _)| peer.lag).max().unwrap_or(0);
    let unacknowledged = links.clone().map(|(peer, _)| peer.acknowledged_lag).max().unwrap_or(0);
    let mut families = vec![
        gauge(
            "palisade_cluster_members",
            "Known cluster members besides this node",
            by("state", [("alive", members(true)), ("dead", members(false))]),
        ),
        gauge("palisade_cluster_links", "Peers with a link to this node", one(count(links.count()))),
        gauge(
            "palisade_cluster_lag",
            "Entries of the furthest peer's log that are not applied here",
            one(lag),
        ),
        gauge(
            "palisade_cluster_unacknowledged",
            "Entries of this node's log that the furthest peer has not acknowledged",
            one(unacknowledged),
        ),
        gauge("palisade_cluster_log_entries", "Facts in memory for peers", one(count(status.kept))),
    ];
    families.extend(of_replication(status));
    families
}

fn of_replication(status: &cluster::Status) -> Vec<Family> {
    let refused = |what: &str, reason: &str, value: u64| {
        (vec![("what", what.to_owned()), ("reason", reason.to_owned())], value)
    };
    let gossip = status.gossip.refused.iter();
    let gossip = gossip.map(|(reason, value)| refused("gossip", reason.as_str(), *value));
    let links = status.refused.iter().map(|(reason, value)| refused("link", reason, *value));
    let counters = &status.counters;
    let datagrams = [("sent", status.gossip.sent.0), ("received", status.gossip.received.0)];
    vec![
        counter(
            "palisade_cluster_pushed",
            "Facts sent to peers without being asked for",
            one(counters.pushed),
        ),
        counter("palisade_cluster_pulls", "Ranges of facts asked of peers", one(counters.pulled)),
        counter(
            "palisade_cluster_jumps",
            "Times a peer was too far behind to be sent facts, and had to ask for them",
            one(counters.jumps),
        ),
        counter(
            "palisade_cluster_shed",
            "Facts dropped from memory for want of room; they are in the ledger",
            one(counters.shed),
        ),
        counter(
            "palisade_cluster_diverged",
            "Blocks of facts that differed from a peer's",
            one(counters.diverged),
        ),
        counter(
            "palisade_cluster_refused_entries",
            "Entries of peers that were refused: too far beyond what is complete, or of too many logs",
            one(counters.refused),
        ),
        counter("palisade_gossip_datagrams", "Gossip datagrams", by("direction", datagrams)),
        counter("palisade_cluster_refused", "Datagrams and links refused", gossip.chain(links).collect()),
    ]
}

fn of_cache(stats: &cache_redis::Stats) -> Vec<Family> {
    let reads =
        [("hit", read(&stats.hits)), ("miss", read(&stats.misses)), ("bypassed", read(&stats.bypassed))];
    let is_up = u64::from(stats.up.load(Ordering::Relaxed));
    vec![
        counter("palisade_cache_reads", "Reads of permissions from Redis", by("result", reads)),
        counter("palisade_cache_refused", "Values in Redis that no node wrote", one(read(&stats.refused))),
        counter(
            "palisade_cache_errors",
            "Redis commands that failed or took too long",
            one(read(&stats.errors)),
        ),
        gauge("palisade_cache_up", "1 if Redis answers", one(is_up)),
    ]
}
