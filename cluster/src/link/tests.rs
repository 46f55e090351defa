//! Links over streams in memory and over TCP. Tests of one concern lie in a module.

mod frames;
mod handshakes;

use super::*;
use crate::protocol::message;

use proptest::prelude::*;
use schema::{NodeId, ledger::Origin};
use snow::{Builder, HandshakeState};
use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, copy_bidirectional, duplex, split},
    net::{TcpListener, TcpStream},
    task::{JoinSet, yield_now},
};
use zeroize::Zeroizing;

type Near = (Peer, Reader<ReadHalf<DuplexStream>>, Writer<WriteHalf<DuplexStream>>);
type Far = (Peer, Reader<OwnedReadHalf>, Writer<OwnedWriteHalf>);

const TEST_TIMEOUT: Duration = Duration::from_millis(100);

/// The capacity of a test stream, in bytes: both handshakes fit, so neither end waits for the other to read.
const STREAM_BYTES: usize = 1 << 20;

fn local(node: u8) -> Local {
    of(node, 7, "palisade", 1..=1)
}

fn of(node: u8, secret: u8, cluster: &str, versions: RangeInclusive<u8>) -> Local {
    Local {
        origin: Origin { node: NodeId::from_bytes([node; 16]), incarnation: 3 },
        name: format!("node {node}"),
        secret: Secret::new(Zeroizing::new(vec![secret; 32]), cluster).unwrap(),
        versions,
    }
}

async fn dial_by(stream: DuplexStream, local: &Local, timeouts: Timeouts) -> Result<Near, Refused> {
    let (reader, writer) = split(stream);
    handshake::dial(reader, writer, local, timeouts).await
}

async fn answer_by(stream: DuplexStream, local: &Local, timeouts: Timeouts) -> Result<Near, Refused> {
    let (reader, writer) = split(stream);
    handshake::answer(reader, writer, local, timeouts, &Progress::default()).await
}

async fn meet(dialer: &Local, answerer: &Local) -> (Result<Near, Refused>, Result<Near, Refused>) {
    let (near, far) = duplex(STREAM_BYTES);
    tokio::join!(dial_by(near, dialer, TIMEOUTS), answer_by(far, answerer, TIMEOUTS))
}

/// As [`meet`], over TCP, where bytes that were sent before a close can be lost.
async fn meet_by_tcp(dialer: &Local, answerer: &Local) -> (Result<Far, Refused>, Result<Far, Refused>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::join!(async { dial(TcpStream::connect(address).await.unwrap(), dialer).await }, async {
        answer(listener.accept().await.unwrap().0, answerer, &Progress::default()).await
    },)
}

/// A link with a man in the middle, who passed on the handshake and now holds both connections.
struct Tapped {
    dialer: Near,
    answerer: Near,
    /// The connection to the dialer.
    near: DuplexStream,
    /// The connection to the answerer.
    far: DuplexStream,
}

async fn tapped(room: usize, timeouts: Timeouts) -> Tapped {
    let (dialer, mut near) = duplex(room);
    let (mut far, answerer) = duplex(room);
    let one = local(1);
    let other = local(2);
    let both = async { tokio::join!(dial_by(dialer, &one, timeouts), answer_by(answerer, &other, timeouts)) };
    let (dialer, answerer) = tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => panic!("closed"),
        both = both => both,
    };
    Tapped { dialer: dialer.unwrap(), answerer: answerer.unwrap(), near, far }
}

impl Tapped {
    /// Makes the dialer send a frame. Returns its encrypted bytes.
    async fn sealed(&mut self, frame: &[u8]) -> Vec<u8> {
        self.dialer.2.write(frame).await.unwrap();
        self.dialer.2.flush().await.unwrap();
        let mut sealed = vec![0; 2 + frame.len() + 16];
        self.near.read_exact(&mut sealed).await.unwrap();
        sealed
    }

    /// Sends these bytes to the answerer and closes the connection. Returns the error with which its reader
    /// ends.
    async fn delivered(mut self, bytes: &[u8]) -> Broken {
        self.far.write_all(bytes).await.unwrap();
        self.far.shutdown().await.unwrap();
        let reader = &mut self.answerer.1;
        let why = loop {
            if let Err(why) = reader.read().await {
                break why;
            }
        };
        assert!(matches!(reader.read().await, Err(Broken::Before)));
        why
    }
}

/// Forwards bytes, altered by their position, and records what it forwards.
async fn relay(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    alter: impl Fn(usize, u8) -> u8,
    tape: Arc<Mutex<Vec<u8>>>,
) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        {
            let mut tape = tape.lock().unwrap();
            for byte in &mut bytes[..read] {
                *byte = alter(tape.len(), *byte);
                tape.push(*byte);
            }
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// A handshake with a man in the middle, who alters bytes in each direction.
async fn meddled(
    dialer: &Local,
    answerer: &Local,
    timeouts: Timeouts,
    there: impl Fn(usize, u8) -> u8 + Send + 'static,
    back: impl Fn(usize, u8) -> u8 + Send + 'static,
) -> (Result<Near, Refused>, Result<Near, Refused>, [Arc<Mutex<Vec<u8>>>; 2]) {
    let (one, near) = duplex(STREAM_BYTES);
    let (far, other) = duplex(STREAM_BYTES);
    let near = split(near);
    let far = split(far);
    let tapes: [Arc<Mutex<Vec<u8>>>; 2] = [Arc::default(), Arc::default()];
    tokio::spawn(relay(near.0, far.1, there, tapes[0].clone()));
    tokio::spawn(relay(far.0, near.1, back, tapes[1].clone()));
    let (dialed, answered) =
        tokio::join!(dial_by(one, dialer, timeouts), answer_by(other, answerer, timeouts));
    (dialed, answered, tapes)
}

fn same(_: usize, byte: u8) -> u8 {
    byte
}

async fn exchange<R, W>(reader: &mut Reader<R>, writer: &mut Writer<W>, salt: u8)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let sizes = [0, 1, FRAME_BYTES_MAX, 0, 500, FRAME_BYTES_MAX - 1, 1, FRAME_BYTES_MAX];
    let send = async {
        for size in sizes {
            writer.write(&vec![salt; size]).await.unwrap();
        }
        writer.flush().await.unwrap();
    };
    let receive = async {
        for size in sizes {
            assert_eq!(reader.read().await.unwrap(), vec![!salt; size]);
        }
    };
    tokio::join!(send, receive);
}

/// Polls a future once.
async fn once<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = future => Some(done),
        () = yield_now() => None,
    }
}
