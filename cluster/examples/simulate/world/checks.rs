//! What is checked: at every moment, and in the end.

use std::time::Duration;

use cluster::protocol::{Tuning, log::BLOCK_BYTES_MAX, replicator::AckCount};
use schema::ledger::Origin;

use super::{
    MS, Micros, Published, SECOND, Step, World,
    facts::index_of,
    network::Connection,
    node::{Node, Publication},
};

/// How often a world that settles is checked.
const SETTLE_POLL: Micros = 200 * MS;
/// A node that has settled was fresh within this time.
const FRESH_WITHIN: Duration = Duration::from_secs(4);
/// How many spans of time are tried until nodes are quiet.
const QUIET_ATTEMPTS_MAX: usize = 5;
/// The length of a span of time in which nodes must be quiet, longer than the digest interval, in seconds.
const QUIET_SECONDS: u64 = 6;

/// A fact that a node lacks.
struct Missing {
    origin: Origin,
    seq: usize,
    published_at: Micros,
}

impl World {
    pub(super) fn check(&mut self, at: usize) {
        self.check_fresh(at);
        self.check_visible(at);
    }

    pub(super) fn check_memory(&mut self, at: usize) {
        let replicator = &self.nodes[at].replicator;
        let kept = replicator.kept();
        let bytes = replicator.bytes();
        let logs = replicator.logs();
        let counted: usize = logs.iter().map(|log| log.kept).sum();
        let Tuning { bytes_max, logs_max, .. } = self.settings.tuning;
        // The last block of a node's own log is not dropped.
        let most = bytes_max + bytes_max / 8 + BLOCK_BYTES_MAX;
        let count = logs.len();
        if counted != kept {
            self.breaks(|| format!("{at} counts {kept} entries and has {counted}"));
        }
        if bytes > most || count > logs_max {
            self.breaks(|| format!("{at} holds {bytes} bytes of {count} logs"));
        }
    }

    /// How many of the first facts of one node's log another node refuses by.
    pub fn has_from(&self, at: usize, of: usize) -> usize {
        let facts = self.published.get(&self.nodes[of].origin);
        facts.map_or(0, |facts| facts.iter().take_while(|published| self.has(at, published)).count())
    }

    /// Whether a fact is applied on a node, or has expired there.
    fn has(&self, at: usize, Published { fact, over, .. }: &Published) -> bool {
        // A token that ends by then is expired, by the wall clock or because its denial may be forgotten.
        let is_below_floor = fact.until.as_secs() <= self.nodes[at].clocks.high_water().floor_secs();
        let has_expired = fact.until < self.wall(at) || is_below_floor || *over < self.true_time();
        has_expired || self.nodes[at].holds(fact)
    }

    /// Checks that a node lacks no fact from before the time as of which it says it knows everything.
    pub(super) fn check_fresh(&mut self, at: usize) {
        // The first heads of a link are not repeated soon: a stream does not lose them, but chaos does.
        if self.settings.is_cheap || self.is_chaotic || self.nodes[at].has_corruption {
            return;
        }
        let Some(fresh_at) = self.nodes[at].replicator.fresh_at(self.clock(at)) else { return };
        let fresh_at = self.nodes[at].boot + u64::try_from(fresh_at.as_micros()).unwrap_or(u64::MAX);
        if let Some(Missing { origin, seq, published_at }) = self.oldest_missing(at, false)
            && published_at < fresh_at
        {
            let now = self.now;
            self.breaks(|| {
                format!(
                    "{at} says that it is fresh of {} us ago and lacks {seq} of {}.{}, of {} us ago",
                    now - fresh_at,
                    index_of(origin),
                    origin.incarnation,
                    now - published_at
                )
            });
        }
    }

    /// The oldest fact that a node lacks. Logs of nodes that it knows to have departed count if
    /// `counts_departed`.
    fn oldest_missing(&mut self, at: usize, counts_departed: bool) -> Option<Missing> {
        let mut oldest: Option<Missing> = None;
        let mut cursors = std::mem::take(&mut self.nodes[at].cursors);
        for (origin, facts) in &self.published {
            let cursor = cursors.entry(*origin).or_default();
            while let Some(published) = facts.get(*cursor)
                && self.has(at, published)
            {
                *cursor += 1;
            }
            if let Some(published) = facts.get(*cursor)
                && (counts_departed || !self.nodes[at].views[index_of(*origin)].known_departed)
                && oldest.as_ref().is_none_or(|oldest| published.at < oldest.published_at)
            {
                oldest = Some(Missing { origin: *origin, seq: *cursor + 1, published_at: published.at });
            }
        }
        self.nodes[at].cursors = cursors;
        oldest
    }

    /// Checks that every node that is counted for the last publications has them, and that every linked node
    /// counts as live.
    pub(super) fn check_visible(&mut self, at: usize) {
        if self.settings.is_cheap || self.nodes.iter().any(|node| node.has_corruption) {
            return;
        }
        for index in 0..self.nodes[at].recent.len() {
            let Publication { first, last, visible: before } = self.nodes[at].recent[index];
            let AckCount { have: visible, live } = self.nodes[at].replicator.visible(first, last);
            if visible == before && visible != live {
                continue;
            }
            self.nodes[at].recent[index].visible = visible;
            let (have, linked) = self.count_linked(at, first, last);
            if visible > have || live < linked {
                let what = format!("{at} says {visible}/{live} of {first}..={last}: {have}/{linked}");
                self.breaks(|| what);
                return;
            }
        }
    }

    /// How many nodes linked with this one have these entries of its log, and how many live nodes are linked
    /// with it.
    fn count_linked(&self, at: usize, first: u64, last: u64) -> (u32, u32) {
        let origin = self.nodes[at].origin;
        let facts = &self.published[&origin][index_in_log(first)..=index_in_log(last)];
        let mut have = 0;
        let mut linked = 0;
        for side in &self.nodes[at].links {
            let Some(Connection { origin: peer, .. }) = self.side(*side).linked else { continue };
            let other = index_of(peer);
            // What a former life had cannot be looked up.
            let is_alive = self.nodes[other].up && self.nodes[other].origin == peer;
            let has_all = !is_alive || facts.iter().all(|published| self.has(other, published));
            linked += u32::from(is_alive && !self.nodes[other].departed);
            have += u32::from(has_all);
        }
        (have, linked)
    }

    /// Repairs everything, and waits until every node knows everything and has nothing more to send. Returns
    /// how long that took.
    ///
    /// # Errors
    /// What did not happen.
    pub fn settle(&mut self, within: Micros) -> Result<Micros, String> {
        self.settings.loss = 0;
        self.settings.chaos = 0;
        self.step(Step::Heal);
        self.step(Step::Store { up: true });
        for node in 0..self.settings.nodes {
            // Clocks are right again, as far as they were at the beginning.
            let offset = self.settings.offsets.get(node).copied().unwrap_or(0);
            self.step(Step::Jump { node, by: offset - self.nodes[node].offset });
            self.step(Step::StoreOf { node, up: true });
            self.step(Step::Continue { node });
            if self.nodes[node].departed {
                self.crash(node);
            }
            self.step(Step::Restart { node });
        }
        let begin = self.now;
        let mut unsettled = "nothing".to_owned();
        while self.broken.is_none() && self.now < begin + within {
            self.run_until(self.now + SETTLE_POLL);
            match self.unsettled() {
                None => {
                    let took = self.now - begin;
                    return self.not_quiet().map_or(Ok(took), Err);
                }
                Some(what) => unsettled = what,
            }
        }
        let late = || format!("{} ms after everything was repaired, {unsettled}", within / MS);
        Err(self.broken.clone().unwrap_or_else(late))
    }

    /// What a settled world would not show; `None` if the world has settled.
    fn unsettled(&mut self) -> Option<String> {
        for at in 0..self.settings.nodes {
            if let Some(Missing { origin, seq, .. }) = self.oldest_missing(at, true) {
                return Some(format!("{at} lacks {seq} of {}.{}", index_of(origin), origin.incarnation));
            }
        }
        if !self.is_linked_up() {
            return Some("links are missing".to_owned());
        }
        (0..self.settings.nodes).find_map(|at| self.node_unsettled(at))
    }

    fn node_unsettled(&self, at: usize) -> Option<String> {
        let now = self.clock(at);
        let Node { replicator, recent, has_corruption, .. } = &self.nodes[at];
        if !replicator.is_caught_up() {
            return Some(format!("{at} is not caught up: {:?}", replicator.logs()));
        }
        if replicator.is_sparse() || *has_corruption {
            return None;
        }
        let fresh = replicator.fresh_at(now);
        if fresh.is_none_or(|fresh| fresh + FRESH_WITHIN < now.monotonic) {
            let logs = replicator.logs();
            return Some(format!("{at} is fresh at {fresh:?} of {:?}: {logs:?}", now.monotonic));
        }
        for Publication { first, last, .. } in recent {
            let AckCount { have: visible, live } = replicator.visible(*first, *last);
            if visible < live || self.settings.nodes != live as usize + 1 {
                return Some(format!("{at} says {visible}/{live} of {first}..={last}"));
            }
        }
        None
    }

    /// Checks that idle nodes send only pings and an occasional head, over a span longer than the digest
    /// interval. Facts that have expired by one node's clock and not yet by another's may still cause
    /// traffic, so a few spans are tried.
    fn not_quiet(&mut self) -> Option<String> {
        let mut traffic = None;
        for _ in 0..QUIET_ATTEMPTS_MAX {
            self.run_until(self.now + 3 * SECOND);
            traffic = self.excess_traffic(QUIET_SECONDS);
            if traffic.is_none() || self.broken.is_some() {
                break;
            }
        }
        traffic
    }

    /// Runs for `seconds` and reports traffic beyond that.
    fn excess_traffic(&mut self, seconds: u64) -> Option<String> {
        let before = self.traffic();
        self.run_until(self.now + seconds * SECOND);
        if let Some(broken) = &self.broken {
            return Some(broken.clone());
        }
        if let Some(what) = self.unsettled() {
            return Some(format!("it was settled, and now {what}"));
        }
        let has_corruption = self.nodes.iter().any(|node| node.has_corruption);
        let ping_ms = self.settings.tuning.ping_interval.as_millis().max(1);
        let pings = u64::try_from(1_000 / ping_ms).unwrap_or(0) + 1;
        for (at, (before, after)) in before.iter().zip(self.traffic()).enumerate() {
            let links = self.nodes[at].links.len() as u64;
            let logs = self.published.len() as u64 + links + 1;
            let most = links * (seconds * (2 * pings + 1) + 2 * logs);
            let messages = after.messages - before.messages;
            let facts = after.facts - before.facts;
            let pulls = after.pulls - before.pulls;
            let sends_facts = facts > 0 || pulls > 0;
            if (sends_facts && !has_corruption) || messages > most {
                return Some(format!(
                    "{at} is not quiet: {messages} messages of at most {most}, {facts} facts, {pulls} pulls in {seconds} s"
                ));
            }
        }
        None
    }
}

fn index_in_log(seq: u64) -> usize {
    usize::try_from(seq - 1).unwrap_or(0)
}
