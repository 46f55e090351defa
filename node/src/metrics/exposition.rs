//! The numbers of one moment, under their names.

use std::sync::atomic::Ordering;

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::MetricType,
    registry::Unit,
};
use schema::Refusal;

use super::{BUCKETS_US, Histogram, LOGIN_LABELS, Metrics, NoLabels, Route, STATUSES, read};
use crate::{app::App, logging, store::Backing};

/// The numbers of one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    families: Vec<Family>,
    durations: Vec<RouteDuration>,
    acknowledgements: Histogram,
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    counter: bool,
    values: Values,
}

#[derive(Debug)]
struct RouteDuration {
    labels: Vec<(&'static str, String)>,
    took: Histogram,
}

impl Snapshot {
    pub(super) fn of(metrics: &Metrics, app: &App) -> Self {
        let label = |name, value: &str| vec![(name, value.to_owned())];
        let one = |value: u64| vec![(Vec::new(), value)];
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let denials = app.facts.denials().counts();
        let mut verdicts = vec![(label("verdict", "valid"), read(&metrics.verdicts[0]))];
        for (refusal, value) in Refusal::ALL.iter().zip(&metrics.verdicts[1..]) {
            verdicts.push((label("verdict", refusal.code()), read(value)));
        }
        let logins = LOGIN_LABELS.iter().zip(&metrics.logins);
        let counter: MakeFamily =
            |name, help, values| Family { name, help, unit: None, counter: true, values };
        let gauge: MakeFamily =
            |name, help, values| Family { name, help, unit: None, counter: false, values };
        let bytes = |name, help, value| Family {
            name,
            help,
            unit: Some(Unit::Bytes),
            counter: false,
            values: one(value),
        };
        let log = app.log.state();
        let mut families = vec![
            counter("palisade_http_requests", "Requests answered", metrics.requests()),
            counter(
                "palisade_http_connections_refused",
                "Connections beyond the share of their address or beyond all that the node has",
                one(read(&metrics.connections_refused)),
            ),
            counter("palisade_token_verdicts", "Verdicts on access tokens", verdicts),
            counter(
                "palisade_logins",
                "Attempts to log in",
                logins.map(|(name, value)| (label("result", name), read(value))).collect(),
            ),
            counter("palisade_refreshes", "Refresh tokens exchanged", one(read(&metrics.refreshes))),
            counter(
                "palisade_refresh_refusals",
                "Refresh tokens refused",
                one(read(&metrics.refresh_refusals)),
            ),
            counter(
                "palisade_limits_reached",
                "Accounts locked and addresses slowed",
                vec![
                    (label("kind", "account"), read(&app.limits.counts.accounts)),
                    (label("kind", "address"), read(&app.limits.counts.addresses)),
                    (label("kind", "registration"), read(&app.limits.counts.registrations)),
                ],
            ),
            counter(
                "palisade_limits_lifted",
                "Counters that an operator or an admin set back",
                one(read(&app.limits.counts.lifted)),
            ),
            counter(
                "palisade_forwarded_unreadable",
                "Requests of trusted proxies whose X-Forwarded-For cannot be read",
                one(read(&metrics.forwarded_unreadable)),
            ),
            gauge(
                "palisade_password_queue_length",
                "Passwords that wait to be hashed",
                one(count(app.passwords.waiting())),
            ),
            gauge(
                "palisade_signature_queue_length",
                "Tokens that wait for their signature to be checked",
                one(count(app.tokens.waiting())),
            ),
            bytes(
                "palisade_body_budget_held",
                "Of the budget of requests under way",
                count(app.bodies.held()),
            ),
            bytes(
                "palisade_body_budget_size",
                "Of the budget of requests, all of it",
                count(app.bodies.total()),
            ),
            counter(
                "palisade_body_budget_refusals",
                "Requests refused for want of budget, of the node or of one client's share",
                one(app.bodies.refusals()),
            ),
            bytes(
                "palisade_verified_tokens",
                "Of the tokens whose signature is known to be good",
                count(app.tokens.remembered_bytes()),
            ),
            gauge(
                "palisade_denials",
                "Facts that refuse tokens, in memory",
                vec![
                    (label("kind", "session"), count(denials.sessions)),
                    (label("kind", "token"), count(denials.tokens)),
                    (label("kind", "user_version"), count(denials.users)),
                    (label("kind", "key"), count(denials.keys)),
                ],
            ),
            gauge(
                "palisade_permission_snapshots",
                "Users whose permissions are in memory",
                one(count(app.facts.snapshots().count())),
            ),
            counter(
                "palisade_key_lookups",
                "Times the store was asked for an unknown signing key",
                one(app.ring.lookups()),
            ),
            counter(
                "palisade_clock_jumps",
                "Times the wall clock jumped beside boot time; nothing is forgotten by a clock that jumps",
                one(app.clocks.jumps()),
            ),
            Family {
                name: "palisade_clock_offset",
                help: "How far the wall clock is from where it would be without jumps of late",
                unit: Some(Unit::Seconds),
                counter: false,
                values: one(app.clocks.disagreement().as_secs()),
            },
            counter(
                "palisade_upkeep_rounds",
                "Times this node looked for what has ended: denials, rows, keys",
                one(app.upkeep_rounds.load(Ordering::Relaxed)),
            ),
            gauge(
                "palisade_ready",
                "1 when the node takes traffic",
                one(u64::from(app.is_informed() && !app.is_draining())),
            ),
            gauge(
                "palisade_store_up",
                "1 when the store answers",
                one(u64::from(app.backing.health().is_up)),
            ),
            gauge(
                "palisade_ledger_unwritten",
                "Facts that are not in the ledger yet",
                one(count(log.unwritten)),
            ),
            gauge(
                "palisade_journal_full",
                "1 when revocations find no room in the journal",
                one(u64::from(log.full)),
            ),
            bytes("palisade_journal_used", "Of the journal, some perhaps released", log.used_bytes),
            bytes("palisade_journal_size", "Of the journal, reserved", log.size_bytes),
            counter(
                "palisade_log_lines_lost",
                "Log lines dropped because stderr was full, slow or closed",
                one(logging::lines_lost()),
            ),
            gauge(
                "palisade_build_info",
                "What runs",
                vec![(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1)],
            ),
        ];
        families.extend(of_store(app, counter));
        if let Some(at) = app.ledger_read_at().filter(|_| app.backing.is_shared()) {
            let age = app.clock.now().since(at).as_secs();
            families.push(Family {
                name: "palisade_ledger_age",
                help: "Since the ledger was last read to its end",
                unit: Some(Unit::Seconds),
                counter: false,
                values: one(age),
            });
        }
        if let Some(peers) = app.peers() {
            families.extend(of_cluster(&peers.status(), counter, gauge));
        }
        if app.backing.is_shared() {
            families.push(Family {
                name: "palisade_freshness_age",
                help: "Since everything that was taken away was last known here",
                unit: Some(Unit::Seconds),
                counter: false,
                // One that never knew is as old as the node.
                values: one(app.freshness.age().unwrap_or(app.clock.now().since(app.started_at)).as_secs()),
            });
        }
        if let Some(cache) = &app.cache {
            families.extend(of_cache(cache.stats(), counter, gauge));
        }
        Self { families, durations: metrics.durations(), acknowledgements: metrics.acknowledgements.read() }
    }
}

type MakeFamily = fn(&'static str, &'static str, Values) -> Family;
type Values = Vec<(Vec<(&'static str, String)>, u64)>;

fn by_label(name: &'static str, values: &[(&str, u64)]) -> Values {
    values.iter().map(|(label, value)| (vec![(name, (*label).to_owned())], *value)).collect()
}

fn of_cluster(status: &cluster::Status, counter: MakeFamily, gauge: MakeFamily) -> Vec<Family> {
    let one = |value: u64| vec![(Vec::new(), value)];
    let count = |alive: bool| {
        let members = status.members.iter().filter(|status| status.member.alive == alive);
        u64::try_from(members.count()).unwrap_or(u64::MAX)
    };
    let links = status.members.iter().filter_map(|member| member.link.as_ref());
    let lag = links.clone().map(|(peer, _)| peer.lag).max().unwrap_or(0);
    let unacknowledged = links.clone().map(|(peer, _)| peer.acknowledged_lag).max().unwrap_or(0);
    let mut refused = Vec::new();
    let gossip = status.gossip.refused.iter().map(|(reason, value)| ("gossip", reason.as_str(), *value));
    let links_refused = status.refused.iter().map(|(reason, value)| ("link", *reason, *value));
    for (what, reason, value) in gossip.chain(links_refused) {
        refused.push((vec![("what", what.to_owned()), ("reason", reason.to_owned())], value));
    }
    vec![
        counter("palisade_cluster_jumps", "Times a peer was told to ask", one(status.counters.jumps)),
        counter(
            "palisade_cluster_shed",
            "Facts not kept for peers for want of room; they are in the ledger",
            one(status.counters.shed),
        ),
        counter(
            "palisade_cluster_refused_entries",
            "Entries of peers that were not taken: too far beyond what is complete, or of too many logs",
            one(status.counters.refused),
        ),
        gauge(
            "palisade_cluster_members",
            "Other nodes",
            by_label("state", &[("alive", count(true)), ("dead", count(false))]),
        ),
        gauge(
            "palisade_cluster_links",
            "Peers that are linked",
            one(u64::try_from(links.count()).unwrap_or(0)),
        ),
        gauge("palisade_cluster_lag", "Entries of a peer's log that are not applied here, at most", one(lag)),
        gauge(
            "palisade_cluster_unacknowledged",
            "Entries of this node's log that a peer has not acknowledged, at most",
            one(unacknowledged),
        ),
        gauge(
            "palisade_cluster_log_entries",
            "Facts kept for peers",
            one(u64::try_from(status.kept).unwrap_or(u64::MAX)),
        ),
        counter("palisade_cluster_pushed", "Facts sent to peers unasked", one(status.counters.pushed)),
        counter("palisade_cluster_pulls", "Ranges of facts asked of peers", one(status.counters.pulled)),
        counter(
            "palisade_cluster_diverged",
            "Blocks of facts that differed from a peer's",
            one(status.counters.diverged),
        ),
        counter(
            "palisade_gossip_datagrams",
            "Datagrams of gossip",
            by_label("direction", &[("sent", status.gossip.sent.0), ("received", status.gossip.received.0)]),
        ),
        counter("palisade_cluster_refused", "Datagrams and links that were refused", refused),
    ]
}

fn of_store(app: &App, counter: MakeFamily) -> Vec<Family> {
    let one = |value: u64| vec![(Vec::new(), value)];
    match &app.backing {
        Backing::Embedded(stats) => vec![
            counter("palisade_store_commits", "Durable commits of the store", one(stats.commits())),
            counter("palisade_store_changes", "Changes in those commits", one(stats.changes())),
        ],
        Backing::Cql(status) => {
            let counted = status.counters();
            let kinds =
                [("read", counted.reads), ("write", counted.writes), ("conditional", counted.conditional)];
            vec![
                counter("palisade_store_statements", "Statements sent", by_label("kind", &kinds)),
                counter("palisade_store_errors", "Statements that failed", one(counted.errors)),
                counter(
                    "palisade_store_asked_again",
                    "Conditional writes whose outcome had to be asked for",
                    one(counted.asked),
                ),
                counter(
                    "palisade_store_unknown_outcomes",
                    "Conditional writes whose outcome could not be found out",
                    one(counted.unknown),
                ),
                counter(
                    "palisade_ledger_unreadable",
                    "Facts of a newer version, or damaged ones, that were passed over",
                    one(counted.unreadable),
                ),
                counter("palisade_store_reconnects", "Connections made anew", one(counted.reconnects)),
            ]
        }
    }
}

fn of_cache(stats: &cache_redis::Stats, counter: MakeFamily, gauge: MakeFamily) -> Vec<Family> {
    let reads =
        [("hit", read(&stats.hits)), ("miss", read(&stats.misses)), ("bypassed", read(&stats.bypassed))];
    let one = |value: u64| vec![(Vec::new(), value)];
    vec![
        counter("palisade_cache_reads", "What users may do, asked of Redis", by_label("result", &reads)),
        counter("palisade_cache_refused", "Values that no node wrote", one(read(&stats.refused))),
        counter("palisade_cache_errors", "Commands that failed or took too long", one(read(&stats.errors))),
        gauge("palisade_cache_up", "1 when Redis answers", one(u64::from(stats.up.load(Ordering::Relaxed)))),
    ]
}

impl Metrics {
    fn all_routes(&self) -> impl Iterator<Item = (Vec<(&'static str, String)>, &Route)> {
        let named = self.places.iter().map(|((method, path), route)| {
            (vec![("method", method.clone()), ("route", path.clone())], &self.routes[route.0])
        });
        let other = || "other".to_owned();
        named.chain(self.routes.last().map(|route| (vec![("method", other()), ("route", other())], route)))
    }

    /// Only what has happened: a hundred routes times twenty statuses of zeros help nobody.
    fn requests(&self) -> Vec<(Vec<(&'static str, String)>, u64)> {
        let mut values = Vec::new();
        for (labels, route) in self.all_routes() {
            for (place, value) in route.statuses.iter().enumerate() {
                let status = STATUSES.get(place).map_or("other".to_owned(), u16::to_string);
                let value = read(value);
                if value > 0 {
                    let labels = labels.iter().cloned().chain([("status", status)]).collect();
                    values.push((labels, value));
                }
            }
        }
        values
    }

    #[allow(clippy::cast_precision_loss, reason = "a sum of microseconds, shown in seconds")]
    fn durations(&self) -> Vec<RouteDuration> {
        let used = self.all_routes().filter(|(_, route)| route.buckets.iter().any(|b| read(b) > 0));
        used.map(|(labels, route)| RouteDuration {
            labels,
            took: Histogram::of(&BUCKETS_US, &route.buckets, &route.sum_us),
        })
        .collect()
    }
}

impl prometheus_client::collector::Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in &self.families {
            let kind = if family.counter { MetricType::Counter } else { MetricType::Gauge };
            let unit = family.unit.as_ref();
            let mut metric = encoder.encode_descriptor(family.name, family.help, unit, kind)?;
            for (labels, value) in &family.values {
                let encode = |mut one: MetricEncoder<'_>| {
                    if family.counter {
                        one.encode_counter::<NoLabels, _, u64>(value, None)
                    } else {
                        one.encode_gauge(value)
                    }
                };
                if labels.is_empty() {
                    encode(metric.encode_family(&NoLabels::default())?)?;
                } else {
                    encode(metric.encode_family(labels)?)?;
                }
            }
        }
        let mut metric = encoder.encode_descriptor(
            "palisade_http_request_duration",
            "From the request's head to the answer's",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for RouteDuration { labels, took } in &self.durations {
            let mut route = metric.encode_family(labels)?;
            route.encode_histogram::<NoLabels>(took.sum_seconds, took.count(), &took.buckets, None)?;
        }
        let mut metric = encoder.encode_descriptor(
            "palisade_revocation_ack_duration",
            "From when a revocation was on its way to when every live node had it",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        let Histogram { sum_seconds, buckets } = &self.acknowledgements;
        metric.encode_histogram::<NoLabels>(*sum_seconds, self.acknowledgements.count(), buckets, None)?;
        Ok(())
    }
}
