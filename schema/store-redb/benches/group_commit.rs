//! The gain from shared commits: 64 clients that refresh their own sessions concurrently, against one client
//! that refreshes serially. Every refresh waits for the disk.

#![allow(clippy::disallowed_methods, reason = "it measures")]
#![allow(clippy::unwrap_used, reason = "a benchmark whose store fails has nothing to measure")]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use divan::{Bencher, counter::ItemsCount};
use futures_util::future::join_all;
use schema::{
    Timestamp,
    session::{SecretHash, Session},
};
use store::{Rotated, conformance::sample::Samples};
use store_redb::{Opened, open};
use tokio::runtime::Runtime;

/// Number of concurrent clients.
const CLIENT_COUNT: usize = 64;
const NOW: Timestamp = Timestamp::from_secs(2_000_000_000);

/// A store on a disk (`target`, never memory) with one session for each client.
struct Bench {
    runtime: Runtime,
    opened: Arc<Opened>,
    sessions: Vec<Session>,
    next: AtomicU64,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let directory = tempfile::TempDir::new_in(target).unwrap();
        let runtime = Runtime::new().unwrap();
        let opened = runtime.block_on(open(&directory.path().join("store.redb"))).unwrap();
        let make = Samples::at(NOW);
        let sessions = (0..CLIENT_COUNT).map(|_| make.session(make.user().id)).collect::<Vec<_>>();
        for session in &sessions {
            runtime.block_on(opened.stores.sessions.open(session, 10)).unwrap();
        }
        Self { runtime, opened: Arc::new(opened), sessions, next: AtomicU64::new(1), _directory: directory }
    }

    /// Each of these clients refreshes its session this number of times, serially.
    fn refresh(&mut self, clients: usize, times: usize) {
        let refreshing = self.sessions.drain(..clients).map(|mut session| {
            let opened = Arc::clone(&self.opened);
            let first = self.next.fetch_add(times as u64, Relaxed);
            self.runtime.spawn(async move {
                for n in first..first + times as u64 {
                    // A minute apart, as clients refresh: one spent token is within its grace, not all of them.
                    let now = NOW.plus(Duration::from_secs(60 * n));
                    let next = session.rotated(hash(n), session.expires_at, now, Duration::from_secs(10));
                    let rotated = opened.stores.sessions.rotate(&session, &next).await.unwrap();
                    assert_eq!(rotated, Rotated::Done);
                    session = next;
                }
                session
            })
        });
        let refreshed = self.runtime.block_on(join_all(refreshing));
        self.sessions.splice(..0, refreshed.into_iter().map(Result::unwrap));
    }

    /// Refreshes per second, and changes per commit, over `rounds` rounds.
    fn rate(&mut self, clients: usize, rounds: usize, times: usize) -> (f64, f64) {
        let (commits, changes) = (self.opened.stats.commits(), self.opened.stats.changes());
        let begin = Instant::now();
        for _ in 0..rounds {
            self.refresh(clients, times);
        }
        let commits = (self.opened.stats.commits() - commits) as f64;
        let changes = (self.opened.stats.changes() - changes) as f64;
        (changes / begin.elapsed().as_secs_f64(), changes / commits)
    }
}

fn hash(n: u64) -> SecretHash {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&n.to_be_bytes());
    SecretHash::new(digest)
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn one_client_one_commit_each(bencher: Bencher<'_, '_>) {
    let mut bench = Bench::new();
    bencher.counter(ItemsCount::new(100_usize)).bench_local(|| bench.refresh(1, 100));
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn sixty_four_clients_group_commit(bencher: Bencher<'_, '_>) {
    let mut bench = Bench::new();
    bencher.counter(ItemsCount::new(CLIENT_COUNT * 100)).bench_local(|| bench.refresh(CLIENT_COUNT, 100));
}

#[allow(clippy::print_stdout, reason = "a benchmark says what it measured")]
fn main() {
    divan::main();
    // Alternating, so that a temporarily slow disk is slow for both.
    let mut bench = Bench::new();
    let mut ratios = Vec::new();
    for _ in 0..5 {
        let (alone, each) = bench.rate(1, 1, 1_000);
        let (together, shared) = bench.rate(CLIENT_COUNT, 1, 300);
        println!(
            "one client {alone:.0}/s ({each:.1} a commit), {CLIENT_COUNT} clients {together:.0}/s ({shared:.1} a commit)"
        );
        ratios.push(together / alone);
    }
    ratios.sort_by(f64::total_cmp);
    println!("ratio of group commit to a commit each: {:.1} (median of {}; goal 5)", ratios[2], ratios.len());
}
