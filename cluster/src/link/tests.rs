use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use schema::{NodeId, ledger::Origin};
use snow::{Builder, HandshakeState};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, copy_bidirectional, duplex, split},
    net::{TcpListener, TcpStream},
    task::{JoinSet, yield_now},
};
use zeroize::Zeroizing;

use super::*;
use crate::protocol::message;

type Near = (Peer, Reader<ReadHalf<DuplexStream>>, Writer<WriteHalf<DuplexStream>>);
type Far = (Peer, Reader<OwnedReadHalf>, Writer<OwnedWriteHalf>);

const SHORT: Duration = Duration::from_millis(100);
/// Both handshakes fit in the stream, so that nobody waits for a reader.
const ROOM: usize = 1 << 20;

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

async fn dial_by(stream: DuplexStream, local: &Local, patience: Patience) -> Result<Near, Refused> {
    let (reader, writer) = split(stream);
    handshake::dial(reader, writer, local, patience).await
}

async fn answer_by(stream: DuplexStream, local: &Local, patience: Patience) -> Result<Near, Refused> {
    let (reader, writer) = split(stream);
    handshake::answer(reader, writer, local, patience, &Progress::default()).await
}

async fn meet(dialer: &Local, answerer: &Local) -> (Result<Near, Refused>, Result<Near, Refused>) {
    let (near, far) = duplex(ROOM);
    tokio::join!(dial_by(near, dialer, PATIENCE), answer_by(far, answerer, PATIENCE))
}

/// The same over TCP, where what was sent before a close can be lost.
async fn meet_by_tcp(dialer: &Local, answerer: &Local) -> (Result<Far, Refused>, Result<Far, Refused>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::join!(async { dial(TcpStream::connect(address).await.unwrap(), dialer).await }, async {
        answer(listener.accept().await.unwrap().0, answerer, &Progress::default()).await
    },)
}

/// A link with somebody in the middle, who passed on the handshake and now has both cables in hand.
struct Tapped {
    dialer: Near,
    answerer: Near,
    /// The ends towards the dialer and the answerer.
    near: DuplexStream,
    far: DuplexStream,
}

async fn tapped(room: usize, patience: Patience) -> Tapped {
    let (dialer, mut near) = duplex(room);
    let (mut far, answerer) = duplex(room);
    let (one, other) = (local(1), local(2));
    let both = async { tokio::join!(dial_by(dialer, &one, patience), answer_by(answerer, &other, patience)) };
    let (dialer, answerer) = tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => panic!("closed"),
        both = both => both,
    };
    Tapped { dialer: dialer.unwrap(), answerer: answerer.unwrap(), near, far }
}

impl Tapped {
    /// The bytes of a frame, on their way to the answerer.
    async fn sealed(&mut self, frame: &[u8]) -> Vec<u8> {
        self.dialer.2.write(frame).await.unwrap();
        self.dialer.2.flush().await.unwrap();
        let mut sealed = vec![0; 2 + frame.len() + 16];
        self.near.read_exact(&mut sealed).await.unwrap();
        sealed
    }

    /// What the answerer makes of these bytes, after which no more come.
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

/// Passes on bytes, altered by their number; keeps what it passed on.
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

/// A handshake with somebody in the middle, who alters bytes in each direction.
async fn meddled(
    dialer: &Local,
    answerer: &Local,
    patience: Patience,
    there: impl Fn(usize, u8) -> u8 + Send + 'static,
    back: impl Fn(usize, u8) -> u8 + Send + 'static,
) -> (Result<Near, Refused>, Result<Near, Refused>, [Arc<Mutex<Vec<u8>>>; 2]) {
    let (one, near) = duplex(ROOM);
    let (far, other) = duplex(ROOM);
    let (near, far) = (split(near), split(far));
    let tapes: [Arc<Mutex<Vec<u8>>>; 2] = [Arc::default(), Arc::default()];
    tokio::spawn(relay(near.0, far.1, there, tapes[0].clone()));
    tokio::spawn(relay(far.0, near.1, back, tapes[1].clone()));
    let (dialed, answered) =
        tokio::join!(dial_by(one, dialer, patience), answer_by(other, answerer, patience));
    (dialed, answered, tapes)
}

fn same(_: usize, byte: u8) -> u8 {
    byte
}

/// What an answerer says to a stranger, and what it makes of it.
async fn strange(bytes: &[u8]) -> (Refused, Vec<u8>) {
    let (mut stranger, stream) = duplex(ROOM);
    stranger.write_all(bytes).await.unwrap();
    stranger.shutdown().await.unwrap();
    let why = answer_by(stream, &local(2), PATIENCE).await.unwrap_err();
    let mut said = Vec::new();
    stranger.read_to_end(&mut said).await.unwrap();
    (why, said)
}

async fn exchange<R, W>(reader: &mut Reader<R>, writer: &mut Writer<W>, salt: u8)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let sizes = [0, 1, MAX_FRAME, 0, 500, MAX_FRAME - 1, 1, MAX_FRAME];
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

/// Polls once.
async fn once<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = future => Some(done),
        () = yield_now() => None,
    }
}

#[tokio::test]
async fn both_ends_learn_who_the_other_is_and_exchange_frames() {
    let (dialed, answered) = meet_by_tcp(&local(1), &local(2)).await;
    let (mut dialed, mut answered) = (dialed.unwrap(), answered.unwrap());
    let peer = |node| Peer { origin: local(node).origin, name: local(node).name, version: 1 };
    assert_eq!((dialed.0, answered.0), (peer(2), peer(1)));
    tokio::join!(exchange(&mut dialed.1, &mut dialed.2, 0), exchange(&mut answered.1, &mut answered.2, 0xff),);
}

#[tokio::test]
async fn frames_pass_a_stream_that_takes_a_few_bytes_at_a_time() {
    let (near, far) = duplex(100);
    let (one, other) = (local(1), local(2));
    let (dialed, answered) = tokio::join!(dial_by(near, &one, PATIENCE), answer_by(far, &other, PATIENCE));
    let (mut dialed, mut answered) = (dialed.unwrap(), answered.unwrap());
    tokio::join!(exchange(&mut dialed.1, &mut dialed.2, 0), exchange(&mut answered.1, &mut answered.2, 0xff),);
}

#[tokio::test]
async fn another_secret_is_named_on_both_sides() {
    let (dialed, answered) = meet_by_tcp(&local(1), &of(2, 8, "palisade", 1..=1)).await;
    assert!(matches!(dialed, Err(Refused::OtherSecret)), "{dialed:?}");
    assert!(matches!(answered, Err(Refused::OtherSecret)), "{answered:?}");
}

#[tokio::test]
async fn another_cluster_is_named_on_both_sides() {
    let (dialed, answered) = meet_by_tcp(&local(1), &of(2, 7, "other", 1..=1)).await;
    assert!(matches!(dialed, Err(Refused::OtherCluster)), "{dialed:?}");
    assert!(matches!(answered, Err(Refused::OtherCluster)), "{answered:?}");
}

#[tokio::test]
async fn a_cluster_whose_name_has_the_same_fingerprint_has_another_key() {
    // Two texts of one CRC-32.
    let (one, other) = ("plumless", "buckeroo");
    let (one, other) = (of(1, 7, one, 1..=1), of(2, 7, other, 1..=1));
    assert_eq!(one.secret.fingerprint(), other.secret.fingerprint());
    let (dialed, answered) = meet(&one, &other).await;
    assert!(matches!(dialed, Err(Refused::OtherSecret)), "{dialed:?}");
    assert!(matches!(answered, Err(Refused::OtherSecret)), "{answered:?}");
}

#[tokio::test]
async fn another_version_is_named_on_both_sides() {
    let (dialed, answered) = meet_by_tcp(&of(1, 7, "palisade", 2..=3), &local(2)).await;
    let said = |refused: Result<Far, Refused>| refused.unwrap_err().to_string();
    assert_eq!(said(dialed), "the peer speaks versions 1 to 1 of the protocol, we speak 2 to 3");
    assert_eq!(said(answered), "the peer speaks versions 2 to 3 of the protocol, we speak 1 to 1");
}

#[tokio::test]
async fn the_highest_common_version_is_agreed_on() {
    for (one, other, both) in
        [(1..=2, 1..=1, 1), (1..=1, 1..=2, 1), (1..=4, 3..=9, 4), (0..=255, 255..=255, 255)]
    {
        let (dialed, answered) = meet(&of(1, 7, "a", one), &of(2, 7, "a", other)).await;
        assert_eq!([dialed.unwrap().0.version, answered.unwrap().0.version], [both; 2]);
    }
}

#[tokio::test]
async fn who_dials_itself_is_told_on_both_sides() {
    let (dialed, answered) = meet(&local(1), &local(1)).await;
    assert!(matches!(dialed, Err(Refused::Itself)), "{dialed:?}");
    assert!(matches!(answered, Err(Refused::Itself)), "{answered:?}");

    let mut restarted = local(1);
    restarted.origin.incarnation += 1;
    let (dialed, answered) = meet(&local(1), &restarted).await;
    assert!(dialed.is_ok() && answered.is_ok());
}

#[tokio::test]
async fn a_name_is_short_and_can_be_shown() {
    let named = |name: String| Local { name, ..local(1) };
    for name in [String::new(), "n".repeat(MAX_NAME), "Žofín".to_owned()] {
        let (_, answered) = meet(&named(name.clone()), &local(2)).await;
        assert_eq!(answered.unwrap().0.name, name);
    }
    for name in ["n".repeat(MAX_NAME + 1), "a\nb".to_owned()] {
        let (dialed, answered) = meet(&named(name), &local(2)).await;
        assert!(matches!(dialed, Err(Refused::Malformed(_))), "{dialed:?}");
        assert!(matches!(answered, Err(Refused::Closed)), "{answered:?}");
    }
}

#[tokio::test]
async fn a_node_that_introduces_itself_wrongly_is_refused() {
    let who = |name: &[u8]| [[1; 24].as_slice(), name].concat();
    for who in [vec![], vec![1; 23], who(b"\xff"), who(b"\x1b[2J"), who(&[b'n'; MAX_NAME + 1])] {
        let (stranger, stream) = duplex(ROOM);
        let (mut reader, mut writer) = split(stranger);
        let mut noise = by_hand(&local(2));
        let mut message = [0; 400];
        let length = noise.write_message(&who, &mut message).unwrap();
        writer.write_all(b"PLSD\x01\x01").await.unwrap();
        writer.write_all(&local(2).secret.fingerprint()).await.unwrap();
        writer.write_u16(u16::try_from(length).unwrap()).await.unwrap();
        writer.write_all(&message[..length]).await.unwrap();
        let answered = answer_by(stream, &local(2), PATIENCE).await;
        assert!(matches!(answered, Err(Refused::Malformed(_))), "{answered:?}");
        let mut said = Vec::new();
        reader.read_to_end(&mut said).await.unwrap();
        assert_eq!(said.len(), 10);
    }
}

/// A dialer made of the library alone.
fn by_hand(local: &Local) -> HandshakeState {
    let cluster = local.secret.fingerprint();
    let preamble = [b"PLSD\x01\x01".as_slice(), &cluster].concat();
    let prologue = [preamble.as_slice(), &preamble].concat();
    let key = local.secret.derive("link").unwrap();
    Builder::new("Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s".parse().unwrap())
        .psk(0, &key)
        .unwrap()
        .prologue(&prologue)
        .unwrap()
        .build_initiator()
        .unwrap()
}

#[tokio::test]
async fn strangers_are_told_nothing() {
    for word in ["GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET ", "PLSX\x01\x01abcd", "\0\0\0\0"] {
        let (why, said) = strange(word.as_bytes()).await;
        assert!(matches!(why, Refused::NotPalisade), "{why:?}");
        assert_eq!(said, b"");
    }
    for word in ["", "GET", "PLS", "PLSD\x01\x01abc"] {
        let (why, said) = strange(word.as_bytes()).await;
        assert!(matches!(why, Refused::Closed), "{why:?}");
        assert_eq!(said, b"");
    }
}

#[tokio::test]
async fn a_dialer_says_that_it_reached_something_else() {
    let (mut other, stream) = duplex(ROOM);
    other.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await.unwrap();
    let dialed = dial_by(stream, &local(1), PATIENCE).await;
    assert!(matches!(dialed, Err(Refused::NotPalisade)), "{dialed:?}");
}

#[tokio::test]
async fn versions_in_the_wrong_order_are_malformed() {
    let preamble = [b"PLSD\x02\x01".as_slice(), &local(2).secret.fingerprint()].concat();
    let (why, _) = strange(&preamble).await;
    assert!(matches!(why, Refused::Malformed(_)), "{why:?}");
}

proptest! {
    #[test]
    fn noise_is_refused_by_both_sides(bytes in prop::collection::vec(any::<u8>(), 0..400), known in 0..=12_usize) {
        // So that some of it comes beyond the preamble.
        let preamble = [b"PLSD\x01\x01".as_slice(), &local(2).secret.fingerprint(), &[0, 72]].concat();
        let bytes = [&preamble[..known], &bytes].concat();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let (why, _) = strange(&bytes).await;
            assert!(!matches!(why, Refused::Slow | Refused::Io(_)), "{why:?}");

            let (mut other, stream) = duplex(ROOM);
            other.write_all(&bytes).await.unwrap();
            other.shutdown().await.unwrap();
            let why = dial_by(stream, &local(1), PATIENCE).await.unwrap_err();
            assert!(!matches!(why, Refused::Slow | Refused::Io(_)), "{why:?}");
        });
    }
}

#[tokio::test]
async fn every_altered_byte_of_a_handshake_is_found() {
    let (one, other) = (local(1), local(2));
    let (dialed, answered, tapes) = meddled(&one, &other, PATIENCE, same, same).await;
    assert!(dialed.is_ok() && answered.is_ok());
    let [there, back] = tapes.map(|tape| tape.lock().unwrap().len());
    // The preamble, a message of a key, an origin, a name and a tag, and the empty frame.
    assert_eq!([there, back], [10 + 2 + 32 + 24 + 6 + 16 + 2 + 16, 10 + 2 + 32 + 24 + 6 + 16]);

    let patience = Patience { handshake: Duration::from_secs(2), ..PATIENCE };
    let mut tries = JoinSet::new();
    for n in 0..there + back {
        let (one, other) = (one.clone(), other.clone());
        tries.spawn(async move {
            let alter = move |at, here, byte: u8| if at == here { byte ^ (1 << (n % 8)) } else { byte };
            let there_at = move |here, byte| alter(n, here, byte);
            let back_at = move |here, byte| alter(n.wrapping_sub(there), here, byte);
            let (dialed, answered, _) = meddled(&one, &other, patience, there_at, back_at).await;
            assert!(answered.is_err(), "{n}");
            // The dialer has all when it sends its proof.
            let proof = (there - 18..there).contains(&n);
            assert_eq!(dialed.is_ok(), proof, "{n}: {dialed:?}");
        });
    }
    while let Some(tried) = tries.join_next().await {
        tried.unwrap();
    }
}

#[tokio::test]
async fn nobody_on_the_way_can_lower_the_version() {
    let (one, other) = (of(1, 7, "a", 1..=2), of(2, 7, "a", 1..=2));
    let lower = |n, byte| if n == 5 { 1 } else { byte };
    type Alter = fn(usize, u8) -> u8;
    for (there, back) in [(lower as Alter, same as Alter), (same, lower), (lower, lower)] {
        let (dialed, answered, _) = meddled(&one, &other, PATIENCE, there, back).await;
        assert!(matches!(dialed, Err(Refused::OtherSecret)), "{dialed:?}");
        assert!(matches!(answered, Err(Refused::OtherSecret)), "{answered:?}");
    }
}

#[tokio::test]
async fn a_recording_is_refused() {
    let (one, other) = (local(1), local(2));
    let (dialed, answered, tapes) = meddled(&one, &other, PATIENCE, same, same).await;
    let (mut dialed, mut answered) = (dialed.unwrap(), answered.unwrap());
    for word in [b"one".as_slice(), b"two"] {
        for (from, to) in [(&mut dialed.2, &mut answered.1), (&mut answered.2, &mut dialed.1)] {
            from.write(word).await.unwrap();
            from.flush().await.unwrap();
            assert_eq!(to.read().await.unwrap(), word);
        }
    }
    let [there, back] = tapes.map(|tape| tape.lock().unwrap().clone());

    let (why, said) = strange(&there).await;
    assert!(matches!(why, Refused::Malformed("it was recorded, or altered on the way")), "{why:?}");
    assert_ne!(said, back[..said.len()]);

    let (mut stranger, stream) = duplex(ROOM);
    stranger.write_all(&back).await.unwrap();
    let dialed = dial_by(stream, &one, PATIENCE).await;
    assert!(matches!(dialed, Err(Refused::OtherSecret)), "{dialed:?}");
}

#[tokio::test]
async fn the_handshake_of_a_dialer_without_proof_is_not_done() {
    let (one, other) = (local(1), local(2));
    let (_, _, tapes) = meddled(&one, &other, PATIENCE, same, same).await;
    let there = tapes[0].lock().unwrap().clone();
    let (why, _) = strange(&there[..there.len() - 18]).await;
    assert!(matches!(why, Refused::Closed), "{why:?}");
}

#[tokio::test]
async fn who_trickles_bytes_is_cut_off() {
    let patience = Patience { handshake: SHORT, ..PATIENCE };
    let (one, other) = (local(1), local(2));
    let (_, _, tapes) = meddled(&one, &other, PATIENCE, same, same).await;
    let there = tapes[0].lock().unwrap().clone();

    let (mut stranger, stream) = duplex(ROOM);
    let trickle = tokio::spawn(async move {
        for byte in there {
            if stranger.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    let began = Instant::now();
    let answered = answer_by(stream, &other, patience).await;
    assert!(matches!(answered, Err(Refused::Slow)), "{answered:?}");
    assert!(began.elapsed() >= SHORT);
    trickle.await.unwrap();
}

#[tokio::test]
async fn who_says_nothing_is_cut_off() {
    let patience = Patience { handshake: SHORT, ..PATIENCE };
    let (_silent, stream) = duplex(ROOM);
    assert!(matches!(answer_by(stream, &local(2), patience).await, Err(Refused::Slow)));
    let (_silent, stream) = duplex(ROOM);
    assert!(matches!(dial_by(stream, &local(1), patience).await, Err(Refused::Slow)));
}

#[tokio::test]
async fn a_length_that_no_frame_has_is_refused_before_memory_is_taken() {
    for length in [0, 1, 15, u16::try_from(MAX_FRAME + 17).unwrap(), u16::MAX] {
        let mut tapped = tapped(ROOM, PATIENCE).await;
        let before = tapped.answerer.1.buffers();
        tapped.far.write_all(&length.to_be_bytes()).await.unwrap();
        let why = tapped.answerer.1.read().await.unwrap_err();
        assert!(matches!(why, Broken::Length(refused) if refused == usize::from(length)), "{why:?}");
        assert_eq!(tapped.answerer.1.buffers(), before);
    }
}

#[tokio::test]
async fn a_frame_that_is_too_long_is_not_sent() {
    let mut tapped = tapped(ROOM, PATIENCE).await;
    let writer = &mut tapped.dialer.2;
    let why = writer.write(&vec![0; MAX_FRAME + 1]).await.unwrap_err();
    assert!(matches!(why, Broken::Length(_)), "{why:?}");
    assert!(matches!(writer.write(b"a").await, Err(Broken::Before)));
    assert!(matches!(writer.flush().await, Err(Broken::Before)));
    assert!(once(tapped.near.read_u8()).await.is_none());
}

#[tokio::test]
async fn every_altered_byte_of_a_frame_breaks_the_link() {
    for n in 0..2 + 5 + 16 {
        let mut tapped = tapped(ROOM, PATIENCE).await;
        let mut sealed = tapped.sealed(b"frame").await;
        sealed[n] ^= 1 << (n % 8);
        let why = tapped.delivered(&sealed).await;
        match n {
            0 | 1 => assert!(matches!(why, Broken::Length(_) | Broken::Cut | Broken::Forged), "{why:?}"),
            _ => assert!(matches!(why, Broken::Forged), "{n}: {why:?}"),
        }
    }
}

#[tokio::test]
async fn frames_exchanged_repeated_or_dropped_break_the_link() {
    for order in [[1, 0, 2], [0, 0, 1], [0, 2, 2]] {
        let mut tapped = tapped(ROOM, PATIENCE).await;
        let mut frames = Vec::new();
        for word in ["0", "1", "2"] {
            frames.push(tapped.sealed(word.as_bytes()).await);
        }
        let bytes = order.map(|n: usize| frames[n].clone()).concat();
        let why = tapped.delivered(&bytes).await;
        assert!(matches!(why, Broken::Forged), "{order:?}: {why:?}");
    }
}

#[tokio::test]
async fn a_frame_sent_back_breaks_the_link() {
    let mut tapped = tapped(ROOM, PATIENCE).await;
    let sealed = tapped.sealed(b"mirror").await;
    tapped.near.write_all(&sealed).await.unwrap();
    let why = tapped.dialer.1.read().await.unwrap_err();
    assert!(matches!(why, Broken::Forged), "{why:?}");
}

#[tokio::test]
async fn an_end_within_a_frame_is_not_an_end_after_one() {
    let mut one = tapped(ROOM, PATIENCE).await;
    let sealed = one.sealed(b"frame").await;
    assert!(matches!(one.delivered(&sealed).await, Broken::Closed));
    for n in 1..sealed.len() {
        let mut one = tapped(ROOM, PATIENCE).await;
        let sealed = one.sealed(b"frame").await;
        let why = one.delivered(&sealed[..n]).await;
        assert!(matches!(why, Broken::Cut), "{n}: {why:?}");
    }
}

#[tokio::test]
async fn a_half_closed_link_still_carries_the_other_half() {
    let (dialed, answered) = meet_by_tcp(&local(1), &local(2)).await;
    let ((_, mut reader, writer), mut answered) = (dialed.unwrap(), answered.unwrap());
    writer.close().await.unwrap();
    assert!(matches!(answered.1.read().await, Err(Broken::Closed)));
    answered.2.write(b"still here").await.unwrap();
    answered.2.flush().await.unwrap();
    assert_eq!(reader.read().await.unwrap(), b"still here");
    drop(answered);
    assert!(matches!(reader.read().await, Err(Broken::Closed)));
}

#[tokio::test]
async fn the_rest_of_a_frame_must_come_but_the_next_may_take_its_time() {
    let patience = Patience { rest: SHORT, ..PATIENCE };
    let mut tapped = tapped(ROOM, patience).await;
    let sealed = [tapped.sealed(b"one").await, tapped.sealed(b"two").await, tapped.sealed(b"three").await];
    let (_, reader, _) = &mut tapped.answerer;
    for (sealed, frame) in sealed.iter().zip([b"one", b"two"]) {
        assert!(tokio::time::timeout(SHORT * 2, reader.read()).await.is_err());
        tapped.far.write_all(&sealed[..1]).await.unwrap();
        assert!(once(reader.read()).await.is_none());
        tapped.far.write_all(&sealed[1..]).await.unwrap();
        assert_eq!(reader.read().await.unwrap(), frame);
    }
    tapped.far.write_all(&sealed[2][..1]).await.unwrap();
    let began = Instant::now();
    // Dropped and called again, it waits no longer for that.
    let tries = async {
        loop {
            if let Ok(read) = tokio::time::timeout(SHORT / 5, reader.read()).await {
                break read.unwrap_err();
            }
        }
    };
    let why = tokio::time::timeout(PATIENCE.rest, tries).await.unwrap();
    assert!(matches!(why, Broken::Slow), "{why:?}");
    assert!(began.elapsed() >= SHORT);
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_slow() {
    let patience = Patience { write: SHORT, ..PATIENCE };
    let mut tapped = tapped(200, patience).await;
    let (_, _, writer) = &mut tapped.dialer;
    writer.write(&[1; 1_000]).await.unwrap();
    assert!(matches!(writer.flush().await, Err(Broken::Slow)));
    assert!(matches!(writer.flush().await, Err(Broken::Before)));
}

#[tokio::test]
async fn a_dropped_read_loses_no_bytes() {
    let mut tapped = tapped(ROOM, PATIENCE).await;
    let frames = [vec![1; 300], vec![], vec![3; 20_000], vec![4]];
    let mut bytes = Vec::new();
    for frame in &frames {
        bytes.extend(tapped.sealed(frame).await);
    }
    let mut read = Vec::new();
    for byte in bytes {
        tapped.far.write_all(&[byte]).await.unwrap();
        if let Some(frame) = once(tapped.answerer.1.read()).await {
            read.push(frame.unwrap().to_vec());
        }
    }
    assert_eq!(read, frames);
}

#[tokio::test]
async fn a_dropped_write_or_flush_loses_no_bytes() {
    let mut tapped = tapped(100, PATIENCE).await;
    let frames: Vec<_> = (0..20).map(|n| vec![n; 10_000]).collect();
    let (_, _, writer) = &mut tapped.dialer;
    let (_, reader, _) = &mut tapped.answerer;
    let (mut taken, mut flushed, mut read) = (0, false, Vec::new());
    while read.len() < frames.len() {
        if let Some(frame) = frames.get(taken) {
            if let Some(wrote) = once(writer.write(frame)).await {
                wrote.unwrap();
                taken += 1;
            }
        } else if !flushed {
            flushed = once(writer.flush()).await.is_some();
        }
        let mut some = [0; 100];
        if let Some(passed) = once(tapped.near.read(&mut some)).await {
            tapped.far.write_all(&some[..passed.unwrap()]).await.unwrap();
        }
        if let Some(frame) = once(reader.read()).await {
            read.push(frame.unwrap().to_vec());
        }
    }
    assert_eq!(read, frames);
}

#[tokio::test]
async fn small_frames_leave_together() {
    let mut tapped = tapped(ROOM, PATIENCE).await;
    for _ in 0..10 {
        tapped.dialer.2.write(&[1; 50]).await.unwrap();
    }
    let mut bytes = [0; 4_096];
    assert!(once(tapped.near.read(&mut bytes)).await.is_none());
    tapped.dialer.2.flush().await.unwrap();
    assert_eq!(tapped.near.read(&mut bytes).await.unwrap(), 10 * (2 + 50 + 16));
}

#[tokio::test]
async fn what_waits_to_be_flushed_is_bounded_and_buffers_are_kept() {
    let mut tapped = tapped(ROOM, PATIENCE).await;
    let Tapped { dialer, answerer, near, far } = &mut tapped;
    let mut kept = None;
    for round in 0..5 {
        for size in [0, 1, 100, MAX_FRAME, MAX_FRAME, 5_000, MAX_FRAME / 2, 1] {
            dialer.2.write(&vec![9; size]).await.unwrap();
        }
        dialer.2.flush().await.unwrap();
        let mut bytes = vec![0; ROOM];
        let length = near.read(&mut bytes).await.unwrap();
        far.write_all(&bytes[..length]).await.unwrap();
        for _ in 0..8 {
            answerer.1.read().await.unwrap();
        }
        let buffers = (dialer.2.buffer(), answerer.1.buffers());
        assert!(buffers.0 <= 128 * 1024, "{buffers:?}");
        assert_eq!(*kept.get_or_insert(buffers), buffers, "{round}");
    }
}

#[tokio::test]
async fn a_link_ends_before_its_numbers_do() {
    let mut tapped = tapped(ROOM, PATIENCE).await;
    tapped.dialer.2.count_from((1 << 62) - 1);
    tapped.answerer.1.count_from((1 << 62) - 1);
    let last = tapped.sealed(b"last").await;
    assert!(matches!(tapped.dialer.2.write(b"one more").await, Err(Broken::Spent)));
    tapped.far.write_all(&last).await.unwrap();
    assert_eq!(tapped.answerer.1.read().await.unwrap(), b"last");
    tapped.far.write_all(&last).await.unwrap();
    assert!(matches!(tapped.answerer.1.read().await, Err(Broken::Spent)));
}

fn ipv4(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

/// Whether the connection still has its place.
fn stays(permit: &mut Permit) -> bool {
    permit.made_room.try_recv() == Err(oneshot::error::TryRecvError::Empty)
}

#[test]
fn gate_bounds_all_and_each_address() {
    let gate = Gate::new(5, 2);
    let mapped = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
    let mut first = gate.enter(ipv4(1));
    let mut second = gate.enter(mapped);
    assert!(stays(&mut first) && stays(&mut second));
    let mut third = gate.enter(ipv4(1));
    assert!(!stays(&mut first) && stays(&mut second) && stays(&mut third), "the oldest of it makes room");
    let mut others = [2, 2, 3].map(|n| gate.enter(ipv4(n)));
    assert_eq!(gate.inside(), 5);
    let mut newest = gate.enter(ipv4(4));
    assert_eq!(gate.inside(), 5);
    assert!(!stays(&mut second), "the oldest of who has the most");
    assert!(stays(&mut third) && stays(&mut newest) && others.iter_mut().all(stays));
    drop((first, second, third, newest, others));
    assert_eq!(gate.inside(), 0);
}

#[test]
fn addresses_of_one_network_of_64_bits_are_one() {
    let gate = Gate::new(100, 2);
    let address = |network: u16, host| IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host]);
    let mut ours: Vec<_> = (0..50).map(|host| gate.enter(address(1, host))).collect();
    let mut other = gate.enter(address(2, 1));
    assert_eq!(ours.iter_mut().filter_map(|permit| stays(permit).then_some(())).count(), 2);
    assert!(stays(&mut other));
    assert_eq!(gate.inside(), 3);
}

#[test]
fn who_has_come_further_stays() {
    let gate = Gate::new(8, 4);
    let mut peer = gate.enter(ipv4(1));
    peer.progress().reached(Progress::SPEAKS);
    let mut silent: Vec<_> = (0..3).map(|_| gate.enter(ipv4(1))).collect();
    for _ in 0..100 {
        silent.push(gate.enter(ipv4(1)));
        assert!(stays(&mut peer));
    }
    peer.progress().reached(Progress::KNOWS);
    // A crowd that says the word, from everywhere.
    for n in 0..200 {
        let permit = gate.enter(ipv4(n));
        permit.progress().reached(Progress::SPEAKS);
        silent.push(permit);
        assert!(stays(&mut peer), "{n}");
        assert!(gate.inside() <= 8);
    }
}

proptest! {
    /// Whoever comes, proves itself or leaves: bounds hold, the newest is always in, and a peer that has
    /// proved itself makes room only for peers that have too.
    #[test]
    fn any_crowd_is_bounded(
        steps in prop::collection::vec((0..6_u8, 0..4_u8, any::<prop::sample::Index>()), 1..200),
    ) {
        let gate = Gate::new(6, 3);
        let mut permits: Vec<(u8, Permit)> = Vec::new();
        for (n, what, which) in steps {
            if what == 0 && !permits.is_empty() {
                drop(permits.swap_remove(which.index(permits.len())));
            } else if what == 1 && !permits.is_empty() {
                permits[which.index(permits.len())].1.progress().reached(Progress::KNOWS);
            } else {
                permits.push((n, gate.enter(ipv4(n))));
                prop_assert!(stays(&mut permits.last_mut().unwrap().1));
            }
            permits.retain_mut(|(_, permit)| stays(permit));
            prop_assert_eq!(gate.inside(), permits.len());
            prop_assert!(permits.len() <= 6);
            for n in 0..6 {
                prop_assert!(permits.iter().filter(|(whose, _)| *whose == n).count() <= 3);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dialer_that_says_nothing_is_slow_after_the_preamble_deadline() {
    let (near, _far) = tokio::io::duplex(1_024);
    let began = tokio::time::Instant::now();
    let refused = answer_by(near, &local(2), PATIENCE).await.unwrap_err();
    assert!(matches!(refused, Refused::Slow), "{refused}");
    assert_eq!(began.elapsed(), PATIENCE.preamble);
}

#[tokio::test]
async fn impossible_origin_is_refused_in_the_handshake() {
    let node = NodeId::from_bytes([1; 16]);
    for origin in [
        Origin { node, incarnation: u64::MAX },
        Origin { node, incarnation: message::MAX_TIME + 1 },
        Origin { node: NodeId::from_bytes([0; 16]), incarnation: 1 },
        Origin { node: NodeId::from_bytes([0xff; 16]), incarnation: 1 },
    ] {
        let liar = Local { origin, ..local(1) };
        let (_, answered) = meet(&liar, &local(2)).await;
        assert!(matches!(answered, Err(Refused::Malformed(_))), "{origin:?}");
        let (dialed, _) = meet(&local(2), &liar).await;
        assert!(matches!(dialed, Err(Refused::Malformed(_))), "{origin:?}");
    }
}

#[test]
fn a_reset_connection_is_a_closed_one() {
    assert!(matches!(Refused::from(io::Error::from(io::ErrorKind::ConnectionReset)), Refused::Closed));
    assert!(matches!(Refused::from(io::Error::from(io::ErrorKind::OutOfMemory)), Refused::Io(_)));
}

/// `cargo test --release -p cluster link -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "its figures are for who runs it")]
async fn how_fast() {
    const BYTES: usize = 512 << 20;
    for size in [100, 1_000, MAX_FRAME] {
        let (dialed, answered) = meet_by_tcp(&local(1), &local(2)).await;
        let ((_, _reader, mut writer), (_, mut reader, _writer)) = (dialed.unwrap(), answered.unwrap());
        let frames = (BYTES / size).min(2_000_000);
        let began = Instant::now();
        let send = tokio::spawn(async move {
            let frame = vec![5; size];
            for _ in 0..frames {
                writer.write(&frame).await.unwrap();
            }
            writer.flush().await.unwrap();
            writer
        });
        for _ in 0..frames {
            assert_eq!(reader.read().await.unwrap().len(), size);
        }
        let took = began.elapsed().as_secs_f64();
        let (frames, size_f) =
            (f64::from(u32::try_from(frames).unwrap()), f64::from(u32::try_from(size).unwrap()));
        eprintln!("{size} B: {:.0} MB/s, {:.0} frames/s", frames * size_f / took / 1e6, frames / took);
        send.await.unwrap();
    }
    let began = Instant::now();
    for _ in 0..200 {
        let (dialed, answered) = meet_by_tcp(&local(1), &local(2)).await;
        assert!(dialed.is_ok() && answered.is_ok());
    }
    eprintln!("{:?} a handshake, both sides", began.elapsed() / 200);
}
