//! What a cluster of three real nodes holds: `cargo bench -p tests --bench cluster`.
//!
//! One of the lines alone: `cargo bench -p tests --bench cluster -- propagation`. Sooner, with smaller
//! numbers that prove nothing: `-- --quick`. The exit status is 1 when a goal is not met.
//!
//! | line | measures |
//! |---|---|
//! | `certain` | requests that were sent after a revoking call answered `k = n`: none is answered 200 |
//! | `propagation` | from a revocation on A to its refusal on B; what a cluster costs a logout |
//! | `paused` | a node that was stopped during 50,000 revocations |
//! | `million` | 1,000,000 live revocations: memory, a newcomer, validation |
//! | `flood` | 10,000 revocations a second into one node |
//!
//! Nodes, Cassandra and clients share the machine, so what is measured is a bound on what a node does.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark prints, and fails loudly"
)]
#![allow(clippy::disallowed_methods, reason = "it measures")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]
#![allow(clippy::large_futures, reason = "few, and awaited once")]

mod certain;
mod flood;
mod million;
mod paused;
mod people;
mod propagation;
mod report;
mod rig;
mod wire;

use std::{panic::AssertUnwindSafe, process::ExitCode, time::Duration};

use futures_util::FutureExt as _;
use report::Report;

/// Longest run time of a line.
const LINE_TIMEOUT: Duration = Duration::from_secs(1_800);
const LINES: [&str; 5] = ["certain", "propagation", "paused", "million", "flood"];
const USAGE: &str = "usage: cluster [--quick] [--pause SECONDS] [LINE…]
lines: certain propagation paused million flood";

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Little, to see whether the benchmark works.
    pub quick: bool,
    /// How long a node is stopped.
    pub pause: Duration,
}

impl Size {
    /// One number or the other.
    pub const fn of<T: Copy>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn arguments() -> Option<(Size, Vec<String>)> {
    let mut quick = false;
    let mut pause = None;
    let mut lines = Vec::new();
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--quick" => quick = true,
            "--pause" => pause = Some(given.next()?.parse().ok()?),
            line if LINES.contains(&line) => lines.push(line.to_owned()),
            _ => return None,
        }
    }
    if lines.is_empty() {
        lines = LINES.map(str::to_owned).to_vec();
    }
    let pause = Duration::from_secs(pause.unwrap_or(if quick { 8 } else { 60 }));
    Some((Size { quick, pause }, lines))
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some((size, lines)) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    testkit::scratch::on_disk();
    let mut report = Report::begin(size);
    for line in &lines {
        report.line(line);
        let run = async {
            match line.as_str() {
                "certain" => certain::run(&mut report, size).await,
                "propagation" => propagation::run(&mut report, size).await,
                "paused" => paused::run(&mut report, size).await,
                "million" => million::run(&mut report, size).await,
                _ => flood::run(&mut report, size).await,
            }
        };
        // What was measured before is shown all the same.
        let ended = match tokio::time::timeout(LINE_TIMEOUT, AssertUnwindSafe(run).catch_unwind()).await {
            Ok(Ok(())) => continue,
            Ok(Err(_)) => "it failed, see above".to_owned(),
            Err(_) => format!("not within {LINE_TIMEOUT:?}"),
        };
        report.judges("the line comes to its end", ended, "it does", false);
    }
    if report.show() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
