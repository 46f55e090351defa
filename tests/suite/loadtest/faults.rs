//! Faults on a schedule: what was done is in the result, and nothing that was started is left running.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use testkit::{LoadTest, binary, eventually};

use super::small;

const SOON: Duration = Duration::from_secs(60);

/// A port that no process has.
fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// `faults` with this schedule for `n1`, a node that the load tester starts, and for `other`, a process
/// beside it. Whoever is started writes its process id.
fn scheduled(events: &[(f64, &str, &str)]) -> LoadTest {
    let address = free_address();
    let palisade = binary::palisade().display();
    let mut schedule = format!(
        r#"
[nodes.n1]
start = "echo $$ >> pids; exec {palisade} serve --listen {address} --data-dir data"
env = {{ PALISADE_REGISTRATION_RATE = "off", PALISADE_DRAIN_GRACE = "100ms" }}
log = "n1.log"

[nodes.other]
start = "echo $$ >> pids; exec sleep 1000"
"#
    );
    for (s, action, on) in events {
        let named = if *action == "run" { "command" } else { "node" };
        schedule += &format!("[[at]]\ns = {s:.1}\naction = \"{action}\"\n{named} = \"{on}\"\n");
    }
    let call = small("faults", address).args(&["--scenario", "validate", "--faults", "faults.toml"]);
    call.file("faults.toml", &schedule)
}

fn is_running(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

#[tokio::test]
async fn what_was_done_is_in_the_result_and_nothing_is_left_running() {
    let events = [
        (0.3, "pause", "n1"),
        (0.8, "resume", "n1"),
        (1.0, "kill", "other"),
        (1.2, "restart", "other"),
        (1.3, "run", "exit 3"),
        (1.4, "pause", "other"),
    ];
    let load = scheduled(&events).args(&["--rate", "100", "--duration", "2s"]).run().await;
    load.ended(0, &["pause n1", "resume n1", "run exit FAILED", "2 users were deleted again"]);
    let result = load.result();
    assert_eq!(result["scenario"], "faults: validate");
    let marks = result["faults"].as_array().unwrap();
    assert_eq!(marks.len(), events.len(), "{marks:?}");
    for ((at_s, action, on), mark) in events.iter().zip(marks) {
        // Of a command only what is run: its arguments may hold a secret.
        let named = on.split(' ').next().unwrap();
        assert_eq!((&mark["action"], &mark["on"]), (&(*action).into(), &named.into()));
        assert!(mark["at_s"].as_f64() >= Some(*at_s), "{mark}");
        assert_eq!(mark["failed"].is_null(), *action != "run", "{mark}");
    }
    assert!(result["total"]["latency"]["max"].as_u64() >= Some(400_000), "the pause is seen: {result}");
    let report = load.report();
    assert!(report.contains("What was done to the deployment") && report.contains("not done: "), "{report}");

    let pids = load.file("pids").unwrap();
    assert_eq!(pids.lines().count(), 3, "the node, and the other one twice: {pids}");
    assert!(!pids.lines().any(is_running), "something is left running: {pids}");
    assert!(load.file("n1.log").is_some_and(|log| !log.is_empty()), "the log of the node");
}

#[tokio::test]
async fn a_node_that_does_not_start_is_named_with_its_log() {
    let schedule = "[nodes.n1]\nstart = \"echo no store >&2; exit 7\"\nlog = \"n1.log\"\n\
                    [[at]]\ns = 0\naction = \"kill\"\nnode = \"n1\"\n";
    let call = small("faults", free_address()).args(&["--faults", "faults.toml"]);
    let load = call.file("faults.toml", schedule).run().await;
    load.run.failed_saying(&["node n1 has ended already", "7", "n1.log"]).in_one_line();
    assert_eq!(load.file("n1.log").as_deref(), Some("no store\n"));
}

#[tokio::test]
async fn ctrl_c_resumes_paused_node_and_ends_started_processes() {
    let call = scheduled(&[(0.1, "pause", "n1"), (500.0, "kill", "other")]);
    let running = call.args(&["--rate", "100", "--duration", "10m", "--timeout", "1s"]).start();
    eventually(SOON, "the node is paused", async || {
        let pids = running.file("pids")?;
        let stopped =
            pids.lines().filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        stopped.filter_map(|stat| Some(stat.rsplit_once(") ")?.1.starts_with('T'))).find(|is| *is)
    })
    .await;
    running.interrupt();
    let load = running.end().await;
    load.ended(1, &["ended before its time: interrupted", "2 users were deleted again"]);
    let pids = load.file("pids").unwrap();
    assert_eq!(pids.lines().count(), 2, "{pids}");
    assert!(!pids.lines().any(is_running), "something is left running: {pids}");
}
