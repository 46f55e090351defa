//! Drives the phases of a run: warm-up and measurement, or the steps of a search.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    RunError,
    phase::{Driver, PhaseResult},
};
use crate::{
    faults,
    job::{Job, Writes},
    pace::{Curve, RAMP_FROM},
    record::ErrorKind,
    result::{SearchStep, Wrong},
    search::Search,
};

/// The rate at which a search begins if none is given, requests a second.
const SEARCH_RATE: f64 = 1_000.0;
/// The shortest time for which a step of a search runs before it is measured. It is a fifth of the step if
/// longer.
const SETTLE_MIN: Duration = Duration::from_secs(1);
/// A step of a search fails if less than this share of the offered requests is served.
const SERVED_SHARE_MIN: f64 = 0.98;

/// The phase that the result shows.
pub(super) struct Measurement {
    pub(super) phase: PhaseResult,
    /// When it began, RFC 3339.
    pub(super) started_at: String,
    /// The steps of a search, or none.
    pub(super) search: Vec<SearchStep>,
    /// The rate of the step that is shown; `None`: that of the plan.
    pub(super) rate: Option<f64>,
    /// A remark if no step met the objectives.
    pub(super) note: Option<String>,
}

impl Measurement {
    fn of(phase: PhaseResult, started_at: String) -> Self {
        Self { phase, started_at, search: Vec::new(), rate: None, note: None }
    }
}

/// Runs all phases of the job.
pub(super) async fn drive(
    job: &Job,
    driver: &mut Driver,
    control: &mut faults::Control,
) -> Result<Measurement, RunError> {
    if let Some(step) = job.find_max {
        return find_max(job, driver, control, step).await;
    }
    // Wrong answers of the warm-up count as well.
    let mut early = Vec::new();
    if !job.warm_up.is_zero() {
        let from = if job.ramp.is_zero() { 1.0 } else { RAMP_FROM };
        let curves = curves(job, job.rate.map(|rate| rate * from), None, Duration::ZERO);
        let started_at = Timestamp::now().to_string();
        let warm_up = driver.phase(job, job.warm_up, curves, None).await?;
        if warm_up.stopped.is_some() {
            // The phase that ended the run is the result.
            return Ok(Measurement::of(warm_up, started_at));
        }
        early = warm_up.wrong;
    }
    let started_at = Timestamp::now().to_string();
    let curves = curves(job, job.rate, Some(job.duration), job.ramp);
    let mut phase = driver.phase(job, job.duration, curves, Some(control)).await?;
    phase.add_early(early);
    Ok(Measurement::of(phase, started_at))
}

/// One step of a search.
struct Step {
    phase: PhaseResult,
    started_at: String,
    rate: f64,
    /// Wrong answers, also while it settled.
    wrong: u64,
}

async fn find_max(
    job: &Job,
    driver: &mut Driver,
    control: &mut faults::Control,
    length: Duration,
) -> Result<Measurement, RunError> {
    let mut search = Search::new(job.rate.unwrap_or(SEARCH_RATE));
    let mut steps = Vec::new();
    let mut best: Option<Step> = None;
    let mut last: Option<Step> = None;
    // Wrong answers of steps that are not shown count as well.
    let mut elsewhere: Vec<Wrong> = Vec::new();
    while let Some(rate) = search.next() {
        driver.note(format!("search: {rate:.0}/s"));
        let step = run_step(job, driver, control, length, rate).await?;
        let summary = judge(job, &step);
        let held = summary.held;
        let verdict = if held { "held" } else { "not held" };
        driver.note(format!("search: {rate:.0}/s {verdict}, p99 {} us", summary.p99_us));
        steps.push(summary);
        search.record(held);
        let ends = step.wrong > 0 && job.ends_when_wrong || driver.is_interrupted();
        let place = if held { &mut best } else { &mut last };
        elsewhere.extend(place.replace(step).into_iter().flat_map(|step| step.phase.wrong));
        if ends {
            // The step that ended the run is the result.
            best = last.take().or(best);
            break;
        }
    }
    let note = best.is_none().then(|| "no rate met the objectives: the last step is shown".to_owned());
    let (shown, other) = match (best, last) {
        (Some(best), other) => (best, other),
        (None, Some(last)) => (last, None),
        (None, None) => return Err(RunError::Interrupted),
    };
    let Step { mut phase, started_at, rate, .. } = shown;
    elsewhere.extend(other.into_iter().flat_map(|step| step.phase.wrong));
    phase.add_early(elsewhere);
    Ok(Measurement { phase, started_at, search: steps, rate: Some(rate), note })
}

async fn run_step(
    job: &Job,
    driver: &mut Driver,
    control: &mut faults::Control,
    length: Duration,
    rate: f64,
) -> Result<Step, RunError> {
    // At an even rate: a day has no highest one.
    let curves = || curves(job, Some(rate), None, Duration::ZERO);
    let settle = (length / 5).max(SETTLE_MIN);
    let started_at = Timestamp::now().to_string();
    let settled = driver.phase(job, settle, curves(), None).await?;
    let wrong = wrong_answers(&settled);
    if settled.stopped.is_some() {
        return Ok(Step { phase: settled, started_at, rate, wrong });
    }
    let started_at = Timestamp::now().to_string();
    let mut phase = driver.phase(job, length, curves(), Some(control)).await?;
    let wrong = wrong + wrong_answers(&phase);
    phase.add_early(settled.wrong);
    Ok(Step { phase, started_at, rate, wrong })
}

/// The step as the result shows it, and whether it held: it met the objectives, kept up, and had no wrong
/// answer.
fn judge(job: &Job, step: &Step) -> SearchStep {
    let Step { phase, rate, wrong, .. } = step;
    let all = phase.grid.all();
    let failed = all.failed();
    let served = (all.requests - failed) as f64 / phase.length_s;
    let has_met = job.objectives.iter().all(|goal| goal.judge(&phase.grid, phase.length_s).held);
    let has_kept_up = served >= SERVED_SHARE_MIN * rate && phase.is_in_time;
    SearchStep {
        offered: *rate,
        served,
        p99_us: all.quantile(0.99),
        error_ratio: failed as f64 / all.requests.max(1) as f64,
        busiest_thread: phase.busiest,
        held: has_met && has_kept_up && *wrong == 0 && phase.stopped.is_none(),
    }
}

/// All wrong answers of a phase; its list holds only the first ones.
fn wrong_answers(phase: &PhaseResult) -> u64 {
    phase.grid.all().errors.get(&ErrorKind::Wrong).copied().unwrap_or(0)
}

/// The curve of each lane's rate; `None`: the closed model.
fn curves(job: &Job, rate: Option<f64>, day: Option<Duration>, ramp: Duration) -> Vec<Option<Curve>> {
    let day_s = day.filter(|_| job.spec.day).map(|day| day.as_secs_f64());
    let curve = |rate: f64| Curve { rate, ramp_s: ramp.as_secs_f64(), day_s };
    let lanes = job.spec.lanes.len();
    let part = match (job.writes, lanes) {
        (Writes::Part(part), 2) => part,
        _ => 0.0,
    };
    let mut all = vec![rate.map(|rate| curve(rate * (1.0 - part)))];
    if lanes == 2 {
        all.push(match job.writes {
            Writes::Part(part) => rate.map(|rate| curve(rate * part)),
            Writes::Rate(rate) => Some(Curve { rate, ramp_s: 0.0, day_s: None }),
            Writes::Closed => None,
        });
    }
    all
}
