//! One encrypted connection to a peer: a handshake, then frames.
//!
//! Promises: when [`dial`] or [`answer`] returns, the other end knows the cluster's secret, took part in this
//! very handshake (a recording is refused), and has agreed with this node on the highest version that both
//! speak. Nothing between the two read or altered that. [`Reader::read`] returns the frames that the peer
//! wrote, whole, in order and without gaps, or the link is broken. Every step has a time-out, and every
//! buffer a bound. Connections of strangers cannot keep a peer out: see [`Gate`].
//!
//! Never: a link does not know what frames mean, makes no connection, keeps none alive and logs nothing. A
//! node that knows the secret may call itself what it likes: an [`Origin`] is believed, not proved. That the
//! peer wanted a link to end is not proved either, because anything on the network path can cut it.
//!
//! | to find | look in |
//! |---|---|
//! | what is sent before the first frame, and why a stranger is refused | `handshake` |
//! | frames: lengths, nonces, buffers | `frame` |
//! | how many handshakes may be under way, and which of them make room | `gate` |

mod frame;
mod gate;
mod handshake;
#[cfg(test)]
mod tests;

use std::{io, ops::RangeInclusive, time::Duration};

use schema::ledger::Origin;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

pub use self::{
    frame::{Broken, FRAME_BYTES_MAX, Reader, Writer},
    gate::{Gate, HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX, Permit, Progress},
};
use crate::secret::Secret;

/// The maximum length of a node's name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// How long each step of a link may take.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    /// Until the dialer has sent its preamble.
    preamble: Duration,
    /// The whole handshake, even if bytes arrive one by one.
    handshake: Duration,
    /// The rest of a frame, once its first byte has arrived.
    rest: Duration,
    /// Until the peer accepts what is written.
    write: Duration,
}

const TIMEOUTS: Timeouts = Timeouts {
    preamble: Duration::from_secs(1),
    handshake: Duration::from_secs(3),
    rest: Duration::from_secs(5),
    write: Duration::from_secs(5),
};

/// This node, as it introduces itself to peers.
#[derive(Clone)]
pub struct Local {
    /// This node, and which life of it.
    pub origin: Origin,
    /// The node's name, for people: at most [`NAME_BYTES_MAX`] bytes, no control characters.
    pub name: String,
    /// The secret that the peer must know too.
    pub secret: Secret,
    /// The protocol versions that this node speaks.
    pub versions: RangeInclusive<u8>,
}

/// The node at the other end of a link, as it introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node, and which life of it.
    pub origin: Origin,
    /// The node's name, for people: at most [`NAME_BYTES_MAX`] bytes, no control characters.
    pub name: String,
    /// The protocol version of the link: the highest that both nodes speak.
    pub version: u8,
}

/// Why there is no link. The message of each is a phrase for the log.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The other end belongs to a cluster of another name.
    #[error("the peer belongs to a cluster of another name")]
    OtherCluster,
    /// The other end has the same cluster name and another secret, or the handshake was altered, which looks
    /// the same.
    #[error("the peer has another cluster secret, or the handshake was altered on the way")]
    OtherSecret,
    /// There is no protocol version that both nodes speak.
    #[error(
        "the peer speaks protocol versions {} to {}, this node {} to {}",
        theirs.start(), theirs.end(), ours.start(), ours.end()
    )]
    OtherVersion {
        /// The versions that the peer speaks.
        theirs: RangeInclusive<u8>,
        /// The versions that this node speaks.
        ours: RangeInclusive<u8>,
    },
    /// The other end speaks another protocol altogether.
    #[error("the other end is no Palisade node")]
    NotPalisade,
    /// The other end is this process.
    #[error("the other end is this node itself")]
    Itself,
    /// The other end does not follow the protocol of the handshake.
    #[error("the handshake is malformed: {0}")]
    Malformed(&'static str),
    /// The connection or the handshake took too long.
    #[error("the handshake took too long")]
    Slow,
    /// The connection failed, or the system gave no key or random number.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
    /// The other end closed the connection, perhaps because it had no room for it.
    #[error("the other end closed the connection during the handshake")]
    Closed,
}

/// Makes a link of a connection that this node made.
///
/// If the future is dropped before it is done, the connection is closed.
///
/// # Errors
/// The reason for which there is no link.
pub async fn dial(
    stream: TcpStream,
    local: &Local,
) -> Result<(Peer, Reader<OwnedReadHalf>, Writer<OwnedWriteHalf>), Refused> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    dial_over(reader, writer, local).await
}

/// Makes a link of a connection that a peer made, of which nothing has been read.
///
/// Nothing is sent to a dialer that has not sent a preamble. If the future is dropped before it is done, the
/// connection is closed. The caller bounds how many handshakes are under way: see [`Gate`].
///
/// # Errors
/// The reason for which there is no link.
pub async fn answer(
    stream: TcpStream,
    local: &Local,
    progress: &Progress,
) -> Result<(Peer, Reader<OwnedReadHalf>, Writer<OwnedWriteHalf>), Refused> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    handshake::answer(reader, writer, local, TIMEOUTS, progress).await
}

/// [`dial`] over any stream of bytes.
///
/// # Errors
/// The reason for which there is no link.
pub async fn dial_over<R, W>(
    reader: R,
    writer: W,
    local: &Local,
) -> Result<(Peer, Reader<R>, Writer<W>), Refused>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    handshake::dial(reader, writer, local, TIMEOUTS).await
}

/// [`answer`] over any stream of bytes.
///
/// # Errors
/// The reason for which there is no link.
pub async fn answer_over<R, W>(
    reader: R,
    writer: W,
    local: &Local,
) -> Result<(Peer, Reader<R>, Writer<W>), Refused>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    handshake::answer(reader, writer, local, TIMEOUTS, &Progress::default()).await
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match error.kind() {
            // Which of these it is depends on how much was unread when the other end closed the connection.
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}
