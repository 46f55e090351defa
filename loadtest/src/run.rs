//! A run: people are made, threads are driven through phases, what they count becomes the result, people
//! are deleted.
//!
//! Promises: whatever happens after the first user was made, users are deleted and what was started is ended.
//! Never blocks its runtime: calls and faults have threads of their own.

mod collect;
mod phase;
mod soak;
pub mod threads;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    client::Client,
    clock::{Clock, seconds},
    crowd::{Common, Crowd},
    faults,
    job::{Job, Protocol, Writes},
    pace::{Curve, RAMP_FROM},
    people::{People, Wanted},
    record::{Fault, Kind},
    result::{Detail, FORMAT, Machine, Objective, Pair, Plan, RunResult, SearchStep, Tool},
    scenario::{Scenario, propagation::Propagation, shapes},
    screen::Screen,
    search::Search,
};
use phase::{Driver, Phased};

/// How long nodes that were started may take until they are ready.
const READY: Duration = Duration::from_secs(60);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RunError {
    #[error("{0}")]
    Call(#[from] crate::client::CallError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Fault(String),
    #[error("interrupted before anything was measured")]
    Interrupted,
    #[error("{0}")]
    Broken(String),
}

/// What a run came to.
pub struct Outcome {
    /// The result.
    pub result: RunResult,
    /// What is to be said beside it.
    pub notes: Vec<String>,
    /// What is left of the run on the deployment.
    pub left: Option<String>,
}

/// Runs it. `interrupted`: somebody wants it to end.
pub async fn run(job: Job, interrupted: Arc<AtomicBool>) -> Result<Outcome, RunError> {
    let clock = Clock::start();
    let mut control = faults::Control::new(job.faults.as_ref().map(|schedule| schedule.nodes.clone()));
    let result = with_nodes(&job, clock, &interrupted, &mut control).await;
    // Those that were started by the tool.
    for left in blocking(move || control.end()).await.unwrap_or_else(|error| vec![error.to_string()]) {
        say(&left);
    }
    result
}

async fn with_nodes(
    job: &Job,
    clock: Clock,
    interrupted: &Arc<AtomicBool>,
    control: &mut faults::Control,
) -> Result<Outcome, RunError> {
    control.start().map_err(RunError::Fault)?;
    if control.has_started() {
        until_ready(job, clock, interrupted, control.failed()).await?;
    }
    let people = Arc::new(People::new(clock, job.targets.clone(), Arc::clone(interrupted))?);
    let result = with_people(job, clock, interrupted, control, &people).await;
    // Not before nodes that were paused or cut off are what they were.
    let mended = blocking(control.mending()).await;
    for problem in mended.unwrap_or_else(|error| vec![error.to_string()]) {
        say(&problem);
    }
    let removed = blocking(move || people.remove()).await?;
    match (result, removed) {
        (Ok(mut outcome), removed) => {
            match removed {
                Ok(count) => outcome.notes.push(format!("{count} users were deleted again")),
                Err(left) => outcome.left = Some(left),
            }
            Ok(outcome)
        }
        (Err(error), removed) => {
            if let Err(left) = removed {
                say(&left);
            }
            Err(error)
        }
    }
}

async fn until_ready(
    job: &Job,
    clock: Clock,
    interrupted: &Arc<AtomicBool>,
    failed: impl Fn() -> Option<String> + Send + 'static,
) -> Result<(), RunError> {
    let (targets, interrupted) = (job.targets.clone(), Arc::clone(interrupted));
    let end = clock.now() + crate::clock::nanos(READY);
    blocking(move || {
        for target in targets {
            let mut client = Client::new(target.clone());
            while !client.call("GET", "/health/ready", None, None).is_ok_and(|reply| reply.status == 200) {
                if interrupted.load(Relaxed) {
                    return Err(RunError::Interrupted);
                }
                if let Some(why) = failed() {
                    return Err(RunError::Fault(why));
                }
                if clock.now() > end {
                    return Err(RunError::Fault(format!("{} was not ready within {READY:?}", target.url)));
                }
                crate::client::pause();
            }
        }
        Ok(())
    })
    .await?
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RunError::Broken(error.to_string()))
}

fn wanted(job: &Job) -> Wanted {
    let (users, sessions, tokens) = job.people;
    let asks = |deed| job.shape.mix(job.bad, false).iter().flatten().any(|(asked, _)| *asked == deed);
    let bad =
        |deed, percent: f64| if asks(deed) && percent > 0.0 { (users * sessions / 10).max(4) } else { 0 };
    Wanted {
        users,
        sessions,
        tokens,
        revoked: bad(crate::crowd::Deed::Revoked, job.bad.revoked),
        expired: bad(crate::crowd::Deed::Expired, job.bad.expired),
        permissions: asks(crate::crowd::Deed::Check),
        admin: job.admin.clone(),
    }
}

async fn with_people(
    job: &Job,
    clock: Clock,
    interrupted: &Arc<AtomicBool>,
    control: &mut faults::Control,
    people: &Arc<People>,
) -> Result<Outcome, RunError> {
    let wanted = wanted(job);
    say(&format!(
        "making {} users with {} sessions each, named {}-*@loadtest.invalid",
        wanted.users,
        wanted.sessions,
        people.prefix()
    ));
    let maker = Arc::clone(people);
    let seed = job.seed;
    let ready = blocking(move || maker.make(&wanted, seed)).await??;
    if interrupted.load(Relaxed) {
        return Err(RunError::Interrupted);
    }
    let mut notes = ready.notes.clone();
    let scenarios = scenarios(job, clock, people, ready);
    let plan = plan(job);
    let urls: Vec<String> = job.targets.iter().map(|target| target.url.clone()).collect();
    let screen = Screen::start(&job.scenario, &plan, &urls);
    let mut driver = Driver::start(job, clock, scenarios, Arc::clone(interrupted), screen)?;
    let driven = drive(job, &mut driver, control).await;
    let (pairs, screen) = blocking(move || driver.end()).await?;
    screen.end();
    let Driven { phased, started_at, search, rate, best_missing } = driven?;
    if let Some(note) = phased.late_note() {
        notes.push(note);
    }
    let length = phased.length_s;
    if let Some(batch) = job.batch {
        let batches = phased.grid.by_kind().into_iter().find(|(kind, _)| *kind == Kind::Batch);
        let served = batches.map_or(0, |(_, cell)| cell.requests - cell.failed());
        let tokens = served as f64 * batch as f64 / length;
        notes.push(format!("{batch} tokens a request: {tokens:.0} tokens a second"));
    }
    let mut objectives: Vec<Objective> =
        job.objectives.iter().map(|goal| goal.judge(&phased.grid, length)).collect();
    if let Some(what) = best_missing {
        notes.push(what);
    }
    objectives.extend(phased.drift);
    notes.extend(phased.notes);
    let pairs = pairs.into_iter().map(|((from, to), cell)| Pair { from, to, refused: cell.summary(length) });
    let result = RunResult {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        scenario: job.scenario.clone(),
        command: job.command.clone(),
        started_at,
        machine: machine(),
        tool: Some(Tool { threads: job.threads, busiest_thread: phased.busiest }),
        targets: urls,
        plan: Plan { rate: rate.or(plan.rate), ..plan },
        seconds: phased.seconds,
        total: phased.grid.all().summary(length),
        by_kind: phased
            .grid
            .by_kind()
            .into_iter()
            .map(|(kind, cell)| (kind.name().to_owned(), cell.summary(length)))
            .collect(),
        by_target: phased.grid.by_target().iter().map(|cell| cell.summary(length)).collect(),
        pairs: pairs.collect(),
        faults: phased.faults,
        wrong: phased.wrong,
        objectives,
        search,
        stopped: phased.stopped,
    };
    Ok(Outcome { result, notes, left: None })
}

fn scenarios(
    job: &Job,
    clock: Clock,
    people: &People,
    ready: crate::people::Ready,
) -> Vec<Box<dyn Scenario>> {
    let threads = job.threads;
    let batch = (job.batch.unwrap_or(1), job.bad.of_batch());
    let mut mix = job.shape.mix(job.bad, job.batch.is_some());
    if matches!(job.writes, Writes::Part(part) if part <= 0.0) {
        // The first lane renews what expires: the second one is never asked.
        mix.truncate(1);
    }
    let permissions = ready.permissions.clone();
    let largest = ready.largest;
    let mut common =
        Common::new(job.targets.clone(), people.password.clone(), permissions, mix, batch, job.zipf);
    common.largest = largest.into();
    let common = Arc::new(common);
    let seeds = ready.share_out(threads);
    let now = clock.now();
    let each = seeds.into_iter().zip(1_u64..).map(|(seeds, thread)| {
        let seed = job.seed ^ (thread << 48);
        let crowd = Crowd::new(Arc::clone(&common), seeds, seed, now);
        if job.shape.name == shapes::PROPAGATION {
            Box::new(Propagation::new(crowd, job.targets.len())) as Box<dyn Scenario>
        } else {
            Box::new(crowd)
        }
    });
    each.collect()
}

/// What came out of the phases.
struct Driven {
    phased: Phased,
    started_at: String,
    search: Vec<SearchStep>,
    rate: Option<f64>,
    best_missing: Option<String>,
}

async fn drive(job: &Job, driver: &mut Driver, control: &mut faults::Control) -> Result<Driven, RunError> {
    if let Some(step) = job.find_max {
        return search(job, driver, control, step).await;
    }
    // Wrong answers of the warm-up: they are as wrong.
    let mut early = Vec::new();
    if !job.warm_up.is_zero() {
        let from = if job.ramp.is_zero() { 1.0 } else { RAMP_FROM };
        let curves = curves(job, job.rate.map(|rate| rate * from), None, Duration::ZERO);
        let started_at = Timestamp::now().to_string();
        let phased = driver.phase(job, job.warm_up, curves, None).await?;
        if phased.stopped.is_some() {
            // What ended it is the result.
            return Ok(Driven { phased, started_at, search: Vec::new(), rate: None, best_missing: None });
        }
        early = phased.wrong;
    }
    let started_at = Timestamp::now().to_string();
    let curves = curves(job, job.rate, Some(job.duration), job.ramp);
    let mut phased = driver.phase(job, job.duration, curves, Some(control)).await?;
    phased.add_early(early);
    Ok(Driven { phased, started_at, search: Vec::new(), rate: None, best_missing: None })
}

async fn search(
    job: &Job,
    driver: &mut Driver,
    control: &mut faults::Control,
    step: Duration,
) -> Result<Driven, RunError> {
    let mut search = Search::new(job.rate.unwrap_or(1_000.0));
    let mut steps = Vec::new();
    let mut best: Option<(Phased, String, f64)> = None;
    let mut last: Option<(Phased, String, f64)> = None;
    // Wrong answers of steps that are not shown: they are as wrong.
    let mut elsewhere = Vec::new();
    while let Some(rate) = search.next() {
        driver.note(format!("search: {rate:.0}/s"));
        let settle = (step / 5).max(Duration::from_secs(1));
        let started_at = Timestamp::now().to_string();
        let settled = driver.phase(job, settle, curves(job, Some(rate), None, Duration::ZERO), None).await?;
        let mut wrong = wrong_in(&settled);
        let (phased, started_at) = if settled.stopped.is_some() {
            (settled, started_at)
        } else {
            let started_at = Timestamp::now().to_string();
            // At an even rate: a day has no highest one.
            let curves = curves(job, Some(rate), None, Duration::ZERO);
            let mut phased = driver.phase(job, step, curves, Some(&mut *control)).await?;
            wrong += wrong_in(&phased);
            phased.add_early(settled.wrong);
            (phased, started_at)
        };
        let all = phased.grid.all();
        let failed = all.failed();
        let served = (all.requests - failed) as f64 / phased.length_s;
        let goals = job.objectives.iter().all(|goal| goal.judge(&phased.grid, phased.length_s).held);
        let kept_up = served >= 0.98 * rate && phased.is_in_time;
        let held = goals && kept_up && wrong == 0 && phased.stopped.is_none();
        steps.push(SearchStep {
            offered: rate,
            served,
            p99_us: all.quantile(0.99),
            error_ratio: failed as f64 / all.requests.max(1) as f64,
            busiest_thread: phased.busiest,
            held,
        });
        let verdict = if held { "held" } else { "not held" };
        driver.note(format!("search: {rate:.0}/s {verdict}, p99 {} us", all.quantile(0.99)));
        search.tell(held);
        let ends = wrong > 0 && job.ends_when_wrong || driver.is_interrupted();
        let place = if held { &mut best } else { &mut last };
        elsewhere.extend(place.replace((phased, started_at, rate)).map(|(phased, ..)| phased.wrong));
        if ends {
            // What ended it is the result.
            best = last.take().or(best);
            break;
        }
    }
    let missing = best.is_none().then(|| "no rate met the objectives: the last step is shown".to_owned());
    let ((mut phased, started_at, rate), other) = match (best, last) {
        (Some(best), other) => (best, other),
        (None, Some(last)) => (last, None),
        (None, None) => return Err(RunError::Interrupted),
    };
    elsewhere.extend(other.map(|(phased, ..)| phased.wrong));
    phased.add_early(elsewhere.concat());
    Ok(Driven { phased, started_at, search: steps, rate: Some(rate), best_missing: missing })
}

/// All of them: those that are told are only the first ones.
fn wrong_in(phased: &Phased) -> u64 {
    phased.grid.all().errors.get(&Fault::Wrong).copied().unwrap_or(0)
}

/// The arrivals of each lane.
fn curves(job: &Job, rate: Option<f64>, day: Option<Duration>, ramp: Duration) -> Vec<Option<Curve>> {
    let day_s = day.filter(|_| job.shape.day).map(|day| day.as_secs_f64());
    let curve = |rate: f64| Curve { rate, ramp_s: ramp.as_secs_f64(), day_s };
    let lanes = job.shape.lanes.len();
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

fn plan(job: &Job) -> Plan {
    Plan {
        model: if job.rate.is_some() || job.find_max.is_some() { "open" } else { "closed" }.to_owned(),
        rate: job.rate,
        connections: job.connections + if job.shape.lanes.len() == 2 { job.write_connections } else { 0 },
        protocol: job.protocol.name().to_owned(),
        warm_up_s: if job.find_max.is_some() { 0.0 } else { job.warm_up.as_secs_f64() },
        duration_s: job.find_max.unwrap_or(job.duration).as_secs_f64(),
        ramp_s: job.ramp.as_secs_f64(),
        users: job.people.0,
        seed: job.seed,
        detail: Some(detail(job)),
    }
}

fn detail(job: &Job) -> Detail {
    let writes = match job.writes {
        _ if job.shape.lanes.len() < 2 => "none".to_owned(),
        Writes::Part(part) => crate::report::words::percent(part),
        Writes::Rate(rate) => format!("{}/s", crate::report::words::rate(rate)),
        Writes::Closed => "as answers come".to_owned(),
    };
    Detail {
        depth: job.depth,
        batch: job.batch,
        revoked: job.bad.revoked,
        forged: job.bad.forged,
        expired: job.bad.expired,
        writes,
        zipf: job.zipf,
        sessions: job.people.1,
        tokens: job.people.2,
        timeout_s: job.timeout.as_secs_f64(),
    }
}

/// Where the tool runs.
#[must_use]
pub fn machine() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    Machine {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        cpu: cpu.unwrap_or(std::env::consts::ARCH).to_owned(),
        os: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
    }
}

/// To whom it may concern, before and after the screen.
pub fn say(what: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "palisade-loadtest: {what}");
}

type Pairs = BTreeMap<(usize, usize), crate::record::Cell>;

fn since(begin: u64, at: u64) -> f64 {
    seconds(at.saturating_sub(begin))
}

const fn is_h2c(job: &Job) -> bool {
    matches!(job.protocol, Protocol::H2c)
}
