//! Links between nodes: connections, and messages on their way with delay, loss, cuts and corruption.

use std::collections::VecDeque;

use cluster::protocol::Message;
use schema::{FactKind, TokenId, ledger::Origin};

use super::{Event, MS, Micros, PAUSED_RETRY, SECOND, Settings, World, facts::index_of};

/// A link on which nothing arrives for this long is given up.
pub(super) const SILENCE_TIMEOUT: Micros = 3 * SECOND;
/// What a lost packet costs the first time. The cost doubles with each further loss of the same packet.
const RETRANSMISSION: Micros = 200 * MS;
/// The maximum number of bytes that may be on their way on one link.
const IN_FLIGHT_BYTES_MAX: usize = 256 * 1024;
/// A dial comes this long after a link broke, or failed, at most.
const REDIAL_DELAY: Micros = 50 * MS;
/// The pause between dials doubles this many times.
const BACKOFF_DOUBLINGS_MAX: u32 = 4;
/// What a frame has beside its message: length, tag and counter.
const FRAME_OVERHEAD: usize = 18;
/// How long a message waits for a receiver that is paused or not linked yet.
const RECEIVER_RETRY: Micros = 5 * MS;

/// One side of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SideRef {
    pub(super) link: usize,
    /// 0 dials, 1 accepts.
    pub(super) side: usize,
}

impl SideRef {
    pub(super) const fn other(self) -> Self {
        Self { link: self.link, side: 1 - self.side }
    }
}

pub(super) struct Link {
    /// The nodes at its sides.
    pub(super) ends: [usize; 2],
    /// Counts connections.
    pub(super) epoch: u32,
    pub(super) connected: bool,
    pub(super) sides: [Side; 2],
    pub(super) attempts: u32,
}

pub(super) struct Side {
    /// The connection that the replicator here believes in.
    pub(super) linked: Option<Connection>,
    pub(super) writing: bool,
    /// Whether the writer waits until messages arrive at the other side.
    waiting: bool,
    /// Messages on their way to this side, in the order of their arrival.
    in_flight: VecDeque<InFlight>,
    /// The bytes of these messages.
    in_flight_bytes: usize,
    /// Whether the next arrival is scheduled.
    delivering: bool,
    /// When the last message sent to this side arrives.
    last_arrival: Micros,
    pub(super) received_at: Micros,
    /// Whether the next message of facts to this side is changed on its way.
    corrupt: bool,
}

/// A connection as one side sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connection {
    pub(super) epoch: u32,
    /// The peer, and which life of it.
    pub(super) origin: Origin,
}

struct InFlight {
    arrival: Micros,
    size: usize,
    message: Message,
}

impl Side {
    pub(super) const fn new() -> Self {
        Self {
            linked: None,
            writing: false,
            waiting: false,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            delivering: false,
            last_arrival: 0,
            received_at: 0,
            corrupt: false,
        }
    }

    fn clear(&mut self) {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.last_arrival = 0;
    }
}

impl World {
    pub(super) fn side(&self, at: SideRef) -> &Side {
        &self.links[at.link].sides[at.side]
    }

    pub(super) fn side_mut(&mut self, at: SideRef) -> &mut Side {
        &mut self.links[at.link].sides[at.side]
    }

    /// The node at this side.
    pub(super) fn end(&self, at: SideRef) -> usize {
        self.links[at.link].ends[at.side]
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.get(from * self.settings.nodes + to).is_some_and(|cut| *cut)
    }

    pub(super) fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        if from != to {
            self.cut[from * self.settings.nodes + to] = cut;
        }
    }

    pub(super) fn cut_both_ways(&mut self, a: usize, b: usize) {
        self.set_cut(a, b, true);
        self.set_cut(b, a, true);
    }

    fn link_between(&self, a: usize, b: usize) -> Option<usize> {
        self.links.iter().position(|link| link.ends == [a.min(b), a.max(b)])
    }

    pub(super) fn reset(&mut self, a: usize, b: usize) {
        if let Some(link) = self.link_between(a, b) {
            self.disconnect(link);
            self.side_down(SideRef { link, side: 0 });
            self.side_down(SideRef { link, side: 1 });
        }
    }

    pub(super) fn corrupt_next(&mut self, from: usize, to: usize) {
        if let Some(link) = self.link_between(from, to) {
            self.links[link].sides[usize::from(to > from)].corrupt = true;
        }
        self.nodes[to].has_corruption = true;
    }

    pub(super) fn dial(&mut self, link: usize, life: u32) {
        let Link { ends: [a, b], ref sides, .. } = self.links[link];
        if self.nodes[a].life != life || sides[0].linked.is_some() {
            return;
        }
        let is_open = !self.is_cut(a, b) && !self.is_cut(b, a);
        if !is_open || !self.nodes[a].runs() || !self.nodes[b].runs() {
            let attempts = self.links[link].attempts.min(BACKOFF_DOUBLINGS_MAX);
            self.links[link].attempts = attempts + 1;
            let wait = (REDIAL_DELAY << attempts) + self.random.below(REDIAL_DELAY);
            return self.schedule(self.now + wait, Event::Dial { link, life });
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
            self.schedule(when, Event::Up { at: SideRef { link, side }, epoch });
        }
    }

    pub(super) fn side_up(&mut self, side: SideRef, epoch: u32) {
        let link = &self.links[side.link];
        let at = self.end(side);
        let peer = self.end(side.other());
        if link.epoch != epoch || !link.connected || !self.nodes[at].up {
            // The connection broke before this side was up.
            if side.side == 0 && link.epoch == epoch && link.sides[0].linked.is_none() {
                let life = self.nodes[at].life;
                self.schedule(self.now + REDIAL_DELAY, Event::Dial { link: side.link, life });
            }
            return;
        }
        if self.nodes[at].paused {
            return self.schedule(self.now + PAUSED_RETRY, Event::Up { at: side, epoch });
        }
        let origin = self.nodes[peer].origin;
        let clock = self.clock(at);
        let now = self.now;
        let here = self.side_mut(side);
        here.linked = Some(Connection { epoch, origin });
        here.received_at = now;
        here.writing = false;
        here.waiting = false;
        self.nodes[at].replicator.add_link(origin, 1, clock);
        self.nodes[at].views[peer].note(origin.incarnation, false);
        self.trace(|| format!("{at} is linked with {peer}"));
        self.pump(at);
    }

    /// Ends a connection. The nodes at its ends notice when a reset reaches them.
    pub(super) fn disconnect(&mut self, link: usize) {
        let here = &mut self.links[link];
        if !std::mem::take(&mut here.connected) {
            return;
        }
        here.sides.iter_mut().for_each(Side::clear);
        let epoch = here.epoch;
        let [a, b] = here.ends;
        let when = self.now + self.settings.latency + self.random.exponential(self.settings.jitter);
        for (side, from, to) in [(0, b, a), (1, a, b)] {
            if !self.is_cut(from, to) {
                self.schedule(when, Event::Down { at: SideRef { link, side }, epoch });
            }
        }
    }

    pub(super) fn side_down(&mut self, side: SideRef) {
        let at = self.end(side);
        if let Some(Connection { origin, .. }) = self.side_mut(side).linked.take() {
            self.nodes[at].replicator.remove_link(origin);
            self.trace(|| format!("{at} is not linked with {}", index_of(origin)));
        }
        if side.side == 0 && self.nodes[at].up {
            let life = self.nodes[at].life;
            let when = self.now + self.random.below(REDIAL_DELAY);
            self.schedule(when, Event::Dial { link: side.link, life });
        }
    }

    /// Polls every link of a node that can write.
    pub(super) fn pump(&mut self, at: usize) {
        for index in 0..self.nodes[at].links.len() {
            self.write(self.nodes[at].links[index]);
        }
    }

    /// Sends the next message of this side, if it can write and has one.
    pub(super) fn write(&mut self, side: SideRef) {
        let at = self.end(side);
        let here = self.side(side);
        let Some(Connection { epoch, origin }) = here.linked else { return };
        if here.writing || here.waiting || !self.nodes[at].runs() {
            return;
        }
        // No node reads what this side writes to a dead connection, which it does not know yet.
        let is_void = !self.links[side.link].connected || self.links[side.link].epoch != epoch;
        let clock = self.clock(at);
        let Some(message) = self.nodes[at].replicator.poll(origin, clock) else { return };
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let size = bytes.len() + FRAME_OVERHEAD;
        let message = match Message::decode(&bytes) {
            Ok(Some(decoded)) if decoded == message => decoded,
            other => return self.breaks(|| format!("{message:?} was read as {other:?}")),
        };
        self.count_traffic(at, &message, size);
        self.trace(|| format!("{at} -> {}: {message:?}", self.end(side.other())));
        let sent = self.now + (size as u64 * MS / self.settings.bytes_per_ms).max(1);
        self.side_mut(side).writing = true;
        let epoch = self.links[side.link].epoch;
        self.schedule(sent, Event::Writable { at: side, epoch });
        if is_void {
            return;
        }
        self.send(side.other(), sent, size, message);
        if self.side(side.other()).in_flight_bytes > IN_FLIGHT_BYTES_MAX {
            self.side_mut(side).waiting = true;
        }
    }

    fn count_traffic(&mut self, at: usize, message: &Message, size: usize) {
        let traffic = &mut self.nodes[at].traffic;
        traffic.messages += 1;
        traffic.bytes += size as u64;
        match message {
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
    }

    /// Puts a message on its way to a side.
    fn send(&mut self, to: SideRef, sent: Micros, size: usize, message: Message) {
        let Settings { latency, jitter, loss, chaos, .. } = self.settings;
        let mut arrival = sent + latency + self.random.exponential(jitter);
        let mut wait = RETRANSMISSION;
        while wait <= 4 * RETRANSMISSION && self.random.chance(loss) {
            arrival += wait;
            wait *= 2;
        }
        let drops = self.random.chance(chaos);
        let repeats = self.random.chance(chaos);
        let overtakes = self.random.chance(chaos);
        if drops {
            return;
        }
        let there = self.side_mut(to);
        arrival = arrival.max(there.last_arrival);
        there.last_arrival = arrival;
        there.in_flight_bytes += size;
        if repeats {
            there.in_flight_bytes += size;
            there.in_flight.push_back(InFlight { arrival, size, message: message.clone() });
        }
        there.in_flight.push_back(InFlight { arrival, size, message });
        let last = there.in_flight.len() - 1;
        if overtakes && last > 0 {
            let other = self.random.index(last);
            let in_flight = &mut self.side_mut(to).in_flight;
            // The messages change places; the times of arrival stay in order.
            in_flight.swap(last, other);
            let early = in_flight[last].arrival;
            in_flight[last].arrival = in_flight[other].arrival;
            in_flight[other].arrival = early;
        }
        self.schedule_arrival(to);
    }

    /// Makes sure that the next message on its way to a side arrives.
    fn schedule_arrival(&mut self, side: SideRef) {
        let now = self.now;
        let epoch = self.links[side.link].epoch;
        let there = self.side_mut(side);
        if !there.delivering
            && let Some(InFlight { arrival, .. }) = there.in_flight.front()
        {
            let at = (*arrival).max(now);
            there.delivering = true;
            self.schedule(at, Event::Deliver { at: side, epoch });
        }
    }

    pub(super) fn deliver(&mut self, side: SideRef, epoch: u32) {
        let now = self.now;
        self.side_mut(side).delivering = false;
        if self.links[side.link].epoch != epoch || !self.links[side.link].connected {
            return self.schedule_arrival(side);
        }
        let at = self.end(side);
        let is_up = self.side(side).linked.is_some_and(|linked| linked.epoch == epoch);
        let is_cut = self.is_cut(self.end(side.other()), at);
        if is_cut || !is_up || self.nodes[at].paused {
            let wait = if is_cut { RETRANSMISSION } else { RECEIVER_RETRY };
            self.side_mut(side).delivering = true;
            return self.schedule(now + wait, Event::Deliver { at: side, epoch });
        }
        let here = self.side_mut(side);
        let Some(InFlight { size, message, .. }) = here.in_flight.pop_front() else { return };
        here.in_flight_bytes -= size;
        here.received_at = now;
        let has_room = here.in_flight_bytes <= IN_FLIGHT_BYTES_MAX;
        if has_room && std::mem::take(&mut self.side_mut(side.other()).waiting) {
            self.schedule(now, Event::Writable { at: side.other(), epoch });
        }
        self.schedule_arrival(side);
        self.receive(side, at, message);
    }

    /// Does what the runner does with a frame: applies its facts, then passes it to the replicator.
    fn receive(&mut self, side: SideRef, at: usize, mut message: Message) {
        let Some(Connection { origin: from, .. }) = self.side(side).linked else { return };
        let clock = self.clock(at);
        let now = self.now;
        let is_cheap = self.settings.is_cheap;
        let mut is_news = !is_cheap;
        if let Message::Facts { facts, .. } = &mut message {
            if std::mem::take(&mut self.side_mut(side).corrupt)
                && let Some(first) = facts.first_mut()
            {
                first.kind = FactKind::TokenRevoked { token: TokenId::from_bytes([0xfe; 16]) };
            }
            for fact in facts {
                if let Some(number) = self.nodes[at].apply(fact, is_cheap)
                    && let Some(spread) = self.spread.get_mut(usize::try_from(number).unwrap_or(0))
                {
                    is_news = true;
                    spread.nodes += 1;
                    spread.last_at = now;
                }
            }
        }
        let is_ack = matches!(message, Message::Ack(_));
        if let Message::Leaving { .. } = message {
            self.nodes[at].views[index_of(from)].note(from.incarnation, true);
        }
        if let Err(duplicate) = self.nodes[at].replicator.receive(from, message, clock) {
            self.breaks(|| format!("{at} reports: {duplicate}"));
        }
        self.check_fresh(at);
        if is_ack {
            self.check_visible(at);
        }
        // With a thousand nodes, links that have nothing to send are not polled.
        if is_news { self.pump(at) } else { self.write(side) }
    }
}
