//! `palisade-loadtest`: a load tester for any deployment of Palisade.
//!
//! It speaks HTTP only and depends on no other crate of the workspace. It counts wrong answers apart from
//! errors, and reports how busy its own threads were.
//!
//! | module | content |
//! |---|---|
//! | `cli`, `units` | flags, their values, the exit status |
//! | `job`, `run` | the job of a run; accounts, phases, the result |
//! | `threads`, `worker`, `pace`, `record`, `busy` | threads, due times, judging, counting: the same over any wire |
//! | `scenario`, `scenario/specs` | what each scenario requests; `propagation` is one of its own |
//! | `session_pool` | users, sessions, tokens: which requests they allow, and which answers are wrong |
//! | `test_accounts`, `client` | creates users before a run and deletes them after it |
//! | `wire/http1`, `wire/h2c`, `answer` | connections |
//! | `objective`, `search` | objectives, and the highest rate that meets them |
//! | `faults` | schedules of faults |
//! | `ceiling` | the limit of the tool itself |
//! | `result`, `report`, `compare`, `screen`, `live`, `summary`, `format`, `print` | output |
//!
//! To add a scenario, add an entry to `scenario/specs.rs`. To add a kind of request, add a
//! [`record::RequestKind`] and a file in `session_pool/`.

mod answer;
mod busy;
mod ceiling;
mod cli;
mod client;
mod clock;
mod compare;
mod faults;
mod format;
mod job;
mod live;
mod objective;
mod pace;
mod print;
mod random;
mod record;
mod report;
mod result;
mod run;
mod scenario;
mod screen;
mod search;
mod session_pool;
mod summary;
mod target;
mod test_accounts;
mod threads;
mod units;
mod wire;
mod worker;

fn main() -> std::process::ExitCode {
    cli::main()
}
