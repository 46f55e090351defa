//! Settings: where they come from, which one wins, and what happens when one is wrong.

use std::path::PathBuf;

use testkit::{Node, Palisade, Run, forge, node::NotStarted};

/// A directory for the files of one test.
fn scratch() -> tempfile::TempDir {
    testkit::scratch::directory()
}

fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn check_config() -> Palisade {
    Palisade::with(["check-config"])
}

/// Both `check-config` and `serve` refuse to go on, naming what is wrong.
async fn is_wrong(prepare: impl Fn(Palisade) -> Palisade, words: &[&str]) {
    for command in ["check-config", "serve"] {
        let directory = scratch();
        let call = Palisade::with([command]).setting("DATA_DIR", directory.path().join("data"));
        let call = if command == "serve" { call.setting("LISTEN", "127.0.0.1:0") } else { call };
        let run: Run = prepare(call).run().await;
        // A flag that clap itself refuses is wrong usage.
        assert!(matches!(run.status, 1 | 2), "{run:?}");
        let said = run.stderr.to_lowercase();
        for word in words {
            assert!(said.contains(&word.to_lowercase()), "{command} does not say {word:?}: {run:?}");
        }
        assert!(!directory.path().join("data").exists(), "{command} made a data directory for nothing");
    }
}

#[tokio::test]
async fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let directory = scratch();
    let config = file(&directory, "palisade.toml", "issuer = \"from the file\"\n");
    let config = config.to_str().unwrap();
    // As tokens say it, which is what counts.
    let issuer = async |flag: bool, variable: bool, with_file: bool| {
        let mut arguments = vec!["serve"];
        if flag {
            arguments.extend(["--issuer", "from the flag"]);
        }
        if with_file {
            arguments.extend(["--config", config]);
        }
        let call = Palisade::with(arguments);
        let call = if variable { call.setting("ISSUER", "from the variable") } else { call };
        issuer_of(call).await
    };
    assert_eq!(issuer(true, true, true).await, "from the flag");
    assert_eq!(issuer(false, true, true).await, "from the variable");
    assert_eq!(issuer(false, false, true).await, "from the file");
    assert_eq!(issuer(false, false, false).await, "palisade");
    assert_eq!(issuer(true, false, true).await, "from the flag");
}

/// Starts a node in this way and reads the issuer from a token.
async fn issuer_of(call: Palisade) -> String {
    let directory = scratch();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let call = call
        .setting("LISTEN", format!("127.0.0.1:{port}"))
        .setting("DATA_DIR", directory.path().join("data"))
        .setting("DRAIN_GRACE", "100ms");
    let mut command = tokio::process::Command::from(call.into_command());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let _child = command.kill_on_drop(true).spawn().unwrap();
    let client = testkit::Client::new(std::sync::Arc::new(std::sync::atomic::AtomicU16::new(port)));
    testkit::eventually(std::time::Duration::from_secs(60), "readiness", async || {
        client.get("/health/ready").try_send().await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    let ann = testkit::Person::register(&client, "ann").await;
    forge::parts(&ann.access).claims["iss"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_value_can_come_from_a_file_that_is_named() {
    let directory = scratch();
    let issuer = file(&directory, "issuer", "from a secret\n");
    let call = Palisade::with(["serve"]).setting("ISSUER_FILE", &issuer);
    assert_eq!(issuer_of(call).await, "from a secret");
}

#[tokio::test]
async fn a_value_and_a_file_for_it_are_one_too_many() {
    let directory = scratch();
    let issuer = file(&directory, "issuer", "x");
    is_wrong(|call| call.setting("ISSUER", "y").setting("ISSUER_FILE", &issuer), &["ISSUER_FILE"]).await;
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    is_wrong(|call| call.setting("ISSUER_FILE", "/nowhere/at/all"), &["ISSUER_FILE", "/nowhere/at/all"])
        .await;
    is_wrong(|call| call.args(["--config", "/nowhere/at/all.toml"]), &["/nowhere/at/all.toml"]).await;
}

#[tokio::test]
async fn an_unknown_key_in_the_file_ends_the_start() {
    let directory = scratch();
    let config = file(&directory, "unknown.toml", "issuer = \"x\"\nisuer_typo = \"y\"\n");
    is_wrong(|call| call.arg_config(&config), &["isuer_typo"]).await;
    let config = file(&directory, "broken.toml", "issuer = \n");
    is_wrong(|call| call.arg_config(&config), &["broken.toml"]).await;
    let config = file(&directory, "wrong.toml", "access_ttl = \"soon\"\n");
    is_wrong(|call| call.arg_config(&config), &["access_ttl", "soon"]).await;
}

trait WithConfig {
    fn arg_config(self, path: &std::path::Path) -> Self;
}

impl WithConfig for Palisade {
    fn arg_config(self, path: &std::path::Path) -> Self {
        self.args(["--config".as_ref(), path.as_os_str()])
    }
}

#[tokio::test]
async fn a_wrong_value_ends_the_start_with_the_name_and_what_was_given() {
    for (name, value) in [
        ("LISTEN", "nonsense"),
        ("LISTEN", "127.0.0.1:99999"),
        ("ACCESS_TTL", "soon"),
        ("ACCESS_TTL", "15"),
        ("ACCESS_TTL", "-1s"),
        ("ACCESS_TTL", "0s"),
        ("REFRESH_TTL", "30 d"),
        ("REFRESH_GRACE", "10 seconds"),
        ("DRAIN_GRACE", "3S"),
        ("SIGNING_ALGORITHM", "HS256"),
        ("SIGNING_ALGORITHM", "none"),
        ("LOGIN_ACCOUNT_FAILURES", "many"),
        ("LOGIN_ACCOUNT_FAILURES", "0/15m"),
        ("REGISTRATION_RATE", "20"),
        ("TRUSTED_PROXIES", "everybody"),
        ("TRUSTED_PROXIES", "10.0.0.0/99"),
        ("LOG_FORMAT", "xml"),
        ("CORS_ORIGINS", "not an origin"),
    ] {
        is_wrong(|call| call.setting(name, value), &[name, value]).await;
    }
    for (flag, value) in
        [("--access-ttl", "soon"), ("--signing-algorithm", "HS256"), ("--listen", "nonsense")]
    {
        is_wrong(|call| call.args([flag, value]), &[flag.trim_start_matches('-'), value]).await;
    }
}

#[tokio::test]
async fn a_wrong_secret_is_named_but_not_shown() {
    let secret = "c2hvcnQ-this-is-a-secret";
    for name in ["MASTER_KEY"] {
        let directory = scratch();
        let run = check_config().setting(name, secret).setting("DATA_DIR", directory.path()).run().await;
        assert_eq!(run.status, 1, "{run:?}");
        assert!(run.stderr.contains(name), "{run:?}");
        assert!(!run.stderr.contains(secret) && !run.stdout.contains(secret), "{run:?}");
    }
}

#[tokio::test]
async fn an_unknown_variable_is_a_warning() {
    let node = Node::builder()
        .setting("SERVICE_PORT_8080_TCP_ADDR", "10.0.0.1")
        .setting("ISUER", "typo")
        .start()
        .await;
    let logs = node.logs();
    assert!(logs.contains("PALISADE_ISUER"), "{logs}");
    node.register("ann").await.is_in().await;
    let run = check_config().setting("ISUER", "typo").run().await;
    run.is_done();
    assert!((run.stderr.clone() + &run.stdout).contains("PALISADE_ISUER"), "{run:?}");
}

#[tokio::test]
async fn an_unknown_flag_or_command_is_wrong_usage() {
    Palisade::with(["serve", "--no-such-flag"]).run().await.was_wrong_usage(&["--no-such-flag"]);
    Palisade::with(["no-such-command"]).run().await.was_wrong_usage(&["no-such-command"]);
    Palisade::with(["serve", "--listen"]).run().await.was_wrong_usage(&["--listen"]);
    Palisade::with(["app"]).run().await.was_wrong_usage(&[]);
    // Secrets have no flags: flags show in the list of processes.
    for flag in ["--cluster-secret", "--master-key"] {
        Palisade::with(["serve", flag, "x"]).run().await.was_wrong_usage(&[flag]);
    }
}

#[tokio::test]
async fn a_good_configuration_is_called_good_and_starts_nothing() {
    let directory = scratch();
    let config = file(&directory, "palisade.toml", "access_ttl = \"5m\"\nissuer = \"x\"\n");
    let data = directory.path().join("data");
    let call = check_config().arg_config(&config).setting("DATA_DIR", &data).setting("REFRESH_TTL", "7d");
    call.run().await.is_done();
    assert!(!data.exists(), "it made a data directory");
}

#[tokio::test]
async fn help_and_version_are_for_everybody() {
    for arguments in [&["--help"][..], &["serve", "--help"], &["superuser", "create", "--help"]] {
        let run = Palisade::with(arguments).run().await;
        assert!(run.is_done().stdout.contains("--"), "{run:?}");
    }
    assert!(Palisade::with(["--version"]).run().await.is_done().stdout.starts_with("palisade"));
}

#[tokio::test]
async fn an_address_that_is_taken_ends_the_start_with_a_word() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = scratch();
    let call =
        Palisade::with(["serve", "--listen", &address]).setting("DATA_DIR", directory.path().join("data"));
    call.run().await.failed_saying(&[&address]);
}

#[tokio::test]
async fn a_node_without_a_command_serves() {
    let call = Palisade::with::<&str>([]);
    assert_eq!(issuer_of(call).await, "palisade");
}

#[tokio::test]
async fn the_rates_of_the_defaults_hold() {
    let node = Node::builder().default_setting("REGISTRATION_RATE").start().await;
    let mut registered = 0;
    for _ in 0..30 {
        let body = serde_json::json!({
            "email": format!("{}@example.org", testkit::fresh("ann")),
            "password": "a password nobody else has",
        });
        registered += usize::from(node.post("users").json(&body).send().await.status == 201);
    }
    // One or two more when the machine is so slow that a part of the minute has passed.
    assert!((20..25).contains(&registered), "{registered}");
}

#[tokio::test]
async fn a_node_that_did_not_start_says_why_in_its_last_line() {
    let started = Node::builder().setting("ACCESS_TTL", "soon").try_start().await;
    let NotStarted { status, output } = started.expect_err("it must not start");
    assert_eq!(status, 1);
    assert!(output.contains("ACCESS_TTL"), "{output}");
}
