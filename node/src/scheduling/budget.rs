//! A budget of a scarce resource that requests hold for a while: bytes of memory, places in a queue.
//!
//! Promises: the total granted at a time never exceeds the budget. A client network holds a quarter of it at
//! most, and never more than remains free for all others: the more networks hold much, the less each gets
//! ("dynamic thresholds"), so that a network that holds nothing always gets some. Dropping the [`Charge`]
//! returns what it holds, however the request ends.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::quality::RandomState;

use crate::scheduling::source::{Network, Source};

/// One network holds at most the budget divided by this.
const NETWORK_SHARES_MIN: usize = 4;

/// The budget, or the share of this network, is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the budget is used up")]
pub struct UsedUp;

/// A budget of a scarce resource, shared fairly among client networks.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    held: Mutex<Held>,
    refusals: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// The amounts held by networks, without those that hold nothing.
    by_network: HashMap<Network, usize, RandomState>,
}

impl Budget {
    /// A budget of `total` units.
    #[must_use]
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, held: Mutex::default(), refusals: AtomicU64::new(0) })
    }

    /// Takes `amount` from the budget for a request.
    ///
    /// # Errors
    /// If the amount is not available.
    pub fn hold(self: &Arc<Self>, source: Source, amount: usize) -> Result<Charge, UsedUp> {
        let network = (!source.is_proxy).then_some(source.network);
        let mut charge = Charge { budget: self.clone(), network, amount: 0 };
        charge.grow(amount)?;
        Ok(charge)
    }

    /// The amount held by requests.
    #[must_use]
    pub fn held(&self) -> usize {
        self.lock().all
    }

    /// The size of the budget.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }

    /// The number of refusals.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The amount that a request holds of a budget. Dropping it returns the amount.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    /// The network whose share it counts against.
    network: Option<Network>,
    amount: usize,
}

impl Charge {
    /// Takes `by` more from the budget.
    ///
    /// # Errors
    /// If the amount is not available; the charge stays as it was.
    pub fn grow(&mut self, by: usize) -> Result<(), UsedUp> {
        let budget = &self.budget;
        let mut held = budget.lock();
        let of_network = self.network.and_then(|network| held.by_network.get(&network)).copied().unwrap_or(0);
        let left = held.all.checked_add(by).and_then(|all| budget.total.checked_sub(all));
        let fits = left.is_some_and(|left| {
            self.network.is_none()
                || of_network.saturating_add(by) <= left.min(budget.total / NETWORK_SHARES_MIN)
        });
        if !fits {
            drop(held);
            budget.refusals.fetch_add(1, Ordering::Relaxed);
            return Err(UsedUp);
        }
        held.all += by;
        if let Some(network) = self.network.filter(|_| by > 0) {
            held.by_network.insert(network, of_network + by);
        }
        self.amount += by;
        Ok(())
    }

    /// Sets the amount held, even beyond the budget: for memory that is in use already.
    pub fn set(&mut self, amount: usize) {
        let mut held = self.budget.lock();
        held.all = held.all - self.amount + amount;
        if let Some(network) = self.network {
            match held.by_network.entry(network) {
                Entry::Occupied(mut entry) => {
                    *entry.get_mut() = *entry.get() - self.amount + amount;
                    if *entry.get() == 0 {
                        entry.remove();
                    }
                }
                Entry::Vacant(entry) if amount > 0 => {
                    entry.insert(amount);
                }
                Entry::Vacant(_) => {}
            }
        }
        self.amount = amount;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(n: u8) -> Source {
        let connection = std::net::SocketAddr::from(([192, 0, 2, n], 1));
        Source { network: connection.ip().into(), connection, is_proxy: false }
    }

    #[test]
    fn network_gets_a_quarter_and_a_proxy_gets_all() {
        let budget = Budget::new(100);
        let mut mine: Vec<_> = (0..5).map(|_| budget.hold(source(1), 5).unwrap()).collect();
        assert_eq!(budget.hold(source(1), 1).unwrap_err(), UsedUp);
        assert_eq!(mine[0].grow(1), Err(UsedUp));
        // However many networks want a quarter, some remains for the next.
        let others: Vec<_> = [25, 25, 12, 6, 3]
            .into_iter()
            .zip(2..)
            .map(|(most, n)| {
                assert_eq!(budget.hold(source(n), most + 1).unwrap_err(), UsedUp);
                budget.hold(source(n), most).unwrap()
            })
            .collect();
        assert_eq!((budget.held(), budget.refusals()), (96, 7));
        drop((mine, others));
        assert_eq!(budget.held(), 0);
        assert!(budget.lock().by_network.is_empty());
        let proxy = Source { is_proxy: true, ..source(1) };
        let all = budget.hold(proxy, 100).unwrap();
        assert_eq!(budget.hold(proxy, usize::MAX).unwrap_err(), UsedUp);
        drop(all);
    }

    proptest! {
        #[test]
        fn held_amount_is_the_sum_of_charges(
            steps in prop::collection::vec((0_u8..4, 0_usize..40, 0_u8..4), 0..200),
        ) {
            let budget = Budget::new(100);
            let mut charges: Vec<Charge> = Vec::new();
            for (network, amount, what) in steps {
                match what {
                    0 => charges.extend(budget.hold(source(network), amount)),
                    1 => drop((!charges.is_empty()).then(|| charges.swap_remove(amount % charges.len()))),
                    2 => {
                        let _ = charges.first_mut().map(|charge| charge.grow(amount));
                    }
                    _ => if let Some(charge) = charges.first_mut() {
                        charge.set(charge.amount.min(amount));
                    },
                }
                prop_assert_eq!(budget.held(), charges.iter().map(|charge| charge.amount).sum::<usize>());
                prop_assert!(budget.held() <= 100);
                for n in 0..4 {
                    let of = |charge: &&Charge| charge.network == Some(source(n).network);
                    let sum: usize = charges.iter().filter(of).map(|charge| charge.amount).sum();
                    prop_assert_eq!(budget.lock().by_network.get(&source(n).network).copied().unwrap_or(0), sum);
                    prop_assert!(sum <= 25);
                }
            }
            drop(charges);
            prop_assert_eq!(budget.held(), 0);
            prop_assert!(budget.lock().by_network.is_empty());
        }
    }
}
