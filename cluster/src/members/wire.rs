//! chitchat's messages in sealed datagrams.
//!
//! chitchat 0.13 does not export the encoding of its messages: only its own UDP socket writes and reads them.
//! So this module runs such a socket, the [`Codec`], on the loopback interface, and passes every message
//! through it on its way to or from the socket that other nodes see. The codec ignores datagrams that this
//! process did not send: another process of this machine can cost it time, and no more. Gossip holds names,
//! addresses and numbers, and only an administrator of the machine can listen on its loopback interface.

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
    seal::{DATAGRAM_BYTES_MAX, HEADER_BYTES, OVERHEAD_BYTES, Opener, Sealer, seals},
};
use crate::{
    secret::{DeriveError, Secret},
    timer,
};

/// How long the loopback may take. It takes microseconds unless it lost a datagram.
const LOOPBACK_TIMEOUT: Duration = Duration::from_secs(1);
/// A socket that fails more often than this in a row is broken.
const RECEIVE_FAILURES_MAX: u32 = 100;
/// The maximum number of compressed blocks in a message. Each is decompressed to at most 64 KiB. A message of
/// this program has a block for each 16 KiB of the list of nodes and of their keys: some 30 at most.
const BLOCKS_MAX: usize = 64;
/// The error number with which Linux refuses a datagram that is too long.
const ERRNO_MSGSIZE: i32 = 90;

/// What outlives a socket: keys and counters.
pub(super) struct Wire {
    sealer: Sealer,
    opener: Mutex<Opener>,
    pub(super) refusals: Refusals,
    pub(super) sent: Flow,
    pub(super) received: Flow,
    /// The number of messages that could not be sent.
    pub(super) unsent: AtomicU64,
    /// The number of exchanges that this node began and that are complete.
    pub(super) exchanges: watch::Sender<u64>,
}

/// A number of datagrams and of their bytes.
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

    /// The number of senders that are remembered.
    #[cfg(test)]
    pub(super) fn senders(&self) -> usize {
        self.opener.lock().unwrap().senders()
    }
}

/// Opens the sockets that chitchat uses.
pub(super) struct Sealed(pub(super) Arc<Wire>);

#[async_trait]
impl Transport for Sealed {
    async fn open(&self, listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(SealedSocket {
            wire: Arc::clone(&self.0),
            socket: UdpSocket::bind(listen).await?,
            codec: Codec::open().await?,
            buffer: vec![0; DATAGRAM_BYTES_MAX + OVERHEAD_BYTES + 1].into_boxed_slice(),
            failures: 0,
        }))
    }
}

struct SealedSocket {
    wire: Arc<Wire>,
    socket: UdpSocket,
    codec: Codec,
    /// Used for sending and for receiving, which never happen at the same time.
    buffer: Box<[u8]>,
    /// How often receiving has failed in a row.
    failures: u32,
}

#[async_trait]
impl Socket for SealedSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Never fails: a peer that cannot be reached is no reason to end gossip. The failure detector notices
    /// it.
    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let ends_exchange = matches!(envelope.message, ChitchatMessage::Ack { .. });
        let sent = self.try_send(to, envelope).await;
        if let Err(error) = &sent {
            self.wire.unsent.fetch_add(1, Ordering::Relaxed);
            debug!(peer = %to, %error, "gossip datagram not sent");
        }
        if ends_exchange {
            self.wire.exchanges.send_modify(|n| *n += 1);
        }
        Ok(SendOutcome { num_bytes_sent: sent.unwrap_or(0) })
    }

    /// May be dropped at any await: the message that is being decoded is remembered.
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
                    Err(error) if self.failures < RECEIVE_FAILURES_MAX => {
                        self.failures += 1;
                        debug!(%error, "gossip datagram not received");
                    }
                    Err(error) => return Err(error.into()),
                },
                // No message is being decoded: this is a marker that was overtaken, or from another process.
                stray = self.codec.socket.recv() => drop(stray?),
            }
        }
    }
}

impl SealedSocket {
    async fn try_send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> io::Result<usize> {
        let room = self.buffer.get_mut(HEADER_BYTES..).unwrap_or_default();
        let length = match self.codec.encode(envelope, room).await {
            Err(error) if error.raw_os_error() == Some(ERRNO_MSGSIZE) => {
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

    /// Decrypts a datagram and passes it to the codec.
    fn take(&mut self, length: usize, from: SocketAddr) {
        let datagram = self.buffer.get_mut(..length).unwrap_or_default();
        let mut opener = self.wire.opener.lock().unwrap_or_else(PoisonError::into_inner);
        match opener.open(datagram, timer::now()) {
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

/// Whether a message has at most [`BLOCKS_MAX`] blocks. chitchat decompresses whatever it is given, and one
/// datagram could become hundreds of MiB.
fn is_bounded(message: &[u8]) -> bool {
    // Magic number, protocol version, kind. This program speaks version 1.
    let Some(([_, _, 1, kind], rest)) = message.split_first_chunk() else { return false };
    let streams = match kind {
        // Kind 0: the digest, before the name of the cluster. Kind 2: the delta. Kind 1: both.
        0 | 2 => 1,
        1 => 2,
        _ => 0,
    };
    let mut rest = rest;
    let mut remaining = BLOCKS_MAX;
    (0..streams).all(|_| skip_stream(&mut rest, &mut remaining))
}

/// Skips one stream of at most `remaining` blocks. Returns whether it is well-formed.
fn skip_stream(rest: &mut &[u8], remaining: &mut usize) -> bool {
    loop {
        match rest {
            [0, after @ ..] => {
                *rest = after;
                return true;
            }
            [1 | 2, a, b, after @ ..] if *remaining > 0 => {
                let Some(after) = after.get(usize::from(u16::from_le_bytes([*a, *b]))..) else {
                    return false;
                };
                *rest = after;
                *remaining -= 1;
            }
            _ => return false,
        }
    }
}

/// Encodes and decodes chitchat's messages.
///
/// chitchat's socket drops what it cannot read without an error. So a numbered marker follows every message
/// that is decoded: if the marker comes out and no message before it, the message could not be read.
struct Codec {
    socket: CodecSocket,
    /// Receives encoded messages.
    outlet: UdpSocket,
    /// Sends messages to be decoded.
    inlet: Port,
    /// Sends markers.
    markers: Port,
    /// The number of the last marker.
    number: u64,
    decoding: Option<Decoding>,
}

#[derive(Clone, Copy)]
struct Decoding {
    number: u64,
    from: SocketAddr,
    /// The size of the whole datagram.
    bytes: usize,
    until: Instant,
}

/// A socket that sends to the codec, which knows it by its address.
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

    /// Sends a datagram, which the loopback may lose, as the network might have.
    fn send(&self, bytes: &[u8]) {
        if let Err(error) = self.socket.send(bytes) {
            debug!(%error, "gossip datagram lost on the loopback");
        }
    }
}

impl Codec {
    async fn open() -> anyhow::Result<Self> {
        let socket = CodecSocket::open((Ipv4Addr::LOCALHOST, 0).into()).await?;
        let address = socket.local_addr()?;
        let outlet = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        outlet.connect(address).await?;
        let inlet = Port::to(address)?;
        let markers = Port::to(address)?;
        Ok(Self { socket, outlet, inlet, markers, number: 0, decoding: None })
    }

    /// Encodes a message into the buffer. Returns its length.
    async fn encode(&mut self, envelope: ChitchatEnvelope, buffer: &mut [u8]) -> io::Result<usize> {
        // Drops encoded messages that arrived after an earlier time-out.
        while self.outlet.try_recv(buffer).is_ok() {}
        let outlet = self.outlet.local_addr()?;
        let sent = self.socket.send(outlet, envelope).await;
        sent.map_err(|error| error.downcast::<io::Error>().unwrap_or_else(io::Error::other))?;
        let read = timeout(LOOPBACK_TIMEOUT, self.outlet.recv(buffer)).await;
        read.map_err(|_| io::ErrorKind::TimedOut)?
    }

    fn decode(&mut self, message: &[u8], from: SocketAddr, bytes: usize) {
        self.number += 1;
        self.inlet.send(message);
        self.markers.send(&marker(self.number));
        self.decoding =
            Some(Decoding { number: self.number, from, bytes, until: timer::now() + LOOPBACK_TIMEOUT });
    }

    /// The decoded message, or `None` if it cannot be read.
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
            if read.from_addr == self.markers.address && number(&read.envelope) == Some(decoding.number) {
                self.decoding = None;
                return Ok(None);
            }
        }
    }
}

/// A marker: the message that begins an exchange, with no nodes, and with the number as the name of the
/// cluster.
fn marker(number: u64) -> Vec<u8> {
    let name = format!("{number:020}");
    let mut marker = vec![0x53, 0xb0, 0, 0, 0, 0, 20, 0];
    marker.extend_from_slice(name.as_bytes());
    marker
}

fn number(marker: &ChitchatEnvelope) -> Option<u64> {
    match &marker.message {
        ChitchatMessage::Syn { cluster_id, .. } => cluster_id.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn codec_reads_what_it_writes_and_reports_unreadable_bytes() {
        let mut codec = Codec::open().await.unwrap();
        let from: SocketAddr = ([192, 0, 2, 1], 7).into();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
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

    /// A message of this kind whose streams have these numbers of blocks.
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
            (0, &[BLOCKS_MAX][..], true),
            (0, &[BLOCKS_MAX + 1], false),
            (1, &[BLOCKS_MAX / 2, BLOCKS_MAX / 2], true),
            (1, &[1, BLOCKS_MAX], false),
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
    async fn own_message_is_within_the_bound() {
        let mut codec = Codec::open().await.unwrap();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let message = ChitchatMessage::Syn { cluster_id: "x".into(), digest: Default::default() };
        let envelope = ChitchatEnvelope { version: chitchat::ProtocolVersion::V1, message };
        let length = codec.encode(envelope, &mut buffer).await.unwrap();
        assert!(is_bounded(&buffer[..length]));
    }

    #[tokio::test]
    async fn codec_ignores_datagrams_of_other_processes() {
        let mut codec = Codec::open().await.unwrap();
        let stranger = Port::to(codec.socket.local_addr().unwrap()).unwrap();
        let from: SocketAddr = ([192, 0, 2, 1], 7).into();
        for _ in 0..10 {
            stranger.send(&marker(1));
        }
        codec.decode(b"nothing", from, 99);
        let decoding = codec.decoding.unwrap();
        assert!(codec.decoded(decoding).await.unwrap().is_none());
    }
}
