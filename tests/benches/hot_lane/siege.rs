//! Attacks from outside, all at once for the length of a turn: connections that are silent, send half a head
//! or never read; idle HTTP/2 and HTTP/2 without a window; bodies that lack their last byte; batches of tokens
//! with unknown keys; forged tokens; log-ins from ever new addresses. The attackers use addresses in
//! 127.0.0.0/8 and share the load's core.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use testkit::{Person, forge};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{LOAD, pin};

/// Connections of each kind that are only held open.
const HELD_PER_KIND: u8 = 100;
/// Bodies of 4 MiB that are not finished.
const UNFINISHED_BODIES: u8 = 60;
const BODY_BYTES: usize = 4 * 1024 * 1024;
/// Clients of each kind that send requests in a loop.
const BUSY_PER_KIND: u8 = 4;
/// Between a forged token and the next of one connection: what a node checks, it pays for.
const FORGED_EVERY: Duration = Duration::from_millis(2);
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// A running attack.
pub struct Siege {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Siege {
    /// Starts the attack, and returns once all held connections are open.
    pub fn lay(server: SocketAddr, ann: &Person) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let attack = Attack { server, access: ann.access.clone(), stop: stop.clone() };
        let thread = std::thread::spawn(move || {
            pin(Some(LOAD));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(attack.run(&ready))
        });
        is_ready.recv().expect("the siege begins");
        Self { stop, thread }
    }

    /// Stops the attack, and returns the latencies of `/health/live` probes.
    pub fn lift(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[derive(Clone)]
struct Attack {
    server: SocketAddr,
    access: String,
    stop: Arc<AtomicBool>,
}

impl Attack {
    async fn run(self, ready: &mpsc::Sender<()>) -> Vec<Duration> {
        let mut held = Vec::new();
        for way in 0..5 {
            for _ in 0..HELD_PER_KIND {
                held.push(self.hold(way).await);
            }
        }
        for n in 0..UNFINISHED_BODIES {
            held.push(self.begin_body(Ipv4Addr::new(127, 0, 2, 1 + n % 6)).await);
        }
        for n in 0..BUSY_PER_KIND {
            tokio::spawn(self.clone().ask_in_batches(n));
            tokio::spawn(self.clone().forge(n));
            tokio::spawn(self.clone().log_in(n));
        }
        ready.send(()).expect("the caller waits");
        self.probe().await
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    async fn connect(&self, from: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).expect("an address of this machine");
        socket.connect(self.server).await.expect("the node listens")
    }

    async fn hold(&self, way: u8) -> TcpStream {
        const LARGE: &str = "GET /apidocs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n";
        // No window for streams (RFC 9113, 6.5.2), and a request for something large.
        const NO_WINDOW: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0\
              \0\0\x24\x01\x05\0\0\0\x01\x82\x86\x44\x1d/apidocs/swagger-ui-bundle.js\x41\x01x";
        let bytes: Vec<u8> = match way {
            0 => Vec::new(),
            1 => b"GET /health/live HTTP/1.1\r\nX-Slow: ".into(),
            2 => LARGE.repeat(100).into(),
            3 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".into(),
            _ => NO_WINDOW.into(),
        };
        let mut stream = self.connect(Ipv4Addr::new(127, 0, 1, 1 + way)).await;
        stream.write_all(&bytes).await.unwrap();
        stream
    }

    fn post(&self, path: &str, length: usize) -> String {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Authorization: Bearer {}\r\nContent-Length: {length}\r\n\r\n",
            self.access
        )
    }

    async fn begin_body(&self, from: Ipv4Addr) -> TcpStream {
        let mut stream = self.connect(from).await;
        let head = self.post("/api/v1/auth_token/validation/batch", BODY_BYTES);
        stream.write_all(head.as_bytes()).await.unwrap();
        // The node may have no room for it, and say so.
        let body = [b"{\"tokens\":[\"", "a".repeat(BODY_BYTES - 13).as_bytes()].concat();
        _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&body)).await;
        stream
    }

    /// Tokens under keys that there are not, issued in the future.
    async fn ask_in_batches(self, n: u8) {
        let parts = forge::parts(&self.access);
        let tokens: Vec<_> = (0..999_u32)
            .map(|k| {
                let kid = format!("{n:08x}-0000-4000-8000-{k:012x}");
                parts.under("kid", kid.into()).with_claim("iat", u32::MAX.into())
            })
            .collect();
        let body = serde_json::json!({ "tokens": tokens }).to_string();
        let request = self.post("/api/v1/auth_token/validation/batch", body.len()) + &body;
        while self.goes_on() {
            self.ask(Ipv4Addr::new(127, 0, 3, 1 + n), &request).await;
        }
    }

    async fn forge(self, n: u8) {
        let (message, _) = self.access.rsplit_once('.').unwrap();
        let mut stream = self.connect(Ipv4Addr::new(127, 0, 4, 1 + n)).await;
        let mut answer = vec![0; 4096];
        for k in 0_u64.. {
            if !self.goes_on() {
                break;
            }
            let token =
                format!("{message}.{}", forge::segment([k.to_be_bytes().as_slice(), &[n; 56]].concat()));
            let request = format!(
                "GET /api/v1/auth_token/validation HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
            );
            let is_sent = stream.write_all(request.as_bytes()).await.is_ok();
            if !is_sent || !stream.read(&mut answer).await.is_ok_and(|read| read > 0) {
                stream = self.connect(Ipv4Addr::new(127, 0, 4, 1 + n)).await;
            }
            tokio::time::sleep(FORGED_EVERY).await;
        }
    }

    /// With wrong passwords, each from another address.
    async fn log_in(self, n: u8) {
        static ADDRESSES: AtomicU32 = AtomicU32::new(0);
        while self.goes_on() {
            let address = ADDRESSES.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            let from = Ipv4Addr::new(127, 16 + n, address[2], address[3]);
            let body = format!(r#"{{"email":"nobody{}@example.org","password":"wrong"}}"#, address[3]);
            let head = "POST /api/v1/auth_token HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
            self.ask(from, &format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await;
        }
    }

    /// Asks on a connection of its own and reads what comes first of the answer.
    async fn ask(&self, from: Ipv4Addr, request: &str) {
        let mut stream = self.connect(from).await;
        if stream.write_all(request.as_bytes()).await.is_ok() {
            _ = stream.read(&mut [0; 4096]).await;
        }
    }

    async fn probe(&self) -> Vec<Duration> {
        let mut took = Vec::new();
        while self.goes_on() {
            let began = Instant::now();
            let mut stream = self.connect(Ipv4Addr::new(127, 0, 0, 99)).await;
            stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut answer = vec![0; 4096];
            let read = stream.read(&mut answer).await.unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200 "), "a probe is refused");
            took.push(began.elapsed());
            tokio::time::sleep(PROBE_EVERY).await;
        }
        took
    }
}
