//! How much the tool itself can drive: against a server of its own that does nothing, and beside wrk.
//!
//! Promises: tool and wrk drive the same server, with the same request, from the same core, in turn; the
//! server is another process on another core. Both figures are told: requests a second, and requests a second
//! of the driver's own CPU time, which is what counts when the server is the slower one. Listens on loopback.

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
    record::Kind,
    run::threads::pin,
    scenario::{Note, Scenario, Spot, Verdict},
    target::{self, Target},
    wire::{self, http1},
    worker::{Phase, Said, Shared, Worker},
};

/// The hidden command that serves.
pub const SERVE: &str = "ceiling-server";
/// About as long as a real one.
const TOKEN: usize = 420;

/// What is measured.
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

/// One turn.
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

/// Measures; the figures as text.
pub fn measure(settings: &Settings) -> io::Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([SERVE, "--cpu", &settings.server_cpu.to_string()]);
    let mut server = Server(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let output = server.0.stdout.take().ok_or_else(|| io::Error::other("the server has no output"))?;
    let mut address = String::new();
    BufReader::new(output).read_line(&mut address)?;
    let address: SocketAddr = address.trim().parse().map_err(io::Error::other)?;
    let target = target::parse(&format!("http://{address}"), false).map_err(io::Error::other)?;
    let (mut ours, mut wrk) = (Turn::default(), Turn::default());
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

fn line(who: &str, turn: Turn) -> String {
    format!("{who:<28} {:>10.0} requests/s {:>10.0} a CPU second", turn.per_second, turn.per_cpu_second)
}

fn drive(settings: &Settings, target: &Target) -> io::Result<Turn> {
    let settings = settings.clone();
    let target = target.clone();
    let work = move || -> io::Result<Turn> {
        pin(settings.cpu)?;
        let (said, mut heard) = unbounded_channel();
        let fixed = Box::new(Fixed(request(&target)));
        let mut worker = Worker::new(settings.clock, fixed, Arc::new(Shared::default()), said, 1, (0, 1));
        let mut wire = http1::Wire::new(wire::Settings {
            targets: vec![target],
            connections: vec![Spot { lane: 0, target: 0 }; settings.connections],
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
        let (mut requests, mut failed) = (0, 0);
        while let Some(said) = heard.blocking_recv() {
            if let Said::Second(second) = said {
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
    thread.join().map_err(|_| io::Error::other("the driver failed"))?
}

fn token() -> String {
    "x".repeat(TOKEN)
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
            io::Error::other(format!("taskset and wrk are needed (or --no-wrk): {error}"))
        })?;
    let mut text = String::new();
    if let Some(output) = &mut child.stdout {
        output.read_to_string(&mut text)?;
    }
    // It has ended, and is not waited for yet: the kernel still tells what it used.
    let used = used_by(child.id());
    let status = child.wait()?;
    let per_second =
        text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse::<f64>().ok());
    match per_second {
        Some(per_second) if status.success() => {
            let requests = per_second * settings.seconds as f64;
            Ok(Turn { per_second, per_cpu_second: used.map_or(per_second, |used| requests / used) })
        }
        _ => Err(io::Error::other("wrk gave no figure: is it installed? (or --no-wrk)")),
    }
}

/// CPU seconds of a process: fields 14 and 15 of its `stat`, in hundredths.
fn used_by(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// Always the same request.
struct Fixed(Vec<u8>);

impl Scenario for Fixed {
    fn ask(&mut self, spot: Spot, _: Nanos, out: &mut Vec<u8>) -> Option<Note> {
        out.extend_from_slice(&self.0);
        Some(Note { kind: Kind::Fixed, spot, subject: 0, epoch: 0, extra: 0, due: 0, sent: 0 })
    }

    fn answered(&mut self, _: &Note, answer: &Answer<'_>, _: Nanos) -> Verdict {
        if answer.status == 200 { Verdict::Right } else { Verdict::Wrong(answer.status.to_string()) }
    }

    fn lost(&mut self, _: &Note, _: Nanos) {}
}
