//! From flags to a [`Job`]. Whatever is wrong is said here, before anything is sent.

use std::{path::PathBuf, time::Duration};

use clap::{ArgMatches, parser::ValueSource};

use crate::{
    ceiling::Settings,
    clock::Clock,
    faults::Schedule,
    job::{Job, Protocol, Writes},
    objective::{self, Goal},
    scenario::shapes::{self, Bad, Shape},
    target,
};

/// More connections than a machine has ports for.
const MOST_CONNECTIONS: usize = 60_000;
const MOST_USERS: usize = 1_000_000;

type Read<T> = Result<T, String>;

/// Reads `10s`, `5m`, `1h`, `250ms`, `1.5s`.
pub fn duration(text: &str) -> Read<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(format!("`{text}` is no time: write 250ms, 10s, 5m, 8h or 1d")),
    };
    let seconds = number.parse::<f64>().ok().map(|number| number * scale).filter(|s| *s <= 30.0 * 86_400.0);
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("`{text}` is no time up to 30d"))
}

/// Reads `2000`, `2k`, `1.5M`.
pub fn rate(text: &str) -> Read<f64> {
    let (number, scale) = match text.strip_suffix(['k', 'M']) {
        Some(number) => (number, if text.ends_with('k') { 1e3 } else { 1e6 }),
        None => (text, 1.0),
    };
    let rate = number.parse::<f64>().ok().map(|number| number * scale);
    let rate = rate.filter(|rate| rate.is_finite() && *rate > 0.0 && *rate <= 1e8);
    rate.ok_or_else(|| format!("`{text}` is no rate: write 2000, 2k or 0.5"))
}

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
        let error = |text: &str| format!("`{text}` is no number from {least} to {most}");
        self.read(name, |text| {
            text.parse().ok().filter(|n| (least..=most).contains(n)).ok_or_else(|| error(text))
        })
    }

    fn float(&self, name: &str, least: f64, most: f64) -> Read<Option<f64>> {
        let error = |text: &str| format!("`{text}` is no number from {least} to {most}");
        self.read(name, |text| {
            text.parse().ok().filter(|n| (least..=most).contains(n)).ok_or_else(|| error(text))
        })
    }

    fn time(&self, name: &str) -> Read<Duration> {
        Ok(self.read(name, duration)?.unwrap_or_default())
    }

    fn goals(&self, name: &str) -> Read<Vec<Goal>> {
        let goals = self.texts(name);
        goals.iter().map(|text| objective::parse(text).map_err(|why| format!("--{name}: {why}"))).collect()
    }
}

fn cpus(text: &str) -> Read<Vec<usize>> {
    let wrong = || format!("`{text}` is no list of cores: write 0 or 0,2-3");
    let mut all = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) =
            (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
        if from > to || to >= 1_024 {
            return Err(wrong());
        }
        all.extend(from..=to);
    }
    Ok(all)
}

/// A run of this scenario.
#[allow(clippy::too_many_lines, reason = "flag after flag")]
pub fn job(scenario: &str, matches: &ArgMatches) -> Read<Job> {
    let flags = Flags(matches);
    let (shape, scenario) = shape(scenario, &flags)?;
    knows_all(shape, matches)?;
    let owned = matches.get_flag("yes-i-own-it");
    let targets = flags.texts("target");
    let targets = targets.iter().map(|url| target::parse(url, owned).map_err(|why| why.to_string()));
    let targets = targets.collect::<Read<Vec<_>>>()?;
    let is_propagation = shape.name == shapes::PROPAGATION;
    let protocol = match flags.text("protocol").as_deref() {
        Some("h2c") => Protocol::H2c,
        Some("http1") | None => Protocol::Http1,
        Some(other) => return Err(format!("--protocol: `{other}` is neither http1 nor h2c")),
    };
    let find_max = matches.get_flag("find-max").then(|| flags.time("step")).transpose()?;
    let rate_flag = flags.read("rate", rate)?;
    let rate = rate_flag.or(shape.rate);
    if is_propagation && (rate.is_some() || find_max.is_some()) {
        return Err("revoke-propagation has no rate: nodes are asked without a pause".into());
    }
    let objectives = flags.goals("objective")?;
    if find_max.is_some() && objectives.is_empty() {
        return Err("--find-max searches for what meets an --objective: give one, such as 'p99<5ms'".into());
    }
    let duration = flags.time("duration")?;
    let ramp = flags.time("ramp")?;
    if duration < Duration::from_secs(1) || find_max.is_some_and(|step| step < Duration::from_secs(1)) {
        return Err("--duration and --step are at least 1s".into());
    }
    if ramp > duration {
        return Err("--ramp is within --duration".into());
    }
    if !ramp.is_zero() && rate.is_none() {
        return Err("--ramp needs a --rate".into());
    }
    let pipeline = flags.number("pipeline", 1, 1_000)?.unwrap_or(1);
    if pipeline > 1 && (rate.is_some() || find_max.is_some() || protocol == Protocol::H2c) {
        return Err("--pipeline is for HTTP/1.1 in the closed model (no --rate)".into());
    }
    let depth = match protocol {
        Protocol::Http1 => pipeline,
        Protocol::H2c => flags.number("streams", 1, 1_000)?.unwrap_or(8),
    };
    let percent = |name: &str| Ok::<_, String>(flags.float(name, 0.0, 100.0)?.unwrap_or(0.0));
    let bad = Bad { revoked: percent("revoked")?, forged: percent("forged")?, expired: percent("expired")? };
    if bad.revoked + bad.forged + bad.expired > 100.0 {
        return Err("--revoked, --forged and --expired are 100 together at most".into());
    }
    let users = flags.number("users", 1, MOST_USERS)?.unwrap_or(shape.people.0);
    let sessions = flags.number("sessions", 1, 10_000)?.unwrap_or(shape.people.1);
    let tokens = flags.number("tokens", 1, 1_000)?.unwrap_or(1);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = flags.read("cpu", cpus)?.unwrap_or_default();
    let default_threads = if is_propagation {
        1
    } else if cpus.is_empty() {
        cores
    } else {
        cpus.len()
    };
    let threads = flags.number("threads", 1, 1_024)?.unwrap_or(default_threads).min(users * sessions);
    let default_connections = if is_propagation { 2 * targets.len() * threads } else { 32 };
    let connections = flags.number("connections", 1, MOST_CONNECTIONS)?.unwrap_or(default_connections);
    let connections = connections.max(targets.len() * threads);
    let write_connections = flags.number("write-connections", 1, MOST_CONNECTIONS)?.unwrap_or(16);
    let writes = match (shape.name, flags.read("login-rate", self::rate)?) {
        ("flood", Some(rate)) => Writes::Rate(rate),
        ("flood", None) => Writes::Closed,
        _ => Writes::Part(flags.float("writes", 0.0, 100.0)?.map_or(shape.writes, |percent| percent / 100.0)),
    };
    let after_wrong = flags.text("after-wrong").unwrap_or_default();
    if !matches!(after_wrong.as_str(), "stop" | "go-on") {
        return Err(format!("--after-wrong: `{after_wrong}` is neither stop nor go-on"));
    }
    let faults = flags.text("faults").map(|file| {
        let text = std::fs::read_to_string(&file).map_err(|error| format!("--faults: {file}: {error}"))?;
        let length = find_max.unwrap_or(duration);
        Schedule::parse(&text, length).map_err(|error| format!("--faults: {file}: {error}"))
    });
    let max_drift = if shape.name == "soak" { flags.float("max-drift", 1.0, 1_000.0)? } else { None };
    let seed = flags.read("seed", |text| text.parse().map_err(|_| format!("`{text}` is no number")))?;
    Ok(Job {
        shape,
        scenario,
        command: std::env::args().collect(),
        protocol,
        connections,
        write_connections: write_connections.max(targets.len() * threads),
        targets,
        depth,
        threads,
        cpus,
        rate,
        writes,
        duration,
        warm_up: flags.time("warm-up")?,
        ramp,
        people: (users, sessions, tokens),
        bad,
        batch: flags.number("batch", 1, 1_000)?,
        zipf: flags.float("zipf", 0.0, 10.0)?.unwrap_or(shape.zipf),
        seed: seed.map_or_else(new_seed, Ok)?,
        timeout: flags.time("timeout")?.max(Duration::from_millis(1)),
        admin: admin(&flags)?,
        objectives,
        limits: flags.goals("stop-unless")?,
        ends_when_wrong: after_wrong == "stop",
        find_max,
        max_drift,
        faults: faults.transpose()?,
        out: flags.text("out").map(PathBuf::from),
        report: flags.text("report").map(PathBuf::from),
    })
}

fn shape(scenario: &str, flags: &Flags<'_>) -> Read<(&'static Shape, String)> {
    let inner = flags.text("scenario");
    let name = if scenario == "faults" { inner.as_deref().unwrap_or("mixed") } else { scenario };
    let shape = shapes::by_name(name).filter(|shape| shape.name != "faults");
    let shape = shape.ok_or_else(|| format!("--scenario: there is no scenario `{name}`"))?;
    let scenario = if scenario == "faults" { format!("faults: {name}") } else { name.to_owned() };
    Ok((shape, scenario))
}

/// Refuses what was given to `faults` and its scenario has no flag for: it would do nothing.
fn knows_all(shape: &'static Shape, matches: &ArgMatches) -> Read<()> {
    let known = super::args::scenario(shape);
    let is_known = |name: &str| name == "scenario" || known.get_arguments().any(|arg| arg.get_id() == name);
    let is_given = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
    match matches.ids().map(clap::Id::as_str).find(|name| is_given(name) && !is_known(name)) {
        Some(name) => Err(format!("--{name}: the scenario {} has no such flag", shape.name)),
        None => Ok(()),
    }
}

fn new_seed() -> Read<u64> {
    let digits = crate::people::secret(6).map_err(|error| error.to_string())?;
    // 48 bits: a number in JSON that every reader takes whole.
    u64::from_str_radix(&digits, 16).map_err(|error| error.to_string())
}

fn admin(flags: &Flags<'_>) -> Read<Option<(String, String)>> {
    const PASSWORD: &str = "PALISADE_LOADTEST_ADMIN_PASSWORD";
    let Some(email) = flags.text("admin-email") else { return Ok(None) };
    let password = std::env::var(PASSWORD).map_err(|_| format!("--admin-email: set {PASSWORD}"))?;
    Ok(Some((email, password)))
}

/// What `ceiling` is told.
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

/// What its server is told.
pub fn served(matches: &ArgMatches) -> Read<usize> {
    Ok(Flags(matches).number("cpu", 0, 1_023)?.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_are_read() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(["", "5", "s", "-1s", "1y", "99d", "1.2.3s"].iter().all(|text| duration(text).is_err()));
        assert_eq!((rate("2k"), rate("0.5"), rate("1.5M")), (Ok(2_000.0), Ok(0.5), Ok(1_500_000.0)));
        assert!(["", "0", "-1", "k", "nan", "1e99"].iter().all(|text| rate(text).is_err()));
        assert_eq!(cpus("0,2-3"), Ok(vec![0, 2, 3]));
        assert!(["", "a", "3-2", "9999"].iter().all(|text| cpus(text).is_err()));
    }

    #[test]
    fn faults_takes_only_the_flags_of_its_scenario() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("faults.toml");
        std::fs::write(&file, "[[at]]\ns = 0\naction = \"run\"\ncommand = \"true\"\n").unwrap();
        let job_of = |scenario: &str, more: &[&str]| {
            let mut arguments = vec!["palisade-loadtest", "faults", "--target", "http://127.0.0.1:1"];
            arguments.extend(["--scenario", scenario, "--faults", file.to_str().unwrap()]);
            arguments.extend(more);
            let matches = super::super::args::command().try_get_matches_from(arguments).unwrap();
            let (name, matches) = matches.subcommand().unwrap();
            job(name, matches).map(|job| job.shape.name)
        };
        assert_eq!(job_of("validate", &["--batch", "3", "--rate", "5"]), Ok("validate"));
        assert_eq!(job_of("mixed", &["--writes", "3"]), Ok("mixed"));
        for (scenario, flag) in [("check", "--batch"), ("validate", "--writes"), ("login", "--revoked")] {
            let why = job_of(scenario, &[flag, "3"]).unwrap_err();
            assert!(why.contains(flag) && why.contains(scenario), "{why}");
        }
    }

    #[test]
    fn every_scenario_is_understood_with_its_defaults() {
        for shape in shapes::ALL.iter().filter(|shape| shape.name != "faults") {
            let arguments = ["palisade-loadtest", shape.name, "--target", "http://127.0.0.1:1"];
            let matches = super::super::args::command().try_get_matches_from(arguments).unwrap();
            let (name, matches) = matches.subcommand().unwrap();
            let job = job(name, matches).unwrap();
            assert_eq!(job.shape.name, shape.name);
            assert!(job.connections >= job.threads);
        }
        super::super::args::command().debug_assert();
    }
}
