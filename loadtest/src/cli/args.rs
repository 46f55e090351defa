//! Flags and their help. Each scenario's `--help` is its reference.

use clap::{Arg, ArgAction, Command};

use crate::{
    ceiling, faults,
    record::RequestKind,
    scenario::specs::{self, ScenarioSpec},
};

const ABOUT: &str =
    "Measures any deployment of Palisade over HTTP, faults included, and counts wrong answers apart.";
/// Printed below the help.
const AFTER: &str = "\
Examples:
  palisade-loadtest validate --target http://127.0.0.1:8080
  palisade-loadtest validate --target http://127.0.0.1:8080 --rate 20k --duration 1m \\
    --objective 'p99<5ms' --objective 'errors<0.1%' --out run.json --report run.html
  palisade-loadtest check --target http://127.0.0.1:8080 --find-max --objective 'p99<5ms'
  palisade-loadtest revoke-propagation --target http://127.0.0.1:8081 --target http://127.0.0.1:8082
  palisade-loadtest faults --scenario mixed --faults faults.toml --target http://127.0.0.1:8081
  palisade-loadtest compare before.json after.json

A run creates its own users and deletes them when it ends, also after Ctrl-C. Nodes limit registrations and \
failed log-ins: set PALISADE_REGISTRATION_RATE=off on them.

Exit status: 0 everything held; 1 an objective did not hold, an answer was wrong, no request was served, \
a node never refused a revoked token, users are left, or the run failed or ended before its time; 2 wrong usage.";

/// The whole command line.
#[must_use]
pub fn command() -> Command {
    let scenarios = specs::ALL.iter().map(scenario);
    Command::new("palisade-loadtest")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(AFTER)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(scenarios)
        .subcommand(
            Command::new("compare")
                .about("Compares two result files: what changed beyond noise")
                .after_help("Exit status: 0 not worse, 1 worse or not comparable, 2 wrong usage.")
                .arg(file("a", "The run before").required(true).index(1))
                .arg(file("b", "The run after").required(true).index(2))
                .arg(flag("json", "Prints JSON")),
        )
        .subcommand(
            Command::new("report")
                .about("Writes the HTML report of a result file")
                .arg(file("run", "The result file").required(true).index(1))
                .arg(file("html", "Where to write the report").required(true).index(2)),
        )
        .subcommand(
            Command::new("ceiling")
                .about(
                    "Measures the tool itself against a server that does no work, and wrk on the same core",
                )
                .after_help(
                    "The server is a child process on --server-cpu. The tool and wrk load it in turn from --cpu. On a \
                     busy machine the figures mean little.",
                )
                .arg(value("seconds", "SECONDS", "The length of a turn").default_value("3"))
                .arg(value("turns", "N", "Turns of each; the best counts").default_value("3"))
                .arg(value("connections", "N", "Connections").default_value("32"))
                .arg(value("cpu", "N", "The core of the driver").default_value("1"))
                .arg(value("server-cpu", "N", "The core of the server").default_value("0"))
                .arg(flag("no-wrk", "Does not run wrk")),
        )
        .subcommand(
            Command::new(ceiling::SERVE).hide(true).arg(value("cpu", "N", "The core").default_value("0")),
        )
}

fn value(name: &'static str, what: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(what).help(help)
}

fn file(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).value_name("FILE").help(help)
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// The command of a scenario, with its flags.
#[must_use]
pub fn scenario(spec: &'static ScenarioSpec) -> Command {
    let is_any = spec.name == specs::FAULTS;
    let is = |names: &[&str]| is_any || names.contains(&spec.name);
    let mut args = target_flags();
    args.extend(load_flags(spec));
    args.extend(account_flags(spec));
    args.extend(goal_flags());
    args.extend(output_flags(is_any));
    if is_any {
        args.push(
            value("scenario", "NAME", "The scenario that runs during the faults").default_value("mixed"),
        );
    }
    if is_any || spec.lanes.iter().copied().flatten().any(|(kind, _)| *kind == RequestKind::Validate) {
        args.extend(bad_token_flags());
    }
    if is(&["validate"]) {
        args.extend(batch_flags());
    }
    if is(&["check", "mixed", "soak"]) {
        args.push(admin_flag());
    }
    if is_any || spec.lanes.len() == 2 {
        args.push(write_connections_flag());
    }
    if is(&["mixed", "soak"]) {
        args.push(writes_flag());
    }
    if is(&["flood"]) {
        args.push(value(
            "login-rate",
            "RATE",
            "Log-ins a second. Default: as fast as they are answered, on --write-connections",
        ));
    }
    if is(&["soak"]) {
        args.push(max_drift_flag());
    }
    let long = format!("{}.\n\n{}", spec.about, spec.long);
    let command = Command::new(spec.name).about(spec.about).long_about(long);
    command.args(args).after_long_help(format!("Faults (--faults FILE):\n{}", faults::HELP))
}

fn target_flags() -> Vec<Arg> {
    vec![
        value(
            "target",
            "URL",
            "Base URL of a node; once for each node. Requests are spread evenly over all of them. Example: \
             --target http://127.0.0.1:8080",
        )
        .short('t')
        .action(ArgAction::Append)
        .required(true),
        flag(
            "yes-i-own-it",
            "Allows targets on other machines. Without it, every address of every target must be a loopback address",
        ),
    ]
}

fn rate(spec: &ScenarioSpec) -> Arg {
    let arg = value(
        "rate",
        "RATE",
        "Requests a second over all targets: the open model. Requests are due at fixed times whether or not \
         answers come, and latency counts from the due time. Without a rate and a default: the closed model, as fast \
         as answers come. Example: 2000, 2k",
    );
    match spec.rate {
        Some(rate) => arg.default_value(rate.to_string()),
        None => arg,
    }
}

/// The flags about how requests are sent.
fn load_flags(spec: &ScenarioSpec) -> Vec<Arg> {
    let duration = match spec.name {
        "soak" => "1h",
        "mixed" => "2m",
        _ => "30s",
    };
    vec![
        rate(spec),
        value("duration", "TIME", "The length of the measured part. Example: 10s, 5m, 8h")
            .short('d')
            .default_value(duration),
        value("warm-up", "TIME", "How long requests are sent before the measured part").default_value("2s"),
        value(
            "ramp",
            "TIME",
            "The rate rises from a tenth to its full value within this first part of the measured part",
        )
        .default_value("0s"),
        value(
            "connections",
            "N",
            "Connections over all targets and threads, at least one for each. Default: 32; for \
             revoke-propagation 2 for each target and thread",
        )
        .short('c'),
        value("protocol", "NAME", "http1 (keep-alive) or h2c (HTTP/2 with prior knowledge)")
            .default_value("http1"),
        value("streams", "N", "Concurrent streams on an h2c connection").default_value("8"),
        value("threads", "N", "Threads that send requests. Default: one a core, at most one a session"),
        value("cpu", "LIST", "Pins the threads to these cores, in turn. Example: 0,2-3"),
        value("seed", "N", "Seed of all random choices. Default: a new one each time; the result has it"),
        value("timeout", "TIME", "An answer that takes longer is an error").default_value("5s"),
    ]
}

/// The flags about users, sessions and tokens.
fn account_flags(spec: &ScenarioSpec) -> Vec<Arg> {
    // `faults` has the defaults of the scenario that it runs.
    let with_default = |arg: Arg, default: String| {
        if spec.name == specs::FAULTS { arg } else { arg.default_value(default) }
    };
    vec![
        with_default(value("users", "N", "Users to create"), spec.users.to_string()),
        with_default(value("sessions", "N", "Log-ins of each user"), spec.sessions.to_string()),
        value(
            "tokens",
            "N",
            "Access tokens of each session: the first by the log-in, the others by refreshes",
        )
        .default_value("1"),
        with_default(
            value(
                "zipf",
                "S",
                "How unevenly sessions are chosen: the k-th in proportion to 1/k^S; 0 is evenly",
            ),
            spec.zipf.to_string(),
        ),
    ]
}

/// The flags about what must hold, and when a run ends early.
fn goal_flags() -> Vec<Arg> {
    vec![
        value(
            "objective",
            "GOAL",
            "Must hold over the whole run; if not, the exit status is 1. Once for each objective. Example: \
             'p99<5ms', 'errors<0.1%', 'check:p999<20ms', 'rate>50000'",
        )
        .short('O')
        .action(ArgAction::Append),
        value(
            "stop-unless",
            "GOAL",
            "Ends the run if this does not hold in three successive seconds. Written like an objective. \
             Example: 'errors<50%'",
        )
        .action(ArgAction::Append),
        value(
            "after-wrong",
            "WHAT",
            "stop: the first wrong answer ends the run. go-on: wrong answers are only counted",
        )
        .default_value("stop"),
        flag(
            "find-max",
            "Searches for the highest rate that meets the objectives: doubles the rate, then halves the gap. \
             Begins at --rate, or at 1000",
        ),
        value("step", "TIME", "The length of a step of the search").default_value("10s"),
    ]
}

fn output_flags(faults_required: bool) -> Vec<Arg> {
    vec![
        value("faults", "FILE", "A schedule of faults; see below").required(faults_required),
        value("out", "FILE", "Writes the result to this file, as JSON").short('o'),
        value("report", "FILE", "Writes the report to this file, as HTML"),
    ]
}

/// The flags about the share of tokens that a node must refuse.
fn bad_token_flags() -> [Arg; 3] {
    [
        value(
            "revoked",
            "PERCENT",
            "Share of validations with a revoked token. The answer must be 401 at nodes that acknowledged the \
             revocation",
        )
        .default_value("4"),
        value(
            "forged",
            "PERCENT",
            "Share of validations with one letter of the token changed. The answer must be 422",
        )
        .default_value("4"),
        value("expired", "PERCENT", "Share of validations with an expired token, if tokens live 60 s or less")
            .default_value("2"),
    ]
}

fn batch_flags() -> [Arg; 2] {
    [
        value("batch", "N", "Asks about N tokens (1 to 1000) in one request"),
        value("pipeline", "N", "Keeps N requests in flight on each HTTP/1.1 connection, in the closed model")
            .default_value("1"),
    ]
}

fn admin_flag() -> Arg {
    value(
        "admin-email",
        "EMAIL",
        "The user who creates and grants permissions; needs permissions_admin. The password comes from \
         PALISADE_LOADTEST_ADMIN_PASSWORD",
    )
}

fn write_connections_flag() -> Arg {
    value(
        "write-connections",
        "N",
        "Connections for log-ins, refreshes and logouts, separate from those for validations",
    )
    .default_value("16")
}

fn writes_flag() -> Arg {
    value(
        "writes",
        "PERCENT",
        "Share of the rate that is refreshes (60 %), log-ins (20 %) and logouts (20 %)",
    )
    .default_value("1")
}

fn max_drift_flag() -> Arg {
    value(
        "max-drift",
        "FACTOR",
        "How much p99 and memory may grow from the first to the last tenth of the run: an objective",
    )
    .default_value("2")
}
