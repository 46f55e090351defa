//! Flags and their help. Each scenario's `--help` is its reference.

use clap::{Arg, ArgAction, Command};

use crate::{ceiling, faults, scenario::shapes};

const ABOUT: &str =
    "Measures any deployment of Palisade over HTTP, faults included, and counts wrong answers apart.";
const AFTER: &str = "\
Examples:
  palisade-loadtest validate --target http://127.0.0.1:8080
  palisade-loadtest validate --target http://127.0.0.1:8080 --rate 20k --duration 1m \\
    --objective 'p99<5ms' --objective 'errors<0.1%' --out run.json --report run.html
  palisade-loadtest check --target http://127.0.0.1:8080 --find-max --objective 'p99<5ms'
  palisade-loadtest revoke-propagation --target http://127.0.0.1:8081 --target http://127.0.0.1:8082
  palisade-loadtest faults --scenario mixed --faults faults.toml --target http://127.0.0.1:8081
  palisade-loadtest compare before.json after.json

It makes users of its own and deletes them when it ends, also after Ctrl-C. Nodes limit registrations and \
failed log-ins: set PALISADE_REGISTRATION_RATE=off on them.

Exit status: 0 all held; 1 an objective did not hold, an answer was wrong, no request was served, \
a revocation was given up, users are left, the run ended before its time, or could not be made; 2 wrong usage.";

/// All of it.
#[must_use]
pub fn command() -> Command {
    let scenarios = shapes::ALL.iter().map(scenario);
    Command::new("palisade-loadtest")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(AFTER)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(scenarios)
        .subcommand(
            Command::new("compare")
                .about("Says what changed from one result file to another, beyond noise")
                .after_help("Exit status: 0 not worse, 1 worse or not to be compared, 2 wrong usage.")
                .arg(file("a", "The run before").required(true).index(1))
                .arg(file("b", "The run after").required(true).index(2))
                .arg(flag("json", "As JSON")),
        )
        .subcommand(
            Command::new("report")
                .about("Makes the HTML report of a result file")
                .arg(file("run", "The result file").required(true).index(1))
                .arg(file("html", "Where to write the report").required(true).index(2)),
        )
        .subcommand(
            Command::new("ceiling")
                .about(
                    "Measures the tool itself against a server that does nothing, and wrk on the same core",
                )
                .after_help(
                    "The server is a child of the tool on --server-cpu; tool and wrk drive it in turn from \
                     --cpu. With a busy machine the figures mean little.",
                )
                .arg(value("seconds", "SECONDS", "How long each turn is").default_value("3"))
                .arg(value("turns", "N", "How often each has its turn; the best counts").default_value("3"))
                .arg(value("connections", "N", "Connections").default_value("32"))
                .arg(value("cpu", "N", "The core that drives").default_value("1"))
                .arg(value("server-cpu", "N", "The core that serves").default_value("0"))
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

fn rate(shape: &shapes::Shape) -> Arg {
    let arg = value(
        "rate",
        "RATE",
        "Requests a second over all targets: the open model. They are due at their times whether or not \
         answers come, and latency counts from then. Without it, and without a default: the closed model, as \
         fast as answers come. Example: 2000, 2k",
    );
    match shape.rate {
        Some(rate) => arg.default_value(rate.to_string()),
        None => arg,
    }
}

/// One of them, with its flags.
#[must_use]
#[allow(clippy::too_many_lines, reason = "a table")]
pub fn scenario(shape: &'static shapes::Shape) -> Command {
    let with_writes = shape.lanes.len() == 2 || shape.name == "faults";
    let is = |name: &str| shape.name == name || shape.name == "faults";
    // `faults` has the defaults of the scenario that it runs.
    let own = |arg: Arg, default: f64| {
        if shape.name == "faults" { arg } else { arg.default_value(default.to_string()) }
    };
    let mut args = vec![
        value(
            "target",
            "URL",
            "Base URL of a node; once for each node. Requests go to all of them alike. Example: \
             --target http://127.0.0.1:8080",
        )
        .short('t')
        .action(ArgAction::Append)
        .required(true),
        flag(
            "yes-i-own-it",
            "Allows targets that are not this machine. Without it every address of every target has to \
             be a loopback address",
        ),
        rate(shape),
        value("duration", "TIME", "How long is measured. Example: 10s, 5m, 8h").short('d').default_value(
            match shape.name {
                "soak" => "1h",
                "mixed" => "2m",
                _ => "30s",
            },
        ),
        value("warm-up", "TIME", "How long it drives before it measures").default_value("2s"),
        value(
            "ramp",
            "TIME",
            "Rises from a tenth of the rate to all of it within the first part of what is measured",
        )
        .default_value("0s"),
        value(
            "connections",
            "N",
            "Connections over all targets and threads, at least one for each. Default: 32, of \
             revoke-propagation 2 a target",
        )
        .short('c'),
        value("protocol", "NAME", "http1 (keep-alive) or h2c (HTTP/2 with prior knowledge)")
            .default_value("http1"),
        value("streams", "N", "Streams at a time on an h2c connection").default_value("8"),
        value("threads", "N", "Threads that drive. Default: one a core, no more than sessions"),
        value("cpu", "LIST", "Pins the threads to these cores, in turn. Example: 0,2-3"),
        own(value("users", "N", "Users that it makes"), shape.people.0 as f64),
        own(value("sessions", "N", "Log-ins of each user"), shape.people.1 as f64),
        value("tokens", "N", "Access tokens of each session, the further ones by refreshing")
            .default_value("1"),
        own(
            value(
                "zipf",
                "S",
                "How unevenly sessions are chosen: the k-th in proportion to 1/k^S; 0 is evenly",
            ),
            shape.zipf,
        ),
        value("seed", "N", "Of all random choices. Default: another one each time; it is in the result"),
        value("timeout", "TIME", "An answer that takes longer is an error").default_value("5s"),
        value(
            "objective",
            "GOAL",
            "What has to hold over the whole: exit status 1 when it does not. Once for each. Example: \
             'p99<5ms', 'errors<0.1%', 'check:p999<20ms', 'rate>50000'",
        )
        .short('O')
        .action(ArgAction::Append),
        value(
            "stop-unless",
            "GOAL",
            "Ends the run when this does not hold in three seconds in a row. Written like an objective. \
             Example: 'errors<50%'",
        )
        .action(ArgAction::Append),
        value(
            "after-wrong",
            "WHAT",
            "stop: the first wrong answer ends the run. go-on: they are only counted",
        )
        .default_value("stop"),
        flag(
            "find-max",
            "Searches for the highest rate that meets the objectives: doubles it, then halves the gap. \
             Begins at --rate, or 1000",
        ),
        value("step", "TIME", "How long a step of the search is").default_value("10s"),
        value("faults", "FILE", "A schedule of faults; see below").required(shape.name == "faults"),
        value("out", "FILE", "Writes the result there, as JSON").short('o'),
        value("report", "FILE", "Writes the report there, as HTML"),
    ];
    if shape.name == "faults" {
        args.push(value("scenario", "NAME", "Which scenario runs meanwhile").default_value("mixed"));
    }
    if shape.lanes.iter().flat_map(|lane| lane.iter()).any(|(deed, _)| *deed == crate::crowd::Deed::Valid)
        || shape.name == "faults"
    {
        args.push(
            value(
                "revoked",
                "PERCENT",
                "Of the validations, with a revoked token: must be 401 where that was promised",
            )
            .default_value("4"),
        );
        args.push(
            value(
                "forged",
                "PERCENT",
                "Of the validations, with one letter of the token changed: must be 422",
            )
            .default_value("4"),
        );
        args.push(
            value(
                "expired",
                "PERCENT",
                "Of the validations, with an expired token, if tokens live 60 s or less",
            )
            .default_value("2"),
        );
    }
    if is("validate") {
        args.push(value("batch", "N", "Asks for N tokens (1 to 1000) in one request"));
        args.push(
            value(
                "pipeline",
                "N",
                "Keeps N requests under way on each HTTP/1.1 connection, in the closed model",
            )
            .default_value("1"),
        );
    }
    if is("check") || is("mixed") || is("soak") {
        args.push(value(
            "admin-email",
            "EMAIL",
            "Who makes and gives permissions; needs permissions_admin. The password comes from \
             PALISADE_LOADTEST_ADMIN_PASSWORD",
        ));
    }
    if with_writes {
        args.push(
            value(
                "write-connections",
                "N",
                "Connections for log-ins, refreshes and logouts, apart from those of validations",
            )
            .default_value("16"),
        );
    }
    if is("mixed") || is("soak") {
        args.push(
            value(
                "writes",
                "PERCENT",
                "The part of the rate that is refreshes, log-ins and logouts (60, 20 and 20 of a hundred of \
             them)",
            )
            .default_value("1"),
        );
    }
    if is("flood") {
        args.push(value(
            "login-rate",
            "RATE",
            "Log-ins a second. Default: as fast as they are answered, on --write-connections",
        ));
    }
    if is("soak") {
        args.push(
            value(
                "max-drift",
                "FACTOR",
                "How much p99 and memory may grow from the first to the last tenth: an objective",
            )
            .default_value("2"),
        );
    }
    let long = format!("{}.\n\n{}", shape.about, shape.long);
    let command = Command::new(shape.name).about(shape.about).long_about(long);
    command.args(args).after_long_help(format!("Faults (--faults FILE):\n{}", faults::HELP))
}
