//! Hashing: on threads of the lowest priority, behind a short and fair queue.
//!
//! Hashing a password takes tens of milliseconds of a core. Beyond the queue, callers are turned away at
//! once (503 with `Retry-After`): a login that waits for seconds helps nobody. Clients' networks, and in each
//! of them its connections, take turns in the queue, and the longest of them is turned away first: one address
//! that floods log-ins leaves others their turn.

use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc};

use schema::{Entropy, user::PasswordHash};
use tokio::sync::oneshot;

use super::{
    hash::{Hasher, SALT_BYTES, Verdict},
    policy::Normalized,
};
use crate::{
    fair::Fair,
    source::{Network, Source},
    workers::Workers,
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

type Jobs = Fair<Network, Fair<SocketAddr, VecDeque<Job>>>;

/// Hashes and checks passwords.
pub struct PasswordPool {
    workers: Workers<Jobs>,
    /// A hash of nothing in particular: checking against it takes the time that checking takes.
    nobody: PasswordHash,
}

impl PasswordPool {
    /// Starts the threads, one a core.
    ///
    /// # Errors
    /// When the system gives no thread, or the library does not hash.
    pub fn start(entropy: &Arc<dyn Entropy>) -> io::Result<Self> {
        let workers = Workers::start("password", LOWEST_PRIORITY, QUEUE, || {
            let (mut hasher, entropy) = (Hasher::default(), entropy.clone());
            move |job| work(&mut hasher, &*entropy, job)
        })?;
        let mut salt = [0; SALT_BYTES];
        entropy.fill(&mut salt);
        let nobody = Normalized::typed("nobody's password").and_then(|n| Hasher::default().hash(&n, salt));
        let nobody = nobody.ok_or_else(|| io::Error::other("argon2 does not hash"))?;
        Ok(Self { workers, nobody })
    }

    /// The hash of a new password.
    ///
    /// # Errors
    /// When too many wait.
    pub async fn hash(&self, password: Normalized, source: Source) -> Result<PasswordHash, PoolBusy> {
        let (reply, answer) = oneshot::channel();
        self.send(source, Job::Hash(password, reply));
        answer.await.ok().flatten().ok_or(PoolBusy)
    }

    /// Whether the password is the one of this hash.
    ///
    /// # Errors
    /// When too many wait.
    pub async fn verify(
        &self,
        password: Normalized,
        hash: PasswordHash,
        source: Source,
    ) -> Result<Verdict, PoolBusy> {
        let (reply, answer) = oneshot::channel();
        self.send(source, Job::Verify(password, hash, reply));
        answer.await.map_err(|_| PoolBusy)
    }

    /// Takes the time of [`Self::verify`] where there is nothing to check.
    ///
    /// # Errors
    /// When too many wait.
    pub async fn verify_nobody(&self, password: Option<Normalized>, source: Source) -> Result<(), PoolBusy> {
        let any = password.or_else(|| Normalized::typed("somebody's password")).ok_or(PoolBusy)?;
        self.verify(any, self.nobody.clone(), source).await.map(drop)
    }

    fn send(&self, source: Source, job: Job) {
        self.workers.send((source.network, (source.connection, ())), job);
    }

    /// How many passwords wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.workers.waiting()
    }
}

fn work(hasher: &mut Hasher, entropy: &dyn Entropy, job: Job) {
    match job {
        // The caller may be gone: then the work is not worth doing.
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
