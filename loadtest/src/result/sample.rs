//! Synthetic runs for tests, from a seed: such as a cluster of three might have.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "synthetic values, all in range")]

use super::*;

/// Noise by SplitMix64.
#[derive(Debug, Clone)]
pub struct Noise(pub u64);

impl Noise {
    /// Uniform in 0..1.
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Approximately normal, with mean 0 and deviation 1.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// A distribution with a long tail around `p50_us`.
pub fn summary(requests: u64, seconds: f64, p50_us: f64, errors: u64, stretch: f64) -> Summary {
    if requests == 0 {
        return Summary::default();
    }
    let at = |percentile: f64| -> u64 {
        let nines = -(1.0 - percentile / 100.0).max(1.0 / requests as f64).log10();
        (p50_us * (0.45 + 1.8 * nines + 0.12 * stretch * nines.powi(3))) as u64
    };
    let mut curve = vec![(0.0, at(0.0))];
    let mut step = 50.0;
    let mut reached = 0.0;
    while (1.0 - reached / 100.0) * requests as f64 >= 1.0 {
        for _ in 0..5 {
            reached += step / 5.0;
            curve.push((reached, at(reached)));
        }
        step /= 2.0;
    }
    curve.push((100.0, at(100.0)));
    // Values that survive JSON to the last digit.
    for (percentile, _) in &mut curve {
        *percentile = (*percentile * 1e6).round() / 1e6;
    }
    Summary {
        requests,
        rate: (requests as f64 / seconds).round(),
        errors,
        errors_by_kind: if errors == 0 {
            BTreeMap::new()
        } else {
            BTreeMap::from([("connect".into(), errors / 2), ("status 503".into(), errors - errors / 2)])
        },
        statuses: BTreeMap::from([(200, requests - errors), (503, errors - errors / 2)]),
        latency: Percentiles {
            mean: (p50_us * 1.2).round(),
            min: at(0.0),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            max: at(100.0),
        },
        curve,
    }
}

/// A run without faults: about 50,000 requests a second for `seconds` on `targets` nodes. Latencies are
/// multiplied by `slower` and have the noise of a shared machine.
pub fn run(seed: u64, seconds: u32, targets: usize, slower: f64) -> RunResult {
    let mut noise = Noise(seed);
    let mut drift = 0.0;
    let mut series = Vec::new();
    let slice = |noise: &mut Noise, drift: f64, share: f64| {
        let level = slower * (1.0 + 0.03 * noise.normal() + drift);
        Slice {
            requests: (50_000.0 * share * (1.0 + 0.01 * noise.normal() - 0.2 * drift)).max(0.0) as u64,
            errors: 0,
            p50_us: (300.0 * level) as u64,
            p99_us: (1_900.0 * level * (1.0 + 0.08 * noise.normal().abs())) as u64,
            max_us: (4_000.0 * level * (1.0 + noise.uniform() * noise.uniform() * 5.0)) as u64,
        }
    };
    for at_s in 0..seconds {
        // A second depends on the one before it.
        drift = 0.7 * drift + 0.02 * noise.normal();
        let by_target: Vec<_> =
            (0..targets).map(|_| slice(&mut noise, drift, 1.0 / targets as f64)).collect();
        let mut all = slice(&mut noise, drift, 1.0);
        all.requests = by_target.iter().map(|s| s.requests).sum();
        all.max_us = by_target.iter().map(|s| s.max_us).max().unwrap_or(0);
        series.push(Second { at_s, all, by_target });
    }
    let mut of = |requests: u64, factor: f64| {
        let level = 300.0 * slower * factor * (1.0 + 0.004 * noise.normal());
        summary(requests, f64::from(seconds), level, 0, 1.0 + 0.02 * noise.normal())
    };
    let requests: u64 = series.iter().map(|s: &Second| s.all.requests).sum();
    let per_target: Vec<u64> =
        (0..targets).map(|t| series.iter().map(|s| s.by_target[t].requests).sum()).collect();
    RunResult {
        format: FORMAT,
        version: "0.1.0".into(),
        scenario: "mixed".into(),
        command: vec![
            "palisade-loadtest".into(),
            "run".into(),
            "mixed".into(),
            "--rate".into(),
            "50000".into(),
        ],
        started_at: "2026-11-21T21:00:00Z".into(),
        machine: Machine { cores: 2, cpu: "Some CPU @ 2.50GHz".into(), os: "Linux 6.8".into() },
        tool: Some(Tool { threads: 2, busiest_thread: 0.42 }),
        targets: (0..targets).map(|t| format!("http://10.0.0.{}:8080", t + 1)).collect(),
        plan: plan(seed, seconds),
        total: of(requests, 1.0),
        by_kind: BTreeMap::from([
            ("validate".into(), of(requests * 9 / 10, 0.95)),
            ("check".into(), of(requests / 10, 1.3)),
            ("login".into(), of(requests / 1_000, 90.0)),
        ]),
        by_target: per_target.into_iter().map(|n| of(n, 1.0)).collect(),
        seconds: series,
        pairs: Vec::new(),
        faults: Vec::new(),
        wrong: Vec::new(),
        objectives: Vec::new(),
        search: Vec::new(),
        stopped: None,
    }
}

fn plan(seed: u64, seconds: u32) -> Plan {
    Plan {
        model: "open".into(),
        rate: Some(50_000.0),
        connections: 64,
        protocol: "http1".into(),
        warm_up_s: 5.0,
        duration_s: f64::from(seconds),
        ramp_s: 0.0,
        users: 10_000,
        seed,
        detail: Some(Detail {
            depth: 1,
            batch: None,
            revoked: 4.0,
            forged: 4.0,
            expired: 2.0,
            writes: "1.00 %".into(),
            zipf: 0.8,
            sessions: 2,
            tokens: 1,
            timeout_s: 5.0,
        }),
    }
}

/// A run with everything that a result may have: faults, errors, wrong answers, pairs, a search.
pub fn whole() -> RunResult {
    let mut run = run(7, 90, 3, 1.0);
    fail_nodes(&mut run.seconds);
    run.faults = faults();
    run.total.errors = 1_920;
    run.total.errors_by_kind = BTreeMap::from([("connect".into(), 1_700), ("status 503".into(), 220)]);
    run.total.statuses = BTreeMap::from([(200, run.total.requests - 1_920), (503, 220)]);
    run.by_target[1].errors = 1_920;
    run.by_target[1].errors_by_kind = run.total.errors_by_kind.clone();
    run.wrong = vec![
        Wrong {
            at_s: 41.37,
            target: 1,
            what: "validate: answered 200; the token was revoked 11.2 s before on target 0; should be 401"
                .into(),
        },
        Wrong {
            at_s: 41.38,
            target: 1,
            what: "validate: answered 200; the session was ended 3.9 s before on target 2; should be 401"
                .into(),
        },
    ];
    for from in 0..3_usize {
        for to in 0..3_usize {
            let far = if from == to { 350.0 } else { 800.0 + 700.0 * (from + 2 * to) as f64 };
            run.pairs.push(Pair { from, to, refused: summary(2_000, 90.0, far, 0, 2.0) });
        }
    }
    run.objectives = vec![
        Objective { text: "p99<5ms".into(), measured: 3_913.0, held: true },
        Objective { text: "errors<0.01%".into(), measured: 0.000_43, held: false },
    ];
    run.search = search();
    run
}

/// Node 2 is down for twelve seconds, and node 3 paused for six.
fn fail_nodes(seconds: &mut [Second]) {
    for second in seconds {
        let dead = (30..42).contains(&second.at_s);
        let paused = (60..66).contains(&second.at_s);
        if dead {
            second.by_target[1] = Slice { requests: 160, errors: 160, ..Slice::default() };
            second.all.errors = 160;
            second.all.requests = second.by_target.iter().map(|s| s.requests).sum();
            second.all.p99_us *= 3;
        }
        if paused {
            let late = u64::from(66 - second.at_s) * 1_000_000;
            second.by_target[2].p99_us = late;
            second.by_target[2].max_us = late;
            second.by_target[2].p50_us = late / 2;
            second.all.p99_us = late * 9 / 10;
            second.all.max_us = late;
        }
    }
}

fn faults() -> Vec<FaultMark> {
    let mark = |at_s, action: &str, on: &str, failed: Option<&str>| FaultMark {
        at_s,
        action: action.into(),
        on: on.into(),
        failed: failed.map(Into::into),
    };
    vec![
        mark(30.0, "kill", "n2", None),
        mark(40.2, "restart", "n2", None),
        mark(60.0, "pause", "n3", None),
        mark(66.0, "resume", "n3", None),
        mark(80.0, "cut", "n1 n2", Some("iptables: Operation not permitted")),
    ]
}

fn search() -> Vec<SearchStep> {
    [
        (10e3, 10e3, 900),
        (20e3, 20e3, 1_100),
        (40e3, 40e3, 2_000),
        (80e3, 61e3, 48_000),
        (60e3, 58.9e3, 9_000),
        (50e3, 50e3, 3_800),
    ]
    .map(|(offered, served, p99_us)| SearchStep {
        offered,
        served,
        p99_us,
        error_ratio: 0.0,
        busiest_thread: offered / 100e3,
        held: p99_us < 5_000,
    })
    .to_vec()
}

/// A run in which nothing happened.
pub fn empty() -> RunResult {
    RunResult {
        targets: Vec::new(),
        seconds: Vec::new(),
        by_kind: BTreeMap::new(),
        by_target: Vec::new(),
        total: Summary::default(),
        stopped: Some("interrupted".into()),
        ..run(1, 0, 0, 1.0)
    }
}
