//! Runs the replication protocol in virtual time: how fast a fact reaches a thousand nodes, and whether
//! random faults break a promise.
//!
//! ```text
//! simulate --nodes 1000 --loss 5 --facts 1000 --seed 1     time to all-refuse, messages and bytes a node
//! simulate --schedules 1000 --seed 0                       random fault schedules over 3 to 7 nodes
//! simulate --schedules 1 --seed 17 --trace                 one of them, with all that happens
//! ```
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `--nodes N` | the number of nodes | 1000 |
//! | `--links N` | links of each node, when not every node is linked with every other | 16 above 64 nodes |
//! | `--loss P` | packets lost in a hundred: a retransmission each, 200 ms | 0 |
//! | `--facts N` | facts, each published by a random node | 1000 |
//! | `--rate N` | facts published in a second | 1000 |
//! | `--latency US` | the shortest delay one way, in microseconds; the mean is twice as long | 100 |
//! | `--seed N` | the seed of all randomness | 1 |
#![allow(clippy::disallowed_methods, reason = "it measures")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod random;
mod schedule;
#[allow(dead_code, reason = "the tests use all of it")]
mod world;

use std::{process::ExitCode, time::Instant};

use cluster::protocol::Tuning;

use random::Random;
use schedule::Schedule;
use world::{MS, Micros, SECOND, Settings, Step, Traffic, World};

#[derive(Debug)]
struct Args {
    nodes: usize,
    links: Option<usize>,
    loss: f64,
    facts: u64,
    rate: u64,
    latency: Micros,
    seed: u64,
    schedules: u64,
    trace: bool,
}

fn main() -> ExitCode {
    let args = match args(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(what) => {
            eprintln!("{what}");
            return ExitCode::from(2);
        }
    };
    if args.schedules > 0 { schedules(&args) } else { spread(&args) }
}

fn args(mut given: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args {
        nodes: 1_000,
        links: None,
        loss: 0.0,
        facts: 1_000,
        rate: 1_000,
        latency: 100,
        seed: 1,
        schedules: 0,
        trace: false,
    };
    while let Some(name) = given.next() {
        if name == "--trace" {
            args.trace = true;
            continue;
        }
        let value = given.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name} {value}: not a number"));
        let size = || value.parse::<usize>().map_err(|_| format!("{name} {value}: not a number"));
        match name.as_str() {
            "--nodes" => args.nodes = size()?.max(2),
            "--links" => args.links = Some(size()?.max(4)),
            "--loss" => args.loss = value.parse().map_err(|_| format!("{name} {value}: not a number"))?,
            "--facts" => args.facts = number()?,
            "--rate" => args.rate = number()?.max(1),
            "--latency" => args.latency = number()?,
            "--seed" => args.seed = number()?,
            "--schedules" => args.schedules = number()?,
            _ => return Err(format!("{name}: no such option")),
        }
    }
    Ok(args)
}

fn schedules(args: &Args) -> ExitCode {
    let begin = Instant::now();
    let mut failed = 0;
    let mut slowest = 0;
    let mut messages = 0;
    for seed in args.seed..args.seed + args.schedules {
        let schedule = Schedule::random(seed);
        if args.trace {
            println!("{:#?}", schedule.settings);
        }
        match schedule.run(args.trace) {
            Ok(outcome) => {
                slowest = slowest.max(outcome.settled_in);
                messages += outcome.messages;
            }
            Err(what) => {
                failed += 1;
                println!("seed {seed}: {what}");
            }
        }
    }
    println!(
        "{} schedules from seed {}, {failed} failed; {messages} messages, slowest to settle {} ms; {:.1} s",
        args.schedules,
        args.seed,
        slowest / MS,
        begin.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Traffic of one node in the mean.
#[derive(Debug, Clone, Copy)]
struct PerNode {
    messages: f64,
    bytes: f64,
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a million")]
fn spread(args: &Args) -> ExitCode {
    let tuning = Tuning::default();
    let fanout = args.links.or((args.nodes > tuning.mesh_max).then_some(16));
    let settings = Settings {
        fanout,
        tuning,
        latency: args.latency,
        jitter: args.latency,
        loss: (args.loss * 10_000.0) as u64,
        bytes_per_ms: 100_000,
        is_cheap: true,
        ..Settings::small(args.seed, args.nodes)
    };
    println!("{args:?}");
    let begin = Instant::now();
    let mut world = World::new(settings);
    let idle = idle_traffic(&mut world);

    let before = world.traffic();
    let from = world.now();
    publish(&mut world, args);
    let took = seconds(world.now() - from);
    let busy = per_node(&before, &world.traffic());
    let mut spread = world.spread();
    spread.sort_unstable();
    let at = |share: usize| spread.get((spread.len() * share / 100).min(spread.len() - 1)).copied();
    if spread.is_empty() {
        println!("no fact reached all nodes");
        return ExitCode::FAILURE;
    }
    let ms = |micros: Option<Micros>| seconds(micros.unwrap_or(0)) * 1_000.0;
    println!(
        "{} of {} facts refused by all: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        spread.len(),
        args.facts,
        ms(at(50)),
        ms(at(99)),
        ms(spread.last().copied())
    );
    println!(
        "a node in these {took:.1} s: {:.0} messages, {:.0} bytes; a fact: {:.2} messages, {:.0} bytes a node",
        busy.messages,
        busy.bytes,
        (busy.messages - idle.messages * took) / args.facts as f64,
        (busy.bytes - idle.bytes * took) / args.facts as f64
    );
    println!("computed in {:.1} s; repeat with --seed {}", begin.elapsed().as_secs_f64(), args.seed);
    if spread.len() as u64 == args.facts { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits until all links are up and quiet. Returns the traffic of an idle node in a second.
fn idle_traffic(world: &mut World) -> PerNode {
    while !world.is_linked_up() && world.now() < 60 * SECOND {
        world.run_until(world.now() + 100 * MS);
    }
    world.run_until(world.now() + 2 * SECOND);
    let before = world.traffic();
    let from = world.now();
    world.run_until(world.now() + 2 * SECOND);
    let idle = per_node(&before, &world.traffic());
    let took = seconds(world.now() - from);
    let idle = PerNode { messages: idle.messages / took, bytes: idle.bytes / took };
    println!(
        "{} links, all up and quiet at {:.1} s; idle: {:.0} messages, {:.0} bytes a node and second",
        world.links(),
        seconds(from),
        idle.messages,
        idle.bytes
    );
    idle
}

/// Publishes the facts, each on a random node, and waits until every node has all of them, at most a minute.
fn publish(world: &mut World, args: &Args) {
    let mut random = Random::new(args.seed);
    let from = world.now();
    for number in 0..args.facts {
        world.run_until(from + number * SECOND / args.rate);
        world.step(Step::Publish { node: random.index(args.nodes), count: 1, lasts: 900_000 });
    }
    let deadline = world.now() + 60 * SECOND;
    while (world.spread().len() as u64) < args.facts && world.now() < deadline {
        world.run_until(world.now() + 10 * MS);
    }
}

fn seconds(micros: Micros) -> f64 {
    micros as f64 / SECOND as f64
}

/// The traffic between two moments, of one node in the mean.
fn per_node(before: &[Traffic], after: &[Traffic]) -> PerNode {
    let sum = |of: &[Traffic], what: fn(&Traffic) -> u64| of.iter().map(what).sum::<u64>() as f64;
    let nodes = after.len() as f64;
    let messages = sum(after, |traffic| traffic.messages) - sum(before, |traffic| traffic.messages);
    let bytes = sum(after, |traffic| traffic.bytes) - sum(before, |traffic| traffic.bytes);
    PerNode { messages: messages / nodes, bytes: bytes / nodes }
}
