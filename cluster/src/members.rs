//! Which nodes are alive.
//!
//! chitchat gossips over a UDP socket of this crate, which seals its datagrams. It carries four short keys of
//! each node and nothing else.
//!
//! Promises: a member that is killed counts as dead 3.5 to 5 s later, and one that pauses for a second does
//! not. All addresses of all seeds are looked up again for as long as the node runs. A sender that does not
//! know the secret learns nothing and changes nothing; it is counted and logged.
//!
//! The list of all nodes must fit into one datagram, at some 30 bytes a node: 1,800 nodes. What members send
//! is bounded too: a datagram is decompressed to at most 4 MiB (`wire`), and when all that is known takes
//! more than `STATE_BYTES_MAX`, gossip is restarted empty.
//!
//! Never: gossip carries no facts, and no promise about tokens rests on it. A member is not believed beyond
//! what any member may claim: it cannot stop this node.
//!
//! | to find | look in |
//! |---|---|
//! | the form of a datagram, what is refused and what bounds it | `seal`, [`Refusal`] |
//! | how chitchat's messages get into it | `wire` |
//! | the keys, and what is believed of them | `roster` |
//! | seeds, and the address at which other nodes reach this one | `seeds`, [`advertised`] |

mod refusal;
mod roster;
mod seal;
mod seeds;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, ProtocolVersion,
    spawn_chitchat,
};
use schema::{Entropy, ledger::Origin};
use tokio::{
    select,
    sync::watch,
    task::AbortHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{error, info};

pub use self::{refusal::Refusal, seeds::advertised};
use self::{
    roster::Reader,
    wire::{Sealed, Wire},
};
use crate::{secret::Secret, timer};

/// How often a node gossips, each time with three others.
pub const GOSSIP_INTERVAL: Duration = Duration::from_millis(200);
/// How long dead members are remembered. After half of it they are no longer gossiped.
pub const DEAD_MEMBER_EXPIRY: Duration = Duration::from_secs(3_600);
/// The maximum length of a node's name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// The maximum memory for all that members send, in bytes: some ten times what 1,800 nodes need.
#[cfg(not(test))]
const STATE_BYTES_MAX: usize = 8 * 1024 * 1024;
#[cfg(test)]
const STATE_BYTES_MAX: usize = 512 * 1024;
/// The maximum number of peers to which this node announces directly that it leaves. They pass it on.
const FAREWELLS_MAX: usize = 8;
/// How long each part of leaving may take: to announce it to peers, and to stop gossip.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// The highest chitchat version of a node's keys that this node follows. No honest node changes its keys this
/// often.
const VERSION_MAX: u64 = 1 << 62;
/// The pause before gossip that ended is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How long after a restart of gossip the members known before count as unchanged.
const HOLD_DURATION: Duration = Duration::from_secs(5);

/// How a node takes part in gossip.
pub struct Config {
    /// This node, and which life of it.
    pub origin: Origin,
    /// The node's name, for people: at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// The secret that all members share.
    pub secret: Secret,
    /// The UDP address at which this node receives datagrams.
    pub listen: SocketAddr,
    /// The address at which other nodes reach this one, by UDP and TCP: see [`advertised`].
    pub advertise: SocketAddr,
    /// `host:port` of nodes that may run already. The node's own address does no harm.
    pub seeds: Vec<String>,
    /// The versions of the link protocol that this node speaks.
    pub versions: RangeInclusive<u8>,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node, and which life of it: the newest that gossip knows.
    pub origin: Origin,
    /// The node's name, for people: at most [`NAME_BYTES_MAX`] bytes, no control characters.
    pub name: String,
    /// The address at which the node is reached, by UDP for gossip and by TCP for links.
    pub address: SocketAddr,
    /// Whether the failure detector had a sign of the node within the last seconds.
    pub alive: bool,
    /// Whether the node says that it has caught up and takes requests.
    pub ready: bool,
    /// Whether the node said that it leaves.
    pub leaving: bool,
    /// The length of the node's log by its own word, at most 2^48; 0 if it said nothing credible.
    pub head: u64,
    /// The versions of the link protocol that the node speaks; empty if it said nothing credible.
    pub versions: RangeInclusive<u8>,
}

/// What a node says of itself in gossip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Announcement {
    /// The node has caught up and takes requests.
    pub ready: bool,
    /// The node leaves.
    pub leaving: bool,
    /// The length of the node's log.
    pub head: u64,
}

/// The gossip traffic since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GossipCounters {
    /// Datagrams sent, and their bytes.
    pub sent: (u64, u64),
    /// Datagrams received and decrypted, and their bytes.
    pub received: (u64, u64),
    /// Messages that could not be sent.
    pub unsent: u64,
    /// Datagrams refused, by reason. Too long ones include this node's own that were not sent.
    pub refused: [(Refusal, u64); Refusal::ALL.len()],
}

impl GossipCounters {
    /// The number of datagrams refused for this reason.
    #[must_use]
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused.iter().find(|(refusal, _)| *refusal == reason).map_or(0, |(_, count)| *count)
    }
}

/// The live and dead members of the cluster. When this is dropped, the node falls silent as if it had been
/// killed.
pub struct Members {
    shared: Arc<Shared>,
    tasks: Vec<AbortHandle>,
}

/// What the tasks of [`Members`] share.
struct Shared {
    config: Config,
    wire: Arc<Wire>,
    announcement: watch::Sender<Announcement>,
    members: watch::Sender<Arc<[Member]>>,
    gossip: Mutex<Arc<ChitchatHandle>>,
    leaving: AtomicBool,
    /// Whether it was logged that other nodes no longer accept what this node says.
    mute: AtomicBool,
    /// Whether a member says that a later life of this node is alive.
    superseded: AtomicBool,
}

impl Members {
    /// Opens the socket and starts to look for other nodes.
    ///
    /// # Errors
    /// When the socket cannot be opened, the name is too long, or no key can be derived from the secret.
    pub async fn join(config: Config, entropy: Arc<dyn Entropy>) -> io::Result<Self> {
        if config.name.len() > NAME_BYTES_MAX {
            let problem = format!("a node's name has at most {NAME_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let wire = Arc::new(Wire::new(&config.secret, &*entropy).map_err(io::Error::other)?);
        let gossip = Mutex::new(spawn(&config, &wire).await?);
        let shared = Arc::new(Shared {
            wire,
            gossip,
            config,
            announcement: watch::Sender::default(),
            members: watch::Sender::new(Arc::default()),
            leaving: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            superseded: AtomicBool::new(false),
        });
        let seeds = shared.config.seeds.iter().map(|seed| seeds::follow(seed.clone(), Arc::clone(&shared)));
        let mut tasks: Vec<_> = seeds.map(|seed| tokio::spawn(seed).abort_handle()).collect();
        tasks.push(tokio::spawn(run(Arc::clone(&shared))).abort_handle());
        Ok(Self { shared, tasks })
    }

    /// Whether a member says that a later life of this node is alive elsewhere. If so, other nodes take that
    /// process for this node and count this one as gone. Any member can claim it.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.shared.superseded.load(Ordering::Relaxed)
    }

    /// All other members in the order of their origins: live ones, and dead ones until
    /// [`DEAD_MEMBER_EXPIRY`]. At most 10,000.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<[Member]>> {
        self.shared.members.subscribe()
    }

    /// Sets what this node says of itself. Other nodes learn it with the next gossip.
    pub fn announce(&self, announcement: Announcement) {
        self.shared.announcement.send_replace(announcement);
    }

    /// The gossip traffic since the start.
    #[must_use]
    pub fn counters(&self) -> GossipCounters {
        let wire = &self.shared.wire;
        GossipCounters {
            sent: wire.sent.read(),
            received: wire.received.read(),
            unsent: wire.unsent.load(Ordering::Relaxed),
            refused: wire.refusals.counts(),
        }
    }

    /// Announces the departure to a few peers and stops gossiping. Watchers receive no further updates.
    pub async fn leave(&self) {
        if self.shared.leaving.swap(true, Ordering::AcqRel) {
            return;
        }
        for task in &self.tasks {
            task.abort();
        }
        let shared = &self.shared;
        let gossip = Arc::clone(&shared.gossip());
        let last = Announcement { leaving: true, ..*shared.announcement.borrow() };
        gossip.with_chitchat(|chitchat| set(chitchat, roster::changing(last))).await;
        let peers: Vec<_> = shared
            .members
            .borrow()
            .iter()
            .filter(|m| m.alive)
            .map(|m| m.address)
            .take(FAREWELLS_MAX)
            .collect();
        let mut exchanges = shared.wire.exchanges.subscribe();
        let all = exchanges.borrow_and_update().saturating_add(peers.len() as u64);
        for peer in peers {
            shared.gossip_with(peer);
        }
        // A peer that does not answer delays this by at most the time-out.
        let _ = timeout(LEAVE_TIMEOUT, exchanges.wait_for(|n| *n >= all)).await;
        if gossip.initiate_shutdown().is_ok() {
            let _ = timeout(LEAVE_TIMEOUT, gossip.termination_watcher()).await;
        }
        gossip.abort();
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.gossip().abort();
    }
}

impl Shared {
    fn gossip(&self) -> MutexGuard<'_, Arc<ChitchatHandle>> {
        self.gossip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gossip_with(&self, peer: SocketAddr) {
        // This fails while gossip restarts; the next look-up of the seeds tries again.
        let _ = self.gossip().gossip(peer);
    }

    fn is_alone(&self) -> bool {
        !self.members.borrow().iter().any(|member| member.alive)
    }

    /// Gossips with the node at this address, unless it is this node or a known live member.
    fn meet(&self, address: SocketAddr) {
        let own = [self.config.listen, self.config.advertise];
        let known = |member: &Member| member.alive && member.address == address;
        if !own.contains(&address) && !self.members.borrow().iter().any(known) {
            self.gossip_with(address);
        }
    }

    /// Passes the announcement to chitchat and publishes the current members. Returns the memory that all
    /// that is known takes, in bytes.
    async fn round(&self, reader: &mut Reader, held: &[Member]) -> usize {
        let announcement = *self.announcement.borrow();
        let gossip = Arc::clone(&self.gossip());
        let (mut members, is_accepted) = gossip
            .with_chitchat(|chitchat| {
                let is_accepted = set(chitchat, roster::changing(announcement));
                (reader.members(self.config.origin, chitchat), is_accepted)
            })
            .await;
        if !is_accepted && !self.mute.swap(true, Ordering::Relaxed) {
            error!("gossip state of this node exhausted by a member; restart this node to repair it");
        }
        self.superseded.store(reader.superseded, Ordering::Relaxed);
        hold(&mut members, held);
        self.members.send_if_modified(|shown| {
            let changed = **shown != *members;
            if changed {
                *shown = members.into();
            }
            changed
        });
        reader.bytes
    }
}

/// Keeps members as they were before a restart of gossip, as long as gossip does not know them again.
fn hold(members: &mut Vec<Member>, held: &[Member]) {
    for before in held {
        match members.iter_mut().find(|member| member.origin.node == before.origin.node) {
            Some(member) if member.origin == before.origin && !member.alive => *member = before.clone(),
            Some(_) => {}
            None => members.push(before.clone()),
        }
    }
    members.sort_by_key(|member| member.origin);
}

/// Sets keys of this node. Returns false if a member has given this node's state a version that cannot be
/// exceeded.
fn set(chitchat: &mut Chitchat, values: impl IntoIterator<Item = (&'static str, String)>) -> bool {
    let own = chitchat.self_node_state();
    for (key, value) in values {
        if own.max_version() >= VERSION_MAX {
            return false;
        }
        // Does nothing if the value is unchanged.
        own.set(key, value);
    }
    true
}

/// Publishes the members after every round of gossip, and restarts gossip when it ends.
async fn run(shared: Arc<Shared>) {
    let mut reader = Reader::default();
    let mut held = Arc::<[Member]>::default();
    let mut held_until = timer::now();
    loop {
        let gossip = Arc::clone(&shared.gossip());
        let mut tick = interval(GOSSIP_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ended = std::pin::pin!(gossip.termination_watcher());
        let reason = loop {
            select! {
                end = &mut ended => {
                    break end.map_or_else(|error| error.to_string(), |()| "gossip stopped".to_owned());
                }
                _ = tick.tick() => {
                    let held = if timer::now() < held_until { &*held } else { &[] };
                    if shared.round(&mut reader, held).await > STATE_BYTES_MAX {
                        gossip.abort();
                        break "members sent more than the memory limit".to_owned();
                    }
                }
            }
        };
        error!(reason, "gossip ended; restarting it");
        restart(&shared, &gossip).await;
        held = shared.members.borrow().clone();
        held_until = timer::now() + HOLD_DURATION;
        for member in held.iter() {
            shared.gossip_with(member.address);
        }
        info!("gossip restarted");
    }
}

/// Restarts gossip with the same identity, heartbeat and version: peers accept no number that goes back.
async fn restart(shared: &Shared, before: &ChitchatHandle) {
    let (heartbeat, version) = before
        .with_chitchat(|chitchat| {
            let own = chitchat.self_node_state();
            (own.heartbeat(), own.max_version())
        })
        .await;
    let gossip = loop {
        sleep(RESTART_DELAY).await;
        match spawn(&shared.config, &shared.wire).await {
            Ok(gossip) => break gossip,
            Err(error) => error!(%error, "gossip restart failed; retrying"),
        }
    };
    let announcement = *shared.announcement.borrow();
    gossip
        .with_chitchat(|chitchat| {
            let own = chitchat.self_node_state();
            own.try_set_heartbeat(heartbeat);
            own.set_max_version(own.max_version().max(version));
            set(chitchat, roster::changing(announcement));
        })
        .await;
    *shared.gossip() = gossip;
}

async fn spawn(config: &Config, wire: &Arc<Wire>) -> io::Result<Arc<ChitchatHandle>> {
    let Origin { node, incarnation } = config.origin;
    let gossip = ChitchatConfig {
        chitchat_id: ChitchatId::new(node.to_string(), incarnation, config.advertise),
        cluster_id: config.cluster.clone(),
        gossip_interval: GOSSIP_INTERVAL,
        listen_addr: config.listen,
        seed_nodes: Vec::new(),
        failure_detector_config: failure_detector(),
        marked_for_deletion_grace_period: DEAD_MEMBER_EXPIRY,
        catchup_callback: None,
        extra_liveness_predicate: None,
        // This version compresses lists of nodes.
        protocol_version: ProtocolVersion::V1,
    };
    let keys = roster::fixed(&config.name, &config.versions);
    let keys = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let spawned = spawn_chitchat(gossip, keys, &Sealed(Arc::clone(wire))).await;
    Ok(Arc::new(spawned.map_err(|error| error.downcast::<io::Error>().unwrap_or_else(io::Error::other))?))
}

/// The settings of the failure detector. chitchat calls a member dead when `silence / mean interval >
/// threshold`. The interval between signs of a member depends on the number of other members, some 30 to 300
/// ms. With a mean of many samples, a member would count as dead within a second in one cluster and after a
/// minute in another. With a window of one sample the weight is on the initial interval: `mean = (5 × 600 ms
/// + last) / 6`, so a member is dead after 3.5 s of silence plus 1.2 times the last interval.
fn failure_detector() -> FailureDetectorConfig {
    FailureDetectorConfig {
        phi_threshold: 7.0,
        sampling_window_size: 1,
        // A longer interval is no sample, so a member that comes back is alive at its second sign.
        max_interval: Duration::from_secs(2),
        initial_interval: Duration::from_millis(600),
        dead_node_grace_period: DEAD_MEMBER_EXPIRY,
    }
}
