//! The handshake: which peers get a link, and why others are refused.

#![allow(clippy::disallowed_methods, reason = "a test measures how long the thing under test takes")]

use super::*;

/// Sends these bytes to an answerer. Returns why it refuses, and what it sends.
async fn strange(bytes: &[u8]) -> (Refused, Vec<u8>) {
    let (mut stranger, stream) = duplex(STREAM_BYTES);
    stranger.write_all(bytes).await.unwrap();
    stranger.shutdown().await.unwrap();
    let why = answer_by(stream, &local(2), TIMEOUTS).await.unwrap_err();
    let mut said = Vec::new();
    stranger.read_to_end(&mut said).await.unwrap();
    (why, said)
}

#[tokio::test]
async fn both_ends_learn_the_peer_and_exchange_frames() {
    let (dialed, answered) = meet_by_tcp(&local(1), &local(2)).await;
    let mut dialed = dialed.unwrap();
    let mut answered = answered.unwrap();
    let peer = |node| Peer { origin: local(node).origin, name: local(node).name, version: 1 };
    assert_eq!((dialed.0, answered.0), (peer(2), peer(1)));
    tokio::join!(exchange(&mut dialed.1, &mut dialed.2, 0), exchange(&mut answered.1, &mut answered.2, 0xff),);
}

#[tokio::test]
async fn other_secret_is_named_on_both_sides() {
    let (dialed, answered) = meet_by_tcp(&local(1), &of(2, 8, "palisade", 1..=1)).await;
    assert!(matches!(dialed, Err(Refused::OtherSecret)), "{dialed:?}");
    assert!(matches!(answered, Err(Refused::OtherSecret)), "{answered:?}");
}

#[tokio::test]
async fn nodes_meet_at_every_step_of_a_secrets_replacement() {
    let with = |node: u8, own: u8, accepted: Option<u8>| {
        let mut local = of(node, own, "palisade", 1..=1);
        if let Some(accepted) = accepted {
            local.secret = local.secret.accepting(Zeroizing::new(vec![accepted; 32])).unwrap();
        }
        local
    };
    // Before, in the first and in the second step, and after.
    let steps = [(7, None), (7, Some(8)), (8, Some(7)), (8, None)];
    for (n, step) in steps.iter().enumerate() {
        for next in &steps[n..steps.len().min(n + 2)] {
            for (dials, answers) in [(step, next), (next, step)] {
                let dialer = with(1, dials.0, dials.1);
                let answerer = with(2, answers.0, answers.1);
                let (dialed, answered) = meet(&dialer, &answerer).await;
                assert!(dialed.is_ok() && answered.is_ok(), "step {n}: {dialed:?}, {answered:?}");
            }
        }
    }
    let (dialed, answered) = meet(&of(1, 9, "palisade", 1..=1), &with(2, 7, Some(8))).await;
    assert!(matches!(dialed, Err(Refused::OtherSecret)), "{dialed:?}");
    assert!(matches!(answered, Err(Refused::OtherSecret)), "{answered:?}");
}

#[tokio::test]
async fn other_cluster_is_named_on_both_sides() {
    let (dialed, answered) = meet_by_tcp(&local(1), &of(2, 7, "other", 1..=1)).await;
    assert!(matches!(dialed, Err(Refused::OtherCluster)), "{dialed:?}");
    assert!(matches!(answered, Err(Refused::OtherCluster)), "{answered:?}");
}

#[tokio::test]
async fn clusters_with_equal_fingerprints_have_different_keys() {
    // Two texts with the same CRC-32.
    let one = "plumless";
    let other = "buckeroo";
    let one = of(1, 7, one, 1..=1);
    let other = of(2, 7, other, 1..=1);
    assert_eq!(one.secret.fingerprint(), other.secret.fingerprint());
    let (dialed, answered) = meet(&one, &other).await;
    assert!(matches!(dialed, Err(Refused::OtherSecret)), "{dialed:?}");
    assert!(matches!(answered, Err(Refused::OtherSecret)), "{answered:?}");
}

#[tokio::test]
async fn other_version_is_named_on_both_sides() {
    let (dialed, answered) = meet_by_tcp(&of(1, 7, "palisade", 2..=3), &local(2)).await;
    let said = |refused: Result<Far, Refused>| refused.unwrap_err().to_string();
    assert_eq!(said(dialed), "the peer speaks protocol versions 1 to 1, this node 2 to 3");
    assert_eq!(said(answered), "the peer speaks protocol versions 2 to 3, this node 1 to 1");
}

#[tokio::test]
async fn highest_common_version_is_agreed_on() {
    for (one, other, both) in
        [(1..=2, 1..=1, 1), (1..=1, 1..=2, 1), (1..=4, 3..=9, 4), (0..=255, 255..=255, 255)]
    {
        let (dialed, answered) = meet(&of(1, 7, "a", one), &of(2, 7, "a", other)).await;
        assert_eq!([dialed.unwrap().0.version, answered.unwrap().0.version], [both; 2]);
    }
}

#[tokio::test]
async fn self_dial_is_detected_on_both_sides() {
    let (dialed, answered) = meet(&local(1), &local(1)).await;
    assert!(matches!(dialed, Err(Refused::Itself)), "{dialed:?}");
    assert!(matches!(answered, Err(Refused::Itself)), "{answered:?}");

    let mut restarted = local(1);
    restarted.origin.incarnation += 1;
    let (dialed, answered) = meet(&local(1), &restarted).await;
    assert!(dialed.is_ok() && answered.is_ok());
}

#[tokio::test]
async fn long_or_unprintable_name_is_refused() {
    let named = |name: String| Local { name, ..local(1) };
    for name in [String::new(), "n".repeat(NAME_BYTES_MAX), "Žofín".to_owned()] {
        let (_, answered) = meet(&named(name.clone()), &local(2)).await;
        assert_eq!(answered.unwrap().0.name, name);
    }
    for name in ["n".repeat(NAME_BYTES_MAX + 1), "a\nb".to_owned()] {
        let (dialed, answered) = meet(&named(name), &local(2)).await;
        assert!(matches!(dialed, Err(Refused::Malformed(_))), "{dialed:?}");
        assert!(matches!(answered, Err(Refused::Closed)), "{answered:?}");
    }
}

#[tokio::test]
async fn malformed_identity_is_refused() {
    let who = |name: &[u8]| [[1; 24].as_slice(), name].concat();
    for who in [vec![], vec![1; 23], who(b"\xff"), who(b"\x1b[2J"), who(&[b'n'; NAME_BYTES_MAX + 1])] {
        let (stranger, stream) = duplex(STREAM_BYTES);
        let (mut reader, mut writer) = split(stranger);
        let mut noise = by_hand(&local(2));
        let mut message = [0; 400];
        let length = noise.write_message(&who, &mut message).unwrap();
        writer.write_all(b"PLSD\x01\x01").await.unwrap();
        writer.write_all(&local(2).secret.fingerprint()).await.unwrap();
        writer.write_u16(u16::try_from(length).unwrap()).await.unwrap();
        writer.write_all(&message[..length]).await.unwrap();
        let answered = answer_by(stream, &local(2), TIMEOUTS).await;
        assert!(matches!(answered, Err(Refused::Malformed(_))), "{answered:?}");
        let mut said = Vec::new();
        reader.read_to_end(&mut said).await.unwrap();
        assert_eq!(said.len(), 10);
    }
}

/// A dialer that uses the Noise library alone.
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
async fn stranger_is_sent_nothing() {
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
async fn dialer_reports_a_server_of_another_protocol() {
    let (mut other, stream) = duplex(STREAM_BYTES);
    other.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await.unwrap();
    let dialed = dial_by(stream, &local(1), TIMEOUTS).await;
    assert!(matches!(dialed, Err(Refused::NotPalisade)), "{dialed:?}");
}

#[tokio::test]
async fn reversed_version_range_is_malformed() {
    let preamble = [b"PLSD\x02\x01".as_slice(), &local(2).secret.fingerprint()].concat();
    let (why, _) = strange(&preamble).await;
    assert!(matches!(why, Refused::Malformed(_)), "{why:?}");
}

proptest! {
    #[test]
    fn random_bytes_are_refused_by_both_sides(bytes in prop::collection::vec(any::<u8>(), 0..400), known in 0..=12_usize) {
        // A valid beginning, so that some bytes get past the preamble.
        let preamble = [b"PLSD\x01\x01".as_slice(), &local(2).secret.fingerprint(), &[0, 72]].concat();
        let bytes = [&preamble[..known], &bytes].concat();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let (why, _) = strange(&bytes).await;
            assert!(!matches!(why, Refused::Slow | Refused::Io(_)), "{why:?}");

            let (mut other, stream) = duplex(STREAM_BYTES);
            other.write_all(&bytes).await.unwrap();
            other.shutdown().await.unwrap();
            let why = dial_by(stream, &local(1), TIMEOUTS).await.unwrap_err();
            assert!(!matches!(why, Refused::Slow | Refused::Io(_)), "{why:?}");
        });
    }
}

#[tokio::test]
async fn every_altered_byte_of_a_handshake_is_detected() {
    let one = local(1);
    let other = local(2);
    let (dialed, answered, tapes) = meddled(&one, &other, TIMEOUTS, same, same).await;
    assert!(dialed.is_ok() && answered.is_ok());
    let [there, back] = tapes.map(|tape| tape.lock().unwrap().len());
    // The preamble, a message of a key, an origin, a name and a tag, and the empty frame.
    assert_eq!([there, back], [10 + 2 + 32 + 24 + 6 + 16 + 2 + 16, 10 + 2 + 32 + 24 + 6 + 16]);

    let timeouts = Timeouts { handshake: Duration::from_secs(2), ..TIMEOUTS };
    let mut tries = JoinSet::new();
    for n in 0..there + back {
        let one = one.clone();
        let other = other.clone();
        tries.spawn(async move {
            let alter = move |at, here, byte: u8| if at == here { byte ^ (1 << (n % 8)) } else { byte };
            let there_at = move |here, byte| alter(n, here, byte);
            let back_at = move |here, byte| alter(n.wrapping_sub(there), here, byte);
            let (dialed, answered, _) = meddled(&one, &other, timeouts, there_at, back_at).await;
            assert!(answered.is_err(), "{n}");
            // The dialer is done when it sends its proof.
            let proof = (there - 18..there).contains(&n);
            assert_eq!(dialed.is_ok(), proof, "{n}: {dialed:?}");
        });
    }
    while let Some(tried) = tries.join_next().await {
        tried.unwrap();
    }
}

#[tokio::test]
async fn altered_version_breaks_the_handshake() {
    let one = of(1, 7, "a", 1..=2);
    let other = of(2, 7, "a", 1..=2);
    let lower = |n, byte| if n == 5 { 1 } else { byte };
    type Alter = fn(usize, u8) -> u8;
    for (there, back) in [(lower as Alter, same as Alter), (same, lower), (lower, lower)] {
        let (dialed, answered, _) = meddled(&one, &other, TIMEOUTS, there, back).await;
        assert!(matches!(dialed, Err(Refused::OtherSecret)), "{dialed:?}");
        assert!(matches!(answered, Err(Refused::OtherSecret)), "{answered:?}");
    }
}

#[tokio::test]
async fn replayed_handshake_is_refused() {
    let one = local(1);
    let other = local(2);
    let (dialed, answered, tapes) = meddled(&one, &other, TIMEOUTS, same, same).await;
    let mut dialed = dialed.unwrap();
    let mut answered = answered.unwrap();
    for word in [b"one".as_slice(), b"two"] {
        for (from, to) in [(&mut dialed.2, &mut answered.1), (&mut answered.2, &mut dialed.1)] {
            from.write(word).await.unwrap();
            from.flush().await.unwrap();
            assert_eq!(to.read().await.unwrap(), word);
        }
    }
    let [there, back] = tapes.map(|tape| tape.lock().unwrap().clone());

    let (why, said) = strange(&there).await;
    assert!(matches!(why, Refused::Malformed("a first frame that is recorded or altered")), "{why:?}");
    assert_ne!(said, back[..said.len()]);

    let (mut stranger, stream) = duplex(STREAM_BYTES);
    stranger.write_all(&back).await.unwrap();
    let dialed = dial_by(stream, &one, TIMEOUTS).await;
    assert!(matches!(dialed, Err(Refused::OtherSecret)), "{dialed:?}");
}

#[tokio::test]
async fn handshake_is_not_done_before_the_dialer_proves_itself() {
    let one = local(1);
    let other = local(2);
    let (_, _, tapes) = meddled(&one, &other, TIMEOUTS, same, same).await;
    let there = tapes[0].lock().unwrap().clone();
    let (why, _) = strange(&there[..there.len() - 18]).await;
    assert!(matches!(why, Refused::Closed), "{why:?}");
}

#[tokio::test]
async fn dialer_that_trickles_bytes_is_refused() {
    let timeouts = Timeouts { handshake: TEST_TIMEOUT, ..TIMEOUTS };
    let one = local(1);
    let other = local(2);
    let (_, _, tapes) = meddled(&one, &other, TIMEOUTS, same, same).await;
    let there = tapes[0].lock().unwrap().clone();

    let (mut stranger, stream) = duplex(STREAM_BYTES);
    let trickle = tokio::spawn(async move {
        for byte in there {
            if stranger.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(TEST_TIMEOUT / 10).await;
        }
    });
    let began = Instant::now();
    let answered = answer_by(stream, &other, timeouts).await;
    assert!(matches!(answered, Err(Refused::Slow)), "{answered:?}");
    assert!(began.elapsed() >= TEST_TIMEOUT);
    trickle.await.unwrap();
}

#[tokio::test]
async fn silent_dialer_is_refused() {
    let timeouts = Timeouts { handshake: TEST_TIMEOUT, ..TIMEOUTS };
    let (_silent, stream) = duplex(STREAM_BYTES);
    assert!(matches!(answer_by(stream, &local(2), timeouts).await, Err(Refused::Slow)));
    let (_silent, stream) = duplex(STREAM_BYTES);
    assert!(matches!(dial_by(stream, &local(1), timeouts).await, Err(Refused::Slow)));
}

#[tokio::test]
async fn silent_dialer_has_only_the_preamble_timeout() {
    let timeouts = Timeouts { preamble: TEST_TIMEOUT, handshake: Duration::from_secs(3_600), ..TIMEOUTS };
    let (near, _far) = duplex(1_024);
    let refused = answer_by(near, &local(2), timeouts).await.unwrap_err();
    assert!(matches!(refused, Refused::Slow), "{refused}");
}

#[tokio::test]
async fn impossible_origin_is_refused_in_the_handshake() {
    let node = NodeId::from_bytes([1; 16]);
    for origin in [
        Origin { node, incarnation: u64::MAX },
        Origin { node, incarnation: message::TIME_MAX_MS + 1 },
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
fn reset_connection_counts_as_closed() {
    assert!(matches!(Refused::from(io::Error::from(io::ErrorKind::ConnectionReset)), Refused::Closed));
    assert!(matches!(Refused::from(io::Error::from(io::ErrorKind::OutOfMemory)), Refused::Io(_)));
}
