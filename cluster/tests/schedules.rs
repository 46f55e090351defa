//! Random faults over a few nodes, in virtual time: no node accepts what was revoked longer than it promises,
//! no fact is lost, memory is bounded, and in the end every node knows every fact.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

#[path = "../examples/simulate"]
#[allow(dead_code, reason = "the example uses all of it")]
mod simulate {
    pub mod random;
    pub mod schedule;
    pub mod world;
}

use proptest::prelude::*;
use simulate::{
    schedule::Schedule,
    world::{MS, SECOND, Settings, Step, World},
};

/// The number of schedules, over both tests.
const SCHEDULE_COUNT: u64 = 1_000;
/// The seed of the first schedule.
const FIRST_SEED: u64 = 0;

/// Runs every second schedule from `offset` on, so that two tests share the work.
fn run_every_second(offset: u64) {
    let failed: Vec<_> = (FIRST_SEED + offset..FIRST_SEED + SCHEDULE_COUNT)
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

mod random_fault_schedules_hold_invariants {
    use super::run_every_second;

    #[test]
    fn even_seeds() {
        run_every_second(0);
    }

    #[test]
    fn odd_seeds() {
        run_every_second(1);
    }
}

const NODE_COUNT: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODE_COUNT;
    let other = 0..NODE_COUNT;
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

    /// Messages lost, repeated and reordered within links, crashes, restarts and partitions.
    #[test]
    fn any_schedule_converges(
        seed in any::<u64>(),
        loss in prop_oneof![Just(0_u64), Just(50_000)],
        chaos in prop_oneof![Just(0_u64), Just(20_000), Just(200_000)],
        is_sparse in any::<bool>(),
        steps in prop::collection::vec((0..600_u64, step()), 0..25),
    ) {
        let mut settings = Settings { loss, chaos, ..Settings::small(seed, NODE_COUNT) };
        if is_sparse {
            settings.tuning.mesh_max = 2;
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

mod single_faults {
    use super::*;

    fn world(settings: Settings) -> World {
        let mut world = World::new(settings);
        world.run_until(3 * SECOND);
        assert!(world.is_linked_up());
        world
    }

    #[test]
    fn digests_find_an_entry_changed_on_its_way() {
        let mut settings = Settings::small(1, 3);
        settings.tuning.push_window = 8_192;
        let mut world = world(settings);
        world.step(Step::Corrupt { from: 0, to: 1 });
        world.step(Step::Publish { node: 0, count: 513, lasts: 900_000 });
        world.run_until(world.now() + SECOND);
        assert_eq!((world.has_from(1, 0), world.has_from(2, 0)), (0, 513), "the first entry was changed");
        world.run_until(world.now() + 7 * SECOND);
        assert_eq!(world.has_from(1, 0), 513);
    }

    #[test]
    fn memory_is_bounded_and_the_ledger_fills_the_gaps() {
        let mut settings = Settings::small(2, 3);
        settings.tuning.bytes_max = 48 * 1024;
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
    fn slow_link_starves_no_kind_of_message() {
        let mut settings = Settings::small(3, 3);
        settings.bytes_per_ms = 20;
        let mut world = world(settings);
        world.step(Step::Crash { node: 2 });
        world.step(Step::Publish { node: 0, count: 50, lasts: 900_000 });
        world.run_until(world.now() + 200 * MS);
        world.step(Step::Restart { node: 2 });
        // Pushes exceed the capacity of the link all the time.
        for _ in 0..400 {
            world.step(Step::Publish { node: 0, count: 10, lasts: 900_000 });
            world.run_until(world.now() + 10 * MS);
        }
        assert_eq!(world.broken(), None);
        assert!(world.has_from(2, 0) >= 50, "it pulls the past while the present is pushed");
        world.settle(60 * SECOND).unwrap();
    }
}
