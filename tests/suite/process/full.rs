//! A full disk: what cannot be kept is not promised, what needs no disk goes on, and once there is
//! room again all is well.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU16},
    time::Duration,
};

use serde_json::json;
use testkit::{Client, Palisade, Person, eventually, fresh};

/// A node whose data directory is a file system of its own, in a mount namespace of its own.
struct OnASmallDisk {
    _child: tokio::process::Child,
    _scratch: tempfile::TempDir,
    client: Client,
    /// A file on that disk, as seen from here, which leaves no room for anything else.
    filler: PathBuf,
}

/// `None` where the system does not allow such a disk.
async fn on_a_small_disk() -> Option<OnASmallDisk> {
    let scratch = testkit::scratch::directory();
    let disk = scratch.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let probe = tokio::process::Command::new("unshare").args(["-rm", "true"]).output().await;
    if !probe.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let call = Palisade::with(["serve"])
        .setting("LISTEN", format!("127.0.0.1:{port}"))
        .setting("DATA_DIR", disk.join("data"))
        .setting("REGISTRATION_RATE", "off")
        .setting("DRAIN_GRACE", "100ms");
    let call = call.into_command();
    let script = "mount -t tmpfs -o size=24m none \"$0\" && exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["-rm", "sh", "-c", script]).arg(&disk).arg(call.get_program()).args(call.get_args());
    for (name, value) in call.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut command = tokio::process::Command::from(command);
    let child = command.kill_on_drop(true).spawn().unwrap();
    let client = Client::new(Arc::new(AtomicU16::new(port)));
    eventually(Duration::from_secs(60), "readiness", async || {
        client.get("/health/ready").try_send().await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    let root = PathBuf::from(format!("/proc/{}/root", child.id().unwrap()));
    let filler = root.join(disk.strip_prefix("/").unwrap()).join("filler");
    Some(OnASmallDisk { _child: child, _scratch: scratch, client, filler })
}

fn fill(path: &PathBuf) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    let block = vec![0; 64 * 1024];
    while file.write_all(&block).is_ok() {}
    while file.write_all(&block[..512]).is_ok() {}
}

#[tokio::test]
async fn full_disk_confirms_nothing_and_loses_nothing() {
    let Some(node) = on_a_small_disk().await else { return };
    let client = &node.client;
    let ann = Person::register(client, "ann").await;
    let bob = Person::register(client, "bob").await;
    fill(&node.filler);
    // Until the room inside the files of the node is used up too.
    let mut kept = Vec::new();
    let refused = loop {
        let email = format!("{}@example.org", fresh("crowd"));
        let long = "n".repeat(100);
        let body = json!({"email": email, "password": "a password nobody else has", "first_name": long});
        let answer = client.post("users").json(&body).send().await;
        match answer.status {
            201 => kept.push(email),
            // The queue for hashing may be full, too; that is another reason, and passes.
            503 if answer.json()["code"] == "busy" => {}
            _ => break answer,
        }
        assert!(kept.len() < 2_000, "the disk is never full");
    };
    refused.is_refused(503);
    // What needs no disk goes on.
    ann.is_in().await;
    client.get("/health/live").send().await.is(200);
    // A refresh may still find room inside the file. Either it is not spent, or it is and lasts.
    let shown = client.refresh(&ann.refresh).await;
    assert!(matches!(shown.status, 200 | 503), "{shown}");
    let ann = if shown.status == 200 { ann.with_tokens(shown.pair()) } else { ann };
    // A log-out holds when it was answered so.
    let logout = bob.delete("auth_token").send().await;
    assert!(matches!(logout.status, 204 | 503), "{logout}");
    if logout.status == 204 {
        bob.is_out().await;
    }
    std::fs::remove_file(&node.filler).unwrap();
    let again = eventually(Duration::from_secs(30), "the node writes again", async || {
        let answer = client.refresh(&ann.refresh).await;
        (answer.status == 200).then_some(answer)
    });
    ann.with_tokens(again.await.pair()).is_in().await;
    for email in kept.iter().step_by(kept.len().div_ceil(10).max(1)) {
        client.log_in(email, "a password nobody else has").await.is(200);
    }
    Person::register(client, "cid").await.is_in().await;
}
