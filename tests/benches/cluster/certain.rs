//! No request answered 200 that was sent after the revoking call answered with `k = n`.
//!
//! The plan: 500 users log in five times each. Clients take user after user and revoke its sessions in four
//! ways, on one node or another: a session by its id, `auth_token`, `…/others` (two sessions end), `…/all`
//! (the last one ends). As soon as the whole answer is there, the revoked tokens are shown to all three
//! nodes at once, sixteen times: 5 × 3 × 16 × 500 = 120,000 tries after 2,000 revoking calls. Meanwhile
//! other clients validate live tokens on all nodes as fast as they can.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use testkit::Node;

use crate::{
    Size,
    people::{self, Session},
    report::{Report, Times},
    rig,
    wire::{Connection, Load, request, validation},
};

const SESSIONS: usize = 5;
const TRIES: usize = 16;
const CLIENTS: usize = 12;
const BACKGROUND: usize = 6;

/// What came of all tries.
#[derive(Debug, Default)]
struct Tally {
    /// By `Palisade-Visible` of the revoking call.
    calls: BTreeMap<String, u64>,
    took: Vec<Duration>,
    /// Of calls that said `k = n`.
    claimed: BTreeMap<u16, u64>,
    /// Of the others.
    unclaimed: BTreeMap<u16, u64>,
    violations: Vec<String>,
}

impl Tally {
    fn valid(statuses: &BTreeMap<u16, u64>) -> u64 {
        statuses.get(&200).copied().unwrap_or(0)
    }
}

/// A client that revokes, with connections to all nodes.
struct Revoker {
    addresses: Vec<SocketAddr>,
    /// For revoking calls, then for tries.
    calls: Vec<Connection>,
    tries: Vec<Connection>,
    tally: Arc<Mutex<Tally>>,
}

impl Revoker {
    async fn new(nodes: &[&Node], tally: Arc<Mutex<Tally>>) -> Self {
        let addresses: Vec<_> = nodes.iter().map(|node| node.address()).collect();
        let mut calls = Vec::new();
        let mut tries = Vec::new();
        for address in &addresses {
            calls.push(Connection::to(*address).await.expect("the node listens"));
            tries.push(Connection::to(*address).await.expect("the node listens"));
        }
        Self { addresses, calls, tries, tally }
    }

    /// Ends all sessions of a user, in all ways.
    async fn end(&mut self, turn: usize, user: &[Session]) {
        let [a, b, c, d, e] = user else { panic!("{} sessions", user.len()) };
        let by_id = format!("users/me/sessions/{}", b.id);
        self.revoke(turn, &by_id, a, &[b]).await;
        self.revoke(turn + 1, "auth_token", c, &[c]).await;
        self.revoke(turn + 2, "auth_token/others", a, &[d, e]).await;
        self.revoke(turn + 3, "auth_token/all", a, &[a]).await;
    }

    async fn revoke(&mut self, turn: usize, path: &str, by: &Session, ended: &[&Session]) {
        let node = turn % self.calls.len();
        let call = request("DELETE", path, &by.token);
        let began = Instant::now();
        let answer = self.calls[node].ask(&call).await;
        let took = began.elapsed();
        assert_eq!(answer.status, 204, "DELETE {path}");
        let requests: Vec<_> = ended.iter().map(|session| validation(&session.token)).collect();
        let tries = self.tries.iter_mut().map(async |connection| {
            let mut statuses = Vec::new();
            for _ in 0..TRIES {
                for request in &requests {
                    statuses.push((connection.ask(request).await.status, began.elapsed()));
                }
            }
            statuses
        });
        let tries = join_all(tries).await;
        let mut tally = self.tally.lock().unwrap();
        let visible = answer.visible.map_or("none".to_owned(), |(k, n)| format!("{k}/{n}"));
        let durability = if answer.in_journal { " journal" } else { "" };
        *tally.calls.entry(format!("{visible}{durability}")).or_insert(0) += 1;
        tally.took.push(took);
        for (at, statuses) in tries.into_iter().enumerate() {
            for (status, after) in statuses {
                let of = if answer.is_claimed() { &mut tally.claimed } else { &mut tally.unclaimed };
                *of.entry(status).or_insert(0) += 1;
                if answer.is_claimed() && status == 200 {
                    tally.violations.push(format!(
                        "{path} on {} answered {visible} after {took:?}; {} said 200 {:?} later",
                        self.addresses[node],
                        self.addresses[at],
                        after.checked_sub(took).unwrap_or_default()
                    ));
                }
            }
        }
    }
}

/// Runs the line.
pub async fn run(report: &mut Report, size: Size) {
    let users = size.of(500, 16);
    let least = size.of(100_000, 3_000);
    let cluster = rig::three().start().await;
    let nodes = cluster.three();
    report.says(format!("{users} users log in {SESSIONS} times each"));
    let people = people::logged_in(&nodes, users, SESSIONS).await;
    let bystanders = people::logged_in(&nodes, 4, 2).await.concat();
    let bystanders: Vec<_> = bystanders.into_iter().map(|session| session.token).collect();
    report.says(format!(
        "{CLIENTS} clients revoke {} times and show each revoked token {TRIES} times to each of 3 nodes; \
         {BACKGROUND} clients a node validate live tokens",
        users * 4
    ));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let queue = Arc::new(Mutex::new(people.into_iter().enumerate()));
    let mut loads = Vec::new();
    for node in nodes {
        loads.push(Load::on(node, &bystanders, BACKGROUND).await);
    }
    let began = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut revoker = Revoker::new(&nodes, tally.clone()).await;
        let queue = queue.clone();
        clients.push(tokio::spawn(async move {
            loop {
                let next = queue.lock().unwrap().next();
                let Some((turn, user)) = next else { return };
                revoker.end(turn, &user).await;
            }
        }));
    }
    for client in clients {
        client.await.expect("a client");
    }
    let took = began.elapsed();
    for (name, load) in ["A", "B", "C"].iter().zip(loads) {
        let got = load.end().await;
        report.notes(format!("live tokens on {name}"), format!("{:.0}/s, {}", got.per_second, got.times));
        report.judges(
            format!("live tokens refused on {name}"),
            got.others().to_string(),
            "0",
            got.others() == 0,
        );
    }
    let tally = std::mem::take(&mut *tally.lock().unwrap());
    for violation in tally.violations.iter().take(20) {
        println!("         VIOLATION: {violation}");
    }
    let claimed: u64 = tally.claimed.values().sum();
    report.says(format!("took {took:.1?}"));
    report.notes("revoking calls, by Palisade-Visible", format!("{:?}", tally.calls));
    report.notes("revoking call under load", Times::of(tally.took.clone()).to_string());
    report.notes("tries after k < n, by status", format!("{:?}", tally.unclaimed));
    report.notes("tries after k = n, by status", format!("{:?}", tally.claimed));
    report.judges("tries after k = n", claimed.to_string(), format!("≥ {least}"), claimed >= least);
    let valid = Tally::valid(&tally.claimed);
    report.judges("answered 200 after k = n", valid.to_string(), "0", valid == 0);
}
