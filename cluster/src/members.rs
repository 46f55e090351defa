//! Who is alive.
//!
//! chitchat gossips over a UDP socket of our own whose datagrams are sealed; it carries four short keys
//! of each node and nothing else.
//!
//! Promises: a killed member is known to be dead 3.5 to 5 s later, and one that pauses for a second is
//! not; all addresses of all seeds are looked up again as long as the node runs; whoever does not know
//! the secret learns nothing, changes nothing, and is counted and named in the log.
//!
//! Bound: the list of all nodes has to fit into one datagram, some 30 bytes a node: 1,800 nodes.
//!
//! What members say is bounded too: a datagram becomes at most 4 MiB when it is decompressed (`wire`), and
//! when all that is known takes more than `MAX_STATE`, gossip begins anew.
//!
//! Never: it carries no facts, and no promise about tokens rests on it. What a member says of itself is
//! never trusted further than a member may be: it cannot end this node.
//!
//! | to find | look in |
//! |---|---|
//! | the form of a datagram, what is refused and what bounds it | `seal`, [`Refusal`] |
//! | how chitchat's messages come into it | `wire` |
//! | the keys, and what is believed of them | `roster` |
//! | seeds, and which address others use | `seeds`, [`advertised`] |

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
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{error, info};

pub use self::{refusal::Refusal, seeds::advertised};
use self::{
    roster::Reader,
    wire::{Sealed, Wire},
};
use crate::secret::Secret;

/// How often a node gossips, with three others.
pub const GOSSIP_INTERVAL: Duration = Duration::from_millis(200);
/// How long the dead are remembered. After half of it they are no longer told of.
pub const FORGET: Duration = Duration::from_secs(3_600);
/// How many bytes a node's name may have.
pub const MAX_NAME: usize = 128;
/// The memory for all that members say, in bytes: some ten times as much as 1,800 nodes need.
#[cfg(not(test))]
const MAX_STATE: usize = 8 * 1024 * 1024;
#[cfg(test)]
const MAX_STATE: usize = 512 * 1024;
/// How many peers are told at once that this node leaves. They tell the others.
const FAREWELLS: usize = 8;
/// How long leaving may take: to tell the peers, and to stop.
const FAREWELL: Duration = Duration::from_millis(500);
/// No node changes its keys so often.
const MAX_VERSION: u64 = 1 << 62;
/// Until gossip that ended is started again.
const RESTART: Duration = Duration::from_secs(1);
/// How long after that the members from before are believed to be as they were.
const HELD: Duration = Duration::from_secs(5);

/// How a node takes part.
pub struct Config {
    /// This node, and which start of it.
    pub origin: Origin,
    /// What people call it: at most [`MAX_NAME`] bytes.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// What its members know.
    pub secret: Secret,
    /// Where datagrams come in.
    pub listen: SocketAddr,
    /// How others reach this node, by UDP and TCP: see [`advertised`].
    pub advertise: SocketAddr,
    /// `host:port` of nodes that may be there already. Its own is no harm.
    pub seeds: Vec<String>,
    /// The versions of the link protocol that this node speaks.
    pub versions: RangeInclusive<u8>,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node, and which start of it: the newest that was heard of.
    pub origin: Origin,
    /// What people call it: at most [`MAX_NAME`] bytes, no control characters.
    pub name: String,
    /// Where it is reached, by UDP for gossip and by TCP for links.
    pub address: SocketAddr,
    /// Whether it was heard of within the last seconds.
    pub alive: bool,
    /// Whether it says that it has the facts.
    pub ready: bool,
    /// Whether it said that it leaves.
    pub leaving: bool,
    /// How long it says its log is: at most 2^48, 0 when it said nothing credible.
    pub head: u64,
    /// The versions of the link protocol that it speaks; empty when it said nothing credible.
    pub versions: RangeInclusive<u8>,
}

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Announcement {
    /// It has the facts.
    pub ready: bool,
    /// It leaves.
    pub leaving: bool,
    /// How long its log is.
    pub head: u64,
}

/// What went over the wire since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GossipCounters {
    /// Datagrams and their bytes.
    pub sent: (u64, u64),
    /// Datagrams that opened, and their bytes.
    pub received: (u64, u64),
    /// Messages that could not be sent.
    pub unsent: u64,
    /// Datagrams refused, by reason; of too long ones also those of our own that were not sent.
    pub refused: [(Refusal, u64); Refusal::ALL.len()],
}

impl GossipCounters {
    /// How many were refused for this reason.
    #[must_use]
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused.iter().find(|(refusal, _)| *refusal == reason).map_or(0, |(_, count)| *count)
    }
}

/// Who is alive. Dropped, it falls silent, as if the node had been killed.
pub struct Members {
    shared: Arc<Shared>,
    tasks: Vec<AbortHandle>,
}

/// What the tasks share.
struct Shared {
    config: Config,
    wire: Arc<Wire>,
    announcement: watch::Sender<Announcement>,
    members: watch::Sender<Arc<[Member]>>,
    gossip: Mutex<Arc<ChitchatHandle>>,
    leaving: AtomicBool,
    /// Nothing that this node says is taken by others any more.
    mute: AtomicBool,
    /// A member says that a later life of this node is alive.
    superseded: AtomicBool,
}

impl Members {
    /// Opens the socket and begins to look for others.
    ///
    /// # Errors
    /// When the socket cannot be opened, the name is too long, or no key comes from the secret.
    pub async fn join(config: Config, entropy: Arc<dyn Entropy>) -> io::Result<Self> {
        if config.name.len() > MAX_NAME {
            let problem = format!("a node's name has at most {MAX_NAME} bytes");
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

    /// Whether a member says that a later life of this node is alive elsewhere. When that is true, others
    /// take that one for it, and this one for gone; but any member can say so.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.shared.superseded.load(Ordering::Relaxed)
    }

    /// All other members, in order of their origins: those alive, and the dead until they are forgotten
    /// ([`FORGET`]). At most 10,000.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<[Member]>> {
        self.shared.members.subscribe()
    }

    /// Says something of this node. Told to others with the next gossip.
    pub fn announce(&self, announcement: Announcement) {
        self.shared.announcement.send_replace(announcement);
    }

    /// What went over the wire.
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

    /// Tells some peers that this node leaves, and stops. Who watches hears no more.
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
        let peers: Vec<_> =
            shared.members.borrow().iter().filter(|m| m.alive).map(|m| m.address).take(FAREWELLS).collect();
        let mut exchanges = shared.wire.exchanges.subscribe();
        let all = exchanges.borrow_and_update().saturating_add(peers.len() as u64);
        for peer in peers {
            shared.gossip_with(peer);
        }
        // Who does not answer is not waited for.
        let _ = timeout(FAREWELL, exchanges.wait_for(|n| *n >= all)).await;
        if gossip.initiate_shutdown().is_ok() {
            let _ = timeout(FAREWELL, gossip.termination_watcher()).await;
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
        // It fails while gossip is being started again, which the seeds get over.
        let _ = self.gossip().gossip(peer);
    }

    fn is_alone(&self) -> bool {
        !self.members.borrow().iter().any(|member| member.alive)
    }

    /// Gossips with who may be at this address, unless that is us or somebody we know.
    fn meet(&self, address: SocketAddr) {
        let own = [self.config.listen, self.config.advertise];
        let known = |member: &Member| member.alive && member.address == address;
        if !own.contains(&address) && !self.members.borrow().iter().any(known) {
            self.gossip_with(address);
        }
    }

    /// Says what was announced, and shows who is there; gives how much memory all that is known takes, in
    /// bytes.
    async fn round(&self, reader: &mut Reader, held: &[Member]) -> usize {
        let announcement = *self.announcement.borrow();
        let gossip = Arc::clone(&self.gossip());
        let (mut members, told) = gossip
            .with_chitchat(|chitchat| {
                let told = set(chitchat, roster::changing(announcement));
                (reader.members(self.config.origin, chitchat), told)
            })
            .await;
        if !told && !self.mute.swap(true, Ordering::Relaxed) {
            error!("a member spoilt what this node says of itself; a restart mends it");
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

/// What is not known again since gossip was started anew is as it was.
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

/// Sets keys of our own, unless a member gave our state a number that nothing can follow.
fn set(chitchat: &mut Chitchat, values: impl IntoIterator<Item = (&'static str, String)>) -> bool {
    let own = chitchat.self_node_state();
    for (key, value) in values {
        if own.max_version() >= MAX_VERSION {
            return false;
        }
        // Does nothing when it is the same.
        own.set(key, value);
    }
    true
}

/// Shows who is there, as often as we gossip, and starts gossip again when it ends.
async fn run(shared: Arc<Shared>) {
    let mut reader = Reader::default();
    let mut held = (Arc::<[Member]>::default(), Instant::now());
    loop {
        let gossip = Arc::clone(&shared.gossip());
        let mut tick = interval(GOSSIP_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ended = std::pin::pin!(gossip.termination_watcher());
        let reason = loop {
            select! {
                end = &mut ended => {
                    break end.map_or_else(|error| error.to_string(), |()| "it stopped".to_owned());
                }
                _ = tick.tick() => {
                    let (members, until) = &held;
                    let held = if Instant::now() < *until { &**members } else { &[] };
                    if shared.round(&mut reader, held).await > MAX_STATE {
                        gossip.abort();
                        break "members say more than there is room for".to_owned();
                    }
                }
            }
        };
        error!(reason, "gossip ended; it is started again");
        restart(&shared, &gossip).await;
        held = (shared.members.borrow().clone(), Instant::now() + HELD);
        for member in held.0.iter() {
            shared.gossip_with(member.address);
        }
        info!("gossip runs again");
    }
}

/// Starts gossip with the same identity, where the other one was: peers take no number that goes back.
async fn restart(shared: &Shared, before: &ChitchatHandle) {
    let (heartbeat, version) = before
        .with_chitchat(|chitchat| {
            let own = chitchat.self_node_state();
            (own.heartbeat(), own.max_version())
        })
        .await;
    let gossip = loop {
        sleep(RESTART).await;
        match spawn(&shared.config, &shared.wire).await {
            Ok(gossip) => break gossip,
            Err(error) => error!(%error, "gossip could not be started again"),
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
        marked_for_deletion_grace_period: FORGET,
        catchup_callback: None,
        extra_liveness_predicate: None,
        // Lists of nodes are compressed.
        protocol_version: ProtocolVersion::V1,
    };
    let keys = roster::fixed(&config.name, &config.versions);
    let keys = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let spawned = spawn_chitchat(gossip, keys, &Sealed(Arc::clone(wire))).await;
    Ok(Arc::new(spawned.map_err(|error| error.downcast::<io::Error>().unwrap_or_else(io::Error::other))?))
}

/// chitchat calls a member dead when `silence / mean interval > threshold`. The interval at which one
/// hears of a member depends on how many others talk, some 30 to 300 ms, so a mean of many would be
/// dead within a second here and a minute there. With a window of one sample the weight is on the
/// initial interval: `mean = (5 × 600 ms + last) / 6`, and a member is dead after 3.5 s of silence plus
/// 1.2 times the last interval.
fn failure_detector() -> FailureDetectorConfig {
    FailureDetectorConfig {
        phi_threshold: 7.0,
        sampling_window_size: 1,
        // A longer one is no sample: who comes back is alive at the second sign after it.
        max_interval: Duration::from_secs(2),
        initial_interval: Duration::from_millis(600),
        dead_node_grace_period: FORGET,
    }
}
