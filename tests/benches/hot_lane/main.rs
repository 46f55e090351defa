//! What the hot lane costs beside an empty axum handler that gets the same requests:
//! `cargo bench -p tests --bench hot_lane`, or some of it: `… -- validation batch`.
//!
//! The server has the first core, the load the second; node and empty handler take turns in one run, and what
//! counts is the median of the ratios of a turn, by rate and by the server's CPU time a request (of user and
//! system, so without what the load generator does). Where logins flood, both have both cores. On a virtual
//! machine turns are had again in which the host took more than 3 % of it.
//! `PALISADE_TEST_BINARY` names the node to measure; it is the one as shipped, with request ids, metrics and
//! logs on.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a benchmark prints, and fails loudly"
)]
#![allow(clippy::disallowed_methods, reason = "it measures")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod empty;
mod lines;
mod load;
mod siege;
mod turns;

use std::time::Duration;

/// How long one side has its turn.
pub const TURN: Duration = Duration::from_millis(1500);
/// How many turns each has.
pub const TURNS: usize = 7;
/// The server's core.
pub const SERVER: usize = 0;
/// The load's.
pub const LOAD: usize = 1;

type Line = (&'static str, &'static str, fn() -> std::pin::Pin<Box<dyn Future<Output = ()>>>);

const LINES: [Line; 11] = [
    ("validation", "`/validation`, 64 connections: ≥ 1.0 of the empty handler", || {
        Box::pin(lines::validation())
    }),
    ("query", "permission query: ≥ 0.95 of the empty handler", || Box::pin(lines::query())),
    ("gateway", "`/auth_request` with a permission: ≥ 0.95 of the empty handler", || {
        Box::pin(lines::gateway())
    }),
    ("batch", "batch of 100: ≥ 1.5 M tokens/s on a core", || Box::pin(lines::batch())),
    ("pipelined", "pipelined × 16: ≥ 5 × unpipelined", || Box::pin(lines::pipelined())),
    ("flood", "validation while logins flood: ≥ 0.9, p99 ≤ 1.5 ×", || Box::pin(lines::flood())),
    ("million", "1 M denials and 100,000 tokens: ≥ 0.9 of one token and none", || {
        Box::pin(lines::million())
    }),
    ("forged", "forged tokens beside good ones: good ones ≥ 0.7", || Box::pin(lines::forged())),
    ("siege", "validation while strangers attack in all ways: ≥ 0.7, probes ≤ 100 ms", || {
        Box::pin(lines::siege())
    }),
    ("logins", "logins: ≥ 0.95 of what argon2id allows", || Box::pin(lines::logins())),
    ("idle", "1,000 idle connections: ≤ 20 KB each", || Box::pin(lines::idle())),
];

fn main() {
    let words: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if words.first().is_some_and(|word| word == empty::WORD) {
        return empty::serve();
    }
    testkit::scratch::on_disk();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (name, what, line) in LINES {
        if words.is_empty() || words.iter().any(|word| word == name) {
            println!("\n{name}: {what}");
            runtime.block_on(tokio::task::LocalSet::new().run_until(line()));
        }
    }
}

/// From now on this thread, and the processes that it starts, have this core only; or all of them.
pub fn pin(core: Option<usize>) {
    let mut cores = rustix::thread::CpuSet::new();
    match core {
        Some(core) => cores.set(core),
        None => (0..self::cores()).for_each(|n| cores.set(n)),
    }
    rustix::thread::sched_setaffinity(None, &cores).expect("the core is there: this needs two");
}

/// How many there are, whether or not this thread may use them.
pub fn cores() -> usize {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    stat.lines().filter(|line| line.starts_with("cpu")).count() - 1
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
