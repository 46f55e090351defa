//! One node: what it holds, its start, its crash, and what its runner does in between.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use cluster::protocol::Replicator;
use schema::{
    Clocks, Denials, Fact, Timestamp,
    horizon::{Saved, Trust, manual::ManualClocks},
    ledger::Origin,
    time::CLOCK_SKEW,
};

use super::{
    Event, LEAVE_DURATION, MS, Micros, Published, Settings, Spread, TICK_INTERVAL, Traffic, World,
    facts::{NumberSet, kind, node_id, number, revoked_claims},
    gossip::GossipView,
    network::{SILENCE_TIMEOUT, SideRef},
};

/// The number of a node's last publications whose visibility is checked.
const RECENT_MAX: usize = 8;
/// The runner does its upkeep once in this many ticks.
const TICKS_PER_UPKEEP: u64 = 10;
/// A side that dials does so within this time after its node's start.
const FIRST_DIAL_SPREAD: Micros = 20 * MS;

pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) up: bool,
    pub(super) paused: bool,
    /// Whether it announced that it stops.
    pub(super) departed: bool,
    /// Rises with each crash and start: events that were meant for a former life are void.
    pub(super) life: u32,
    pub(super) boot: Micros,
    /// By how much its wall clock is wrong, in milliseconds.
    pub(super) offset: i64,
    /// The furthest time that its wall clock has shown, as it is on its disk.
    pub(super) furthest: Timestamp,
    /// Sets its clocks before each use of them.
    pub(super) manual: Arc<ManualClocks>,
    pub(super) clocks: Arc<Clocks>,
    /// What is on its disk of the clocks.
    pub(super) saved: Option<Saved>,
    pub(super) replicator: Replicator,
    pub(super) denials: Denials,
    /// The facts that it has applied, by their numbers in the world.
    pub(super) applied: NumberSet,
    /// All facts that it ever published.
    pub(super) journal: BTreeMap<Origin, Vec<Fact>>,
    pub(super) links: Vec<SideRef>,
    pub(super) reaches_store: bool,
    /// Up to which number each log was read in the store.
    pub(super) read: BTreeMap<Origin, u64>,
    /// Whether a message to it was corrupted: some promises do not hold until digests have repaired that.
    pub(super) has_corruption: bool,
    /// How many facts of each log were found applied.
    pub(super) cursors: BTreeMap<Origin, usize>,
    pub(super) recent: VecDeque<Publication>,
    /// What gossip told of each other node.
    pub(super) views: Vec<GossipView>,
    pub(super) ticks: u64,
    pub(super) traffic: Traffic,
}

/// Entries that a node published together.
pub(super) struct Publication {
    pub(super) first: u64,
    pub(super) last: u64,
    /// How many nodes had acknowledged them when that was last checked.
    pub(super) visible: u32,
}

impl Node {
    pub(super) fn new(index: usize, settings: &Settings) -> Self {
        let origin = Origin { node: node_id(index), incarnation: 0 };
        let manual = ManualClocks::at(Timestamp::EPOCH);
        Self {
            origin,
            up: false,
            paused: false,
            departed: false,
            life: 0,
            boot: 0,
            offset: settings.offsets.get(index).copied().unwrap_or(0),
            furthest: Timestamp::EPOCH,
            clocks: clocks(&manual, None),
            manual,
            saved: None,
            replicator: Replicator::new(origin, settings.tuning),
            denials: Denials::default(),
            applied: NumberSet::default(),
            journal: BTreeMap::new(),
            links: Vec::new(),
            reaches_store: true,
            read: BTreeMap::new(),
            has_corruption: false,
            cursors: BTreeMap::new(),
            recent: VecDeque::new(),
            views: vec![GossipView::FIRST; settings.nodes],
            ticks: 0,
            traffic: Traffic::default(),
        }
    }

    pub(super) const fn runs(&self) -> bool {
        self.up && !self.paused
    }

    /// Applies a fact. Returns its number if it is new here.
    pub(super) fn apply(&mut self, fact: &Fact, is_cheap: bool) -> Option<u64> {
        if !is_cheap {
            self.denials.apply(fact);
        }
        let number = number(&fact.kind)?;
        self.applied.insert(number).then_some(number)
    }

    /// Whether the node refuses a token that the fact revokes, or has applied a fact that revokes no token.
    pub(super) fn holds(&self, fact: &Fact) -> bool {
        match revoked_claims(&fact.kind) {
            Some(claims) => self.denials.refuses(&claims),
            None => number(&fact.kind).is_none_or(|number| self.applied.contains(number)),
        }
    }
}

impl World {
    pub(super) fn publish(&mut self, at: usize, count: usize, lasts: u64) {
        let now = self.now;
        let is_cheap = self.settings.is_cheap;
        // A fact must last as long as any token that the node's clock may have issued.
        let furthest = self.wall(at).max(self.nodes[at].furthest);
        let until = furthest.plus(Duration::from_millis(lasts));
        let over = self.true_time().plus(Duration::from_millis(lasts) + CLOCK_SKEW);
        let node = &mut self.nodes[at];
        if !node.runs() || node.departed || count == 0 {
            return;
        }
        let begin = self.spread.len() as u64;
        let numbers = begin..begin + count as u64;
        let facts: Vec<_> = numbers.map(|number| Fact { kind: kind(number, is_cheap), until }).collect();
        self.spread.extend(facts.iter().map(|_| Spread { published_at: now, nodes: 1, last_at: now }));
        // Applied here, then journaled, then published: as the runner does.
        facts.iter().for_each(|fact| _ = node.apply(fact, is_cheap));
        let first = node.replicator.head() + 1;
        node.journal.entry(node.origin).or_default().extend(&facts);
        node.replicator.publish(first, &facts);
        node.recent.push_back(Publication { first, last: first + count as u64 - 1, visible: 0 });
        if node.recent.len() > RECENT_MAX {
            node.recent.pop_front();
        }
        if !is_cheap {
            let log = self.published.entry(node.origin).or_default();
            log.extend(facts.iter().map(|fact| Published { fact: *fact, at: now, over }));
        }
        self.pump(at);
    }

    pub(super) fn crash(&mut self, at: usize) {
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
        for side in node.links.clone() {
            self.disconnect(side.link);
            self.side_mut(side).linked = None;
        }
    }

    pub(super) fn start(&mut self, at: usize) {
        let now = self.now;
        let is_cheap = self.settings.is_cheap;
        self.set_clocks(at);
        let node = &mut self.nodes[at];
        node.clocks = clocks(&node.manual, node.saved.clone());
        node.denials = Denials::new(node.clocks.high_water().clone());
        node.up = true;
        node.departed = false;
        node.life += 1;
        node.boot = now;
        node.ticks = 0;
        node.origin.incarnation += 1;
        node.replicator = Replicator::new(node.origin, self.settings.tuning);
        node.views.iter_mut().for_each(GossipView::forget_life);
        for (origin, facts) in node.journal.clone() {
            facts.iter().for_each(|fact| _ = node.apply(fact, is_cheap));
            node.replicator.learn(origin, 1, &facts);
        }
        let life = node.life;
        self.gossip(at);
        self.read_store(at);
        let first_tick = now + self.random.below(TICK_INTERVAL);
        self.schedule(first_tick, Event::Tick { node: at, life });
        for SideRef { link, side } in self.nodes[at].links.clone() {
            if side == 0 {
                let when = now + self.random.below(FIRST_DIAL_SPREAD);
                self.schedule(when, Event::Dial { link, life });
            }
        }
    }

    pub(super) fn leave(&mut self, at: usize) {
        if self.nodes[at].runs() && !self.nodes[at].departed {
            self.nodes[at].replicator.leave();
            self.nodes[at].departed = true;
            let life = self.nodes[at].life;
            self.pump(at);
            self.schedule(self.now + LEAVE_DURATION, Event::End { node: at, life });
        }
    }

    pub(super) fn tick(&mut self, at: usize, life: u32) {
        let node = &self.nodes[at];
        if node.life != life || !node.runs() {
            return;
        }
        self.schedule(self.now + TICK_INTERVAL, Event::Tick { node: at, life });
        for side in self.nodes[at].links.clone() {
            let here = self.side(side);
            if here.linked.is_some() && self.now > here.received_at + SILENCE_TIMEOUT {
                self.trace(|| format!("{at} gives up {}", side.link));
                self.disconnect(side.link);
                self.side_down(side);
            }
        }
        self.nodes[at].ticks += 1;
        if self.nodes[at].ticks.is_multiple_of(TICKS_PER_UPKEEP) {
            self.upkeep(at);
        }
        self.check(at);
        self.pump(at);
    }

    fn upkeep(&mut self, at: usize) {
        let now = self.clock(at);
        let node = &mut self.nodes[at];
        node.replicator.upkeep(now);
        if self.settings.is_cheap {
            return;
        }
        node.clocks.observe();
        node.clocks.set_peers_behind(node.replicator.clock_behind());
        node.denials.forget(node.clocks.horizon(), CLOCK_SKEW);
        // The floor is on the disk before rows are swept.
        node.saved = Some(node.clocks.save(Timestamp::EPOCH));
        self.gossip(at);
        self.write_store(at);
        self.read_store(at);
        self.check_memory(at);
    }
}

/// A node's clocks. Runs are short, so a jump is trusted sooner than in production, but only after peers have
/// had time to report their clocks.
fn clocks(manual: &Arc<ManualClocks>, saved: Option<Saved>) -> Arc<Clocks> {
    let trust = Trust { belief: Duration::from_secs(180), longest: Duration::from_secs(600) };
    Arc::new(Clocks::trusting(trust, manual.clone(), manual.clone(), "one boot", saved))
}
