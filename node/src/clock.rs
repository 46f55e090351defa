//! The machine's time and randomness: the one place that asks for them, and the file in which a node keeps what
//! the next start is to know about its clocks.

#[cfg(debug_assertions)]
mod shift;

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use cluster::boottime;
use schema::{
    Clock, Clocks, Entropy, MonotonicClock, Timestamp,
    horizon::Saved,
    time::{self, millis},
};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::data_dir::{DataDir, DataDirError};

/// Changes when the machine is booted.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const FILE: &str = "clock.json";
/// Tokens that end up to so much later than those of now are covered by what is saved.
const RESERVE: Duration = Duration::from_secs(120);
/// After a save that failed it is tried again for tokens that end so much later.
const RETRY: Duration = Duration::from_secs(10);

/// The machine's wall clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the clock that everybody else is given")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = Timestamp::from_millis(time::millis(since_epoch.unwrap_or(Duration::ZERO)));
        #[cfg(debug_assertions)]
        let now = shift::wall(now);
        now
    }
}

/// The machine's boot time, which never jumps.
#[derive(Debug, Default, Clone, Copy)]
pub struct BootClock;

impl MonotonicClock for BootClock {
    fn elapsed(&self) -> Duration {
        let elapsed = boottime();
        #[cfg(debug_assertions)]
        let elapsed = shift::boot(elapsed);
        elapsed
    }
}

/// How often a node looks for what has ended: as said, and soon when a test moves its clocks.
#[must_use]
pub fn upkeep_interval(usual: Duration) -> Duration {
    #[cfg(debug_assertions)]
    let usual = if shift::is_on() { shift::UPKEEP } else { usual };
    usual
}

/// Tells boots of the machine apart; empty when that cannot be told.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The file in the data directory that carries clocks over a restart: up to where things were forgotten, which
/// tokens may have been issued, and how the wall clock ran.
#[derive(Debug)]
pub struct ClockFile {
    data_dir: DataDir,
    /// Tokens that end up to here, in seconds since the epoch, are covered by what is saved.
    reserved_secs: AtomicU64,
    writing: Mutex<()>,
}

impl ClockFile {
    /// Opens the file and returns what the previous process saved. A file that does not parse is ignored; the
    /// node then forgets nothing for a while.
    ///
    /// # Errors
    /// If the file exists and cannot be read. Without it, revoked tokens whose denials were forgotten might be
    /// accepted.
    pub fn open(data_dir: &DataDir) -> Result<(Self, Option<Saved>), DataDirError> {
        let path = data_dir.path().join(FILE);
        let saved: Option<Saved> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .inspect_err(
                    |error| tracing::error!(?path, %error, "the clock file does not parse and is ignored"),
                )
                .ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(DataDirError::new(&path, &error)),
        };
        let reserved_secs = AtomicU64::new(saved.as_ref().map_or(0, Saved::latest_expiry_secs));
        Ok((Self { data_dir: data_dir.clone(), reserved_secs, writing: Mutex::new(()) }, saved))
    }

    fn path(&self) -> PathBuf {
        self.data_dir.path().join(FILE)
    }

    /// Saves what is known, and covers tokens that end up to `expiry` and some time more.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, clocks: &Clocks, expiry: Timestamp) -> Result<(), DataDirError> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.save_by(&writing, clocks, expiry)
    }

    fn save_by(
        &self,
        _: &MutexGuard<'_, ()>,
        clocks: &Clocks,
        expiry: Timestamp,
    ) -> Result<(), DataDirError> {
        let saved = clocks.save(expiry.plus(RESERVE));
        let bytes = serde_json::to_vec(&saved).map_err(|error| DataDirError::new(&self.path(), &error))?;
        self.data_dir.write(&self.path(), &bytes)?;
        self.reserved_secs.fetch_max(saved.latest_expiry_secs(), Ordering::AcqRel);
        Ok(())
    }

    /// Whether a token that ends then is covered by what is saved.
    #[must_use]
    pub fn covers(&self, expiry: Timestamp) -> bool {
        expiry.as_secs() <= self.reserved_secs.load(Ordering::Acquire)
    }

    /// A token is about to be issued that ends then. It is covered already, unless the clock has jumped ahead
    /// since the last save. A disk that cannot be written, or a save that hangs, does not block log-ins.
    pub fn cover(&self, clocks: &Clocks, expiry: Timestamp) {
        if self.covers(expiry) {
            return;
        }
        let saved = match self.writing.try_lock() {
            Ok(writing) => in_place(|| self.save_by(&writing, clocks, expiry)),
            Err(TryLockError::Poisoned(writing)) => {
                in_place(|| self.save_by(&writing.into_inner(), clocks, expiry))
            }
            Err(TryLockError::WouldBlock) => Err(DataDirError::new(&self.path(), &"it is being written")),
        };
        if let Err(error) = saved {
            tracing::warn!(%error, "the latest expiry of tokens is not on the disk");
            self.reserved_secs.fetch_max(expiry.plus(RETRY).as_secs(), Ordering::AcqRel);
        }
    }

    /// How much later than those of now tokens may end before the next save is due.
    #[must_use]
    pub fn is_due(&self, expiry: Timestamp) -> bool {
        !self.covers(Timestamp::from_millis(expiry.as_millis().saturating_add(millis(RESERVE) / 2)))
    }
}

/// Runs blocking work, moving this worker's other tasks to another thread if the runtime has several.
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if matches!(flavor, Ok(RuntimeFlavor::MultiThread)) { tokio::task::block_in_place(work) } else { work() }
}

/// The operating system's random bytes.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// # Panics
    /// When the operating system has no randomness: going on would make guessable tokens.
    #[allow(clippy::expect_used, reason = "there is no safe way to go on")]
    fn fill(&self, bytes: &mut [u8]) {
        SystemRandom::new().fill(bytes).expect("the operating system gives random bytes");
    }
}
