//! The machine over real links: who is dialed, what is read and written, who waits for whom.
//!
//! One task reads a link, one writes it; they share the [`Machine`] with who publishes, under a lock that
//! is held for no I/O. What a frame takes away is applied by the task that read it before the machine
//! hears of it. A slow or silent peer holds up its own link only.
//!
//! Of two nodes the one with the lower id dials; the other one does when it has waited for a while, for
//! networks that let through one way only. The newest link of a pair is the one that counts.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use schema::{
    Clocks, Entropy, Fact, Name, NodeId, Timestamp,
    ledger::{Entry, Origin},
    time::CLOCK_SKEW,
};
use tokio::{
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    link::{self, Broken, Gate, Reader, Refused, Writer},
    members::{self, Announcement, GossipCounters, Member, Members},
    protocol::{
        Machine, Message, Now, Tuning, VERSIONS,
        machine::{Counters, LogState, MemberState, PeerState},
        message::Forgotten,
    },
    secret::Secret,
};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// A peer that says nothing for so long is gone: it is asked four times a second.
const SILENCE: Duration = Duration::from_secs(3);
/// How often a writer that nobody wakes looks for something to say.
const LOOK: Duration = Duration::from_millis(100);
/// Between looks at who is to be dialed.
const DIAL: Duration = Duration::from_millis(100);
/// After how long without a link the node with the higher id dials too.
const OTHER_WAY: Duration = Duration::from_secs(2);
/// Between dials of one peer, doubled each time up to the second, and shortened by chance.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// How many peers are dialed when not everybody is linked with everybody.
const FAN_OUT: usize = 8;
/// No fact matters for longer: access tokens live a day at most, and who revokes with a token in hand whose
/// issuer's clock was ahead by weeks says so.
const LONGEST: Duration = Duration::from_secs(400 * 24 * 3_600);
/// How many callers may wait for acknowledgements; more are answered at once, with who has it so far.
const MAX_WAITING: usize = 4_096;
/// How many peers are linked at most: twice as many as a full mesh has. A link takes a quarter of a MiB.
const MAX_LINKS: usize = 128;
/// How many entries are handed to the disk at a time.
const KEEP_BATCH: usize = 256;
/// A link that ended sooner is no reason to dial again at once.
const LASTING: Duration = Duration::from_secs(5);
/// How long those who are alive must have been the same before a newcomer believes that it knows all.
const STABLE: Duration = Duration::from_secs(1);
/// How long the last frames may take.
const LAST_FRAMES: Duration = Duration::from_millis(20);
/// How long peers may take to hear that this node ends.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long a newcomer waits for somebody to show up.
const FIRST_GOSSIP: Duration = Duration::from_secs(2);

/// Time by a clock that never jumps and goes on while the machine is suspended.
#[must_use]
pub fn boottime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// What a cluster needs to know.
pub struct Config {
    /// This node, since its last start.
    pub origin: Origin,
    /// For people to read.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's secret.
    pub secret: Secret,
    /// UDP for gossip and TCP for links.
    pub listen: SocketAddr,
    /// How peers reach it.
    pub advertise: SocketAddr,
    /// Where others may be, as `host:port`.
    pub seeds: Vec<String>,
    /// How long a revocation waits for live peers.
    pub ack_deadline: Duration,
    /// The protocol's numbers.
    pub tuning: Tuning,
    /// What a former life of this node left, which refuses here already.
    pub left: Vec<Entry>,
}

/// Who applies what others took away.
#[async_trait]
pub trait Hears: Send + Sync + 'static {
    /// It refuses when this returns.
    fn hear(&self, fact: &Fact);
    /// Writes entries of a peer's log to this node's disk; says whether they are there when it returns.
    async fn keep(&self, entries: Vec<Entry>) -> bool;
    /// A revocation was acknowledged by every live node, so long after it was on its way.
    fn acknowledged(&self, after: Duration);
}

/// This node's part of the cluster.
pub struct Cluster {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    config: Config,
    local: link::Local,
    members: Members,
    hears: Arc<dyn Hears>,
    clocks: Arc<Clocks>,
    entropy: Arc<dyn Entropy>,
    state: Mutex<State>,
    gate: Gate,
    refused: RefusedLinks,
    /// Whether this node takes requests, and whether it has left.
    ready: watch::Sender<(bool, bool)>,
    ending: AtomicBool,
}

struct State {
    machine: Machine,
    links: BTreeMap<NodeId, Link>,
    links_ever: u64,
    waiting: Vec<Waiting>,
    dials: BTreeMap<NodeId, Dial>,
}

struct Link {
    number: u64,
    origin: Origin,
    since: Instant,
    wake: Arc<Notify>,
    /// Dropped when the link is not to go on.
    _end: oneshot::Sender<()>,
}

/// Somebody waits until these own facts are known everywhere.
struct Waiting {
    first: u64,
    last: u64,
    known: Known,
    since: Instant,
    reply: oneshot::Sender<(u32, u32)>,
}

/// How well a peer must know facts to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// They refuse there.
    Applied,
    /// They are on its disk too.
    OnDisk,
}

/// Tries to reach a peer.
struct Dial {
    missing_since: Instant,
    next: Instant,
    wait: Duration,
    under_way: bool,
}

/// Links that were refused, by reason.
#[derive(Debug, Default)]
pub struct RefusedLinks {
    counts: [AtomicU64; RefusedLinks::REASONS.len()],
}

/// How the cluster looks from here.
#[derive(Debug, Clone)]
pub struct Status {
    /// All other nodes.
    pub members: Vec<MemberStatus>,
    /// All logs.
    pub logs: Vec<LogState>,
    /// Entries held, of all logs.
    pub kept: usize,
    /// What was sent and asked for.
    pub counters: Counters,
    /// Datagrams.
    pub gossip: GossipCounters,
    /// Links that were refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// When everything that all others had taken away was known here last, as an age.
    pub freshness: Option<Duration>,
}

/// Another node.
#[derive(Debug, Clone)]
pub struct MemberStatus {
    /// What gossip says.
    pub member: Member,
    /// How the link stands, if there is one, and since when there is.
    pub link: Option<(PeerState, Duration)>,
    /// How long ago everything that it had taken away was known here.
    pub freshness: Option<Duration>,
}

impl Cluster {
    /// Listens, and looks for others.
    ///
    /// # Errors
    /// When the address cannot be used or no key be derived.
    pub async fn start(
        config: Config,
        hears: Arc<dyn Hears>,
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
        let mut machine = Machine::new(config.origin, config.tuning);
        for Entry { origin, seq, fact } in &config.left {
            machine.learn(*origin, *seq, &[*fact]);
        }
        let shared = Arc::new(Shared {
            config,
            local,
            members,
            hears,
            clocks,
            entropy,
            state: Mutex::new(State {
                machine,
                links: BTreeMap::new(),
                links_ever: 0,
                waiting: Vec::new(),
                dials: BTreeMap::new(),
            }),
            gate: Gate::default(),
            refused: RefusedLinks::default(),
            ready: watch::Sender::new((false, false)),
            ending: AtomicBool::new(false),
        });
        let tasks = vec![
            tokio::spawn(accept(shared.clone(), listener)),
            tokio::spawn(follow_members(shared.clone())),
            tokio::spawn(dial_members(shared.clone())),
            tokio::spawn(upkeep(shared.clone())),
        ];
        Ok(Arc::new(Self { shared, tasks }))
    }

    /// These own facts, which refuse here already, go to every linked peer. `first` follows on the last one
    /// published. It waits for nothing.
    pub fn publish(&self, first: u64, facts: &[Fact]) {
        let mut state = self.shared.state();
        state.machine.publish(first, facts);
        state.wake_all();
    }

    /// Waits until every live node has these own facts, which were published at that time, at most for the
    /// ack deadline from now on; gives how many of how many have them. Of no facts (`last` 0), how many
    /// are linked.
    pub async fn visible(&self, first: u64, last: u64, since: Instant) -> (u32, u32) {
        self.counted(first, last, Known::Applied, since).await
    }

    /// Asks every peer to write these own facts, which were published, to its disk, and waits until every
    /// live node has, at most for the ack deadline from now on; gives how many of how many have. A peer of
    /// a version that cannot be asked, or whose disk has no room, is not counted.
    pub async fn on_disk(&self, first: u64, last: u64) -> (u32, u32) {
        {
            let mut state = self.shared.state();
            state.machine.ask_to_keep(first, last);
            state.wake_all();
        }
        self.counted(first, last, Known::OnDisk, Instant::now()).await
    }

    async fn counted(&self, first: u64, last: u64, known: Known, since: Instant) -> (u32, u32) {
        let (reply, replied) = oneshot::channel();
        {
            let mut state = self.shared.state();
            let (have, all) = state.count(first, last, known);
            if have == all && all > 0 && last > 0 && known == Known::Applied {
                self.shared.hears.acknowledged(since.elapsed());
            }
            if have == all || last == 0 || state.waiting.len() >= MAX_WAITING {
                return (have, all);
            }
            state.waiting.push(Waiting { first, last, known, since, reply });
        }
        match timeout(self.shared.config.ack_deadline, replied).await {
            Ok(Ok(counts)) => counts,
            _ => self.shared.state().count(first, last, known),
        }
    }

    /// Entries that were applied here and come from the ledger or the journal, numbered from `first`.
    pub fn learn(&self, origin: Origin, first: u64, facts: &[Fact]) {
        if !facts.is_empty() {
            let mut state = self.shared.state();
            state.machine.learn(origin, first, facts);
            state.wake_all();
        }
    }

    /// The ledger has everything of this log up to here, and it was applied as far as it had not ended.
    pub fn ledger_has(&self, origin: Origin, seq: u64) {
        self.shared.state().machine.ledger_has(origin, seq);
    }

    /// All of a log that is applied here without a gap.
    #[must_use]
    pub fn complete(&self, origin: Origin) -> u64 {
        self.shared.state().machine.complete(origin)
    }

    /// The same, but for what only others than its origin call ended: what need not be read in the ledger.
    #[must_use]
    pub fn proven(&self, origin: Origin) -> u64 {
        self.shared.state().machine.proven(origin)
    }

    /// The logs of others, and up to where they are complete here.
    #[must_use]
    pub fn heard(&self) -> Vec<(Origin, u64)> {
        self.shared.state().machine.heard().collect()
    }

    /// Entries of a log from `first` on, as far as they are held without a gap.
    #[must_use]
    pub fn entries(&self, origin: Origin, first: u64, most: usize) -> Option<(u64, Vec<Fact>)> {
        self.shared.state().machine.entries(origin, first, most)
    }

    /// Whether gossip says that a later life of this node is alive elsewhere. Any member can say so.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.shared.members.is_superseded()
    }

    /// By how much the clock of another node is ahead of this one's, at most.
    #[must_use]
    pub fn clock_ahead(&self) -> Duration {
        let now = self.shared.now();
        self.shared.state().machine.clock_ahead(now)
    }

    /// By how much the clock of another node is behind this one's, at most.
    #[must_use]
    pub fn clock_behind(&self) -> Duration {
        self.shared.state().machine.clock_behind()
    }

    /// Whether most linked peers report the same time as this node's clock.
    #[must_use]
    pub fn clock_agrees(&self) -> bool {
        let now = self.shared.now();
        self.shared.state().machine.clock_agrees(now)
    }

    /// What is not held of a log any more.
    #[must_use]
    pub fn forgotten(&self, origin: Origin) -> Forgotten {
        self.shared.state().machine.forgotten(origin)
    }

    /// Whether no live node has a lower id: who does first what any of them may do.
    #[must_use]
    pub fn is_eldest(&self) -> bool {
        let members = self.shared.members.watch().borrow().clone();
        let own = self.shared.config.origin.node;
        members.iter().filter(|member| member.alive).all(|member| own < member.origin.node)
    }

    /// When, by [`boottime`], this node last knew everything that all others had taken away; `None` when it
    /// never did, or knows of nobody else.
    #[must_use]
    pub fn fresh_at(&self) -> Option<Duration> {
        let now = self.shared.now();
        self.shared.state().machine.fresh_at(now)
    }

    /// The ledger was read to its end at this time: who is gone for long is no more reason to be stale.
    pub fn ledger_was_read(&self, at: Duration) {
        self.shared.state().machine.forget_gone(at);
    }

    /// Waits until this node is linked with everybody alive and has what they have, or nothing more has come
    /// from them for so long; says whether it has.
    pub async fn catch_up(&self, patience: Duration) -> bool {
        let mut looks = interval(DIAL);
        let (mut known, mut changed_at) = (Vec::new(), Instant::now());
        let (mut progress, mut progress_at) = ((0, 0), Instant::now());
        loop {
            looks.tick().await;
            let members = self.shared.members.watch().borrow().clone();
            let alive = members.iter().filter(|member| member.alive && !member.leaving);
            let alive: Vec<_> = alive.map(|member| member.origin).collect();
            if alive != known {
                (known, changed_at) = (alive, Instant::now());
            }
            // Somebody may be there whom gossip has not found yet.
            let alone = known.is_empty() && !self.shared.config.seeds.is_empty();
            let settled = changed_at.elapsed() >= if alone { FIRST_GOSSIP } else { STABLE };
            let state = self.shared.state();
            let mut linked = known.iter().map(|origin| state.is_linked(*origin));
            let linked = if state.machine.is_sparse() {
                known.is_empty() || linked.any(|one| one)
            } else {
                linked.all(|one| one)
            };
            if settled && linked && state.machine.is_caught_up() {
                return true;
            }
            let now = (state.links.len(), state.machine.kept());
            drop(state);
            if now != progress {
                (progress, progress_at) = (now, Instant::now());
            }
            if progress_at.elapsed() >= patience {
                return false;
            }
        }
    }

    /// Says to gossip whether this node takes new requests.
    pub fn announce(&self, ready: bool) {
        self.shared.ready.send_replace((ready, false));
    }

    /// Says farewell: this node serves nobody any more, and its log ends here. Then stops.
    pub async fn leave(&self) {
        self.shared.ready.send_replace((false, true));
        self.shared.ending.store(true, Ordering::SeqCst);
        {
            let mut state = self.shared.state();
            state.machine.leave();
            state.wake_all();
        }
        let told = async {
            while !self.shared.state().machine.has_told_all() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(FAREWELL, told).await;
        sleep(LAST_FRAMES).await;
        self.shared.members.leave().await;
        self.tasks.iter().for_each(JoinHandle::abort);
        self.shared.state().links.clear();
    }

    /// How the cluster looks from here.
    #[must_use]
    pub fn status(&self) -> Status {
        let now = self.shared.now();
        let members = self.shared.members.watch().borrow().clone();
        let state = self.shared.state();
        let peers = state.machine.peers();
        let age = |at: Duration| now.monotonic.saturating_sub(at);
        let members = members.iter().map(|member| {
            let peer = peers.iter().find(|peer| peer.origin == member.origin);
            let since = state.links.get(&member.origin.node).map(|link| link.since.elapsed());
            MemberStatus {
                member: member.clone(),
                link: peer.copied().zip(since),
                freshness: state.machine.fresh_at_of(member.origin.node).map(age),
            }
        });
        Status {
            members: members.collect(),
            logs: state.machine.logs(),
            kept: state.machine.kept(),
            counters: state.machine.counters(),
            gossip: self.shared.members.counters(),
            refused: self.shared.refused.read(),
            freshness: state.machine.fresh_at(now).map(age),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
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
        Now { monotonic: boottime(), wall: self.clocks.now(), horizon }
    }

    /// A number below `bound`, by chance.
    fn chance(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes);
        u64::from_be_bytes(bytes) % bound.max(1)
    }
}

impl State {
    fn is_linked(&self, origin: Origin) -> bool {
        self.links.get(&origin.node).is_some_and(|link| link.origin == origin)
    }

    fn is_current(&self, origin: Origin, number: u64) -> bool {
        self.links.get(&origin.node).is_some_and(|link| link.number == number)
    }

    fn count(&self, first: u64, last: u64, known: Known) -> (u32, u32) {
        match known {
            Known::Applied => self.machine.visible(first, last),
            Known::OnDisk => self.machine.on_disk(first, last),
        }
    }

    fn wake_all(&self) {
        self.links.values().for_each(|link| link.wake.notify_one());
    }

    /// Answers those who waited for what is known everywhere now.
    fn answer_waiting(&mut self, hears: &dyn Hears) {
        let mut n = 0;
        while n < self.waiting.len() {
            let one = &self.waiting[n];
            let (have, all) = self.count(one.first, one.last, one.known);
            if have == all {
                let one = self.waiting.swap_remove(n);
                if one.known == Known::Applied {
                    hears.acknowledged(one.since.elapsed());
                }
                let _ = one.reply.send((have, all));
            } else if one.reply.is_closed() {
                self.waiting.swap_remove(n);
            } else {
                n += 1;
            }
        }
    }
}

/// Lets peers in.
async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a peer's connection could not be accepted");
                sleep(LOOK).await;
                continue;
            }
        };
        let mut permit = shared.gate.enter(address.ip());
        let shared = shared.clone();
        tokio::spawn(async move {
            let progress = permit.progress();
            let answered = tokio::select! {
                answered = link::answer(stream, &shared.local, &progress) => answered,
                () = permit.made_room() => return shared.refused.crowded(address),
            };
            match answered {
                Ok((peer, reader, writer)) => {
                    drop(permit);
                    run(shared, peer, reader, writer).await;
                }
                Err(error) => shared.refused.note(&error, address),
            }
        });
    }
}

/// Tells the machine who is there, and gossip how this node stands.
async fn follow_members(shared: Arc<Shared>) {
    let (mut members, mut ready) = (shared.members.watch(), shared.ready.subscribe());
    let mut rounds = interval(Duration::from_secs(1));
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
            state.machine.set_members(list.iter().map(|member| (member.origin, state_of(member))));
            state.answer_waiting(&*shared.hears);
            let head = state.machine.head();
            drop(state);
            let (ready, leaving) = *ready.borrow_and_update();
            shared.members.announce(Announcement { ready, leaving, head });
        }
        tokio::select! {
            changed = members.changed() => if changed.is_err() { return },
            _ = ready.changed() => {}
            _ = rounds.tick() => {}
        }
    }
}

/// Dials who is alive and not linked.
async fn dial_members(shared: Arc<Shared>) {
    let members = shared.members.watch();
    let mut rounds = interval(DIAL);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let list = members.borrow().clone();
        let mut alive: Vec<_> = list.iter().filter(|member| member.alive && !member.leaving).collect();
        let mut state = shared.state();
        let own = shared.config.origin.node;
        let sparse = state.machine.is_sparse();
        if sparse {
            // The same few as long as they live, other ones for every node.
            alive.sort_by_key(|member| spread(own, member.origin.node));
            alive.truncate(FAN_OUT);
        }
        state.dials.retain(|node, _| alive.iter().any(|member| member.origin.node == *node));
        let now = Instant::now();
        for member in alive {
            let node = member.origin.node;
            if let Some(link) = state.links.get(&node).filter(|link| link.origin == member.origin) {
                if link.since.elapsed() >= LASTING {
                    state.dials.remove(&node);
                }
                continue;
            }
            let dial = state.dials.entry(node).or_insert(Dial {
                missing_since: now,
                next: now,
                wait: BACKOFF.0,
                under_way: false,
            });
            let ours = sparse || own < node || now >= dial.missing_since + OTHER_WAY;
            if dial.under_way || now < dial.next || !ours {
                continue;
            }
            dial.under_way = true;
            tokio::spawn(reach(shared.clone(), member.clone()));
        }
    }
}

/// In which order a node prefers others: by chance, but always the same.
fn spread(own: NodeId, other: NodeId) -> u32 {
    let bytes = [own.as_bytes().as_slice(), other.as_bytes().as_slice()].concat();
    crc32fast::hash(&bytes)
}

async fn reach(shared: Arc<Shared>, member: Member) {
    let linked = match timeout(CONNECT, TcpStream::connect(member.address)).await {
        Ok(Ok(stream)) => link::dial(stream, &shared.local).await,
        Ok(Err(error)) => Err(Refused::Io(error)),
        Err(_) => Err(Refused::Slow),
    };
    if let Some(dial) = shared.state().dials.get_mut(&member.origin.node) {
        let wait = dial.wait.min(BACKOFF.1);
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        // Anything from half of it to all of it: those who lost each other do not meet again and again.
        let wait_for = wait / 2 + Duration::from_millis(shared.chance(millis / 2 + 1));
        *dial = Dial { next: Instant::now() + wait_for, wait: wait * 2, under_way: false, ..*dial };
    }
    match linked {
        Ok((peer, reader, writer)) => {
            let expected = peer.origin.node == member.origin.node;
            if !expected && shared.state().links.contains_key(&peer.origin.node) {
                let (address, expected) = (member.address, member.name);
                tracing::warn!(%address, peer = peer.name, expected, "another node answers at this address");
                return;
            }
            run(shared, peer, reader, writer).await;
        }
        Err(error) => shared.refused.note(&error, member.address),
    }
}

/// Runs a link until it ends.
async fn run(
    shared: Arc<Shared>,
    peer: link::Peer,
    reader: Reader<OwnedReadHalf>,
    writer: Writer<OwnedWriteHalf>,
) {
    let origin = peer.origin;
    let name = if Name::is_valid(&peer.name) { peer.name } else { origin.node.to_string() };
    if origin.node == shared.config.origin.node {
        shared.refused.count(ITSELF);
        tracing::error!(peer = name, "a link is refused: another node runs with this node's id");
        return;
    }
    let (end, ended) = oneshot::channel::<()>();
    let wake = Arc::new(Notify::new());
    let number = {
        let mut state = shared.state();
        if state.links.get(&origin.node).is_some_and(|link| link.origin.incarnation > origin.incarnation) {
            tracing::info!(peer = name, "a link of a former life of the peer is not taken");
            return;
        }
        let is_new = !state.links.contains_key(&origin.node);
        if shared.ending.load(Ordering::SeqCst) {
            return;
        }
        if is_new && state.links.len() >= MAX_LINKS {
            let before = shared.refused.count(CROWDED);
            if before.is_multiple_of(100) {
                tracing::warn!(peer = name, before, "a link is refused: this node has as many as it may");
            }
            return;
        }
        state.links_ever += 1;
        let (number, since) = (state.links_ever, Instant::now());
        state.machine.linked(origin, peer.version, shared.now());
        let link = Link { number, origin, since, wake: wake.clone(), _end: end };
        state.links.insert(origin.node, link);
        number
    };
    tracing::info!(peer = name, node = %origin.node, incarnation = origin.incarnation, version = peer.version, "linked");
    let this = Running {
        shared: &shared,
        origin,
        number,
        clocks_differ: AtomicBool::new(false),
        keep: Mutex::new(None),
        keep_came: Notify::new(),
    };
    let why = tokio::select! {
        why = this.read(reader) => why,
        why = this.write(writer, &wake) => why,
        why = this.keep() => why,
        _ = ended => Ended::Replaced,
    };
    let mut state = shared.state();
    let left = state.machine.has_left(origin);
    if state.is_current(origin, number) {
        state.links.remove(&origin.node);
        state.machine.unlinked(origin);
        state.answer_waiting(&*shared.hears);
    }
    drop(state);
    match why {
        Ended::Broken(_) if left => tracing::info!(peer = name, "the peer has left"),
        Ended::Replaced => tracing::debug!(peer = name, "a newer link has taken the place of this one"),
        Ended::Broken(why) => tracing::warn!(peer = name, %why, "the link is down"),
        Ended::Wrong(why) => {
            shared.refused.malformed();
            tracing::error!(peer = name, why, "the link is cut");
        }
    }
}

/// A link, as its tasks see it.
struct Running<'a> {
    shared: &'a Shared,
    origin: Origin,
    number: u64,
    clocks_differ: AtomicBool,
    /// What of its log the peer asks this node to write to its disk.
    keep: Mutex<Option<(u64, u64)>>,
    keep_came: Notify,
}

/// Why a link ended.
enum Ended {
    Replaced,
    Broken(Broken),
    Wrong(String),
}

impl From<Broken> for Ended {
    fn from(why: Broken) -> Self {
        Self::Broken(why)
    }
}

impl Running<'_> {
    async fn read(&self, mut reader: Reader<OwnedReadHalf>) -> Ended {
        loop {
            let frame = match timeout(SILENCE, reader.read()).await {
                Ok(Ok(frame)) => frame,
                Ok(Err(why)) => return why.into(),
                Err(_) => return Broken::Slow.into(),
            };
            let message = match Message::decode(frame) {
                Ok(Some(message)) => message,
                Ok(None) => continue,
                Err(why) => return Ended::Wrong(why.to_string()),
            };
            let message = self.apply(message);
            if let Message::Keep { first, last } = message {
                self.is_asked_to_keep(first, last);
                continue;
            }
            let acknowledges = matches!(message, Message::Ack(_) | Message::Kept { .. });
            let mut state = self.shared.state();
            if !state.is_current(self.origin, self.number) {
                return Ended::Replaced;
            }
            if let Err(why) = state.machine.receive(self.origin, message, self.shared.now()) {
                return Ended::Wrong(why.to_string());
            }
            if acknowledges {
                state.answer_waiting(&*self.shared.hears);
            }
            if state.machine.is_sparse() {
                // It may be passed on.
                state.wake_all();
            } else if let Some(link) = state.links.get(&self.origin.node) {
                link.wake.notify_one();
            }
        }
    }

    fn is_asked_to_keep(&self, first: u64, last: u64) {
        if first > 0 && first <= last {
            let mut keep = self.keep.lock().unwrap_or_else(PoisonError::into_inner);
            *keep = Some(keep.map_or((first, last), |due| (due.0.min(first), due.1.max(last))));
            self.keep_came.notify_one();
        }
    }

    /// Writes to the disk what the peer asks for, one range after the other, and tells it.
    async fn keep(&self) -> Ended {
        loop {
            self.keep_came.notified().await;
            let range = self.keep.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some((first, last)) = range else { continue };
            if !self.keep_range(first, last).await {
                continue;
            }
            let mut state = self.shared.state();
            if !state.is_current(self.origin, self.number) {
                return Ended::Replaced;
            }
            state.machine.kept_for(self.origin, first, last);
            if let Some(link) = state.links.get(&self.origin.node) {
                link.wake.notify_one();
            }
        }
    }

    /// Says whether all of these entries of the peer's log are on the disk.
    async fn keep_range(&self, first: u64, last: u64) -> bool {
        let mut next = first;
        while next <= last {
            let held = self.shared.state().machine.entries(self.origin, next, KEEP_BATCH);
            // What is not held cannot be written.
            let Some((_, facts)) = held.filter(|(begin, _)| *begin == next) else { return false };
            let entries = (next..=last).zip(facts);
            let entries = entries.map(|(seq, fact)| Entry { origin: self.origin, seq, fact });
            let entries: Vec<_> = entries.collect();
            let reached = entries.last().map_or(last, |entry| entry.seq);
            if !self.shared.hears.keep(entries).await {
                return false;
            }
            next = reached + 1;
        }
        true
    }

    /// What was taken away refuses here when this returns.
    fn apply(&self, mut message: Message) -> Message {
        let longest: Timestamp = self.shared.clocks.now().plus(LONGEST);
        match &mut message {
            Message::Facts { facts, .. } => {
                for fact in facts {
                    fact.until = fact.until.min(longest);
                    self.shared.hears.hear(fact);
                }
            }
            Message::Heads(heads) => {
                for head in heads {
                    head.until = head.until.min(longest);
                    head.forgotten.until = head.forgotten.until.min(longest);
                }
            }
            Message::Clock { at } => self.compare_clocks(*at),
            Message::Pulled { forgotten, .. } => forgotten.until = forgotten.until.min(longest),
            _ => {}
        }
        message
    }

    /// Says so once a link when the clocks differ by more than they may.
    fn compare_clocks(&self, at: Timestamp) {
        let now = self.shared.clocks.now();
        let apart = at.since(now).max(now.since(at));
        if apart > CLOCK_SKEW && !self.clocks_differ.swap(true, Ordering::Relaxed) {
            tracing::error!(node = %self.origin.node, ?apart, "the clocks differ: tokens made here may not be taken there");
        }
    }

    async fn write(&self, mut writer: Writer<OwnedWriteHalf>, wake: &Notify) -> Ended {
        let mut frame = Vec::with_capacity(link::MAX_FRAME);
        loop {
            let mut said = false;
            loop {
                let next = {
                    let mut state = self.shared.state();
                    if !state.is_current(self.origin, self.number) {
                        return Ended::Replaced;
                    }
                    state.machine.poll(self.origin, self.shared.now())
                };
                let Some(message) = next else { break };
                frame.clear();
                message.encode(&mut frame);
                if let Err(why) = writer.write(&frame).await {
                    return why.into();
                }
                said = true;
            }
            if said {
                // What came meanwhile is said in the next round.
                if let Err(why) = writer.flush().await {
                    return why.into();
                }
            } else {
                let _ = timeout(LOOK, wake.notified()).await;
            }
        }
    }
}

/// Lets the machine forget.
async fn upkeep(shared: Arc<Shared>) {
    let mut rounds = interval(Duration::from_secs(1));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let now = shared.now();
        shared.state().machine.upkeep(now);
    }
}

/// Places in [`RefusedLinks::REASONS`].
const ITSELF: usize = 4;
const MALFORMED: usize = 5;
const CROWDED: usize = 7;

impl RefusedLinks {
    const REASONS: [&'static str; 8] = [
        "other_cluster",
        "other_secret",
        "other_version",
        "not_palisade",
        "itself",
        "malformed",
        "slow",
        "crowded",
    ];

    fn count(&self, reason: usize) -> u64 {
        self.counts[reason].fetch_add(1, Ordering::Relaxed)
    }

    /// Named in the log: always the first of its kind, then every hundredth.
    fn note(&self, error: &Refused, address: SocketAddr) {
        let reason = match error {
            Refused::OtherCluster => 0,
            Refused::OtherSecret => 1,
            Refused::OtherVersion { .. } => 2,
            Refused::NotPalisade => 3,
            Refused::Itself => ITSELF,
            Refused::Malformed(_) => MALFORMED,
            Refused::Slow => 6,
            Refused::Io(_) | Refused::Closed => {
                tracing::debug!(%address, %error, "no link");
                return;
            }
        };
        let before = self.count(reason);
        if before.is_multiple_of(100) {
            tracing::warn!(%address, %error, before, "a link is refused");
        }
    }

    fn crowded(&self, address: SocketAddr) {
        let before = self.count(CROWDED);
        if before.is_multiple_of(100) {
            tracing::warn!(%address, before, "a connection that had not proved itself made room for others");
        }
    }

    fn malformed(&self) {
        self.count(MALFORMED);
    }

    fn read(&self) -> Vec<(&'static str, u64)> {
        Self::REASONS.into_iter().zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed))).collect()
    }
}
