//! The protocol over real links: which peers are dialed, what is read and written, which calls wait.
//!
//! One task reads a link and one writes it. They share the [`Replicator`] with the callers of [`Cluster`]
//! under a lock that is never held across an await.
//!
//! Promises: the task that reads a frame applies its facts before it passes the frame to the replicator. A
//! slow or silent peer delays its own link only. Of two nodes the one with the lower id dials; the other one
//! dials too when it has had no link for two seconds, for networks that let connections through in one
//! direction only. Of two links to one peer the newer one counts.
//!
//! Never: messages are queued, or this module decides what a fact means: [`FactHandler`] does.
//!
//! | to find | look in |
//! |---|---|
//! | calls that wait for acknowledgements | `acks` |
//! | links that this node makes | `dial` |
//! | links that peers make | `accept` |
//! | one link, from its start to its end | `link_task` |
//! | what a peer asks this node to write to its disk | `keep` |
//! | when a node that starts has caught up | `catch_up` |
//! | what operators see | [`status`] |
//! | links that were refused, and why | [`refused`] |

mod accept;
mod acks;
mod catch_up;
mod dial;
mod keep;
mod link_task;
pub mod refused;
pub mod status;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use schema::{
    Clocks, Entropy, Fact, NodeId,
    ledger::{Entry, Origin},
};
use tokio::{
    net::TcpListener,
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use self::{
    acks::{AckLevel, PendingAck},
    dial::DialState,
    refused::RefusedLinks,
};
use crate::{
    link::{self, Gate},
    members::{self, Announcement, Member, Members},
    protocol::{
        Now, Replicator, Tuning, VERSIONS,
        message::Forgotten,
        replicator::{AckCount, MemberState},
    },
    secret::Secret,
    timer,
};

/// How often the replicator drops what has expired, and gossip gets this node's head.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long peers may take to be sent the announcement that this node stops.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// How often [`Cluster::leave`] checks whether that was done.
const LEAVE_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long the last frames get to leave the host before links close.
const LAST_FRAMES_DELAY: Duration = Duration::from_millis(20);

/// How a node takes part in a cluster.
pub struct Config {
    /// This node, and which life of it.
    pub origin: Origin,
    /// The node's name, for people.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's secret.
    pub secret: Secret,
    /// Where this node listens: UDP for gossip, TCP for links.
    pub listen: SocketAddr,
    /// The address at which peers reach this node.
    pub advertise: SocketAddr,
    /// Where other nodes may be, as `host:port`.
    pub seeds: Vec<String>,
    /// How long a revocation waits for the acknowledgements of live peers.
    pub ack_deadline: Duration,
    /// The limits and intervals of the protocol.
    pub tuning: Tuning,
    /// Entries that the node's journal held at its start. The node refuses by them already.
    pub recovered: Vec<Entry>,
}

/// Applies the facts of peers.
#[async_trait]
pub trait FactHandler: Send + Sync + 'static {
    /// Applies a fact. When this returns, the node refuses by it.
    fn apply(&self, fact: &Fact);
    /// Writes entries of a peer's log to this node's disk. Returns whether they are there.
    async fn keep(&self, entries: Vec<Entry>) -> bool;
    /// Notes that every live node has acknowledged a revocation, `after` its publication.
    fn on_acknowledged(&self, after: Duration);
}

/// This node's part of the cluster: gossip, links and the replicator, with the tasks that run them.
pub struct Cluster {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the tasks and [`Cluster`] share.
struct Shared {
    config: Config,
    local: link::Local,
    members: Members,
    handler: Arc<dyn FactHandler>,
    clocks: Arc<Clocks>,
    entropy: Arc<dyn Entropy>,
    state: Mutex<State>,
    gate: Gate,
    refused: RefusedLinks,
    phase: watch::Sender<Phase>,
    /// Whether links are no longer made.
    stopping: AtomicBool,
}

/// What gossip is told of this node.
#[derive(Debug, Clone, Copy, Default)]
struct Phase {
    /// Whether the node takes requests.
    ready: bool,
    /// Whether the node stops.
    leaving: bool,
}

struct State {
    replicator: Replicator,
    links: BTreeMap<NodeId, LinkHandle>,
    /// The number of links made since the start; the last one's number.
    links_made: u64,
    pending_acks: Vec<PendingAck>,
    dials: BTreeMap<NodeId, DialState>,
}

/// The current link to a peer.
struct LinkHandle {
    /// Distinguishes the link from earlier ones to the same peer.
    number: u64,
    origin: Origin,
    since: Instant,
    /// Wakes the task that writes the link.
    wake: Arc<Notify>,
    /// Ends the link when it is dropped.
    _close: oneshot::Sender<()>,
}

impl Cluster {
    /// Starts to listen, gossip and link.
    ///
    /// # Errors
    /// When the address cannot be used or no key can be derived.
    pub async fn start(
        config: Config,
        handler: Arc<dyn FactHandler>,
        clocks: Arc<Clocks>,
        entropy: Arc<dyn Entropy>,
    ) -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind(config.listen).await?;
        let members = Members::join(
            members::Config {
                origin: config.origin,
                name: config.name.clone(),
                cluster: config.cluster.clone(),
                secret: config.secret.clone(),
                listen: config.listen,
                advertise: config.advertise,
                seeds: config.seeds.clone(),
                versions: VERSIONS,
            },
            entropy.clone(),
        )
        .await?;
        let local = link::Local {
            origin: config.origin,
            name: config.name.clone(),
            secret: config.secret.clone(),
            versions: VERSIONS,
        };
        let mut replicator = Replicator::new(config.origin, config.tuning);
        for Entry { origin, seq, fact } in &config.recovered {
            replicator.learn(*origin, *seq, &[*fact]);
        }
        let shared = Arc::new(Shared {
            config,
            local,
            members,
            handler,
            clocks,
            entropy,
            state: Mutex::new(State {
                replicator,
                links: BTreeMap::new(),
                links_made: 0,
                pending_acks: Vec::new(),
                dials: BTreeMap::new(),
            }),
            gate: Gate::default(),
            refused: RefusedLinks::default(),
            phase: watch::Sender::default(),
            stopping: AtomicBool::new(false),
        });
        let tasks = vec![
            tokio::spawn(accept::accept_links(shared.clone(), listener)),
            tokio::spawn(follow_members(shared.clone())),
            tokio::spawn(dial::dial_members(shared.clone())),
            tokio::spawn(upkeep(shared.clone())),
        ];
        Ok(Arc::new(Self { shared, tasks }))
    }

    /// Publishes facts of this node to every linked peer. The node refuses by them already. `first` follows
    /// on the number of the last fact published. Does not wait.
    pub fn publish(&self, first: u64, facts: &[Fact]) {
        let mut state = self.shared.state();
        state.replicator.publish(first, facts);
        state.wake_all();
    }

    /// Waits until every live node has acknowledged these entries of this node's log, at most for the ack
    /// deadline from now on. `since` is the time of their publication. Returns how many of how many other
    /// live nodes have acknowledged; for no entries (`last` 0), how many of how many are linked.
    pub async fn visible(&self, first: u64, last: u64, since: Instant) -> (u32, u32) {
        let AckCount { have, live } = self.wait_for_acks(first, last, AckLevel::Applied, since).await;
        (have, live)
    }

    /// Asks every peer to write these entries of this node's log to its disk, and waits until every live node
    /// has, at most for the ack deadline from now on. Returns how many of how many other live nodes have. A
    /// peer whose version does not allow it, or whose disk is full, is not counted as having them.
    pub async fn on_disk(&self, first: u64, last: u64) -> (u32, u32) {
        {
            let mut state = self.shared.state();
            state.replicator.ask_to_keep(first, last);
            state.wake_all();
        }
        let AckCount { have, live } = self.wait_for_acks(first, last, AckLevel::OnDisk, timer::now()).await;
        (have, live)
    }

    /// Adds entries that were applied here and came from the ledger or the journal, numbered from `first`.
    pub fn learn(&self, origin: Origin, first: u64, facts: &[Fact]) {
        if !facts.is_empty() {
            let mut state = self.shared.state();
            state.replicator.learn(origin, first, facts);
            state.wake_all();
        }
    }

    /// Notes that the ledger was read up to `seq` of a log: every entry that had not expired was applied.
    pub fn ledger_has(&self, origin: Origin, seq: u64) {
        self.shared.state().replicator.ledger_has(origin, seq);
    }

    /// Every entry of the log up to this number is applied here or has expired.
    #[must_use]
    pub fn complete(&self, origin: Origin) -> u64 {
        self.shared.state().replicator.complete(origin)
    }

    /// As [`Self::complete`], without entries that only nodes other than the origin called expired. The
    /// ledger need not be read up to here.
    #[must_use]
    pub fn proven(&self, origin: Origin) -> u64 {
        self.shared.state().replicator.proven(origin)
    }

    /// The logs of other nodes, each with the number up to which it is complete here.
    #[must_use]
    pub fn peer_logs(&self) -> Vec<(Origin, u64)> {
        self.shared.state().replicator.peer_logs().collect()
    }

    /// The first run of entries that are held from number `first` on, at most `count_max` of them, with the
    /// number of its first entry.
    #[must_use]
    pub fn entries(&self, origin: Origin, first: u64, count_max: usize) -> Option<(u64, Vec<Fact>)> {
        self.shared.state().replicator.entries(origin, first, count_max)
    }

    /// Whether gossip says that a later life of this node is alive elsewhere. Any member can claim that.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.shared.members.is_superseded()
    }

    /// How far the furthest time that another node's clock has shown is ahead of this node's clock.
    #[must_use]
    pub fn clock_ahead(&self) -> Duration {
        let now = self.shared.now();
        self.shared.state().replicator.clock_ahead(now)
    }

    /// How far the slowest clock of another node is behind this node's.
    #[must_use]
    pub fn clock_behind(&self) -> Duration {
        self.shared.state().replicator.clock_behind()
    }

    /// Whether most linked peers report the same time as this node's clock.
    #[must_use]
    pub fn clock_agrees(&self) -> bool {
        let now = self.shared.now();
        self.shared.state().replicator.clock_agrees(now)
    }

    /// The beginning of a log that is no longer held.
    #[must_use]
    pub fn forgotten(&self, origin: Origin) -> Forgotten {
        self.shared.state().replicator.forgotten(origin)
    }

    /// Whether no live node has a lower id. That node is the first to do what any node may do.
    #[must_use]
    pub fn is_lowest_live_id(&self) -> bool {
        let members = self.shared.members.watch().borrow().clone();
        let own = self.shared.config.origin.node;
        members.iter().filter(|member| member.alive).all(|member| own < member.origin.node)
    }

    /// The latest time at which every fact published by every other member had been applied here, by the
    /// monotonic clock. `None` if there is no other member, or if that has never been the case.
    #[must_use]
    pub fn fresh_at(&self) -> Option<Duration> {
        let now = self.shared.now();
        self.shared.state().replicator.fresh_at(now)
    }

    /// Notes that the ledger was read to its end at this time of the monotonic clock. Members that have been
    /// gone for long then no longer count against freshness.
    pub fn mark_ledger_read(&self, at: Duration) {
        self.shared.state().replicator.expire_members(at);
    }

    /// Announces to members whether this node takes new requests.
    pub fn announce(&self, ready: bool) {
        self.shared.phase.send_replace(Phase { ready, leaving: false });
    }

    /// Announces to peers that this node stops and that its log ends here, then closes all links and stops
    /// gossip.
    pub async fn leave(&self) {
        self.shared.phase.send_replace(Phase { ready: false, leaving: true });
        self.shared.stopping.store(true, Ordering::SeqCst);
        {
            let mut state = self.shared.state();
            state.replicator.leave();
            state.wake_all();
        }
        let announced = async {
            while !self.shared.state().replicator.has_announced_leaving() {
                sleep(LEAVE_POLL_INTERVAL).await;
            }
        };
        let _ = timeout(LEAVE_TIMEOUT, announced).await;
        sleep(LAST_FRAMES_DELAY).await;
        self.shared.members.leave().await;
        self.tasks.iter().for_each(JoinHandle::abort);
        self.shared.state().links.clear();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.tasks.iter().for_each(JoinHandle::abort);
        self.shared.state().links.clear();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        let horizon = self.clocks.horizon();
        Now { monotonic: self.clocks.monotonic(), wall: self.clocks.now(), horizon }
    }

    /// A random number below `bound`; 0 if `bound` is 0.
    fn random_below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes);
        u64::from_be_bytes(bytes) % bound.max(1)
    }
}

impl State {
    fn is_linked(&self, origin: Origin) -> bool {
        self.links.get(&origin.node).is_some_and(|link| link.origin == origin)
    }

    /// Whether the link of this number is still the current one to its peer.
    fn is_current(&self, origin: Origin, number: u64) -> bool {
        self.links.get(&origin.node).is_some_and(|link| link.number == number)
    }

    fn wake(&self, node: NodeId) {
        if let Some(link) = self.links.get(&node) {
            link.wake.notify_one();
        }
    }

    fn wake_all(&self) {
        self.links.values().for_each(|link| link.wake.notify_one());
    }
}

/// Tells the replicator which members there are, and gossip in which phase this node is and how long its log
/// is.
async fn follow_members(shared: Arc<Shared>) {
    let mut members = shared.members.watch();
    let mut phase = shared.phase.subscribe();
    let mut rounds = interval(UPKEEP_INTERVAL);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        {
            let list = members.borrow_and_update().clone();
            let state_of = |member: &Member| match (member.leaving, member.alive) {
                (true, _) => MemberState::Left,
                (_, true) => MemberState::Alive,
                _ => MemberState::Dead,
            };
            let mut state = shared.state();
            state.replicator.set_members(list.iter().map(|member| (member.origin, state_of(member))));
            state.answer_pending(&*shared.handler);
            let head = state.replicator.head();
            drop(state);
            let Phase { ready, leaving } = *phase.borrow_and_update();
            shared.members.announce(Announcement { ready, leaving, head });
        }
        tokio::select! {
            changed = members.changed() => if changed.is_err() { return },
            _ = phase.changed() => {}
            _ = rounds.tick() => {}
        }
    }
}

/// Makes the replicator drop what has expired.
async fn upkeep(shared: Arc<Shared>) {
    let mut rounds = interval(UPKEEP_INTERVAL);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let now = shared.now();
        shared.state().replicator.upkeep(now);
    }
}
