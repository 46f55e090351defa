//! Tests of the ledger writer and reader, on an embedded store behind injected faults.

mod faults;
mod full_journal;
mod reading;
mod writing;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actors::{Durability, FactSink, Facts, Lifetimes, Receipt, SharedCache, StoredSessions};
use async_trait::async_trait;
use futures_util::future::join_all;
use schema::{
    Clock, Fact, FactKind, NodeId, SessionId, Subject, Timestamp, UserId,
    email::FoldedEmail,
    horizon::manual::{ManualClocks, horizon_at},
    id::KeyId,
    ledger::{Entry, Head, Origin},
    page::{Page, PageOf},
    session::{SecretHash, Session},
    time::CLOCK_SKEW,
    user::User,
};
use store::{Created, LedgerStore, Replaced, Result, Rotated, Sessions, StoreError, Stores, Users};
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use self::faults::{Faults, Faulty, Hold, Turn, lost};
use super::{
    Journal, LedgerReader, LedgerWriter,
    journal::Record,
    ledger_writer::row_deletion::{CONTRADICTIONS_MAX, ROW_DELETES_MAX, Row},
};
use crate::revocation::adopt::PeerJournal;

const START: Timestamp = Timestamp::from_secs(2_000_000_000);
const TTL: Duration = Duration::from_secs(15 * 60);
/// The longest wait of a test.
const WAIT_MAX: Duration = Duration::from_secs(60);
const LARGE: u64 = 64 * 1024 * 1024;
/// The bytes of a small journal, with room for some thirty records.
const SMALL: u64 = 8 * 1024;
const ANN: UserId = UserId::from_bytes([0xa; 16]);
const BOB: UserId = UserId::from_bytes([0xb; 16]);
/// The origin of the node that reads.
const OWN: Origin = log(100);

/// One store, its faults, and a directory for a journal.
struct World {
    directory: TempDir,
    /// The stores without faults, to prepare and to inspect.
    stores: Stores,
    faults: Arc<Faults>,
    clock: Arc<ManualClocks>,
}

impl World {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let stores = store_redb::open(&directory.path().join("store.redb")).await.unwrap().stores;
        let clock = ManualClocks::at(START);
        Self { directory, stores, faults: Arc::default(), clock }
    }

    fn faulty(&self) -> Stores {
        let faulty = Arc::new(Faulty { inner: self.stores.clone(), faults: self.faults.clone() });
        Stores { users: faulty.clone(), sessions: faulty.clone(), ledger: faulty, ..self.stores.clone() }
    }

    fn start(&self, incarnation: u64) -> Node {
        self.start_with(incarnation, LARGE, false)
    }

    /// Starts a node on the records in the journal. It has a runtime of its own, so that it can be killed.
    fn start_with(&self, incarnation: u64, journal: u64, shared: bool) -> Node {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let origin = Origin { node: NodeId::from_bytes([9; 16]), incarnation };
        let (journal, recovered) = Journal::open(self.directory.path(), journal).unwrap();
        let entered = runtime.enter();
        let clock = self.clock.clone();
        let log = LedgerWriter::start(self.faulty(), clock, origin, journal, &recovered, shared).unwrap();
        drop(entered);
        Node { log: Arc::new(log), origin, recovered, until: self.until(), runtime: Some(runtime) }
    }

    fn until(&self) -> Timestamp {
        self.clock.now().plus(TTL)
    }

    fn fact(&self, kind: FactKind) -> Fact {
        Fact { kind, until: self.until() }
    }

    fn facts(&self, kinds: &[FactKind]) -> Vec<Fact> {
        kinds.iter().map(|kind| self.fact(*kind)).collect()
    }

    /// The facts of a log in the ledger. Panics if it has gaps.
    async fn kinds(&self, origin: Origin) -> Vec<FactKind> {
        let entries = self.stores.ledger.entries(origin, 0, usize::MAX).await.unwrap();
        for (number, entry) in (1..).zip(&entries) {
            assert_eq!(entry.seq, number);
        }
        entries.into_iter().map(|entry| entry.fact.kind).collect()
    }

    async fn head(&self, origin: Origin) -> Option<u64> {
        let heads = self.stores.ledger.heads().await.unwrap();
        heads.into_iter().find(|head| head.origin == origin).map(|head| head.seq)
    }

    async fn assert_heads_hold(&self) {
        for head in self.stores.ledger.heads().await.unwrap() {
            let entries = self.stores.ledger.entries(head.origin, 0, usize::MAX).await.unwrap();
            assert!(is_complete(&entries, head.seq), "{head:?}");
        }
    }

    async fn open_session(&self, user: UserId, n: u128) {
        let session = Session {
            id: SessionId::from_bytes(n.to_be_bytes()),
            user,
            user_version: 0,
            device: None,
            ip_address: [192, 0, 2, 1].into(),
            user_agent: None,
            created_at: START,
            last_used_at: START,
            expires_at: START.plus(Duration::from_secs(30 * 24 * 3600)),
            live: SecretHash::new([1; 32]),
            spent: Vec::new(),
        };
        assert_eq!(self.stores.sessions.open(&session, 100).await.unwrap(), []);
    }

    async fn has_session(&self, user: UserId, n: u128) -> bool {
        self.stores.sessions.get(user, SessionId::from_bytes(n.to_be_bytes())).await.unwrap().is_some()
    }

    async fn add_user(&self, id: UserId) {
        let user = User {
            id,
            email: "ann@example.org".parse().unwrap(),
            email_confirmed: false,
            password: None,
            first_name: None,
            last_name: None,
            active: true,
            version: 0,
            revision: 0,
            created_at: START,
        };
        assert_eq!(self.stores.users.create(&user).await.unwrap(), Created::Done);
    }

    /// Writes entries of a log, and then its head, which never moves back.
    async fn put(&self, origin: Origin, numbers: std::ops::RangeInclusive<u64>, head: u64) {
        let entries: Vec<_> = numbers
            .map(|number| {
                let user = UserId::from_bytes(encoded(origin, number).to_be_bytes());
                let kind = FactKind::PermissionsChanged { subject: Subject::User(user) };
                Entry { origin, seq: number, fact: self.fact(kind) }
            })
            .collect();
        self.stores.ledger.append(&entries, &[Head { origin, seq: head }]).await.unwrap();
    }

    /// Facts of a node that reads, and the invalidations that they cause.
    fn reader_facts(&self) -> (Facts, Arc<Invalidations>) {
        let lifetimes = Lifetimes { access_ttl: TTL, access_horizon: Timestamp::EPOCH };
        let invalidations = Arc::<Invalidations>::default();
        let facts = Facts::new(Arc::new(NoSink), self.clock.clocks(), lifetimes);
        (facts.with_shared_cache(invalidations.clone()), invalidations)
    }

    async fn begin(&self, facts: &Facts) -> LedgerReader {
        LedgerReader::begin(&self.faulty(), facts, OWN, None).await.unwrap().0
    }

    async fn go_on(&self, reader: &mut LedgerReader, facts: &Facts) -> usize {
        reader.go_on(&self.faulty(), facts).await.unwrap()
    }
}

/// A node that writes a log.
struct Node {
    log: Arc<LedgerWriter>,
    origin: Origin,
    /// The records that the journal held at startup.
    recovered: Vec<Record>,
    until: Timestamp,
    runtime: Option<Runtime>,
}

impl Node {
    async fn publish(&self, kind: FactKind, rows: StoredSessions) -> Durability {
        let facts = [Fact { kind, until: self.until }];
        timeout(WAIT_MAX, self.log.publish(&facts, rows)).await.unwrap().unwrap().durability
    }

    fn publishing(&self, facts: Vec<Fact>, rows: StoredSessions) -> JoinHandle<Result<Receipt>> {
        let log = self.log.clone();
        tokio::spawn(async move { log.publish(&facts, rows).await })
    }

    /// Breaks the ledger and publishes until the journal has no room. Returns how many facts it has, and the
    /// call that waits without room.
    async fn fill(&self, world: &World) -> (u128, JoinHandle<Result<Receipt>>) {
        world.faults.break_method("append");
        for n in 0..100 {
            let caller = self.publishing(vec![world.fact(of_ann(n))], StoredSessions::Keep);
            eventually("it is answered", || caller.is_finished() || self.log.state().full).await;
            if self.log.state().full {
                return (n, caller);
            }
            assert_eq!(caller.await.unwrap().unwrap().durability, Durability::Journal);
        }
        panic!("the journal is not full")
    }

    /// Aborts all tasks of the node.
    async fn kill(mut self) {
        let runtime = self.runtime.take();
        tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The sink of a node that only reads.
struct NoSink;

#[async_trait]
impl FactSink for NoSink {
    async fn publish(&self, _: &[Fact], _: StoredSessions) -> Result<Receipt> {
        Err(lost())
    }
}

/// The facts that a reader has applied, as (log, sequence number), with repetitions.
#[derive(Default)]
struct Invalidations(Mutex<Vec<(u8, u64)>>);

impl Invalidations {
    /// Removes and returns the facts since the last call.
    fn take(&self) -> Vec<(u8, u64)> {
        std::mem::take(&mut *lock(&self.0))
    }

    /// The sequence numbers of one log.
    fn of(&self, log: u8) -> Vec<u64> {
        lock(&self.0).iter().filter(|(of, _)| *of == log).map(|(_, number)| *number).collect()
    }
}

impl SharedCache for Invalidations {
    fn invalidate(&self, subject: Subject) {
        let Subject::User(user) = subject else { return };
        let encoded = u128::from_be_bytes(*user.as_bytes());
        let log = u8::try_from(encoded >> 64).unwrap();
        let number = u64::try_from(encoded & u128::from(u64::MAX)).unwrap();
        lock(&self.0).push((log, number));
    }

    fn invalidate_all(&self) {}
}

/// The user id of an entry's fact, which encodes the log and the sequence number.
fn encoded(origin: Origin, number: u64) -> u128 {
    (u128::from(origin.node.as_bytes()[0]) << 64) | u128::from(number)
}

const fn log(n: u8) -> Origin {
    Origin { node: NodeId::from_bytes([n; 16]), incarnation: 8 }
}

const fn ended(user: UserId, n: u128) -> FactKind {
    FactKind::SessionRevoked { user, session: SessionId::from_bytes(n.to_be_bytes()) }
}

const fn of_ann(n: u128) -> FactKind {
    ended(ANN, n)
}

fn seq(n: u128) -> u64 {
    u64::try_from(n).unwrap()
}

/// Whether the entries up to `seq` have no gap.
fn is_complete(entries: &[Entry], seq: u64) -> bool {
    let gapless = (1..).zip(entries).take_while(|(number, entry)| entry.seq == *number).count();
    gapless as u64 >= seq
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls until `is_so` holds: there is no notification of it.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(WAIT_MAX, looking).await.is_ok(), "not in time: {what}");
}
