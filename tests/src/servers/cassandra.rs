//! Apache Cassandra: one node that all tests of this machine share, and a ring of three that one
//! test has for itself.
//!
//! The first test that needs one starts it, empty; this takes some seconds, and the very first time
//! longer, because Maven fetches it. It ends by itself 20 seconds after the last test process that
//! used it has ended in any way. The script `tests/servers/cassandra` does all of this, and developers
//! can call it too.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    ops::Deref,
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

use crate::{eventually, within};

const PORT: u16 = 9042;
const ONE: &[Ipv4Addr] = &[Ipv4Addr::new(127, 0, 0, 31)];
const RING: &[Ipv4Addr] =
    &[Ipv4Addr::new(127, 0, 0, 41), Ipv4Addr::new(127, 0, 0, 42), Ipv4Addr::new(127, 0, 0, 43)];

/// Longest run of the script, which has bounds of its own: three starts on a busy machine that fetches
/// everything first.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(1200);
/// Longest wait for other processes that start the node or use the ring.
const TURN_TIMEOUT: Duration = Duration::from_secs(1800);
/// Longest time of one query.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time until the nodes of a ring agree on which of them live.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(120);

/// A Cassandra to connect to.
#[derive(Debug)]
pub struct Cassandra {
    addresses: &'static [Ipv4Addr],
}

/// Three nodes in one ring, for the test that holds this. A node is named by its place in
/// [`Cassandra::addresses`]. Whatever is done to them, the next test finds all three alive.
#[derive(Debug)]
pub struct Ring {
    cassandra: Cassandra,
    _turn: File,
}

impl Cassandra {
    /// The node that all tests share: use a keyspace of your own, and do not stop or damage the node.
    ///
    /// # Panics
    /// When it cannot be had: Java or Maven is missing, or it does not start.
    pub async fn one() -> Self {
        // As long as this process lives, so that a test may keep no more than the address.
        static USED: Mutex<Option<File>> = Mutex::new(None);
        let cassandra = Self { addresses: ONE };
        let used = cassandra.used("one", FlockOperation::NonBlockingLockShared).await;
        let _starting = locked("one.starting", FlockOperation::NonBlockingLockExclusive).await;
        if !cassandra.agrees(ONE).await {
            cassandra.start().await;
        }
        *USED.lock().unwrap_or_else(PoisonError::into_inner) = Some(used);
        cassandra
    }

    /// Three nodes in one ring, all of which live. Awaits its turn.
    ///
    /// # Panics
    /// When it cannot be had: Java or Maven is missing, or it does not start.
    pub async fn ring() -> Ring {
        let cassandra = Self { addresses: RING };
        let turn = cassandra.used("ring", FlockOperation::NonBlockingLockExclusive).await;
        if !cassandra.agrees(RING).await {
            // What the last test did to it may be anything.
            script("stop", RING).await;
            cassandra.start().await;
        }
        Ring { cassandra, _turn: turn }
    }

    /// Where it answers CQL.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.iter().map(|address| (*address, PORT).into()).collect()
    }

    /// Where its first node answers CQL.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (self.addresses[0], PORT).into()
    }

    /// Takes a lock for a user of the node, and starts a guard that ends the node when no lock is left.
    async fn used(&self, name: &str, lock: FlockOperation) -> File {
        let name = format!("{name}.used");
        let mut used = locked(&name, lock).await;
        // The guard looks at the time of the last change too.
        used.write_all(b"\n").expect("the lock file can be written");
        let mut guard = Command::new("setsid");
        guard.arg("--fork").arg(SCRIPT_PATH).arg("guard").arg(cache().join(name));
        guard.args(self.addresses.iter().map(Ipv4Addr::to_string));
        guard.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status =
            within(ANSWER_TIMEOUT, "the start of a guard", guard.status()).await.expect("setsid runs");
        assert!(status.success(), "setsid did not start a guard: {status}");
        used
    }

    async fn start(&self) {
        script("start", self.addresses).await;
        self.agreement_of(self.addresses).await;
    }

    async fn agreement_of(&self, nodes: &[Ipv4Addr]) {
        let what = format!("Cassandra's nodes {nodes:?} know of each other");
        eventually(AGREEMENT_TIMEOUT, &what, async || self.agrees(nodes).await.then_some(())).await;
    }

    /// Whether each of these nodes answers, and knows that all of them do.
    async fn agrees(&self, nodes: &[Ipv4Addr]) -> bool {
        for node in nodes {
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, reaches(*node, nodes.len())).await;
            if !matches!(answer, Ok(Ok(true))) {
                return false;
            }
        }
        true
    }
}

impl Ring {
    /// Kills a node as a crash would, and returns when it is gone.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn kill(&self, n: usize) {
        self.script("kill", n).await;
    }

    /// Stops a node in its tracks: its connections stay, and nothing answers until [`Ring::resume`].
    ///
    /// # Panics
    /// When it does not run.
    pub async fn pause(&self, n: usize) {
        self.script("pause", n).await;
    }

    /// Ends a pause. The others may need some seconds to notice.
    ///
    /// # Panics
    /// When the node does not run.
    pub async fn resume(&self, n: usize) {
        self.script("resume", n).await;
    }

    /// Starts a killed node with the data that it has, and returns when all nodes that run know of
    /// each other.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&self, n: usize) {
        self.script("again", n).await;
        let running = script("status", RING).await;
        let running: Vec<_> = running.lines().map(|line| line.parse().expect("an address")).collect();
        self.agreement_of(&running).await;
    }

    async fn script(&self, command: &str, n: usize) {
        script(command, &RING[n..=n]).await;
    }
}

impl Deref for Ring {
    type Target = Cassandra;
    fn deref(&self) -> &Cassandra {
        &self.cassandra
    }
}

const SCRIPT_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/cassandra");

/// What the script says.
async fn script(command: &str, nodes: &[Ipv4Addr]) -> String {
    let mut call = Command::new(SCRIPT_PATH);
    call.arg(command).args(nodes.iter().map(Ipv4Addr::to_string));
    if nodes == ONE {
        // Makes tables five times as fast. A node that is killed then forgets its tables, and with
        // them what it has acknowledged: this one is not killed.
        call.env("CASSANDRA_FLAGS", "-Dcassandra.unsafesystem=true");
    }
    call.stdin(Stdio::null()).kill_on_drop(true);
    let output = within(SCRIPT_TIMEOUT, &format!("servers/cassandra {command}"), call.output()).await;
    let output = output.expect("bash runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// As in the script.
fn cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| value != OsStr::new("")).map(PathBuf::from);
    let cache =
        set("XDG_CACHE_HOME").unwrap_or_else(|| set("HOME").expect("a home directory").join(".cache"));
    cache.join("palisade-tests")
}

/// A file that is locked until it is closed.
async fn locked(name: &str, lock: FlockOperation) -> File {
    let path = cache().join(name);
    std::fs::create_dir_all(cache()).expect("the cache directory can be made");
    let open = File::options().write(true).create(true).truncate(false).open(&path);
    let file = open.expect("a lock file can be made");
    eventually(TURN_TIMEOUT, &format!("a lock on {}", path.display()), async || match flock(&file, lock) {
        Ok(()) => Some(()),
        Err(Errno::WOULDBLOCK | Errno::INTR) => None,
        Err(why) => panic!("{} cannot be locked: {why}", path.display()),
    })
    .await;
    file
}

/// Whether a node gets answers of so many replicas, itself among them: in words of CQL v4.
async fn reaches(node: Ipv4Addr, replicas: usize) -> io::Result<bool> {
    const STARTUP: u8 = 0x01;
    const QUERY: u8 = 0x07;
    const READY: u8 = 0x02;
    const RESULT: u8 = 0x08;
    // Every node of a small ring is a replica of this keyspace. One partition, which is empty.
    const QUESTION: &str = "SELECT host_id FROM system_distributed.view_build_status \
                            WHERE keyspace_name = 'a' AND view_name = 'b'";

    let mut stream = TcpStream::connect((node, PORT)).await?;
    let mut ask = async |opcode: u8, body: &[u8]| -> io::Result<u8> {
        let length = u32::try_from(body.len()).expect("a short body").to_be_bytes();
        stream.write_all(&[&[4, 0, 0, 0, opcode], &length[..], body].concat()).await?;
        let mut header = [0; 9];
        stream.read_exact(&mut header).await?;
        let [_, _, _, _, answer, length @ ..] = header;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut body).await?;
        Ok(answer)
    };
    if ask(STARTUP, b"\x00\x01\x00\x0bCQL_VERSION\x00\x053.0.0").await? != READY {
        return Ok(false);
    }
    let length = u32::try_from(QUESTION.len()).expect("a short question").to_be_bytes();
    // The levels ONE, TWO and THREE have these numbers.
    let level = u16::try_from(replicas).expect("a small ring").to_be_bytes();
    let question = [&length[..], QUESTION.as_bytes(), &level, &[0]].concat();
    Ok(ask(QUERY, &question).await? == RESULT)
}
