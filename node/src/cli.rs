//! The command line.
//!
//! Commands for operators work while a node runs, through its control socket, and on the store
//! itself when none runs. Exit status: 0 done, 1 failed (one line on stderr that says what to do),
//! 2 wrong usage.

mod args;
mod check;
mod prompt;

use std::{collections::BTreeMap, io::Write as _, process::ExitCode, time::Duration};

use clap::ArgMatches;
use schema::KeyId;
use store_scylla::migration;

use crate::{
    app::{App, Purpose},
    clock::{SystemClock, SystemEntropy},
    control::{self, Answer},
    http, logging,
    operator::{Command, Done, NewSuperuser},
    serve,
    settings::{self, SPECS, Settings, Sources, StoreSetting},
};

/// How long a node may take to end, beside its drain grace.
const ENDED: Duration = Duration::from_secs(10);
/// How long a command waits until what it took away is in the ledger.
const FLUSH: Duration = Duration::from_secs(10);

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let matches = match args::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(msg)) => fail(2, &msg),
        Err(Failure::Failed(msg)) => fail(1, &msg),
    }
}

fn fail(status: u8, msg: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "palisade: {msg}");
    ExitCode::from(status)
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Why a command did not do what it should.
enum Failure {
    /// The command is wrong.
    Usage(String),
    /// It could not be done.
    Failed(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    // The innermost subcommand knows every global flag.
    let (path, leaf) = leaf(matches);
    if path == ["openapi"] {
        say(&http::openapi().to_pretty_json()?);
        return Ok(());
    }
    let (settings, warnings) = settings::read(&sources(leaf))?;
    let json = leaf.get_flag("json");
    match path.as_slice() {
        [] | ["serve"] => {
            logging::start(&settings.log);
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            let runtime = runtime()?;
            let served = runtime.block_on(serve::serve(settings));
            // Nothing that is under way is waited for any more.
            runtime.shutdown_background();
            Ok(served?)
        }
        ["check-config"] => {
            for warning in &warnings {
                let _ = fail(0, &format!("warning: {warning}"));
            }
            let done = Done {
                msg: "the settings are good".into(),
                result: serde_json::json!({ "warnings": warnings }),
            };
            show(&done, json);
            Ok(())
        }
        ["schema", what] => {
            show(&runtime()?.block_on(schema(&settings, what))?, json);
            Ok(())
        }
        ["store", "check"] => runtime()?.block_on(check::run(settings, leaf.get_flag("repair"), json)),
        command => {
            let command = operator_command(command, leaf)?;
            let done = runtime()?.block_on(operate(settings, command))?;
            show(&done, json);
            Ok(())
        }
    }
}

fn leaf(matches: &ArgMatches) -> (Vec<&str>, &ArgMatches) {
    let (mut path, mut leaf) = (Vec::new(), matches);
    while let Some((name, inner)) = leaf.subcommand() {
        path.push(name);
        leaf = inner;
    }
    (path, leaf)
}

fn sources(leaf: &ArgMatches) -> Sources {
    let flags = SPECS.iter().filter(|spec| spec.flag);
    let flags: BTreeMap<_, _> =
        flags.filter_map(|spec| Some((spec.name, leaf.get_one::<String>(spec.name)?.clone()))).collect();
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Sources { flags, environment, config: leaf.get_one("config").cloned() }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    // Blocking threads read the store (24 at most at a time) and do the upkeep.
    tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(64).build()
}

fn operator_command(path: &[&str], leaf: &ArgMatches) -> Result<Command, Failure> {
    let text = |name: &str| leaf.get_one::<String>(name).cloned();
    Ok(match path {
        ["app", "init"] => {
            let superuser = if leaf.get_flag("with-superuser") {
                Some(new_superuser(leaf, leaf.get_flag("promote"))?)
            } else {
                None
            };
            Command::AppInit { superuser }
        }
        ["superuser", "create"] => Command::SuperuserCreate(new_superuser(leaf, leaf.get_flag("promote"))?),
        ["superuser", "delete"] => Command::SuperuserDelete {
            email: prompt::line(text("email"), "--email", "Email")?,
            force: leaf.get_flag("force"),
        },
        ["cluster", "status"] => Command::ClusterStatus,
        ["cluster", "leave"] => Command::ClusterLeave,
        ["keys", "list"] => Command::KeysList,
        ["keys", "rotate"] => Command::KeysRotate,
        ["keys", "retire"] => {
            let kid = text("kid").unwrap_or_default();
            let kid = kid
                .parse::<KeyId>()
                .map_err(|_| Failure::Usage(format!("{kid:?} is no key id; see `palisade keys list`")))?;
            Command::KeysRetire { kid }
        }
        _ => return Err(Failure::Usage("there is no such command; see `palisade --help`".into())),
    })
}

fn new_superuser(leaf: &ArgMatches, promote: bool) -> Result<NewSuperuser, Failure> {
    let text = |name: &str| leaf.get_one::<String>(name).cloned();
    let email = prompt::line(text("email"), "--email", "Email")?;
    let given = text("password").or_else(|| std::env::var("PALISADE_SUPERUSER_PASSWORD").ok());
    let password = prompt::password(given, "--password (or PALISADE_SUPERUSER_PASSWORD)")?;
    Ok(NewSuperuser {
        email,
        password,
        first_name: text("first-name"),
        last_name: text("last-name"),
        promote,
    })
}

impl From<prompt::Missing> for Failure {
    fn from(missing: prompt::Missing) -> Self {
        Self::Usage(missing.0)
    }
}

async fn schema(settings: &Settings, what: &str) -> Result<Done, Failure> {
    let StoreSetting::Cql(config) = &settings.store else {
        return Err(Failure::Failed(
            "the embedded store migrates itself at the start; this is for a store cql://…".into(),
        ));
    };
    let report = match what {
        "migrate" => migration::migrate(config, &SystemClock, &SystemEntropy).await?,
        _ => migration::status(config).await?,
    };
    let msg = match report.pending.len() {
        0 => "the tables are up to date".into(),
        some => format!("migrations to be applied: {some}; run `palisade schema migrate`"),
    };
    let row = |number: i32, name: &str, applied_at: Option<String>| {
        serde_json::json!({
            "number": number.to_string(), "name": name,
            "state": if applied_at.is_some() { "applied" } else { "pending" }, "applied_at": applied_at,
        })
    };
    let applied = report.applied.iter().map(|one| row(one.number, &one.name, Some(one.at.to_string())));
    let pending = report.pending.iter().map(|one| row(one.number, one.name, None));
    Ok(Done { msg, result: applied.chain(pending).collect() })
}

/// By the node that runs, else on the store itself.
async fn operate(settings: Settings, command: Command) -> Result<Done, Failure> {
    match control::ask(&settings.data_dir, &command).await {
        Ok(Some(Answer::Done(done))) => {
            if matches!(command, Command::ClusterLeave) {
                let patience = settings.drain_grace + ENDED;
                if !control::has_ended(&settings.data_dir, patience).await {
                    return Err(Failure::Failed(format!(
                        "the node has not ended after {patience:?}; look at its log"
                    )));
                }
            }
            return Ok(done);
        }
        Ok(Some(Answer::Failed(msg))) => return Err(Failure::Failed(msg)),
        Ok(None) if matches!(command, Command::ClusterStatus | Command::ClusterLeave) => {
            return Err(Failure::Failed(format!("no node runs on {}", settings.data_dir.display())));
        }
        Ok(None) => {}
        Err(error) => {
            return Err(Failure::Failed(format!(
                "the node that runs here does not answer: {error}; look at its log"
            )));
        }
    }
    let app = App::start(settings).await?;
    app.backing.await_up().await?;
    app.come_up(Purpose::Operate).await?;
    let done = app.operate(command).await?;
    app.log.flush(FLUSH).await;
    Ok(done)
}

fn show(done: &Done, json: bool) {
    if json {
        say(&done.result.to_string());
        return;
    }
    say(&done.msg);
    // Lists of keys and the like, a line each.
    for row in done.result.as_array().into_iter().flatten() {
        let cells: Vec<_> =
            row.as_object().into_iter().flatten().filter_map(|(_, value)| value.as_str()).collect();
        say(&cells.join("  "));
    }
}
