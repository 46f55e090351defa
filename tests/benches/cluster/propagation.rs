//! From a revocation on A to its refusal on B, with idle nodes; and what a cluster costs a logout.
//!
//! B is asked about the token in a tight loop on one connection from before the `DELETE` is sent to A. What
//! counts is when the first refused request was sent, from when the `DELETE` was sent. Logouts are timed
//! without that loop, on A and on a lone node of the same store in turn.

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use testkit::Node;

use crate::{
    Size,
    people::{self, Session},
    report::{Report, Times},
    rig,
    wire::{Blocking, request, validation},
};

const SETTLE: Duration = Duration::from_secs(2);
/// After the loop has begun, before the `DELETE`: another time of the loop each round.
const LEAD_US: u64 = 2_000;
const BETWEEN: Duration = Duration::from_millis(5);

/// One revocation.
struct Seen {
    /// From the `DELETE` to when the first refused request was sent.
    sent: Duration,
    /// The same, to its answer.
    answered: Duration,
    /// From the `DELETE` to its answer.
    logout: Duration,
    claimed: bool,
}

/// When the first refused request was sent, and answered.
fn poll(address: SocketAddr, token: &str, is_polling: &AtomicBool) -> (Instant, Instant) {
    let mut connection = Blocking::to(address);
    let request = validation(token);
    loop {
        let sent = Instant::now();
        match connection.ask(&request).status {
            200 => is_polling.store(true, Ordering::Release),
            401 => return (sent, Instant::now()),
            status => panic!("B says {status}"),
        }
    }
}

fn watched(a: &mut Blocking, b: SocketAddr, round: u64, session: &Session) -> Seen {
    let is_polling = Arc::new(AtomicBool::new(false));
    let poller = {
        let is_polling = is_polling.clone();
        let token = session.token.clone();
        std::thread::spawn(move || poll(b, &token, &is_polling))
    };
    while !is_polling.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_micros(500 + (round * 617) % LEAD_US));
    let (began, answer) = logout(a, session);
    let logout = began.elapsed();
    let (sent, answered) = poller.join().expect("the loop");
    Seen {
        sent: sent.saturating_duration_since(began),
        answered: answered.saturating_duration_since(began),
        logout,
        claimed: answer,
    }
}

fn logout(node: &mut Blocking, session: &Session) -> (Instant, bool) {
    let call = request("DELETE", "auth_token", &session.token);
    let began = Instant::now();
    let answer = node.ask(&call);
    assert_eq!(answer.status, 204, "a logout");
    (began, answer.is_claimed())
}

/// The histogram of acknowledgements: upper ends with counts, the sum of seconds.
#[derive(Clone, Debug, Default)]
struct Acknowledged {
    buckets: Vec<(String, f64)>,
    sum: f64,
}

impl Acknowledged {
    async fn of(node: &Node) -> Self {
        let metrics = node.get("/metrics").send().await.is(200).text();
        let name = "palisade_revocation_ack_duration_seconds";
        let mut all = Self::default();
        for line in metrics.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let value = value.parse().unwrap_or(0.0);
            if let Some(labels) = series.strip_prefix(&format!("{name}_bucket")) {
                let end = labels.trim_matches(['{', '}']).trim_start_matches("le=").trim_matches('"');
                all.buckets.push((end.to_owned(), value));
            } else if series.trim_end_matches("{}") == format!("{name}_sum") {
                all.sum = value;
            }
        }
        all
    }

    /// What came after `before`; its mean, and how it is spread.
    fn since(&self, before: &Self) -> (Duration, String) {
        let counts = self.buckets.iter().zip(&before.buckets);
        let counts: Vec<_> = counts.map(|((end, now), (_, then))| (end, now - then)).collect();
        let all = counts.last().map_or(0.0, |(_, count)| *count);
        let mean = Duration::from_secs_f64(((self.sum - before.sum) / all.max(1.0)).max(0.0));
        let below = |part: f64| {
            let bucket = counts.iter().find(|(_, count)| *count >= all * part);
            bucket.map_or("none".to_owned(), |(end, _)| format!("≤ {end} s"))
        };
        (mean, format!("mean {mean:.2?}  p50 {}  p99 {}  of {all}", below(0.5), below(0.99)))
    }
}

/// How long a small durable write takes where nodes keep their journals.
fn durable_write() -> Times {
    let mut file = tempfile::tempfile().expect("a file");
    let times = (0..100).map(|_| {
        let began = Instant::now();
        file.write_all(&[7; 512]).expect("room");
        file.sync_data().expect("it is durable");
        began.elapsed()
    });
    Times::of(times.collect())
}

/// Runs the line.
pub async fn run(report: &mut Report, size: Size) {
    let rounds = size.of(300, 30);
    let cluster = rig::three().start().await;
    let [a, b, _] = cluster.three();
    let loner = rig::loner(&cluster).await;
    report.says(format!("{rounds} sessions for each of three measurements"));
    let sessions = async |node: &Node| {
        let mut sessions = people::logged_in(&[node], rounds / 10, 10).await.concat();
        sessions.truncate(rounds);
        sessions
    };
    let watch = sessions(a).await;
    let of_a = sessions(a).await;
    let of_loner = sessions(&loner).await;
    report.notes("a durable write of 512 bytes there", durable_write().to_string());

    tokio::time::sleep(SETTLE).await;
    let before = Acknowledged::of(a).await;
    let at_a = a.address();
    let at_b = b.address();
    let seen = tokio::task::spawn_blocking(move || {
        let mut connection = Blocking::to(at_a);
        let rounds = (0..).zip(&watch).map(|(round, session)| {
            std::thread::sleep(BETWEEN);
            watched(&mut connection, at_b, round, session)
        });
        rounds.collect::<Vec<_>>()
    });
    let seen = seen.await.expect("the rounds");
    let (_, acknowledged) = Acknowledged::of(a).await.since(&before);
    let times = |of: fn(&Seen) -> Duration| Times::of(seen.iter().map(of).collect());
    let sent = times(|seen| seen.sent);
    let goals = (Duration::from_millis(1), Duration::from_millis(5));
    report.judges(
        "DELETE sent on A → first refused request sent to B",
        sent.to_string(),
        "p50 ≤ 1 ms, p99 ≤ 5 ms",
        sent.p50() <= goals.0 && sent.p99() <= goals.1,
    );
    report.notes("… its answer", times(|seen| seen.answered).to_string());
    report.notes("… the DELETE's answer", times(|seen| seen.logout).to_string());
    report.notes("published → all have it, by A's histogram", acknowledged);
    let claimed = seen.iter().filter(|seen| seen.claimed).count();
    report.notes("… answered k = n", format!("{claimed} of {}", seen.len()));

    tokio::time::sleep(SETTLE).await;
    let before = Acknowledged::of(a).await;
    let at_loner = loner.address();
    let pairs = tokio::task::spawn_blocking(move || {
        let mut a = Blocking::to(at_a);
        let mut loner = Blocking::to(at_loner);
        let pairs = of_a.iter().zip(&of_loner).enumerate().map(|(round, (in_cluster, alone))| {
            let mut of_a = || {
                std::thread::sleep(BETWEEN);
                logout(&mut a, in_cluster).0.elapsed()
            };
            let mut of_loner = || {
                std::thread::sleep(BETWEEN);
                logout(&mut loner, alone).0.elapsed()
            };
            // The second may profit from the first.
            if round % 2 == 0 {
                let first = of_a();
                (first, of_loner())
            } else {
                let first = of_loner();
                (of_a(), first)
            }
        });
        pairs.unzip::<_, _, Vec<_>, Vec<_>>()
    });
    let (in_cluster, alone) = pairs.await.expect("the rounds");
    let in_cluster = Times::of(in_cluster);
    let alone = Times::of(alone);
    let (round_trip, acknowledged) = Acknowledged::of(a).await.since(&before);
    report.notes("logout on A", in_cluster.to_string());
    report.notes("logout on a lone node of the same store", alone.to_string());
    report.notes("round trip: published → all have it, by A's histogram", acknowledged);
    let more = in_cluster.p50().as_secs_f64() - alone.p50().as_secs_f64();
    report.judges(
        "logout on A, more than alone (p50)",
        format!("{:+.3} ms", more * 1_000.0),
        format!("≤ one round trip ({:.3} ms)", round_trip.as_secs_f64() * 1_000.0),
        more <= round_trip.as_secs_f64(),
    );
}
