//! A node that is stopped during 50,000 revocations refuses them all within 2 s of continuing, and until
//! then never answers beyond its staleness policy.
//!
//! C may be 5 s stale and is `closed`: a node that slept for longer must say 503 about what it does not
//! know to be revoked. Requests that wait in its sockets while it sleeps, and all that come after, are
//! answered 401 or 503, or not at all.

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
    wire::{Connection, revoke, validation},
};

const MAX_STALENESS: &str = "5s";
const GOAL: Duration = Duration::from_secs(2);
/// Clients that ask C when it goes on.
const CLIENTS: usize = 16;
/// Interval between the requests of one client.
const REQUEST_INTERVAL: Duration = Duration::from_millis(1);
const BOUND: Duration = Duration::from_secs(60);

/// What C said after it went on.
#[derive(Debug, Default)]
struct Said {
    statuses: BTreeMap<u16, u64>,
    unanswered: u64,
    /// When the question was sent whose answer was the first refusal, for each token.
    refused: Vec<Duration>,
    valid: Vec<Duration>,
}

/// Runs the line.
pub async fn run(report: &mut Report, size: Size) {
    let (heavy, rows, single) = size.of((5, 9_999, 400), (2, 400, 40));
    let pause = size.pause;
    let cluster = rig::three().setting_of(2, "STALE_POLICY", "closed");
    let cluster = cluster.setting_of(2, "MAX_STALENESS", MAX_STALENESS).start().await;
    let [a, b, c] = cluster.three();
    report
        .says(format!("{heavy} users with {rows} sessions each, {single} sessions that log out one by one"));
    let owners = people::logged_in(&[a, b], heavy, 1).await.concat();
    for owner in &owners {
        people::add_rows(cluster.keyspace().name(), owner.user, rows).await;
    }
    let users = single / 10;
    let singles = people::logged_in(&[a, b], users, 10).await.concat();
    let live = people::logged_in(&[a], 1, 1).await.concat().remove(0);
    let before = rig::refused_sessions(&cluster, a).await;

    // C has seen all tokens.
    let mut connection = Connection::to(c.address()).await.expect("C listens");
    for session in singles.iter().chain([&live]) {
        assert_eq!(connection.ask(&validation(&session.token)).await.status, 200, "before");
    }
    let mut queued = Vec::new();
    for _ in 0..singles.len().min(40) {
        let mut connection = Connection::to(c.address()).await.expect("C listens");
        connection.ask(&validation(&live.token)).await;
        queued.push(connection);
    }

    report.says(format!("C is stopped for at least {pause:?}"));
    let stopped = Instant::now();
    c.pause();
    let many = revoke_all(&owners, "auth_token/others", [a, b]);
    let (many, singly) = tokio::join!(many, revoke_all(&singles, "auth_token", [a, b]));
    for (name, (times, refused)) in [("auth_token/others", many), ("auth_token", singly)] {
        report.notes(format!("DELETE {name}, one at a time"), format!("{times}, {refused} times 503"));
    }
    let expected = before + (heavy * rows + singles.len()) as u64;
    for (name, node) in [("A", a), ("B", b)] {
        rig::refuses(&cluster, node, expected, stopped).await;
        report.says(format!("{name} refuses {expected} sessions, {:.1?} after the stop", stopped.elapsed()));
    }
    // These wait in the sockets.
    for (connection, session) in queued.iter_mut().zip(&singles) {
        let _ = connection.send(&validation(&session.token)).await;
    }
    tokio::time::sleep(pause.saturating_sub(stopped.elapsed())).await;

    let asleep = stopped.elapsed();
    let revoked = expected - before;
    report.notes("revoked while C was stopped", format!("{revoked} sessions in {asleep:.1?}"));
    let goal = size.of(50_000, 800);
    report.judges("enough of them", revoked.to_string(), format!("≥ {goal}"), revoked >= goal);
    c.resume();
    let began = Instant::now();
    let said = Arc::new(Mutex::new(Said::default()));
    let waiting = join_all(queued.into_iter().map(async |mut connection| {
        let answer = tokio::time::timeout(BOUND, connection.answer()).await;
        let mut said = said.lock().unwrap();
        match answer {
            Ok(Ok(answer)) => {
                *said.statuses.entry(answer.status).or_insert(0) += 1;
                if answer.status == 200 {
                    said.valid.push(began.elapsed());
                }
            }
            _ => said.unanswered += 1,
        }
    }));
    let asking = join_all((0..CLIENTS).map(|n| {
        let mine: Vec<_> = singles.iter().skip(n).step_by(CLIENTS).cloned().collect();
        ask(c.address(), mine, began, said.clone())
    }));
    let serving = serves(c.address(), &live, began);
    let known = rig::refuses(&cluster, c, expected, began);
    let ((), _, serves_again, known) =
        tokio::join!(async { waiting.await.into_iter().collect() }, asking, serving, known);
    let said = std::mem::take(&mut *said.lock().unwrap());
    report.notes(
        "C's answers about revoked tokens",
        format!("{:?}, {} closed", said.statuses, said.unanswered),
    );
    let wrong = said.valid.len();
    let first =
        said.valid.first().map_or(String::new(), |at| format!(", the first {at:.1?} after it went on"));
    report.judges("beyond its policy (200)", format!("{wrong}{first}"), "0", wrong == 0);
    let refused = Times::of(said.refused);
    let all = refused.to_string();
    let last = refused.max();
    report.judges("C went on → each of the tokens refused", all, "max ≤ 2 s", last <= GOAL);
    report.judges(
        format!("C went on → it refuses all {revoked} sessions"),
        format!("{known:.2?}"),
        "≤ 2 s",
        known <= GOAL,
    );
    report.notes("C went on → a live token is valid again", format!("{serves_again:.2?}"));
}

/// One at a time, each on another node; how long each took, and how often a node could not.
async fn revoke_all(sessions: &[Session], path: &str, nodes: [&Node; 2]) -> (Times, u32) {
    let mut times = Vec::new();
    let mut refused = 0;
    for (turn, session) in sessions.iter().enumerate() {
        let (took, could_not) = revoke(nodes[turn % 2].address(), path, &session.token).await;
        times.push(took);
        refused += could_not;
    }
    (Times::of(times), refused)
}

/// Asks about these again and again until each is refused.
async fn ask(address: SocketAddr, mut left: Vec<Session>, began: Instant, said: Arc<Mutex<Said>>) {
    let Ok(mut connection) = Connection::to(address).await else { return };
    while !left.is_empty() {
        assert!(began.elapsed() < BOUND, "C does not refuse {} tokens within {BOUND:?}", left.len());
        let mut still = Vec::new();
        for session in left {
            let sent = began.elapsed();
            let answer = connection.try_ask(&validation(&session.token)).await;
            let status = match answer {
                Ok(answer) => answer.status,
                Err(_) => {
                    said.lock().unwrap().unanswered += 1;
                    connection = Connection::to(address).await.expect("C listens");
                    still.push(session);
                    continue;
                }
            };
            {
                let mut said = said.lock().unwrap();
                *said.statuses.entry(status).or_insert(0) += 1;
                match status {
                    401 => said.refused.push(sent),
                    200 => said.valid.push(sent),
                    _ => {}
                }
            }
            if status != 401 {
                still.push(session);
                tokio::time::sleep(REQUEST_INTERVAL).await;
            }
        }
        left = still;
    }
}

/// How long until C answers 200 about a live token.
async fn serves(address: SocketAddr, live: &Session, began: Instant) -> Duration {
    let mut connection = Connection::to(address).await.expect("C listens");
    let request = validation(&live.token);
    while connection.ask(&request).await.status != 200 {
        assert!(began.elapsed() < BOUND, "C does not serve again within {BOUND:?}");
        tokio::time::sleep(REQUEST_INTERVAL).await;
    }
    began.elapsed()
}
