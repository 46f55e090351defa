//! Hashes passwords on threads of the lowest priority, behind a short and fair queue.
//!
//! Hashing a password takes tens of milliseconds of a core. When the queue is full, callers are refused at
//! once (503 with `Retry-After`), since a log-in that waits for seconds is useless. Client networks, and the
//! connections of each, take turns in the queue, and the longest flow is shed first: an address that floods
//! log-ins leaves others their turn.

use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc};

use schema::{Entropy, user::PasswordHash};
use tokio::sync::oneshot;

use super::{
    hash::{Hasher, SALT_BYTES, Verdict},
    policy::Normalized,
};
use crate::scheduling::{
    fair::Fair,
    source::{Network, Source},
    workers::{Priority, Workers},
};

/// Passwords that may wait to be hashed.
pub const QUEUE_MAX: usize = 16;

/// The queue is full, or the pool has ended. Retry after a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords wait to be hashed")]
pub struct PoolBusy;

enum Job {
    Hash(Normalized, oneshot::Sender<Option<PasswordHash>>),
    Verify(Normalized, PasswordHash, oneshot::Sender<Verdict>),
}

type Jobs = Fair<Network, Fair<SocketAddr, VecDeque<Job>>>;

/// Hashes and verifies passwords.
pub struct PasswordPool {
    workers: Workers<Jobs>,
    /// A hash of no user: verifying against it takes as long as verifying against a user's.
    no_user: PasswordHash,
}

impl PasswordPool {
    /// Starts one thread per core.
    ///
    /// # Errors
    /// If the system cannot start a thread, or the library cannot hash.
    pub fn start(entropy: &Arc<dyn Entropy>) -> io::Result<Self> {
        let workers = Workers::start("password", Priority::Idle, QUEUE_MAX, || {
            let mut hasher = Hasher::default();
            let entropy = entropy.clone();
            move |job| work(&mut hasher, &*entropy, job)
        })?;
        let mut salt = [0; SALT_BYTES];
        entropy.fill(&mut salt);
        let no_user = Normalized::typed("nobody's password").and_then(|n| Hasher::default().hash(&n, salt));
        let no_user = no_user.ok_or_else(|| io::Error::other("argon2 does not hash"))?;
        Ok(Self { workers, no_user })
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// If too many passwords wait.
    #[tracing::instrument(name = "hash", skip_all)]
    pub async fn hash(&self, password: Normalized, source: Source) -> Result<PasswordHash, PoolBusy> {
        let (reply, answer) = oneshot::channel();
        self.send(source, Job::Hash(password, reply));
        answer.await.ok().flatten().ok_or(PoolBusy)
    }

    /// Verifies the password against a stored hash.
    ///
    /// # Errors
    /// If too many passwords wait.
    #[tracing::instrument(name = "hash", skip_all)]
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

    /// Takes as long as [`Self::verify`] when there is no user to verify, so that the time does not reveal
    /// it.
    ///
    /// # Errors
    /// If too many passwords wait.
    #[tracing::instrument(name = "hash", skip_all)]
    pub async fn verify_nobody(&self, password: Option<Normalized>, source: Source) -> Result<(), PoolBusy> {
        let any = password.or_else(|| Normalized::typed("somebody's password")).ok_or(PoolBusy)?;
        self.verify(any, self.no_user.clone(), source).await.map(drop)
    }

    fn send(&self, source: Source, job: Job) {
        self.workers.send((source.network, (source.connection, ())), job);
    }

    /// The number of passwords that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.workers.waiting()
    }
}

fn work(hasher: &mut Hasher, entropy: &dyn Entropy, job: Job) {
    match job {
        // The caller may have gone; skip its work then.
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
