//! A stderr that is closed, full or never read: the node answers, counts the lines that it loses, and
//! drains as usual. And a control socket whose clients are silent.

use std::{
    io::Read as _,
    os::unix::net::UnixStream,
    process::{Child, Stdio},
    sync::{Arc, atomic::AtomicU16},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use testkit::{Client, Node, Palisade, Person, eventually};

const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// A node with a stderr that the test chose.
struct NodeWithStderr {
    child: Child,
    client: Client,
    _data_dir: tempfile::TempDir,
}

impl NodeWithStderr {
    async fn start(stderr: Stdio) -> Self {
        let data_dir = testkit::scratch::directory();
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        // Everything is logged, so that a pipe is full soon.
        let call =
            Palisade::with(["serve", "--log", "trace", "--log-format", "json", "--drain-grace", "100ms"])
                .setting("LISTEN", format!("127.0.0.1:{port}"))
                .setting("DATA_DIR", data_dir.path())
                .setting("REGISTRATION_RATE", "off");
        let child = call.into_command().stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let client = Client::new(Arc::new(AtomicU16::new(port)));
        let node = Self { child, client, _data_dir: data_dir };
        eventually(SHUTDOWN_TIMEOUT, "readiness", async || {
            let answer = node.client.get("/health/ready").try_send().await;
            answer.is_ok_and(|answer| answer.status == 200).then_some(())
        })
        .await;
        node
    }

    fn take_stderr(&mut self) -> impl std::io::Read + use<> {
        self.child.stderr.take().unwrap()
    }

    /// Registers, logs in, refreshes, fails to log in, logs out.
    async fn serves_a_user(&self) {
        let ann = Person::register(&self.client, "ann").await;
        let ann = ann.refreshed().await;
        ann.is_in().await;
        self.client.log_in(&ann.email, "another password").await.is_refused(401);
        ann.delete("auth_token").send().await.is_done();
        ann.is_out().await;
        self.client.get("/health/live").send().await.is(200);
    }

    async fn lines_lost(&self) -> f64 {
        self.client.metric("palisade_log_lines_lost_total").await.expect("the metric is there")
    }

    async fn loses_lines(&self) {
        eventually(SHUTDOWN_TIMEOUT, "lines that are lost", async || {
            self.client.get("users/me").send().await.is_refused(401);
            (self.lines_lost().await > 0.0).then_some(())
        })
        .await;
    }

    async fn drains(mut self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        let status = eventually(SHUTDOWN_TIMEOUT, "the end", async || self.child.try_wait().unwrap()).await;
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for NodeWithStderr {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn node_serves_and_drains_when_stderr_is_full() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let node = NodeWithStderr::start(full.into()).await;
    node.serves_a_user().await;
    node.loses_lines().await;
    node.drains().await;
}

#[tokio::test]
async fn node_serves_and_drains_when_reader_of_stderr_ends() {
    let mut node = NodeWithStderr::start(Stdio::piped()).await;
    let mut stderr = node.take_stderr();
    node.serves_a_user().await;
    let mut line = [0; 1];
    stderr.read_exact(&mut line).unwrap();
    drop(stderr);
    node.serves_a_user().await;
    node.loses_lines().await;
    node.drains().await;
}

#[tokio::test]
async fn node_serves_and_drains_when_stderr_is_not_read() {
    let mut node = NodeWithStderr::start(Stdio::piped()).await;
    let stderr = node.take_stderr();
    // A pipe holds 64 KiB and the queue 1 MiB; a request logs some hundred bytes, a failed one at trace more.
    let long = "x".repeat(7_000);
    eventually(Duration::from_secs(120), "lines that are lost", async || {
        let asks = (0..32).map(|_| node.client.get(&format!("nothing/{long}")).send());
        for answer in futures_util::future::join_all(asks).await {
            answer.is_refused(404);
        }
        (node.lines_lost().await > 0.0).then_some(())
    })
    .await;
    node.serves_a_user().await;
    node.drains().await;
    drop(stderr);
}

#[tokio::test]
async fn start_that_fails_ends_when_stderr_is_full() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let call = Palisade::with(["serve"]).setting("LISTEN", "127.0.0.1:1").setting("DATA_DIR", "/dev/null/x");
    let mut child = call.into_command().stdout(Stdio::null()).stderr(full).spawn().unwrap();
    let status = eventually(SHUTDOWN_TIMEOUT, "the end", async || child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn lines_are_on_stderr_when_node_has_ended() {
    let mut node = NodeWithStderr::start(Stdio::piped()).await;
    let mut stderr = node.take_stderr();
    let output = std::thread::spawn(move || {
        let mut output = String::new();
        stderr.read_to_string(&mut output).map(|_| output)
    });
    node.serves_a_user().await;
    node.drains().await;
    let output = output.join().unwrap().unwrap();
    for line in output.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|why| panic!("{why}: {line}"));
    }
    assert!(output.lines().last().unwrap().contains("shutdown complete"), "{output}");
}

#[tokio::test]
async fn silent_control_clients_do_not_block_commands() {
    let node = Node::start().await;
    let socket = node.data_dir().join("control.sock");
    let mut silent = Vec::new();
    for n in 0..60 {
        let mut client = UnixStream::connect(&socket).unwrap();
        if n % 2 == 0 {
            std::io::Write::write_all(&mut client, b"{\"keys_").unwrap();
        }
        silent.push(client);
        if n % 20 == 0 {
            node.cli(&["keys", "list"]).await.is_done();
        }
    }
    node.cli(&["keys", "list"]).await.is_done();
    // The oldest made room for the others.
    let mut oldest = silent.remove(0);
    oldest.set_read_timeout(Some(SHUTDOWN_TIMEOUT)).unwrap();
    assert_eq!(oldest.read(&mut [0; 1]).unwrap_or(0), 0);
}
