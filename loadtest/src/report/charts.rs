//! The plots of a report.
//!
//! Promises: a line has at most [`POINTS_MAX`] points, however long the run was. A thinned latency shows the
//! worst of its seconds, never an average that hides a stall.

use crate::result::{FaultMark, RunResult, Slice, Summary};

use super::plot::{Axis, Mark, Plot, SERIES_MAX, Scale, Series, Unit};
use crate::format;

/// Points of one line at most.
const POINTS_MAX: usize = 600;

/// A plot and its caption.
pub struct Figure {
    /// The plot.
    pub plot: Plot,
    /// The text below the plot. Not escaped yet.
    pub caption: String,
}

/// Several seconds that become one point.
struct Bucket {
    at_s: f64,
    rate: f64,
    errors: f64,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    max_us: Option<f64>,
}

/// How many seconds become one point.
fn seconds_a_point(run: &RunResult) -> usize {
    run.seconds.len().div_ceil(POINTS_MAX).max(1)
}

fn buckets<'a>(run: &'a RunResult, slice: impl Fn(usize) -> Option<&'a Slice>) -> Vec<Bucket> {
    let width = seconds_a_point(run);
    (0..run.seconds.len())
        .step_by(width)
        .map(|first| {
            let last = (first + width).min(run.seconds.len());
            let slices: Vec<&Slice> = (first..last).filter_map(&slice).collect();
            let mean = |of: fn(&Slice) -> u64| {
                slices.iter().map(|s| of(s)).sum::<u64>() as f64 / (slices.len().max(1)) as f64
            };
            // A second without an answer has no latency.
            let answered: Vec<&&Slice> = slices.iter().filter(|s| s.max_us > 0).collect();
            let worst = |of: fn(&Slice) -> u64| answered.iter().map(|s| of(s) as f64).reduce(f64::max);
            let mut middle: Vec<u64> = answered.iter().map(|s| s.p50_us).collect();
            middle.sort_unstable();
            Bucket {
                // The middle of the seconds, so that the effect of a fault begins at its mark, not before.
                at_s: f64::midpoint(
                    f64::from(run.seconds[first].at_s),
                    f64::from(run.seconds[last - 1].at_s) + 1.0,
                ),
                rate: mean(|s| s.requests),
                errors: mean(|s| s.errors),
                p50_us: middle.get(middle.len() / 2).map(|us| *us as f64),
                p99_us: worst(|s| s.p99_us),
                max_us: worst(|s| s.max_us),
            }
        })
        .collect()
}

fn points(buckets: &[Bucket], of: impl Fn(&Bucket) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
    buckets.iter().map(|b| (b.at_s, of(b))).collect()
}

/// A line for each of the first nodes.
fn by_node(run: &RunResult, of: fn(&Bucket) -> Option<f64>) -> impl Iterator<Item = Series> {
    (0..run.targets.len().min(SERIES_MAX - 1)).map(move |target| {
        let buckets = buckets(run, |i| run.seconds[i].by_target.get(target));
        Series::line(format::node_name(&run.targets, target), target + 1, points(&buckets, of))
    })
}

/// A line for all requests, and one for each node if there are several.
fn all_and_by_node(run: &RunResult, all: &[Bucket], of: fn(&Bucket) -> Option<f64>) -> Vec<Series> {
    let nodes = by_node(run, of).filter(|_| run.targets.len() > 1);
    std::iter::once(Series::line("all", 0, points(all, of))).chain(nodes).collect()
}

fn time() -> Axis {
    Axis { label: "time since the measured part began", unit: Unit::Time, scale: Scale::Linear }
}

fn latency() -> Axis {
    Axis { label: "latency (log)", unit: Unit::Micros, scale: Scale::Log }
}

fn marks(faults: &[FaultMark]) -> Vec<Mark> {
    faults
        .iter()
        .map(|f| Mark {
            x: f.at_s,
            label: format::truncate(&format!("{} {}", f.action, f.on), 28),
            failed: f.failed.is_some(),
        })
        .collect()
}

/// Tells the reader that points stand for several seconds, or that nodes are left out.
fn thinned(run: &RunResult, lines_of_targets: bool) -> String {
    let mut out = String::new();
    let width = seconds_a_point(run);
    if width > 1 {
        out.push_str(&format!(
            " Each point stands for {width} seconds: the mean of rates, the median of p50, the worst of p99 and max."
        ));
    }
    if lines_of_targets && run.targets.len() > SERIES_MAX - 1 {
        out.push_str(&format!(
            " Only the first {} of {} nodes are drawn.",
            SERIES_MAX - 1,
            run.targets.len()
        ));
    }
    out
}

/// Latencies, rates and errors over the measured part.
pub fn over_time(run: &RunResult) -> Vec<Figure> {
    if run.seconds.is_empty() {
        return Vec::new();
    }
    let all = buckets(run, |i| Some(&run.seconds[i].all));
    let mut out = vec![latency_figure(run, &all), rate_figure(run, &all)];
    if run.seconds.iter().any(|s| s.all.errors > 0) {
        out.push(errors_figure(run, &all));
    }
    if run.targets.len() > 1 {
        out.push(nodes_figure(run));
    }
    out
}

fn latency_figure(run: &RunResult, all: &[Bucket]) -> Figure {
    Figure {
        plot: Plot {
            id: "latency",
            title: "Latency over time".into(),
            description: format!(
                "p50, p99 and the slowest request of each second, on a logarithmic axis. Over the whole run p50 was {}, \
                 p99 {} and the slowest {}.",
                format::micros(run.total.latency.p50 as f64),
                format::micros(run.total.latency.p99 as f64),
                format::micros(run.total.latency.max as f64)
            ),
            x: time(),
            y: latency(),
            series: vec![
                Series::line("p50", 0, points(all, |b| b.p50_us)),
                Series::line("p99", 1, points(all, |b| b.p99_us)),
                Series::line("max", 6, points(all, |b| b.max_us)).faint(),
            ],
            marks: marks(&run.faults),
        },
        caption: format!("All requests of each second. {}{}", measured_from(run), thinned(run, false)),
    }
}

fn rate_figure(run: &RunResult, all: &[Bucket]) -> Figure {
    let thinned = thinned(run, run.targets.len() > 1);
    Figure {
        plot: Plot {
            id: "rate",
            title: "Requests a second".into(),
            description: format!("Over the whole run {} requests a second.", format::rate(run.total.rate)),
            x: time(),
            y: Axis { label: "requests a second", unit: Unit::Rate, scale: Scale::Linear },
            series: all_and_by_node(run, all, |b| Some(b.rate)),
            marks: marks(&run.faults),
        },
        caption: match run.plan.rate {
            Some(rate) => format!("Planned: {} a second.{thinned}", format::rate(rate)),
            None => format!("As fast as answers came.{thinned}"),
        },
    }
}

fn errors_figure(run: &RunResult, all: &[Bucket]) -> Figure {
    Figure {
        plot: Plot {
            id: "errors",
            title: "Errors a second".into(),
            description: format!("{} errors in all.", format::count(run.total.errors)),
            x: time(),
            y: Axis { label: "errors a second", unit: Unit::Rate, scale: Scale::Linear },
            series: all_and_by_node(run, all, |b| Some(b.errors)),
            marks: marks(&run.faults),
        },
        caption: format!(
            "Requests without the answer that they should have had.{}",
            thinned(run, run.targets.len() > 1)
        ),
    }
}

fn nodes_figure(run: &RunResult) -> Figure {
    Figure {
        plot: Plot {
            id: "nodes",
            title: "p99 over time, by node".into(),
            description: "The 99th percentile of each second for each node, on a logarithmic axis.".into(),
            x: time(),
            y: latency(),
            series: by_node(run, |b| b.p99_us).collect(),
            marks: marks(&run.faults),
        },
        caption: format!("A gap: no answer came from that node.{}", thinned(run, true)),
    }
}

/// From when latencies count.
pub fn measured_from(run: &RunResult) -> &'static str {
    if run.plan.model == "open" {
        "Latencies count from the moment at which a request was due, so that a stall of the server counts for every \
         request that waited."
    } else {
        "Latencies count from sending."
    }
}

/// The whole distribution: how slow the slowest 10 %, 1 %, 0.1 % … were.
pub fn percentiles(run: &RunResult) -> Option<Figure> {
    let mut series = vec![curve("all", 0, &run.total)];
    if run.by_kind.len() > 1 {
        let kinds = run.by_kind.iter().take(SERIES_MAX - 1).enumerate();
        series.extend(kinds.map(|(i, (kind, summary))| curve(kind, i + 1, summary)));
    }
    series.retain(|s| !s.points.is_empty());
    if series.is_empty() {
        return None;
    }
    Some(Figure {
        plot: Plot {
            id: "percentiles",
            title: "Latency by percentile".into(),
            description: format!(
                "From the fastest on the left to the slowest on the right; each step to the right is ten times rarer. \
                 p50 {}, p90 {}, p99 {}, p99.9 {}.",
                format::micros(run.total.latency.p50 as f64),
                format::micros(run.total.latency.p90 as f64),
                format::micros(run.total.latency.p99 as f64),
                format::micros(run.total.latency.p999 as f64)
            ),
            x: Axis { label: "percentile", unit: Unit::Nines, scale: Scale::Linear },
            y: latency(),
            series,
            marks: Vec::new(),
        },
        caption: "The share of requests that were answered within a time. The last point of a line is its slowest request."
            .into(),
    })
}

fn curve(name: &str, style: usize, summary: &Summary) -> Series {
    // The slowest of n requests is drawn at 1 - 1/n, not at infinity.
    let rarest = 1.0 / (summary.requests.max(1) as f64);
    let nines = |percentile: f64| -(1.0 - percentile / 100.0).clamp(rarest.min(1.0), 1.0).log10();
    let mut points: Vec<(f64, Option<f64>)> = Vec::new();
    let step = summary.curve.len().div_ceil(POINTS_MAX / 2).max(1);
    for (i, (percentile, us)) in summary.curve.iter().enumerate() {
        // A logarithmic axis has no zero: less than a microsecond becomes one.
        let point = (nines(*percentile).max(0.0), Some((*us).max(1) as f64));
        if i % step == 0 || i + 1 == summary.curve.len() {
            if points.last().is_some_and(|last| last.0 == point.0) {
                points.pop();
            }
            points.push(point);
        }
    }
    Series::line(name, style, points)
}

/// The served rate and the p99 of each step of a search.
pub fn search(run: &RunResult) -> Vec<Figure> {
    if run.search.is_empty() {
        return Vec::new();
    }
    let mut steps: Vec<_> = run.search.iter().take(POINTS_MAX).collect();
    steps.sort_by(|a, b| a.offered.total_cmp(&b.offered));
    let highest = steps.iter().filter(|s| s.held).map(|s| s.offered).reduce(f64::max);
    let found = match highest {
        Some(rate) => format!("The highest rate that met all objectives: {} a second.", format::rate(rate)),
        None => "No rate that was tried met all objectives.".to_owned(),
    };
    let offered =
        || Axis { label: "requests a second that were offered", unit: Unit::Rate, scale: Scale::Linear };
    let dots = |points: Vec<(f64, Option<f64>)>, name: &str, style| Series {
        dots: steps.iter().map(|s| s.held).collect(),
        ..Series::line(name, style, points)
    };
    let top = steps.last().map_or(0.0, |s| s.offered);
    vec![
        Figure {
            plot: Plot {
                id: "served",
                title: "Offered and served".into(),
                description: found.clone(),
                x: offered(),
                y: Axis { label: "requests a second served", unit: Unit::Rate, scale: Scale::Linear },
                series: vec![
                    dots(steps.iter().map(|s| (s.offered, Some(s.served))).collect(), "served", 0),
                    Series::line("offered", 6, vec![(0.0, Some(0.0)), (top, Some(top))]).faint(),
                ],
                marks: Vec::new(),
            },
            caption: format!("{found} A disc: the objectives held at this step; a cross: they did not."),
        },
        Figure {
            plot: Plot {
                id: "slowness",
                title: "p99 by offered rate".into(),
                description: found,
                x: offered(),
                y: latency(),
                series: vec![dots(
                    steps.iter().map(|s| (s.offered, Some((s.p99_us).max(1) as f64))).collect(),
                    "p99",
                    1,
                )],
                marks: Vec::new(),
            },
            caption: "The 99th percentile of each step.".into(),
        },
    ]
}
