//! Retries of a compare-and-set that another writer may win: the loop of all who change a record.
//!
//! Promises: attempts run one after another, at most as many as [`Pacing`] says; an error ends them at once,
//! because after a store error it is not known whether the change happened. The loop neither reads nor writes;
//! the attempt does both.

use std::time::Duration;

use schema::Entropy;

use crate::StoreError;

/// Attempts to change a row, which the store returns when an attempt loses.
pub const ROW_ATTEMPTS_MAX: usize = 16;
/// Attempts to change a document that all nodes share.
const DOCUMENT_ATTEMPTS_MAX: usize = 64;
/// The longest pause between two attempts: about one compare-and-set of a store with several nodes.
const CAS_PAUSE_MAX: Duration = Duration::from_millis(20);

/// How one attempt ended.
pub enum Attempt<T, S> {
    /// No further attempt is needed; this is the result.
    Done(T),
    /// Nothing changed: another writer was faster, or the attempt found its state too old. The next
    /// attempt starts from this state.
    Lost(S),
}

/// How many attempts there are, and how soon one follows a lost one.
#[derive(Clone, Copy)]
pub enum Pacing<'a> {
    /// This many, at once, for a store call that returns the current row when it loses: a pause only lets
    /// that row grow old.
    AtOnce(usize),
    /// `DOCUMENT_ATTEMPTS_MAX`, after a random pause of at most `CAS_PAUSE_MAX`, for an attempt that reads
    /// again: writers that collided read at different times.
    Jittered(&'a dyn Entropy),
}

impl Pacing<'_> {
    const fn attempts_max(self) -> usize {
        match self {
            Self::AtOnce(attempts_max) => attempts_max,
            Self::Jittered(_) => DOCUMENT_ATTEMPTS_MAX,
        }
    }
}

/// Every attempt lost against another writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the row changed again during each compare-and-set; gave up")]
pub struct Contended;

impl From<Contended> for StoreError {
    fn from(contended: Contended) -> Self {
        Self::unavailable(contended)
    }
}

/// Runs `attempt` until it is done, passing it the state that the lost attempt before it returned.
///
/// # Errors
/// The error of an attempt, or [`Contended`] when all attempts lost.
pub async fn retry<T, S, E, F>(
    pacing: Pacing<'_>,
    initial: S,
    mut attempt: impl FnMut(S) -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<Attempt<T, S>, E>>,
    E: From<Contended>,
{
    let mut state = initial;
    for attempts_left in (0..pacing.attempts_max()).rev() {
        match attempt(state).await? {
            Attempt::Done(done) => return Ok(done),
            Attempt::Lost(current) => state = current,
        }
        if let Pacing::Jittered(entropy) = pacing
            && attempts_left > 0
        {
            tokio::time::sleep(pause(entropy)).await;
        }
    }
    Err(Contended.into())
}

/// A random pause between zero and [`CAS_PAUSE_MAX`].
fn pause(entropy: &dyn Entropy) -> Duration {
    let mut random = [0; 2];
    entropy.fill(&mut random);
    CAS_PAUSE_MAX * u32::from(u16::from_be_bytes(random)) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Fills with one byte and counts its calls.
    struct Constant {
        byte: u8,
        calls: AtomicUsize,
    }

    impl Constant {
        const fn new(byte: u8) -> Self {
            Self { byte, calls: AtomicUsize::new(0) }
        }
    }

    impl Entropy for Constant {
        fn fill(&self, bytes: &mut [u8]) {
            self.calls.fetch_add(1, Ordering::SeqCst);
            bytes.fill(self.byte);
        }
    }

    #[derive(Debug, PartialEq, Eq)]
    enum Failed {
        Contended,
        Store,
    }

    impl From<Contended> for Failed {
        fn from(_: Contended) -> Self {
            Self::Contended
        }
    }

    /// An attempt that is done when it has lost `losses` times.
    async fn done_after(losses: usize, lost: usize) -> Result<Attempt<usize, usize>, Failed> {
        Ok(if lost == losses { Attempt::Done(lost) } else { Attempt::Lost(lost + 1) })
    }

    #[tokio::test]
    async fn lost_attempt_is_retried_with_its_state() {
        for losses in [0, 1, ROW_ATTEMPTS_MAX - 1] {
            let retried = retry(Pacing::AtOnce(ROW_ATTEMPTS_MAX), 0, |lost| done_after(losses, lost)).await;
            assert_eq!(retried, Ok(losses));
        }
    }

    #[tokio::test]
    async fn attempts_are_bounded() {
        let mut attempts = 0;
        let retried = retry(Pacing::AtOnce(8), 0, |lost| {
            attempts += 1;
            done_after(8, lost)
        });
        assert_eq!(retried.await, Err(Failed::Contended));
        assert_eq!(attempts, 8);
    }

    #[tokio::test]
    async fn error_ends_the_attempts() {
        let mut attempts = 0;
        let retried: Result<(), _> = retry(Pacing::AtOnce(ROW_ATTEMPTS_MAX), (), |()| {
            attempts += 1;
            async { Err::<Attempt<(), ()>, _>(Failed::Store) }
        })
        .await;
        assert_eq!(retried, Err(Failed::Store));
        assert_eq!(attempts, 1);
    }

    #[tokio::test]
    async fn jittered_attempts_pause_only_between_each_other() {
        for (losses, pauses) in [(0, 0), (3, 3), (DOCUMENT_ATTEMPTS_MAX, DOCUMENT_ATTEMPTS_MAX - 1)] {
            let entropy = Constant::new(0);
            let _ = retry(Pacing::Jittered(&entropy), 0, |lost| done_after(losses, lost)).await;
            assert_eq!(entropy.calls.load(Ordering::SeqCst), pauses, "{losses}");
        }
    }

    #[test]
    fn pause_is_random_and_bounded() {
        assert_eq!(pause(&Constant::new(0)), Duration::ZERO);
        assert_eq!(pause(&Constant::new(u8::MAX)), CAS_PAUSE_MAX);
        let half = pause(&Constant::new(0x80));
        assert!(half > CAS_PAUSE_MAX / 2 && half < CAS_PAUSE_MAX, "{half:?}");
    }
}
