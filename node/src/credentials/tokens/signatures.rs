//! Checks signatures on threads of a low priority, behind a bounded and fair queue.
//!
//! A signature takes some 50 µs of a core, twenty times as long as the answer to a token that this node has
//! verified before. Any client can send forged tokens. Under full load these threads get a tenth of a core's
//! time each, so a flood of forged tokens costs verified ones no more than that; and the queue is bounded.
//!
//! Tokens of a batch that are not cached are also parsed here: a few cost as much as a signature.
//!
//! A valid token that this node has not verified yet waits in the same queue, so the queue is fair. From the
//! outside in, these have equal shares:
//!
//! 1. tokens of users with a recently verified token, and tokens of others: a forger that knows no user
//!    competes with strangers only;
//! 2. among the former, each user; among the latter, each client's network;
//! 3. in each of these the connections on which a signature failed lately, and the others;
//! 4. in each of these the connections.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, Hash},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::quality::RandomState;
use schema::{Clock, KeyId, Refusal, Timestamp, UserId, token::Algorithm};
use token_verify::{Expected, Unverified};
use tokio::sync::oneshot;

use crate::{
    credentials::keys::KeyRing,
    scheduling::{
        fair::Fair,
        source::{Network, Source},
        workers::{Priority, Workers},
    },
};

/// Signatures that may wait: a tenth of a second's work for one core.
const QUEUE_MAX: usize = 2_048;
/// Users that are remembered, each in 8 bytes.
const KNOWN_USERS_MAX: usize = 1 << 16;
/// Suspect connections that are remembered, each in 8 bytes.
const SUSPECTS_MAX: usize = 1 << 12;

enum Job {
    Check(Signed, oneshot::Sender<bool>),
    Screen(Vec<Box<[u8]>>, oneshot::Sender<Vec<Screened>>),
}

struct Signed {
    token: Box<str>,
    key: KeyId,
    algorithm: Algorithm,
}

/// The result of parsing a token without checking its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screened {
    /// It is refused regardless of its signature.
    Refused(Refusal),
    /// Its `kid` is not known to this node.
    #[allow(missing_docs, reason = "each field is the thing of its name")]
    OfUnknownKey { key: KeyId, issued_at: u64 },
    /// Its signature must be checked.
    Plausible,
}

/// The holder of a share of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Share {
    Known(UserId),
    Stranger(Network),
}

/// The queue, keyed by: whether the user is known; the share; whether the connection is a suspect; the
/// connection.
type Jobs = Fair<bool, Fair<Share, Fair<bool, Fair<SocketAddr, VecDeque<Job>>>>>;

/// Checks the signatures of tokens.
pub struct Signatures {
    workers: Workers<Jobs>,
    /// Users with a verified token.
    known: Recent,
    /// Connections that sent a forged token.
    suspects: Recent,
}

impl Signatures {
    /// Starts the threads, which use the keys of this ring and accept tokens of this issuer and audience.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn start(ring: &Arc<KeyRing>, expected: &Expected, clock: &Arc<dyn Clock>) -> io::Result<Self> {
        let workers = Workers::start("signature", Priority::Low, QUEUE_MAX, || {
            let ring = ring.clone();
            let expected = expected.clone();
            let clock = clock.clone();
            // The caller may have gone.
            move |job: Job| match job {
                Job::Check(signed, reply) if !reply.is_closed() => {
                    let good = ring.has_signed(signed.key, signed.algorithm, &signed.token);
                    let _ = reply.send(good);
                }
                Job::Screen(tokens, reply) if !reply.is_closed() => {
                    let screened = tokens.iter().map(|token| screen(token, &ring, &expected, clock.now()));
                    let _ = reply.send(screened.collect());
                }
                Job::Check(..) | Job::Screen(..) => {}
            }
        })?;
        Ok(Self { workers, known: Recent::new(KNOWN_USERS_MAX), suspects: Recent::new(SUSPECTS_MAX) })
    }

    /// Returns `Ok` if the token was signed with the key that it names.
    ///
    /// # Errors
    /// `SignatureFailed`, or `Busy` when too many wait.
    pub async fn check(&self, token: &Unverified<'_>, source: Source) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        let signed = Signed { token: token.text().into(), key: token.key(), algorithm: token.algorithm() };
        let check = Job::Check(signed, reply);
        let known = self.known.contains(&token.user());
        let share = if known { Share::Known(token.user()) } else { Share::Stranger(source.network) };
        let suspect = self.suspects.contains(&source);
        self.workers.send((known, (share, (suspect, (source.connection, ())))), check);
        let good = answer.await.map_err(|_| Refusal::Busy)?;
        match (good, suspect) {
            (true, true) => self.suspects.forget(&source),
            (false, false) => self.suspects.note(&source),
            _ => {}
        }
        if good { Ok(()) } else { Err(Refusal::SignatureFailed) }
    }

    /// Parses tokens that this user sent, on the signature threads: parsing costs a tenth of a signature
    /// check.
    pub async fn screen(&self, tokens: Vec<Box<[u8]>>, by: UserId, source: Source) -> Vec<Screened> {
        let (reply, answer) = oneshot::channel();
        let suspect = self.suspects.contains(&source);
        let place = (true, (Share::Known(by), (suspect, (source.connection, ()))));
        let count = tokens.len();
        self.workers.send(place, Job::Screen(tokens, reply));
        answer.await.unwrap_or_else(|_| vec![Screened::Refused(Refusal::Busy); count])
    }

    /// Notes that this user has sent, or was issued, a valid token.
    pub fn knows(&self, user: UserId) {
        self.known.note(&user);
    }

    /// The number of tokens that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.workers.waiting()
    }
}

fn screen(token: &[u8], ring: &KeyRing, expected: &Expected, now: Timestamp) -> Screened {
    match Unverified::parse(token, expected, now) {
        Err(refusal) => Screened::Refused(refusal),
        Ok(token) if ring.knows(token.key()) => Screened::Plausible,
        Ok(token) => Screened::OfUnknownKey { key: token.key(), issued_at: token.issued_at() },
    }
}

/// A bounded set: a new member may evict an older one. Reading takes no lock.
struct Recent {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Recent {
    fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::default() }
    }

    fn slot(&self, member: &impl Hash) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(member).max(1);
        #[allow(clippy::cast_possible_truncation, reason = "any bits of a hash are as good")]
        let slot = hash as usize % self.slots.len();
        (&self.slots[slot], hash)
    }

    fn contains(&self, member: &impl Hash) -> bool {
        let (slot, hash) = self.slot(member);
        slot.load(Ordering::Relaxed) == hash
    }

    fn note(&self, member: &impl Hash) {
        let (slot, hash) = self.slot(member);
        slot.store(hash, Ordering::Relaxed);
    }

    fn forget(&self, member: &impl Hash) {
        let (slot, hash) = self.slot(member);
        let _ = slot.compare_exchange(hash, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_set_contains_only_noted_members() {
        let set = Recent::new(16);
        (0..100_u32).for_each(|n| set.note(&n));
        assert!((100..200_u32).all(|n| !set.contains(&n)));
        let kept: Vec<_> = (0..100_u32).filter(|n| set.contains(n)).collect();
        assert!((1..=16).contains(&kept.len()), "{kept:?}");
        set.forget(&kept[0]);
        assert!(!set.contains(&kept[0]));
    }
}
