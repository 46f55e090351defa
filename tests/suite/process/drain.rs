//! The end of a node: nothing that was begun is lost.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use testkit::{Client, Drain, Node, Person, Raw, eventually};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_under_load() {
    let node = Node::builder().setting("DRAIN_GRACE", "1s").start().await;
    let ann = node.register("ann").await;
    let drain = Drain::default();
    let requests = ["auth_token/validation", "users/me", "users/me/sessions"].map(|path| {
        format!("GET /api/v1/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", ann.access)
    });
    let clients = (0..24).map(|n| drain.ask(&node, requests[n % 3].as_bytes(), 1));
    tokio::join!(futures_util::future::join_all(clients), drain.end(&node, 500));
    node.restart().await;
    ann.is_in().await;
}

#[tokio::test]
async fn a_draining_node_is_not_ready_but_serves() {
    let node = Node::builder().setting("DRAIN_GRACE", "5s").start().await;
    let ann = node.register("ann").await;
    let start = Instant::now();
    node.ask_to_end();
    let answer = eventually(ANSWER_TIMEOUT, "the readiness of a draining node", async || {
        let answer = node.readiness().await.expect("it serves");
        (answer.status != 200).then_some(answer)
    })
    .await;
    answer.is_refused(503);
    node.get("/health/live").send().await.is(200);
    ann.is_in().await;
    // New connections too: a proxy has not heard yet.
    let newcomer = ann.at(&node.another_client());
    newcomer.is_in().await;
    newcomer.in_another_session().await.is_in().await;
    newcomer.delete("auth_token").send().await.is_done();
    assert!(start.elapsed() < Duration::from_secs(5), "too slow a machine for this test");
    let status = node.ended(Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(0));
    assert!(start.elapsed() >= Duration::from_secs(4), "it ended within the grace: {:?}", start.elapsed());
    node.restart().await;
    ann.is_out().await;
}

/// A process inherits the blocked signals of its parent, such as a supervisor that handles them by `signalfd`.
#[tokio::test]
async fn node_ends_on_a_signal_that_its_parent_blocked() {
    let scratch = testkit::scratch::directory();
    let call = testkit::Palisade::with(["serve"]).setting("LISTEN", "127.0.0.1:0");
    let call =
        call.setting("DATA_DIR", scratch.path().join("data")).setting("DRAIN_GRACE", "0s").into_command();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut blocking = tokio::process::Command::new("env");
        blocking.args(["--block-signal=TERM,INT,HUP"]).arg(call.get_program()).args(call.get_args());
        blocking.envs(call.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child =
            blocking.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let socket = scratch.path().join("data").join("control.sock");
        eventually(ANSWER_TIMEOUT, "the control socket", async || {
            std::os::unix::net::UnixStream::connect(&socket).ok()
        })
        .await;
        let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let status = testkit::within(ANSWER_TIMEOUT, "the end of the node", child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{signal:?}");
    }
}

#[tokio::test]
async fn second_sigterm_ends_the_node_at_once() {
    let node = Node::builder().setting("DRAIN_GRACE", "10m").start().await;
    node.ask_to_end();
    eventually(ANSWER_TIMEOUT, "it drains", async || {
        (node.readiness().await.expect("it serves").status == 503).then_some(())
    })
    .await;
    node.ask_to_end();
    node.ended(Duration::from_secs(5)).await;
    node.restart().await;
}

#[tokio::test]
async fn an_idle_node_ends_soon_after_the_grace() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    // An idle connection that is kept must not hold it up.
    let mut idle = Raw::to(&node).await;
    idle.send("GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(idle.reply(ANSWER_TIMEOUT).await.status(), Some(200));
    let start = Instant::now();
    assert_eq!(node.terminate().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    node.restart().await;
    ann.is_in().await;
}

#[tokio::test]
async fn running_request_is_finished() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    // Log-ins take a while each; those in the queue when the signal comes are finished.
    let answered = AtomicUsize::new(0);
    let log_ins = (0..16).map(|_| async {
        let answer = node.log_in(&ann.email, &ann.password).await;
        answered.fetch_add(1, Ordering::SeqCst);
        answer
    });
    let end = async {
        let first = async || (answered.load(Ordering::SeqCst) > 0).then_some(());
        eventually(ANSWER_TIMEOUT, "the first of the log-ins", first).await;
        node.ask_to_end();
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(log_ins), end);
    for answer in answers {
        assert!(matches!(answer.status, 200 | 503), "{answer}");
    }
    assert_eq!(node.ended(Duration::from_secs(30)).await.code(), Some(0));
}

#[tokio::test]
async fn slow_client_does_not_delay_the_drain() {
    let node = Node::start().await;
    let mut slow = Raw::to(&node).await;
    slow.send("POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        .await
        .unwrap();
    node.get("/health/live").send().await.is(200);
    node.ask_to_end();
    assert_eq!(node.ended(Duration::from_secs(45)).await.code(), Some(0));
}

/// A node that another program starts, which says what becomes of SIGHUP.
struct StartedBy {
    child: std::process::Child,
    client: Client,
    _scratch: tempfile::TempDir,
}

impl StartedBy {
    async fn program(program: &[&str]) -> Self {
        let scratch = testkit::scratch::directory();
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let call = testkit::Palisade::with(["serve"])
            .setting("DATA_DIR", scratch.path().join("data"))
            .setting("LISTEN", format!("127.0.0.1:{port}"))
            .setting("DRAIN_GRACE", "10m");
        let call = call.into_command();
        let mut command = std::process::Command::new(program[0]);
        command.args(&program[1..]).arg(call.get_program()).args(call.get_args());
        command.envs(call.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let silent = std::process::Stdio::null;
        let child = command.stdin(silent()).stderr(silent()).stdout(silent()).spawn().unwrap();
        let client = Client::new(Arc::new(AtomicU16::new(port)));
        let mut node = Self { child, client, _scratch: scratch };
        eventually(Duration::from_secs(60), "readiness", async || {
            assert_eq!(node.child.try_wait().unwrap(), None, "it has ended");
            (node.readiness().await? == 200).then_some(())
        })
        .await;
        node
    }

    async fn readiness(&self) -> Option<u16> {
        self.client.get("/health/ready").try_send().await.ok().map(|answer| answer.status)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it takes signals");
    }
}

impl Drop for StartedBy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn sighup_drains_as_sigterm_does() {
    // What runs the tests may ignore the signal, as `nohup` does.
    let mut node = StartedBy::program(&["env", "--default-signal=HUP"]).await;
    let ann = Person::register(&node.client, "ann").await;
    node.signal(Signal::HUP);
    eventually(ANSWER_TIMEOUT, "it drains", async || (node.readiness().await == Some(503)).then_some(()))
        .await;
    // A terminal that closes may send it twice: that ends nothing at once.
    node.signal(Signal::HUP);
    ann.is_in().await;
    node.signal(Signal::TERM);
    let status = eventually(ANSWER_TIMEOUT, "the end", async || node.child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn sighup_stays_ignored_under_nohup() {
    let node = StartedBy::program(&["nohup"]).await;
    node.signal(Signal::HUP);
    assert_eq!(node.readiness().await, Some(200));
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.child.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 1, 1, "it is not ignored any more");
}

/// Log rotation sends them to servers that reopen their logs.
#[tokio::test]
async fn user_signals_do_not_end_the_node() {
    let mut node = StartedBy::program(&["env"]).await;
    node.signal(Signal::USR1);
    node.signal(Signal::USR2);
    node.signal(Signal::TERM);
    eventually(ANSWER_TIMEOUT, "it drains", async || (node.readiness().await == Some(503)).then_some(()))
        .await;
    node.signal(Signal::TERM);
    let status = eventually(ANSWER_TIMEOUT, "the end", async || node.child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
}
