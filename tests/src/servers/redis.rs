//! A Redis of one test: a real `redis-server` on a port of its own, which keeps nothing on disk.
//!
//! It ends when its [`Redis`] is dropped, and also when the test process is killed.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::{eventually, within};

/// Longest time from start to the first answer, on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time of one command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How many times a start is tried when another process takes the port first.
const START_TRIES: usize = 5;

/// A private Redis.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    running: Mutex<Option<Running>>,
    dir: TempDir,
}

#[derive(Debug)]
struct Running {
    server: Child,
    /// Reads from this process until that is gone, and then kills the server.
    guard: Child,
}

impl Redis {
    /// Starts one and awaits its first answer.
    ///
    /// # Panics
    /// When `redis-server` is missing or does not start.
    pub async fn start() -> Self {
        for _ in 0..START_TRIES {
            let redis =
                Self { port: free_port(), running: Mutex::new(None), dir: crate::scratch::directory() };
            if redis.run().await {
                return redis;
            }
            assert!(redis.log().contains("in use"), "redis-server did not start:\n{}", redis.log());
        }
        panic!("redis-server found no free port in {START_TRIES} tries");
    }

    /// For clients: `redis://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Everything that it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Kills it as a crash would, and returns when it is gone.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(running.expect("it runs"));
    }

    /// Stops it in its tracks: its connections stay, and nothing answers until [`Redis::resume`].
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends a pause.
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Starts it again on the same port, empty; a running one is killed first.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        assert!(self.run().await, "redis-server did not start again:\n{}", self.log());
    }

    /// Empties it.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn flush(&self) {
        let answer = within(ANSWER_TIMEOUT, "the answer to FLUSHALL", self.command("FLUSHALL")).await;
        assert_eq!(answer.expect("an answer to FLUSHALL"), "+OK\r\n");
    }

    /// Everything that is in it, by its key: strings, as nodes write them.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn entries(&self) -> BTreeMap<String, Vec<u8>> {
        let mut entries = BTreeMap::new();
        for key in self.ask(&[b"KEYS", b"*"]).await {
            let value = self.ask(&[b"GET", &key]).await;
            if let [value] = &value[..] {
                entries.insert(String::from_utf8_lossy(&key).into_owned(), value.clone());
            }
        }
        entries
    }

    /// Puts a string into it, over whatever is there.
    ///
    /// # Panics
    /// When it does not take it.
    pub async fn put(&self, key: &str, value: &[u8]) {
        assert_eq!(self.ask(&[b"SET", key.as_bytes(), value]).await, [b"OK"]);
    }

    /// The answer to any command: the strings in it, without those that are nil. An error counts as a
    /// string.
    ///
    /// # Panics
    /// When there is none.
    pub async fn ask(&self, words: &[&[u8]]) -> Vec<Vec<u8>> {
        let what = format!("the answer to {}", String::from_utf8_lossy(words[0]));
        within(ANSWER_TIMEOUT, &what, self.exchange(words)).await.expect(&what)
    }

    async fn exchange(&self, words: &[&[u8]]) -> io::Result<Vec<Vec<u8>>> {
        let mut stream = BufReader::new(TcpStream::connect(self.address()).await?);
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            command.extend_from_slice(&[*word, b"\r\n"].concat());
        }
        stream.write_all(&command).await?;
        let mut answer = Vec::new();
        let mut left = 1;
        while left > 0 {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let (kind, rest) = line.trim_end().split_at_checked(1).ok_or(io::ErrorKind::UnexpectedEof)?;
            left -= 1;
            match (kind, rest.parse::<usize>()) {
                ("*", Ok(count)) => left += count,
                ("$", Ok(length)) => {
                    let mut value = vec![0; length + 2];
                    stream.read_exact(&mut value).await?;
                    value.truncate(length);
                    answer.push(value);
                }
                ("$" | "*", Err(_)) => {}
                _ => answer.push(rest.as_bytes().to_vec()),
            }
        }
        Ok(answer)
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let server = &running.as_ref().expect("it runs").server;
        kill_process(Pid::from_child(server), signal).expect("it takes signals");
    }

    /// False when it ended instead.
    async fn run(&self) -> bool {
        let running = Running::new(self);
        let pid = running.server.id();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        eventually(START_TIMEOUT, "an answer of redis-server", async || {
            let ended = {
                let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                running.as_mut().expect("it was started").server.try_wait().expect("a child")
            };
            if ended.is_some() {
                return Some(false);
            }
            // By its process id: on this port may be the Redis of another test.
            let info = tokio::time::timeout(ANSWER_TIMEOUT, self.command("INFO server")).await;
            matches!(info, Ok(Ok(info)) if info.contains(&format!("process_id:{pid}\r"))).then_some(true)
        })
        .await
    }

    /// The answer to a command: the first 8 KiB, which is more than what is asked here gives.
    async fn command(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.address()).await?;
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut answer = vec![0; 8 * 1024];
        let count = stream.read(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer[..count]).into_owned())
    }
}

impl Running {
    fn new(redis: &Redis) -> Self {
        let server = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &redis.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--logfile", "log", "--dir"])
            .arg(redis.dir.path())
            .current_dir(redis.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|why| match why.kind() {
                io::ErrorKind::NotFound => {
                    panic!("these tests need redis-server; install it: apt-get install redis-server")
                }
                _ => panic!("redis-server does not start: {why}"),
            });
        // Its standard input ends when this process does, however that happens.
        let guard = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -KILL $0", &server.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        Self { server, guard }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The guard first: by the time it kills, the process id may belong to another process.
        for child in [&mut self.guard, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that is free at the moment.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    listener.local_addr().expect("it is bound").port()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn dbsize(redis: &Redis) -> String {
        redis.command("DBSIZE").await.expect("an answer")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn redis_can_be_flushed_killed_and_restarted() {
        let redis = Redis::start().await;
        assert_eq!(redis.command("SET a 1").await.expect("an answer"), "+OK\r\n");
        assert_eq!(dbsize(&redis).await, ":1\r\n");
        redis.flush().await;
        assert_eq!(dbsize(&redis).await, ":0\r\n");
        let address = redis.address();
        redis.kill();
        redis.command("PING").await.expect_err("it is dead");
        redis.restart().await;
        assert_eq!(redis.address(), address);
        redis.command("SET a 1").await.expect("an answer");
        redis.restart().await;
        assert_eq!(dbsize(&redis).await, ":0\r\n", "it keeps nothing");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn redis_returns_what_was_stored() {
        let redis = Redis::start().await;
        let value = b"\0\r\n$3\xff".to_vec();
        redis.put("a", &value).await;
        redis.put("b", b"").await;
        let entries = redis.entries().await;
        assert_eq!(entries.get("a"), Some(&value));
        assert_eq!(entries.get("b"), Some(&Vec::new()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn paused_redis_answers_later() {
        let redis = Redis::start().await;
        redis.pause();
        let ping = redis.command("PING");
        tokio::pin!(ping);
        tokio::time::timeout(Duration::from_millis(200), &mut ping).await.expect_err("it is paused");
        redis.resume();
        assert_eq!(within(ANSWER_TIMEOUT, "the answer", ping).await.expect("an answer"), "+PONG\r\n");
    }
}
