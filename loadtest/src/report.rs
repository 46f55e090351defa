//! The report of a run: one HTML file without network, scripts or fonts, for light and dark screens and for
//! paper.
//!
//! Promises: foreign text (targets, commands, messages) is escaped, and a content-security policy in the page
//! forbids all loading. The size is bounded, however long the run was: series are thinned, and tables are cut
//! and say so. The same run makes the same bytes.

mod charts;
mod plot;
mod tables;

use std::fmt::Write as _;

use crate::format::{self, count, escape, moment, rate, span};
use crate::result::RunResult;
use charts::Figure;

const STYLE: &str = include_str!("report/style.css");

/// The report of a run.
pub fn html(run: &RunResult) -> String {
    let mut out = String::with_capacity(256 << 10);
    head(&mut out, run);
    verdicts(&mut out, run);
    plots(&mut out, run);
    breakdown(&mut out, run);
    let _ = writeln!(
        out,
        "<details><summary>Plan, machine and command</summary>{}</details>\
         <footer>palisade-loadtest {}. {} All numbers of this page, and those that it had to leave out, are in the \
         JSON file of the run.</footer></main></body></html>",
        tables::circumstances(run),
        escape(&run.version),
        charts::measured_from(run)
    );
    out
}

fn head(out: &mut String, run: &RunResult) {
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>{} · palisade-loadtest</title><style>{STYLE}</style></head><body><main>\
         <header><h1>{}</h1><p class=\"sub\">{}</p></header>",
        escape(&run.scenario),
        escape(&run.scenario),
        headline(run)
    );
}

/// What a reader must see first: wrong answers, an early end, objectives, and whether the figures can be
/// trusted.
fn verdicts(out: &mut String, run: &RunResult) {
    if run.wrong_answers() > 0 {
        out.push_str(&tables::wrong(run));
    }
    if let Some(why) = &run.stopped {
        let measured = run.seconds.last().map_or(0.0, |s| f64::from(s.at_s) + 1.0);
        let _ = write!(
            out,
            "<p class=\"stopped\"><strong>Ended before its time</strong>, after {} of {}: {}</p>",
            moment(measured),
            span(run.plan.duration_s),
            escape(&format::truncate(why, 600))
        );
    }
    out.push_str(&tables::objectives(run));
    out.push_str(&tables::cards(run));
    if run.wrong_answers() == 0 {
        out.push_str(&tables::wrong(run));
    }
    if let Some(note) = format::bottleneck(run) {
        let _ = write!(out, "<p class=\"stopped\">Beware: {}.</p>", escape(&note));
    }
    if run.total.requests == 0 {
        out.push_str(
            "<p class=\"stopped\">Nothing was measured: there was no request in the measured part.</p>",
        );
    }
}

fn plots(out: &mut String, run: &RunResult) {
    if !run.pairs.is_empty() {
        section(out, "How soon other nodes refuse a revoked token");
        out.push_str(
            "<p class=\"note\">From sending the revoking call to one node, to sending the first request that another \
             node refused: median, p99 and slowest. Darker is slower.</p>",
        );
        out.push_str(&tables::pairs(run));
    }
    let search = charts::search(run);
    if !search.is_empty() {
        section(out, "Search for the highest rate");
        figures(out, search, "h3");
        out.push_str(&tables::search(run));
    }
    figures(out, charts::over_time(run), "h2");
    if !run.faults.is_empty() {
        section(out, "What was done to the deployment");
        out.push_str(&tables::faults(run));
    }
    figures(out, charts::percentiles(run).into_iter().collect(), "h2");
}

fn breakdown(out: &mut String, run: &RunResult) {
    section(out, "By kind of request");
    out.push_str(&tables::by_kind(run));
    section(out, "By node");
    out.push_str(&tables::by_target(run));
    section(out, "Errors by kind");
    out.push_str(&tables::errors(run));
    section(out, "Answers by status");
    out.push_str(&tables::statuses(run));
}

/// The run in a sentence.
fn headline(run: &RunResult) -> String {
    let plan = &run.plan;
    let nodes = match run.targets.len() {
        1 => "1 node".to_owned(),
        n => format!("{n} nodes"),
    };
    let drive = match plan.rate {
        Some(at) => format!("{} requests a second ({} model)", rate(at), escape(&plan.model)),
        None => format!("as fast as answers come ({} model)", escape(&plan.model)),
    };
    format!(
        "{} · {nodes} · {drive} · {} connections · {} · {} after {} of warm-up",
        escape(&run.started_at),
        count(plan.connections as u64),
        escape(&plan.protocol),
        span(plan.duration_s),
        span(plan.warm_up_s)
    )
}

fn section(out: &mut String, title: &str) {
    let _ = write!(out, "<h2>{}</h2>", escape(title));
}

fn figures(out: &mut String, figures: Vec<Figure>, heading: &str) {
    for figure in figures {
        let _ = write!(
            out,
            "<{heading}>{}</{heading}><figure><div class=\"wide\">{}</div><figcaption>{}</figcaption></figure>",
            escape(&figure.plot.title),
            figure.plot.svg(),
            escape(&figure.caption)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Wrong, sample};

    /// Asserts that the page loads nothing, runs nothing, and has no number that is not finite.
    fn is_self_contained(page: &str) {
        let lower = page.to_ascii_lowercase();
        for bad in [
            "<script",
            "<link",
            "<iframe",
            "<img",
            "<object",
            "src=",
            "href=",
            "@import",
            "url(",
            "javascript:",
            "nan\"",
            "nan ",
            "inf ",
        ] {
            let found = lower.find(bad);
            assert_eq!(found, None, "{bad} near {:?}", found.map(|at| format::truncate(&lower[at..], 80)));
        }
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert!(page.len() < 2_000_000, "{} bytes", page.len());
        balanced(page);
    }

    /// Asserts that each element is closed, in order.
    fn balanced(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        let body = page.split_once("</style>").unwrap().1;
        for tag in body.split('<').skip(1) {
            let tag =
                tag.split_once('>').unwrap_or_else(|| panic!("not closed: {}", format::truncate(tag, 80))).0;
            if let Some(name) = tag.strip_prefix('/') {
                match open.pop() {
                    None => assert!(matches!(name, "head" | "html"), "</{name}>"),
                    Some(last) => assert_eq!(last, name),
                }
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap());
            }
        }
        assert_eq!(open, [""; 0]);
    }

    #[test]
    fn page_of_a_whole_run_is_self_contained() {
        let page = html(&sample::whole());
        is_self_contained(&page);
        for part in [
            "2 wrong answers",
            "1 of 2 objectives not held",
            "Latency over time",
            "p99 over time, by node",
            "Latency by percentile",
            "Offered and served",
            "refused at →",
            "kill n2",
            "iptables: Operation not permitted",
            "prefers-color-scheme:dark",
            "By node",
            "status 503",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert_eq!(page, html(&sample::whole()), "the same run, the same bytes");
    }

    #[test]
    fn wrong_answers_come_first() {
        let mut run = sample::whole();
        let page = html(&run);
        let at = |page: &str, part: &str| page.find(part).unwrap_or(usize::MAX);
        assert!(at(&page, "wrong answers") < at(&page, "objectives not held"));
        assert!(at(&page, "role=\"alert\"") < at(&page, "class=\"cards\""));
        run.wrong.clear();
        let page = html(&run);
        assert!(!page.contains("role=\"alert\"") && page.contains("No wrong answer was seen"));
    }

    #[test]
    fn hostile_text_stays_text() {
        const EVIL: &str =
            "</title></style><script>alert('x')</script><img src=\"http://evil.example/x\">\u{202e}";
        let mut run = sample::whole();
        let evil = || EVIL.to_owned();
        run.scenario = evil();
        run.command = vec![evil(), "it's".into()];
        run.version = evil();
        run.started_at = evil();
        run.machine.cpu = evil();
        run.machine.os = evil();
        run.plan.model = evil();
        run.plan.protocol = evil();
        run.targets = vec![evil(); 3];
        run.by_kind.insert(evil(), sample::summary(10, 1.0, 10.0, 0, 1.0));
        run.total.errors_by_kind.insert(evil(), 3);
        run.stopped = Some(evil());
        for fault in &mut run.faults {
            (fault.action, fault.on, fault.failed) = (evil(), evil(), Some(evil()));
        }
        for wrong in &mut run.wrong {
            wrong.what = evil();
        }
        for objective in &mut run.objectives {
            objective.text = evil();
        }
        let page = html(&run).replace("src=&quot;", "");
        is_self_contained(&page);
        assert!(page.contains("&lt;script&gt;"));
        assert!(!page.contains('\u{202e}'));
    }

    #[test]
    fn empty_run_makes_a_page() {
        let page = html(&sample::empty());
        is_self_contained(&page);
        assert!(page.contains("Nothing was measured") && page.contains("interrupted"));
        // Seconds without a request.
        let mut run = sample::run(1, 10, 2, 1.0);
        for second in &mut run.seconds {
            second.all = Default::default();
            second.by_target = vec![Default::default(); 2];
        }
        run.total = Default::default();
        is_self_contained(&html(&run));
        // Fewer slices than targets, as after a crash.
        run.seconds[3].by_target.clear();
        run.by_target.clear();
        is_self_contained(&html(&run));
    }

    #[test]
    fn one_second_makes_a_page() {
        is_self_contained(&html(&sample::run(1, 1, 1, 1.0)));
    }

    #[test]
    fn numbers_that_are_not_finite_make_a_page() {
        let mut run = sample::whole();
        run.total.rate = f64::NAN;
        run.total.latency.mean = f64::INFINITY;
        run.faults[0].at_s = f64::NAN;
        run.search[0].offered = f64::NAN;
        run.objectives[0].measured = f64::NAN;
        run.plan.duration_s = f64::NAN;
        run.total.curve.push((f64::NAN, u64::MAX));
        is_self_contained(&html(&run));
    }

    #[test]
    fn page_of_a_day_and_many_nodes_has_a_bounded_size() {
        let mut run = sample::run(3, 86_400, 20, 1.0);
        run.wrong = (0..100_000)
            .map(|i| Wrong { at_s: f64::from(i), target: 1, what: "answered 200".repeat(400) })
            .collect();
        run.faults = (0..5_000)
            .map(|i| crate::result::FaultMark {
                at_s: f64::from(i) * 17.0,
                action: "kill".into(),
                on: "x".repeat(9_000),
                failed: None,
            })
            .collect();
        for i in 0..5_000 {
            run.by_kind.insert(format!("kind {i}"), sample::summary(1_000, 10.0, 10.0, 0, 1.0));
            run.total.errors_by_kind.insert(format!("kind {i}"), 1);
        }
        run.targets = vec!["http://".to_owned() + &"long".repeat(1_000); 20];
        run.command = vec!["word".repeat(10_000); 10];
        let page = html(&run);
        is_self_contained(&page);
        assert!(page.contains("Each point stands for 144 seconds"));
        assert!(page.contains("99,900 more are in the JSON file"));
        assert!(page.contains("Only the first 15 of 20 nodes are drawn"));
    }

    /// Writes a sample to look at: `SAMPLE_REPORT=/tmp/x.html cargo test … sample_to_look_at`.
    #[test]
    fn sample_to_look_at() {
        if let Ok(path) = std::env::var("SAMPLE_REPORT") {
            std::fs::write(path, html(&sample::whole())).unwrap();
        }
    }
}
