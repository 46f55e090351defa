//! The command line.
//!
//! Operator commands work through the control socket while a node runs, and on the store itself if none runs.
//! Exit status: 0 done, 1 failed (one line on stderr that says what to do), 2 wrong usage.

mod args;
mod check;
mod copy;
mod echo;
mod health;
mod output;
mod prompt;
mod quickstart;

use std::{collections::BTreeMap, fmt, panic, path::Path, process::ExitCode, time::Duration};

use clap::ArgMatches;
use schema::{KeyId, email::Email};
use store_scylla::migration;
use zeroize::Zeroizing;

use crate::{
    app::{App, Purpose},
    boot::{inspect::Inspected, machine, serve, signals},
    clock::{SystemClock, SystemEntropy},
    credentials::passwords::Normalized,
    http, logging,
    metrics::Metrics,
    operator::{
        Command, Done, NewSuperuser, OperatorError,
        control::{self, Answer},
    },
    settings::{self, SPECS, Settings, Sources, StoreSetting},
    storage::data_dir,
    traces,
};

/// How long a node may take to shut down, in addition to its drain grace.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a command waits until the ledger has its revocations.
const LEDGER_FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the process waits at exit until stderr has accepted the remaining log lines.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the process waits at exit until the collector has taken the last spans.
const TRACES_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    signals::unblock();
    let done = match args::command().try_get_matches() {
        Ok(matches) => run(&matches),
        Err(error) if error.use_stderr() => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        // The user asked for help or the version.
        Err(help) => output::print(help.render().to_string().trim_end()),
    };
    let status = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure.to_string());
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    };
    traces::flush(TRACES_FLUSH_TIMEOUT);
    logging::flush(LOG_FLUSH_TIMEOUT);
    status
}

/// The reason why a command failed.
enum Failure {
    /// The command line is wrong.
    Usage(String),
    /// The command could not be done.
    Failed(String),
    /// The output of the command could not be written.
    Lost {
        /// The error of stdout.
        why: String,
        /// Whether the command itself was done.
        is_done: bool,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(msg) | Self::Failed(msg) => f.write_str(msg),
            Self::Lost { why, is_done } => {
                let done = if *is_done { "; the command itself was carried out" } else { "" };
                write!(f, "the output is lost, since stdout cannot be written: {why}{done}")
            }
        }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    // The innermost subcommand knows every global flag.
    let (path, leaf) = leaf(matches);
    match path.as_slice() {
        ["openapi"] => return output::print(&http::openapi().to_pretty_json()?),
        ["settings"] => return output::print(settings::document().trim_end()),
        _ => {}
    }
    let sources = sources(leaf);
    let (settings, warnings) = settings::read(&sources)?;
    let json = leaf.get_flag("json");
    let context = CommandLine { leaf, sources: &sources, settings: &settings };
    match path.as_slice() {
        [] | ["serve"] => {
            machine::check_node(&settings)?;
            start_logging(&settings, &warnings)?;
            Ok(until_told_to_stop(serve::serve(settings))??)
        }
        ["quickstart"] => {
            quickstart::check(&settings)?;
            machine::check(&settings)?;
            let plan = context.quickstart(json)?;
            start_logging(&settings, &warnings)?;
            until_told_to_stop(quickstart::serve(settings, plan))?
        }
        ["check-config"] => output::show(&check_config(&settings, &warnings)?, json),
        ["health"] => {
            let done = runtime()?.block_on(health::health(&settings, leaf.get_flag("live")))?;
            output::show(&done, json)
        }
        ["store", "check"] => runtime()?.block_on(check::run(settings, leaf.get_flag("repair"), json)),
        ["store", "copy"] => {
            let ends = copy::Ends::of(&context)?;
            output::show(&runtime()?.block_on(copy::run(ends))?, json)
        }
        ["schema", what] => output::show(&runtime()?.block_on(schema(&settings, what))?, json),
        command => {
            let command = context.operator_command(command)?;
            let done = runtime()?.block_on(operate(settings, command))?;
            output::show(&done, json)
        }
    }
}

/// Checks what a start of a node checks, and what it would meet in the data directory.
fn check_config(settings: &Settings, warnings: &[String]) -> Result<Done, Failure> {
    machine::check_node(settings)?;
    // A damaged store may make its library panic. The error says so.
    panic::set_hook(Box::new(|_| {}));
    let inspected = machine::inspect(settings);
    drop(panic::take_hook());
    let msg = match inspected? {
        Inspected::Good => "the settings are good",
        Inspected::InUse => {
            "the settings are good; the data directory is in use, so what it holds was not checked"
        }
    };
    for warning in warnings {
        output::complain(&format!("warning: {warning}"));
    }
    Ok(Done { msg: msg.into(), result: serde_json::json!({ "warnings": warnings }) })
}

fn start_logging(settings: &Settings, warnings: &[String]) -> Result<(), logging::StartError> {
    logging::start(&settings.log, settings.traces.as_ref())?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(())
}

/// Runs a future to its end. Tasks that are still running then are not awaited.
fn until_told_to_stop<T>(node: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = runtime()?;
    let served = runtime.block_on(node);
    runtime.shutdown_background();
    Ok(served)
}

fn leaf(matches: &ArgMatches) -> (Vec<&str>, &ArgMatches) {
    let mut path = Vec::new();
    let mut leaf = matches;
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
    Sources::of_this_process(flags, leaf.get_one("config").cloned())
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    // Blocking threads read the store (at most 24 at a time) and do the upkeep.
    tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(64).build()
}

/// The command line and the settings that it applies to.
struct CommandLine<'a> {
    leaf: &'a ArgMatches,
    sources: &'a Sources,
    settings: &'a Settings,
}

impl CommandLine<'_> {
    fn text(&self, name: &str) -> Option<String> {
        self.leaf.get_one::<String>(name).cloned()
    }

    fn operator_command(&self, path: &[&str]) -> Result<Command, Failure> {
        Ok(match path {
            ["app", "init"] => {
                let with_superuser = self.leaf.get_flag("with-superuser");
                Command::AppInit { superuser: with_superuser.then(|| self.new_superuser()).transpose()? }
            }
            ["superuser", "create"] => {
                require_store(self.settings)?;
                Command::SuperuserCreate(self.new_superuser()?)
            }
            ["superuser", "delete"] => {
                require_store(self.settings)?;
                Command::SuperuserDelete {
                    email: prompt::line(self.text("email"), "--email", "Email")?,
                    force: self.leaf.get_flag("force"),
                }
            }
            ["cluster", "status"] => Command::ClusterStatus,
            ["cluster", "leave"] => Command::ClusterLeave,
            ["limits", "list"] => Command::LimitsList,
            ["limits", "clear"] => Command::LimitsClear { subject: self.text("subject").unwrap_or_default() },
            ["keys", "list"] => Command::KeysList,
            ["keys", "rotate"] => Command::KeysRotate,
            ["keys", "retire"] => {
                let kid = self.text("kid").unwrap_or_default();
                let kid = kid
                    .parse::<KeyId>()
                    .map_err(|_| Failure::Usage(format!("{kid:?} is no key id; see `palisade keys list`")))?;
                Command::KeysRetire { kid }
            }
            _ => return Err(Failure::Usage("there is no such command; see `palisade --help`".into())),
        })
    }

    /// The superuser from flags and variables; prompts at a terminal for what is missing.
    fn new_superuser(&self) -> Result<NewSuperuser, Failure> {
        let email = email(prompt::line(self.text("email"), "--email", "Email")?)?;
        let first_name = prompt::optional_line(self.text("first-name"), "First name")?;
        let last_name = prompt::optional_line(self.text("last-name"), "Last name")?;
        let password = prompt::password(self.given_password()?, PASSWORD)?;
        Normalized::new(&password).map_err(OperatorError::Password)?;
        let promote = self.leaf.get_flag("promote");
        Ok(NewSuperuser { email, password: password.to_string(), first_name, last_name, promote })
    }

    /// The plan of a quickstart. It prompts for nothing except, with `--ask-password`, the password.
    fn quickstart(&self, json: bool) -> Result<quickstart::Plan, Failure> {
        let given = |name| self.text(name).filter(|text| !text.is_empty());
        let password = match self.given_password()? {
            None if self.leaf.get_flag("ask-password") => Some(prompt::password(None, PASSWORD)?),
            given => given,
        };
        if let Some(password) = &password {
            Normalized::new(password).map_err(OperatorError::Password)?;
        }
        Ok(quickstart::Plan {
            email: email(given("email").unwrap_or_else(|| quickstart::EMAIL.to_owned()))?,
            first_name: given("first-name"),
            last_name: given("last-name"),
            password,
            json,
        })
    }

    fn given_password(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        let flag = self.text("password").filter(|text| !text.is_empty()).map(Zeroizing::new);
        Ok(flag.or(self.sources.superuser_password()?))
    }
}

const PASSWORD: &str = "--password, PALISADE_SUPERUSER_PASSWORD or PALISADE_SUPERUSER_PASSWORD_FILE";

/// Validates an email before the command prompts for or creates anything.
fn email(text: String) -> Result<String, Failure> {
    match text.parse::<Email>() {
        Ok(_) => Ok(text),
        Err(why) => Err(OperatorError::Email(text, why).into()),
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

/// Fails if there is no store: only some commands create one.
fn require_store(settings: &Settings) -> Result<(), Failure> {
    let directory = data_dir::locate(&settings.data_dir);
    match settings.store {
        StoreSetting::Embedded if !data_dir::has_store(&directory)? => Err(no_store(&directory)),
        _ => Ok(()),
    }
}

fn no_store(directory: &Path) -> Failure {
    Failure::Failed(format!(
        "there is no store in {}: check PALISADE_DATA_DIR, or make one with `palisade app init`, `palisade serve` \
         or `palisade quickstart`",
        directory.display()
    ))
}

/// Fails if a database lacks tables; [`require_store`] has checked for an embedded store.
async fn require_tables(config: &store_scylla::Config) -> Result<(), Failure> {
    // A database that is unreachable now is awaited later, as for any command.
    let Ok(report) = migration::status(config).await else { return Ok(()) };
    let missing = match (report.applied.is_empty(), report.pending.is_empty()) {
        (_, true) => return Ok(()),
        (true, false) => "there is no store in the keyspace of PALISADE_STORE",
        (false, false) => "the store is that of an older version",
    };
    Err(Failure::Failed(format!("{missing}: check PALISADE_STORE, or run `palisade schema migrate`")))
}

/// Runs a command through the running node, else on the store itself.
async fn operate(mut settings: Settings, command: Command) -> Result<Done, Failure> {
    let directory = data_dir::locate(&settings.data_dir);
    match control::ask(&directory, &command).await {
        Ok(Some(Answer::Done(done))) => {
            if matches!(command, Command::ClusterLeave) {
                let wait = settings.drain_grace + SHUTDOWN_TIMEOUT;
                if !control::has_ended(&directory, wait).await {
                    return Err(Failure::Failed(format!(
                        "the node has not ended after {wait:?}; look at its log"
                    )));
                }
            }
            return Ok(done);
        }
        Ok(Some(Answer::Failed(msg))) => return Err(Failure::Failed(msg)),
        Ok(None) if matches!(command, Command::ClusterStatus | Command::ClusterLeave) => {
            return Err(Failure::Failed(format!(
                "no node runs on {}; check PALISADE_DATA_DIR, or start one",
                directory.display()
            )));
        }
        Ok(None) if matches!(command, Command::LimitsList | Command::LimitsClear { .. }) => {
            return Err(Failure::Failed(format!(
                "no node runs on {}, and limits are counted by nodes that run",
                directory.display()
            )));
        }
        Ok(None) => {}
        Err(error) => {
            let what_to_do = match error.kind() {
                std::io::ErrorKind::PermissionDenied => "run this as the user of the node",
                _ => "look at its log",
            };
            return Err(Failure::Failed(format!(
                "the node that runs here does not answer: {error}; {what_to_do}"
            )));
        }
    }
    if !matches!(command, Command::AppInit { .. }) {
        require_store(&settings)?;
        if let StoreSetting::Cql(config) = &settings.store {
            require_tables(config).await?;
        }
        settings.store_migrate = false;
    } else {
        machine::check(&settings)?;
    }
    let app = App::start(settings, Metrics::new([])).await?;
    app.data_dir.give_to_owner();
    app.backend.await_up().await?;
    app.bootstrap(Purpose::Operate).await?;
    let done = app.operate(command).await?;
    app.log.flush(LEDGER_FLUSH_TIMEOUT).await;
    Ok(done)
}
