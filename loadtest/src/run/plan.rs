//! The plan of a run and the machine, as the result records them.

use crate::{
    format,
    job::{Job, Writes},
    result::{Detail, Machine, Plan},
};

/// The plan of this job.
pub(super) fn plan(job: &Job) -> Plan {
    Plan {
        model: if job.rate.is_some() || job.find_max.is_some() { "open" } else { "closed" }.to_owned(),
        rate: job.rate,
        connections: job.connections + if job.spec.lanes.len() == 2 { job.write_connections } else { 0 },
        protocol: job.protocol.name().to_owned(),
        warm_up_s: if job.find_max.is_some() { 0.0 } else { job.warm_up.as_secs_f64() },
        duration_s: job.find_max.unwrap_or(job.duration).as_secs_f64(),
        ramp_s: job.ramp.as_secs_f64(),
        users: job.accounts.users,
        seed: job.seed,
        detail: Some(detail(job)),
    }
}

fn detail(job: &Job) -> Detail {
    let writes = match job.writes {
        _ if job.spec.lanes.len() < 2 => "none".to_owned(),
        Writes::Part(part) => format::percent(part),
        Writes::Rate(rate) => format!("{}/s", format::rate(rate)),
        Writes::Closed => "as answers come".to_owned(),
    };
    Detail {
        depth: job.depth,
        batch: job.batch,
        revoked: job.bad_tokens.revoked,
        forged: job.bad_tokens.forged,
        expired: job.bad_tokens.expired,
        writes,
        zipf: job.zipf,
        sessions: job.accounts.sessions,
        tokens: job.accounts.tokens,
        timeout_s: job.timeout.as_secs_f64(),
    }
}

/// The machine on which the tool runs.
pub(super) fn machine() -> Machine {
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
