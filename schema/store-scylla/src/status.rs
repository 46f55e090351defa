//! Whether the database is there, for the node and for who watches it.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// So many statements in a row must fail, and none succeed for [`SILENCE`], until we say `Down`.
const FAILURES: u64 = 3;
/// See [`FAILURES`].
const SILENCE: Duration = Duration::from_secs(1);

/// Where we stand with the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not connected yet; the last cause, without secrets.
    Connecting(String),
    /// It answers.
    Up,
    /// It did, and does not now.
    Down(String),
    /// It answers, but this node must not work with it: another schema, a wrong password. We go on
    /// trying: an operator may mend it.
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

/// What was done since the start, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Reads.
    pub reads: u64,
    /// Plain writes.
    pub writes: u64,
    /// Conditional writes.
    pub conditional: u64,
    /// Conditional writes that were not answered, so that we asked what became of them.
    pub asked: u64,
    /// Conditional writes of which we could not learn it, or that were given up under way.
    pub unknown: u64,
    /// Entries of the ledger that do not parse, and were skipped: each once.
    pub unreadable: u64,
    /// Statements that failed.
    pub errors: u64,
    /// Sessions of the driver that were made in place of one that did not recover.
    pub reconnects: u64,
}

/// The state of the connection, shared by who asks and who keeps it.
#[derive(Debug)]
pub struct Status {
    state: watch::Sender<State>,
    last: Mutex<Last>,
    pub(crate) count: Count,
}

/// What statements told us.
#[derive(Debug)]
struct Last {
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
        let last = Last { success: Instant::now(), failures: 0, cause: String::new() };
        Self {
            state: watch::Sender::new(State::Connecting("not tried yet".to_owned())),
            last: Mutex::new(last),
            count: Count::default(),
        }
    }

    /// Where we stand.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Whether it answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        *self.state.borrow() == State::Up
    }

    /// Whether it did answer, and does not now.
    pub(crate) fn is_down(&self) -> bool {
        matches!(*self.state.borrow(), State::Down(_))
    }

    /// Returns when it answers.
    pub async fn up(&self) {
        // The sender is ours, so it is not closed while we wait.
        let _ = self.state.subscribe().wait_for(|state| *state == State::Up).await;
    }

    /// What was done since the start.
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

    /// Notes a state, and says so in the log when it is another kind or has another cause.
    pub(crate) fn set(&self, next: State) {
        self.state.send_if_modified(|state| {
            if *state == next {
                return false;
            }
            match &next {
                State::Up => tracing::info!("the database is up"),
                State::Connecting(why) => tracing::warn!(%why, "the database cannot be reached yet"),
                State::Down(why) => tracing::warn!(%why, "the database does not answer"),
                State::Refused(why) => tracing::error!(%why, "the database is refused"),
            }
            *state = next;
            true
        });
    }

    /// A statement was answered.
    pub(crate) fn succeeded(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.success = Instant::now();
        last.failures = 0;
    }

    /// A statement was not answered.
    pub(crate) fn failed(&self, cause: &impl fmt::Display) {
        self.count.errors.fetch_add(1, Relaxed);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.failures += 1;
        last.cause = cause.to_string();
    }

    /// How long no statement was answered.
    pub(crate) fn silence(&self) -> Duration {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).success.elapsed()
    }

    /// Why we must take it as down; `None` when it answers.
    pub(crate) fn trouble(&self) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        (last.failures >= FAILURES && last.success.elapsed() >= SILENCE).then(|| last.cause.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn three_failures_and_silence_are_trouble() {
        let status = Status::new();
        for _ in 0..3 {
            status.failed(&"lost");
        }
        assert_eq!(status.trouble(), None, "none for a moment only");
        tokio::time::advance(SILENCE).await;
        assert_eq!(status.trouble().as_deref(), Some("lost"));
        status.succeeded();
        tokio::time::advance(SILENCE).await;
        assert_eq!(status.trouble(), None);
    }

    #[tokio::test]
    async fn who_waits_is_told() {
        let status = Status::new();
        assert!(!status.is_up());
        tokio::join!(status.up(), async { status.set(State::Up) });
        assert!(status.is_up());
    }
}
