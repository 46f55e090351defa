//! One encrypted connection to a peer: who it is, and then frames.
//!
//! Promises: when [`dial`] or [`answer`] returns, the other end knows the cluster's secret, is there now
//! (a recording is refused), and has agreed with us on the highest version that both speak; nobody on
//! the way read or altered that. What [`Reader::read`] gives is what the peer wrote, whole, in its order
//! and without gaps, or the link is broken. Every step has a time-out, and every buffer a bound.
//!
//! Never: it knows nothing of what frames mean, makes no connection and keeps none alive, and logs
//! nothing. A stranger never keeps a peer out: see [`Gate`]. Who knows the secret may call itself what it likes: an [`Origin`] is believed, not proved.
//! That the end of a link was the peer's wish is not proved either: anybody on the way can cut it.
//!
//! | to find | look in |
//! |---|---|
//! | what is sent before the first frame, and why a stranger is refused | `handshake` |
//! | frames: lengths, numbers, buffers | `frame` |

mod frame;
mod handshake;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use schema::ledger::Origin;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::oneshot,
};

pub use self::frame::{Broken, MAX_FRAME, Reader, Writer};
use crate::secret::Secret;

/// A longer name of a node is refused.
pub const MAX_NAME: usize = 128;
/// How many handshakes may be under way, unless a [`Gate`] is made with another number.
pub const PENDING: usize = 128;
/// The same with one address: more nodes than this seldom begin at once from one.
pub const PENDING_OF_ONE: usize = 32;

/// How long each step may take.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Until the dialer has said that it is a Palisade node.
    preamble: Duration,
    /// All of the handshake, however the bytes trickle.
    handshake: Duration,
    /// The rest of a frame, once its first byte is here.
    rest: Duration,
    /// For the peer to take what is written.
    write: Duration,
}

const PATIENCE: Patience = Patience {
    preamble: Duration::from_secs(1),
    handshake: Duration::from_secs(3),
    rest: Duration::from_secs(5),
    write: Duration::from_secs(5),
};

/// Who we are.
#[derive(Clone)]
pub struct Local {
    /// This node, since its last start.
    pub origin: Origin,
    /// For people to read: at most [`MAX_NAME`] bytes, no control characters.
    pub name: String,
    /// What the peer must know too.
    pub secret: Secret,
    /// The versions of the protocol that we speak.
    pub versions: RangeInclusive<u8>,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node, since its last start.
    pub origin: Origin,
    /// For people to read: no longer than [`MAX_NAME`], no control characters.
    pub name: String,
    /// The highest version that both speak.
    pub version: u8,
}

/// There is no link. Each is a sentence for the log.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Its cluster has another name.
    #[error("the peer belongs to a cluster of another name")]
    OtherCluster,
    /// Same name, other secret; or the handshake was altered, which looks the same.
    #[error("the peer has another cluster secret, or the handshake was altered on the way")]
    OtherSecret,
    /// No version that both speak.
    #[error(
        "the peer speaks versions {} to {} of the protocol, we speak {} to {}",
        theirs.start(), theirs.end(), ours.start(), ours.end()
    )]
    OtherVersion {
        /// What the peer speaks.
        theirs: RangeInclusive<u8>,
        /// What we speak.
        ours: RangeInclusive<u8>,
    },
    /// It speaks another protocol altogether.
    #[error("the other end is no Palisade node")]
    NotPalisade,
    /// The other end is this node, of this start.
    #[error("the other end is this node itself")]
    Itself,
    /// It does not keep to the protocol.
    #[error("the handshake is malformed: {0}")]
    Malformed(&'static str),
    /// The handshake took too long.
    #[error("the handshake took too long")]
    Slow,
    /// The connection failed, or there was no key or random number to be had.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
    /// The other end closed the connection, or had no room for it.
    #[error("the other end closed the connection during the handshake")]
    Closed,
}

/// Makes a link of a connection that we made.
///
/// Dropped before it is done, it closes the connection.
///
/// # Errors
/// Why there is no link.
pub async fn dial(
    stream: TcpStream,
    local: &Local,
) -> Result<(Peer, Reader<OwnedReadHalf>, Writer<OwnedWriteHalf>), Refused> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    dial_over(reader, writer, local).await
}

/// Makes a link of a connection that was made to us, of which nothing has been read.
///
/// Nothing is sent to who has not said that it is a Palisade node; dropped before it is done, it closes
/// the connection. How many may be under way is the caller's to bound: see [`Gate`].
///
/// # Errors
/// Why there is no link.
pub async fn answer(
    stream: TcpStream,
    local: &Local,
    progress: &Progress,
) -> Result<(Peer, Reader<OwnedReadHalf>, Writer<OwnedWriteHalf>), Refused> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    handshake::answer(reader, writer, local, PATIENCE, progress).await
}

/// [`dial`] over any stream of bytes.
///
/// # Errors
/// Why there is no link.
pub async fn dial_over<R, W>(
    reader: R,
    writer: W,
    local: &Local,
) -> Result<(Peer, Reader<R>, Writer<W>), Refused>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    handshake::dial(reader, writer, local, PATIENCE).await
}

/// [`answer`] over any stream of bytes.
///
/// # Errors
/// Why there is no link.
pub async fn answer_over<R, W>(
    reader: R,
    writer: W,
    local: &Local,
) -> Result<(Peer, Reader<R>, Writer<W>), Refused>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    handshake::answer(reader, writer, local, PATIENCE, &Progress::default()).await
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match error.kind() {
            // Which of them it is depends on what was still unread when the other end closed.
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// How far the handshake of a connection that was made to us has come.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU8>);

impl Progress {
    /// The other end speaks this protocol, and names this cluster.
    const SPEAKS: u8 = 1;
    /// It knows the secret, or has a recording of who does.
    const KNOWS: u8 = 2;

    fn reached(&self, step: u8) {
        self.0.store(step, Ordering::Relaxed);
    }

    fn step(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bounds how many handshakes are under way, in all and from each address.
///
/// Everybody is let in. When there is no room, the connection that has come the least far makes room, of
/// those the oldest: from the same address when that has its share, else from the address that has the
/// most. A peer proves itself within milliseconds, so silent connections give way and peers do not, however
/// many there are. All addresses of one IPv6 network of 64 bits are one, since whoever has one of them has
/// them all.
#[derive(Debug)]
pub struct Gate {
    all: usize,
    each: usize,
    inside: Arc<Mutex<Inside>>,
}

/// Room for one handshake, given back when it is dropped.
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
    /// In the order in which they came.
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    source: Source,
    progress: Progress,
    /// Dropped when it is to make room.
    _stay: oneshot::Sender<()>,
}

/// Whose connection it is, as far as addresses tell: one of IPv4, or a network of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source(IpAddr);

impl Source {
    fn of(address: IpAddr) -> Self {
        // 10.0.0.1 and ::ffff:10.0.0.1 are one.
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl Gate {
    /// A gate for so many in all, and so many from each address; each at least one.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Self {
        Self { all, each, inside: Arc::default() }
    }

    /// Lets somebody in. Another one may have to make room: see [`Permit::made_room`].
    pub fn enter(&self, address: IpAddr) -> Permit {
        let source = Source::of(address);
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

    /// How many are inside.
    #[must_use]
    pub fn inside(&self) -> usize {
        lock(&self.inside).pending.len()
    }
}

impl Inside {
    fn of(&self, source: Source) -> usize {
        self.pending.iter().filter(|pending| pending.source == source).count()
    }

    /// One of these goes: of those that have come the least far, the oldest.
    fn make_room(&mut self, is_one: impl Fn(&Pending) -> bool) {
        let these = self.pending.iter().enumerate().filter(|(_, pending)| is_one(pending));
        let first = these.min_by_key(|(_, pending)| (pending.progress.step(), pending.number));
        if let Some(place) = first.map(|(place, _)| place) {
            self.pending.remove(place);
        }
    }
}

impl Permit {
    /// How far the handshake has come, to be kept up to date by [`answer`].
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Returns when this connection has to make room: then close it.
    pub async fn made_room(&mut self) {
        // The other end is dropped, never used.
        let _ = (&mut self.made_room).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(PENDING, PENDING_OF_ONE)
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
