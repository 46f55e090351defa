//! Refreshes a second through one node on Cassandra, beside the plain driver doing one conditional
//! write for each: `cargo bench -p tests --bench refresh`.
//!
//! The two take turns in one run; the median of the ratios is what counts. Both write rows of one size:
//! a client refreshes every few minutes, so that a session remembers one spent token, and here, where it
//! does so all the time, there is no grace for more of them. Node, database and clients share the machine.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark prints, and fails loudly"
)]
#![allow(clippy::disallowed_methods, reason = "it measures")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use scylla::{client::session::Session, statement::prepared::PreparedStatement};
use testkit::{Node, Person, store};

const CLIENTS: usize = 32;
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;
/// Bytes of a session besides its live token.
const ROW: usize = 256;

/// What one side did in one round.
struct Measured {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

impl Measured {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
        Self { per_second: took.len() as f64 / ROUND.as_secs_f64(), p50: at(50), p99: at(99) }
    }

    fn show(&self, who: &str) {
        println!("{who:8} {:7.0}/s   p50 {:6.1?}   p99 {:6.1?}", self.per_second, self.p50, self.p99);
    }
}

async fn through_the_node(people: &mut [Person]) -> Measured {
    let end = Instant::now() + ROUND;
    let clients = people.iter_mut().map(async |person| {
        let mut took = Vec::new();
        while Instant::now() < end {
            let began = Instant::now();
            *person = person.refreshed().await;
            took.push(began.elapsed());
        }
        took
    });
    Measured::of(join_all(clients).await.concat())
}

async fn by_the_driver(session: &Session, update: &PreparedStatement, rows: &mut [i64]) -> Measured {
    let end = Instant::now() + ROUND;
    let clients = rows.iter_mut().enumerate().map(async |(id, live)| {
        let id = i64::try_from(id).unwrap();
        let mut took = Vec::new();
        while Instant::now() < end {
            let began = Instant::now();
            let row = [7_u8; ROW].as_slice();
            session.execute_unpaged(update, (*live + 1, row, id, *live)).await.unwrap();
            took.push(began.elapsed());
            *live += 1;
        }
        took
    });
    Measured::of(join_all(clients).await.concat())
}

/// Processor seconds of the node so far.
async fn busy(node: &Node) -> f64 {
    node.metric("process_cpu_seconds_total").await.unwrap()
}

#[tokio::main]
async fn main() {
    testkit::scratch::on_disk();
    let node =
        Node::builder().setting("LOG", "warn").setting("REFRESH_GRACE", "0s").on_cql().await.start().await;
    let mut people = Vec::new();
    for n in 0..CLIENTS {
        people.push(node.register(&format!("bench-{n}")).await);
    }
    let session = Arc::new(store::cassandra().await);
    let keyspace = testkit::fresh("plain").replace('-', "_");
    for statement in [
        format!(
            "CREATE KEYSPACE {keyspace} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
        ),
        format!("CREATE TABLE {keyspace}.plain (id bigint PRIMARY KEY, live bigint, row blob)"),
    ] {
        session.query_unpaged(statement, ()).await.unwrap();
    }
    for id in 0..i64::try_from(CLIENTS).unwrap() {
        let insert = format!("INSERT INTO {keyspace}.plain (id, live) VALUES (?, 0) IF NOT EXISTS");
        session.query_unpaged(insert, (id,)).await.unwrap();
    }
    let update = format!("UPDATE {keyspace}.plain SET live = ?, row = ? WHERE id = ? IF live = ?");
    let update = session.prepare(update).await.unwrap();
    let mut rows = vec![0; CLIENTS];

    println!("{CLIENTS} clients, {ROUNDS} rounds of {ROUND:?} each, the first to warm up");
    let mut ratios = Vec::new();
    for round in 0..=ROUNDS {
        let driver = by_the_driver(&session, &update, &mut rows).await;
        let before = busy(&node).await;
        let refreshed = through_the_node(&mut people).await;
        let each = (busy(&node).await - before) / refreshed.per_second / ROUND.as_secs_f64();
        if round > 0 {
            driver.show("driver");
            refreshed.show("node");
            println!("         {:.0} µs of the node's processor time each", each * 1e6);
            ratios.push(refreshed.per_second / driver.per_second);
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!("ratio {:.2} (median; {:.2} to {:.2})", ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1]);
    session.query_unpaged(format!("DROP KEYSPACE {keyspace}"), ()).await.unwrap();
}
