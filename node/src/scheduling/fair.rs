//! Fair queues: a flow of jobs cannot make another one wait for longer than a turn, nor crowd it out.
//!
//! Jobs are queued by key, keys take turns (round robin), and when there are too many jobs, the newest job of
//! the longest flow is shed ("longest queue drop"). Queues nest: with `Fair<Network, Fair<SocketAddr,
//! VecDeque<J>>>`, networks have equal shares, and so have the connections within a network.
//!
//! A flow that has no jobs takes no memory, so there are never more keys than jobs.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::Hash,
};

use foldhash::quality::RandomState;

/// A queue whose jobs have keys.
pub trait Queue: Default {
    /// The type of the queued jobs.
    type Job;
    /// The key that tells flows apart.
    type Key;

    /// Adds a job.
    fn push(&mut self, key: Self::Key, job: Self::Job);
    /// Removes the job whose turn it is.
    fn pop(&mut self) -> Option<Self::Job>;
    /// Sheds a job: removes the newest one of the longest flow.
    fn shed(&mut self) -> Option<Self::Job>;
    /// The number of jobs.
    fn len(&self) -> usize;
    /// Whether there are no jobs.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One flow: first in, first out.
impl<J> Queue for VecDeque<J> {
    type Job = J;
    type Key = ();

    fn push(&mut self, (): (), job: J) {
        self.push_back(job);
    }

    fn pop(&mut self) -> Option<J> {
        self.pop_front()
    }

    fn shed(&mut self) -> Option<J> {
        self.pop_back()
    }

    fn len(&self) -> usize {
        Self::len(self)
    }
}

/// Flows that take turns. No flow is empty.
#[derive(Debug)]
pub struct Fair<K, Q> {
    flows: HashMap<K, Q, RandomState>,
    /// Each key once, in the order of their turns.
    turns: VecDeque<K>,
    /// Each key once, by the length of its flow.
    lengths: BTreeSet<(usize, K)>,
    len: usize,
}

impl<K, Q> Default for Fair<K, Q> {
    fn default() -> Self {
        Self { flows: HashMap::default(), turns: VecDeque::new(), lengths: BTreeSet::new(), len: 0 }
    }
}

impl<K: Copy + Ord + Hash, Q: Queue> Queue for Fair<K, Q> {
    type Job = Q::Job;
    type Key = (K, Q::Key);

    fn push(&mut self, (key, rest): Self::Key, job: Q::Job) {
        let flow = self.flows.entry(key).or_default();
        if flow.is_empty() {
            self.turns.push_back(key);
        } else {
            self.lengths.remove(&(flow.len(), key));
        }
        flow.push(rest, job);
        self.lengths.insert((flow.len(), key));
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Q::Job> {
        let key = self.turns.pop_front()?;
        let job = self.take_from(key, Q::pop);
        if self.flows.contains_key(&key) {
            self.turns.push_back(key);
        }
        job
    }

    fn shed(&mut self) -> Option<Q::Job> {
        match self.lengths.last().copied() {
            // Each flow has one job, so the last one in the order of turns is the newest.
            Some((1, _)) => {
                let key = self.turns.pop_back()?;
                self.take_from(key, Q::shed)
            }
            Some((_, key)) => self.take_from(key, Q::shed),
            None => None,
        }
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl<K: Copy + Ord + Hash, Q: Queue> Fair<K, Q> {
    fn take_from(&mut self, key: K, take: impl FnOnce(&mut Q) -> Option<Q::Job>) -> Option<Q::Job> {
        let flow = self.flows.get_mut(&key)?;
        self.lengths.remove(&(flow.len(), key));
        let job = take(flow);
        if flow.is_empty() {
            self.flows.remove(&key);
        } else {
            self.lengths.insert((flow.len(), key));
        }
        self.len -= usize::from(job.is_some());
        job
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type TwoLevels = Fair<u8, Fair<u8, VecDeque<(u8, u8, u32)>>>;

    fn push(queue: &mut TwoLevels, network: u8, connection: u8, n: u32) {
        queue.push((network, (connection, ())), (network, connection, n));
    }

    #[test]
    fn new_flow_waits_one_turn_behind_a_long_flow() {
        let mut queue = TwoLevels::default();
        for n in 0..4 {
            (0..250).for_each(|connection| push(&mut queue, 1, connection, n));
        }
        push(&mut queue, 2, 0, 7);
        let turns: Vec<_> = std::iter::from_fn(|| queue.pop()).take(2).collect();
        assert!(turns.contains(&(2, 0, 7)), "{turns:?}");
        // Within a network, a connection with one job waits for one turn of each other connection.
        push(&mut queue, 1, 255, 7);
        let turns: Vec<_> = std::iter::from_fn(|| queue.pop()).take(251).collect();
        assert!(turns.contains(&(1, 255, 7)), "{turns:?}");
    }

    #[test]
    fn longest_flow_sheds_its_newest_job() {
        let mut queue = TwoLevels::default();
        (0..4).for_each(|n| push(&mut queue, 1, 1, n));
        for (connection, n) in [(0, 0), (1, 1), (0, 2), (1, 3), (0, 4)] {
            push(&mut queue, 2, connection, n);
        }
        push(&mut queue, 3, 0, 0);
        assert_eq!(queue.shed(), Some((2, 0, 4)));
        assert!(matches!(queue.shed(), Some((1 | 2, _, 3))));
        assert!(std::iter::from_fn(|| queue.pop()).any(|job| job == (3, 0, 0)));
    }

    #[test]
    fn newest_job_is_shed_among_flows_of_one() {
        let mut queue = TwoLevels::default();
        (0..9).for_each(|network| push(&mut queue, network, 0, 1));
        assert_eq!(queue.shed(), Some((8, 0, 1)));
        let mut queue = TwoLevels::default();
        (0..9).for_each(|connection| push(&mut queue, 0, connection, 1));
        assert_eq!(queue.shed(), Some((0, 8, 1)));
    }

    proptest! {
        /// For any sequence of push, pop and shed: no job is lost or duplicated, each flow keeps its order,
        /// and no flow shorter than its fair share of the bound loses a job.
        #[test]
        fn jobs_leave_once_in_order_and_short_flows_lose_none(
            steps in prop::collection::vec((0_u8..4, 0_u8..6, any::<bool>()), 1..300),
            bound in 8_usize..32,
        ) {
            let mut queue = TwoLevels::default();
            let mut inside = BTreeSet::new();
            let mut last = HashMap::new();
            for (n, (network, connection, pops)) in (0_u32..).zip(steps) {
                push(&mut queue, network, connection, n);
                inside.insert((network, connection, n));
                if queue.len() > bound {
                    let networks: BTreeSet<_> = inside.iter().map(|(network, ..)| *network).collect();
                    let shed = queue.shed().unwrap();
                    let of = inside.iter().filter(|(network, ..)| *network == shed.0).count();
                    prop_assert!(of * networks.len() >= inside.len(), "a short flow lost {shed:?}");
                    prop_assert!(inside.remove(&shed), "{shed:?} came out twice");
                }
                if pops {
                    let popped = queue.pop().unwrap();
                    prop_assert!(inside.remove(&popped), "{popped:?} came out twice");
                    let before = last.insert((popped.0, popped.1), popped.2);
                    prop_assert!(before.is_none_or(|before| before < popped.2), "out of order");
                }
                prop_assert_eq!(queue.len(), inside.len());
            }
            while let Some(popped) = queue.pop() {
                prop_assert!(inside.remove(&popped));
            }
            prop_assert!(inside.is_empty());
            prop_assert!(queue.flows.is_empty() && queue.turns.is_empty() && queue.lengths.is_empty());
        }
    }
}
