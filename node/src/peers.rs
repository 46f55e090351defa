//! This node among others: the cluster joined to facts, freshness and the ledger.
//!
//! What peers say is applied at once and counted as known; what nobody can write to the ledger any more,
//! because its node died, is written by who heard it.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use actors::{Facts, end_rows};
use cluster::{Cluster, Config, Hears, members, protocol::Tuning};
use schema::{
    Fact, FactKind, StoreError, Stores,
    ledger::{Entry, Head, Origin},
};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    app::App, freshness, ledger::LedgerReader, metrics::Acknowledgements, settings::ClusterSettings,
};

/// How often what peers say about freshness is taken over.
const FRESHNESS: Duration = Duration::from_millis(50);
/// How long a node must be gone before another one writes what it left.
const GONE: Duration = Duration::from_secs(5);
/// Entries in one write of another's log.
const BATCH: usize = 256;

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
    /// A key was retired elsewhere.
    pub keys_changed: Arc<Notify>,
    acknowledged: Arc<Acknowledgements>,
}

impl Hears for Heard {
    fn hear(&self, fact: &Fact) {
        self.facts.hear(fact);
        if matches!(fact.kind, FactKind::KeyRetired { .. }) {
            self.keys_changed.notify_one();
        }
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
    };
    let advertise = config.advertise;
    let heard = Heard {
        facts: app.facts.clone(),
        keys_changed: app.keys_changed.clone(),
        acknowledged: app.metrics.acknowledgements.clone(),
    };
    let joined = Cluster::start(config, Arc::new(heard), app.clock.clone(), app.entropy.clone());
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
        let now = freshness::now();
        if let Some(age) = cluster.freshness()
            && let Some(at) = now.checked_sub(age)
        {
            app.knew_everything(at);
        }
    }
}

/// Writes to the ledger what dead nodes could not.
#[derive(Default)]
pub struct Heir {
    /// Logs with more than the ledger has, since when.
    left: HashMap<Origin, Instant>,
}

impl Heir {
    /// One round, after the ledger was read.
    pub async fn inherit(&mut self, stores: &Stores, cluster: &Cluster, ledger: &LedgerReader) {
        let mut orphans = cluster.orphans();
        orphans.retain(|(origin, complete)| *complete > ledger.head(*origin));
        self.left.retain(|origin, _| orphans.iter().any(|(orphan, _)| orphan == origin));
        for (origin, complete) in orphans {
            let since = *self.left.entry(origin).or_insert_with(Instant::now);
            if since.elapsed() < GONE {
                continue;
            }
            match write(stores, cluster, origin, ledger.head(origin), complete).await {
                Ok(0) => {}
                Ok(entries) => {
                    tracing::info!(node = %origin.node, entries, "wrote to the ledger what a dead node could not");
                    self.left.remove(&origin);
                }
                Err(error) => tracing::debug!(%error, "what a dead node left is not in the ledger yet"),
            }
        }
    }
}

/// Entries first, then the head, then the rows: whoever wrote them would have ended those too.
async fn write(
    stores: &Stores,
    cluster: &Cluster,
    origin: Origin,
    head: u64,
    complete: u64,
) -> Result<usize, StoreError> {
    let (mut next, mut written) = (head + 1, 0);
    while next <= complete {
        // What was forgotten has ended.
        let Some((first, facts)) = cluster.entries(origin, next, BATCH) else { break };
        let entries: Vec<_> =
            (first..).zip(&facts).map(|(seq, fact)| Entry { origin, seq, fact: *fact }).collect();
        let Some(last) = entries.last().map(|entry| entry.seq).filter(|_| first == next) else { break };
        stores.ledger.append(&entries, &[Head { origin, seq: last }]).await?;
        for fact in &facts {
            end_rows(stores, &fact.kind).await?;
        }
        written += entries.len();
        next = last + 1;
    }
    Ok(written)
}
