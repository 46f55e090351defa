//! Two that take turns in one run, and what their ratios are.

use std::{net::SocketAddr, time::Instant};

use crate::{
    TURN, TURNS,
    load::{Load, Served, USER_HZ},
    median,
};

/// Limit of the share of CPU time that the host may take in a turn. A turn above it is repeated.
const STOLEN_MAX: f64 = 0.03;

/// One of the two sides: the server, the requests, and the expected answer.
pub struct Side<'a> {
    pub name: &'static str,
    pub load: &'a Load,
    pub server: (SocketAddr, u32),
    pub status: u16,
}

/// Ours beside the plain one: medians over all turns.
pub struct Ratios {
    pub rate: f64,
    /// Above 1: less of the server's CPU time a request.
    pub cpu: f64,
    pub p99: f64,
    /// Of ours, in microseconds a request.
    pub cpu_us: f64,
}

impl std::fmt::Display for Ratios {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} by rate, {:.2} by CPU time", self.rate, self.cpu)
    }
}

impl Side<'_> {
    pub async fn turn(&self) -> Served {
        let (address, pid) = self.server;
        self.load.run(address, pid, TURN).await.all(self.status)
    }
}

/// The two take turns.
pub async fn compare(plain: Side<'_>, ours: Side<'_>) -> Ratios {
    turns([plain.name, ours.name], async || [plain.turn().await, ours.turn().await]).await
}

/// Turns of both, until there are enough in which the machine was left to them.
pub async fn turns(names: [&str; 2], mut both: impl AsyncFnMut() -> [Served; 2]) -> Ratios {
    let mut rates = Vec::new();
    let mut cpus = Vec::new();
    let mut tails = Vec::new();
    let mut cpu_us = Vec::new();
    // For the caches.
    both().await;
    let mut disturbed = 0;
    while rates.len() < TURNS {
        let began = Instant::now();
        let before = stolen_s();
        let [plain, ours] = both().await;
        plain.show(names[0]);
        ours.show(names[1]);
        let share = (stolen_s() - before) / began.elapsed().as_secs_f64() / crate::cores() as f64;
        if share > STOLEN_MAX {
            disturbed += 1;
            let again = disturbed <= 2 * TURNS;
            let so = if again { "once more" } else { "and does not stop: it counts" };
            println!("  the host took {:.0} % of the machine: {so}", share * 100.0);
            if again {
                continue;
            }
        }
        let p99 = |served: &Served| served.took_us.value_at_quantile(0.99) as f64;
        rates.push(ours.per_second / plain.per_second);
        cpus.push(plain.cpu_us / ours.cpu_us);
        tails.push(p99(&ours) / p99(&plain));
        cpu_us.push(ours.cpu_us);
    }
    Ratios { rate: median(rates), cpu: median(cpus), p99: median(tails), cpu_us: median(cpu_us) }
}

/// What the host of a virtual machine has had of its cores (`proc_stat(5)`).
fn stolen_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let ticks = stat.split_whitespace().nth(8).and_then(|ticks| ticks.parse::<f64>().ok());
    ticks.unwrap_or(0.0) / f64::from(USER_HZ)
}
