//! A Redis that breaks the protocol.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use schema::{Clock as _, Subject};
use testkit::servers::Redis;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::support::{ANN, Intruder, Limiter, Reader, Store, TestClock, may, opened, soon, until_up};

/// The answer of a false Redis to a command: the bytes, and whether endless zeros follow.
type Answers = dyn Fn(&[String]) -> (Vec<u8>, bool) + Send + Sync;

/// A server that answers as the test wants, and counts the bytes that clients read.
struct False {
    url: String,
    taken: Arc<AtomicU64>,
}

impl False {
    async fn start(answers: Arc<Answers>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let taken = Arc::new(AtomicU64::new(0));
        let counter = taken.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, answers.clone(), counter.clone()));
            }
        });
        Self { url, taken }
    }

    /// Answers PING correctly, and every other command with these bytes.
    async fn saying(answer: &[u8], for_ever: bool) -> Self {
        let answer = answer.to_vec();
        Self::start(Arc::new(move |words| {
            if words[0] == "PING" { (b"+PONG\r\n".to_vec(), false) } else { (answer.clone(), for_ever) }
        }))
        .await
    }
}

async fn talk(stream: TcpStream, answers: Arc<Answers>, taken: Arc<AtomicU64>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let words = command(&mut stream).await?;
        let (answer, for_ever) = answers(&words);
        stream.write_all(&answer).await.ok()?;
        if for_ever {
            loop {
                let count = stream.write(&[b'0'; 64 * 1024]).await.ok()?;
                taken.fetch_add(count as u64, Ordering::SeqCst);
            }
        }
    }
}

/// The words of one command; bytes that are not text are replaced.
async fn command(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let mut words = Vec::new();
    for _ in 0..number(stream).await? {
        let mut word = vec![0; number(stream).await? + 2];
        stream.read_exact(&mut word).await.ok()?;
        word.truncate(word.len() - 2);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Some(words)
}

async fn number(stream: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.trim().get(1..)?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_answer_is_not_read_to_its_end() {
    let clock = TestClock::new();
    for beginning in [&b"$536870912\r\n"[..], b"$9223372036854775807\r\n", b"+", b"-ERR ", b":", b"("] {
        let server = False::saying(beginning, true).await;
        let limiter = Limiter::with(opened(&server.url, &clock), &clock);
        until_up(&limiter.cache).await;
        let start = Instant::now();
        assert!(limiter.fail("ann", 10).await.is_locked(clock.now()), "by its own count");
        assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
        assert!(!limiter.cache.stats().up.load(Ordering::SeqCst));
        // Most of this was never read: it stays in the buffers of the two sockets.
        let taken = server.taken.load(Ordering::SeqCst);
        assert!(taken < 32 * 1024 * 1024, "{taken} bytes after {beginning:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_of_another_kind_counts_as_none() {
    let (clock, store) = (TestClock::new(), Store::new());
    store.set(ANN, &may("read"));
    let deep = "*1\r\n".repeat(200);
    for answer in [
        ":1\r\n",
        "+OK\r\n",
        "$-1\r\n",
        "$0\r\n\r\n",
        "*-1\r\n",
        "*1000000000000\r\n",
        "*2\r\n$1\r\na\r\n$1\r\nb\r\n",
        "%-1\r\n",
        "|1\r\n",
        ">2\r\n+message\r\n+x\r\n",
        "_\r\n",
        "-LOADING not yet\r\n",
        "-\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        &deep,
    ] {
        let server = False::saying(answer.as_bytes(), false).await;
        let cache = opened(&server.url, &clock);
        let (limiter, reader) = (Limiter::with(cache.clone(), &clock), Reader::with(cache, &store));
        until_up(&limiter.cache).await;
        assert_eq!(reader.effective(ANN).await, may("read"), "{answer:?}");
        assert!(!limiter.is_locked("ann").await, "{answer:?}");
        assert!(limiter.fail("ann", 10).await.is_locked(clock.now()), "{answer:?}");
        limiter.take("ann", crate::support::RATE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_is_no_redis_is_never_used() {
    let (clock, asked) = (TestClock::new(), Arc::new(AtomicU64::new(0)));
    let counter = asked.clone();
    let server = False::start(Arc::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), false)
    }))
    .await;
    let limiter = Limiter::with(opened(&server.url, &clock), &clock);
    soon("it was tried twice", async || asked.load(Ordering::SeqCst) >= 2).await;
    assert!(!limiter.cache.stats().up.load(Ordering::SeqCst));
    assert!(limiter.fail("ann", 10).await.is_locked(clock.now()));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_during_a_read_is_respected() {
    let (redis, clock, store) = (Redis::start().await, TestClock::new(), Store::new());
    store.set(ANN, &may("read"));
    Reader::start(&redis, &store, &clock).await.effective(ANN).await;
    let mut intruder = Intruder::into(&redis).await;
    let key = intruder.only_key().await;
    let entry = intruder.get(&key).await;
    // A Redis that answers with the old entry, but only after the invalidation.
    let node: Arc<std::sync::OnceLock<Reader>> = Arc::default();
    let heard = node.clone();
    let invalidates = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (store_now, switch) = (store.clone(), invalidates.clone());
    let server = False::start(Arc::new(move |words| match words[0].as_str() {
        "PING" => (b"+PONG\r\n".to_vec(), false),
        "GETRANGE" => {
            if switch.load(Ordering::SeqCst) {
                store_now.set(ANN, &may("less"));
                heard.get().unwrap().grants.invalidate(Subject::User(ANN));
            }
            let head = format!("${}\r\n", entry.len());
            ([head.as_bytes(), &entry, b"\r\n"].concat(), false)
        }
        _ => (b"+OK\r\n".to_vec(), false),
    }))
    .await;
    let reader = Reader::with(opened(&server.url, &clock), &store);
    until_up(&reader.cache).await;
    let reader = node.get_or_init(|| reader);
    assert_eq!(reader.effective(ANN).await, may("read"));
    assert_eq!(reader.cache.stats().hits.load(Ordering::SeqCst), 1, "the entry is good");
    invalidates.store(true, Ordering::SeqCst);
    assert_eq!(reader.effective(ANN).await, may("less"));
    assert_eq!(reader.cache.stats().bypassed.load(Ordering::SeqCst), 1);
}
