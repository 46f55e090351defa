//! This node among others: the cluster joined to facts, freshness and the ledger.
//!
//! What peers say is applied at once and counted as known; what its own node cannot write to the ledger,
//! because it died or is cut off, is written by who heard it.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actors::{Facts, end_rows};
use async_trait::async_trait;
use cluster::{Cluster, Config, Hears, members, protocol::Tuning};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use schema::{
    Fact, FactKind, Horizon, StoreError, Stores,
    horizon::MAX_AHEAD,
    ledger::{Entry, Head, Origin},
    time::CLOCK_SKEW,
};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{app::App, ledger::LedgerWriter, metrics::Acknowledgements, settings::ClusterSettings};

/// How often what peers say about freshness is taken over.
const FRESHNESS: Duration = Duration::from_millis(50);
/// How long the ledger must be behind a log before another node than its own writes it.
const STUCK: Duration = Duration::from_secs(3);
/// Between looks for what others cannot write.
const INHERIT: Duration = Duration::from_secs(1);
/// Entries in one write of another's log, and rows that are ended at the same time.
const BATCH: usize = 256;
const ROWS: usize = 16;
/// How many entries of another's log may have ended before they were in the ledger: five hours, at a
/// thousand a second.
const MAX_GAP: u64 = 1 << 24;
/// Entries that are kept for others with one write of the journal.
const KEEP: usize = 2_048;
/// A larger difference between the wall clock and the steady clock is a jump.
const CLOCK_STEP: Duration = Duration::from_secs(1);
/// Between looks whether another node runs as this one, and between two lines about one that only says so.
const GUARD: Duration = Duration::from_secs(1);
const WARN: Duration = Duration::from_secs(60);

/// Why a node is in no cluster.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum JoinError {
    #[error("CLUSTER_LISTEN {0}: {1}")]
    Listen(String, io::Error),
    #[error("CLUSTER_ADVERTISE: {0}")]
    Advertise(io::Error),
}

/// Applies what peers say.
pub struct Heard {
    facts: Arc<Facts>,
    others: Arc<KeptForOthers>,
    /// A key was retired elsewhere.
    keys_changed: Arc<Notify>,
    acknowledged: Arc<Acknowledgements>,
}

/// What this node keeps on its disk of the logs of others.
pub struct KeptForOthers {
    log: Arc<LedgerWriter>,
    /// Of each log the newest range that is in the journal, or was and is in the ledger.
    ranges: Mutex<HashMap<Origin, (u64, u64)>>,
}

impl KeptForOthers {
    /// What is left of a former life in the journal counts as not kept, and may be kept twice.
    #[must_use]
    pub fn new(log: Arc<LedgerWriter>) -> Self {
        Self { log, ranges: Mutex::default() }
    }

    fn ranges(&self) -> MutexGuard<'_, HashMap<Origin, (u64, u64)>> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps consecutive entries of one log, unless they are kept already. Returns when they are on the
    /// disk; says whether they are.
    pub async fn keep(&self, mut entries: Vec<Entry>) -> bool {
        let (Some(first), Some(last)) = (entries.first().copied(), entries.last().map(|entry| entry.seq))
        else {
            return true;
        };
        let origin = first.origin;
        let kept = self.ranges().get(&origin).copied();
        if let Some((from, to)) = kept {
            entries.retain(|entry| !(from..=to).contains(&entry.seq));
        }
        if !entries.is_empty() && !self.log.keep_for_others(entries).await {
            return false;
        }
        let mut ranges = self.ranges();
        let range = ranges.entry(origin).or_insert((first.seq, last));
        let touches = range.0 <= last.saturating_add(1) && first.seq <= range.1.saturating_add(1);
        *range = if touches { (range.0.min(first.seq), range.1.max(last)) } else { (first.seq, last) };
        true
    }

    /// Forgets logs that are in no memory here any more.
    fn forget_others_than(&self, heard: &[(Origin, u64)]) {
        self.ranges().retain(|origin, _| heard.iter().any(|(known, _)| known == origin));
    }
}

#[async_trait]
impl Hears for Heard {
    fn hear(&self, fact: &Fact) {
        self.facts.hear(fact);
        if matches!(fact.kind, FactKind::KeyRetired { .. }) {
            self.keys_changed.notify_one();
        }
    }

    async fn keep(&self, entries: Vec<Entry>) -> bool {
        self.others.keep(entries).await
    }

    fn acknowledged(&self, after: Duration) {
        self.acknowledged.note(after);
    }
}

/// Joins the cluster of the settings.
///
/// # Errors
/// When the addresses cannot be used.
pub async fn join(app: &App, settings: &ClusterSettings) -> Result<Arc<Cluster>, JoinError> {
    let failed = |error| JoinError::Listen(settings.listen.clone(), error);
    let listen = address(&settings.listen).await.map_err(failed)?;
    let advertise = members::advertised(listen, settings.advertise.as_deref(), &settings.seeds);
    let config = Config {
        origin: app.identity.origin(),
        name: app.identity.name.clone(),
        cluster: settings.name.clone(),
        secret: settings.secret.clone(),
        listen,
        advertise: advertise.await.map_err(JoinError::Advertise)?,
        seeds: settings.seeds.clone(),
        ack_deadline: app.settings.ack_deadline,
        tuning: Tuning::default(),
        left: app.left.iter().map(|record| record.entry).collect(),
    };
    let advertise = config.advertise;
    let heard = Heard {
        facts: app.facts.clone(),
        others: app.others.clone(),
        keys_changed: app.keys_changed.clone(),
        acknowledged: app.metrics.acknowledgements.clone(),
    };
    // Until other nodes have reported their clocks, assume that one may be far behind.
    app.clocks.set_peers_behind(MAX_AHEAD);
    let joined = Cluster::start(config, Arc::new(heard), app.clocks.clone(), app.entropy.clone());
    let cluster = joined.await.map_err(failed)?;
    tracing::info!(%listen, %advertise, cluster = settings.name, seeds = ?settings.seeds, "in a cluster");
    Ok(cluster)
}

async fn address(text: &str) -> io::Result<SocketAddr> {
    let found = tokio::net::lookup_host(text).await?.next();
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// Takes over what peers say about freshness, as long as the node runs.
pub async fn keep_fresh(app: Arc<App>, cluster: Arc<Cluster>) {
    let mut rounds = interval(FRESHNESS);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        app.facts.set_clock_ahead(cluster.clock_ahead());
        // Before the node has synced, the members may not be known yet.
        if app.is_informed() {
            app.clocks.set_peers_behind(cluster.clock_behind());
        }
        if app.clocks.disagreement() > CLOCK_STEP && cluster.clock_agrees() {
            tracing::info!("the wall clock jumped to what other nodes' clocks show, and is believed");
            app.clocks.believe_wall();
        }
        if let Some(at) = cluster.fresh_at() {
            app.knew_everything(at);
        }
    }
}

/// Ends this node when another one runs with a copy of its data directory. That a later life of it is alive
/// any member can say by gossip; only the life itself says so in the store, which is what counts.
pub async fn guard_identity(app: Arc<App>, cluster: Arc<Cluster>) {
    let mut rounds = interval(GUARD);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let own = app.identity.origin();
    let mut warned_at: Option<Instant> = None;
    loop {
        rounds.tick().await;
        if !cluster.is_superseded() {
            continue;
        }
        match app.stores.ledger.latest_life(own.node).await {
            Ok(Some(latest)) if latest > own.incarnation => app.step_down(),
            Ok(_) if warned_at.is_none_or(|at| at.elapsed() >= WARN) => {
                warned_at = Some(Instant::now());
                tracing::error!(
                    node = %own.node,
                    "a member of the cluster says that a later life of this node is alive, and the store knows of none: this node goes on"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "whether a later life of this node began is not known"),
        }
    }
}

/// Keeps on this node's disk what others took away and the ledger did not have when it was read last: they
/// and their disks may be gone before it is read again. `kept` is how far that was done.
pub async fn keep(
    app: &App,
    cluster: &Cluster,
    ledger: &HashMap<Origin, u64>,
    kept: &mut HashMap<Origin, u64>,
) {
    let heard = cluster.heard();
    app.others.forget_others_than(&heard);
    for (origin, complete) in heard {
        let last = kept.entry(origin).or_insert_with(|| ledger.get(&origin).copied().unwrap_or(0));
        while *last < complete {
            let Some((first, facts)) = cluster.entries(origin, *last + 1, KEEP) else { break };
            let entries: Vec<_> =
                (first..).zip(facts).map(|(seq, fact)| Entry { origin, seq, fact }).collect();
            let reached = entries.last().map_or(complete, |entry| entry.seq);
            if !app.others.keep(entries).await {
                return;
            }
            *last = reached;
        }
    }
}

/// Writes to the ledger what others cannot, since they are dead or cut off from it, as long as the node
/// runs.
pub async fn inherit(app: Arc<App>, cluster: Arc<Cluster>) {
    let mut rounds = interval(INHERIT);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heads: HashMap<Origin, u64> = HashMap::new();
    // Logs that the ledger has not all of: how far it is, since when.
    let mut behind: HashMap<Origin, (u64, Instant)> = HashMap::new();
    loop {
        rounds.tick().await;
        let heard = cluster.heard();
        let head = |heads: &HashMap<Origin, u64>, origin| heads.get(&origin).copied().unwrap_or(0);
        if heard.iter().all(|(origin, complete)| *complete <= head(&heads, *origin)) {
            behind.clear();
            continue;
        }
        let Ok(read) = app.stores.ledger.heads().await else { continue };
        heads = read.into_iter().map(|head| (head.origin, head.seq)).collect();
        behind.retain(|origin, (at, _)| head(&heads, *origin) == *at);
        for (origin, complete) in heard {
            let at = head(&heads, origin);
            if complete > at {
                behind.entry(origin).or_insert((at, Instant::now()));
            } else {
                behind.remove(&origin);
            }
        }
        // One of those who live goes first; the others, should it not get on.
        let patience = if cluster.is_eldest() { STUCK } else { 3 * STUCK };
        let due = behind.iter().filter(|(_, (_, since))| since.elapsed() >= patience);
        let due: Vec<_> = due.map(|(origin, _)| *origin).collect();
        if !due.is_empty() {
            write_all(&app, &cluster, &due).await;
        }
    }
}

/// The same at once, for a node that ends and may be the last that knows.
pub async fn inherit_now(app: &App, cluster: &Cluster) {
    let heard: Vec<_> = cluster.heard().into_iter().map(|(origin, _)| origin).collect();
    write_all(app, cluster, &heard).await;
}

async fn write_all(app: &App, cluster: &Cluster, origins: &[Origin]) {
    let Ok(heads) = app.stores.ledger.heads().await else { return };
    for origin in origins.iter().copied() {
        let head = heads.iter().find(|head| head.origin == origin).map_or(0, |head| head.seq);
        let complete = cluster.complete(origin);
        match write(&app.stores, cluster, origin, head, complete, app.clocks.horizon()).await {
            Ok(0) => {}
            Ok(entries) => {
                tracing::info!(node = %origin.node, entries, "wrote to the ledger what another node could not");
            }
            Err(error) => {
                tracing::debug!(%error, "what another node could not write is not in the ledger yet");
            }
        }
    }
}

/// Entries, then rows, then the head: as long as that has not moved, all is tried again. Which rows were
/// to go is not in the log; what was revoked may go with all it has.
async fn write(
    stores: &Stores,
    cluster: &Cluster,
    origin: Origin,
    head: u64,
    complete: u64,
    horizon: Horizon,
) -> Result<usize, StoreError> {
    let (mut next, mut written) = (head + 1, 0);
    while next <= complete {
        let Some((first, facts)) = cluster.entries(origin, next, BATCH) else { break };
        let forgotten = cluster.forgotten(origin);
        let had_ended = first - 1 <= forgotten.seq && horizon.is_past(forgotten.until, CLOCK_SKEW);
        // A number far from the last one is what a member made up: a reader of the ledger would look at all of
        // the numbers between.
        if first != next && (!had_ended || first - next > MAX_GAP) {
            tracing::warn!(node = %origin.node, next, first, "the log of another node has a gap here");
            break;
        }
        let entries: Vec<_> =
            (first..).zip(&facts).map(|(seq, fact)| Entry { origin, seq, fact: *fact }).collect();
        stores.ledger.append(&entries, &[]).await?;
        let rows = facts.iter().map(|fact| end(stores.clone(), fact.kind));
        let rows: Vec<_> = rows.collect();
        stream::iter(rows).buffer_unordered(ROWS).try_collect::<()>().await?;
        let seq = entries.last().map_or(next, |entry| entry.seq);
        stores.ledger.append(&[], &[Head { origin, seq }]).await?;
        written += entries.len();
        next = seq + 1;
    }
    Ok(written)
}

async fn end(stores: Stores, kind: FactKind) -> Result<(), StoreError> {
    end_rows(&stores, &kind).await
}
