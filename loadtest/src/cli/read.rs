//! Turns flags into a [`Job`].
//!
//! Promises: wrong usage is an error here, before any request is sent.

use std::{path::PathBuf, time::Duration};

use clap::{ArgMatches, parser::ValueSource};

use crate::{
    ceiling::Settings,
    clock::Clock,
    faults::Schedule,
    job::{Job, Protocol, Writes},
    objective::{self, Goal},
    scenario::specs::{self, BadTokens, ScenarioSpec},
    target::{self, Target},
    test_accounts::{AccountCounts, Admin},
    units,
};

/// Connections at most: about as many as a machine has ports.
const CONNECTIONS_MAX: usize = 60_000;
/// Users at most.
const USERS_MAX: usize = 1_000_000;
/// The shortest measured part, and the shortest step of a search.
const LENGTH_MIN: Duration = Duration::from_secs(1);

type Read<T> = Result<T, String>;

struct Flags<'a>(&'a ArgMatches);

impl Flags<'_> {
    fn text(&self, name: &str) -> Option<String> {
        self.0.try_get_one::<String>(name).ok().flatten().cloned()
    }

    fn texts(&self, name: &str) -> Vec<String> {
        self.0
            .try_get_many::<String>(name)
            .ok()
            .flatten()
            .map(|all| all.cloned().collect())
            .unwrap_or_default()
    }

    fn read<T>(&self, name: &str, read: impl Fn(&str) -> Read<T>) -> Read<Option<T>> {
        self.text(name).map(|text| read(&text).map_err(|why| format!("--{name}: {why}"))).transpose()
    }

    fn number(&self, name: &str, least: usize, most: usize) -> Read<Option<usize>> {
        let error = |text: &str| format!("`{text}` is not a number from {least} to {most}");
        self.read(name, |text| {
            text.parse().ok().filter(|n| (least..=most).contains(n)).ok_or_else(|| error(text))
        })
    }

    fn float(&self, name: &str, least: f64, most: f64) -> Read<Option<f64>> {
        let error = |text: &str| format!("`{text}` is not a number from {least} to {most}");
        self.read(name, |text| {
            text.parse().ok().filter(|n| (least..=most).contains(n)).ok_or_else(|| error(text))
        })
    }

    fn time(&self, name: &str) -> Read<Duration> {
        Ok(self.read(name, units::duration)?.unwrap_or_default())
    }

    fn goals(&self, name: &str) -> Read<Vec<Goal>> {
        let goals = self.texts(name);
        goals.iter().map(|text| objective::parse(text).map_err(|why| format!("--{name}: {why}"))).collect()
    }
}

/// The job of this scenario.
pub fn job(scenario: &str, matches: &ArgMatches) -> Read<Job> {
    let flags = Flags(matches);
    let (spec, scenario) = spec(scenario, &flags)?;
    refuse_unknown(spec, matches)?;
    let targets = targets(&flags)?;
    let protocol = protocol(&flags)?;
    let objectives = flags.goals("objective")?;
    let times = times(spec, &flags, !objectives.is_empty())?;
    let depth = depth(&flags, protocol, times.is_open())?;
    let bad_tokens = bad_tokens(&flags)?;
    let accounts = AccountCounts {
        users: flags.number("users", 1, USERS_MAX)?.unwrap_or(spec.users),
        sessions: flags.number("sessions", 1, 10_000)?.unwrap_or(spec.sessions),
        tokens: flags.number("tokens", 1, 1_000)?.unwrap_or(1),
    };
    let threads = threads(spec, &flags, accounts, targets.len())?;
    Ok(Job {
        spec,
        scenario,
        command: std::env::args().collect(),
        protocol,
        connections: threads.connections,
        write_connections: threads.write_connections,
        targets,
        depth,
        threads: threads.count,
        cpus: threads.cpus,
        rate: times.rate,
        writes: writes(spec, &flags)?,
        duration: times.duration,
        warm_up: flags.time("warm-up")?,
        ramp: times.ramp,
        accounts,
        bad_tokens,
        batch: flags.number("batch", 1, 1_000)?,
        zipf: flags.float("zipf", 0.0, 10.0)?.unwrap_or(spec.zipf),
        seed: seed(&flags)?,
        timeout: flags.time("timeout")?.max(Duration::from_millis(1)),
        admin: admin(&flags)?,
        objectives,
        limits: flags.goals("stop-unless")?,
        ends_when_wrong: ends_when_wrong(&flags)?,
        find_max: times.find_max,
        max_drift: if spec.name == "soak" { flags.float("max-drift", 1.0, 1_000.0)? } else { None },
        faults: faults(&flags, times.find_max.unwrap_or(times.duration))?,
        out: flags.text("out").map(PathBuf::from),
        report: flags.text("report").map(PathBuf::from),
    })
}

fn targets(flags: &Flags<'_>) -> Read<Vec<Target>> {
    let owned = flags.0.get_flag("yes-i-own-it");
    let targets = flags.texts("target");
    targets.iter().map(|url| target::parse(url, owned).map_err(|why| why.to_string())).collect()
}

fn protocol(flags: &Flags<'_>) -> Read<Protocol> {
    match flags.text("protocol").as_deref() {
        Some("h2c") => Ok(Protocol::H2c),
        Some("http1") | None => Ok(Protocol::Http1),
        Some(other) => Err(format!("--protocol: `{other}` is neither http1 nor h2c")),
    }
}

/// Rate and durations, as in [`Job`].
struct Times {
    rate: Option<f64>,
    duration: Duration,
    ramp: Duration,
    find_max: Option<Duration>,
}

impl Times {
    /// Whether requests are due at a rate.
    const fn is_open(&self) -> bool {
        self.rate.is_some() || self.find_max.is_some()
    }
}

fn times(spec: &ScenarioSpec, flags: &Flags<'_>, has_objectives: bool) -> Read<Times> {
    let times = Times {
        rate: flags.read("rate", units::rate)?.or(spec.rate),
        duration: flags.time("duration")?,
        ramp: flags.time("ramp")?,
        find_max: flags.0.get_flag("find-max").then(|| flags.time("step")).transpose()?,
    };
    if spec.name == specs::PROPAGATION && times.is_open() {
        return Err("revoke-propagation has no rate: nodes are asked without a pause".into());
    }
    if times.find_max.is_some() && !has_objectives {
        return Err("--find-max needs an --objective to meet, such as 'p99<5ms'".into());
    }
    if times.duration < LENGTH_MIN || times.find_max.is_some_and(|step| step < LENGTH_MIN) {
        return Err("--duration and --step must be at least 1s".into());
    }
    if times.ramp > times.duration {
        return Err("--ramp must not be longer than --duration".into());
    }
    if !times.ramp.is_zero() && times.rate.is_none() {
        return Err("--ramp needs a --rate".into());
    }
    Ok(times)
}

/// Requests at a time on a connection.
fn depth(flags: &Flags<'_>, protocol: Protocol, is_open: bool) -> Read<usize> {
    let pipeline = flags.number("pipeline", 1, 1_000)?.unwrap_or(1);
    if pipeline > 1 && (is_open || protocol == Protocol::H2c) {
        return Err("--pipeline is for HTTP/1.1 in the closed model (no --rate)".into());
    }
    match protocol {
        Protocol::Http1 => Ok(pipeline),
        Protocol::H2c => Ok(flags.number("streams", 1, 1_000)?.unwrap_or(8)),
    }
}

fn bad_tokens(flags: &Flags<'_>) -> Read<BadTokens> {
    let percent = |name: &str| Ok::<_, String>(flags.float(name, 0.0, 100.0)?.unwrap_or(0.0));
    let bad =
        BadTokens { revoked: percent("revoked")?, forged: percent("forged")?, expired: percent("expired")? };
    if bad.revoked + bad.forged + bad.expired > 100.0 {
        return Err("--revoked, --forged and --expired must add up to at most 100".into());
    }
    Ok(bad)
}

/// Threads and connections, as in [`Job`].
struct Threads {
    count: usize,
    cpus: Vec<usize>,
    connections: usize,
    write_connections: usize,
}

fn threads(spec: &ScenarioSpec, flags: &Flags<'_>, accounts: AccountCounts, targets: usize) -> Read<Threads> {
    let is_propagation = spec.name == specs::PROPAGATION;
    let cpus = flags.read("cpu", units::cores)?.unwrap_or_default();
    let default = if is_propagation {
        1
    } else if cpus.is_empty() {
        std::thread::available_parallelism().map_or(1, usize::from)
    } else {
        cpus.len()
    };
    let count = flags.number("threads", 1, 1_024)?.unwrap_or(default).min(accounts.users * accounts.sessions);
    // Each thread has at least one connection to each target.
    let least = targets * count;
    let default = if is_propagation { 2 * least } else { 32 };
    let connections = flags.number("connections", 1, CONNECTIONS_MAX)?.unwrap_or(default).max(least);
    let write_connections = flags.number("write-connections", 1, CONNECTIONS_MAX)?.unwrap_or(16).max(least);
    Ok(Threads { count, cpus, connections, write_connections })
}

fn writes(spec: &ScenarioSpec, flags: &Flags<'_>) -> Read<Writes> {
    Ok(match (spec.name, flags.read("login-rate", units::rate)?) {
        ("flood", Some(rate)) => Writes::Rate(rate),
        ("flood", None) => Writes::Closed,
        _ => Writes::Part(flags.float("writes", 0.0, 100.0)?.map_or(spec.writes, |percent| percent / 100.0)),
    })
}

fn ends_when_wrong(flags: &Flags<'_>) -> Read<bool> {
    match flags.text("after-wrong").unwrap_or_default().as_str() {
        "stop" => Ok(true),
        "go-on" => Ok(false),
        other => Err(format!("--after-wrong: `{other}` is neither stop nor go-on")),
    }
}

/// The schedule of faults for a run of this length.
fn faults(flags: &Flags<'_>, length: Duration) -> Read<Option<Schedule>> {
    let Some(file) = flags.text("faults") else { return Ok(None) };
    let text = std::fs::read_to_string(&file).map_err(|error| format!("--faults: {file}: {error}"))?;
    Schedule::parse(&text, length).map(Some).map_err(|error| format!("--faults: {file}: {error}"))
}

fn spec(scenario: &str, flags: &Flags<'_>) -> Read<(&'static ScenarioSpec, String)> {
    let inner = flags.text("scenario");
    let name = if scenario == specs::FAULTS { inner.as_deref().unwrap_or("mixed") } else { scenario };
    let spec = specs::by_name(name).filter(|spec| spec.name != specs::FAULTS);
    let spec = spec.ok_or_else(|| format!("--scenario: there is no scenario `{name}`"))?;
    let scenario = if scenario == specs::FAULTS { format!("faults: {name}") } else { name.to_owned() };
    Ok((spec, scenario))
}

/// Refuses flags of `faults` that its scenario does not have: they would do nothing.
fn refuse_unknown(spec: &'static ScenarioSpec, matches: &ArgMatches) -> Read<()> {
    let known = super::args::scenario(spec);
    let is_known = |name: &str| name == "scenario" || known.get_arguments().any(|arg| arg.get_id() == name);
    let is_given = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
    match matches.ids().map(clap::Id::as_str).find(|name| is_given(name) && !is_known(name)) {
        Some(name) => Err(format!("--{name}: the scenario {} has no such flag", spec.name)),
        None => Ok(()),
    }
}

fn seed(flags: &Flags<'_>) -> Read<u64> {
    let seed = flags.read("seed", |text| text.parse().map_err(|_| format!("`{text}` is not a number")))?;
    if let Some(seed) = seed {
        return Ok(seed);
    }
    let digits = crate::test_accounts::secret(6).map_err(|error| error.to_string())?;
    // 48 bits: every reader of JSON takes such a number whole.
    u64::from_str_radix(&digits, 16).map_err(|error| error.to_string())
}

fn admin(flags: &Flags<'_>) -> Read<Option<Admin>> {
    const PASSWORD: &str = "PALISADE_LOADTEST_ADMIN_PASSWORD";
    let Some(email) = flags.text("admin-email") else { return Ok(None) };
    let password = std::env::var(PASSWORD).map_err(|_| format!("--admin-email: set {PASSWORD}"))?;
    Ok(Some(Admin { email, password }))
}

/// The settings of `ceiling`.
pub fn ceiling(matches: &ArgMatches) -> Read<Settings> {
    let flags = Flags(matches);
    let number = |name: &str, least, most| Ok::<_, String>(flags.number(name, least, most)?.unwrap_or(least));
    Ok(Settings {
        clock: Clock::start(),
        seconds: number("seconds", 1, 600)? as u64,
        turns: number("turns", 1, 100)?,
        connections: number("connections", 1, 1_000)?,
        cpu: number("cpu", 0, 1_023)?,
        server_cpu: number("server-cpu", 0, 1_023)?,
        wrk: !matches.get_flag("no-wrk"),
    })
}

/// The core on which the server of `ceiling` runs.
pub fn ceiling_server(matches: &ArgMatches) -> Read<usize> {
    Ok(Flags(matches).number("cpu", 0, 1_023)?.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_refuses_flags_that_its_scenario_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("faults.toml");
        std::fs::write(&file, "[[at]]\ns = 0\naction = \"run\"\ncommand = \"true\"\n").unwrap();
        let job_of = |scenario: &str, more: &[&str]| {
            let mut arguments = vec!["palisade-loadtest", "faults", "--target", "http://127.0.0.1:1"];
            arguments.extend(["--scenario", scenario, "--faults", file.to_str().unwrap()]);
            arguments.extend(more);
            let matches = super::super::args::command().try_get_matches_from(arguments).unwrap();
            let (name, matches) = matches.subcommand().unwrap();
            job(name, matches).map(|job| job.spec.name)
        };
        assert_eq!(job_of("validate", &["--batch", "3", "--rate", "5"]), Ok("validate"));
        assert_eq!(job_of("mixed", &["--writes", "3"]), Ok("mixed"));
        for (scenario, flag) in [("check", "--batch"), ("validate", "--writes"), ("login", "--revoked")] {
            let why = job_of(scenario, &[flag, "3"]).unwrap_err();
            assert!(why.contains(flag) && why.contains(scenario), "{why}");
        }
    }

    #[test]
    fn every_scenario_has_valid_defaults() {
        for spec in specs::ALL.iter().filter(|spec| spec.name != specs::FAULTS) {
            let arguments = ["palisade-loadtest", spec.name, "--target", "http://127.0.0.1:1"];
            let matches = super::super::args::command().try_get_matches_from(arguments).unwrap();
            let (name, matches) = matches.subcommand().unwrap();
            let job = job(name, matches).unwrap();
            assert_eq!(job.spec.name, spec.name);
            assert!(job.connections >= job.threads);
        }
        super::super::args::command().debug_assert();
    }
}
