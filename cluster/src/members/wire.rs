//! chitchat's messages in sealed datagrams.
//!
//! chitchat 0.13 keeps the form of its messages to itself: only its own UDP socket writes and reads them.
//! So there is such a socket, the [`Codec`], on this machine's loopback, and every message passes through
//! it on its way to or from the socket that others see. What the codec gets from anyone but us is
//! ignored: another process of this machine can cost it time, and no more. Gossip holds names, addresses
//! and numbers; to listen on a loopback takes an administrator of the machine.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chitchat::{
    ChitchatEnvelope, ChitchatMessage,
    transport::{RecvOutcome, SendOutcome, Socket, Transport, UdpSocket as CodecSocket},
};
use schema::Entropy;
use tokio::{
    net::UdpSocket,
    select,
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tracing::debug;

use super::{
    refusal::{Refusal, Refusals},
    seal::{HEADER, MAX_DATAGRAM, OVERHEAD, Opener, Sealer, seals},
};
use crate::secret::{DeriveError, Secret};

/// How long the loopback may take. It takes microseconds, unless it lost something.
const LOOPBACK: Duration = Duration::from_secs(1);
/// A socket that fails so often in a row is broken.
const MAX_FAILURES: u32 = 100;
/// Blocks of a message, each of which becomes at most 64 KiB. One of ours has a block for each 16 KiB of a
/// list of nodes and of what is said of them, some 30 when both are as long as they can be.
const MAX_BLOCKS: usize = 64;
/// How Linux says that a datagram is too long.
const EMSGSIZE: i32 = 90;

/// What outlives a socket: the seals, the counts.
pub(super) struct Wire {
    sealer: Sealer,
    opener: Mutex<Opener>,
    pub(super) refusals: Refusals,
    pub(super) sent: Flow,
    pub(super) received: Flow,
    /// Messages that could not be sent.
    pub(super) unsent: AtomicU64,
    /// How many exchanges that we began are complete.
    pub(super) exchanges: watch::Sender<u64>,
}

/// Datagrams and their bytes.
#[derive(Default)]
pub(super) struct Flow {
    datagrams: AtomicU64,
    bytes: AtomicU64,
}

impl Flow {
    fn add(&self, bytes: usize) {
        self.datagrams.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> (u64, u64) {
        (self.datagrams.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

impl Wire {
    pub(super) fn new(secret: &Secret, entropy: &dyn Entropy) -> Result<Self, DeriveError> {
        let (sealer, opener) = seals(secret, entropy)?;
        Ok(Self {
            sealer,
            opener: Mutex::new(opener),
            refusals: Refusals::default(),
            sent: Flow::default(),
            received: Flow::default(),
            unsent: AtomicU64::new(0),
            exchanges: watch::Sender::new(0),
        })
    }

    /// How many senders are remembered.
    #[cfg(test)]
    pub(super) fn senders(&self) -> usize {
        self.opener.lock().unwrap().senders()
    }
}

/// What chitchat is given to open sockets.
pub(super) struct Sealed(pub(super) Arc<Wire>);

#[async_trait]
impl Transport for Sealed {
    async fn open(&self, listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(SealedSocket {
            wire: Arc::clone(&self.0),
            socket: UdpSocket::bind(listen).await?,
            codec: Codec::open().await?,
            buffer: vec![0; MAX_DATAGRAM + OVERHEAD + 1].into_boxed_slice(),
            failures: 0,
        }))
    }
}

struct SealedSocket {
    wire: Arc<Wire>,
    socket: UdpSocket,
    codec: Codec,
    /// For sending and receiving, which never happen at the same time.
    buffer: Box<[u8]>,
    /// Of receiving, in a row.
    failures: u32,
}

#[async_trait]
impl Socket for SealedSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Never fails: a peer that cannot be reached now is no reason to end, and the failure detector
    /// will tell.
    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let ends_exchange = matches!(envelope.message, ChitchatMessage::Ack { .. });
        let sent = self.try_send(to, envelope).await;
        if let Err(error) = &sent {
            self.wire.unsent.fetch_add(1, Ordering::Relaxed);
            debug!(peer = %to, %error, "gossip was not sent");
        }
        if ends_exchange {
            self.wire.exchanges.send_modify(|n| *n += 1);
        }
        Ok(SendOutcome { num_bytes_sent: sent.unwrap_or(0) })
    }

    /// May be dropped at any await: what was being decoded stays known.
    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            if let Some(decoding) = self.codec.decoding {
                match self.codec.decoded(decoding).await? {
                    Some(outcome) => return Ok(outcome),
                    None => self.wire.refusals.note(Refusal::Malformed, decoding.from),
                }
            }
            select! {
                received = self.socket.recv_from(&mut self.buffer) => match received {
                    Ok((length, from)) => {
                        self.failures = 0;
                        self.take(length, from);
                    }
                    Err(error) if self.failures < MAX_FAILURES => {
                        self.failures += 1;
                        debug!(%error, "gossip was not received");
                    }
                    Err(error) => return Err(error.into()),
                },
                // Nothing is being decoded: a mark that was overtaken, or somebody else's.
                stray = self.codec.socket.recv() => drop(stray?),
            }
        }
    }
}

impl SealedSocket {
    async fn try_send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> io::Result<usize> {
        let room = self.buffer.get_mut(HEADER..).unwrap_or_default();
        let length = match self.codec.encode(envelope, room).await {
            Err(error) if error.raw_os_error() == Some(EMSGSIZE) => {
                self.wire.refusals.note(Refusal::TooLong, to);
                return Err(error);
            }
            encoded => encoded?,
        };
        let Some(whole) = self.wire.sealer.seal(&mut self.buffer, length) else {
            self.wire.refusals.note(Refusal::TooLong, to);
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let sent = self.socket.send_to(self.buffer.get(..whole).unwrap_or_default(), to).await?;
        self.wire.sent.add(sent);
        Ok(sent)
    }

    /// Opens a datagram and gives it to the codec.
    fn take(&mut self, length: usize, from: SocketAddr) {
        let datagram = self.buffer.get_mut(..length).unwrap_or_default();
        let mut opener = self.wire.opener.lock().unwrap_or_else(PoisonError::into_inner);
        match opener.open(datagram, Instant::now()) {
            Ok(content) if !is_bounded(content) => {
                drop(opener);
                self.wire.refusals.note(Refusal::Malformed, from);
            }
            Ok(content) => {
                self.wire.received.add(length);
                self.codec.decode(content, from, length);
            }
            Err(refusal) => {
                drop(opener);
                self.wire.refusals.note(refusal, from);
            }
        }
    }
}

/// Whether a message takes no more memory when it is decompressed than [`MAX_BLOCKS`] allow: chitchat
/// decompresses whatever it is given, and one datagram could become hundreds of MiB.
fn is_bounded(message: &[u8]) -> bool {
    // Magic number, version of the protocol, kind; version 1 is the one that we speak.
    let Some(([_, _, 1, kind], rest)) = message.split_first_chunk() else { return false };
    let streams = match kind {
        // The digest, before the name of the cluster; digest and delta; delta.
        0 | 2 => 1,
        1 => 2,
        _ => 0,
    };
    let (mut rest, mut left) = (rest, MAX_BLOCKS);
    (0..streams).all(|_| skip_stream(&mut rest, &mut left))
}

/// Passes over one stream of blocks, of which so many are left; says whether it is one.
fn skip_stream(rest: &mut &[u8], left: &mut usize) -> bool {
    loop {
        match rest {
            [0, after @ ..] => {
                *rest = after;
                return true;
            }
            [1 | 2, a, b, after @ ..] if *left > 0 => {
                let Some(after) = after.get(usize::from(u16::from_le_bytes([*a, *b]))..) else {
                    return false;
                };
                (*rest, *left) = (after, *left - 1);
            }
            _ => return false,
        }
    }
}

/// Writes and reads chitchat's messages.
///
/// What it cannot read it drops without a word. So a mark with a number follows everything that is to be
/// read: when the mark comes out and nothing before it, there was nothing to read.
struct Codec {
    socket: CodecSocket,
    /// Where written messages come out.
    outlet: UdpSocket,
    /// Where messages to be read go in.
    inlet: Port,
    marks: Port,
    /// The number of the last mark.
    number: u64,
    decoding: Option<Decoding>,
}

#[derive(Clone, Copy)]
struct Decoding {
    number: u64,
    from: SocketAddr,
    /// Of the whole datagram.
    bytes: usize,
    until: Instant,
}

/// A way into the codec, known by its address.
struct Port {
    socket: std::net::UdpSocket,
    address: SocketAddr,
}

impl Port {
    fn to(codec: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(codec)?;
        socket.set_nonblocking(true)?;
        Ok(Self { address: socket.local_addr()?, socket })
    }

    /// The loopback may lose it, as the network might have.
    fn send(&self, bytes: &[u8]) {
        if let Err(error) = self.socket.send(bytes) {
            debug!(%error, "gossip was lost on the loopback");
        }
    }
}

impl Codec {
    async fn open() -> anyhow::Result<Self> {
        let socket = CodecSocket::open((Ipv4Addr::LOCALHOST, 0).into()).await?;
        let address = socket.local_addr()?;
        let outlet = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        outlet.connect(address).await?;
        let (inlet, marks) = (Port::to(address)?, Port::to(address)?);
        Ok(Self { socket, outlet, inlet, marks, number: 0, decoding: None })
    }

    /// Writes a message to the buffer and returns how long it is.
    async fn encode(&mut self, envelope: ChitchatEnvelope, buffer: &mut [u8]) -> io::Result<usize> {
        // What came too late before.
        while self.outlet.try_recv(buffer).is_ok() {}
        let outlet = self.outlet.local_addr()?;
        let sent = self.socket.send(outlet, envelope).await;
        sent.map_err(|error| error.downcast::<io::Error>().unwrap_or_else(io::Error::other))?;
        let read = timeout(LOOPBACK, self.outlet.recv(buffer)).await;
        read.map_err(|_| io::ErrorKind::TimedOut)?
    }

    fn decode(&mut self, message: &[u8], from: SocketAddr, bytes: usize) {
        self.number += 1;
        self.inlet.send(message);
        self.marks.send(&mark(self.number));
        self.decoding = Some(Decoding { number: self.number, from, bytes, until: Instant::now() + LOOPBACK });
    }

    /// What is being decoded, or nothing when it cannot be read.
    async fn decoded(&mut self, decoding: Decoding) -> anyhow::Result<Option<RecvOutcome>> {
        loop {
            let Ok(read) = timeout_at(decoding.until, self.socket.recv()).await else {
                self.decoding = None;
                return Ok(None);
            };
            let read = read?;
            if read.from_addr == self.inlet.address {
                self.decoding = None;
                return Ok(Some(RecvOutcome {
                    from_addr: decoding.from,
                    envelope: read.envelope,
                    num_bytes_received: decoding.bytes,
                }));
            }
            if read.from_addr == self.marks.address && number(&read.envelope) == Some(decoding.number) {
                self.decoding = None;
                return Ok(None);
            }
        }
    }
}

/// The message that begins an exchange, with no nodes, and the number as the name of the cluster.
fn mark(number: u64) -> Vec<u8> {
    let name = format!("{number:020}");
    let mut mark = vec![0x53, 0xb0, 0, 0, 0, 0, 20, 0];
    mark.extend_from_slice(name.as_bytes());
    mark
}

fn number(mark: &ChitchatEnvelope) -> Option<u64> {
    match &mark.message {
        ChitchatMessage::Syn { cluster_id, .. } => cluster_id.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_codec_reads_what_it_writes_and_says_what_it_cannot_read() {
        let mut codec = Codec::open().await.unwrap();
        let from: SocketAddr = ([192, 0, 2, 1], 7).into();
        let mut buffer = vec![0; MAX_DATAGRAM];
        for round in 0..100 {
            let envelope = ChitchatEnvelope {
                version: chitchat::ProtocolVersion::V1,
                message: ChitchatMessage::Syn { cluster_id: format!("x{round}"), digest: Default::default() },
            };
            let length = codec.encode(envelope, &mut buffer).await.unwrap();
            codec.decode(&buffer[..length], from, 99);
            let decoding = codec.decoding.unwrap();
            let read = codec.decoded(decoding).await.unwrap().unwrap();
            assert_eq!((read.from_addr, read.num_bytes_received), (from, 99));
            let ChitchatMessage::Syn { cluster_id, .. } = read.envelope.message else { panic!() };
            assert_eq!(cluster_id, format!("x{round}"));

            codec.decode(&buffer[..round % length], from, 99);
            let decoding = codec.decoding.unwrap();
            assert!(codec.decoded(decoding).await.unwrap().is_none(), "round {round}");
        }
    }

    /// A message of this kind, with so many blocks in each of its streams.
    fn blocks(kind: u8, counts: &[usize]) -> Vec<u8> {
        let mut message = vec![0x53, 0xb0, 1, kind];
        for count in counts {
            for _ in 0..*count {
                message.extend([1, 3, 0, 7, 7, 7]);
            }
            message.push(0);
        }
        message
    }

    #[test]
    fn message_of_too_many_blocks_is_refused() {
        for (kind, counts, fits) in [
            (0, &[MAX_BLOCKS][..], true),
            (0, &[MAX_BLOCKS + 1], false),
            (1, &[MAX_BLOCKS / 2, MAX_BLOCKS / 2], true),
            (1, &[1, MAX_BLOCKS], false),
            (1, &[1], false),
            (2, &[0], true),
            (2, &[10_000], false),
            (3, &[], true),
        ] {
            assert_eq!(is_bounded(&blocks(kind, counts)), fits, "{kind} {counts:?}");
        }
        let mut other_version = blocks(0, &[1]);
        other_version[2] = 0;
        assert!(!is_bounded(&other_version));
        for cut in 0..blocks(1, &[2, 2]).len() {
            assert!(!is_bounded(&blocks(1, &[2, 2])[..cut]), "{cut}");
        }
    }

    #[tokio::test]
    async fn message_of_ours_is_bounded() {
        let mut codec = Codec::open().await.unwrap();
        let mut buffer = vec![0; MAX_DATAGRAM];
        let message = ChitchatMessage::Syn { cluster_id: "x".into(), digest: Default::default() };
        let envelope = ChitchatEnvelope { version: chitchat::ProtocolVersion::V1, message };
        let length = codec.encode(envelope, &mut buffer).await.unwrap();
        assert!(is_bounded(&buffer[..length]));
    }

    #[tokio::test]
    async fn the_codec_reads_nothing_of_others() {
        let mut codec = Codec::open().await.unwrap();
        let stranger = Port::to(codec.socket.local_addr().unwrap()).unwrap();
        let from: SocketAddr = ([192, 0, 2, 1], 7).into();
        for _ in 0..10 {
            stranger.send(&mark(1));
        }
        codec.decode(b"nothing", from, 99);
        let decoding = codec.decoding.unwrap();
        assert!(codec.decoded(decoding).await.unwrap().is_none());
    }
}
