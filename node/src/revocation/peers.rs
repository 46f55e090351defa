//! Joins the cluster, and connects it to facts, freshness and the clocks.
//!
//! Facts from peers are applied on receipt and advance freshness. Facts that a peer published and cannot
//! write to the ledger itself are written by the nodes that received them: see [`crate::revocation::adopt`].

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use actors::Facts;
use async_trait::async_trait;
use cluster::{Cluster, Config, FactHandler, members, protocol::Tuning};
use schema::{
    Clocks, Entropy, Fact, FactKind,
    horizon::MAX_AHEAD,
    ledger::{Entry, Origin},
};
use store::Stores;
use tokio::sync::Notify;

use crate::{
    metrics::Acknowledgements,
    revocation::{adopt::PeerJournal, sync_state::SyncState},
    scheduling::background::Background,
    settings::ClusterSettings,
    storage::data_dir::Identity,
};

/// The time between two updates of freshness and clocks from the cluster.
const FRESHNESS_INTERVAL: Duration = Duration::from_millis(50);
/// A difference between the wall clock and the steady clock beyond this is a jump.
const CLOCK_STEP_MIN: Duration = Duration::from_secs(1);
/// The time between two checks whether another node runs with this identity.
const GUARD_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two log lines about a member that claims this node's identity while the store does not
/// confirm the claim.
const GUARD_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The reason why a node could not join its cluster.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum JoinError {
    #[error("CLUSTER_LISTEN {0}: {1}")]
    Listen(String, io::Error),
    #[error("CLUSTER_ADVERTISE: {0}")]
    Advertise(io::Error),
}

/// Applies the facts that peers send.
pub struct PeerFactHandler {
    /// Applies the facts.
    pub facts: Arc<Facts>,
    /// Receives the facts when a peer asks for them to be on disk.
    pub journal: Arc<PeerJournal>,
    /// Notified when a peer retires a key.
    pub keys_changed: Arc<Notify>,
    /// The times that this node's revocations took to be acknowledged.
    pub acknowledgements: Arc<Acknowledgements>,
}

#[async_trait]
impl FactHandler for PeerFactHandler {
    fn apply(&self, fact: &Fact) {
        self.facts.apply(fact);
        if matches!(fact.kind, FactKind::KeyRetired { .. }) {
            self.keys_changed.notify_one();
        }
    }

    async fn keep(&self, entries: Vec<Entry>) -> bool {
        self.journal.keep(entries).await
    }

    fn on_acknowledged(&self, after: Duration) {
        self.acknowledgements.note(after);
    }
}

/// The parts of a node that joining a cluster needs.
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct Joining<'a> {
    pub settings: &'a ClusterSettings,
    pub identity: &'a Identity,
    pub ack_deadline: Duration,
    /// The entries that the journal held at startup.
    pub recovered: Vec<Entry>,
    pub handler: PeerFactHandler,
    pub clocks: Arc<Clocks>,
    pub entropy: Arc<dyn Entropy>,
}

/// Joins the cluster that the settings name.
///
/// # Errors
/// If the addresses cannot be used.
pub async fn join(joining: Joining<'_>) -> Result<Arc<Cluster>, JoinError> {
    let Joining { settings, identity, ack_deadline, recovered, handler, clocks, entropy } = joining;
    let failed = |error| JoinError::Listen(settings.listen.clone(), error);
    let listen = address(&settings.listen).await.map_err(failed)?;
    let advertise = members::advertised(listen, settings.advertise.as_deref(), &settings.seeds);
    let config = Config {
        origin: identity.origin(),
        name: identity.name.clone(),
        cluster: settings.name.clone(),
        secret: settings.secret.clone(),
        listen,
        advertise: advertise.await.map_err(JoinError::Advertise)?,
        seeds: settings.seeds.clone(),
        ack_deadline,
        tuning: Tuning::default(),
        recovered,
    };
    let advertise = config.advertise;
    // Until other nodes have reported their clocks, assume that one may be far behind.
    clocks.set_peers_behind(MAX_AHEAD);
    let cluster = Cluster::start(config, Arc::new(handler), clocks, entropy).await.map_err(failed)?;
    tracing::info!(%listen, %advertise, cluster = settings.name, seeds = ?settings.seeds, "joined cluster");
    Ok(cluster)
}

async fn address(text: &str) -> io::Result<SocketAddr> {
    let found = tokio::net::lookup_host(text).await?.next();
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// The parts of a node that the tasks of this module and of [`crate::revocation::adopt`] use.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct Peering {
    pub cluster: Arc<Cluster>,
    pub origin: Origin,
    pub facts: Arc<Facts>,
    pub journal: Arc<PeerJournal>,
    pub stores: Stores,
    pub clocks: Arc<Clocks>,
    pub sync: Arc<SyncState>,
    pub background: Arc<Background>,
}

impl Peering {
    /// Updates freshness and clocks from the cluster while the node runs.
    pub async fn keep_fresh(self) {
        let mut rounds = self.background.rounds("peer_freshness", FRESHNESS_INTERVAL);
        loop {
            rounds.next().await;
            self.facts.set_clock_ahead(self.cluster.clock_ahead());
            // Before the node has synced, it may not know the members yet.
            if self.sync.is_synced() {
                self.clocks.set_peers_behind(self.cluster.clock_behind());
            }
            if self.clocks.disagreement() > CLOCK_STEP_MIN && self.cluster.clock_agrees() {
                tracing::info!("the wall clock jumped to the time of the other nodes; accepting its time");
                self.clocks.believe_wall();
            }
            if let Some(at) = self.cluster.fresh_at() {
                self.sync.mark_synced_at(at);
            }
            rounds.done();
        }
    }

    /// Shuts this node down if another one runs with a copy of its data directory. Any member can claim by
    /// gossip that a later incarnation of this node is alive, so the node believes only the store.
    pub async fn guard_identity(self) {
        let mut rounds = self.background.rounds("identity_guard", GUARD_INTERVAL);
        let mut logged_at: Option<Duration> = None;
        loop {
            rounds.next().await;
            if !self.cluster.is_superseded() {
                rounds.done();
                continue;
            }
            let latest = self.stores.ledger.latest_life(self.origin.node).await;
            rounds.finished(&latest);
            let now = self.clocks.monotonic();
            match latest {
                Ok(Some(latest)) if latest > self.origin.incarnation => self.sync.step_down(),
                Ok(_) if logged_at.is_none_or(|at| now.saturating_sub(at) >= GUARD_LOG_INTERVAL) => {
                    logged_at = Some(now);
                    tracing::error!(
                        node = %self.origin.node,
                        "a cluster member claims a later incarnation of this node; the store knows of none, so this node continues"
                    );
                }
                // The registry of background tasks logs a failure.
                Ok(_) | Err(_) => {}
            }
        }
    }
}
