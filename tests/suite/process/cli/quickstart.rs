//! The command `quickstart`, which prepares and starts a first node.

use std::{io::Read as _, process::Stdio, time::Duration};

use testkit::{Palisade, within};

#[tokio::test]
async fn quickstart_creates_a_superuser_and_shows_password_once() {
    let scratch = testkit::scratch::directory();
    let data = scratch.path().join("data");
    let quickstart = || {
        let call = Palisade::with(["quickstart", "--json", "--listen", "127.0.0.1:0"]);
        call.setting("DATA_DIR", &data).setting("DRAIN_GRACE", "0s")
    };
    let first = Quickstart::start(quickstart()).await;
    let text = |name: &str| first.said[name].as_str().unwrap().to_owned();
    let email = text("email");
    let password = text("password");
    assert_eq!(first.said["created"], true);
    let log_in = first.log_in(&email, &password).await;
    assert!(log_in.contains("access_token"), "{log_in}");
    let mut logs = first.ends();
    // Again: it changes nothing, whatever it is given.
    let again =
        quickstart().args(["--email", "other@example.org"]).setting("SUPERUSER_PASSWORD", "walls and gates");
    let again = Quickstart::start(again).await;
    assert_eq!(
        (&again.said["created"], &again.said["email"]),
        (&serde_json::json!(false), &serde_json::json!(email))
    );
    assert_eq!(again.said.get("password"), None);
    let log_in = again.log_in(&email, &password).await;
    assert!(log_in.contains("access_token"), "{log_in}");
    logs += &again.ends();
    assert!(!logs.contains(&password), "the password is in the log");
    for entry in std::fs::read_dir(&data).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap_or_default();
        assert!(!bytes.windows(password.len()).any(|window| window == password.as_bytes()));
    }
}

#[tokio::test]
async fn quickstart_refuses_settings_unfit_for_a_first_node() {
    let scratch = testkit::scratch::directory();
    let data = scratch.path().join("data");
    let quickstart = || Palisade::with(["quickstart"]).setting("DATA_DIR", &data);
    quickstart().setting("LISTEN", "0.0.0.0:0").run().await.failed_saying(&["PALISADE_LISTEN"]).in_one_line();
    let shared = quickstart().setting("STORE", "cql://db/palisade");
    let shared = shared.setting("MASTER_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").run().await;
    shared.failed_saying(&["PALISADE_STORE"]).in_one_line();
    quickstart()
        .setting("SUPERUSER_PASSWORD", "short")
        .run()
        .await
        .failed_saying(&["password"])
        .in_one_line();
    quickstart().args(["--email", "nobody"]).run().await.failed_saying(&["email"]).in_one_line();
    quickstart().args(["--ask-password"]).run().await.was_wrong_usage(&["--password"]);
    assert!(!data.exists(), "something was made");
    // The command does not set a password that it cannot show.
    let mut lost = quickstart().setting("LISTEN", "127.0.0.1:0").into_command();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let lost = lost.stdout(full).output().unwrap();
    assert_eq!(lost.status.code(), Some(1), "{lost:?}");
    let given = quickstart().args(["--json", "--listen", "127.0.0.1:0"]);
    let given = Quickstart::start(given.setting("SUPERUSER_PASSWORD", "walls and gates")).await;
    assert_eq!((&given.said["created"], &given.said["password"]), (&true.into(), &serde_json::Value::Null));
    assert!(given.log_in("root@example.org", "walls and gates").await.contains("access_token"));
    given.ends();
}

/// A node that was started so, and what it said.
struct Quickstart {
    child: std::process::Child,
    said: serde_json::Value,
}

impl Quickstart {
    async fn start(call: Palisade) -> Self {
        let mut command = call.into_command();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
            line
        });
        let line = within(Duration::from_secs(60), "a word of quickstart", line).await.unwrap();
        let said = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { child, said }
    }

    async fn log_in(&self, email: &str, password: &str) -> String {
        let port = self.said["url"].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
        let client = testkit::Client::new(std::sync::Arc::new(std::sync::atomic::AtomicU16::new(port)));
        let body = serde_json::json!({ "email": email, "password": password });
        // It listens when it speaks, and answers a moment later.
        client.post("auth_token").json(&body).send().await.to_string()
    }

    /// Ends it as Ctrl-C does; gives its log.
    fn ends(mut self) -> String {
        signal(&self.child, rustix::process::Signal::INT);
        let mut logs = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut logs).unwrap();
        assert!(self.child.wait().unwrap().success(), "{logs}");
        logs
    }
}

fn signal(child: &std::process::Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
