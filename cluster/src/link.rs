//! One encrypted connection to a peer: who it is, and then frames.
//!
//! Promises: when [`dial`] or [`answer`] returns, the other end knows the cluster's secret, is there now
//! (a recording is refused), and has agreed with us on the highest version that both speak; nobody on
//! the way read or altered that. What [`Reader::read`] gives is what the peer wrote, whole, in its order
//! and without gaps, or the link is broken. Every step has a time-out, and every buffer a bound.
//!
//! Never: it knows nothing of what frames mean, makes no connection and keeps none alive, and logs
//! nothing. Who knows the secret may call itself what it likes: an [`Origin`] is believed, not proved.
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
    collections::HashMap,
    io,
    net::IpAddr,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use schema::ledger::Origin;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

pub use self::frame::{Broken, MAX_FRAME, Reader, Writer};
use crate::secret::Secret;

/// A longer name of a node is refused.
pub const MAX_NAME: usize = 128;
/// How many handshakes may be under way, unless a [`Gate`] is made with another number.
pub const PENDING: usize = 64;
/// The same with one address: more nodes than this seldom share one.
pub const PENDING_OF_ONE: usize = 8;

/// How long each step may take.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// All of the handshake, however the bytes trickle.
    handshake: Duration,
    /// The rest of a frame, once its first byte is here.
    rest: Duration,
    /// For the peer to take what is written.
    write: Duration,
}

const PATIENCE: Patience = Patience {
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
) -> Result<(Peer, Reader<OwnedReadHalf>, Writer<OwnedWriteHalf>), Refused> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    answer_over(reader, writer, local).await
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
    handshake::answer(reader, writer, local, PATIENCE).await
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

/// Lets in so many strangers at a time, and so many from one address.
///
/// Whoever is let in holds a [`Permit`] until its handshake is done.
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
    address: IpAddr,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    /// Those that have any: never more than are in all.
    of: HashMap<IpAddr, usize>,
}

impl Gate {
    /// A gate for so many in all, and so many from each address.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Self {
        Self { all, each, inside: Arc::default() }
    }

    /// Lets somebody in, or nobody when there is no room: then close the connection.
    pub fn enter(&self, address: IpAddr) -> Option<Permit> {
        // 10.0.0.1 and ::ffff:10.0.0.1 are one.
        let address = address.to_canonical();
        let mut inside = lock(&self.inside);
        let here = inside.of.get(&address).copied().unwrap_or(0);
        if inside.all >= self.all || here >= self.each {
            return None;
        }
        inside.all += 1;
        inside.of.insert(address, here + 1);
        Some(Permit { address, inside: self.inside.clone() })
    }

    /// How many are inside.
    #[must_use]
    pub fn inside(&self) -> usize {
        lock(&self.inside).all
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(PENDING, PENDING_OF_ONE)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inside = lock(&self.inside);
        inside.all = inside.all.saturating_sub(1);
        if let Some(here) = inside.of.get_mut(&self.address) {
            *here = here.saturating_sub(1);
            if *here == 0 {
                inside.of.remove(&self.address);
            }
        }
    }
}

fn lock(inside: &Mutex<Inside>) -> MutexGuard<'_, Inside> {
    inside.lock().unwrap_or_else(PoisonError::into_inner)
}
