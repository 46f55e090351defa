//! 10,000 revocations a second into one node: all nodes apply them, and go on validating.
//!
//! Twice. First a member that is this process says them over links, in windows that take turns with quiet
//! ones: what hearing costs. Then for real, on A: every second a user with 10,000 sessions logs out
//! everywhere else, ten times. There the sessions are listed from Cassandra before, and their rows are
//! ended after; all of that shares the same cores, so the report says which process used them.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use testkit::{Cluster, Node};

use crate::{
    Size, people,
    report::{Report, median},
    rig::{self, Peer, Work},
    wire::{Got, Load, revoke},
};

const CLIENTS: usize = 32;
const GOAL: f64 = 0.8;
const TICK: Duration = Duration::from_millis(10);
const SAMPLE: Duration = Duration::from_millis(200);
/// Longest time until rows are deleted.
const ROW_DELETION_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs the line.
pub async fn run(report: &mut Report, size: Size) {
    let cluster = rig::three().start().await;
    let [a, b, _] = cluster.three();
    let people = people::logged_in(&[a], 8, 4).await.concat();
    let tokens: Vec<_> = people.into_iter().map(|session| session.token).collect();
    by_links(report, size, &cluster, [a, b], &tokens).await;
}

/// The throughput of A and of B at the same time.
async fn both(nodes: [&Node; 2], tokens: &[String]) -> [Load; 2] {
    let [a, b] = nodes.map(|node| Load::on(node, tokens, CLIENTS));
    [a.await, b.await]
}

async fn end(loads: [Load; 2]) -> [Got; 2] {
    let [a, b] = loads;
    let got = [a.end().await, b.end().await];
    assert_eq!(got[0].others() + got[1].others(), 0, "all tokens are live: {got:?}");
    got
}

async fn quiet(nodes: [&Node; 2], tokens: &[String], took: Duration) -> [Got; 2] {
    let loads = both(nodes, tokens).await;
    tokio::time::sleep(took).await;
    end(loads).await
}

async fn by_links(report: &mut Report, size: Size, cluster: &Cluster, nodes: [&Node; 2], tokens: &[String]) {
    let (rounds, window) = size.of((10, Duration::from_secs(2)), (3, Duration::from_secs(1)));
    let a_tick = 100;
    let before = rig::refused_sessions(cluster, nodes[0]).await;
    let mut peer = Peer::of(cluster).await;
    quiet(nodes, tokens, window).await;
    let mut ratios = [Vec::new(), Vec::new()];
    let mut works = [Vec::new(), Vec::new()];
    let mut said = 0_u64;
    let mut lags = Vec::new();
    let mut seconds = 0.0;
    for round in 0..rounds {
        let quiet = quiet(nodes, tokens, window).await;
        let work = Work::now(&cluster.three());
        let loads = both(nodes, tokens).await;
        let began = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        while began.elapsed() < window {
            ticks.tick().await;
            peer.says(a_tick);
            said += a_tick;
        }
        seconds += began.elapsed().as_secs_f64();
        let flooded = end(loads).await;
        let work = work.until(&Work::now(&cluster.three()));
        let last = rig::all_refuse(cluster, before + said, Instant::now()).await;
        lags.push(last.into_iter().max().unwrap_or_default());
        for (node, name) in ["A", "B"].iter().enumerate() {
            ratios[node].push(flooded[node].per_second / quiet[node].per_second);
            works[node].push(flooded[node].work / quiet[node].work);
            report.says(format!(
                "round {round}, {name}: {:.0}/s quiet, {:.0}/s flooded ({})",
                quiet[node].per_second, flooded[node].per_second, flooded[node].times
            ));
        }
        report.says(format!("round {round}, flooded: {work}"));
    }
    let rate = said as f64 / seconds;
    report.judges("by links: revocations said", format!("{said}, {rate:.0}/s"), "≥ 9,500/s", rate >= 9_500.0);
    report.notes("by links: applied on all nodes, after each window", format!("{lags:.1?}"));
    for ((name, ratios), works) in ["A", "B"].iter().zip(ratios).zip(works) {
        let ratio = median(ratios);
        let work = median(works);
        report.judges(
            format!("by links: validation on {name}, flooded ÷ quiet"),
            format!("{ratio:.2} (the node's work for a validation: × {work:.2})"),
            "≥ 0.8",
            ratio >= GOAL,
        );
    }
    for_real(report, size, cluster, nodes, tokens).await;
    // Dropped here, so that no node adopts its log earlier.
    drop(peer);
}

async fn for_real(report: &mut Report, size: Size, cluster: &Cluster, nodes: [&Node; 2], tokens: &[String]) {
    let (users, rows) = size.of((10, 9_999), (3, 300));
    let window = size.of(Duration::from_secs(10), Duration::from_secs(2));
    let keyspace = cluster.keyspace().name();
    report.says(format!("{users} users with {rows} sessions each"));
    let owners = people::logged_in(&[nodes[0]], users, 1).await.concat();
    for owner in &owners {
        people::add_rows(keyspace, owner.user, rows).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let expected = rig::refused_sessions(cluster, nodes[0]).await + (users * rows) as u64;

    let before = quiet(nodes, tokens, window).await;
    let work = Work::now(&cluster.three());
    let loads = both(nodes, tokens).await;
    let began = Instant::now();
    let calls = owners.iter().zip(0..).map(async |(owner, second)| {
        tokio::time::sleep(Duration::from_secs(second)).await;
        revoke(nodes[0].address(), "auth_token/others", &owner.token).await
    });
    let (calls, rates) = tokio::join!(join_all(calls), rates(cluster, nodes[0], users * rows, began));
    let known = rig::all_refuse(cluster, expected, began).await;
    let flooded = end(loads).await;
    let work = work.until(&Work::now(&cluster.three()));
    let known = known.into_iter().max().unwrap_or_default();
    let refused: u32 = calls.iter().map(|(_, refused)| refused).sum();
    let calls: Vec<_> = calls.into_iter().map(|(took, _)| took).collect();
    report.notes(
        "for real: DELETE …/others, sent each second, answered after",
        format!("{calls:.1?}, {refused} times 503"),
    );
    report.notes("for real: revocations in each second with any, on A", format!("{rates:?}"));
    let rate = (users * rows) as f64 / known.as_secs_f64();
    report.judges(
        "for real: applied on all nodes",
        format!("{} after {known:.1?} from the first call, {rate:.0}/s", users * rows),
        "all",
        true,
    );
    report.notes("for real: who worked", work);

    let journal = async || {
        let view = rig::view(cluster, nodes[0]).await;
        let number = |name: &str| view["journal"][name].as_u64().unwrap_or(u64::MAX);
        (number("unwritten"), number("used_bytes"), view["journal"]["full"] == true)
    };
    let (unwritten, used, full) = journal().await;
    report.notes(
        "for real: A's journal then",
        format!("{unwritten} not in the ledger, {:.1} MB used, full: {full}", used as f64 / 1e6),
    );
    while journal().await.0 > 0 {
        assert!(
            began.elapsed() < ROW_DELETION_TIMEOUT,
            "the ledger has not everything within {ROW_DELETION_TIMEOUT:?}"
        );
        tokio::time::sleep(SAMPLE).await;
    }
    report.notes(
        "for real: the ledger has everything",
        format!("{:.1?} after the first call", began.elapsed()),
    );
    let ids: Vec<_> = owners.iter().map(|owner| owner.user).collect();
    let gone = loop {
        let left = people::rows_of(keyspace, &ids).await;
        if left <= users {
            break format!("{:.1?} after the first call", began.elapsed());
        }
        if began.elapsed() > ROW_DELETION_TIMEOUT {
            break format!("{left} are left after {ROW_DELETION_TIMEOUT:?}");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    report.notes("for real: the rows are gone", gone);
    let after = quiet(nodes, tokens, window).await;
    for (node, name) in ["A", "B"].iter().enumerate() {
        let usual = f64::midpoint(before[node].per_second, after[node].per_second);
        let ratio = flooded[node].per_second / usual;
        let work = flooded[node].work / f64::midpoint(before[node].work, after[node].work);
        report.judges(
            format!("for real: validation on {name}, flooded ÷ quiet"),
            format!(
                "{ratio:.2} ({:.0}/s; {:.0}/s before, {:.0}/s after; the node's work for a validation: \
                 × {work:.2}); flooded {}",
                flooded[node].per_second,
                before[node].per_second,
                after[node].per_second,
                flooded[node].times
            ),
            "≥ 0.8",
            ratio >= GOAL,
        );
    }
}

/// How many facts A numbered in each second in which it numbered some, until all are.
async fn rates(cluster: &Cluster, a: &Node, all: usize, began: Instant) -> Vec<u64> {
    let head = async || rig::view(cluster, a).await["node"]["head"].as_u64().unwrap_or(0);
    let first = head().await;
    let mut rates = Vec::new();
    let mut last = first;
    let mut next = Duration::from_secs(1);
    while last < first + all as u64 {
        assert!(
            began.elapsed() < rig::CONDITION_TIMEOUT,
            "A has not revoked all within {:?}",
            rig::CONDITION_TIMEOUT
        );
        tokio::time::sleep(next.saturating_sub(began.elapsed())).await;
        next += Duration::from_secs(1);
        let now = head().await;
        if now > last {
            rates.push(now - last);
        }
        last = last.max(now);
    }
    rates
}
