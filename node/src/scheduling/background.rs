//! Named background tasks, which run in rounds: when each last finished a round, and what failed.
//!
//! Promises: the metrics show a task that has stopped, hangs or always fails; the log has the error of its first
//! failure after a success.

use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use schema::Clocks;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The name of the task that removes expired denials, rows and keys.
pub const UPKEEP: &str = "upkeep";

/// The background tasks of a node.
#[derive(Debug)]
pub struct Background {
    clocks: Arc<Clocks>,
    tasks: Mutex<BTreeMap<&'static str, TaskStatus>>,
}

/// The status of a background task.
#[derive(Debug, Clone, Copy)]
pub struct TaskStatus {
    /// Rounds finished, with or without success.
    pub rounds: u64,
    /// Rounds that failed.
    pub failures: u64,
    /// Whether the last round failed.
    pub is_failing: bool,
    /// When the last round finished, by the monotonic clock; before the first, when the task started.
    last_round_at: Duration,
}

impl Background {
    /// A registry without tasks.
    #[must_use]
    pub fn new(clocks: Arc<Clocks>) -> Self {
        Self { clocks, tasks: Mutex::default() }
    }

    /// Registers a task with this name and returns its rounds: the first at once, each further one `period`
    /// after the end of the previous round.
    #[must_use]
    pub fn rounds(self: &Arc<Self>, name: &'static str, period: Duration) -> Rounds {
        let now = self.clocks.monotonic();
        let status = TaskStatus { rounds: 0, failures: 0, is_failing: false, last_round_at: now };
        self.tasks().entry(name).or_insert(status);
        let mut interval = interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Rounds { background: self.clone(), name, interval }
    }

    /// All tasks by name, and how long ago each finished a round, or started.
    #[must_use]
    pub fn statuses(&self) -> Vec<(&'static str, TaskStatus, Duration)> {
        let now = self.clocks.monotonic();
        let status = |(name, status): (&&'static str, &TaskStatus)| {
            (*name, *status, now.saturating_sub(status.last_round_at))
        };
        self.tasks().iter().map(status).collect()
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<&'static str, TaskStatus>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rounds of one task.
#[derive(Debug)]
pub struct Rounds {
    background: Arc<Background>,
    name: &'static str,
    interval: Interval,
}

impl Rounds {
    /// Waits for the next round.
    pub async fn next(&mut self) {
        self.interval.tick().await;
    }

    /// Records that a round finished with this result.
    pub fn finished<T, E: Display>(&self, result: &Result<T, E>) {
        let now = self.background.clocks.monotonic();
        let mut tasks = self.background.tasks();
        let Some(status) = tasks.get_mut(self.name) else { return };
        status.rounds += 1;
        status.last_round_at = now;
        status.failures += u64::from(result.is_err());
        let was_failing = std::mem::replace(&mut status.is_failing, result.is_err());
        drop(tasks);
        if let (Err(error), false) = (result, was_failing) {
            tracing::warn!(task = self.name, %error, "background task failed");
        }
    }

    /// Records that a round finished that cannot fail.
    pub fn done(&self) {
        self.finished(&Ok::<(), std::convert::Infallible>(()));
    }
}

#[cfg(test)]
mod tests {
    use schema::{Timestamp, horizon::manual::ManualClocks};

    use super::*;

    #[tokio::test]
    async fn status_reports_rounds_failures_and_age() {
        let manual = ManualClocks::at(Timestamp::from_secs(1_700_000_000));
        let background = Arc::new(Background::new(manual.clocks()));
        let mut rounds = background.rounds("test", Duration::from_millis(1));
        let status = || background.statuses().remove(0);
        let (name, before, age) = status();
        assert_eq!((name, before.rounds, age), ("test", 0, Duration::ZERO));

        rounds.next().await;
        rounds.finished(&Err::<(), _>("the store is down"));
        manual.advance(Duration::from_secs(5));
        let (_, failed, age) = status();
        assert_eq!((failed.rounds, failed.failures, failed.is_failing), (1, 1, true));
        assert_eq!(age, Duration::from_secs(5));

        rounds.next().await;
        rounds.done();
        let (_, done, age) = status();
        assert_eq!((done.rounds, done.failures, done.is_failing, age), (2, 1, false, Duration::ZERO));
    }
}
