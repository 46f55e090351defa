//! What a node is made of, and the order in which it comes up.
//!
//! First everything that needs no answer from a store: settings, data directory, who this node is,
//! what its journal holds, actors. Then it *comes up*: keys, and what has been taken away. Until it has
//! come up it decides nothing: every question about tokens and permissions is answered 503. With an
//! embedded store this is over before anything is served; with a database that is down it may take a
//! while, and the node says so.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::cluster::{Cluster, boottime};
use actors::{
    Actors, Context, FactSink, Facts, Lifetimes, SharedCache, session::RefreshPolicy, superusers::PowerLock,
};
use cache_redis::{Cache, CachedGrants, RedisCounters};
use schema::{
    Clock, Clocks, Entropy, Stores, Subject, Timestamp,
    horizon::SteadyClock,
    key::KeySet,
    limit::Counters,
    store::{GrantsStore, StoreError},
    time::CLOCK_SKEW,
    token::Expected,
};
use store_redb::OpenError;
use tokio::sync::Notify;

use crate::{
    budget::Budget,
    clock::{BootClock, ClockFile, SystemClock, SystemEntropy, boot_id},
    data_dir::{DataDir, DataDirError, Identity},
    freshness::Freshness,
    http::{queries::Queries, routes},
    keys::{self, KeyError, KeyRing, MasterKey, SealError},
    ledger::{Journal, LedgerReader, LedgerWriter, journal::Record},
    limits::{Limits, LocalCounters, Rates},
    metrics::Metrics,
    occasional::Warnings,
    passwords::PasswordPool,
    peers::{self, JoinError, KeptForOthers},
    settings::Settings,
    store::Backing,
    tokens::{self, Tokens, TokensContext},
};

/// How long a key is published before it signs, where other nodes have to know it.
const PUBLISHED: Duration = Duration::from_secs(15);
/// How long a newcomer waits for peers that it gets nothing from. What it lacks then comes from the ledger.
const CATCH_UP: Duration = Duration::from_secs(10);
/// What users may do is believed to Redis for so long at most.
const MAX_CACHE_AGE: Duration = Duration::from_secs(600);

/// Everything that handlers and operators work with.
#[allow(missing_docs, reason = "each field is the thing of its name")]
pub struct App {
    pub settings: Settings,
    pub data_dir: DataDir,
    pub identity: Identity,
    pub stores: Stores,
    pub backing: Backing,
    pub cache: Option<Cache>,
    pub log: Arc<LedgerWriter>,
    pub others: Arc<KeptForOthers>,
    pub facts: Arc<Facts>,
    pub actors: Actors,
    pub ring: Arc<KeyRing>,
    pub master: Arc<MasterKey>,
    pub tokens: Tokens,
    pub passwords: PasswordPool,
    pub limits: Limits,
    /// The memory of requests.
    pub bodies: Arc<Budget>,
    pub metrics: Metrics,
    pub warnings: Warnings,
    pub queries: Queries,
    /// The wall clock: by it tokens expire.
    pub clock: Arc<dyn Clock>,
    /// The wall clock and boot time: by both of them things are forgotten.
    pub clocks: Arc<Clocks>,
    pub clock_file: Arc<ClockFile>,
    pub entropy: Arc<dyn Entropy>,
    pub started_at: Timestamp,
    /// How often this node has looked for what has ended.
    pub upkeep_rounds: AtomicU64,
    /// Since when this node may not know everything that was taken away.
    pub freshness: Arc<Freshness>,
    /// Wakes who reads the keys.
    pub keys_changed: Arc<Notify>,
    /// To be told to end, as by a signal.
    pub end: Notify,
    peers: OnceLock<Arc<Cluster>>,
    /// What a former life left in the journal.
    pub(crate) left: Vec<Record>,
    /// When the ledger was last read to its end, in ms; 0 before.
    ledger_read_at: AtomicU64,
    draining: AtomicBool,
    /// Another node goes by this one's name.
    superseded: AtomicBool,
}

/// What an [`App`] is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To serve: keys and lifetimes become what the settings say.
    Serve,
    /// For one command beside no node: they stay as the last node left them.
    Operate,
}

/// Why a node does not come up. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant is the error of its name")]
pub enum StartError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Tokens(#[from] tokens::StartError),
    #[error(
        "the journal in the data directory cannot be opened: {0}; when the disk is full, make room or set PALISADE_JOURNAL_SIZE to less"
    )]
    Journal(io::Error),
    #[error("PALISADE_REDIS: {0}")]
    Redis(#[from] cache_redis::OpenError),
    #[error("the database of PALISADE_STORE cannot be used: {0}")]
    NoDatabase(String),
    #[error("a thread does not start: {0}")]
    Thread(#[from] io::Error),
    #[error("{0}")]
    Join(#[from] JoinError),
    #[error("the actors do not start: {0}")]
    Actors(#[from] ractor::SpawnErr),
}

impl App {
    /// Makes a node, which serves nothing yet and is still to [come up](Self::come_up).
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub async fn start(settings: Settings) -> Result<Arc<Self>, StartError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let data_dir = DataDir::open(&settings.data_dir)?;
        let (clock_file, saved) = ClockFile::open(&data_dir)?;
        let clocks = Clocks::new(clock.clone(), Arc::new(BootClock), &boot_id(), saved);
        let (clocks, clock_file) = (Arc::new(clocks), Arc::new(clock_file));
        let steady: Arc<dyn Clock> = Arc::new(SteadyClock(clocks.clone()));
        let (stores, backing) = Backing::open(&settings, &data_dir, &clocks, &entropy).await?;
        let identity = data_dir.identity(settings.node_name.as_deref(), &*clock, &*entropy)?;
        let master = Arc::new(MasterKey::new(match &settings.master_key {
            Some(key) => key.clone(),
            None => data_dir.master_key(&*entropy, stores.keys.load().await?.revision == 0)?,
        }));

        let (journal, left) =
            Journal::open(data_dir.path(), settings.journal_size).map_err(StartError::Journal)?;
        let shared = backing.is_shared();
        let log =
            LedgerWriter::start(stores.clone(), steady.clone(), identity.origin(), journal, &left, shared)?;
        let log = Arc::new(log);
        let lifetimes = Lifetimes { access_ttl: settings.access_ttl, access_horizon: Timestamp::EPOCH };
        let facts = Facts::new(log.clone() as Arc<dyn FactSink>, clocks.clone(), lifetimes);
        let (cache, grants) = shared_cache(&settings, &stores, &master, &steady)?;
        let facts = Arc::new(match &grants {
            Some(grants) => facts.with_shared_cache(Arc::new(Heard(grants.clone()))),
            None => facts,
        });
        left.iter().for_each(|record| facts.hear(&record.entry.fact));

        let context = Context {
            stores: stores.clone(),
            facts: facts.clone(),
            clock: clocks.clone(),
            entropy: entropy.clone(),
            refresh: RefreshPolicy { ttl: settings.refresh_ttl, grace: settings.refresh_grace },
            power: PowerLock::default(),
        };
        let grants = grants.map_or(stores.grants.clone(), |grants| grants as Arc<dyn GrantsStore>);
        let actors = Actors::start_reading(context, grants).await?;
        let ring = Arc::new(KeyRing::default());
        let freshness = Freshness::new(shared, settings.max_staleness, settings.stale_policy);
        let freshness = Arc::new(freshness);
        let tokens = Tokens::new(TokensContext {
            freshness: freshness.clone(),
            expected: Expected { issuer: settings.issuer.clone(), audience: settings.audience.clone() },
            access_ttl: settings.access_ttl,
            ring: ring.clone(),
            master: master.clone(),
            stores: stores.clone(),
            denials: facts.denials().clone(),
            clock: clock.clone(),
            clocks: clocks.clone(),
            clock_file: clock_file.clone(),
            entropy: entropy.clone(),
        })?;
        let counters: Arc<dyn Counters> = Arc::new(LocalCounters::default());
        let counters = match &cache {
            Some(cache) => Arc::new(RedisCounters::new(cache.clone(), counters)),
            None => counters,
        };
        let rates = Rates {
            account: settings.login_account_failures,
            address: settings.login_address_failures,
            registration: settings.registration_rate,
        };
        let limits = Limits::new(counters, stores.logins.clone(), steady, clock.clone(), rates);
        Ok(Arc::new(Self {
            passwords: PasswordPool::start(&entropy)?,
            bodies: Budget::new(usize::try_from(settings.body_budget).unwrap_or(usize::MAX)),
            metrics: Metrics::new(routes()),
            warnings: Warnings::default(),
            queries: Queries::default(),
            started_at: clock.now(),
            upkeep_rounds: AtomicU64::new(0),
            freshness,
            keys_changed: Arc::default(),
            end: Notify::new(),
            peers: OnceLock::new(),
            left,
            ledger_read_at: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            superseded: AtomicBool::new(false),
            settings,
            data_dir,
            identity,
            stores,
            backing,
            cache,
            others: Arc::new(KeptForOthers::new(log.clone())),
            log,
            facts,
            actors,
            ring,
            master,
            tokens,
            limits,
            clock,
            clocks,
            clock_file,
            entropy,
        }))
    }

    /// Joins the cluster, if there is to be one: from now on it hears and tells, though it decides nothing
    /// yet. To be called once, before it comes up.
    ///
    /// # Errors
    /// When the addresses cannot be used.
    pub async fn join(&self) -> Result<(), StartError> {
        let Some(settings) = &self.settings.cluster else { return Ok(()) };
        let cluster = peers::join(self, settings).await?;
        self.log.push_to(cluster.clone());
        let _ = self.peers.set(cluster);
        Ok(())
    }

    /// The other nodes, when there may be some.
    #[must_use]
    pub fn peers(&self) -> Option<&Arc<Cluster>> {
        self.peers.get()
    }

    /// Reads the keys, and everything that has been taken away. After this the node decides.
    ///
    /// # Errors
    /// `Store`, when the store does not answer: to be called again. Anything else is final.
    pub async fn come_up(&self, purpose: Purpose) -> Result<LedgerReader, StartError> {
        let (algorithm, access_ttl) = (self.settings.signing_algorithm, self.settings.access_ttl);
        let set = match purpose {
            Purpose::Serve => keys::ensure(self.key_tools(), algorithm, access_ttl).await,
            Purpose::Operate => keys::stored(self.key_tools(), algorithm, access_ttl).await,
        };
        let set = set.map_err(not_final)?;
        let (began, at) = (self.clock.now(), boottime());
        let origin = self.identity.origin();
        // Before it decides anything: a former life that still runs learns of it.
        if purpose == Purpose::Serve {
            self.stores.ledger.begin_life(origin).await?;
        }
        // Peers first: they are faster, and what they have need not be read.
        if let Some(peers) = self.peers()
            && !peers.catch_up(CATCH_UP).await
        {
            tracing::warn!(
                "not everybody who lives could be reached: what they take away comes by the ledger"
            );
        }
        let peers = self.peers().cloned();
        let (reader, count) = LedgerReader::begin(&self.stores, &self.facts, origin, peers).await?;
        // Last: with keys in the ring it decides.
        self.take_in(&set).map_err(not_final)?;
        self.ledger_was_read(began, at);
        let Identity { name, incarnation, .. } = &self.identity;
        tracing::info!(node = name, incarnation, facts = count, "the ledger is read");
        Ok(reader)
    }

    /// Takes a key set in, unless a newer one is known.
    ///
    /// # Errors
    /// When the master key is another one.
    pub fn take_in(&self, set: &KeySet) -> Result<(), KeyError> {
        self.ring.replace(set, &self.master, self.facts.denials())?;
        // While nodes have different settings, tokens live as the shorter one says, and revocations are
        // remembered as the longer one says.
        let own = self.settings.access_ttl;
        self.tokens.set_access_ttl(own.min(set.access_ttl));
        self.facts.set_lifetimes(Lifetimes {
            access_ttl: own.max(set.access_ttl),
            access_horizon: set.access_horizon,
        });
        Ok(())
    }

    /// Everything that was in the ledger at this time, by both clocks, has been applied.
    pub fn ledger_was_read(&self, wall: Timestamp, at: Duration) {
        self.knew_everything(at);
        if let Some(peers) = self.peers() {
            peers.ledger_was_read(at);
        }
        self.ledger_read_at.store(wall.as_millis(), Ordering::Release);
    }

    /// Everything that was taken away before this time is known here. After a gap in which facts may have
    /// been made and forgotten again, what rests on having heard them all is read anew.
    pub fn knew_everything(&self, at: Duration) {
        let gap = self.freshness.knew_everything(at);
        if gap >= self.facts.lifetimes().access_ttl + CLOCK_SKEW / 2 {
            tracing::warn!("nothing was heard from others for long: what users may do is read anew");
            self.facts.may_have_missed_some();
        }
    }

    /// When the ledger was last read to its end; `None` before the node has come up. On a store that
    /// nobody else writes to, that is once.
    #[must_use]
    pub fn ledger_read_at(&self) -> Option<Timestamp> {
        Some(Timestamp::from_millis(self.ledger_read_at.load(Ordering::Acquire)))
            .filter(|at| *at > Timestamp::EPOCH)
    }

    /// Whether the node has come up: it knows the keys and what has been taken away.
    #[must_use]
    pub fn is_informed(&self) -> bool {
        self.ledger_read_at.load(Ordering::Acquire) > 0 && !self.superseded.load(Ordering::Acquire)
    }

    /// Another node with this one's identity is alive, as the store knows, and others take it for this one:
    /// what they take away is not told here any more. So this one decides nothing from now on, and ends.
    pub fn step_down(&self) {
        if !self.superseded.swap(true, Ordering::AcqRel) {
            tracing::error!("another node runs with a copy of this data directory: this one ends");
            self.end.notify_one();
        }
    }

    /// Whether the node is about to end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// From now on the node takes no new traffic.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// What changes of keys work with.
    #[must_use]
    pub fn key_tools(&self) -> keys::Tools<'_> {
        keys::Tools {
            stores: &self.stores,
            master: &self.master,
            clock: &*self.clock,
            entropy: &*self.entropy,
            horizon: self.clocks.horizon(),
            latest_expiry: self.clocks.high_water().latest_expiry(),
            // Other nodes read the keys of a shared store from time to time.
            published: if self.backing.is_shared() { PUBLISHED } else { Duration::ZERO },
        }
    }
}

/// A store that does not answer may do so later.
fn not_final(error: KeyError) -> StartError {
    match error {
        KeyError::Store(error) => StartError::Store(error),
        other => StartError::Keys(other),
    }
}

/// The cache of grants hears what is heard here.
struct Heard(Arc<CachedGrants>);

impl SharedCache for Heard {
    fn invalidate(&self, subject: Subject) {
        self.0.invalidate(subject);
    }

    fn forget_everything(&self) {
        self.0.forget_everything();
    }
}

type MaybeCached = (Option<Cache>, Option<Arc<CachedGrants>>);

fn shared_cache(
    settings: &Settings,
    stores: &Stores,
    master: &MasterKey,
    clock: &Arc<dyn Clock>,
) -> Result<MaybeCached, StartError> {
    let Some(url) = &settings.redis else { return Ok((None, None)) };
    let secret = master.derive("shared cache")?;
    // Clusters that share a Redis have other secrets, and so other keys.
    let cache = Cache::open(url, "palisade", secret.as_slice(), clock.clone())?;
    // An entry is believed as long as the fact that would make it old is remembered.
    let max_age = MAX_CACHE_AGE.min(settings.access_ttl);
    let grants = CachedGrants::new(stores.grants.clone(), cache.clone(), max_age);
    Ok((Some(cache), Some(Arc::new(grants))))
}
