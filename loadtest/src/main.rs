//! `palisade-loadtest`: a load tester that tells the truth about a cluster.
//!
//! It speaks HTTP only and depends on no other crate of the workspace, so it measures any deployment.
//!
//! | where | what |
//! |---|---|
//! | `cli` | flags, what they mean, exit status |
//! | `job`, `run` | what a run is told; people, phases, threads, the result |
//! | `scenario`, `scenario/shapes` | what each scenario asks; `propagation` is one of its own |
//! | `crowd` | users, sessions, tokens: what is asked about them, and which answers are wrong |
//! | `people`, `client` | making users before a run and deleting them after it |
//! | `worker`, `pace`, `record`, `busy` | due times, judging, counting: the same over any wire |
//! | `wire/http1`, `wire/h2c`, `answer` | sockets |
//! | `objective`, `search` | what must hold, and the highest rate at which it does |
//! | `faults` | schedules of faults |
//! | `ceiling` | what the tool itself can drive |
//! | `result`, `report`, `compare`, `screen`, `live`, `summary` | what is shown |
//!
//! To add a scenario: an entry in `scenario/shapes.rs`. To add a kind of request: a [`record::Kind`], a
//! [`crowd::Deed`] and a file in `crowd/`.

mod answer;
mod busy;
mod ceiling;
mod cli;
mod client;
mod clock;
mod compare;
mod crowd;
mod faults;
mod job;
mod live;
mod objective;
mod pace;
mod people;
mod random;
mod record;
mod report;
mod result;
mod run;
mod scenario;
mod screen;
mod search;
mod summary;
mod target;
mod wire;
mod worker;

fn main() -> std::process::ExitCode {
    cli::main()
}
