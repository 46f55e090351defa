//! A proxy between a client and a server, which hurts the way between them.
//!
//! It listens on the target's own IP address on another port. So it is the whole way to a CQL
//! server too, whose driver connects to the addresses that the nodes tell with the port of the
//! contact point: for a ring, proxies of one port, which [`Proxy::to_all`] gives.
//!
//! Of CQL, which it knows by the first byte, it reads the frames: it knows the statements that
//! reach the server, and can act on one of them. Other protocols are just bytes.

mod cql;
mod relay;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{net::TcpSocket, sync::watch};

use crate::eventually;

/// Longest time until the proxy has done what a test asked for. Only a busy machine delays it.
const ACTION_TIMEOUT: Duration = Duration::from_secs(20);
/// How many ports are tried.
const PORT_TRIES: usize = 100;

/// What happens at a statement. Preparing it is not executing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// All is cut before the server gets it.
    CutBefore,
    /// The server executes it; its answer is thrown away, and all is cut.
    CutAfter,
    /// Its answer comes later, and those of others pass it.
    DelayAnswer(Duration),
}

/// A proxy to one address. It ends, with its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    target: SocketAddr,
    state: watch::Sender<State>,
    listens: AtomicBool,
    connections: AtomicUsize,
    accepted: AtomicU64,
    corrupted: AtomicU64,
    cql: Mutex<Cql>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    ended: bool,
    cut: bool,
    stalled: bool,
    corrupt: bool,
    delay: Duration,
}

#[derive(Debug, Default)]
struct Cql {
    /// By the id that the server gave. One server gives the same statement the same id always.
    prepared: HashMap<Vec<u8>, String>,
    statements: Vec<String>,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    pattern: String,
    /// How many matching statements pass before it.
    before: usize,
    action: Action,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// A proxy to an address of this machine.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn to(target: SocketAddr) -> Self {
        let [proxy] = Self::to_all(&[target]).await.try_into().expect("one for each");
        proxy
    }

    /// Proxies to several addresses of this machine, all of which have one port.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn to_all(targets: &[SocketAddr]) -> Vec<Self> {
        for _ in 0..PORT_TRIES {
            let mut port = 0;
            let mut sockets = Vec::new();
            for target in targets {
                let Ok(socket) = bound(SocketAddr::new(target.ip(), port)) else { break };
                port = socket.local_addr().expect("it is bound").port();
                sockets.push((socket, *target));
            }
            if sockets.len() == targets.len() {
                let mut proxies = Vec::new();
                for (socket, target) in sockets {
                    proxies.push(Self::on_socket(socket, target).await);
                }
                return proxies;
            }
        }
        panic!("no port is free on each of {targets:?}");
    }

    async fn on_socket(socket: TcpSocket, target: SocketAddr) -> Self {
        let address = socket.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            address,
            target,
            state: watch::Sender::default(),
            listens: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            corrupted: AtomicU64::new(0),
            cql: Mutex::default(),
        });
        tokio::spawn(shared.clone().serve(socket));
        let proxy = Self { shared };
        proxy.listens().await;
        proxy
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many connections there have ever been.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Closes all connections and refuses new ones until [`Proxy::mend`].
    ///
    /// # Panics
    /// When it cannot, on a machine that is too busy.
    pub async fn cut(&self) {
        self.shared.state.send_modify(|state| state.cut = true);
        let closed =
            async || (self.connections() == 0 && !self.shared.listens.load(Ordering::SeqCst)).then_some(());
        eventually(ACTION_TIMEOUT, "the connections are cut", closed).await;
    }

    /// Whether all is cut: also by an [`Action`].
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.shared.state.borrow().cut
    }

    /// Ends whatever hurts: connections are possible again, and nothing is stalled, late or corrupt.
    ///
    /// # Panics
    /// When it cannot, on a machine that is too busy.
    pub async fn mend(&self) {
        if self.is_cut() {
            // No connection may live through a short cut unseen.
            self.cut().await;
        }
        self.shared.state.send_replace(State::default());
        self.listens().await;
    }

    /// Holds all bytes, both ways, until [`Proxy::resume`]; new connections are accepted.
    pub fn stall(&self) {
        self.shared.state.send_modify(|state| state.stalled = true);
    }

    /// Lets go of what [`Proxy::stall`] held.
    pub fn resume(&self) {
        self.shared.state.send_modify(|state| state.stalled = false);
    }

    /// From now on bytes arrive so much later, each way.
    pub fn delay(&self, delay: Duration) {
        self.shared.state.send_modify(|state| state.delay = delay);
    }

    /// From now on one bit in 64 bytes of what comes back is wrong, at least one in each piece; in a
    /// CQL frame one of the body, so that it is still a frame.
    pub fn corrupt(&self) {
        self.shared.state.send_modify(|state| state.corrupt = true);
    }

    /// The CQL statements that were executed, in order; a batch as `BATCH: a; b`. What drivers ask
    /// the system's own tables is left out. Each page of a long answer counts.
    #[must_use]
    pub fn statements(&self) -> Vec<String> {
        let cql = lock(&self.shared.cql);
        let own = |text: &&String| !text.contains(" system.") && !text.contains(" system_");
        cql.statements.iter().filter(own).cloned().collect()
    }

    /// Forgets the statements until now.
    pub fn clear(&self) {
        lock(&self.shared.cql).statements.clear();
    }

    /// Acts at the next executed statement that contains this text.
    pub fn on(&self, pattern: &str, action: Action) {
        self.on_nth(1, pattern, action);
    }

    /// Acts at the nth executed statement from now that contains this text; 1 is the next.
    ///
    /// # Panics
    /// When n is 0.
    pub fn on_nth(&self, n: usize, pattern: &str, action: Action) {
        let before = n.checked_sub(1).expect("the first is 1");
        lock(&self.shared.cql).waiting.push(Waiting { pattern: pattern.to_owned(), before, action });
    }

    /// Forgets the actions that have not happened yet.
    pub fn forget(&self) {
        lock(&self.shared.cql).waiting.clear();
    }

    /// How many actions have not happened yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.shared.cql).waiting.len()
    }

    async fn listens(&self) {
        let listens = async || self.shared.listens.load(Ordering::SeqCst).then_some(());
        eventually(ACTION_TIMEOUT, "the proxy listens", listens).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.state.send_replace(State { ended: true, cut: true, ..State::default() });
    }
}

/// A bound socket that refuses connections until it listens, and keeps the port from other processes.
/// Another socket may listen on the port already.
fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}
