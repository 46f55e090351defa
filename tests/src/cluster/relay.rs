//! A relay before the cluster ports of all nodes, which hurts the ways between them.
//!
//! Every node listens at an address of its own (`home`) and advertises another (`front`), where the relay
//! listens for it, for datagrams and for connections on the same number. The relay knows the
//! sender, so that each path, from one node to one other, can be disturbed by itself:
//!
//! - Datagrams of a node come from its home. The relay sends them on from the sender's front, so that an
//!   answer to their source comes back to the relay.
//! - Connections are made from any port of this machine; which process has that port, the kernel tells
//!   (`/proc/net/tcp`, `/proc/<pid>/fd`). The relay connects from the IP address of the sender's front.
//!
//! What a way can be:
//!
//! | | datagrams | connections |
//! |---|---|---|
//! | cut | are dropped | stay, and nothing arrives until it is whole again, not even their end; none is made |
//! | lossy | a percentage is dropped | unaffected: TCP retransmits |
//! | slow | arrive later | bytes arrive later |
//! | deaf to links | pass | as where it is cut |
//!
//! So a cut is what a network does that drops packets, not what a process does that ends.
//! [`Relay::sever`] closes connections as a reset by something in the middle does.
//!
//! It needs no rights: no namespaces, no packet filter. It lives on [`crate::background`].

use std::{
    collections::VecDeque,
    fs, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket, tcp},
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{Node, background::runtime};

/// Limit of the datagrams that the relay remembers.
const REMEMBERED_DATAGRAMS_MAX: usize = 4_096;
/// Limit of the pieces from a connection's beginning that the relay remembers.
const BEGINNING_PIECES_MAX: usize = 16;
/// Limit of the pieces of a connection in flight.
const PIECES_IN_FLIGHT_MAX: usize = 256;
/// Longest time until the relay knows the owner of a connection: its node may have just started.
const OWNER_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The relay of one cluster. It ends, with its connections, when it is dropped.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
}

/// A datagram that passed.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// The node that sent it, by its place.
    pub from: usize,
    /// The node that got it, by its place.
    pub to: usize,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// What began a connection that passed.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// The node that made it, by its place.
    pub from: usize,
    /// The node that accepted it, by its place.
    pub to: usize,
    /// What the former sent first, in the pieces that it came in.
    pub pieces: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Shared {
    fronts: Vec<SocketAddr>,
    homes: Vec<SocketAddr>,
    sockets: Vec<UdpSocket>,
    nodes: Mutex<Vec<Option<Node>>>,
    state: watch::Sender<State>,
    remembered: Mutex<VecDeque<Datagram>>,
    beginnings: Mutex<Vec<Beginning>>,
    passed: AtomicU64,
    chance: AtomicU64,
}

#[derive(Clone, Debug, Default)]
struct State {
    ended: bool,
    /// Rises with every [`Relay::sever`].
    severed: u64,
    /// By `from * nodes + to`.
    ways: Vec<Way>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Way {
    cut: bool,
    without_links: bool,
    lost_percent: u64,
    delay: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    /// A relay that listens at the fronts and passes on to the homes.
    ///
    /// # Panics
    /// When a front is taken.
    #[must_use]
    pub fn between(fronts: &[SocketAddr], homes: &[SocketAddr]) -> Self {
        let _entered = runtime().enter();
        let udp = |front: &SocketAddr| {
            let socket = std::net::UdpSocket::bind(front).expect("the front is free");
            socket.set_nonblocking(true).expect("a socket");
            UdpSocket::from_std(socket).expect("a socket")
        };
        let tcp = |front: &SocketAddr| {
            let listener = std::net::TcpListener::bind(front).expect("the front is free");
            listener.set_nonblocking(true).expect("a socket");
            TcpListener::from_std(listener).expect("a socket")
        };
        let state = State { ways: vec![Way::default(); homes.len() * homes.len()], ..State::default() };
        let shared = Arc::new(Shared {
            fronts: fronts.to_vec(),
            homes: homes.to_vec(),
            sockets: fronts.iter().map(udp).collect(),
            nodes: Mutex::new(vec![None; homes.len()]),
            state: watch::Sender::new(state),
            remembered: Mutex::default(),
            beginnings: Mutex::default(),
            passed: AtomicU64::new(0),
            chance: AtomicU64::new(0x9e37_79b9_7f4a_7c15),
        });
        for (to, listener) in fronts.iter().map(tcp).enumerate() {
            runtime().spawn(until_ended(shared.clone(), shared.clone().datagrams(to)));
            runtime().spawn(until_ended(shared.clone(), shared.clone().connections(to, listener)));
        }
        Self { shared }
    }

    /// Whose connections are this node's.
    pub fn know(&self, n: usize, node: &Node) {
        lock(&self.shared.nodes)[n] = Some(node.clone());
    }

    /// Nothing passes between these two any more, in either direction.
    pub fn cut(&self, a: usize, b: usize) {
        self.cut_path(a, b);
        self.cut_path(b, a);
    }

    /// Nothing passes from one to the other any more; the way back is as it was.
    pub fn cut_path(&self, from: usize, to: usize) {
        self.change(from, to, |way| way.cut = true);
    }

    /// Nothing passes between this node and any other any more.
    pub fn isolate(&self, n: usize) {
        (0..self.shared.homes.len()).filter(|other| *other != n).for_each(|other| self.cut(n, other));
    }

    /// Only datagrams pass between any two any more: connections are as where a way is cut.
    pub fn cut_links(&self) {
        self.change_all(|way| way.without_links = true);
    }

    /// So many datagrams of a hundred are lost on every way.
    pub fn lose(&self, percent: u64) {
        self.change_all(|way| way.lost_percent = percent);
    }

    /// So many datagrams of a hundred are lost on the way from one to the other.
    pub fn lose_datagrams(&self, from: usize, to: usize, percent: u64) {
        self.change(from, to, |way| way.lost_percent = percent);
    }

    /// All arrives so much later on every way.
    pub fn delay(&self, delay: Duration) {
        self.change_all(|way| way.delay = delay);
    }

    /// Ends whatever hurts. Connections that lived through it get what was held.
    pub fn heal(&self) {
        self.change_all(|way| *way = Way::default());
    }

    /// Closes all connections at once; new ones are possible.
    pub fn sever(&self) {
        self.shared.state.send_modify(|state| state.severed += 1);
    }

    /// The datagrams that passed last, in order.
    #[must_use]
    pub fn datagrams(&self) -> Vec<Datagram> {
        lock(&self.shared.remembered).iter().cloned().collect()
    }

    /// How each connection began that there was, in order.
    #[must_use]
    pub fn beginnings(&self) -> Vec<Beginning> {
        lock(&self.shared.beginnings).clone()
    }

    /// How many datagrams have passed.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// Sends a datagram to a node as if another had sent it.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub async fn inject(&self, from: usize, to: usize, bytes: &[u8]) {
        let shared = &self.shared;
        let sent = shared.sockets[from].send_to(bytes, shared.homes[to]).await;
        assert_eq!(sent.expect("a datagram can be sent"), bytes.len());
    }

    fn change(&self, from: usize, to: usize, change: impl FnOnce(&mut Way)) {
        let place = self.shared.place(from, to);
        self.shared.state.send_modify(|state| change(&mut state.ways[place]));
    }

    fn change_all(&self, change: impl Fn(&mut Way)) {
        self.shared.state.send_modify(|state| state.ways.iter_mut().for_each(change));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The nodes too, which may wait to be ended by their last handle.
        lock(&self.shared.nodes).clear();
        self.shared.state.send_modify(|state| state.ended = true);
    }
}

async fn until_ended(shared: Arc<Shared>, task: impl Future<Output = ()>) {
    let mut state = shared.state.subscribe();
    tokio::select! {
        _ = state.wait_for(|state| state.ended) => {}
        () = task => {}
    }
}

impl Shared {
    fn place(&self, from: usize, to: usize) -> usize {
        from * self.homes.len() + to
    }

    fn way(&self, from: usize, to: usize) -> Way {
        self.state.borrow().ways[self.place(from, to)]
    }

    /// The next of a fixed row of numbers below a hundred.
    fn chance_of_100(&self) -> u64 {
        let step = |mut x: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^ (x << 17)
        };
        let before = self.chance.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |x| Some(step(x)));
        before.unwrap_or_else(|x| x) % 100
    }

    async fn datagrams(self: Arc<Self>, to: usize) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let Ok((count, source)) = self.sockets[to].recv_from(&mut buffer).await else { continue };
            let Some(from) = self.homes.iter().position(|home| *home == source) else { continue };
            let way = self.way(from, to);
            if way.cut || self.chance_of_100() < way.lost_percent {
                continue;
            }
            let bytes = buffer[..count].to_vec();
            if way.delay.is_zero() {
                self.pass(Datagram { from, to, bytes }).await;
            } else {
                let shared = self.clone();
                runtime().spawn(async move {
                    sleep(way.delay).await;
                    shared.pass(Datagram { from, to, bytes }).await;
                });
            }
        }
    }

    async fn pass(&self, datagram: Datagram) {
        let home = self.homes[datagram.to];
        // The receiver may be down; the sender does not learn of it.
        let _ = self.sockets[datagram.from].send_to(&datagram.bytes, home).await;
        self.passed.fetch_add(1, Ordering::SeqCst);
        let mut remembered = lock(&self.remembered);
        if remembered.len() == REMEMBERED_DATAGRAMS_MAX {
            remembered.pop_front();
        }
        remembered.push_back(datagram);
    }

    async fn connections(self: Arc<Self>, to: usize, listener: TcpListener) {
        loop {
            let Ok((client, source)) = listener.accept().await else { continue };
            let shared = self.clone();
            runtime().spawn(async move {
                let carried = shared.clone();
                let severed = shared.state.borrow().severed;
                let mut state = shared.state.subscribe();
                tokio::select! {
                    biased;
                    _ = state.wait_for(|state| state.ended || state.severed != severed) => {}
                    _ = carried.carry(client, source, to) => {}
                }
            });
        }
    }

    /// One connection, until it has ended on both sides.
    async fn carry(&self, client: TcpStream, source: SocketAddr, to: usize) -> io::Result<()> {
        let Ok(from) = timeout(OWNER_TIMEOUT, self.whose(source, to)).await else { return Ok(()) };
        // Neither the first packet nor the answer to it arrives otherwise.
        self.is_whole(from, to).await;
        self.is_whole(to, from).await;
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(self.fronts[from].ip(), 0))?;
        let server = socket.connect(self.homes[to]).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let nth = {
            let mut beginnings = lock(&self.beginnings);
            beginnings.push(Beginning { from, to, pieces: Vec::new() });
            beginnings.len() - 1
        };
        let there = self.pump(from_client, to_server, from, to, Some(nth));
        let back = self.pump(from_server, to_client, to, from, None);
        tokio::try_join!(there, back).map(drop)
    }

    async fn pump(
        &self,
        mut source: tcp::OwnedReadHalf,
        mut sink: tcp::OwnedWriteHalf,
        from: usize,
        to: usize,
        beginning: Option<usize>,
    ) -> io::Result<()> {
        let (pieces, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_IN_FLIGHT_MAX);
        let take = async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = source.read(&mut buffer).await {
                let due = Instant::now() + self.way(from, to).delay;
                if let Some(nth) = beginning {
                    let beginning = &mut lock(&self.beginnings)[nth].pieces;
                    if beginning.len() < BEGINNING_PIECES_MAX {
                        beginning.push(buffer[..count].to_vec());
                    }
                }
                if pieces.send((due, buffer[..count].to_vec())).await.is_err() {
                    return;
                }
            }
        };
        let give = async move {
            while let Some((due, piece)) = arriving.recv().await {
                sleep_until(due).await;
                self.is_whole(from, to).await;
                sink.write_all(&piece).await?;
            }
            self.is_whole(from, to).await;
            sink.shutdown().await
        };
        tokio::pin!(give);
        tokio::select! {
            given = &mut give => given,
            () = take => give.await,
        }
    }

    async fn is_whole(&self, from: usize, to: usize) {
        let place = self.place(from, to);
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| !state.ways[place].cut && !state.ways[place].without_links).await;
    }

    /// Which node made a connection.
    async fn whose(&self, source: SocketAddr, to: usize) -> usize {
        loop {
            let by_address = self.homes.iter().position(|home| home.ip() == source.ip());
            if let Some(n) = by_address.or_else(|| self.owner(source, to)) {
                return n;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    fn owner(&self, source: SocketAddr, to: usize) -> Option<usize> {
        let socket = format!("socket:[{}]", inode(source, self.fronts[to])?);
        let pids: Vec<_> = lock(&self.nodes).iter().map(|node| node.as_ref()?.try_pid()).collect();
        pids.iter().position(|pid| {
            let open = pid.and_then(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok());
            open.into_iter().flatten().flatten().any(|open| {
                fs::read_link(open.path()).is_ok_and(|target| target.as_os_str() == socket.as_str())
            })
        })
    }
}

/// The number of the socket that has these two ends, the own one first.
fn inode(own: SocketAddr, other: SocketAddr) -> Option<u64> {
    let own = in_hex(own)?;
    let other = in_hex(other)?;
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<_> = line.split_ascii_whitespace().collect();
        (columns.get(1) == Some(&own.as_str()) && columns.get(2) == Some(&other.as_str()))
            .then(|| columns.get(9)?.parse().ok())
            .flatten()
    })
}

/// As `/proc/net/tcp` writes an address: the number that the memory of an IPv4 address is.
fn in_hex(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::free_address, eventually, within};

    const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

    struct Two {
        relay: Relay,
        fronts: [SocketAddr; 2],
        sockets: [UdpSocket; 2],
        listener: TcpListener,
    }

    async fn two() -> Two {
        let fronts = [free_address(), free_address()];
        let homes = [free_address(), free_address()];
        let relay = Relay::between(&fronts, &homes);
        let sockets =
            [UdpSocket::bind(homes[0]).await.expect("free"), UdpSocket::bind(homes[1]).await.expect("free")];
        Two { relay, fronts, sockets, listener: TcpListener::bind(homes[1]).await.expect("free") }
    }

    impl Two {
        /// Whether a datagram from one arrives at the other, and an answer to it comes back.
        async fn is_heard(&self) -> (bool, bool) {
            let [here, there] = &self.sockets;
            let mut buffer = [0; 16];
            here.send_to(b"hello", self.fronts[1]).await.expect("sent");
            let heard = timeout(ANSWER_TIMEOUT / 50, there.recv_from(&mut buffer)).await;
            let source = heard.as_ref().map_or(self.fronts[0], |heard| heard.as_ref().expect("heard").1);
            assert_eq!(source, self.fronts[0], "it comes from the sender's front");
            there.send_to(b"yes", source).await.expect("sent");
            let answered = timeout(ANSWER_TIMEOUT / 50, here.recv_from(&mut buffer)).await;
            (heard.is_ok(), answered.is_ok())
        }

        async fn connect(&self) -> TcpStream {
            let socket = TcpSocket::new_v4().expect("a socket");
            let here = self.sockets[0].local_addr().expect("bound").ip();
            socket.bind(SocketAddr::new(here, 0)).expect("bound");
            socket.connect(self.fronts[1]).await.expect("the relay accepts")
        }
    }

    #[tokio::test]
    async fn datagrams_pass_in_each_open_direction() {
        let two = two().await;
        assert_eq!(two.is_heard().await, (true, true));
        two.relay.cut_path(0, 1);
        assert_eq!(two.is_heard().await, (false, true));
        two.relay.heal();
        two.relay.cut_path(1, 0);
        assert_eq!(two.is_heard().await, (true, false));
        two.relay.isolate(0);
        assert_eq!(two.is_heard().await, (false, false));
        two.relay.heal();
        assert_eq!(two.is_heard().await, (true, true));
        two.relay.lose(100);
        assert_eq!(two.is_heard().await, (false, false));
        two.relay.heal();
        assert_eq!(two.relay.datagrams()[0].bytes, b"hello");
    }

    #[tokio::test]
    async fn connections_survive_a_cut_but_not_a_reset() {
        let two = two().await;
        let mut client = two.connect().await;
        let (mut server, from) =
            within(ANSWER_TIMEOUT, "a connection", two.listener.accept()).await.expect("accepted");
        assert_eq!(from.ip(), two.fronts[0].ip());
        let mut buffer = [0; 4];
        client.write_all(b"ping").await.expect("sent");
        within(ANSWER_TIMEOUT, "bytes", server.read_exact(&mut buffer)).await.expect("read");
        two.relay.cut_path(0, 1);
        client.write_all(b"held").await.expect("sent");
        timeout(ANSWER_TIMEOUT / 50, server.read_exact(&mut buffer)).await.expect_err("nothing arrives");
        server.write_all(b"back").await.expect("sent");
        within(ANSWER_TIMEOUT, "bytes the other way", client.read_exact(&mut buffer)).await.expect("read");
        // None is made meanwhile, and it is made afterwards.
        let _late = two.connect().await;
        timeout(ANSWER_TIMEOUT / 50, two.listener.accept()).await.expect_err("nobody comes");
        two.relay.heal();
        within(ANSWER_TIMEOUT, "what was held", server.read_exact(&mut buffer)).await.expect("read");
        assert_eq!(&buffer, b"held");
        within(ANSWER_TIMEOUT, "the late one", two.listener.accept()).await.expect("accepted");
        two.relay.sever();
        let end = within(ANSWER_TIMEOUT, "the end", client.read(&mut buffer)).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }

    #[tokio::test]
    async fn lossy_path_drops_some_datagrams() {
        let two = two().await;
        two.relay.lose(30);
        // Few enough for the buffers of sockets.
        for _ in 0..100 {
            two.sockets[0].send_to(b"x", two.fronts[1]).await.expect("sent");
        }
        let passed = eventually(ANSWER_TIMEOUT, "most have passed", async || {
            let passed = two.relay.passed();
            (passed > 50).then_some(passed)
        });
        passed.await;
        assert!(two.relay.passed() < 100, "some are lost");
    }

    #[test]
    fn owner_of_a_connection_is_found() {
        let server = std::net::TcpListener::bind(free_address()).expect("free");
        let address = server.local_addr().expect("bound");
        let client = std::net::TcpStream::connect(address).expect("connected");
        let inode = inode(client.local_addr().expect("bound"), address).expect("it is there");
        let own = fs::read_dir("/proc/self/fd").expect("open files");
        let wanted = format!("socket:[{inode}]");
        let mut targets = own.flatten().filter_map(|open| fs::read_link(open.path()).ok());
        assert!(targets.any(|target| target.as_os_str() == wanted.as_str()));
    }
}
