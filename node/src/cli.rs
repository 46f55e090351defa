//! The command line.
//!
//! Commands for operators work while a node runs, through its control socket, and on the store
//! itself when none runs. Exit status: 0 done, 1 failed (one line on stderr that says what to do),
//! 2 wrong usage.

mod args;
mod check;
mod health;
mod output;
mod prompt;
mod quickstart;

use std::{collections::BTreeMap, fmt, io, path::Path, process::ExitCode, time::Duration};

use clap::ArgMatches;
use schema::{KeyId, email::Email};
use store_scylla::migration;
use zeroize::Zeroizing;

use crate::{
    app::{App, Purpose},
    clock::{SystemClock, SystemEntropy},
    control::{self, Answer},
    data_dir, http, logging,
    operator::{Command, Done, NewSuperuser, OperatorError},
    passwords::Normalized,
    serve,
    settings::{self, SPECS, Settings, Sources, StoreSetting, machine},
};

/// How long a node may take to end, beside its drain grace.
const ENDED: Duration = Duration::from_secs(10);
/// How long a command waits until what it took away is in the ledger.
const FLUSH: Duration = Duration::from_secs(10);

/// How long the process waits at its end for log lines that stderr has not taken yet.
const LOG_FLUSH: Duration = Duration::from_millis(500);

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let done = match args::command().try_get_matches() {
        Ok(matches) => run(&matches),
        Err(error) if error.use_stderr() => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        // What was asked for: help, or the version.
        Err(help) => output::say(help.render().to_string().trim_end()),
    };
    let status = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure.to_string());
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    };
    logging::flush(LOG_FLUSH);
    status
}

/// Why a command did not do what it should.
enum Failure {
    /// The command is wrong.
    Usage(String),
    /// It could not be done.
    Failed(String),
    /// What it wrote did not arrive.
    Lost {
        /// The error of stdout.
        why: String,
        /// Whether that was the answer to something that is done.
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
    if path == ["openapi"] {
        return output::say(&http::openapi().to_pretty_json()?);
    }
    let sources = sources(leaf);
    let (settings, warnings) = settings::read(&sources)?;
    let json = leaf.get_flag("json");
    let context = CommandLine { leaf, sources: &sources, settings: &settings };
    match path.as_slice() {
        [] | ["serve"] => {
            machine::check(&settings)?;
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
        ["check-config"] => {
            machine::check(&settings)?;
            for warning in &warnings {
                output::complain(&format!("warning: {warning}"));
            }
            let done = Done {
                msg: "the settings are good".into(),
                result: serde_json::json!({ "warnings": warnings }),
            };
            output::show(&done, json)
        }
        ["health"] => {
            let done = runtime()?.block_on(health::health(&settings, leaf.get_flag("live")))?;
            output::show(&done, json)
        }
        ["store", "check"] => runtime()?.block_on(check::run(settings, leaf.get_flag("repair"), json)),
        ["schema", what] => output::show(&runtime()?.block_on(schema(&settings, what))?, json),
        command => {
            let command = context.operator_command(command)?;
            let done = runtime()?.block_on(operate(settings, command))?;
            output::show(&done, json)
        }
    }
}

fn start_logging(settings: &Settings, warnings: &[String]) -> io::Result<()> {
    logging::start(&settings.log)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(())
}

/// Nothing that is under way when it returns is waited for any more.
fn until_told_to_stop<T>(node: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = runtime()?;
    let served = runtime.block_on(node);
    runtime.shutdown_background();
    Ok(served)
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
    Sources::of_this_process(flags, leaf.get_one("config").cloned())
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    // Blocking threads read the store (24 at most at a time) and do the upkeep.
    tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(64).build()
}

/// What was typed, and what it is about.
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

    /// What flags and variables do not say is asked for at a terminal.
    fn new_superuser(&self) -> Result<NewSuperuser, Failure> {
        let email = email(prompt::line(self.text("email"), "--email", "Email")?)?;
        let first_name = prompt::optional_line(self.text("first-name"), "First name")?;
        let last_name = prompt::optional_line(self.text("last-name"), "Last name")?;
        let password = prompt::password(self.given_password()?, PASSWORD)?;
        Normalized::new(&password).map_err(OperatorError::Password)?;
        let promote = self.leaf.get_flag("promote");
        Ok(NewSuperuser { email, password: password.to_string(), first_name, last_name, promote })
    }

    /// As far as it is given: nothing is asked for, unless that is asked for.
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

/// Before anything is asked for or made.
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

/// Only some commands make a store where there is none; the others say so, and make nothing.
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

/// The same for a database; [`require_store`] has looked for an embedded one.
async fn require_tables(config: &store_scylla::Config) -> Result<(), Failure> {
    // One that cannot be reached now is waited for like anybody waits.
    let Ok(report) = migration::status(config).await else { return Ok(()) };
    let missing = match (report.applied.is_empty(), report.pending.is_empty()) {
        (_, true) => return Ok(()),
        (true, false) => "there is no store in the keyspace of PALISADE_STORE",
        (false, false) => "the store is that of an older version",
    };
    Err(Failure::Failed(format!("{missing}: check PALISADE_STORE, or run `palisade schema migrate`")))
}

/// By the node that runs, else on the store itself.
async fn operate(mut settings: Settings, command: Command) -> Result<Done, Failure> {
    let directory = data_dir::locate(&settings.data_dir);
    match control::ask(&directory, &command).await {
        Ok(Some(Answer::Done(done))) => {
            if matches!(command, Command::ClusterLeave) {
                let patience = settings.drain_grace + ENDED;
                if !control::has_ended(&directory, patience).await {
                    return Err(Failure::Failed(format!(
                        "the node has not ended after {patience:?}; look at its log"
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
    let app = App::start(settings).await?;
    app.data_dir.give_to_owner();
    app.backing.await_up().await?;
    app.come_up(Purpose::Operate).await?;
    let done = app.operate(command).await?;
    app.log.flush(FLUSH).await;
    Ok(done)
}
