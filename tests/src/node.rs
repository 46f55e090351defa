//! A node: a real process with a data directory of its own on a port of its own.
//!
//! A [`Node`] is a handle with a [`Client`] in it; the process is killed when the last handle and
//! the last client are dropped, and its directory removed. [`Shared`] is a node for tests that do not disturb each
//! other: it lives as long as one of them runs.
//!
//! Limits of log-in and registration are off and the drain is short unless a test says otherwise,
//! so that tests do not lock each other out or wait.

mod builder;
mod process;
mod shared;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{
    Palisade, Person, Run,
    client::{Answer, Client},
    fresh,
    store::Keyspace,
    wait::eventually,
};

use self::process::free_port;
pub use self::shared::Shared;

/// Longest time from start to readiness: an unoptimised build may generate an RSA key on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time from SIGTERM to the end of the process, without load.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// How many times a start is tried when another process takes the port first.
const START_TRIES: usize = 5;

const LIVE: &str = "/health/live";
const READY: &str = "/health/ready";

const SETTINGS: [(&str, &str); 5] = [
    ("LOGIN_ACCOUNT_FAILURES", "off"),
    ("LOGIN_ADDRESS_FAILURES", "off"),
    ("REGISTRATION_RATE", "off"),
    ("DRAIN_GRACE", "100ms"),
    ("JOURNAL_SIZE", "256KiB"),
];

/// A handle of a node.
#[derive(Clone, Debug)]
pub struct Node {
    process: Arc<Process>,
    client: Client,
}

/// A node that is not started yet.
#[derive(Debug)]
pub struct Builder {
    settings: BTreeMap<String, String>,
    data_dir: Option<PathBuf>,
    keyspace: Option<Arc<Keyspace>>,
    clock: Option<Arc<ClockFile>>,
}

/// The file that moves a node's clocks. Builds with debug assertions read it, release builds do not.
#[derive(Debug)]
struct ClockFile {
    path: PathBuf,
    _directory: TempDir,
}

/// By how many seconds a node's clocks differ from the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shift {
    /// The wall clock.
    pub wall: i32,
    /// Boot time: time that has really gone by.
    pub boot: i32,
}

/// A node that did not start.
#[derive(Debug)]
pub struct NotStarted {
    /// The exit status; -1 when a signal ended it.
    pub status: i32,
    /// Everything that it wrote.
    pub output: String,
}

/// What outlives a test's runtime: nothing in here belongs to one.
#[derive(Debug)]
struct Process {
    settings: BTreeMap<String, String>,
    data_dir: PathBuf,
    child: Mutex<Option<Child>>,
    port: Arc<AtomicU16>,
    output: Arc<Mutex<Vec<u8>>>,
    root: OnceCell<(String, String)>,
    keyspace: Option<Arc<Keyspace>>,
    clock: Option<Arc<ClockFile>>,
    /// Last, so that the process is dead when its directory goes.
    _own_dir: Option<TempDir>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// A node with the settings of tests.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// To say more about it before it starts.
    #[must_use]
    pub fn builder() -> Builder {
        let settings = SETTINGS.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Builder { settings, data_dir: None, keyspace: None, clock: None }
    }

    /// A node with the settings of tests that other tests use at the same time.
    pub async fn shared() -> Self {
        static SHARED: Shared = Shared::with(&[]);
        SHARED.node().await
    }

    fn of(process: Arc<Process>) -> Self {
        let client = Client::new(process.port.clone()).keeping(process.clone());
        Self { process, client }
    }

    /// A client of its own, with connections of its own.
    #[must_use]
    pub fn another_client(&self) -> Client {
        Client::new(self.process.port.clone()).keeping(self.process.clone())
    }

    /// Where it keeps its things.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.process.data_dir
    }

    /// All that it wrote since its first start, once these words are in it: a line is written a moment
    /// after what it tells.
    ///
    /// # Panics
    /// When it does not say so before long.
    pub async fn logs_with(&self, words: &str) -> String {
        eventually(Duration::from_secs(10), &format!("the log says {words:?}"), async || {
            Some(self.logs()).filter(|logs| logs.contains(words))
        })
        .await
    }

    /// Everything that it wrote since its first start.
    #[must_use]
    pub fn logs(&self) -> String {
        String::from_utf8_lossy(&lock(&self.process.output)).into_owned()
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        lock(&self.process.child).as_ref().expect("it runs").id()
    }

    /// Kills it as a crash would, and returns when it is gone.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_dash_9(&self) {
        let mut child = lock(&self.process.child).take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    /// Its process id, if it runs.
    #[must_use]
    pub fn try_pid(&self) -> Option<u32> {
        lock(&self.process.child).as_ref().map(Child::id)
    }

    /// How much memory it has at the moment, in bytes.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        kib * 1024
    }

    /// Stops it in its tracks: its connections stay, and nothing answers until [`Node::resume`].
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        // One of its threads has to be told, which tells the others: on a busy machine they go on a while.
        let start = Instant::now();
        while !self.is_stopped() {
            assert!(start.elapsed() < START_TIMEOUT, "it does not stop");
            std::thread::yield_now();
        }
    }

    fn is_stopped(&self) -> bool {
        let mut threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        threads.all(|thread| {
            let stat = std::fs::read_to_string(thread.expect("a thread").path().join("stat"));
            // One that has ended meanwhile does nothing more either.
            let stat = stat.unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
        })
    }

    /// Ends a pause.
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to end, without waiting.
    ///
    /// # Panics
    /// When it does not run.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it takes signals");
    }

    /// Awaits its end.
    ///
    /// # Panics
    /// When it does not end within `bound`.
    pub async fn ended(&self, bound: Duration) -> ExitStatus {
        let status = eventually(bound, "the end of the node", async || self.process.exit_status()).await;
        lock(&self.process.child).take();
        status
    }

    /// Asks it to end and awaits that.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn terminate(&self) -> ExitStatus {
        self.ask_to_end();
        self.ended(SHUTDOWN_TIMEOUT).await
    }

    /// Starts it again on the same data directory; a running one is asked to end first. The port
    /// is another, clients find it.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn restart(&self) {
        if lock(&self.process.child).is_some() {
            self.terminate().await;
        }
        self.try_run(READY).await.unwrap_or_else(|why| panic!("the node did not start again: {why:?}"));
    }

    /// Starts it again after it has ended and awaits only that it lives: it may not get ready yet.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn relaunch(&self) {
        self.try_run(LIVE).await.unwrap_or_else(|why| panic!("the node did not start again: {why:?}"));
    }

    /// Starts it again after it has ended and awaits nothing: it may not even listen yet.
    pub fn launch_again(&self) {
        self.process.port.store(free_port(), Ordering::SeqCst);
        self.process.spawn();
    }

    /// Awaits its readiness after a launch.
    ///
    /// # Panics
    /// When it ends instead, or does not get ready.
    pub async fn comes_up(&self) {
        eventually(START_TIMEOUT, "readiness of the node", async || {
            let ended = self.process.exit_status();
            assert!(ended.is_none(), "the node did not start: {ended:?}\n{}", self.logs());
            self.readiness().await.is_ok_and(|answer| answer.status == 200).then_some(())
        })
        .await;
    }

    /// Loses its data directory, after it has ended.
    ///
    /// # Panics
    /// When it runs, or the directory cannot be removed.
    pub fn loses_its_data_directory(&self) {
        assert!(self.try_pid().is_none(), "the node runs");
        std::fs::remove_dir_all(self.data_dir()).expect("the data directory can be removed");
    }

    /// A handle with connections of its own, for another test.
    #[must_use]
    pub fn another_handle(&self) -> Self {
        Self::of(self.process.clone())
    }

    /// The same data directory under other settings, once this node has ended.
    #[must_use]
    pub fn successor(&self) -> Builder {
        Builder {
            settings: self.process.settings.clone(),
            data_dir: Some(self.process.data_dir.clone()),
            keyspace: self.process.keyspace.clone(),
            clock: self.process.clock.clone(),
        }
    }

    /// Moves its clocks, and awaits that it knows, if it runs.
    ///
    /// # Panics
    /// When the test does not move its clocks.
    pub async fn move_clocks(&self, shift: Shift) {
        let clock = self.process.clock.as_ref().expect("a node with clocks that move");
        clock.write(shift);
        if self.try_pid().is_some() {
            eventually(START_TIMEOUT, "a look at the clock file", async || {
                clock.is_read(shift).then_some(())
            })
            .await;
        }
    }

    /// Awaits that it has looked for what has ended, from now on.
    ///
    /// # Panics
    /// When it does not.
    pub async fn has_forgotten_what_it_may(&self) {
        let rounds = async || self.metric("palisade_upkeep_rounds_total").await.expect("the metric");
        // The one under way may have begun before.
        let before = rounds().await;
        eventually(START_TIMEOUT, "two rounds of upkeep", async || {
            (rounds().await >= before + 2.0).then_some(())
        })
        .await;
    }

    /// A call of the command line with this node's data directory and settings.
    #[must_use]
    pub fn palisade(&self, arguments: &[&str]) -> Palisade {
        let call = Palisade::with(arguments).setting("DATA_DIR", &self.process.data_dir);
        self.process.settings.iter().fold(call, |call, (name, value)| call.setting(name, value))
    }

    /// Calls the command line.
    pub async fn cli(&self, arguments: &[&str]) -> Run {
        self.palisade(arguments).run().await
    }

    /// The superuser that `app init` made, logged in by a session of its own.
    ///
    /// # Panics
    /// When there is none and it cannot be made.
    pub async fn root(&self) -> Person {
        let make = async || {
            let (email, password) =
                (format!("{}@example.org", fresh("root")), fresh("the root of all power"));
            self.palisade(&["app", "init", "--with-superuser", "--email", &email])
                .args(["--first-name", "Root", "--last-name", "Root"])
                .setting("SUPERUSER_PASSWORD", &password)
                .run()
                .await
                .is_done();
            (email, password)
        };
        let (email, password) = self.process.root.get_or_init(make).await;
        Person::log_in(self, email, password).await
    }

    /// A superuser that no other test knows.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn another_superuser(&self) -> Person {
        self.cli(&["app", "init"]).await.is_done();
        let email = format!("{}@example.org", fresh("super"));
        let password = fresh("another root of power");
        self.palisade(&["superuser", "create", "--email", &email])
            .args(["--first-name", "Super", "--last-name", "User"])
            .setting("SUPERUSER_PASSWORD", &password)
            .run()
            .await
            .is_done();
        Person::log_in(self, &email, &password).await
    }

    /// Registers a new user and logs in.
    pub async fn register(&self, name: &str) -> Person {
        Person::register(self, name).await
    }

    /// Its signing keys, as the command line lists them: `{kid, algorithm, state}`.
    ///
    /// # Panics
    /// When they are no array.
    pub async fn keys(&self) -> Vec<Value> {
        let run = self.cli(&["keys", "list", "--json"]).await;
        run.is_done().json().as_array().expect("an array of keys").clone()
    }

    /// The kids that it publishes.
    ///
    /// # Panics
    /// When it publishes something else.
    pub async fn published_kids(&self) -> BTreeSet<String> {
        let jwks = self.get("/.well-known/jwks.json").send().await.is(200).json();
        let keys = jwks["keys"].as_array().expect("keys");
        keys.iter().map(|key| key["kid"].as_str().expect("a kid").to_owned()).collect()
    }

    /// The readiness probe's answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn readiness(&self) -> Result<Answer, crate::client::NoAnswer> {
        self.get("/health/ready").try_send().await
    }

    /// Until `probe` answers 200.
    async fn try_run(&self, probe: &str) -> Result<(), NotStarted> {
        let mut tries = 0;
        loop {
            tries += 1;
            let before = lock(&self.process.output).len();
            self.process.port.store(free_port(), Ordering::SeqCst);
            self.process.spawn();
            let ended = eventually(START_TIMEOUT, &format!("{probe} of the node"), async || {
                if let Some(status) = self.process.exit_status() {
                    return Some(Some(status));
                }
                let answer = self.get(probe).try_send().await;
                let ready = answer.is_ok_and(|answer| answer.status == 200);
                // Alive after the answer: the answer was its own.
                (ready && self.process.exit_status().is_none()).then_some(None)
            })
            .await;
            let Some(status) = ended else { return Ok(()) };
            lock(&self.process.child).take();
            // The last lines may still be on their way through the pipe.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let output = String::from_utf8_lossy(&lock(&self.process.output)[before..]).into_owned();
            if tries == START_TRIES || !output.contains("in use") || !output.contains("ddress") {
                return Err(NotStarted { status: status.code().unwrap_or(-1), output });
            }
        }
    }
}

impl Deref for Node {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}
