//! 1,000,000 live revocations: what they cost in memory, a newcomer, and validation.
//!
//! A member that is this process says them over links. Throughput is compared with a lone node that has no
//! denials, in rounds that take turns, before and after: `(A / lone) after ÷ (A / lone) before`.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use schema::{Denials, Fact, NodeId, ledger::Origin};
use testkit::{Cluster, Node};

use crate::{
    Size, people,
    report::{Report, median},
    rig::{self, Peer},
    wire::Load,
};

const CLIENTS: usize = 64;
const MB: f64 = 1_000_000.0;
/// How many facts are said at a time, and how many may be on their way.
const CHUNK: u64 = 4_096;
const AHEAD: u64 = 16_384;
const MEMORY_GOAL: f64 = 64.0;
const READY_GOAL: Duration = Duration::from_secs(10);
const RATIO_GOAL: f64 = 0.95;

/// Runs the line.
pub async fn run(report: &mut Report, size: Size) {
    let count = size.of(1_000_000, 20_000);
    let alone = denials_alone(count);
    report.judges(
        format!("{count} denials, nothing else"),
        format!("{:.1} MB, {:.0} bytes each", alone / MB, alone / count as f64),
        "≤ 64 MB",
        alone / MB <= MEMORY_GOAL,
    );

    let cluster = rig::three().start().await;
    let nodes = cluster.three();
    let a = nodes[0];
    let loner = rig::loner(&cluster).await;
    let people = people::logged_in(&[a], 8, 4).await.concat();
    let tokens: Vec<_> = people.into_iter().map(|session| session.token).collect();
    let rounds = size.of((20, Duration::from_secs(1)), (3, Duration::from_millis(500)));
    let before = compare(report, "before", a, &loner, &tokens, rounds).await;
    for node in &nodes[1..] {
        Load::lasting(rounds.1, node, &tokens, CLIENTS).await;
    }
    let memory: Vec<_> = nodes.iter().map(|node| node.memory_bytes() as f64).collect();

    let mut peer = Peer::of(&cluster).await;
    report.says(format!("a member says {count} revocations"));
    let began = Instant::now();
    let mut left = count;
    while left > 0 {
        let chunk = CHUNK.min(left);
        peer.says(chunk);
        left -= chunk;
        while peer.lag() > AHEAD {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let said = began.elapsed();
    let known = rig::all_refuse(&cluster, count, began).await;
    let last = known.iter().max().copied().unwrap_or_default();
    report.notes("said", format!("in {said:.2?}"));
    let rate = count as f64 / last.as_secs_f64();
    report.notes("refused on all nodes", format!("after {last:.2?} ({rate:.0}/s), each: {known:.2?}"));

    tokio::time::sleep(size.of(Duration::from_secs(5), Duration::from_secs(1))).await;
    let mut most = 0.0_f64;
    for ((name, node), before) in ["A", "B", "C"].iter().zip(nodes).zip(memory) {
        let kept = rig::view(&cluster, node).await["kept"].as_f64().unwrap_or(0.0);
        let grown = node.memory_bytes() as f64 - before;
        let log = kept * size_of::<Option<Fact>>() as f64;
        report.notes(
            format!("memory of {name}"),
            format!(
                "{:.1} MB before, {:.1} MB more: {:.0} bytes a revocation, of which {} × {kept} = {:.1} MB are \
                 the log, and {:.1} MB denials and all else",
                before / MB,
                grown / MB,
                grown / count as f64,
                size_of::<Option<Fact>>(),
                log / MB,
                (grown - log) / MB
            ),
        );
        most = most.max((grown - log) / MB);
    }
    report.judges(
        "a node's memory, without the log",
        format!("{most:.1} MB more"),
        "≤ 64 MB",
        most <= MEMORY_GOAL,
    );

    let after = compare(report, "after", a, &loner, &tokens, rounds).await;
    let ratio = after / before;
    let lone = rig::refused_sessions(&cluster, &loner).await;
    report.notes("the lone node refuses", format!("{lone} sessions"));
    report.judges(
        format!("validation with {count} denials ÷ without"),
        format!("{ratio:.3} (A ÷ lone: {before:.3} before, {after:.3} after)"),
        "≥ 0.95",
        ratio >= RATIO_GOAL,
    );

    newcomer(report, "d", "what it lacks comes by links alone", &cluster, count).await;
    report.says("all of it is written to the ledger");
    peer.writes(&cluster).await;
    newcomer(report, "e", "the ledger has it too", &cluster, count).await;
    // Dropped last, so that no node adopts its log.
    drop((loner, cluster));
    drop(peer);
}

/// How long a node that knows nothing takes until it is ready, and what it knows then.
async fn newcomer(report: &mut Report, name: &str, how: &str, cluster: &Cluster, count: u64) {
    let (newcomer, _) = cluster.newcomer(name).await;
    let began = Instant::now();
    let node = newcomer.launch().await;
    node.comes_up().await;
    let ready = began.elapsed();
    let (has, asked) = rig::refused_by(cluster, &node).await;
    let what = format!("newcomer, {how}");
    report.judges(format!("{what}: exec → ready"), format!("{ready:.2?}"), "≤ 10 s", ready <= READY_GOAL);
    let seen = format!("{has}, asked right then, answered after {asked:.1?}");
    report.judges(format!("{what}: refuses then"), seen, format!("≥ {count}"), has >= count);
    let memory = node.memory_bytes() as f64 / MB;
    let all = rig::refuses(cluster, &node, count, began).await;
    report.notes(
        format!("{what}: refuses all"),
        format!("{all:.2?} after its start; {memory:.1} MB when ready"),
    );
}

/// By how much this process grows.
fn denials_alone(count: u64) -> f64 {
    let origin = Origin { node: NodeId::from_bytes([7; 16]), incarnation: 1 };
    let until = people::now().plus(Duration::from_secs(900));
    let before = resident();
    let denials = Denials::default();
    for n in 1..=count {
        denials.apply(&rig::fact(&origin, n, until));
    }
    assert_eq!(denials.counts().sessions as u64, count, "all are different");
    let grown = resident() - before;
    black_box(&denials);
    grown
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1_024.0
}

/// A's throughput by that of the lone node.
async fn compare(
    report: &mut Report,
    when: &str,
    a: &Node,
    loner: &Node,
    tokens: &[String],
    (rounds, took): (usize, Duration),
) -> f64 {
    let mut ratios = Vec::new();
    let mut of_a = Vec::new();
    let mut of_loner = Vec::new();
    // The first round warms up.
    for round in 0..=rounds {
        // Each is first as often as the other.
        let order = if round % 2 == 0 { [a, loner] } else { [loner, a] };
        let one = Load::lasting(took, order[0], tokens, CLIENTS).await;
        let other = Load::lasting(took, order[1], tokens, CLIENTS).await;
        let (in_cluster, lone) = if round % 2 == 0 { (one, other) } else { (other, one) };
        assert_eq!(lone.others() + in_cluster.others(), 0, "all tokens are live");
        if round > 0 {
            ratios.push(in_cluster.per_second / lone.per_second);
            of_a.push(in_cluster);
            of_loner.push(lone);
        }
    }
    for (name, all) in [("A", &of_a), ("the lone node", &of_loner)] {
        let per_second = median(all.iter().map(|got| got.per_second).collect());
        let last = all.last().map_or(String::new(), |got| got.times.to_string());
        let work = median(all.iter().map(|got| got.work * 1e6).collect());
        report.notes(
            format!("validation on {name}, {when}"),
            format!("{per_second:.0}/s, {work:.1} µs of a core each; the last round: {last}"),
        );
    }
    median(ratios)
}
