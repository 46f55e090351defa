//! A proxy between a client and a server, which hurts the way between them.
//!
//! It listens on the target's own IP address on another port. So it is the whole way to a CQL
//! server too, whose driver connects to the addresses that the nodes tell with the port of the
//! contact point: for a ring, proxies of one port, which [`Proxy::to_all`] gives.
//!
//! Of CQL, which it knows by the first byte, it reads the frames: it knows the statements that
//! reach the server, and can act on one of them. Other protocols are just bytes.

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

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::eventually;

/// Until what was asked of the proxy has happened: there is nothing to wait for but a busy machine.
const DONE: Duration = Duration::from_secs(20);
/// How often another port is tried.
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

/// Bytes on their way, and when they may arrive.
type Piece = (Instant, Vec<u8>);

/// What is to be done with the answer to a request, by its stream.
type Expected = Mutex<HashMap<[u8; 2], Answer>>;

enum Answer {
    Prepared(String),
    Action(Action),
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
        eventually(DONE, "the connections are cut", closed).await;
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
        eventually(DONE, "the proxy listens", listens).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.state.send_replace(State { ended: true, cut: true, ..State::default() });
    }
}

/// It refuses connections until it listens, and nobody else gets the port. There may be one more that
/// listens already.
fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

impl Shared {
    async fn serve(self: Arc<Self>, mut socket: TcpSocket) {
        let mut state = self.state.subscribe();
        loop {
            if state.wait_for(|state| !state.cut || state.ended).await.expect("it is held here").ended {
                return;
            }
            let listener = socket.listen(1024).expect("it can listen");
            self.listens.store(true, Ordering::SeqCst);
            loop {
                tokio::select! {
                    biased;
                    _ = state.wait_for(|state| state.cut) => break,
                    accepted = listener.accept() => {
                        let Ok((client, _)) = accepted else { continue };
                        self.accepted.fetch_add(1, Ordering::SeqCst);
                        self.connections.fetch_add(1, Ordering::SeqCst);
                        let shared = self.clone();
                        tokio::spawn(async move {
                            let mut state = shared.state.subscribe();
                            tokio::select! {
                                biased;
                                _ = state.wait_for(|state| state.cut) => {}
                                _ = shared.carry(client) => {}
                            }
                            shared.connections.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                }
            }
            // Before the port is given back, that nobody else gets it.
            socket = bound(self.address).expect("the port is ours");
            drop(listener);
            self.listens.store(false, Ordering::SeqCst);
        }
    }

    /// One connection, until either side closes it.
    async fn carry(&self, mut client: TcpStream) -> io::Result<()> {
        let mut server = TcpStream::connect(self.target).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut first = [0];
        client.peek(&mut first).await?;
        // The version of CQL that drivers begin with.
        let cql = first == [4];
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (requests, requests_out) = mpsc::unbounded_channel();
        let (answers, answers_out) = mpsc::unbounded_channel();
        let expected = Expected::default();
        // Closed by one side means closed for both: no protocol here needs more.
        tokio::select! {
            done = self.take_requests(from_client, requests, cql, &expected) => done,
            done = self.take_answers(from_server, answers, cql, &expected) => done,
            done = self.give(requests_out, to_server) => done,
            done = self.give(answers_out, to_client) => done,
        }
    }

    async fn take_requests(
        &self,
        mut from: impl AsyncRead + Unpin,
        to: mpsc::UnboundedSender<Piece>,
        cql: bool,
        expected: &Expected,
    ) -> io::Result<()> {
        loop {
            let piece = take(&mut from, cql).await?;
            if cql {
                let answer = self.request(&piece);
                if matches!(answer, Some(Answer::Action(Action::CutBefore))) {
                    self.state.send_modify(|state| state.cut = true);
                    return std::future::pending().await;
                }
                if let (Some(answer), Some(stream)) = (answer, stream_of(&piece)) {
                    lock(expected).insert(stream, answer);
                }
            }
            let _ = to.send((self.due(), piece));
        }
    }

    async fn take_answers(
        &self,
        mut from: impl AsyncRead + Unpin,
        to: mpsc::UnboundedSender<Piece>,
        cql: bool,
        expected: &Expected,
    ) -> io::Result<()> {
        loop {
            let mut piece = take(&mut from, cql).await?;
            let answer = stream_of(&piece).filter(|_| cql).and_then(|stream| lock(expected).remove(&stream));
            if let Some(Answer::Prepared(text)) = &answer
                && let Some(id) = cql::prepared_id(&piece)
            {
                lock(&self.cql).prepared.insert(id.to_vec(), text.clone());
            }
            if matches!(answer, Some(Answer::Action(Action::CutAfter))) {
                self.state.send_modify(|state| state.cut = true);
                return std::future::pending().await;
            }
            if self.state.borrow().corrupt {
                self.spoil(&mut piece, cql);
            }
            let due = self.due();
            if let Some(Answer::Action(Action::DelayAnswer(delay))) = answer {
                let to = to.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = to.send((due, piece));
                });
            } else {
                let _ = to.send((due, piece));
            }
        }
    }

    async fn give(
        &self,
        mut pieces: mpsc::UnboundedReceiver<Piece>,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let mut state = self.state.subscribe();
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            let _ = state.wait_for(|state| !state.stalled).await;
            to.write_all(&piece).await?;
        }
        Ok(())
    }

    fn due(&self) -> Instant {
        Instant::now() + self.state.borrow().delay
    }

    /// What to do with the answer to a request.
    fn request(&self, frame: &[u8]) -> Option<Answer> {
        let mut cql = lock(&self.cql);
        let text = match cql::request(frame, &cql.prepared)? {
            cql::Request::Prepare(text) => return Some(Answer::Prepared(text)),
            cql::Request::Execute(text) => text,
        };
        let mut action = None;
        cql.waiting.retain_mut(|waiting| {
            if action.is_some() || !text.contains(&waiting.pattern) {
                return true;
            }
            if waiting.before > 0 {
                waiting.before -= 1;
                return true;
            }
            action = Some(waiting.action);
            false
        });
        // What never arrives is not executed.
        if action != Some(Action::CutBefore) {
            cql.statements.push(text);
        }
        action.map(Answer::Action)
    }

    fn spoil(&self, piece: &mut [u8], cql: bool) {
        let from = if cql { cql::HEADER } else { 0 };
        for bytes in piece[from..].chunks_mut(64) {
            let place = self.corrupted.fetch_add(1, Ordering::SeqCst);
            let byte = usize::try_from(place * 37).expect("few pieces") % bytes.len();
            bytes[byte] ^= 1 << (place % 8);
        }
    }
}

/// A frame of CQL, or whatever bytes are there.
async fn take(from: &mut (impl AsyncRead + Unpin), cql: bool) -> io::Result<Vec<u8>> {
    if cql {
        let mut frame = vec![0; cql::HEADER];
        from.read_exact(&mut frame).await?;
        let length = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
        frame.resize(cql::HEADER + length as usize, 0);
        from.read_exact(&mut frame[cql::HEADER..]).await?;
        return Ok(frame);
    }
    let mut bytes = vec![0; 64 * 1024];
    let count = from.read(&mut bytes).await?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(count);
    Ok(bytes)
}

fn stream_of(frame: &[u8]) -> Option<[u8; 2]> {
    frame.get(2..4)?.try_into().ok()
}

/// The little that one must know of CQL's native protocol v4, without compression.
mod cql {
    use std::collections::HashMap;

    /// Version, flags, stream (2), opcode, length (4).
    pub const HEADER: usize = 9;

    const QUERY: u8 = 0x07;
    const RESULT: u8 = 0x08;
    const PREPARE: u8 = 0x09;
    const EXECUTE: u8 = 0x0a;
    const BATCH: u8 = 0x0d;
    const RESULT_PREPARED: u32 = 4;
    const TRACING: u8 = 0x02;
    const WARNING: u8 = 0x08;

    pub enum Request {
        Prepare(String),
        Execute(String),
    }

    struct Reader<'a>(&'a [u8]);

    impl<'a> Reader<'a> {
        fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
            let (head, tail) = self.0.split_at_checked(count)?;
            self.0 = tail;
            Some(head)
        }

        fn byte(&mut self) -> Option<u8> {
            Some(self.bytes(1)?[0])
        }

        fn short(&mut self) -> Option<u16> {
            Some(u16::from_be_bytes(self.bytes(2)?.try_into().ok()?))
        }

        fn int(&mut self) -> Option<u32> {
            Some(u32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
        }

        fn short_bytes(&mut self) -> Option<&'a [u8]> {
            let count = self.short()?;
            self.bytes(count.into())
        }

        fn long_string(&mut self) -> Option<String> {
            let count = self.int()?;
            Some(String::from_utf8_lossy(self.bytes(count as usize)?).into_owned())
        }

        /// Null and not-set have negative lengths.
        fn value(&mut self) -> Option<()> {
            let count = self.int()?;
            if count.cast_signed() > 0 {
                self.bytes(count as usize)?;
            }
            Some(())
        }
    }

    fn text_of(id: &[u8], prepared: &HashMap<Vec<u8>, String>) -> String {
        prepared.get(id).cloned().unwrap_or_else(|| "a statement prepared elsewhere".to_owned())
    }

    pub fn request(frame: &[u8], prepared: &HashMap<Vec<u8>, String>) -> Option<Request> {
        let mut body = Reader(frame.get(HEADER..)?);
        match frame[4] {
            PREPARE => Some(Request::Prepare(body.long_string()?)),
            QUERY => Some(Request::Execute(body.long_string()?)),
            EXECUTE => Some(Request::Execute(text_of(body.short_bytes()?, prepared))),
            BATCH => {
                body.byte()?;
                let mut texts = Vec::new();
                for _ in 0..body.short()? {
                    texts.push(match body.byte()? {
                        0 => body.long_string()?,
                        _ => text_of(body.short_bytes()?, prepared),
                    });
                    for _ in 0..body.short()? {
                        body.value()?;
                    }
                }
                Some(Request::Execute(format!("BATCH: {}", texts.join("; "))))
            }
            _ => None,
        }
    }

    /// The id in a `RESULT` that says that something is prepared.
    pub fn prepared_id(frame: &[u8]) -> Option<&[u8]> {
        let flags = frame[1];
        let mut body = Reader(frame.get(HEADER..)?);
        if frame[4] != RESULT {
            return None;
        }
        if flags & TRACING != 0 {
            body.bytes(16)?;
        }
        if flags & WARNING != 0 {
            for _ in 0..body.short()? {
                body.short_bytes()?;
            }
        }
        (body.int()? == RESULT_PREPARED).then(|| body.short_bytes()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use scylla::{
        client::{session::Session, session_builder::SessionBuilder},
        cluster::Node,
        statement::batch::{Batch, BatchType},
        value::CqlValue,
    };
    use tokio::net::TcpListener;

    use super::*;
    use crate::{fresh, servers::Cassandra, within};

    const SOON: Duration = Duration::from_secs(10);
    const A_WHILE: Duration = Duration::from_millis(300);

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn said_back(stream: &mut TcpStream, text: &str) -> io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cut_closes_connections_and_refuses_new_ones_until_it_is_mended() {
        let proxy = Proxy::to(echo().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
        assert_eq!(said_back(&mut stream, "hello").await.expect("an answer"), "hello");
        proxy.cut().await;
        assert!(proxy.is_cut());
        within(SOON, "the end", said_back(&mut stream, "hello")).await.expect_err("it is cut");
        let refused = TcpStream::connect(proxy.address()).await.expect_err("it is cut");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        proxy.mend().await;
        let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
        assert_eq!(said_back(&mut stream, "hello").await.expect("an answer"), "hello");
        assert_eq!(proxy.accepted(), 2);
        let address = proxy.address();
        drop(proxy);
        within(SOON, "the end", said_back(&mut stream, "hello")).await.expect_err("it has ended");
        let refused = async || TcpStream::connect(address).await.err();
        eventually(SOON, "the proxy ends", refused).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn bytes_can_be_held_delayed_and_corrupted() {
        let proxy = Proxy::to(echo().await).await;
        proxy.stall();
        let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
        {
            let answer = said_back(&mut stream, "hello");
            tokio::pin!(answer);
            tokio::time::timeout(A_WHILE, &mut answer).await.expect_err("it is stalled");
            proxy.resume();
            assert_eq!(within(SOON, "an answer", answer).await.expect("an answer"), "hello");
        }
        proxy.delay(A_WHILE);
        let start = Instant::now();
        assert_eq!(said_back(&mut stream, "hello").await.expect("an answer"), "hello");
        assert!(start.elapsed() >= 2 * A_WHILE, "each way");
        proxy.mend().await;
        proxy.corrupt();
        let answer = said_back(&mut stream, "hello").await.expect("an answer");
        assert_ne!(answer, "hello");
    }

    async fn session(proxy: &Proxy) -> Session {
        let builder = SessionBuilder::new().known_node_addr(proxy.address());
        within(SOON, "a session", builder.build()).await.expect("a session")
    }

    /// A table `t` of `k` and `v` in a keyspace that is used from now on.
    async fn table(session: &Session, replicas: usize) {
        let keyspace = fresh("proxy").replace('-', "_");
        let replication = format!("{{'class': 'SimpleStrategy', 'replication_factor': {replicas}}}");
        let make = format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}");
        session.query_unpaged(make, &()).await.expect("a keyspace");
        session.use_keyspace(keyspace, false).await.expect("it is there");
        session.query_unpaged("CREATE TABLE t (k int PRIMARY KEY, v int)", &()).await.expect("a table");
    }

    async fn drop_keyspace(session: &Session) {
        let keyspace = session.get_keyspace().expect("it is used");
        session.query_unpaged(format!("DROP KEYSPACE {keyspace}"), &()).await.expect("it is gone");
    }

    async fn value(session: &Session, k: i32) -> Option<i32> {
        let rows = session.query_unpaged("SELECT v FROM t WHERE k = ?", (k,)).await.expect("an answer");
        let rows = rows.into_rows_result().expect("rows");
        rows.maybe_first_row::<(i32,)>().expect("an int").map(|(v,)| v)
    }

    /// Every connection of a driver goes through the proxy, to the one server and to a ring.
    async fn all_of_it(cassandra: &Cassandra) -> (Vec<Proxy>, Session) {
        let proxies = Proxy::to_all(&cassandra.addresses()).await;
        let session = session(&proxies[0]).await;
        let state = session.get_cluster_state();
        let address = |node: &Arc<Node>| SocketAddr::new(node.address.ip(), node.address.port());
        let mut nodes: Vec<_> = state.get_nodes_info().iter().map(address).collect();
        nodes.sort();
        let addresses: Vec<_> = proxies.iter().map(Proxy::address).collect();
        assert_eq!(nodes, addresses);
        eventually(SOON, "the driver connects to all nodes", async || {
            proxies.iter().all(|proxy| proxy.connections() > 0).then_some(())
        })
        .await;
        (proxies, session)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_knows_the_statements() {
        let (proxies, session) = all_of_it(&Cassandra::one().await).await;
        let proxy = &proxies[0];
        table(&session, 1).await;
        proxy.clear();
        let insert = session.prepare("INSERT INTO t (k, v) VALUES (?, ?)").await.expect("it is prepared");
        assert!(proxy.statements().is_empty(), "{:?}", proxy.statements());
        session.execute_unpaged(&insert, (1, 10)).await.expect("it is done");
        assert_eq!(value(&session, 1).await, Some(10));
        let mut batch = Batch::new(BatchType::Logged);
        batch.append_statement(insert);
        batch.append_statement("DELETE FROM t WHERE k = 1");
        session.batch(&batch, ((2, CqlValue::Int(20)), ())).await.expect("it is done");
        assert_eq!(
            proxy.statements(),
            [
                "INSERT INTO t (k, v) VALUES (?, ?)",
                "SELECT v FROM t WHERE k = ?",
                "BATCH: INSERT INTO t (k, v) VALUES (?, ?); DELETE FROM t WHERE k = 1",
            ]
        );
        drop_keyspace(&session).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_acts_on_statements() {
        let (proxies, session) = all_of_it(&Cassandra::one().await).await;
        let proxy = &proxies[0];
        table(&session, 1).await;
        let put = session.prepare("INSERT INTO t (k, v) VALUES (?, ?)").await.expect("it is prepared");
        let mended = async || {
            assert!(proxy.is_cut());
            assert_eq!(proxy.waiting(), 0);
            proxy.mend().await;
            eventually(Duration::from_secs(60), "the driver connects again", async || {
                session.query_unpaged("SELECT v FROM t WHERE k = 0", &()).await.ok()
            })
            .await;
        };

        proxy.on_nth(2, "INSERT INTO t", Action::CutBefore);
        session.execute_unpaged(&put, (1, 1)).await.expect("it is the first");
        let cut = within(SOON, "an end", session.execute_unpaged(&put, (2, 2))).await;
        cut.expect_err("the connection is cut");
        mended().await;
        assert_eq!((value(&session, 1).await, value(&session, 2).await), (Some(1), None));

        proxy.on("INSERT INTO t", Action::CutAfter);
        let cut = within(SOON, "an end", session.execute_unpaged(&put, (3, 3))).await;
        cut.expect_err("the connection is cut");
        mended().await;
        assert_eq!(value(&session, 3).await, Some(3));

        proxy.on("INSERT INTO t", Action::DelayAnswer(A_WHILE * 4));
        let start = Instant::now();
        let late = async {
            session.execute_unpaged(&put, (4, 4)).await.expect("it is late");
            start.elapsed()
        };
        let quick = async {
            eventually(SOON, "it is executed", async || value(&session, 4).await).await;
            start.elapsed()
        };
        let (late, quick) = tokio::join!(late, quick);
        assert!(late >= A_WHILE * 4 && quick < late, "{late:?} {quick:?}");
        drop_keyspace(&session).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_ring_goes_through_proxies_and_loses_nothing_when_a_node_is_killed() {
        let ring = Cassandra::ring().await;
        let (_proxies, session) = all_of_it(&ring).await;
        table(&session, 3).await;
        let put = session.prepare("INSERT INTO t (k, v) VALUES (?, ?)").await.expect("it is prepared");
        let put_all = async |keys: std::ops::Range<i32>| {
            let done = join_all(keys.map(|k| session.execute_unpaged(&put, (k, k)))).await;
            done.into_iter().filter(Result::is_err).count()
        };
        assert_eq!(put_all(0..100).await, 0);
        for n in [1, 2] {
            ring.kill(n).await;
            eventually(Duration::from_secs(60), "two of three are enough", async || {
                (put_all(100..200).await == 0).then_some(())
            })
            .await;
            for k in 0..200 {
                assert_eq!(value(&session, k).await, Some(k));
            }
            ring.start(n).await;
        }
        ring.pause(0).await;
        ring.resume(0).await;
        drop_keyspace(&session).await;
    }
}
