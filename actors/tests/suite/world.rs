//! A node's actors on a store of their own, and all that surrounds them in the hands of the test.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use actors::superusers::PowerLock;
use actors::{
    Actors, Context, Durability, FactSink, Facts, Lifetimes, Receipt, Rows, end_rows, session::RefreshPolicy,
};
use async_trait::async_trait;
use schema::{
    Entropy, Fact, FactKind, SessionId, Stores, Timestamp, UserId,
    conformance::sample::Samples,
    horizon::manual::ManualClocks,
    id::{KeyId, TokenId},
    store::Result as StoreResult,
    token::AccessClaims,
    user::User,
};
use tempfile::TempDir;

use crate::faults::{Faults, faulty, lock};

/// When the tests begin.
pub const START: Timestamp = Timestamp::from_secs(2_000_000_000);
pub const ACCESS_TTL: Duration = Duration::from_secs(15 * 60);
pub const REFRESH: RefreshPolicy =
    RefreshPolicy { ttl: Duration::from_secs(30 * 24 * 3600), grace: Duration::from_secs(10) };
/// Nothing that a test waits for takes longer.
const BOUND: Duration = Duration::from_secs(20);

/// One store, and what runs on it.
pub struct World {
    /// The store without faults, to look and to prepare.
    pub stores: Stores,
    pub faults: Arc<Faults>,
    pub clock: Arc<ManualClocks>,
    pub sink: Arc<Sink>,
    pub samples: Samples,
    pub node: Node,
    _directory: TempDir,
}

/// The actors of a node, and what it has heard.
pub struct Node {
    pub actors: Actors,
    pub facts: Arc<Facts>,
}

impl World {
    pub async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let stores = store_redb::open(&directory.path().join("store.redb")).await.unwrap().stores;
        let faults = Arc::<Faults>::default();
        let clock = ManualClocks::at(START);
        let sink = Arc::new(Sink::new(faulty(&stores, &faults), faults.clone()));
        let node = node(&stores, &faults, &clock, &sink).await;
        Self { stores, faults, clock, sink, samples: Samples::at(START), node, _directory: directory }
    }

    /// One more node on the same store. What it hears is the test's to tell.
    pub async fn another_node(&self) -> Node {
        node(&self.stores, &self.faults, &self.clock, &self.sink).await
    }

    pub async fn user(&self) -> User {
        self.samples.stored_user(&self.stores).await
    }

    /// The user as it is stored.
    pub async fn stored(&self, user: UserId) -> User {
        self.stores.users.get(user).await.unwrap().unwrap()
    }

    pub async fn has_row(&self, user: UserId, session: SessionId) -> bool {
        self.stores.sessions.get(user, session).await.unwrap().is_some()
    }
}

impl std::ops::Deref for World {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}

async fn node(stores: &Stores, faults: &Arc<Faults>, clock: &Arc<ManualClocks>, sink: &Arc<Sink>) -> Node {
    let lifetimes = Lifetimes { access_ttl: ACCESS_TTL, access_horizon: Timestamp::EPOCH };
    let clocks = clock.clocks();
    let facts = Arc::new(Facts::new(sink.clone(), clocks.clone(), lifetimes));
    let context = Context {
        stores: faulty(stores, faults),
        facts: facts.clone(),
        clock: clocks,
        entropy: Arc::new(Seeded(AtomicU64::new(1))),
        refresh: REFRESH,
        power: PowerLock::default(),
    };
    Node { actors: Actors::start(context).await.unwrap(), facts }
}

impl Node {
    /// Whether an access token with this version of the user is refused.
    pub fn refuses(&self, user: UserId, session: SessionId, version: u64) -> bool {
        self.facts.denials().refuses(&AccessClaims {
            user,
            session,
            token: TokenId::from_bytes([9; 16]),
            key: KeyId::from_bytes([9; 16]),
            version,
            issued_at: 0,
            expires_at: u64::MAX,
            is_access: true,
        })
    }

    /// Whether the user has the permission, as the cache says.
    pub async fn may(&self, user: UserId, permission: &str) -> bool {
        self.actors.permissions.with(user, |snapshot| snapshot.has(permission)).await.unwrap()
    }

    pub fn hear_all(&self, facts: &[Fact]) {
        facts.iter().for_each(|fact| self.facts.hear(fact));
    }
}

/// Counts; what it gives differs each time and is the same in each run.
struct Seeded(AtomicU64);

impl Entropy for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let n = self.0.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            chunk.copy_from_slice(&n.to_be_bytes()[..chunk.len()]);
        }
    }
}

/// Does what a node's own does, without a disk and peers: keeps the facts that were published, ends
/// rows in the store, and remembers those that could not be ended. Fails and waits as `sink.publish`.
pub struct Sink {
    stores: Stores,
    faults: Arc<Faults>,
    published: Mutex<Vec<Fact>>,
    left: Mutex<Vec<FactKind>>,
}

impl Sink {
    fn new(stores: Stores, faults: Arc<Faults>) -> Self {
        Self { stores, faults, published: Mutex::default(), left: Mutex::default() }
    }

    /// In the order of publishing.
    pub fn published(&self) -> Vec<Fact> {
        lock(&self.published).clone()
    }

    pub fn has(&self, kind: FactKind) -> bool {
        self.times(kind) > 0
    }

    pub fn times(&self, kind: FactKind) -> usize {
        lock(&self.published).iter().filter(|fact| fact.kind == kind).count()
    }

    /// Tries again to end the rows that are left; says how many are left still.
    pub async fn catch_up(&self) -> usize {
        let kinds = std::mem::take(&mut *lock(&self.left));
        self.end(kinds).await
    }

    /// Says how many are left.
    async fn end(&self, kinds: impl IntoIterator<Item = FactKind>) -> usize {
        let mut left = Vec::new();
        for kind in kinds {
            if end_rows(&self.stores, &kind).await.is_err() {
                left.push(kind);
            }
        }
        lock(&self.left).extend_from_slice(&left);
        left.len()
    }
}

#[async_trait]
impl FactSink for Sink {
    async fn publish(&self, facts: &[Fact], rows: Rows) -> StoreResult<Receipt> {
        let publish = async {
            lock(&self.published).extend_from_slice(facts);
            let ends = facts.iter().filter(|_| rows == Rows::End);
            let left = self.end(ends.map(|fact| fact.kind).collect::<Vec<_>>()).await;
            let durability = if left == 0 { Durability::Store } else { Durability::Journal };
            Ok(Receipt { visible: 0, live: 0, durability })
        };
        self.faults.around("sink.publish", publish).await
    }
}

/// Awaits what must come to an end.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(BOUND, future).await {
        Ok(done) => done,
        Err(_) => panic!("not within {BOUND:?}: {what}"),
    }
}

/// Looks until it is so.
pub async fn eventually(what: &str, look: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !look().await {
        assert!(start.elapsed() < BOUND, "not within {BOUND:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Begins a call and drops it when it waits at a hold.
pub async fn abandoned<T>(call: impl Future<Output = T>, hold: &crate::faults::Hold) {
    let abandon = async {
        tokio::select! {
            _ = call => panic!("the call ended before it was abandoned"),
            () = hold.reached(1) => {}
        }
    };
    within("a call that waits", abandon).await;
}
