//! What a log promises to who writes it and to who reads it, on an embedded store behind faults.

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

use actors::{Durability, FactSink, Facts, Lifetimes, Receipt, Rows, SharedCache};
use async_trait::async_trait;
use futures_util::future::join_all;
use schema::{
    Clock, Fact, FactKind, NodeId, SessionId, StoreError, Stores, Subject, Timestamp, UserId,
    email::FoldedEmail,
    horizon::manual::{ManualClocks, horizon_at},
    id::KeyId,
    ledger::{Entry, Head, Origin},
    page::{Page, PageOf},
    session::{SecretHash, Session},
    store::{Created, LedgerStore, Replaced, Result, Rotated, Sessions, Users},
    time::CLOCK_SKEW,
    user::User,
};
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    Journal, LedgerReader, LedgerWriter,
    journal::Record,
    writer::{MAX_CONTRADICTIONS, ROWS, Row},
};
use crate::peers::KeptForOthers;

const START: Timestamp = Timestamp::from_secs(2_000_000_000);
const TTL: Duration = Duration::from_secs(15 * 60);
/// Nothing that a test waits for takes longer.
const BOUND: Duration = Duration::from_secs(60);
const LARGE: u64 = 64 * 1024 * 1024;
/// Room for some thirty records.
const SMALL: u64 = 8 * 1024;
const ANN: UserId = UserId::from_bytes([0xa; 16]);
const BOB: UserId = UserId::from_bytes([0xb; 16]);
/// Who reads.
const OWN: Origin = log(100);

/// One store, its faults, and a place for a journal.
struct World {
    directory: TempDir,
    /// Without faults, to look and to prepare.
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

    /// On what the journal has. Its tasks are its own, so that it can be killed.
    fn start_with(&self, incarnation: u64, journal: u64, shared: bool) -> Node {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let origin = Origin { node: NodeId::from_bytes([9; 16]), incarnation };
        let (journal, left) = Journal::open(self.directory.path(), journal).unwrap();
        let entered = runtime.enter();
        let log =
            LedgerWriter::start(self.faulty(), self.clock.clone(), origin, journal, &left, shared).unwrap();
        drop(entered);
        Node { log: Arc::new(log), origin, left, until: self.until(), runtime: Some(runtime) }
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

    /// What the ledger has of a log. Fails when there are gaps.
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

    /// Entries of a log, and then its head, which never goes back.
    async fn put(&self, origin: Origin, numbers: std::ops::RangeInclusive<u64>, head: u64) {
        let entries: Vec<_> = numbers
            .map(|number| {
                let user = UserId::from_bytes(said(origin, number).to_be_bytes());
                let kind = FactKind::PermissionsChanged { subject: Subject::User(user) };
                Entry { origin, seq: number, fact: self.fact(kind) }
            })
            .collect();
        self.stores.ledger.append(&entries, &[Head { origin, seq: head }]).await.unwrap();
    }

    /// Somebody who hears, and remembers what.
    fn listener(&self) -> (Facts, Arc<Heard>) {
        let lifetimes = Lifetimes { access_ttl: TTL, access_horizon: Timestamp::EPOCH };
        let heard = Arc::<Heard>::default();
        let facts = Facts::new(Arc::new(Nowhere), self.clock.clocks(), lifetimes);
        (facts.with_shared_cache(heard.clone()), heard)
    }

    async fn begin(&self, facts: &Facts) -> LedgerReader {
        LedgerReader::begin(&self.faulty(), facts, OWN, None).await.unwrap().0
    }

    async fn go_on(&self, reader: &mut LedgerReader, facts: &Facts) -> usize {
        reader.go_on(&self.faulty(), facts).await.unwrap()
    }
}

/// A log that is written.
struct Node {
    log: Arc<LedgerWriter>,
    origin: Origin,
    /// What it found in the journal.
    left: Vec<Record>,
    until: Timestamp,
    runtime: Option<Runtime>,
}

impl Node {
    async fn publish(&self, kind: FactKind, rows: Rows) -> Durability {
        let facts = [Fact { kind, until: self.until }];
        timeout(BOUND, self.log.publish(&facts, rows)).await.unwrap().unwrap().durability
    }

    fn publishing(&self, facts: Vec<Fact>, rows: Rows) -> JoinHandle<Result<Receipt>> {
        let log = self.log.clone();
        tokio::spawn(async move { log.publish(&facts, rows).await })
    }

    /// Breaks the ledger and publishes until the journal has no room; says how many it has, and gives
    /// who waits without a place.
    async fn fill(&self, world: &World) -> (u128, JoinHandle<Result<Receipt>>) {
        world.faults.break_method("append");
        for n in 0..100 {
            let caller = self.publishing(vec![world.fact(of_ann(n))], Rows::Keep);
            eventually("it has an answer", || caller.is_finished() || self.log.state().full).await;
            if self.log.state().full {
                return (n, caller);
            }
            assert_eq!(caller.await.unwrap().unwrap().durability, Durability::Journal);
        }
        panic!("the journal is not full")
    }

    /// Ends all of its tasks where they are.
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

/// What becomes of a call.
enum Turn {
    /// It happens.
    Go,
    /// Nothing happens, and nobody knows.
    Fail,
    /// It happens, and nobody knows.
    Lose,
    /// So many entries are written, and nobody knows.
    Tear(usize),
    /// The same, and there is no answer before it is released.
    TearAndHold(usize, Hold),
    /// It happens when it is released.
    HoldCall(Hold),
    /// It happens, and the answer comes when it is released.
    HoldAnswer(Hold),
    /// What is stored contradicts itself.
    Contradict,
}

/// Calls that wait until they are released.
#[derive(Clone, Default)]
struct Hold(Arc<(watch::Sender<usize>, watch::Sender<bool>)>);

impl Hold {
    async fn reached(&self, calls: usize) {
        let mut reached = self.0.0.subscribe();
        timeout(BOUND, reached.wait_for(|reached| *reached >= calls)).await.unwrap().unwrap();
    }

    fn release(&self) {
        self.0.1.send_replace(true);
    }

    async fn pass(&self) {
        self.0.0.send_modify(|reached| *reached += 1);
        self.0.1.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

/// What becomes of calls, and what they were.
#[derive(Default)]
struct Faults {
    turns: Mutex<HashMap<&'static str, VecDeque<Turn>>>,
    calls: Mutex<HashMap<&'static str, usize>>,
    broken: Mutex<HashSet<&'static str>>,
    broken_rows: Mutex<HashSet<UserId>>,
    broken_logs: Mutex<HashSet<Origin>>,
    /// Logs whose heads are not shown.
    hidden: Mutex<HashSet<Origin>>,
    /// Whether an append is many writes, entries first.
    piecewise: AtomicBool,
    appended: Mutex<Vec<(Vec<Entry>, Vec<Head>)>>,
    /// Heads that were to move beyond the entries.
    ahead: Mutex<Vec<Head>>,
    /// Whose rows were asked about, in order.
    rows_of: Mutex<Vec<UserId>>,
    /// Which logs were read from where.
    read: Mutex<Vec<(Origin, u64)>>,
}

impl Faults {
    fn next(&self, method: &'static str, turn: Turn) {
        lock(&self.turns).entry(method).or_default().push_back(turn);
    }

    /// From now on it fails.
    fn break_method(&self, method: &'static str) {
        lock(&self.broken).insert(method);
    }

    fn break_rows_of(&self, user: UserId) {
        lock(&self.broken_rows).insert(user);
    }

    fn break_log(&self, origin: Origin) {
        lock(&self.broken_logs).insert(origin);
    }

    /// All works again.
    fn mend(&self) {
        lock(&self.broken).clear();
        lock(&self.broken_rows).clear();
        lock(&self.broken_logs).clear();
        lock(&self.hidden).clear();
    }

    fn calls(&self, method: &'static str) -> usize {
        lock(&self.calls).get(method).copied().unwrap_or(0)
    }

    fn appended(&self) -> Vec<(Vec<Entry>, Vec<Head>)> {
        lock(&self.appended).clone()
    }

    fn turn(&self, method: &'static str) -> Turn {
        *lock(&self.calls).entry(method).or_default() += 1;
        if lock(&self.broken).contains(method) {
            return Turn::Fail;
        }
        lock(&self.turns).get_mut(method).and_then(VecDeque::pop_front).unwrap_or(Turn::Go)
    }

    /// A call about the rows of a user.
    async fn rows<T>(
        &self,
        method: &'static str,
        user: UserId,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let turn = self.turn(method);
        lock(&self.rows_of).push(user);
        if lock(&self.broken_rows).contains(&user) {
            return Err(lost());
        }
        match turn {
            Turn::Go => call.await,
            Turn::Lose => call.await.and(Err(lost())),
            Turn::HoldCall(hold) => {
                hold.pass().await;
                call.await
            }
            Turn::HoldAnswer(hold) => {
                let answer = call.await;
                hold.pass().await;
                answer
            }
            Turn::Contradict => Err(StoreError::Inconsistent("as the test asked".into())),
            Turn::Fail | Turn::Tear(_) | Turn::TearAndHold(..) => Err(lost()),
        }
    }
}

fn lost() -> StoreError {
    StoreError::unavailable_because("as the test asked")
}

struct Faulty {
    inner: Stores,
    faults: Arc<Faults>,
}

impl Faulty {
    async fn put(&self, entries: &[Entry], heads: &[Head]) -> Result<()> {
        let ledger = &self.inner.ledger;
        if !self.faults.piecewise.load(Ordering::SeqCst) {
            return ledger.append(entries, heads).await;
        }
        for entry in entries {
            ledger.append(&[*entry], &[]).await?;
        }
        for head in heads {
            if !is_complete(&ledger.entries(head.origin, 0, usize::MAX).await?, head.seq) {
                lock(&self.faults.ahead).push(*head);
            }
            ledger.append(&[], &[*head]).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl LedgerStore for Faulty {
    async fn append(&self, entries: &[Entry], heads: &[Head]) -> Result<()> {
        let turn = self.faults.turn("append");
        lock(&self.faults.appended).push((entries.to_vec(), heads.to_vec()));
        match turn {
            Turn::Go => self.put(entries, heads).await,
            Turn::Fail | Turn::Contradict => Err(lost()),
            Turn::Lose => self.put(entries, heads).await.and(Err(lost())),
            Turn::Tear(most) => self.put(&entries[..most.min(entries.len())], &[]).await.and(Err(lost())),
            Turn::TearAndHold(most, hold) => {
                self.put(&entries[..most.min(entries.len())], &[]).await?;
                hold.pass().await;
                Err(lost())
            }
            Turn::HoldCall(hold) => {
                hold.pass().await;
                self.put(entries, heads).await
            }
            Turn::HoldAnswer(hold) => {
                let answer = self.put(entries, heads).await;
                hold.pass().await;
                answer
            }
        }
    }

    async fn heads(&self) -> Result<Vec<Head>> {
        if matches!(self.faults.turn("heads"), Turn::Fail) {
            return Err(lost());
        }
        let mut heads = self.inner.ledger.heads().await?;
        heads.retain(|head| !lock(&self.faults.hidden).contains(&head.origin));
        Ok(heads)
    }

    async fn entries(&self, origin: Origin, after: u64, limit: usize) -> Result<Vec<Entry>> {
        lock(&self.faults.read).push((origin, after));
        if lock(&self.faults.broken_logs).contains(&origin) {
            return Err(lost());
        }
        self.inner.ledger.entries(origin, after, limit).await
    }
}

macro_rules! behind_faults {
    ($noun:ident: $store:ident { $($verb:ident($($name:ident: $kind:ty),*) of $user:expr => $answer:ty;)* }) => {
        #[async_trait]
        impl $store for Faulty {
            $(async fn $verb(&self, $($name: $kind),*) -> Result<$answer> {
                let user: UserId = $user;
                self.faults.rows(stringify!($verb), user, self.inner.$noun.$verb($($name),*)).await
            })*
        }
    };
}

behind_faults!(sessions: Sessions {
    open(session: &Session, max: usize) of session.user => Vec<SessionId>;
    get(user: UserId, id: SessionId) of user => Option<Session>;
    latest(user: UserId, id: SessionId) of user => Option<Session>;
    rotate(previous: &Session, next: &Session) of next.user => Rotated;
    end(user: UserId, id: SessionId) of user => bool;
    end_older(user: UserId, version: u64) of user => ();
    list(user: UserId, page: PageOf<SessionId>) of user => Page<Session, SessionId>;
    ids(user: UserId) of user => Vec<SessionId>;
});

behind_faults!(users: Users {
    create(user: &User) of user.id => Created;
    get(id: UserId) of id => Option<User>;
    by_email(email: &FoldedEmail) of UserId::from_bytes([0; 16]) => Option<User>;
    replace(next: &User) of next.id => Replaced;
    delete(id: UserId) of id => ();
    list(page: PageOf<UserId>) of UserId::from_bytes([0; 16]) => Page<User, UserId>;
});

/// Who only listens publishes nothing.
struct Nowhere;

#[async_trait]
impl FactSink for Nowhere {
    async fn publish(&self, _: &[Fact], _: Rows) -> Result<Receipt> {
        Err(lost())
    }
}

/// Every fact that was heard, each time.
#[derive(Default)]
struct Heard(Mutex<Vec<(u8, u64)>>);

impl Heard {
    /// Since this was asked last.
    fn take(&self) -> Vec<(u8, u64)> {
        std::mem::take(&mut *lock(&self.0))
    }

    /// Of one log.
    fn of(&self, log: u8) -> Vec<u64> {
        lock(&self.0).iter().filter(|(of, _)| *of == log).map(|(_, number)| *number).collect()
    }
}

impl SharedCache for Heard {
    fn invalidate(&self, subject: Subject) {
        let Subject::User(user) = subject else { return };
        let said = u128::from_be_bytes(*user.as_bytes());
        let (log, number) = (u8::try_from(said >> 64).unwrap(), said & u128::from(u64::MAX));
        lock(&self.0).push((log, u64::try_from(number).unwrap()));
    }

    fn forget_everything(&self) {}
}

/// The log and the number, as the user of whom an entry speaks.
fn said(origin: Origin, number: u64) -> u128 {
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

/// Whether all up to there are there.
fn is_complete(entries: &[Entry], seq: u64) -> bool {
    let gapless = (1..).zip(entries).take_while(|(number, entry)| entry.seq == *number).count();
    gapless as u64 >= seq
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks again and again: what is waited for says nothing when it happens.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(BOUND, looking).await.is_ok(), "not in time: {what}");
}
