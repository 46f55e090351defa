use super::*;
use crate::result::{Objective, Wrong, sample};

fn verdict<'a>(comparison: &'a Comparison, of: &str, metric: Metric) -> &'a Verdict {
    &comparison.changes.iter().find(|c| c.of.starts_with(of) && c.metric == metric).unwrap().verdict
}

#[test]
fn same_run_has_not_changed() {
    for run in [sample::run(1, 60, 3, 1.0), sample::whole()] {
        let comparison = compare(&run, &run);
        assert!(!comparison.is_worse() && comparison.differences.is_empty());
        for change in &comparison.changes {
            assert!(matches!(change.verdict, Verdict::NoChange | Verdict::CannotBeJudged(_)), "{comparison}");
        }
        assert_eq!(*verdict(&comparison, "all", Metric::P99), Verdict::NoChange);
    }
}

#[test]
fn noise_is_not_a_change() {
    for (seconds, targets) in [(8, 1), (20, 3), (60, 3), (300, 2)] {
        let quiet = (0..100_u64)
            .filter(|seed| {
                let a = sample::run(2 * seed + 1, seconds, targets, 1.0);
                let b = sample::run(2 * seed + 2, seconds, targets, 1.0);
                let comparison = compare(&a, &b);
                comparison
                    .changes
                    .iter()
                    .all(|c| matches!(c.verdict, Verdict::NoChange | Verdict::CannotBeJudged(_)))
            })
            .count();
        assert!(quiet >= 95, "{quiet} of 100 pairs of {seconds} seconds");
    }
}

#[test]
fn third_more_latency_is_slower_and_back_is_faster() {
    for seed in 0..20 {
        let a = sample::run(seed, 60, 3, 1.0);
        let b = sample::run(seed + 100, 60, 3, 1.35);
        let slower = compare(&a, &b);
        let faster = compare(&b, &a);
        for of in ["all", "kind check", "kind validate", "node 2"] {
            for metric in [Metric::P50, Metric::P99] {
                assert_eq!(*verdict(&slower, of, metric), Verdict::Slower, "{slower}");
                assert_eq!(*verdict(&faster, of, metric), Verdict::Faster, "{faster}");
            }
        }
        assert_eq!(*verdict(&slower, "all", Metric::Rate), Verdict::NoChange, "{slower}");
        assert!(slower.is_worse() && !faster.is_worse());
        let effect = slower.changes.iter().find(|c| c.metric == Metric::P50).unwrap().effect.unwrap();
        assert!(effect.low > 0.2 && (effect.change - 0.35).abs() < 0.06, "{effect}");
    }
}

#[test]
fn change_of_the_tail_is_seen() {
    let a = sample::run(1, 120, 1, 1.0);
    let mut b = sample::run(2, 120, 1, 1.0);
    b.total.latency.p999 *= 3;
    for (percentile, us) in &mut b.total.curve {
        if *percentile > 99.5 {
            *us *= 3;
        }
    }
    for second in &mut b.seconds {
        second.all.max_us *= 3;
    }
    let comparison = compare(&a, &b);
    assert_eq!(*verdict(&comparison, "all", Metric::P999), Verdict::Slower, "{comparison}");
    assert_eq!(*verdict(&comparison, "all", Metric::P99), Verdict::NoChange, "{comparison}");
}

#[test]
fn slower_revocations_from_node_to_node_are_seen() {
    let a = sample::whole();
    let mut b = sample::whole();
    for pair in b.pairs.iter_mut().filter(|p| p.from != p.to) {
        pair.refused.latency.p50 = pair.refused.latency.p50 * 3 / 2;
        for (_, us) in &mut pair.refused.curve {
            *us = *us * 3 / 2;
        }
    }
    let comparison = compare(&a, &b);
    let slower: Vec<_> = comparison.changes.iter().filter(|c| c.verdict == Verdict::Slower).collect();
    assert_eq!(slower.len(), 6, "{comparison}");
    assert!(slower.iter().all(|c| c.of.starts_with("revoked at node ")), "{comparison}");
}

#[test]
fn fewer_requests_and_more_errors_are_seen() {
    let a = sample::run(1, 60, 2, 1.0);
    let mut b = sample::run(2, 60, 2, 1.0);
    for second in &mut b.seconds {
        second.all.requests = second.all.requests * 4 / 5;
        second.all.errors = second.all.requests / 200;
    }
    b.total.errors = b.total.requests / 200;
    let comparison = compare(&a, &b);
    assert_eq!(*verdict(&comparison, "all", Metric::Rate), Verdict::Slower);
    assert_eq!(*verdict(&comparison, "all", Metric::ErrorRatio), Verdict::MoreErrors);
    assert_eq!(*verdict(&compare(&b, &a), "all", Metric::Rate), Verdict::Faster);
    assert_eq!(*verdict(&compare(&b, &a), "all", Metric::ErrorRatio), Verdict::FewerErrors);
    assert!(comparison.to_string().contains("! errors: 0 in A"));
}

#[test]
fn single_stall_is_a_warning_and_not_a_change() {
    let a = sample::run(1, 60, 1, 1.0);
    let mut b = sample::run(2, 60, 1, 1.0);
    for second in &mut b.seconds[30..33] {
        second.all.p99_us = 3_000_000;
        second.all.max_us = 3_000_000;
    }
    b.total.latency.p99 = 900_000;
    let comparison = compare(&a, &b);
    assert!(!comparison.is_worse(), "{comparison}");
    assert!(comparison.to_string().contains("a few seconds were far from the rest"), "{comparison}");
}

#[test]
fn short_runs_are_not_judged() {
    for seconds in [0, 1, 4] {
        let comparison = compare(&sample::run(1, seconds, 1, 1.0), &sample::run(2, 60, 1, 3.0));
        assert!(!comparison.is_worse());
        let text = comparison.to_string();
        assert!(
            text.contains("noise cannot be judged") && text.contains("Nothing could be judged"),
            "{text}"
        );
    }
    let comparison = compare(&sample::empty(), &sample::empty());
    assert!(comparison.to_string().contains("Nothing could be judged"));
}

#[test]
fn differing_plans_are_listed_first() {
    let a = sample::run(1, 60, 3, 1.0);
    let mut b = sample::run(2, 60, 2, 1.0);
    b.plan.protocol = "h2c".into();
    b.plan.connections = 8;
    b.targets[0] = "http://elsewhere:1".into();
    let comparison = compare(&a, &b);
    let what: Vec<_> = comparison.differences.iter().map(|d| d.what).collect();
    assert_eq!(what, ["protocol", "nodes", "connections"]);
    assert!(comparison.changes.iter().all(|c| !c.of.starts_with("node")), "another number of nodes");
    let text = comparison.to_string();
    assert!(text.find("http1 → h2c").unwrap() < text.find("\nall\n").unwrap(), "{text}");
}

#[test]
fn other_scenarios_are_not_compared() {
    let a = sample::run(1, 60, 3, 1.0);
    let mut b = sample::run(2, 60, 3, 1.0);
    b.scenario = "login\u{1b}[2J".into();
    let comparison = compare(&a, &b);
    assert!(comparison.refused.is_some() && comparison.changes.is_empty() && comparison.is_worse());
    let text = comparison.to_string();
    assert!(text.contains("Not compared") && !text.contains('\u{1b}'), "{text}");
    b.scenario = a.scenario.clone();
    b.plan.model = "closed".into();
    assert!(compare(&a, &b).refused.is_some());
}

#[test]
fn counted_wrong_answers_count() {
    let a = sample::run(1, 60, 3, 1.0);
    let mut b = a.clone();
    b.total.errors_by_kind.insert("wrong".into(), 1_000);
    let found = compare(&a, &b);
    assert!(found.b.wrong == 1_000 && found.is_worse());
}

#[test]
fn differing_detail_is_listed_if_both_runs_have_it() {
    let a = sample::run(1, 60, 3, 1.0);
    let mut b = a.clone();
    if let Some(detail) = &mut b.plan.detail {
        (detail.zipf, detail.batch) = (1.0, Some(20));
    }
    let listed = |a: &RunResult, b: &RunResult| -> Vec<&str> {
        compare(a, b).differences.iter().map(|difference| difference.what).collect()
    };
    assert_eq!(listed(&a, &b), ["tokens a batch", "zipf"]);
    b.plan.detail = None;
    assert!(listed(&a, &b).is_empty());
}

#[test]
fn wrong_answer_is_never_noise() {
    let a = sample::run(1, 60, 3, 1.0);
    let mut b = a.clone();
    b.wrong.push(Wrong { at_s: 1.0, target: 0, what: "200".into() });
    b.objectives.push(Objective { text: "p99<1ms".into(), measured: 1_900.0, held: false });
    let mut a = a;
    a.objectives.push(Objective { text: "p99<1ms".into(), measured: 900.0, held: true });
    let comparison = compare(&a, &b);
    assert!(comparison.is_worse() && !compare(&b, &a).is_worse());
    let text = comparison.to_string();
    assert!(text.contains("WRONG ANSWERS: 0 in A, 1 in B"), "{text}");
    assert!(text.contains("p99<1ms held in A and does not in B"), "{text}");
}

#[test]
fn comparison_serializes_to_json() {
    let comparison = compare(&sample::run(1, 60, 3, 1.0), &sample::run(2, 60, 3, 1.4));
    let json = serde_json::to_value(&comparison).unwrap();
    assert_eq!(json["changes"][1]["metric"], "p50");
    assert_eq!(json["changes"][1]["verdict"], "slower");
}

/// To look at: `cargo test … comparison_to_look_at -- --nocapture`.
#[test]
fn comparison_to_look_at() {
    if let Ok(path) = std::env::var("SAMPLE_COMPARISON") {
        let mut b = sample::run(2, 60, 3, 1.3);
        b.plan.connections = 128;
        std::fs::write(path, compare(&sample::run(1, 60, 3, 1.0), &b).to_string()).unwrap();
    }
}
