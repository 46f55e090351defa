//! Random faults over a few nodes, in virtual time: nothing that was taken away is accepted past what a
//! node promises, nothing is lost, memory is bounded, and in the end everybody knows everything.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

#[path = "../examples/simulate/random.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod random;
#[path = "../examples/simulate/schedule.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod schedule;
#[path = "../examples/simulate/world.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod world;

use proptest::prelude::*;
use schedule::Schedule;
use world::{MS, SECOND, Settings, Step, World};

const SCHEDULES: u64 = 1_000;
/// From here on others than in the example's default.
const FIRST: u64 = 0;

/// Every second of them, so that two cores share the work.
fn run(part: u64) {
    let failed: Vec<_> = (FIRST + part..FIRST + SCHEDULES)
        .step_by(2)
        .filter_map(|seed| Schedule::random(seed).run(false).err().map(|what| (seed, what)))
        .collect();
    for (seed, what) in &failed {
        println!("seed {seed}: {what}");
        println!(
            "  cargo run --release -p cluster --example simulate -- --schedules 1 --seed {seed} --trace"
        );
    }
    assert!(failed.is_empty(), "{} schedules broke a promise", failed.len());
}

#[test]
fn five_hundred_random_schedules_break_no_promise() {
    run(0);
}

#[test]
fn nor_do_five_hundred_others() {
    run(1);
}

const NODES: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    let (node, other) = (0..NODES, 0..NODES);
    prop_oneof![
        6 => (node.clone(), prop_oneof![Just(1_usize), Just(3), Just(40)])
            .prop_map(|(node, count)| Step::Publish { node, count, lasts: 900_000 }),
        2 => node.clone().prop_map(|node| Step::Crash { node }),
        2 => node.clone().prop_map(|node| Step::Restart { node }),
        1 => node.clone().prop_map(|node| Step::Pause { node }),
        1 => node.clone().prop_map(|node| Step::Continue { node }),
        2 => (node.clone(), other.clone()).prop_map(|(from, to)| Step::Cut { from, to }),
        1 => node.clone().prop_map(|node| Step::Isolate { node }),
        1 => node.clone().prop_map(|first| Step::Split { first }),
        1 => Just(Step::Heal),
        2 => (node.clone(), other).prop_map(|(a, b)| Step::Reset { a, b }),
        3 => (node, prop_oneof![Just(3_600_000_i64), Just(-3_600_000), Just(120_000), Just(-120_000)])
            .prop_map(|(node, by)| Step::Jump { node, by }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    /// Loss, repetition and another order within links, crashes and restarts, and partitions.
    #[test]
    fn any_schedule_converges(
        seed in any::<u64>(),
        loss in prop_oneof![Just(0_u64), Just(50_000)],
        chaos in prop_oneof![Just(0_u64), Just(20_000), Just(200_000)],
        is_sparse in any::<bool>(),
        steps in prop::collection::vec((0..600_u64, step()), 0..25),
    ) {
        let mut settings = Settings { loss, chaos, ..Settings::small(seed, NODES) };
        if is_sparse {
            settings.tuning.mesh = 2;
        }
        let mut at = SECOND;
        let steps = steps.into_iter().map(|(after, step)| {
            at += after * MS;
            (at, step)
        });
        let steps = steps.collect();
        if let Err(what) = (Schedule { settings, steps }).run(false) {
            return Err(TestCaseError::fail(what));
        }
    }
}

mod alone {
    use super::*;

    fn world(settings: Settings) -> World {
        let mut world = World::new(settings);
        world.run_until(3 * SECOND);
        assert!(world.is_linked_up());
        world
    }

    #[test]
    fn what_was_changed_on_its_way_is_found_by_digests() {
        let mut settings = Settings::small(1, 3);
        settings.tuning.window = 8_192;
        let mut world = world(settings);
        world.step(Step::Corrupt { from: 0, to: 1 });
        world.step(Step::Publish { node: 0, count: 513, lasts: 900_000 });
        world.run_until(world.now() + SECOND);
        assert_eq!((world.has_from(1, 0), world.has_from(2, 0)), (0, 513), "the first was changed");
        world.run_until(world.now() + 7 * SECOND);
        assert_eq!(world.has_from(1, 0), 513);
    }

    #[test]
    fn memory_is_bounded_and_the_ledger_has_the_rest() {
        let mut settings = Settings::small(2, 3);
        settings.tuning.max_bytes = 48 * 1024;
        settings.has_store = true;
        let mut world = world(settings);
        world.step(Step::Isolate { node: 2 });
        for _ in 0..20 {
            world.step(Step::Publish { node: 0, count: 400, lasts: 900_000 });
            world.run_until(world.now() + 300 * MS);
        }
        world.settle(20 * SECOND).unwrap();
        assert!(world.most_kept() <= 1_000 + 125 + 3 * 256);
    }

    #[test]
    fn a_slow_link_starves_nothing() {
        let mut settings = Settings::small(3, 3);
        settings.bytes_per_ms = 20;
        let mut world = world(settings);
        world.step(Step::Crash { node: 2 });
        world.step(Step::Publish { node: 0, count: 50, lasts: 900_000 });
        world.run_until(world.now() + 200 * MS);
        world.step(Step::Restart { node: 2 });
        // More than the link carries, all the time.
        for _ in 0..400 {
            world.step(Step::Publish { node: 0, count: 10, lasts: 900_000 });
            world.run_until(world.now() + 10 * MS);
        }
        assert_eq!(world.broken(), None);
        assert!(world.has_from(2, 0) >= 50, "it pulls the past while it is told the present");
        world.settle(60 * SECOND).unwrap();
    }
}
