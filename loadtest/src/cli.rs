//! The command line.
//!
//! Exit status: 0 success, and all objectives held; 1 an objective did not hold, an answer was wrong, no
//! request was served, a node never refused a revoked token, users are left, or the command failed; 2 wrong
//! usage.

mod args;
mod read;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use crate::{ceiling, compare, job::Job, print, report, result, result::RunResult, run};

/// Runs the command of this process.
#[must_use]
pub fn main() -> ExitCode {
    let matches = match args::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = match matches.subcommand() {
        Some(("compare", matches)) => compare_files(matches),
        Some(("report", matches)) => write_report(matches),
        Some(("ceiling", matches)) => read::ceiling(matches).map_err(Failure::Usage).and_then(|settings| {
            let text = ceiling::measure(&settings).map_err(|error| Failure::Failed(error.to_string()))?;
            print::result(&text);
            Ok(ExitCode::SUCCESS)
        }),
        Some((ceiling::SERVE, matches)) => {
            read::ceiling_server(matches).map_err(Failure::Usage).and_then(|cpu| {
                ceiling::serve(cpu).map_err(|error| Failure::Failed(error.to_string()))?;
                Ok(ExitCode::SUCCESS)
            })
        }
        Some((scenario, matches)) => read::job(scenario, matches).map_err(Failure::Usage).and_then(drive),
        None => Ok(ExitCode::from(2)),
    };
    match result {
        Ok(status) => status,
        Err(Failure::Usage(why)) => fail(2, &why),
        Err(Failure::Failed(why)) => fail(1, &why),
    }
}

enum Failure {
    Usage(String),
    Failed(String),
}

fn fail(status: u8, why: &str) -> ExitCode {
    print::status(why);
    ExitCode::from(status)
}

fn drive(job: Job) -> Result<ExitCode, Failure> {
    let failed = |error: std::io::Error| Failure::Failed(error.to_string());
    // Checked before an hour of load, not after it.
    for file in job.out.iter().chain(&job.report) {
        let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
        if directory.is_some_and(|directory| !directory.is_dir()) {
            return Err(Failure::Usage(format!("{}: no such directory", file.display())));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let out = job.out.clone();
    let report_file = job.report.clone();
    let outcome = runtime.block_on(async move {
        let interrupted = Arc::new(AtomicBool::new(false));
        tokio::spawn(await_signals(Arc::clone(&interrupted)));
        Box::pin(run::run(job, interrupted)).await
    });
    runtime.shutdown_background();
    let outcome = outcome.map_err(|error| Failure::Failed(error.to_string()))?;
    let result = &outcome.result;
    print::result(&crate::summary::format(result, &outcome.notes));
    if let Some(leftovers) = &outcome.leftovers {
        print::result(&format!("NOT CLEANED UP: {leftovers}"));
    }
    if let Some(file) = out {
        result::write(&file, result)
            .map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
    }
    if let Some(file) = report_file {
        let html = report::html(result);
        result::write_text(&file, &html)
            .map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
    }
    Ok(if outcome.leftovers.is_some() { ExitCode::FAILURE } else { status(result) })
}

/// 1 if an objective did not hold, an answer was wrong, or the run ended before its time or served no request.
fn status(result: &RunResult) -> ExitCode {
    let held = result.total.errors < result.total.requests
        && result.objectives.iter().all(|objective| objective.held)
        && result.wrong_answers() == 0
        && result.stopped.is_none()
        && result.pairs.iter().all(|pair| pair.refused.errors == 0)
        && (result.search.is_empty() || result.search.iter().any(|step| step.held));
    ExitCode::from(u8::from(!held))
}

/// The first Ctrl-C, SIGTERM or SIGHUP ends the run, which then cleans up. The second one ends the process at
/// once.
async fn await_signals(interrupted: Arc<AtomicBool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminated) = signal(SignalKind::terminate()) else { return };
    // A process that nohup started outlives the terminal.
    let mut hung_up = if ignores_hangup() { None } else { signal(SignalKind::hangup()).ok() };
    loop {
        let hangup = async {
            match &mut hung_up {
                Some(hung_up) => hung_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
            _ = hangup => {}
        }
        if interrupted.swap(true, Relaxed) {
            crate::faults::abandon();
            print::status("ended at once: the users of this run are left");
            std::process::exit(130);
        }
        print::status(
            "ending: deleting the users of this run (interrupt again to end at once and leave them)",
        );
    }
}

fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

fn compare_files(matches: &clap::ArgMatches) -> Result<ExitCode, Failure> {
    let read = |name: &str| {
        let path = matches.get_one::<String>(name).cloned().unwrap_or_default();
        result::read(path.as_ref()).map_err(|error| Failure::Failed(error.to_string()))
    };
    let comparison = compare::compare(&read("a")?, &read("b")?);
    if matches.get_flag("json") {
        print::result(
            &serde_json::to_string_pretty(&comparison).map_err(|error| Failure::Failed(error.to_string()))?,
        );
    } else {
        print::result(&comparison.to_string());
    }
    Ok(ExitCode::from(u8::from(comparison.is_worse())))
}

fn write_report(matches: &clap::ArgMatches) -> Result<ExitCode, Failure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let run = result::read(text("run").as_ref()).map_err(|error| Failure::Failed(error.to_string()))?;
    let file = text("html");
    result::write_text(file.as_ref(), &report::html(&run))
        .map_err(|error| Failure::Failed(format!("{file}: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Pair, Summary, sample};

    #[test]
    fn wrong_answer_or_lost_revocation_is_status_1() {
        let is_good = |change: &dyn Fn(&mut RunResult)| {
            let mut run = sample::run(1, 10, 2, 1.0);
            change(&mut run);
            format!("{:?}", status(&run)) == format!("{:?}", ExitCode::SUCCESS)
        };
        assert!(is_good(&|_| {}));
        // Only the first wrong answers are listed; this one is only counted.
        assert!(!is_good(&|run| *run.total.errors_by_kind.entry("wrong".into()).or_default() += 1));
        let pair = |errors| Pair { from: 0, to: 1, refused: Summary { errors, ..Summary::default() } };
        assert!(is_good(&|run| run.pairs = vec![pair(0)]));
        assert!(!is_good(&|run| run.pairs = vec![pair(0), pair(1)]));
    }
}
