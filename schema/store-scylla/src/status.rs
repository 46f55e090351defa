//! Whether the database answers, for the node and its operators.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::timer;

/// Least number of consecutive failures, together with [`DOWN_SILENCE_MIN`], before the database counts
/// as down.
const DOWN_FAILURES_MIN: u64 = 3;
/// Least time without a success, together with [`DOWN_FAILURES_MIN`], before the database counts as down.
const DOWN_SILENCE_MIN: Duration = Duration::from_secs(1);

/// The state of the connection to the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not connected yet. Holds the last cause, without secrets.
    Connecting(String),
    /// The database answers.
    Up,
    /// The database answered before, and does not now. Holds the last cause, without secrets.
    Down(String),
    /// The database answers, but this node must not use it: another schema, a wrong password. The node
    /// keeps trying, because an operator may repair it.
    Refused(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting(why) => write!(f, "connecting: {why}"),
            Self::Up => f.write_str("up"),
            Self::Down(why) => write!(f, "down: {why}"),
            Self::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

/// Counters since the start of the process, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Reads sent.
    pub reads: u64,
    /// Plain writes sent.
    pub writes: u64,
    /// Conditional writes sent.
    pub conditional: u64,
    /// Conditional writes without an answer, whose outcome the store then read.
    pub asked: u64,
    /// Conditional writes whose outcome stayed unknown, or whose caller dropped them under way.
    pub unknown: u64,
    /// Ledger entries that do not parse and were skipped, each counted once.
    pub unreadable: u64,
    /// Statements that failed.
    pub errors: u64,
    /// Driver sessions that replaced one that did not recover.
    pub reconnects: u64,
}

/// The state of the connection, shared by the stores and the connection keeper.
#[derive(Debug)]
pub struct Status {
    state: watch::Sender<State>,
    last: Mutex<LastResults>,
    pub(crate) count: Count,
}

/// The results of the last statements.
#[derive(Debug)]
struct LastResults {
    success: Instant,
    failures: u64,
    cause: String,
}

#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) conditional: AtomicU64,
    pub(crate) asked: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) unreadable: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) reconnects: AtomicU64,
}

impl Status {
    pub(crate) fn new() -> Self {
        let last = LastResults { success: timer::now(), failures: 0, cause: String::new() };
        Self {
            state: watch::Sender::new(State::Connecting("not tried yet".to_owned())),
            last: Mutex::new(last),
            count: Count::default(),
        }
    }

    /// The current state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Whether the database answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        *self.state.borrow() == State::Up
    }

    /// Whether the database answered before, and does not now.
    pub(crate) fn is_down(&self) -> bool {
        matches!(*self.state.borrow(), State::Down(_))
    }

    /// Waits until the database answers.
    pub async fn up(&self) {
        // `self` owns the sender, so the channel stays open during the wait.
        let _ = self.state.subscribe().wait_for(|state| *state == State::Up).await;
    }

    /// The counters since the start of the process.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let count = &self.count;
        Counters {
            reads: count.reads.load(Relaxed),
            writes: count.writes.load(Relaxed),
            conditional: count.conditional.load(Relaxed),
            asked: count.asked.load(Relaxed),
            unknown: count.unknown.load(Relaxed),
            unreadable: count.unreadable.load(Relaxed),
            errors: count.errors.load(Relaxed),
            reconnects: count.reconnects.load(Relaxed),
        }
    }

    /// Sets the state, and logs it if it differs from the current one.
    pub(crate) fn set(&self, next: State) {
        self.state.send_if_modified(|state| {
            if *state == next {
                return false;
            }
            match &next {
                State::Up => tracing::info!("the database is up"),
                State::Connecting(why) => tracing::warn!(%why, "the database cannot be reached yet"),
                State::Down(why) => tracing::warn!(%why, "the database does not answer"),
                State::Refused(why) => tracing::error!(%why, "the database refused this node"),
            }
            *state = next;
            true
        });
    }

    /// Notes that a statement was answered.
    pub(crate) fn succeeded(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.success = timer::now();
        last.failures = 0;
    }

    /// Notes that a statement failed.
    pub(crate) fn failed(&self, cause: &impl fmt::Display) {
        self.count.errors.fetch_add(1, Relaxed);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.failures += 1;
        last.cause = cause.to_string();
    }

    /// The time since the last statement was answered.
    pub(crate) fn silence(&self) -> Duration {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).success.elapsed()
    }

    /// The cause if the database counts as down; `None` otherwise.
    pub(crate) fn down_cause(&self) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_down = last.failures >= DOWN_FAILURES_MIN && last.success.elapsed() >= DOWN_SILENCE_MIN;
        is_down.then(|| last.cause.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn database_is_down_after_three_failures_and_silence() {
        let status = Status::new();
        for _ in 0..3 {
            status.failed(&"lost");
        }
        assert_eq!(status.down_cause(), None, "it answered a moment ago");
        tokio::time::advance(DOWN_SILENCE_MIN).await;
        assert_eq!(status.down_cause().as_deref(), Some("lost"));
        status.succeeded();
        tokio::time::advance(DOWN_SILENCE_MIN).await;
        assert_eq!(status.down_cause(), None);
    }

    #[tokio::test]
    async fn waiting_call_returns_once_up() {
        let status = Status::new();
        assert!(!status.is_up());
        tokio::join!(status.up(), async { status.set(State::Up) });
        assert!(status.is_up());
    }
}
