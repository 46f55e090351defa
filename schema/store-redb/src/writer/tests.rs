//! The writer over a disk that a test can make fail, with jobs that fail.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redb::{Builder, Database, StorageBackend, backends::InMemoryBackend};
use schema::{Timestamp, UserId, horizon::manual::horizon_at};
use store::{Result, StoreError};

use crate::{
    database::File,
    error::OpenError,
    migration::{STEPS, migrate},
    rows::{Change, Rows, Span},
    stats::Stats,
    store::Store,
    table::SESSION_COUNTS,
    writer::QUEUE_MAX,
};

/// Bytes that outlive the database, and a switch that makes every write fail.
#[derive(Debug, Clone)]
struct Disk {
    bytes: Arc<InMemoryBackend>,
    is_full: Arc<AtomicBool>,
}

impl Disk {
    fn written(&self) -> io::Result<()> {
        if self.is_full.load(SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.bytes.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.written()?;
        self.bytes.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.written()?;
        self.bytes.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.written()?;
        self.bytes.write(offset, data)
    }
}

struct Fixture {
    disk: Disk,
    stats: Arc<Stats>,
    store: Arc<Store>,
}

fn open(disk: &Disk) -> std::result::Result<Database, OpenError> {
    let full = |error: redb::DatabaseError| OpenError::Io {
        path: "disk".into(),
        source: io::Error::other(error.to_string()),
    };
    Builder::new().create_with_backend(disk.clone()).map_err(full)
}

fn fixture() -> Fixture {
    let disk = Disk { bytes: Arc::new(InMemoryBackend::new()), is_full: Arc::default() };
    let database = open(&disk).unwrap();
    migrate(&database, STEPS).unwrap();
    let again = disk.clone();
    let file = File::new(database, move || open(&again));
    let stats = Arc::new(Stats::default());
    let store = Arc::new(Store::start(file, Arc::clone(&stats)).unwrap());
    Fixture { disk, stats, store }
}

/// Writes one row per number.
fn key(n: u8) -> UserId {
    UserId::from_bytes([n; 16])
}

fn put(change: &Change<'_>, n: u8) -> Result<()> {
    change.put(&SESSION_COUNTS, &key(n), &usize::from(n))
}

impl Fixture {
    async fn put(&self, n: u8) -> Result<()> {
        self.store.change(move |change| put(change, n)).await
    }

    async fn stored(&self) -> Result<Vec<usize>> {
        let rows = self.store.read(|rows| rows.scan(&SESSION_COUNTS, &Span::all(), usize::MAX)).await?;
        Ok(rows.into_iter().map(|(_, n)| n).collect())
    }

    /// Keeps the writer busy until the sender is dropped. Returns when the writer has begun.
    async fn hold(&self) -> (mpsc::Sender<()>, tokio::task::JoinHandle<Result<()>>) {
        let (release, held) = mpsc::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let store = Arc::clone(&self.store);
        let (held, begun) = (std::sync::Mutex::new(held), std::sync::Mutex::new(Some(begun)));
        let holding = tokio::spawn(async move {
            store
                .change(move |_| {
                    if let Some(begun) = begun.lock().unwrap().take() {
                        begun.send(()).unwrap();
                    }
                    let _ = held.lock().unwrap().recv();
                    Ok(())
                })
                .await
        });
        begins.await.unwrap();
        (release, holding)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_changes_share_a_commit() {
    let fixture = fixture();
    let (release, holding) = fixture.hold().await;
    let waiting = async { futures_util::future::join_all((1..=100).map(|n| fixture.put(n))).await };
    let (stored, ()) = tokio::join!(waiting, async { drop(release) });
    assert!(stored.iter().all(Result::is_ok));
    holding.await.unwrap().unwrap();
    assert_eq!((fixture.stats.commits(), fixture.stats.changes()), (1, 100));
    assert_eq!(fixture.stored().await.unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn change_without_a_write_commits_nothing() {
    let fixture = fixture();
    let found = fixture.store.change(|change| change.get(&SESSION_COUNTS, &key(1))).await.unwrap();
    assert_eq!(found, None);
    fixture.store.change(|change| change.remove(&SESSION_COUNTS, &key(1))).await.unwrap();
    assert_eq!(fixture.stats.commits(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn job_that_panics_or_fails_does_not_affect_others() {
    let fixture = fixture();
    let (release, holding) = fixture.hold().await;
    let panics = fixture.store.change(|change| {
        put(change, 50)?;
        if change.wrote() {
            panic!("on purpose");
        }
        Ok(())
    });
    let fails_late = fixture.store.change(|change| {
        put(change, 51)?;
        Err::<(), _>(StoreError::Inconsistent("late".into()))
    });
    let fails_early = fixture.store.change(|_| Err::<(), _>(StoreError::Inconsistent("early".into())));
    let waiting = async {
        tokio::join!(
            fixture.put(1),
            panics,
            fixture.put(2),
            fails_late,
            fixture.put(3),
            fails_early,
            fixture.put(4)
        )
    };
    let (answers, ()) = tokio::join!(waiting, async { drop(release) });
    holding.await.unwrap().unwrap();
    let (one, panicked, two, late, three, early, four) = answers;
    for good in [one, two, three, four] {
        good.unwrap();
    }
    for (bad, text) in [(panicked, "on purpose"), (late, "late"), (early, "early")] {
        let error = bad.unwrap_err();
        assert!(matches!(&error, StoreError::Inconsistent(why) if why.contains(text)), "{error}");
    }
    assert_eq!(fixture.stored().await.unwrap(), [1, 2, 3, 4]);
    assert_eq!((fixture.stats.commits(), fixture.stats.changes()), (1, 4));
    fixture.put(5).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn read_that_panics_returns_an_error() {
    let fixture = fixture();
    let read: Result<()> = fixture.store.read(|_| panic!("on purpose")).await;
    assert!(matches!(read, Err(StoreError::Inconsistent(_))), "{read:?}");
    assert_eq!(fixture.stored().await.unwrap(), [0_usize; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn store_recovers_from_a_full_disk_without_loss() {
    let fixture = fixture();
    fixture.put(1).await.unwrap();
    fixture.disk.is_full.store(true, SeqCst);
    let answers = futures_util::future::join_all((2..=9).map(|n| fixture.put(n))).await;
    for answer in answers {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
    assert!(fixture.put(10).await.is_err());
    fixture.disk.is_full.store(false, SeqCst);
    let mut tries = 0;
    while fixture.put(11).await.is_err() {
        tries += 1;
        assert!(tries < 100, "it does not come back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let stored = fixture.stored().await.unwrap();
    assert!(stored.contains(&1) && stored.contains(&11), "{stored:?}");
    assert!(!stored.contains(&10), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_do_not_wait_for_the_writer() {
    let fixture = fixture();
    fixture.put(1).await.unwrap();
    let (release, holding) = fixture.hold().await;
    assert_eq!(fixture.stored().await.unwrap(), [1]);
    drop(release);
    holding.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn change_is_unavailable_while_the_queue_is_full() {
    let fixture = fixture();
    let (release, holding) = fixture.hold().await;
    let mut changes: FuturesUnordered<_> = (0..QUEUE_MAX + 10).map(|_| fixture.put(1)).collect();
    for _ in 0..10 {
        let answer = changes.next().await.unwrap();
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
    drop(release);
    holding.await.unwrap().unwrap();
    let rest: Vec<_> = changes.collect().await;
    assert!(rest.len() == QUEUE_MAX && rest.iter().all(Result::is_ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_changes_are_committed_on_drop() {
    let Fixture { disk, stats, store } = fixture();
    for n in 1..=20 {
        // The caller drops the future at once; the change was accepted.
        let change = store.change(move |change| put(change, n));
        let gone = tokio::time::timeout(Duration::ZERO, change).await;
        assert!(gone.is_err() || gone.is_ok_and(|answer| answer.is_ok()));
    }
    drop(store);
    assert_eq!(stats.changes(), 20);
    let store = Store::start(File::new(open(&disk).unwrap(), move || open(&disk)), stats).unwrap();
    let rows = store.read(|rows| rows.scan(&SESSION_COUNTS, &Span::all(), usize::MAX)).await.unwrap();
    assert_eq!(rows.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn sweep_without_expired_rows_commits_nothing() {
    let fixture = fixture();
    let upkeep = Arc::clone(&fixture.store).stores().upkeep;
    assert_eq!(upkeep.sweep(horizon_at(Timestamp::MAX).into(), 100).await.unwrap(), 0);
    upkeep.ping().await.unwrap();
    assert_eq!(fixture.stats.commits(), 0);
}
