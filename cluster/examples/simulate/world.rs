//! Nodes, their links, their clocks and their store, all in virtual time.
//!
//! Each node has the replicator that is shipped, real denials, and a runner that does what the real one does:
//! it applies the facts of a frame before it passes the frame to the replicator, it applies and journals its
//! own facts before it publishes them, and it polls a link whenever the link can write.
//!
//! Promises: a world with the same settings and steps takes the same course on every machine. What must hold
//! at every moment is checked all the time ([`World::broken`]), what must hold in the end by
//! [`World::settle`].
//!
//! | to find | look in |
//! |---|---|
//! | facts and ids that are made from numbers | `facts` |
//! | one node: its start, its crash, its ticks | `node` |
//! | links: delay, loss, cuts, corruption | `network` |
//! | what nodes learn of each other without links | `gossip` |
//! | the ledger in the shared store | `store` |
//! | what is checked | `checks` |

mod checks;
mod facts;
mod gossip;
mod network;
mod node;
mod store;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};

use cluster::protocol::{Now, Tuning};
use schema::{Fact, Timestamp, ledger::Origin};

use self::{
    network::{Link, Side, SideRef},
    node::Node,
    store::Store,
};
use super::random::Random;

/// Microseconds since the beginning of the world.
pub type Micros = u64;

pub const MS: Micros = 1_000;
pub const SECOND: Micros = 1_000 * MS;

/// How often a runner polls all of its links.
const TICK_INTERVAL: Micros = 100 * MS;
/// When the world begins, by a correct clock, in milliseconds.
const WALL_BEGIN_MS: u64 = 2_000_000_000_000;
/// The boot time of every node at that moment, in milliseconds.
const BOOT_BEGIN_MS: u64 = 1_000_000;
/// How long after a paused node's event it is tried again.
const PAUSED_RETRY: Micros = 50 * MS;
/// How long a node that leaves runs on, so that its peers can be told.
const LEAVE_DURATION: Micros = 500 * MS;

/// How a world is made.
#[derive(Debug, Clone)]
pub struct Settings {
    pub seed: u64,
    pub nodes: usize,
    /// The number of links that each node dials; `None` when every node is linked with every other.
    pub fanout: Option<usize>,
    pub tuning: Tuning,
    /// The shortest delay of a message, one way.
    pub latency: Micros,
    /// The mean of the delay on top of that.
    pub jitter: Micros,
    /// Lost packets in a million. Each delays all that follow on its link.
    pub loss: u64,
    /// Messages in a million that a link drops, repeats or lets overtake others, which no stream does.
    pub chaos: u64,
    /// The capacity of a link, in bytes a millisecond.
    pub bytes_per_ms: u64,
    /// By how much each node's clock is wrong, in milliseconds.
    pub offsets: Vec<i64>,
    /// How many times faster than the world wall clocks go, so that facts expire within a short run.
    pub wall_rate: u64,
    pub has_store: bool,
    /// Whether nodes have a set of numbers instead of denials and nothing is checked: for a thousand nodes.
    pub is_cheap: bool,
}

/// What can be done to a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A node publishes `count` facts, which matter for `lasts` milliseconds of its wall clock.
    Publish { node: usize, count: usize, lasts: u64 },
    /// A node is killed (`kill -9`).
    Crash { node: usize },
    /// A node that is down starts with its journal, as a new incarnation.
    Restart { node: usize },
    /// A node is stopped (SIGSTOP).
    Pause { node: usize },
    /// A stopped node runs again (SIGCONT).
    Continue { node: usize },
    /// Nothing gets from one node to the other.
    Cut { from: usize, to: usize },
    /// Messages get from one node to the other again.
    Mend { from: usize, to: usize },
    /// Nothing gets to or from a node.
    Isolate { node: usize },
    /// The first nodes, this many, and all others are cut off from each other.
    Split { first: usize },
    /// All cuts are mended.
    Heal,
    /// One connection is reset.
    Reset { a: usize, b: usize },
    /// The store stops or starts answering.
    Store { up: bool },
    /// One node loses or regains its connection to the store.
    StoreOf { node: usize, up: bool },
    /// A node announces that it stops, and does.
    Leave { node: usize },
    /// The first fact of the next message of facts is changed on its way.
    Corrupt { from: usize, to: usize },
    /// A node's wall clock jumps by this many milliseconds.
    Jump { node: usize, by: i64 },
}

/// What a node has sent.
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

/// What happens at some time. `life` and `epoch` void an event that was meant for a former life or
/// connection.
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
        at: SideRef,
        epoch: u32,
    },
    Down {
        at: SideRef,
        epoch: u32,
    },
    /// The first message on its way to this side arrives.
    Deliver {
        at: SideRef,
        epoch: u32,
    },
    Writable {
        at: SideRef,
        epoch: u32,
    },
    End {
        node: usize,
        life: u32,
    },
}

/// An event and its time. Events of the same time happen in the order in which they were scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Scheduled {
    at: Micros,
    number: u64,
    event: Event,
}

struct Published {
    fact: Fact,
    at: Micros,
    /// When the fact has expired by a correct clock, even if its node's clock was wrong.
    over: Timestamp,
}

/// How far a fact has spread.
struct Spread {
    published_at: Micros,
    /// The number of nodes that have it.
    nodes: usize,
    /// When the last of them got it.
    last_at: Micros,
}

pub struct World {
    settings: Settings,
    random: Random,
    now: Micros,
    /// The number of events scheduled so far.
    scheduled: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    nodes: Vec<Node>,
    links: Vec<Link>,
    /// For each pair of nodes, whether nothing gets from the first to the second.
    cut: Vec<bool>,
    store: Store,
    published: BTreeMap<Origin, Vec<Published>>,
    /// By the number of the fact in the world.
    spread: Vec<Spread>,
    broken: Option<String>,
    is_chaotic: bool,
    /// Whether all that happens is printed.
    pub traces: bool,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        let count = settings.nodes;
        let mut random = Random::new(settings.seed);
        let mut nodes: Vec<_> = (0..count).map(|index| Node::new(index, &settings)).collect();
        let mut links = Vec::new();
        for (a, b) in linked_pairs(count, settings.fanout, &mut random) {
            nodes[a].links.push(SideRef { link: links.len(), side: 0 });
            nodes[b].links.push(SideRef { link: links.len(), side: 1 });
            let sides = [Side::new(), Side::new()];
            links.push(Link { ends: [a, b], epoch: 0, connected: false, sides, attempts: 0 });
        }
        let cut = if settings.is_cheap { Vec::new() } else { vec![false; count * count] };
        let store = Store::new(settings.has_store);
        let is_chaotic = settings.chaos > 0;
        let mut world = Self {
            settings,
            random,
            now: SECOND,
            scheduled: 0,
            events: BinaryHeap::new(),
            nodes,
            links,
            cut,
            store,
            published: BTreeMap::new(),
            spread: Vec::new(),
            broken: None,
            is_chaotic,
            traces: false,
        };
        (0..count).for_each(|node| world.start(node));
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

    /// How long each fact that all nodes have took to reach them.
    pub fn spread(&self) -> Vec<Micros> {
        let everywhere = self.spread.iter().filter(|spread| spread.nodes >= self.settings.nodes);
        everywhere.map(|spread| spread.last_at - spread.published_at).collect()
    }

    pub fn traffic(&self) -> Vec<Traffic> {
        self.nodes.iter().map(|node| node.traffic).collect()
    }

    pub fn is_linked_up(&self) -> bool {
        self.links.iter().all(|link| link.sides.iter().all(|side| side.linked.is_some()))
    }

    /// The number of entries that the fullest node holds, over all logs.
    pub fn most_kept(&self) -> usize {
        self.nodes.iter().map(|node| node.replicator.kept()).max().unwrap_or(0)
    }

    fn schedule(&mut self, at: Micros, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse(Scheduled { at, number: self.scheduled, event }));
    }

    fn breaks(&mut self, what: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(format!("at {} ms: {}", self.now / MS, what()));
        }
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.traces {
            #[allow(clippy::print_stdout, reason = "asked for")]
            {
                println!("{:>9} us  {}", self.now, what());
            }
        }
    }

    /// The time by a correct wall clock.
    fn true_time(&self) -> Timestamp {
        Timestamp::from_millis(WALL_BEGIN_MS + self.now / MS * self.settings.wall_rate)
    }

    /// The time by a node's wall clock.
    fn wall(&self, node: usize) -> Timestamp {
        Timestamp::from_millis(self.true_time().as_millis().saturating_add_signed(self.nodes[node].offset))
    }

    fn clock(&self, node: usize) -> Now {
        let monotonic = Duration::from_micros(self.now - self.nodes[node].boot);
        self.set_clocks(node);
        Now { monotonic, wall: self.wall(node), horizon: self.nodes[node].clocks.horizon() }
    }

    fn set_clocks(&self, node: usize) {
        let boot = Duration::from_millis(BOOT_BEGIN_MS + self.now / MS * self.settings.wall_rate);
        self.nodes[node].manual.set(self.wall(node), boot);
    }

    pub fn step(&mut self, step: Step) {
        self.trace(|| format!("{step:?}"));
        let count = self.settings.nodes;
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
                    self.schedule(self.now, Event::Tick { node, life });
                }
            }
            Step::Cut { from, to } => self.set_cut(from, to, true),
            Step::Mend { from, to } => self.set_cut(from, to, false),
            Step::Isolate { node } => (0..count).for_each(|other| self.cut_both_ways(node, other)),
            Step::Split { first } => {
                for (a, b) in (0..first).flat_map(|a| (first..count).map(move |b| (a, b))) {
                    self.cut_both_ways(a, b);
                }
            }
            Step::Heal => self.cut.fill(false),
            Step::Reset { a, b } => self.reset(a, b),
            Step::Store { up } => self.store.up = up && self.settings.has_store,
            Step::StoreOf { node, up } => self.nodes[node].reaches_store = up,
            Step::Leave { node } => self.leave(node),
            Step::Corrupt { from, to } => self.corrupt_next(from, to),
            Step::Jump { node, by } => {
                self.nodes[node].furthest = self.nodes[node].furthest.max(self.wall(node));
                self.nodes[node].offset += by;
                // Facts that had expired by its clock may not have by now: the node must still refuse by
                // them.
                self.nodes[node].cursors.clear();
                self.clock(node);
            }
        }
    }

    /// Runs until this time, or until a promise is broken.
    pub fn run_until(&mut self, until: Micros) {
        while self.broken.is_none()
            && let Some(Reverse(Scheduled { at, event, .. })) = self.events.peek().copied()
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
            Event::Up { at, epoch } => self.side_up(at, epoch),
            Event::Down { at, epoch } => {
                if self.nodes[self.end(at)].paused {
                    return self.schedule(self.now + PAUSED_RETRY, event);
                }
                if self.side(at).linked.is_some_and(|linked| linked.epoch == epoch) {
                    self.side_down(at);
                }
            }
            Event::Deliver { at, epoch } => self.deliver(at, epoch),
            Event::Writable { at, epoch } => {
                if self.links[at.link].epoch == epoch {
                    self.side_mut(at).writing = false;
                    self.write(at);
                }
            }
            Event::End { node, life } => {
                if self.nodes[node].life == life {
                    self.crash(node);
                }
            }
        }
    }
}

/// Which nodes are linked: all pairs, or a ring, so that no node is alone, with random chords.
fn linked_pairs(count: usize, fanout: Option<usize>, random: &mut Random) -> BTreeSet<(usize, usize)> {
    let mut pairs = BTreeSet::new();
    for a in 0..count {
        let Some(fanout) = fanout else {
            pairs.extend((a + 1..count).map(|b| (a, b)));
            continue;
        };
        let next = (a + 1) % count;
        pairs.insert((a.min(next), a.max(next)));
        for _ in 1..fanout / 2 {
            let b = random.index(count);
            if a != b {
                pairs.insert((a.min(b), a.max(b)));
            }
        }
    }
    pairs
}
