//! Hashing threads: few, of the lowest priority, behind a short queue.
//!
//! Hashing a password takes tens of milliseconds of a core. On the runtime's own threads a flood
//! of logins takes validation to a hundredth of its throughput; on threads of nice 19 the system
//! gives them what the rest leaves. Beyond the queue, callers are turned away at once (503 with
//! `Retry-After`): a login that waits for seconds helps nobody.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use schema::{Entropy, user::PasswordHash};
use tokio::sync::oneshot;

use super::{
    hash::{Hasher, SALT_BYTES, Verdict},
    policy::Normalized,
};

/// How many passwords may wait.
pub const QUEUE: usize = 16;
const LOWEST_PRIORITY: i32 = 19;

/// The queue is full, or the pool is gone. Try again in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords wait to be hashed")]
pub struct PoolBusy;

enum Job {
    Hash(Normalized, oneshot::Sender<Option<PasswordHash>>),
    Verify(Normalized, PasswordHash, oneshot::Sender<Verdict>),
}

/// Hashes and checks passwords.
pub struct PasswordPool {
    jobs: mpsc::SyncSender<Job>,
    waiting: Arc<AtomicUsize>,
    /// A hash of nothing in particular: checking against it takes the time that checking takes.
    nobody: PasswordHash,
}

impl PasswordPool {
    /// Starts the threads, one a core.
    ///
    /// # Errors
    /// When the system gives no thread, or the library does not hash.
    pub fn start(entropy: &Arc<dyn Entropy>) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        let waiting = Arc::new(AtomicUsize::new(0));
        for n in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (queue, waiting, entropy) = (queue.clone(), waiting.clone(), entropy.clone());
            let thread = thread::Builder::new().name(format!("password-{n}"));
            thread.spawn(move || work(&queue, &waiting, &*entropy))?;
        }
        let mut salt = [0; SALT_BYTES];
        entropy.fill(&mut salt);
        let nobody = Normalized::typed("nobody's password").and_then(|n| Hasher::default().hash(&n, salt));
        let nobody = nobody.ok_or_else(|| std::io::Error::other("argon2 does not hash"))?;
        Ok(Self { jobs, waiting, nobody })
    }

    /// The hash of a new password.
    ///
    /// # Errors
    /// When too many wait.
    pub async fn hash(&self, password: Normalized) -> Result<PasswordHash, PoolBusy> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Hash(password, reply))?;
        answer.await.ok().flatten().ok_or(PoolBusy)
    }

    /// Whether the password is the one of this hash.
    ///
    /// # Errors
    /// When too many wait.
    pub async fn verify(&self, password: Normalized, hash: PasswordHash) -> Result<Verdict, PoolBusy> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Verify(password, hash, reply))?;
        answer.await.map_err(|_| PoolBusy)
    }

    /// Takes the time of [`Self::verify`] where there is nothing to check.
    ///
    /// # Errors
    /// When too many wait.
    pub async fn verify_nobody(&self, password: Option<Normalized>) -> Result<(), PoolBusy> {
        let any = password.or_else(|| Normalized::typed("somebody's password")).ok_or(PoolBusy)?;
        self.verify(any, self.nobody.clone()).await.map(drop)
    }

    /// How many passwords wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn send(&self, job: Job) -> Result<(), PoolBusy> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.jobs.try_send(job).map_err(|_| {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            PoolBusy
        })
    }
}

fn work(queue: &Mutex<mpsc::Receiver<Job>>, waiting: &AtomicUsize, entropy: &dyn Entropy) {
    // On Linux this is about the calling thread. Without the right to it, all is as before.
    let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
    let mut hasher = Hasher::default();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        waiting.fetch_sub(1, Ordering::Relaxed);
        match job {
            // Who asked may be gone: then the work is not worth doing.
            Job::Hash(_, reply) if reply.is_closed() => {}
            Job::Verify(_, _, reply) if reply.is_closed() => {}
            Job::Hash(password, reply) => {
                let mut salt = [0; SALT_BYTES];
                entropy.fill(&mut salt);
                let _ = reply.send(hasher.hash(&password, salt));
            }
            Job::Verify(password, hash, reply) => {
                let _ = reply.send(hasher.verify(&password, &hash));
            }
        }
    }
}
