//! Load: as many requests as there is room for, on connections that stay open.

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::spawn_local,
};

/// Requests, sent in turn.
#[derive(Clone)]
pub struct Load {
    pub requests: Rc<Vec<Vec<u8>>>,
    pub connections: usize,
    /// How many are sent before the first is answered.
    pub pipelined: usize,
    /// How long a connection waits after a 503. The node asks for a second.
    pub retry_delay: Duration,
    /// The load never sleeps while it waits: in a virtual machine the server pays for waking another core,
    /// and more than for an answer. Off where other processes need the load's core.
    pub awake: bool,
}

/// What came of it.
pub struct Served {
    pub per_second: f64,
    pub statuses: BTreeMap<u16, u64>,
    pub took_us: Histogram<u64>,
    /// Of the server, user and system, in microseconds a request.
    pub cpu_us: f64,
}

impl Served {
    pub fn show(&self, who: &str) {
        let [p50, p99] = [0.5, 0.99].map(|q| self.took_us.value_at_quantile(q));
        println!(
            "  {who:14} {:8.0}/s  {:5.2} µs CPU  p50 {p50} µs  p99 {p99} µs  {:?}",
            self.per_second, self.cpu_us, self.statuses
        );
    }

    /// All of them were answered so.
    pub fn all(self, status: u16) -> Self {
        assert!(self.statuses.keys().eq([&status]), "{:?}", self.statuses);
        self
    }
}

impl Load {
    pub fn new(requests: Vec<Vec<u8>>, connections: usize) -> Self {
        Self {
            requests: Rc::new(requests),
            connections,
            pipelined: 1,
            retry_delay: Duration::ZERO,
            awake: true,
        }
    }

    pub fn pipelined(self, pipelined: usize) -> Self {
        Self { pipelined, ..self }
    }

    pub fn retrying_after(self, retry_delay: Duration) -> Self {
        Self { retry_delay, ..self }
    }

    /// Others need its core too.
    pub fn sharing(self) -> Self {
        Self { awake: false, ..self }
    }

    /// Sends to this server for this duration. `pid` is the server's process, whose CPU time is measured.
    pub async fn run(&self, server: SocketAddr, pid: u32, during: Duration) -> Served {
        let mut streams = Vec::new();
        for _ in 0..self.connections {
            let stream = TcpStream::connect(server).await.expect("the server listens");
            stream.set_nodelay(true).unwrap();
            streams.push(stream);
        }
        let stop = Rc::new(Cell::new(false));
        let cpu = cpu_us(pid);
        let began = Instant::now();
        let tasks: Vec<_> = streams
            .into_iter()
            .enumerate()
            .map(|(n, stream)| spawn_local(self.clone().drive(stream, n, stop.clone())))
            .collect();
        let end = began + during;
        while self.awake && Instant::now() < end {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep_until(end.into()).await;
        stop.set(true);
        let took = began.elapsed();
        let cpu = cpu_us(pid) - cpu;
        let mut statuses = BTreeMap::new();
        let mut took_us = histogram();
        for task in tasks {
            let (by_status, histogram) = task.await.unwrap();
            by_status.into_iter().for_each(|(status, count)| *statuses.entry(status).or_default() += count);
            took_us.add(histogram).unwrap();
        }
        let count = took_us.len() as f64;
        Served { per_second: count / took.as_secs_f64(), statuses, took_us, cpu_us: cpu / count }
    }

    async fn drive(
        self,
        mut stream: TcpStream,
        n: usize,
        stop: Rc<Cell<bool>>,
    ) -> (BTreeMap<u16, u64>, Histogram<u64>) {
        let mut buffer = vec![0; 256 * 1024];
        let mut histogram = histogram();
        let mut last = 0;
        let mut statuses = BTreeMap::<u16, u64>::new();
        let mut counted = 0;
        let mut next = n * self.requests.len() / self.connections.max(1);
        while !stop.get() {
            let began = Instant::now();
            if self.pipelined == 1 {
                stream.write_all(&self.requests[next % self.requests.len()]).await.unwrap();
                next += 1;
            } else {
                let many: Vec<u8> = (next..next + self.pipelined)
                    .flat_map(|n| self.requests[n % self.requests.len()].iter().copied())
                    .collect();
                next += self.pipelined;
                stream.write_all(&many).await.unwrap();
            }
            let mut filled = 0;
            let mut at = 0;
            for _ in 0..self.pipelined {
                let status = loop {
                    if let Some((status, length)) = answer(&buffer[at..filled]) {
                        at += length;
                        break status;
                    }
                    let read = stream.read(&mut buffer[filled..]).await.unwrap();
                    assert!(read > 0, "the server closed a connection");
                    filled += read;
                };
                if status == last {
                    counted += 1;
                } else {
                    *statuses.entry(last).or_default() += counted;
                    (last, counted) = (status, 1);
                }
            }
            let took = u64::try_from(began.elapsed().as_micros()).unwrap();
            histogram.record_n(took, self.pipelined as u64).unwrap();
            if last == 503 && !self.retry_delay.is_zero() {
                tokio::time::sleep(self.retry_delay).await;
            }
        }
        *statuses.entry(last).or_default() += counted;
        statuses.retain(|_, count| *count > 0);
        (statuses, histogram)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).unwrap()
}

/// The status and the length of the first answer, when all of it is there.
fn answer(bytes: &[u8]) -> Option<(u16, usize)> {
    const LENGTH: &[u8] = b"content-length: ";
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let digits = |bytes: &[u8]| {
        bytes.iter().take_while(|b| b.is_ascii_digit()).fold(0, |n, b| n * 10 + usize::from(b - b'0'))
    };
    let length = bytes[..head].windows(LENGTH.len()).position(|window| window == LENGTH);
    let body = length.map_or(0, |at| digits(&bytes[at + LENGTH.len()..head]));
    let status = u16::try_from(digits(&bytes[9..12])).unwrap();
    (bytes.len() >= head + body).then_some((status, head + body))
}

/// The unit of CPU times in /proc (proc_pid_stat(5)): the same on all Linux of today.
pub const USER_HZ: u32 = 100;

/// The CPU time of a process, user and system.
pub fn cpu_us(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks * 1e6 / f64::from(USER_HZ)
}
