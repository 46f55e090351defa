//! Measures the limit of the tool itself, against a server that does no work, and that of wrk for comparison.
//!
//! Promises: tool and wrk load the same server, with the same request, from the same core, in turn. The server
//! is another process on another core. There are two figures: requests a second, and requests per second of the
//! driver's own CPU time, which is the one that counts if the server is the slower part. The server listens on
//! loopback only.

mod server;

use std::{
    io::{self, BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

pub use server::serve;
use tokio::sync::mpsc::unbounded_channel;

use crate::{
    answer::Answer,
    clock::{Clock, MILLI, Nanos, SECOND, seconds, thread_cpu},
    random::Part,
    record::RequestKind,
    scenario::{InFlight, Judgement, Route, Scenario},
    target::{self, Target},
    threads::pin,
    wire::{self, http1},
    worker::{Phase, Shared, Worker, WorkerEvent},
};

/// The hidden command that runs the server.
pub const SERVE: &str = "ceiling-server";
/// The length of the token, bytes: about that of a real one.
const TOKEN_BYTES: usize = 420;

/// The settings of a measurement.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see the flags")]
pub struct Settings {
    pub clock: Clock,
    pub seconds: u64,
    pub turns: usize,
    pub connections: usize,
    pub cpu: usize,
    pub server_cpu: usize,
    pub wrk: bool,
}

/// The figures of one turn.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    per_second: f64,
    per_cpu_second: f64,
}

impl Turn {
    fn best(self, other: Self) -> Self {
        Self {
            per_second: self.per_second.max(other.per_second),
            per_cpu_second: self.per_cpu_second.max(other.per_cpu_second),
        }
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the measurement. Returns the figures as text.
pub fn measure(settings: &Settings) -> io::Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([SERVE, "--cpu", &settings.server_cpu.to_string()]);
    let mut server = Server(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let output = server.0.stdout.take().ok_or_else(|| io::Error::other("the server has no output"))?;
    let mut address = String::new();
    BufReader::new(output).read_line(&mut address)?;
    let address: SocketAddr = address.trim().parse().map_err(io::Error::other)?;
    let target = target::parse(&format!("http://{address}"), false).map_err(io::Error::other)?;
    let mut ours = Turn::default();
    let mut wrk = Turn::default();
    let mut lines = vec![format!(
        "{} connections, {} s a turn, server on core {}, driver on core {}",
        settings.connections, settings.seconds, settings.server_cpu, settings.cpu
    )];
    for turn in 1..=settings.turns {
        let one = drive(settings, &target)?;
        lines.push(line(&format!("palisade-loadtest, turn {turn}"), one));
        ours = ours.best(one);
        if settings.wrk {
            let one = run_wrk(settings, &target)?;
            lines.push(line(&format!("wrk, turn {turn}"), one));
            wrk = wrk.best(one);
        }
    }
    lines.push(line("palisade-loadtest, best", ours));
    if settings.wrk {
        lines.push(line("wrk, best", wrk));
        lines.push(format!(
            "ratio: {:.2} of wrk's requests a second, {:.2} of its requests a CPU second",
            ours.per_second / wrk.per_second,
            ours.per_cpu_second / wrk.per_cpu_second
        ));
    }
    Ok(lines.join("\n"))
}

fn line(driver: &str, turn: Turn) -> String {
    format!("{driver:<28} {:>10.0} requests/s {:>10.0} a CPU second", turn.per_second, turn.per_cpu_second)
}

fn drive(settings: &Settings, target: &Target) -> io::Result<Turn> {
    let settings = settings.clone();
    let target = target.clone();
    let work = move || -> io::Result<Turn> {
        pin(settings.cpu)?;
        let (events, mut received) = unbounded_channel();
        let fixed = Box::new(Fixed(request(&target)));
        let mut worker = Worker::new(
            settings.clock,
            fixed,
            Arc::new(Shared::default()),
            events,
            1,
            Part { index: 0, count: 1 },
        );
        let mut wire = http1::Wire::new(wire::Settings {
            targets: vec![target],
            connections: vec![Route { lane: 0, target: 0 }; settings.connections],
            depth: 1,
            timeout: Duration::from_secs(5),
        })?;
        let begin = settings.clock.now() + 100 * MILLI;
        let end = begin + settings.seconds * SECOND;
        worker.begin(Phase { begin, end, curves: vec![None], measured: true });
        let before = thread_cpu();
        wire.drive(&mut worker)?;
        let used = seconds(thread_cpu() - before);
        drop(worker);
        let mut requests = 0;
        let mut failed = 0;
        while let Some(event) = received.blocking_recv() {
            if let WorkerEvent::SecondEnded(second) = event {
                let all = second.grid.all();
                requests += all.requests;
                failed += all.failed();
            }
        }
        if failed > 0 {
            return Err(io::Error::other(format!("{failed} requests of {requests} failed")));
        }
        let requests = requests as f64;
        Ok(Turn { per_second: requests / settings.seconds as f64, per_cpu_second: requests / used })
    };
    let thread = std::thread::Builder::new().name("ceiling".into()).spawn(work)?;
    thread.join().map_err(|_| io::Error::other("the driver panicked"))?
}

fn token() -> String {
    "x".repeat(TOKEN_BYTES)
}

fn request(target: &Target) -> Vec<u8> {
    format!(
        "GET /api/v1/auth_token/validation HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
        target.authority,
        token()
    )
    .into_bytes()
}

fn run_wrk(settings: &Settings, target: &Target) -> io::Result<Turn> {
    let mut command = Command::new("taskset");
    command.args(["-c", &settings.cpu.to_string(), "wrk", "-t1"]);
    command.args([format!("-c{}", settings.connections), format!("-d{}s", settings.seconds)]);
    command.arg("-H").arg(format!("Authorization: Bearer {}", token()));
    command.arg(format!("{}/api/v1/auth_token/validation", target.url));
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|error| {
            io::Error::other(format!("cannot run taskset and wrk (try --no-wrk): {error}"))
        })?;
    let mut text = String::new();
    if let Some(output) = &mut child.stdout {
        output.read_to_string(&mut text)?;
    }
    // The process has ended but is not waited for yet, so the kernel still reports its CPU time.
    let used = cpu_seconds(child.id());
    let status = child.wait()?;
    let per_second =
        text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse::<f64>().ok());
    match per_second {
        Some(per_second) if status.success() => {
            let requests = per_second * settings.seconds as f64;
            Ok(Turn { per_second, per_cpu_second: used.map_or(per_second, |used| requests / used) })
        }
        _ => Err(io::Error::other("wrk printed no figure: is it installed? (try --no-wrk)")),
    }
}

/// The CPU seconds of a process: fields 14 and 15 of its `stat`, in hundredths.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// A scenario that always sends the same request.
struct Fixed(Vec<u8>);

impl Scenario for Fixed {
    fn write_request(&mut self, route: Route, _: Nanos, out: &mut Vec<u8>) -> Option<InFlight> {
        out.extend_from_slice(&self.0);
        Some(InFlight { kind: RequestKind::Fixed, route, subject: 0, epoch: 0, extra: 0, due: 0, sent: 0 })
    }

    fn judge(&mut self, _: &InFlight, answer: &Answer<'_>, _: Nanos) -> Judgement {
        if answer.status == 200 { Judgement::Correct } else { Judgement::Wrong(answer.status.to_string()) }
    }

    fn on_lost(&mut self, _: &InFlight, _: Nanos) {}
}
