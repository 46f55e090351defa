//! Refreshes per second, compared with one conditional update of such a row by the driver alone.
//!
//! `cargo bench -p store-scylla`. The variable `CQL` holds the address of the server.

#![allow(clippy::disallowed_methods, reason = "it measures")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and panics when it fails")]
#![allow(clippy::cast_precision_loss, reason = "for people to read")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{fresh, now, opened, session as driver};
use futures_util::future::join_all;
use schema::session::{SecretHash, Session};
use scylla::{
    client::session::Session as Driver,
    statement::{Consistency, prepared::PreparedStatement},
    value::CqlTimestamp,
};
use store::{Rotated, Stores, conformance::sample::Samples};

/// Number of concurrent clients.
const CLIENT_COUNT: usize = 32;
/// Number of refreshes per client and round.
const REFRESHES_PER_ROUND: usize = 40;
/// Number of measured rounds, after one to warm up.
const ROUND_COUNT: usize = 6;
/// How long a spent token is accepted.
const SPENT_TOKEN_GRACE: Duration = Duration::from_secs(10);

fn hash() -> SecretHash {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    SecretHash::new(bytes)
}

fn next_of(session: &Session) -> Session {
    // A minute apart, as clients refresh.
    let at = session.last_used_at.plus(Duration::from_secs(60));
    session.rotated(hash(), at.plus(Duration::from_secs(30 * 24 * 3600)), at, SPENT_TOKEN_GRACE)
}

async fn by_the_store(stores: Stores, mut session: Session) -> (Session, Vec<Duration>) {
    let mut took = Vec::with_capacity(REFRESHES_PER_ROUND);
    for _ in 0..REFRESHES_PER_ROUND {
        let next = next_of(&session);
        let begin = Instant::now();
        assert_eq!(stores.sessions.rotate(&session, &next).await.unwrap(), Rotated::Done);
        took.push(begin.elapsed());
        session = next;
    }
    (session, took)
}

async fn by_the_driver(
    driver: Arc<Driver>,
    update: PreparedStatement,
    mut session: Session,
) -> (Session, Vec<Duration>) {
    let mut took = Vec::with_capacity(REFRESHES_PER_ROUND);
    for _ in 0..REFRESHES_PER_ROUND {
        let next = next_of(&session);
        let time = |time: schema::Timestamp| CqlTimestamp(i64::try_from(time.as_millis()).unwrap());
        let spent: Vec<_> = (next.spent.iter())
            .map(|one| (one.hash.as_bytes().as_slice(), time(one.at), time(one.successor_expires_at)))
            .collect();
        let begin = Instant::now();
        let values = (
            2_592_000,
            0_i64,
            next.ip_address,
            time(next.created_at),
            time(next.last_used_at),
            time(next.expires_at),
            next.live.as_bytes().as_slice(),
            spent,
            next.user.uuid(),
            next.id.uuid(),
            session.live.as_bytes().as_slice(),
        );
        let rows = driver.execute_unpaged(&update, values).await.unwrap().into_rows_result().unwrap();
        assert!(rows.rows_num() == 1);
        took.push(begin.elapsed());
        session = next;
    }
    (session, took)
}

struct Round {
    rate: f64,
    took: Vec<Duration>,
}

async fn round<F>(clients: impl Iterator<Item = F>) -> (Vec<Session>, Round)
where
    F: Future<Output = (Session, Vec<Duration>)> + Send + 'static,
{
    let begin = Instant::now();
    let done = join_all(clients.map(tokio::spawn)).await;
    let elapsed = begin.elapsed();
    let (sessions, took): (Vec<_>, Vec<_>) = done.into_iter().map(Result::unwrap).unzip();
    let took: Vec<_> = took.into_iter().flatten().collect();
    (sessions, Round { rate: took.len() as f64 / elapsed.as_secs_f64(), took })
}

fn median(rounds: &[Round]) -> f64 {
    let mut rates: Vec<_> = rounds.iter().map(|round| round.rate).collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn print_result(name: &str, rounds: &[Round]) {
    let mut took: Vec<_> = rounds.iter().flat_map(|round| round.took.iter().copied()).collect();
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1_000.0;
    println!("{name:>8}: {:7.0} a second, p50 {:6.1} ms, p99 {:6.1} ms", median(rounds), at(50), at(99));
}

#[tokio::main]
async fn main() {
    let keyspace = fresh("bench");
    let store = opened(&keyspace).await;
    let driver = Arc::new(driver().await);
    driver.use_keyspace(&keyspace, false).await.unwrap();
    let update = "UPDATE sessions USING TTL ? SET user_version = ?, ip_address = ?, created_at = ?, last_used_at = ?, \
                  expires_at = ?, live = ?, spent = ? WHERE user = ? AND id = ? IF live = ?";
    let mut update = driver.prepare(update).await.unwrap();
    update.set_consistency(Consistency::LocalQuorum);

    let make = Samples::at(now());
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for sessions in [&mut ours, &mut theirs] {
        for _ in 0..CLIENT_COUNT {
            let session = make.session(make.user().id);
            store.stores.sessions.open(&session, 10).await.unwrap();
            sessions.push(session);
        }
    }
    let mut store_rounds = Vec::new();
    let mut driver_rounds = Vec::new();
    for n in 0..=ROUND_COUNT {
        let (sessions, by_store) =
            round(ours.into_iter().map(|session| by_the_store(store.stores.clone(), session))).await;
        ours = sessions;
        let (sessions, by_driver) = round(
            theirs.into_iter().map(|session| by_the_driver(Arc::clone(&driver), update.clone(), session)),
        )
        .await;
        theirs = sessions;
        // The first round warms up.
        if n > 0 {
            store_rounds.push(by_store);
            driver_rounds.push(by_driver);
        }
    }
    println!(
        "{CLIENT_COUNT} clients, {ROUND_COUNT} rounds of {REFRESHES_PER_ROUND} refreshes each, in turns:"
    );
    print_result("store", &store_rounds);
    print_result("driver", &driver_rounds);
    println!("   ratio: {:.2}", median(&store_rounds) / median(&driver_rounds));
    cql_drop(&driver, &keyspace).await;
}

async fn cql_drop(driver: &Driver, keyspace: &str) {
    common::cql(driver, &format!("DROP KEYSPACE {keyspace}")).await;
}
