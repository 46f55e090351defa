//! Random schedules of faults: a world, and what is done to it when.

use std::time::Duration;

use cluster::protocol::Tuning;

use super::{
    random::Random,
    world::{MS, Micros, SECOND, Settings, Step, World},
};

/// How long nodes may take to settle after the last fault.
const SETTLE_TIMEOUT: Micros = 40 * SECOND;

/// A world, and what is done to it at which times.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub settings: Settings,
    pub steps: Vec<(Micros, Step)>,
}

/// How a schedule ended.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How long the nodes took to settle after the last fault.
    pub settled_in: Micros,
    pub messages: u64,
}

impl Settings {
    /// A few nodes with a fast network, and limits small enough that every one is reached.
    pub fn small(seed: u64, nodes: usize) -> Self {
        Self {
            seed,
            nodes,
            fanout: None,
            tuning: Tuning {
                batch_max: 16,
                push_window: 64,
                pull_max: 100,
                digest_interval: Duration::from_secs(5),
                ping_interval: Duration::from_millis(500),
                ..Tuning::default()
            },
            latency: 200,
            jitter: 200,
            loss: 0,
            chaos: 0,
            bytes_per_ms: 10_000,
            offsets: vec![0; nodes],
            wall_rate: 1,
            has_store: false,
            is_cheap: false,
        }
    }
}

impl Schedule {
    /// The schedule of this seed.
    pub fn random(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let nodes = random.index(5) + 3;
        let mut settings = Settings::small(seed, nodes);
        settings.latency = random.pick(&[50, 200, 1_000, 20 * MS]);
        settings.jitter = random.pick(&[0, 100, 1_000, 30 * MS]);
        settings.loss = random.pick(&[0, 0, 10_000, 50_000, 200_000]);
        settings.bytes_per_ms = random.pick(&[50, 1_000, 100_000]);
        settings.has_store = random.one_in(3);
        settings.wall_rate = random.pick(&[1, 1, 30]);
        let tuning = &mut settings.tuning;
        tuning.batch_max = random.pick(&[1, 7, 64, 512]);
        tuning.push_window = random.pick(&[8, 64, 300, 8_192]);
        tuning.pull_max = random.pick(&[10, 100, 65_536]);
        tuning.ping_interval = Duration::from_millis(random.pick(&[250, 500]));
        if random.one_in(6) {
            settings.chaos = random.pick(&[1_000, 30_000]);
        }
        if random.one_in(6) {
            // Links are few.
            settings.tuning.mesh_max = 2;
            settings.fanout = Some(4);
        }
        if settings.has_store && random.one_in(4) {
            settings.tuning.bytes_max = 40 * 1024;
        }
        // Within the allowed skew, and at times one clock far beyond it.
        settings.offsets = (0..nodes).map(|_| random.below(50_000).cast_signed() - 25_000).collect();
        if random.one_in(4) {
            settings.offsets[random.index(nodes)] = 600_000;
        }
        let lasts: &[u64] = if settings.wall_rate > 1 { &[5_000, 100_000] } else { &[900_000] };
        let length = random.between(2, 8) * SECOND;
        let is_chatty = random.one_in(2);
        let jumps = random.one_in(3);
        let mut at = SECOND + random.below(SECOND);
        let mut steps = Vec::new();
        while at < length {
            steps.push((at, step(&mut random, &settings, lasts, jumps)));
            at += random.below(if is_chatty { 150 * MS } else { 600 * MS });
        }
        Self { settings, steps }
    }

    /// Runs the schedule. `traces` prints all that happens.
    ///
    /// # Errors
    /// Which promise was broken.
    pub fn run(&self, traces: bool) -> Result<Outcome, String> {
        let mut world = World::new(self.settings.clone());
        world.traces = traces;
        for (at, step) in &self.steps {
            world.run_until(*at);
            if let Some(broken) = world.broken() {
                return Err(broken.to_owned());
            }
            world.step(*step);
        }
        // Some schedules leave nodes cut off for long enough that gossip notices.
        world.run_until(world.now() + self.settings.seed % 4 * SECOND);
        let settled_in = world.settle(SETTLE_TIMEOUT)?;
        let messages = world.traffic().iter().map(|traffic| traffic.messages).sum();
        Ok(Outcome { settled_in, messages })
    }
}

/// By how much clocks may jump, in milliseconds.
const CLOCK_JUMPS_MS: [i64; 8] =
    [3_600_000, -3_600_000, 3_600_000, -3_600_000, 120_000, -120_000, 40 * 86_400_000, -40 * 86_400_000];

fn step(random: &mut Random, settings: &Settings, lasts: &[u64], jumps: bool) -> Step {
    let nodes = settings.nodes;
    let node = random.index(nodes);
    let other = random.index(nodes);
    match random.below(if jumps { 40 } else { 32 }) {
        32.. => Step::Jump { node, by: random.pick(&CLOCK_JUMPS_MS) },
        0..12 => {
            let count = random.pick(&[1, 1, 1, 3, 20, 300]);
            Step::Publish { node, count, lasts: random.pick(lasts) }
        }
        12..14 => Step::Crash { node },
        14..18 => Step::Restart { node },
        18 => Step::Pause { node },
        19..21 => Step::Continue { node },
        21..23 => Step::Cut { from: node, to: other },
        23 => Step::Mend { from: node, to: other },
        24 => Step::Isolate { node },
        25 => Step::Split { first: random.index(nodes) },
        26 => Step::Heal,
        27..29 => Step::Reset { a: node, b: other },
        29 => Step::Store { up: random.one_in(2) },
        30 => Step::StoreOf { node, up: random.one_in(2) },
        _ => Step::Leave { node },
    }
}
