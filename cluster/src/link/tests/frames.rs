//! Frames: lengths, order, time-outs, buffers.

#![allow(clippy::disallowed_methods, reason = "a test measures how long the thing under test takes")]

use super::*;

#[tokio::test]
async fn frames_pass_a_stream_of_a_few_bytes_at_a_time() {
    let (near, far) = duplex(100);
    let one = local(1);
    let other = local(2);
    let (dialed, answered) = tokio::join!(dial_by(near, &one, TIMEOUTS), answer_by(far, &other, TIMEOUTS));
    let mut dialed = dialed.unwrap();
    let mut answered = answered.unwrap();
    tokio::join!(exchange(&mut dialed.1, &mut dialed.2, 0), exchange(&mut answered.1, &mut answered.2, 0xff),);
}

#[tokio::test]
async fn impossible_frame_length_is_refused_before_allocation() {
    for length in [0, 1, 15, u16::try_from(FRAME_BYTES_MAX + 17).unwrap(), u16::MAX] {
        let mut tapped = tapped(STREAM_BYTES, TIMEOUTS).await;
        let before = tapped.answerer.1.buffers();
        tapped.far.write_all(&length.to_be_bytes()).await.unwrap();
        let why = tapped.answerer.1.read().await.unwrap_err();
        assert!(matches!(why, Broken::Length(refused) if refused == usize::from(length)), "{why:?}");
        assert_eq!(tapped.answerer.1.buffers(), before);
    }
}

#[tokio::test]
async fn frame_above_the_maximum_is_not_sent() {
    let mut tapped = tapped(STREAM_BYTES, TIMEOUTS).await;
    let writer = &mut tapped.dialer.2;
    let why = writer.write(&vec![0; FRAME_BYTES_MAX + 1]).await.unwrap_err();
    assert!(matches!(why, Broken::Length(_)), "{why:?}");
    assert!(matches!(writer.write(b"a").await, Err(Broken::Before)));
    assert!(matches!(writer.flush().await, Err(Broken::Before)));
    assert!(once(tapped.near.read_u8()).await.is_none());
}

#[tokio::test]
async fn every_altered_byte_of_a_frame_breaks_the_link() {
    for n in 0..2 + 5 + 16 {
        let mut tapped = tapped(STREAM_BYTES, TIMEOUTS).await;
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
async fn reordered_repeated_or_dropped_frame_breaks_the_link() {
    for order in [[1, 0, 2], [0, 0, 1], [0, 2, 2]] {
        let mut tapped = tapped(STREAM_BYTES, TIMEOUTS).await;
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
async fn reflected_frame_breaks_the_link() {
    let mut tapped = tapped(STREAM_BYTES, TIMEOUTS).await;
    let sealed = tapped.sealed(b"mirror").await;
    tapped.near.write_all(&sealed).await.unwrap();
    let why = tapped.dialer.1.read().await.unwrap_err();
    assert!(matches!(why, Broken::Forged), "{why:?}");
}

#[tokio::test]
async fn end_within_a_frame_differs_from_end_after_one() {
    let mut one = tapped(STREAM_BYTES, TIMEOUTS).await;
    let sealed = one.sealed(b"frame").await;
    assert!(matches!(one.delivered(&sealed).await, Broken::Closed));
    for n in 1..sealed.len() {
        let mut one = tapped(STREAM_BYTES, TIMEOUTS).await;
        let sealed = one.sealed(b"frame").await;
        let why = one.delivered(&sealed[..n]).await;
        assert!(matches!(why, Broken::Cut), "{n}: {why:?}");
    }
}

#[tokio::test]
async fn half_closed_link_still_carries_the_other_direction() {
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
async fn rest_of_a_frame_has_a_timeout_and_the_next_has_none() {
    let timeouts = Timeouts { rest: TEST_TIMEOUT, ..TIMEOUTS };
    let mut tapped = tapped(STREAM_BYTES, timeouts).await;
    let sealed = [tapped.sealed(b"one").await, tapped.sealed(b"two").await, tapped.sealed(b"three").await];
    let (_, reader, _) = &mut tapped.answerer;
    for (sealed, frame) in sealed.iter().zip([b"one", b"two"]) {
        assert!(tokio::time::timeout(TEST_TIMEOUT * 2, reader.read()).await.is_err());
        tapped.far.write_all(&sealed[..1]).await.unwrap();
        assert!(once(reader.read()).await.is_none());
        tapped.far.write_all(&sealed[1..]).await.unwrap();
        assert_eq!(reader.read().await.unwrap(), frame);
    }
    tapped.far.write_all(&sealed[2][..1]).await.unwrap();
    let began = Instant::now();
    // A read that is dropped and called again does not restart the time-out.
    let tries = async {
        loop {
            if let Ok(read) = tokio::time::timeout(TEST_TIMEOUT / 5, reader.read()).await {
                break read.unwrap_err();
            }
        }
    };
    let why = tokio::time::timeout(TIMEOUTS.rest, tries).await.unwrap();
    assert!(matches!(why, Broken::Slow), "{why:?}");
    assert!(began.elapsed() >= TEST_TIMEOUT);
}

#[tokio::test]
async fn peer_that_reads_nothing_is_slow() {
    let timeouts = Timeouts { write: TEST_TIMEOUT, ..TIMEOUTS };
    let mut tapped = tapped(200, timeouts).await;
    let (_, _, writer) = &mut tapped.dialer;
    writer.write(&[1; 1_000]).await.unwrap();
    assert!(matches!(writer.flush().await, Err(Broken::Slow)));
    assert!(matches!(writer.flush().await, Err(Broken::Before)));
}

#[tokio::test]
async fn dropped_read_loses_no_bytes() {
    let mut tapped = tapped(STREAM_BYTES, TIMEOUTS).await;
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
async fn dropped_write_or_flush_loses_no_bytes() {
    let mut tapped = tapped(100, TIMEOUTS).await;
    let frames: Vec<_> = (0..20).map(|n| vec![n; 10_000]).collect();
    let (_, _, writer) = &mut tapped.dialer;
    let (_, reader, _) = &mut tapped.answerer;
    let mut taken = 0;
    let mut flushed = false;
    let mut read = Vec::new();
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
async fn small_frames_are_sent_together() {
    let mut tapped = tapped(STREAM_BYTES, TIMEOUTS).await;
    for _ in 0..10 {
        tapped.dialer.2.write(&[1; 50]).await.unwrap();
    }
    let mut bytes = [0; 4_096];
    assert!(once(tapped.near.read(&mut bytes)).await.is_none());
    tapped.dialer.2.flush().await.unwrap();
    assert_eq!(tapped.near.read(&mut bytes).await.unwrap(), 10 * (2 + 50 + 16));
}

#[tokio::test]
async fn unflushed_bytes_are_bounded_and_buffers_are_reused() {
    let mut tapped = tapped(STREAM_BYTES, TIMEOUTS).await;
    let Tapped { dialer, answerer, near, far } = &mut tapped;
    let mut kept = None;
    for round in 0..5 {
        for size in [0, 1, 100, FRAME_BYTES_MAX, FRAME_BYTES_MAX, 5_000, FRAME_BYTES_MAX / 2, 1] {
            dialer.2.write(&vec![9; size]).await.unwrap();
        }
        dialer.2.flush().await.unwrap();
        let mut bytes = vec![0; STREAM_BYTES];
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
async fn link_ends_before_its_nonces_do() {
    let mut tapped = tapped(STREAM_BYTES, TIMEOUTS).await;
    tapped.dialer.2.count_from((1 << 62) - 1);
    tapped.answerer.1.count_from((1 << 62) - 1);
    let last = tapped.sealed(b"last").await;
    assert!(matches!(tapped.dialer.2.write(b"one more").await, Err(Broken::Spent)));
    tapped.far.write_all(&last).await.unwrap();
    assert_eq!(tapped.answerer.1.read().await.unwrap(), b"last");
    tapped.far.write_all(&last).await.unwrap();
    assert!(matches!(tapped.answerer.1.read().await, Err(Broken::Spent)));
}

/// `cargo test --release -p cluster link -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "prints its figures")]
async fn throughput() {
    const TOTAL_BYTES: usize = 512 << 20;
    for size in [100, 1_000, FRAME_BYTES_MAX] {
        let (dialed, answered) = meet_by_tcp(&local(1), &local(2)).await;
        let ((_, _reader, mut writer), (_, mut reader, _writer)) = (dialed.unwrap(), answered.unwrap());
        let frames = (TOTAL_BYTES / size).min(2_000_000);
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
