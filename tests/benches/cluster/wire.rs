//! HTTP/1.1 on a kept connection, with as little of our own as can be: clients share the machine with what
//! they measure.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use testkit::Node;

use crate::{report::Times, rig::worked};

/// An answer, reduced to the parts that the benchmark reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// `Palisade-Visible`.
    pub visible: Option<(u32, u32)>,
    /// `Palisade-Durability` is `journal`.
    pub in_journal: bool,
}

impl Answer {
    /// All of the live others have it.
    pub fn is_claimed(&self) -> bool {
        self.status == 204 && self.visible.is_some_and(|(k, n)| k == n)
    }
}

/// A request with this token.
pub fn request(method: &str, path: &str, token: &str) -> Vec<u8> {
    format!("{method} /api/v1/{path} HTTP/1.1\r\nhost: palisade\r\nauthorization: Bearer {token}\r\n\r\n")
        .into_bytes()
}

/// The hot path.
pub fn validation(token: &str) -> Vec<u8> {
    request("GET", "auth_token/validation", token)
}

/// The first whole answer in these bytes, and where it ends.
fn parse(bytes: &[u8]) -> Option<(Answer, usize)> {
    let head_end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_end]).expect("a head in ASCII");
    let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
    let mut answer = Answer { status, visible: None, in_journal: false };
    let mut length = 0;
    for line in head.lines().skip(1) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().expect("a length");
        } else if name.eq_ignore_ascii_case("palisade-visible") {
            let counts = value.split_once('/');
            answer.visible = counts.and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        } else if name.eq_ignore_ascii_case("palisade-durability") {
            answer.in_journal = value == "journal";
        }
    }
    (bytes.len() >= head_end + length).then_some((answer, head_end + length))
}

fn closed() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

/// A connection of a task.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    pub async fn to(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { address, stream, unread: Vec::with_capacity(4_096) })
    }

    /// Sends without awaiting the answer.
    pub async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await
    }

    /// The next answer.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        loop {
            if let Some((answer, end)) = parse(&self.unread) {
                self.unread.drain(..end);
                return Ok(answer);
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Err(closed());
            }
        }
    }

    pub async fn try_ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.send(request).await?;
        self.answer().await
    }

    /// Asks; a node may have closed a connection that was idle.
    pub async fn ask(&mut self, request: &[u8]) -> Answer {
        if let Ok(answer) = self.try_ask(request).await {
            return answer;
        }
        *self = Self::to(self.address).await.expect("the node listens");
        self.try_ask(request).await.expect("an answer")
    }
}

/// Revokes; a node that cannot now is asked again. How long it took, and how often it could not.
pub async fn revoke(address: SocketAddr, path: &str, token: &str) -> (Duration, u32) {
    const TRIES: u32 = 10;
    let call = request("DELETE", path, token);
    let began = Instant::now();
    let mut connection = Connection::to(address).await.expect("the node listens");
    let mut refused = 0;
    loop {
        match connection.ask(&call).await.status {
            204 => return (began.elapsed(), refused),
            503 if refused < TRIES => refused += 1,
            status => panic!("DELETE {path}: {status} after {:?}, {refused} times 503", began.elapsed()),
        }
    }
}

/// A blocking connection of one thread, which no other task wakes.
#[derive(Debug)]
pub struct Blocking {
    stream: std::net::TcpStream,
    unread: Vec<u8>,
}

impl Blocking {
    pub fn to(address: SocketAddr) -> Self {
        let stream = std::net::TcpStream::connect(address).expect("the node listens");
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("an option");
        Self { stream, unread: Vec::with_capacity(4_096) }
    }

    pub fn ask(&mut self, request: &[u8]) -> Answer {
        self.stream.write_all(request).expect("the node listens");
        let mut some = [0; 4_096];
        loop {
            if let Some((answer, end)) = parse(&self.unread) {
                self.unread.drain(..end);
                return answer;
            }
            let count = self.stream.read(&mut some).expect("an answer");
            assert_ne!(count, 0, "the node closed the connection");
            self.unread.extend_from_slice(&some[..count]);
        }
    }
}

/// What a closed loop of clients got.
#[derive(Clone, Debug, Default)]
pub struct Got {
    pub statuses: BTreeMap<u16, u64>,
    pub times: Times,
    pub per_second: f64,
    /// Seconds of a core that the node worked for each answer: of it all, not only of these.
    pub work: f64,
}

impl Got {
    /// How many were not answered 200.
    pub fn others(&self) -> u64 {
        self.statuses.iter().filter(|(status, _)| **status != 200).map(|(_, count)| count).sum()
    }
}

/// What one client got.
type Client = (BTreeMap<u16, u64>, Vec<Duration>);

/// Clients that validate live tokens in a closed loop until they are told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    pid: u32,
    worked: f64,
    began: Instant,
    clients: Vec<JoinHandle<Client>>,
}

impl Load {
    /// So many at one node, each with one of these tokens.
    pub async fn on(node: &Node, tokens: &[String], clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut connections = Vec::new();
        for _ in 0..clients {
            connections.push(Connection::to(node.address()).await.expect("the node listens"));
        }
        let worked = worked(node.pid());
        let pid = node.pid();
        let began = Instant::now();
        let clients = connections.into_iter().zip(tokens.iter().cycle()).map(|(mut connection, token)| {
            let stop = stop.clone();
            let request = validation(token);
            tokio::spawn(async move {
                let mut statuses = BTreeMap::new();
                let mut times = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let answer = connection.ask(&request).await;
                    times.push(began.elapsed());
                    *statuses.entry(answer.status).or_insert(0) += 1;
                }
                (statuses, times)
            })
        });
        Self { stop: stop.clone(), pid, worked, began, clients: clients.collect() }
    }

    /// What they got.
    pub async fn end(self) -> Got {
        self.stop.store(true, Ordering::Relaxed);
        let took = self.began.elapsed();
        let work = worked(self.pid) - self.worked;
        let mut all = BTreeMap::new();
        let mut times = Vec::new();
        for client in self.clients {
            let (statuses, some) = client.await.expect("a client");
            for (status, count) in statuses {
                *all.entry(status).or_insert(0) += count;
            }
            times.extend(some);
        }
        let count = all.values().sum::<u64>() as f64;
        let per_second = count / took.as_secs_f64();
        let work = work / count;
        Got { statuses: all, times: Times::of(times), per_second, work }
    }

    /// Runs the load for this duration.
    pub async fn lasting(took: Duration, node: &Node, tokens: &[String], clients: usize) -> Got {
        let load = Self::on(node, tokens, clients).await;
        tokio::time::sleep(took).await;
        load.end().await
    }
}
