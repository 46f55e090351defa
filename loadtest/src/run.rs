//! A run: creates accounts, drives threads through phases, turns their counts into the result, deletes the
//! accounts.
//!
//! Promises: whatever happens after the first user was created, users are deleted and processes that the tool
//! started are ended. Never blocks its runtime: calls and faults have threads of their own.

mod collect;
mod drive;
mod phase;
mod plan;
mod soak;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    client::Client,
    clock::{Clock, nanos, seconds},
    faults,
    job::{Job, Writes},
    print,
    record::{Cell, RequestKind},
    result::{FORMAT, Pair, Plan, RunResult, Tool},
    scenario::{NodePair, Scenario, propagation::Propagation, specs},
    screen::Screen,
    session_pool::{BatchPlan, PoolContext, SessionPool},
    test_accounts::{AccountsPlan, PreparedAccounts, TestAccounts},
};
use drive::Measurement;
use phase::{Driver, PhaseResult};

/// How long nodes that the tool started may take until they are ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// With bad tokens, one session in this many is made for each kind of them.
const BAD_SESSIONS_PART: usize = 10;
/// With bad tokens, the fewest sessions for each kind of them.
const BAD_SESSIONS_MIN: usize = 4;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RunError {
    #[error("{0}")]
    Call(#[from] crate::client::CallError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Deployment(String),
    #[error("interrupted before anything was measured")]
    Interrupted,
    #[error("{0}")]
    Broken(String),
}

/// How a run ended.
pub struct Outcome {
    /// The result.
    pub result: RunResult,
    /// Remarks for the user, which are not part of the result.
    pub notes: Vec<String>,
    /// What could not be deleted on the deployment.
    pub leftovers: Option<String>,
}

/// Latencies of revocations.
type Pairs = BTreeMap<NodePair, Cell>;

/// Runs the job. It ends early when `interrupted` is set.
pub async fn run(job: Job, interrupted: Arc<AtomicBool>) -> Result<Outcome, RunError> {
    let clock = Clock::start();
    let mut control = faults::Control::new(job.faults.as_ref().map(|schedule| schedule.nodes.clone()));
    let result = with_nodes(&job, clock, &interrupted, &mut control).await;
    for problem in blocking(move || control.end()).await.unwrap_or_else(|error| vec![error.to_string()]) {
        print::status(&problem);
    }
    result
}

async fn with_nodes(
    job: &Job,
    clock: Clock,
    interrupted: &Arc<AtomicBool>,
    control: &mut faults::Control,
) -> Result<Outcome, RunError> {
    control.start().map_err(RunError::Deployment)?;
    if control.has_started() {
        until_ready(job, clock, interrupted, control.failed()).await?;
    }
    let accounts = Arc::new(TestAccounts::new(clock, job.targets.clone(), Arc::clone(interrupted))?);
    let result = with_accounts(job, clock, interrupted, control, &accounts).await;
    // Users are deleted only after nodes that were paused or cut off are back.
    let problems = blocking(control.undo()).await;
    for problem in problems.unwrap_or_else(|error| vec![error.to_string()]) {
        print::status(&problem);
    }
    let deleted = blocking(move || accounts.delete()).await?;
    match (result, deleted) {
        (Ok(mut outcome), deleted) => {
            match deleted {
                Ok(count) => outcome.notes.push(format!("{count} users were deleted again")),
                Err(leftovers) => outcome.leftovers = Some(leftovers),
            }
            Ok(outcome)
        }
        (Err(error), deleted) => {
            if let Err(leftovers) = deleted {
                print::status(&leftovers);
            }
            Err(error)
        }
    }
}

/// Waits until all targets are ready. `failed` names a node that has ended.
async fn until_ready(
    job: &Job,
    clock: Clock,
    interrupted: &Arc<AtomicBool>,
    failed: impl Fn() -> Option<String> + Send + 'static,
) -> Result<(), RunError> {
    let targets = job.targets.clone();
    let interrupted = Arc::clone(interrupted);
    let end = clock.now() + nanos(READY_TIMEOUT);
    blocking(move || {
        for target in targets {
            let mut client = Client::new(target.clone());
            while !client.call("GET", "/health/ready", None, None).is_ok_and(|reply| reply.status == 200) {
                if interrupted.load(Relaxed) {
                    return Err(RunError::Interrupted);
                }
                if let Some(why) = failed() {
                    return Err(RunError::Deployment(why));
                }
                if clock.now() > end {
                    let why = format!("{} was not ready within {READY_TIMEOUT:?}", target.url);
                    return Err(RunError::Deployment(why));
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

fn accounts_plan(job: &Job) -> AccountsPlan {
    let counts = job.accounts;
    let mix = job.spec.mix(job.bad_tokens, false);
    let has = |kind| mix.iter().flatten().any(|(asked, _)| *asked == kind);
    let sessions = (counts.users * counts.sessions / BAD_SESSIONS_PART).max(BAD_SESSIONS_MIN);
    let bad_sessions = |kind, percent: f64| if has(kind) && percent > 0.0 { sessions } else { 0 };
    AccountsPlan {
        counts,
        revoked: bad_sessions(RequestKind::ValidateRevoked, job.bad_tokens.revoked),
        expired: bad_sessions(RequestKind::ValidateExpired, job.bad_tokens.expired),
        permissions: has(RequestKind::Check),
        admin: job.admin.clone(),
    }
}

async fn with_accounts(
    job: &Job,
    clock: Clock,
    interrupted: &Arc<AtomicBool>,
    control: &mut faults::Control,
    accounts: &Arc<TestAccounts>,
) -> Result<Outcome, RunError> {
    let wanted = accounts_plan(job);
    print::status(&format!(
        "making {} users with {} sessions each, named {}-*@loadtest.invalid",
        wanted.counts.users,
        wanted.counts.sessions,
        accounts.prefix()
    ));
    let maker = Arc::clone(accounts);
    let seed = job.seed;
    let prepared = blocking(move || maker.prepare(&wanted, seed)).await??;
    if interrupted.load(Relaxed) {
        return Err(RunError::Interrupted);
    }
    let mut notes = prepared.notes.clone();
    let scenarios = scenarios(job, clock, accounts, prepared);
    let plan = plan::plan(job);
    let urls: Vec<String> = job.targets.iter().map(|target| target.url.clone()).collect();
    let screen = Screen::start(&job.scenario, &plan, &urls);
    let mut driver = Driver::start(job, clock, scenarios, Arc::clone(interrupted), screen)?;
    let measured = drive::drive(job, &mut driver, control).await;
    let (pairs, screen) = blocking(move || driver.end()).await?;
    screen.end();
    let mut measured = measured?;
    notes.extend(measured.phase.late_note());
    notes.extend(batch_note(job, &measured.phase));
    notes.extend(measured.note.take());
    notes.append(&mut measured.phase.notes);
    Ok(Outcome { result: result(job, plan, urls, measured, pairs), notes, leftovers: None })
}

/// How many tokens a second batches asked about.
fn batch_note(job: &Job, phase: &PhaseResult) -> Option<String> {
    let size = job.batch?;
    let batches = phase.grid.by_kind().into_iter().find(|(kind, _)| *kind == RequestKind::Batch);
    let served = batches.map_or(0, |(_, cell)| cell.requests - cell.failed());
    let tokens = served as f64 * size as f64 / phase.length_s;
    Some(format!("{size} tokens a request: {tokens:.0} tokens a second"))
}

fn result(job: &Job, plan: Plan, urls: Vec<String>, measured: Measurement, pairs: Pairs) -> RunResult {
    let Measurement { phase, started_at, search, rate, .. } = measured;
    let length_s = phase.length_s;
    let summary = |cell: &Cell| cell.summary(length_s);
    let by_kind = phase.grid.by_kind();
    let pairs =
        pairs.into_iter().map(|(NodePair { from, to }, cell)| Pair { from, to, refused: summary(&cell) });
    let objectives = job.objectives.iter().map(|goal| goal.judge(&phase.grid, length_s));
    RunResult {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        scenario: job.scenario.clone(),
        command: job.command.clone(),
        started_at,
        machine: plan::machine(),
        tool: Some(Tool { threads: job.threads, busiest_thread: phase.busiest }),
        targets: urls,
        plan: Plan { rate: rate.or(plan.rate), ..plan },
        seconds: phase.seconds,
        total: summary(&phase.grid.all()),
        by_kind: by_kind.iter().map(|(kind, cell)| (kind.name().to_owned(), summary(cell))).collect(),
        by_target: phase.grid.by_target().iter().map(summary).collect(),
        pairs: pairs.collect(),
        faults: phase.faults,
        wrong: phase.wrong,
        objectives: objectives.chain(phase.drift).collect(),
        search,
        stopped: phase.stopped,
    }
}

/// A scenario for each thread, with its share of the accounts.
fn scenarios(
    job: &Job,
    clock: Clock,
    accounts: &TestAccounts,
    prepared: PreparedAccounts,
) -> Vec<Box<dyn Scenario>> {
    let batch = BatchPlan { size: job.batch.unwrap_or(1), kinds: job.bad_tokens.batch_mix() };
    let mut mix = job.spec.mix(job.bad_tokens, job.batch.is_some());
    if matches!(job.writes, Writes::Part(part) if part <= 0.0) {
        // The second lane never gets a request, so the first one has to renew tokens.
        mix.truncate(1);
    }
    let permissions = prepared.permissions.clone();
    let password = accounts.password.clone();
    let mut context = PoolContext::new(job.targets.clone(), password, permissions, mix, batch, job.zipf);
    context.largest = prepared.largest.into();
    let context = Arc::new(context);
    let now = clock.now();
    let scenario = |(share, thread): (_, u64)| {
        let seed = job.seed ^ (thread << 48);
        let pool = SessionPool::new(Arc::clone(&context), share, seed, now);
        if job.spec.name == specs::PROPAGATION {
            Box::new(Propagation::new(pool, job.targets.len())) as Box<dyn Scenario>
        } else {
            Box::new(pool)
        }
    };
    prepared.divide(job.threads).into_iter().zip(1..).map(scenario).collect()
}

/// Seconds from `begin` to `at`.
fn since(begin: u64, at: u64) -> f64 {
    seconds(at.saturating_sub(begin))
}
