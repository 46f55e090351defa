//! Nodes, their links, their clocks and their store, all in virtual time.
//!
//! Each node has the machine that is shipped, real denials, and a runner that does what the real one does:
//! what a frame holds is applied before the machine is given it, own facts are applied and in the journal
//! before they are published, and a link is polled whenever it can write.
//!
//! What is promised is checked all the time ([`World::broken`]), what is promised at last by [`World::settle`].

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use cluster::protocol::{Machine, Message, Now, Tuning, log::MAX_BLOCK_BYTES, machine::MemberState};
use schema::{
    Clocks, Denials, Fact, FactKind, NodeId, SessionId, Subject, Timestamp, TokenId, UserId,
    horizon::{Saved, Trust, manual::ManualClocks},
    id::KeyId,
    ledger::Origin,
    time::CLOCK_SKEW,
    token::AccessClaims,
};

use super::random::Random;

/// Microseconds since the beginning of the world.
pub type Micros = u64;

pub const MS: Micros = 1_000;
pub const SECOND: Micros = 1_000 * MS;

/// Between two looks of a runner at all of its links.
const TICK: Micros = 100 * MS;
/// A link on which nothing comes for so long is given up.
const SILENCE: Micros = 3 * SECOND;
/// What a lost packet costs.
const RETRANSMISSION: Micros = 200 * MS;
/// How much may be on its way on one link.
const FLIGHT: usize = 256 * 1024;
/// Gossip says that a node is dead when it heard nothing of it for so long.
const DETECTION: Micros = 3 * SECOND;
/// When the world begins, by a right clock.
const BEGIN: u64 = 2_000_000_000_000;
/// What boot time was then, in milliseconds.
const BOOTED: u64 = 1_000_000;
/// How many of its last publications a node's visibility is checked of.
const RECENT: usize = 8;

/// How a world is made.
#[derive(Debug, Clone)]
pub struct Settings {
    pub seed: u64,
    pub nodes: usize,
    /// Links that each node dials; `None` when everybody is linked with everybody.
    pub fanout: Option<usize>,
    pub tuning: Tuning,
    /// One way, at least.
    pub latency: Micros,
    /// Mean of what comes on top.
    pub jitter: Micros,
    /// Lost packets in a million: each delays all that follow on its link.
    pub loss: u64,
    /// Messages in a million that a link drops, repeats or lets overtake others, which no stream does.
    pub chaos: u64,
    /// How much a link carries.
    pub bytes_per_ms: u64,
    /// By how much each node's clock is wrong, in milliseconds.
    pub offsets: Vec<i64>,
    /// How fast wall clocks go, so that facts end within a short run.
    pub wall_rate: u64,
    pub has_store: bool,
    /// A set of numbers instead of denials, and no checks while it runs: for a thousand nodes.
    pub is_cheap: bool,
}

/// What is done to a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A node takes this many things away, which matter for so long (milliseconds of its wall clock).
    Publish { node: usize, count: usize, lasts: u64 },
    /// `kill -9`.
    Crash { node: usize },
    /// With its journal, as a new incarnation.
    Restart { node: usize },
    /// SIGSTOP.
    Pause { node: usize },
    /// SIGCONT.
    Continue { node: usize },
    /// Nothing gets from one to the other.
    Cut { from: usize, to: usize },
    /// It does again.
    Mend { from: usize, to: usize },
    /// Nothing gets to or from a node.
    Isolate { node: usize },
    /// The first so many nodes are on their own, and so are the others.
    Split { first: usize },
    /// All cuts are mended.
    Heal,
    /// One connection is reset.
    Reset { a: usize, b: usize },
    /// The store stops or starts answering.
    Store { up: bool },
    /// One node cannot reach the store, or can again.
    StoreOf { node: usize, up: bool },
    /// A node says that it ends, and does.
    Leave { node: usize },
    /// The first fact of the next message of facts is changed on its way.
    Corrupt { from: usize, to: usize },
    /// A node's wall clock jumps by so many milliseconds.
    Jump { node: usize, by: i64 },
}

struct Node {
    origin: Origin,
    up: bool,
    paused: bool,
    left: bool,
    /// Rises with each crash and start: what was meant for a former life is nothing for this one.
    life: u32,
    boot: Micros,
    offset: i64,
    /// What its wall clock has shown at most, as it is on its disk.
    furthest: Timestamp,
    /// Its clocks, as they are set for each look at them, and what is on its disk of them.
    manual: Arc<ManualClocks>,
    clocks: Arc<Clocks>,
    saved: Option<Saved>,
    machine: Machine,
    denials: Denials,
    /// By the number of the fact in the world.
    applied: Vec<u64>,
    /// All that it ever took away.
    journal: BTreeMap<Origin, Vec<Fact>>,
    links: Vec<(usize, usize)>,
    reaches_store: bool,
    /// Up to where each log was read there.
    read: BTreeMap<Origin, u64>,
    corrupts: bool,
    /// Up to where each log was found applied.
    cursors: BTreeMap<Origin, usize>,
    /// Its last publications, and how many had them.
    recent: VecDeque<(u64, u64, u32)>,
    heard: Vec<Heard>,
    ticks: u64,
    traffic: Traffic,
}

/// What gossip told of another node.
#[derive(Clone, Copy, Default)]
struct Heard {
    at: Option<Micros>,
    incarnation: u64,
    left: bool,
    /// The incarnation that the machine knows, from anywhere, and whether it left as far as that knows.
    known: u64,
    gone: bool,
}

impl Heard {
    /// As the machine does it.
    fn is_known(&mut self, incarnation: u64, left: bool) {
        if incarnation > self.known {
            (self.known, self.gone) = (incarnation, false);
        }
        self.gone |= left && incarnation == self.known;
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    pub messages: u64,
    pub bytes: u64,
    pub facts: u64,
    pub pulls: u64,
    pub heads: u64,
    pub pings: u64,
    pub digests: u64,
}

struct Link {
    ends: [usize; 2],
    /// Counts connections.
    epoch: u32,
    connected: bool,
    sides: [Side; 2],
    attempts: u32,
}

struct Side {
    /// The machine thinks that it is linked, by the connection of this number, with this peer.
    linked: Option<(u32, Origin)>,
    writing: bool,
    /// The writer waits until something arrives.
    waiting: bool,
    /// On its way to this side.
    flight: VecDeque<(Micros, usize, Message)>,
    bytes: usize,
    delivering: bool,
    arrival: Micros,
    heard_at: Micros,
    corrupt: bool,
}

impl Side {
    const fn new() -> Self {
        Self {
            linked: None,
            writing: false,
            waiting: false,
            flight: VecDeque::new(),
            bytes: 0,
            delivering: false,
            arrival: 0,
            heard_at: 0,
            corrupt: false,
        }
    }

    fn clear(&mut self) {
        self.flight.clear();
        self.bytes = 0;
        self.arrival = 0;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Tick {
        node: usize,
        life: u32,
    },
    Dial {
        link: usize,
        life: u32,
    },
    Up {
        link: usize,
        epoch: u32,
        side: usize,
    },
    Down {
        link: usize,
        epoch: u32,
        side: usize,
    },
    /// The first of what is on its way to this side arrives.
    Deliver {
        link: usize,
        epoch: u32,
        side: usize,
    },
    Writable {
        link: usize,
        epoch: u32,
        side: usize,
    },
    End {
        node: usize,
        life: u32,
    },
}

struct Published {
    fact: Fact,
    at: Micros,
    /// When it has ended by a right clock, even if its node's clock was wrong.
    over: Timestamp,
}

#[derive(Default)]
struct Store {
    up: bool,
    /// Each with the time by the database's clock, which is right, when it goes.
    rows: BTreeMap<Origin, BTreeMap<u64, (Fact, Timestamp)>>,
    heads: BTreeMap<Origin, u64>,
}

pub struct World {
    settings: Settings,
    random: Random,
    now: Micros,
    count: u64,
    events: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    nodes: Vec<Node>,
    links: Vec<Link>,
    cut: Vec<bool>,
    store: Store,
    published: BTreeMap<Origin, Vec<Published>>,
    /// Of each fact: when it was taken away, how many nodes have it, when the last of them got it.
    spread: Vec<(Micros, usize, Micros)>,
    broken: Option<String>,
    is_chaotic: bool,
    pub says: bool,
}

fn node_id(node: usize) -> NodeId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&(node as u64 + 1).to_be_bytes());
    NodeId::from_bytes(id)
}

fn node_of(origin: Origin) -> usize {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&origin.node.as_bytes()[8..]);
    usize::try_from(u64::from_be_bytes(bytes)).unwrap_or(0) - 1
}

/// The id of this number. It is never nil: peers refuse an id that is given to nobody.
fn id(n: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[15] = 1;
    id[..8].copy_from_slice(&n.to_be_bytes());
    id
}

/// The fact of this number.
fn kind(n: u64, cheap: bool) -> FactKind {
    match if cheap { 0 } else { n % 6 } {
        1 => FactKind::SessionRevoked {
            user: UserId::from_bytes([7; 16]),
            session: SessionId::from_bytes(id(n)),
        },
        2 => FactKind::UserVersion { user: UserId::from_bytes(id(n % 3)), at_least: n + 1 },
        3 => FactKind::KeyRetired { key: KeyId::from_bytes(id(n)) },
        4 => FactKind::PermissionsChanged { subject: Subject::User(UserId::from_bytes(id(n))) },
        _ => FactKind::TokenRevoked { token: TokenId::from_bytes(id(n)) },
    }
}

fn number(kind: &FactKind) -> Option<u64> {
    let bytes = match kind {
        FactKind::SessionRevoked { session, .. } => session.as_bytes(),
        FactKind::TokenRevoked { token } => token.as_bytes(),
        FactKind::UserVersion { at_least, .. } => return Some(at_least - 1),
        FactKind::KeyRetired { key } => key.as_bytes(),
        FactKind::PermissionsChanged { subject: Subject::User(user) } => user.as_bytes(),
        FactKind::PermissionsChanged { .. } => return None,
    };
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    Some(u64::from_be_bytes(number)).filter(|number| *number < u64::MAX / 2)
}

fn place(number: u64) -> (usize, u64) {
    (usize::try_from(number / 64).unwrap_or(0), 1 << (number % 64))
}

impl Node {
    const fn runs(&self) -> bool {
        self.up && !self.paused
    }

    /// Gives whether it is new here.
    fn apply(&mut self, fact: &Fact, cheap: bool) -> Option<u64> {
        if !cheap {
            self.denials.apply(fact);
        }
        let number = number(&fact.kind)?;
        let (word, bit) = place(number);
        if self.applied.len() <= word {
            self.applied.resize(word + 1, 0);
        }
        let is_new = self.applied[word] & bit == 0;
        self.applied[word] |= bit;
        is_new.then_some(number)
    }

    /// Whether it refuses what the fact took away.
    fn holds(&self, fact: &Fact) -> bool {
        let mut claims = AccessClaims {
            user: UserId::from_bytes([1; 16]),
            session: SessionId::from_bytes([1; 16]),
            token: TokenId::from_bytes([1; 16]),
            key: KeyId::from_bytes([1; 16]),
            version: 0,
            issued_at: 0,
            expires_at: u64::MAX,
            is_access: true,
        };
        match fact.kind {
            FactKind::SessionRevoked { session, .. } => claims.session = session,
            FactKind::TokenRevoked { token } => claims.token = token,
            FactKind::UserVersion { user, at_least } => {
                (claims.user, claims.version) = (user, at_least - 1);
            }
            FactKind::KeyRetired { key } => claims.key = key,
            FactKind::PermissionsChanged { .. } => {
                let Some((word, bit)) = number(&fact.kind).map(place) else { return true };
                return self.applied.get(word).is_some_and(|applied| applied & bit != 0);
            }
        }
        self.denials.refuses(&claims)
    }
}

impl World {
    pub fn new(settings: Settings) -> Self {
        let mut random = Random::new(settings.seed);
        let manual: Vec<_> = (0..settings.nodes).map(|_| ManualClocks::at(Timestamp::EPOCH)).collect();
        let (n, is_chaotic) = (settings.nodes, settings.chaos > 0);
        let node = |at: usize| Node {
            origin: Origin { node: node_id(at), incarnation: 0 },
            up: false,
            paused: false,
            left: false,
            life: 0,
            boot: 0,
            offset: settings.offsets.get(at).copied().unwrap_or(0),
            furthest: Timestamp::EPOCH,
            clocks: clocks(&manual[at], None),
            manual: manual[at].clone(),
            saved: None,
            machine: Machine::new(Origin { node: node_id(at), incarnation: 0 }, settings.tuning),
            denials: Denials::default(),
            applied: Vec::new(),
            journal: BTreeMap::new(),
            links: Vec::new(),
            reaches_store: true,
            read: BTreeMap::new(),
            corrupts: false,
            cursors: BTreeMap::new(),
            recent: VecDeque::new(),
            heard: vec![Heard { at: Some(0), incarnation: 1, ..Heard::default() }; n],
            ticks: 0,
            traffic: Traffic::default(),
        };
        let mut nodes: Vec<_> = (0..n).map(node).collect();
        let mut links = Vec::new();
        let mut pairs = std::collections::BTreeSet::new();
        for a in 0..n {
            match settings.fanout {
                None => pairs.extend((a + 1..n).map(|b| (a, b))),
                Some(fanout) => {
                    // A ring, so that nobody is alone, and chords.
                    pairs.insert((a.min((a + 1) % n), a.max((a + 1) % n)));
                    for _ in 1..fanout / 2 {
                        let b = random.index(n);
                        if a != b {
                            pairs.insert((a.min(b), a.max(b)));
                        }
                    }
                }
            }
        }
        for (a, b) in pairs {
            nodes[a].links.push((links.len(), 0));
            nodes[b].links.push((links.len(), 1));
            let sides = [Side::new(), Side::new()];
            links.push(Link { ends: [a, b], epoch: 0, connected: false, sides, attempts: 0 });
        }
        let cut = if settings.is_cheap { Vec::new() } else { vec![false; n * n] };
        let store = Store { up: settings.has_store, ..Store::default() };
        let mut world = Self {
            settings,
            random,
            now: SECOND,
            count: 0,
            events: BinaryHeap::new(),
            nodes,
            links,
            cut,
            store,
            published: BTreeMap::new(),
            spread: Vec::new(),
            broken: None,
            is_chaotic,
            says: false,
        };
        (0..n).for_each(|node| world.start(node));
        world
    }

    pub const fn now(&self) -> Micros {
        self.now
    }

    pub const fn links(&self) -> usize {
        self.links.len()
    }

    /// The first promise that was broken.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Of each fact that all have: how long it took.
    pub fn spread(&self) -> Vec<Micros> {
        let all = self.settings.nodes;
        self.spread.iter().filter(|(_, have, _)| *have >= all).map(|(at, _, last)| last - at).collect()
    }

    pub fn traffic(&self) -> Vec<Traffic> {
        self.nodes.iter().map(|node| node.traffic).collect()
    }

    pub fn is_linked_up(&self) -> bool {
        self.links.iter().all(|link| link.sides.iter().all(|side| side.linked.is_some()))
    }

    /// How many of the first things that one node took away another one refuses.
    pub fn has_from(&self, at: usize, of: usize) -> usize {
        let facts = self.published.get(&self.nodes[of].origin);
        facts.map_or(0, |facts| facts.iter().take_while(|published| self.has(at, published)).count())
    }

    /// Entries held, of all logs: the most that one node has.
    pub fn most_kept(&self) -> usize {
        self.nodes.iter().map(|node| node.machine.kept()).max().unwrap_or(0)
    }

    fn at(&mut self, at: Micros, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at, self.count, event)));
    }

    fn breaks(&mut self, what: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(format!("at {} ms: {}", self.now / MS, what()));
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.says {
            #[allow(clippy::print_stdout, reason = "asked for")]
            {
                println!("{:>9} us  {}", self.now, what());
            }
        }
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.get(from * self.settings.nodes + to).is_some_and(|cut| *cut)
    }

    fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        if from != to {
            self.cut[from * self.settings.nodes + to] = cut;
        }
    }

    fn right(&self) -> Timestamp {
        Timestamp::from_millis(BEGIN + self.now / MS * self.settings.wall_rate)
    }

    fn wall(&self, node: usize) -> Timestamp {
        Timestamp::from_millis(self.right().as_millis().saturating_add_signed(self.nodes[node].offset))
    }

    fn clock(&self, node: usize) -> Now {
        let monotonic = Duration::from_micros(self.now - self.nodes[node].boot);
        self.set_clocks(node);
        Now { monotonic, wall: self.wall(node), horizon: self.nodes[node].clocks.horizon() }
    }

    fn set_clocks(&self, node: usize) {
        let boot = Duration::from_millis(BOOTED + self.now / MS * self.settings.wall_rate);
        self.nodes[node].manual.set(self.wall(node), boot);
    }

    // Steps.

    pub fn step(&mut self, step: Step) {
        self.say(|| format!("{step:?}"));
        let n = self.settings.nodes;
        match step {
            Step::Publish { node, count, lasts } => self.publish(node, count, lasts),
            Step::Crash { node } => self.crash(node),
            Step::Restart { node } => {
                if !self.nodes[node].up {
                    self.start(node);
                }
            }
            Step::Pause { node } => self.nodes[node].paused = self.nodes[node].up,
            Step::Continue { node } => {
                if std::mem::take(&mut self.nodes[node].paused) {
                    let life = self.nodes[node].life;
                    self.at(self.now, Event::Tick { node, life });
                }
            }
            Step::Cut { from, to } => self.set_cut(from, to, true),
            Step::Mend { from, to } => self.set_cut(from, to, false),
            Step::Isolate { node } => {
                for other in 0..n {
                    self.set_cut(node, other, true);
                    self.set_cut(other, node, true);
                }
            }
            Step::Split { first } => {
                for (a, b) in (0..first).flat_map(|a| (first..n).map(move |b| (a, b))) {
                    self.set_cut(a, b, true);
                    self.set_cut(b, a, true);
                }
            }
            Step::Heal => self.cut.fill(false),
            Step::Reset { a, b } => {
                let link = self.links.iter().position(|link| link.ends == [a.min(b), a.max(b)]);
                if let Some(link) = link {
                    self.disconnect(link);
                    self.side_down(link, 0);
                    self.side_down(link, 1);
                }
            }
            Step::Store { up } => self.store.up = up && self.settings.has_store,
            Step::StoreOf { node, up } => self.nodes[node].reaches_store = up,
            Step::Leave { node } => {
                if self.nodes[node].runs() && !self.nodes[node].left {
                    self.nodes[node].machine.leave();
                    self.nodes[node].left = true;
                    let life = self.nodes[node].life;
                    self.pump(node);
                    self.at(self.now + 500 * MS, Event::End { node, life });
                }
            }
            Step::Corrupt { from, to } => {
                let link = self.links.iter().position(|link| link.ends == [from.min(to), from.max(to)]);
                if let Some(link) = link {
                    self.links[link].sides[usize::from(to > from)].corrupt = true;
                }
                self.nodes[to].corrupts = true;
            }
            Step::Jump { node, by } => {
                self.nodes[node].furthest = self.nodes[node].furthest.max(self.wall(node));
                self.nodes[node].offset += by;
                // What had ended by its clock may not have by now: it is to refuse that still.
                self.nodes[node].cursors.clear();
                self.clock(node);
            }
        }
    }

    fn publish(&mut self, at: usize, count: usize, lasts: u64) {
        let (now, cheap) = (self.now, self.settings.is_cheap);
        // As long as a token may last that its clock has issued.
        let furthest = self.wall(at).max(self.nodes[at].furthest);
        let until = furthest.plus(Duration::from_millis(lasts));
        let over = self.right().plus(Duration::from_millis(lasts) + CLOCK_SKEW);
        let node = &mut self.nodes[at];
        if !node.runs() || node.left || count == 0 {
            return;
        }
        let begin = self.spread.len() as u64;
        let facts: Vec<_> =
            (begin..begin + count as u64).map(|n| Fact { kind: kind(n, cheap), until }).collect();
        self.spread.extend(facts.iter().map(|_| (now, 1, now)));
        // Refused here, in the journal, then on its way: as the runner does.
        facts.iter().for_each(|fact| _ = node.apply(fact, cheap));
        let first = node.machine.head() + 1;
        node.journal.entry(node.origin).or_default().extend(&facts);
        node.machine.publish(first, &facts);
        node.recent.push_back((first, first + count as u64 - 1, 0));
        if node.recent.len() > RECENT {
            node.recent.pop_front();
        }
        if !cheap {
            let log = self.published.entry(node.origin).or_default();
            log.extend(facts.iter().map(|fact| Published { fact: *fact, at: now, over }));
        }
        self.pump(at);
    }

    fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !node.up {
            return;
        }
        node.up = false;
        node.paused = false;
        node.life += 1;
        node.denials = Denials::new(node.clocks.high_water().clone());
        node.applied.clear();
        node.cursors.clear();
        node.recent.clear();
        node.read.clear();
        for (link, side) in node.links.clone() {
            self.disconnect(link);
            self.links[link].sides[side].linked = None;
        }
    }

    fn start(&mut self, at: usize) {
        let (now, cheap) = (self.now, self.settings.is_cheap);
        self.set_clocks(at);
        let node = &mut self.nodes[at];
        node.clocks = clocks(&node.manual, node.saved.clone());
        node.denials = Denials::new(node.clocks.high_water().clone());
        node.up = true;
        node.left = false;
        node.life += 1;
        node.boot = now;
        node.ticks = 0;
        node.origin.incarnation += 1;
        node.machine = Machine::new(node.origin, self.settings.tuning);
        node.heard.iter_mut().for_each(|heard| (heard.known, heard.gone) = (0, false));
        for (origin, facts) in node.journal.clone() {
            facts.iter().for_each(|fact| _ = node.apply(fact, cheap));
            node.machine.learn(origin, 1, &facts);
        }
        let life = node.life;
        self.gossip(at);
        self.read_store(at);
        let first = now + self.random.below(TICK);
        self.at(first, Event::Tick { node: at, life });
        for (link, side) in self.nodes[at].links.clone() {
            if side == 0 {
                let when = now + self.random.below(20 * MS);
                self.at(when, Event::Dial { link, life });
            }
        }
    }

    // Time.

    /// Goes on until then, or until a promise is broken.
    pub fn run_until(&mut self, until: Micros) {
        while self.broken.is_none()
            && let Some(Reverse((at, _, event))) = self.events.peek().copied()
            && at <= until
        {
            self.events.pop();
            self.now = self.now.max(at);
            self.handle(event);
        }
        self.now = self.now.max(until);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick { node, life } => self.tick(node, life),
            Event::Dial { link, life } => self.dial(link, life),
            Event::Up { link, epoch, side } => self.side_up(link, epoch, side),
            Event::Down { link, epoch, side } => {
                let at = self.links[link].ends[side];
                if self.nodes[at].paused {
                    return self.at(self.now + 50 * MS, event);
                }
                if self.links[link].sides[side].linked.is_some_and(|(linked, _)| linked == epoch) {
                    self.side_down(link, side);
                }
            }
            Event::Deliver { link, epoch, side } => self.deliver(link, epoch, side),
            Event::Writable { link, epoch, side } => {
                if self.links[link].epoch == epoch {
                    self.links[link].sides[side].writing = false;
                    self.write(link, side);
                }
            }
            Event::End { node, life } => {
                if self.nodes[node].life == life {
                    self.crash(node);
                }
            }
        }
    }

    fn tick(&mut self, at: usize, life: u32) {
        let node = &self.nodes[at];
        if node.life != life || !node.runs() {
            return;
        }
        self.at(self.now + TICK, Event::Tick { node: at, life });
        for (link, side) in self.nodes[at].links.clone() {
            let here = &self.links[link].sides[side];
            if here.linked.is_some() && self.now > here.heard_at + SILENCE {
                self.say(|| format!("{at} gives up {link}"));
                self.disconnect(link);
                self.side_down(link, side);
            }
        }
        self.nodes[at].ticks += 1;
        if self.nodes[at].ticks.is_multiple_of(10) {
            let now = self.clock(at);
            let node = &mut self.nodes[at];
            node.machine.upkeep(now);
            if !self.settings.is_cheap {
                node.clocks.observe();
                node.clocks.set_peers_behind(node.machine.clock_behind());
                node.denials.forget(node.clocks.horizon(), CLOCK_SKEW);
                // The floor is on the disk before rows are swept.
                node.saved = Some(node.clocks.save(Timestamp::EPOCH));
                self.gossip(at);
                self.write_store(at);
                self.read_store(at);
                self.check_memory(at);
            }
        }
        self.check(at);
        self.pump(at);
    }

    fn check_memory(&mut self, at: usize) {
        let machine = &self.nodes[at].machine;
        let (kept, bytes, logs) = (machine.kept(), machine.bytes(), machine.logs());
        let counted: usize = logs.iter().map(|log| log.kept).sum();
        let Tuning { max_bytes, max_logs, .. } = self.settings.tuning;
        // What grows at the end of its own log is not dropped.
        let (most, count) = (max_bytes + max_bytes / 8 + MAX_BLOCK_BYTES, logs.len());
        if counted != kept {
            self.breaks(|| format!("{at} counts {kept} entries and has {counted}"));
        }
        if bytes > most || count > max_logs {
            self.breaks(|| format!("{at} holds {bytes} bytes of {count} logs"));
        }
    }

    // Links.

    fn dial(&mut self, link: usize, life: u32) {
        let Link { ends: [a, b], ref sides, .. } = self.links[link];
        if self.nodes[a].life != life || sides[0].linked.is_some() {
            return;
        }
        let is_open = !self.is_cut(a, b) && !self.is_cut(b, a);
        if !is_open || !self.nodes[a].runs() || !self.nodes[b].runs() {
            let attempts = self.links[link].attempts.min(4);
            self.links[link].attempts = attempts + 1;
            let wait = ((50 * MS) << attempts) + self.random.below(50 * MS);
            return self.at(self.now + wait, Event::Dial { link, life });
        }
        let latency = self.settings.latency;
        let here = &mut self.links[link];
        here.attempts = 0;
        here.epoch += 1;
        here.connected = true;
        here.sides.iter_mut().for_each(Side::clear);
        let epoch = here.epoch;
        for side in [0, 1] {
            let when = self.now + 2 * latency + self.random.below(latency + MS);
            self.at(when, Event::Up { link, epoch, side });
        }
    }

    fn side_up(&mut self, link: usize, epoch: u32, side: usize) {
        let here = &self.links[link];
        let (at, peer) = (here.ends[side], here.ends[1 - side]);
        if here.epoch != epoch || !here.connected || !self.nodes[at].up {
            // It broke before it was up.
            if side == 0 && here.epoch == epoch && here.sides[0].linked.is_none() {
                let life = self.nodes[at].life;
                self.at(self.now + 50 * MS, Event::Dial { link, life });
            }
            return;
        }
        if self.nodes[at].paused {
            return self.at(self.now + 50 * MS, Event::Up { link, epoch, side });
        }
        let origin = self.nodes[peer].origin;
        let now = self.clock(at);
        let here = &mut self.links[link].sides[side];
        here.linked = Some((epoch, origin));
        here.heard_at = self.now;
        here.writing = false;
        here.waiting = false;
        self.nodes[at].machine.linked(origin, 1, now);
        self.nodes[at].heard[peer].is_known(origin.incarnation, false);
        self.say(|| format!("{at} is linked with {peer}"));
        self.pump(at);
    }

    /// The connection is no more; who is at its ends hears of it when it can.
    fn disconnect(&mut self, link: usize) {
        let here = &mut self.links[link];
        if !std::mem::take(&mut here.connected) {
            return;
        }
        here.sides.iter_mut().for_each(Side::clear);
        let (epoch, [a, b]) = (here.epoch, here.ends);
        let when = self.now + self.settings.latency + self.random.exponential(self.settings.jitter);
        for (side, from, to) in [(0, b, a), (1, a, b)] {
            if !self.is_cut(from, to) {
                self.at(when, Event::Down { link, epoch, side });
            }
        }
    }

    fn side_down(&mut self, link: usize, side: usize) {
        let at = self.links[link].ends[side];
        if let Some((_, origin)) = self.links[link].sides[side].linked.take() {
            self.nodes[at].machine.unlinked(origin);
            self.say(|| format!("{at} is not linked with {}", node_of(origin)));
        }
        if side == 0 && self.nodes[at].up {
            let (life, when) = (self.nodes[at].life, self.now + self.random.below(50 * MS));
            self.at(when, Event::Dial { link, life });
        }
    }

    /// Every link that can write is polled.
    fn pump(&mut self, at: usize) {
        for place in 0..self.nodes[at].links.len() {
            let (link, side) = self.nodes[at].links[place];
            self.write(link, side);
        }
    }

    fn write(&mut self, link: usize, side: usize) {
        let here = &self.links[link];
        let (at, peer) = (here.ends[side], here.ends[1 - side]);
        let Some((epoch, origin)) = here.sides[side].linked else { return };
        if here.sides[side].writing || here.sides[side].waiting || !self.nodes[at].runs() {
            return;
        }
        // Nobody reads there, and this end does not know yet.
        let is_void = !here.connected || here.epoch != epoch;
        let now = self.clock(at);
        let Some(message) = self.nodes[at].machine.poll(origin, now) else { return };
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        // As a frame: length, tag and counter.
        let size = bytes.len() + 18;
        let message = match Message::decode(&bytes) {
            Ok(Some(decoded)) if decoded == message => decoded,
            other => return self.breaks(|| format!("{message:?} was read as {other:?}")),
        };
        let traffic = &mut self.nodes[at].traffic;
        traffic.messages += 1;
        traffic.bytes += size as u64;
        match &message {
            Message::Facts { facts, .. } => traffic.facts += facts.len() as u64,
            Message::Pull { .. } | Message::Pulled { .. } => traffic.pulls += 1,
            Message::Heads(_) => traffic.heads += 1,
            Message::Ping { .. } | Message::Pong { .. } => traffic.pings += 1,
            Message::Digests { .. } => traffic.digests += 1,
            Message::Ack(_)
            | Message::Clock { .. }
            | Message::Leaving { .. }
            | Message::Keep { .. }
            | Message::Kept { .. } => {}
        }
        self.say(|| format!("{at} -> {peer}: {message:?}"));
        let sent = self.now + (size as u64 * MS / self.settings.bytes_per_ms).max(1);
        self.links[link].sides[side].writing = true;
        let epoch = self.links[link].epoch;
        self.at(sent, Event::Writable { link, epoch, side });
        if is_void {
            return;
        }
        self.send(link, 1 - side, sent, size, message);
        if self.links[link].sides[1 - side].bytes > FLIGHT {
            self.links[link].sides[side].waiting = true;
        }
    }

    fn send(&mut self, link: usize, to: usize, sent: Micros, size: usize, message: Message) {
        let Settings { latency, jitter, loss, chaos, .. } = self.settings;
        let mut arrival = sent + latency + self.random.exponential(jitter);
        let mut wait = RETRANSMISSION;
        while wait <= 4 * RETRANSMISSION && self.random.chance(loss) {
            arrival += wait;
            wait *= 2;
        }
        let (drops, repeats, overtakes) =
            (self.random.chance(chaos), self.random.chance(chaos), self.random.chance(chaos));
        if drops {
            return;
        }
        let there = &mut self.links[link].sides[to];
        arrival = arrival.max(there.arrival);
        there.arrival = arrival;
        there.bytes += size;
        if repeats {
            there.bytes += size;
            there.flight.push_back((arrival, size, message.clone()));
        }
        there.flight.push_back((arrival, size, message));
        if overtakes && there.flight.len() > 1 {
            let (last, other) = (there.flight.len() - 1, self.random.index(there.flight.len() - 1));
            let there = &mut self.links[link].sides[to];
            let times = (there.flight[last].0, there.flight[other].0);
            there.flight.swap(last, other);
            (there.flight[last].0, there.flight[other].0) = times;
        }
        self.expect(link, to);
    }

    /// Makes sure that what is on its way arrives.
    fn expect(&mut self, link: usize, side: usize) {
        let (epoch, there) = (self.links[link].epoch, &mut self.links[link].sides[side]);
        if !there.delivering
            && let Some((arrival, ..)) = there.flight.front()
        {
            there.delivering = true;
            let at = (*arrival).max(self.now);
            self.at(at, Event::Deliver { link, epoch, side });
        }
    }

    fn deliver(&mut self, link: usize, epoch: u32, side: usize) {
        self.links[link].sides[side].delivering = false;
        let here = &self.links[link];
        if here.epoch != epoch || !here.connected {
            return self.expect(link, side);
        }
        let (at, from) = (here.ends[side], here.ends[1 - side]);
        let is_up = here.sides[side].linked.is_some_and(|(linked, _)| linked == epoch);
        let is_cut = self.is_cut(from, at);
        if is_cut || !is_up || self.nodes[at].paused {
            let wait = if is_cut { RETRANSMISSION } else { 5 * MS };
            self.links[link].sides[side].delivering = true;
            return self.at(self.now + wait, Event::Deliver { link, epoch, side });
        }
        let here = &mut self.links[link];
        let Some((_, size, message)) = here.sides[side].flight.pop_front() else { return };
        here.sides[side].bytes -= size;
        here.sides[side].heard_at = self.now;
        if here.sides[side].bytes <= FLIGHT && std::mem::take(&mut here.sides[1 - side].waiting) {
            self.at(self.now, Event::Writable { link, epoch, side: 1 - side });
        }
        self.expect(link, side);
        self.hear(link, side, at, message);
    }

    fn hear(&mut self, link: usize, side: usize, at: usize, mut message: Message) {
        let Some((_, from)) = self.links[link].sides[side].linked else { return };
        let (clock, now, cheap) = (self.clock(at), self.now, self.settings.is_cheap);
        let mut is_news = !cheap;
        if let Message::Facts { facts, .. } = &mut message {
            if std::mem::take(&mut self.links[link].sides[side].corrupt)
                && let Some(first) = facts.first_mut()
            {
                first.kind = FactKind::TokenRevoked { token: TokenId::from_bytes([0xfe; 16]) };
            }
            for fact in facts {
                if let Some(number) = self.nodes[at].apply(fact, cheap)
                    && let Some(spread) = self.spread.get_mut(usize::try_from(number).unwrap_or(0))
                {
                    is_news = true;
                    (spread.1, spread.2) = (spread.1 + 1, now);
                }
            }
        }
        let is_ack = matches!(message, Message::Ack(_));
        if let Message::Leaving { .. } = message {
            self.nodes[at].heard[node_of(from)].is_known(from.incarnation, true);
        }
        if let Err(impostor) = self.nodes[at].machine.receive(from, message, clock) {
            self.breaks(|| format!("{at} thinks: {impostor}"));
        }
        self.check_fresh(at);
        if is_ack {
            self.check_visible(at);
        }
        // With a thousand nodes, others are not asked in vain.
        if is_news { self.pump(at) } else { self.write(link, side) }
    }

    // Gossip and the store.

    fn gossip(&mut self, at: usize) {
        for other in 0..self.settings.nodes {
            let node = &self.nodes[other];
            let (origin, left) = (node.origin, node.left);
            if other == at || self.is_cut(other, at) || !(node.runs() || left) {
                continue;
            }
            let now = self.now;
            let heard = &mut self.nodes[at].heard[other];
            *heard = Heard { at: Some(now), incarnation: origin.incarnation, left, ..*heard };
        }
        for heard in &mut self.nodes[at].heard {
            heard.is_known(heard.incarnation, heard.left);
        }
        let members: Vec<_> = (0..self.settings.nodes)
            .filter(|other| *other != at)
            .map(|other| {
                let heard = self.nodes[at].heard[other];
                let is_alive = heard.at.is_some_and(|then| self.now < then + DETECTION);
                let state = match (heard.left, is_alive) {
                    (true, _) => MemberState::Left,
                    (_, true) => MemberState::Alive,
                    _ => MemberState::Dead,
                };
                (Origin { node: node_id(other), incarnation: heard.incarnation }, state)
            })
            .collect();
        self.nodes[at].machine.set_members(members);
    }

    fn write_store(&mut self, at: usize) {
        self.set_clocks(at);
        let right = self.right();
        let settled = self.nodes[at].clocks.settled();
        let Self { store, nodes, .. } = self;
        let node = &nodes[at];
        if !store.up || !node.reaches_store {
            return;
        }
        let Store { rows, heads, .. } = store;
        let mut put = |origin: Origin, first: u64, facts: &[Fact]| {
            let rows = rows.entry(origin).or_default();
            let head = heads.entry(origin).or_default();
            for (seq, fact) in (first..).zip(facts) {
                if *head + 1 == seq {
                    let life = fact.until.since(settled) + CLOCK_SKEW;
                    rows.insert(seq, (*fact, right.plus(life)));
                    *head = seq;
                }
            }
        };
        for (origin, facts) in &node.journal {
            put(*origin, 1, facts);
        }
        for (origin, seq) in node.machine.heard() {
            if let Some((first, facts)) = node.machine.entries(origin, 1, usize::MAX) {
                put(origin, first, &facts[..facts.len().min(usize::try_from(seq).unwrap_or(0))]);
            }
        }
        rows.values_mut().for_each(|rows| rows.retain(|_, (_, goes)| *goes >= right));
    }

    fn read_store(&mut self, at: usize) {
        let cheap = self.settings.is_cheap;
        let Self { store, nodes, .. } = self;
        let node = &mut nodes[at];
        if !store.up || !node.reaches_store {
            return;
        }
        for (origin, head) in &store.heads {
            let complete = node.machine.complete(*origin).max(node.read.get(origin).copied().unwrap_or(0));
            if *origin == node.origin || complete >= *head {
                continue;
            }
            let Some(rows) = store.rows.get(origin) else { continue };
            for (seq, (fact, _)) in rows.range(complete + 1..) {
                node.apply(fact, cheap);
                node.machine.learn(*origin, *seq, &[*fact]);
            }
            node.machine.ledger_has(*origin, *head);
            node.read.insert(*origin, *head);
        }
    }

    // What is promised.

    fn check(&mut self, at: usize) {
        self.check_fresh(at);
        self.check_visible(at);
    }

    /// Whether it is applied there, or has ended.
    fn has(&self, at: usize, Published { fact, over, .. }: &Published) -> bool {
        // A token that ends by then is expired, by the wall clock or because its denial may be forgotten.
        let is_below = fact.until.as_secs() <= self.nodes[at].clocks.high_water().floor_secs();
        fact.until < self.wall(at) || is_below || *over < self.right() || self.nodes[at].holds(fact)
    }

    /// Nothing is missed from before the time that a node says it knows all of.
    fn check_fresh(&mut self, at: usize) {
        // What is said in the first heads of a link is not said again soon: a stream does not lose them.
        if self.settings.is_cheap || self.is_chaotic || self.nodes[at].corrupts {
            return;
        }
        let Some(fresh_at) = self.nodes[at].machine.fresh_at(self.clock(at)) else { return };
        let fresh_at = self.nodes[at].boot + u64::try_from(fresh_at.as_micros()).unwrap_or(u64::MAX);
        if let Some((origin, seq, then)) = self.missed(at, false)
            && then < fresh_at
        {
            let (now, other) = (self.now, node_of(origin));
            self.breaks(|| {
                format!(
                    "{at} says that it is fresh of {} us ago and lacks {seq} of {other}.{}, of {} us ago",
                    now - fresh_at,
                    origin.incarnation,
                    now - then
                )
            });
        }
    }

    /// The oldest fact that a node lacks.
    fn missed(&mut self, at: usize, also_gone: bool) -> Option<(Origin, usize, Micros)> {
        let mut oldest: Option<(Origin, usize, Micros)> = None;
        let mut cursors = std::mem::take(&mut self.nodes[at].cursors);
        for (origin, facts) in &self.published {
            let cursor = cursors.entry(*origin).or_default();
            while let Some(published) = facts.get(*cursor)
                && self.has(at, published)
            {
                *cursor += 1;
            }
            if let Some(published) = facts.get(*cursor)
                && (also_gone || !self.nodes[at].heard[node_of(*origin)].gone)
                && oldest.is_none_or(|(.., then)| published.at < then)
            {
                oldest = Some((*origin, *cursor + 1, published.at));
            }
        }
        self.nodes[at].cursors = cursors;
        oldest
    }

    /// Who is counted has it; who is linked is counted.
    fn check_visible(&mut self, at: usize) {
        if self.settings.is_cheap || self.nodes.iter().any(|node| node.corrupts) {
            return;
        }
        for place in 0..self.nodes[at].recent.len() {
            let (first, last, before) = self.nodes[at].recent[place];
            let (visible, live) = self.nodes[at].machine.visible(first, last);
            if visible == before && visible != live {
                continue;
            }
            self.nodes[at].recent[place].2 = visible;
            let origin = self.nodes[at].origin;
            let facts = &self.published[&origin][place_of(first)..=place_of(last)];
            let (mut have, mut linked) = (0, 0);
            for (link, side) in &self.nodes[at].links {
                let Some((_, peer)) = self.links[*link].sides[*side].linked else { continue };
                let other = node_of(peer);
                // What a life had that is no more cannot be looked up.
                let is_alive = self.nodes[other].up && self.nodes[other].origin == peer;
                let has_all = !is_alive || facts.iter().all(|published| self.has(other, published));
                linked += u32::from(is_alive && !self.nodes[other].left);
                have += u32::from(has_all);
            }
            if visible > have || live < linked {
                let what = format!("{at} says {visible}/{live} of {first}..={last}: {have}/{linked}");
                self.breaks(|| what);
                return;
            }
        }
    }

    /// Everything gets well, and at last everybody knows everything, and there is nothing more to say.
    ///
    /// # Errors
    /// What did not happen.
    pub fn settle(&mut self, within: Micros) -> Result<Micros, String> {
        (self.settings.loss, self.settings.chaos) = (0, 0);
        self.step(Step::Heal);
        self.step(Step::Store { up: true });
        for node in 0..self.settings.nodes {
            // Clocks are right again, as far as they ever were.
            let right = self.settings.offsets.get(node).copied().unwrap_or(0);
            self.step(Step::Jump { node, by: right - self.nodes[node].offset });
            self.step(Step::StoreOf { node, up: true });
            self.step(Step::Continue { node });
            if self.nodes[node].left {
                self.crash(node);
            }
            self.step(Step::Restart { node });
        }
        let begin = self.now;
        let mut left = "nothing".to_owned();
        while self.broken.is_none() && self.now < begin + within {
            self.run_until(self.now + 200 * MS);
            match self.unsettled() {
                None => {
                    let took = self.now - begin;
                    return self.is_quiet().map_or(Ok(took), Err);
                }
                Some(what) => left = what,
            }
        }
        let late = || format!("{} ms after all got well, {left}", within / MS);
        Err(self.broken.clone().unwrap_or_else(late))
    }

    fn unsettled(&mut self) -> Option<String> {
        for at in 0..self.settings.nodes {
            if let Some((origin, seq, _)) = self.missed(at, true) {
                let other = node_of(origin);
                return Some(format!("{at} lacks {seq} of {other}.{}", origin.incarnation));
            }
        }
        if !self.is_linked_up() {
            return Some("links are missing".to_owned());
        }
        for at in 0..self.settings.nodes {
            let now = self.clock(at);
            let Node { machine, recent, .. } = &self.nodes[at];
            if !machine.is_caught_up() {
                return Some(format!("{at} is not caught up: {:?}", machine.logs()));
            }
            if machine.is_sparse() || self.nodes[at].corrupts {
                continue;
            }
            let fresh = machine.fresh_at(now);
            if fresh.is_none_or(|fresh| fresh + Duration::from_secs(4) < now.monotonic) {
                return Some(format!(
                    "{at} is fresh at {fresh:?} of {:?}: {:?}",
                    now.monotonic,
                    machine.logs()
                ));
            }
            for (first, last, _) in recent {
                let (visible, live) = machine.visible(*first, *last);
                if visible < live || self.settings.nodes != live as usize + 1 {
                    return Some(format!("{at} says {visible}/{live} of {first}..={last}"));
                }
            }
        }
        None
    }

    /// Checks that idle nodes send only pings and an occasional head, over a span longer than the digest
    /// interval. Facts that have expired by one node's clock and not yet by another's may still cause
    /// traffic, so a few spans are tried.
    fn is_quiet(&mut self) -> Option<String> {
        let mut heard = None;
        for _ in 0..5 {
            self.run_until(self.now + 3 * SECOND);
            heard = self.speaks_for(6);
            if heard.is_none() || self.broken.is_some() {
                break;
            }
        }
        heard
    }

    /// Runs for `seconds` and reports traffic beyond that.
    fn speaks_for(&mut self, seconds: u64) -> Option<String> {
        let before = self.traffic();
        self.run_until(self.now + seconds * SECOND);
        if let Some(broken) = &self.broken {
            return Some(broken.clone());
        }
        if let Some(what) = self.unsettled() {
            return Some(format!("it was settled, and now {what}"));
        }
        for (at, (before, after)) in before.iter().zip(self.traffic()).enumerate() {
            let links = self.nodes[at].links.len() as u64;
            let pings = u64::try_from(1_000 / self.settings.tuning.ping.as_millis().max(1)).unwrap_or(0) + 1;
            let logs = self.published.len() as u64 + links + 1;
            let most = links * (seconds * (2 * pings + 1) + 2 * logs);
            let messages = after.messages - before.messages;
            let facts = (after.facts - before.facts, after.pulls - before.pulls);
            if (facts != (0, 0) && !self.nodes.iter().any(|node| node.corrupts)) || messages > most {
                return Some(format!(
                    "{at} is not quiet: {messages} messages of at most {most}, {} facts, {} pulls in {seconds} s",
                    facts.0, facts.1
                ));
            }
        }
        None
    }
}

/// A node's clocks. Runs are short, so a jump is trusted sooner than in production, but only after peers
/// have had time to report their clocks.
fn clocks(manual: &Arc<ManualClocks>, saved: Option<Saved>) -> Arc<Clocks> {
    let trust = Trust { belief: Duration::from_secs(180), longest: Duration::from_secs(600) };
    Arc::new(Clocks::trusting(trust, manual.clone(), manual.clone(), "one boot", saved))
}

fn place_of(seq: u64) -> usize {
    usize::try_from(seq - 1).unwrap_or(0)
}
