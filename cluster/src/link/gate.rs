//! How many handshakes may be under way, and which connection makes room for another.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use schema::Network;
use tokio::sync::oneshot;

/// The maximum number of handshakes under way at a time, by default.
pub const HANDSHAKES_MAX: usize = 128;
/// The maximum number of handshakes under way with one address, by default. More nodes than this rarely start
/// at once behind one address.
pub const HANDSHAKES_PER_ADDRESS_MAX: usize = 32;

/// How far the handshake of an accepted connection has come.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU8>);

impl Progress {
    /// The other end speaks this protocol and names this cluster.
    pub(super) const STEP_PREAMBLE: u8 = 1;
    /// The other end knows the secret, or has a recording of a node that does.
    pub(super) const STEP_SECRET: u8 = 2;

    pub(super) fn reached(&self, step: u8) {
        self.0.store(step, Ordering::Relaxed);
    }

    fn step(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bounds how many handshakes are under way, in total and for each address.
///
/// Every connection is let in. When there is no room, the gate closes the connection that has come the least
/// far, and of those the oldest: one of the same address if that address has its share, else one of the
/// address that has the most. A peer proves itself within milliseconds, so silent connections are closed and
/// peers are not, however many connections there are. All addresses of one IPv6 /64 network count as one,
/// since a host that has one of them has them all.
#[derive(Debug)]
pub struct Gate {
    all: usize,
    each: usize,
    inside: Arc<Mutex<Inside>>,
}

/// The right to one handshake, given back when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    number: u64,
    progress: Progress,
    made_room: oneshot::Receiver<()>,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    ever: u64,
    /// The handshakes under way, oldest first.
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    source: Network,
    progress: Progress,
    /// Dropped when the connection must make room.
    _stay: oneshot::Sender<()>,
}

impl Gate {
    /// A gate for `all` handshakes in total and `each` for one address. Both are at least 1.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Self {
        Self { all, each, inside: Arc::default() }
    }

    /// Lets a connection in. Another one may have to make room: see [`Permit::made_room`].
    pub fn enter(&self, address: IpAddr) -> Permit {
        let source = Network::from(address);
        let (stay, made_room) = oneshot::channel();
        let progress = Progress::default();
        let mut inside = lock(&self.inside);
        if inside.of(source) >= self.each {
            inside.make_room(|pending| pending.source == source);
        } else if inside.pending.len() >= self.all {
            let most = inside.pending.iter().map(|pending| inside.of(pending.source)).max().unwrap_or(0);
            let crowd = inside.pending.iter().map(|pending| inside.of(pending.source) == most);
            let crowd: Vec<_> =
                crowd.zip(&inside.pending).filter(|(is, _)| *is).map(|(_, p)| p.number).collect();
            inside.make_room(|pending| crowd.contains(&pending.number));
        }
        inside.ever += 1;
        let number = inside.ever;
        inside.pending.push(Pending { number, source, progress: progress.clone(), _stay: stay });
        Permit { number, progress, made_room, inside: self.inside.clone() }
    }

    /// The number of handshakes under way.
    #[must_use]
    pub fn inside(&self) -> usize {
        lock(&self.inside).pending.len()
    }
}

impl Inside {
    fn of(&self, source: Network) -> usize {
        self.pending.iter().filter(|pending| pending.source == source).count()
    }

    /// Closes one of the candidates: of those that have come the least far, the oldest.
    fn make_room(&mut self, is_candidate: impl Fn(&Pending) -> bool) {
        let candidates = self.pending.iter().enumerate().filter(|(_, pending)| is_candidate(pending));
        let first = candidates.min_by_key(|(_, pending)| (pending.progress.step(), pending.number));
        if let Some(index) = first.map(|(index, _)| index) {
            self.pending.remove(index);
        }
    }
}

impl Permit {
    /// How far the handshake has come. Pass it to [`answer`](super::answer), which updates it.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Returns when this connection must make room. The caller then closes it.
    pub async fn made_room(&mut self) {
        // The sender is only ever dropped.
        let _ = (&mut self.made_room).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        lock(&self.inside).pending.retain(|pending| pending.number != self.number);
    }
}

fn lock(inside: &Mutex<Inside>) -> MutexGuard<'_, Inside> {
    inside.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
