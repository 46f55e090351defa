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
async fn value_and_file_for_one_setting_are_refused() {
    let directory = scratch();
    let issuer = file(&directory, "issuer", "x");
    is_wrong(|call| call.setting("ISSUER", "y").setting("ISSUER_FILE", &issuer), &["ISSUER_FILE"]).await;
}

#[tokio::test]
async fn missing_file_is_named() {
    is_wrong(|call| call.setting("ISSUER_FILE", "/nowhere/at/all"), &["ISSUER_FILE", "/nowhere/at/all"])
        .await;
    is_wrong(|call| call.args(["--config", "/nowhere/at/all.toml"]), &["/nowhere/at/all.toml"]).await;
}

/// What is no regular file is refused at once, whether or not it would ever end.
#[tokio::test]
async fn pipes_devices_and_directories_are_no_settings() {
    let directory = scratch();
    let fifo = directory.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let socket = directory.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let tty = std::path::Path::new("/dev/ptmx");
    let zero = std::path::Path::new("/dev/zero");
    for odd in [&fifo, &socket, directory.path(), zero, tty] {
        for name in ["ISSUER_FILE", "MASTER_KEY_FILE", "SUPERUSER_PASSWORD_FILE", "CONFIG", "CONFIG_FILE"] {
            both_say(|call| call.setting(name, odd)).await.failed_saying(&[name, "a regular file"]);
        }
        both_say(|call| call.arg_config(odd)).await.failed_saying(&["--config", "a regular file"]);
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let store = format!("cql://db/keyspace?tls=on&tls_ca={}", odd.display());
        let run = both_say(|call| call.setting("MASTER_KEY", key).setting("STORE", &store)).await;
        run.failed_saying(&["STORE", "no regular file"]);
    }
    let long = file(&directory, "long", &"x".repeat(2 << 20));
    both_say(|call| call.setting("ISSUER_FILE", &long)).await.failed_saying(&["ISSUER_FILE", "bytes"]);
    // As secrets are mounted by Kubernetes.
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(file(&directory, "issuer", "linked\n"), &link).unwrap();
    check_config().setting("ISSUER_FILE", &link).run().await.is_done();
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
async fn wrong_value_ends_the_start_with_its_name_and_value() {
    for (name, value) in [
        ("LISTEN", "nonsense"),
        ("LISTEN", "127.0.0.1:99999"),
        ("LISTEN_WHEN", "later"),
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
    node.logs_with("PALISADE_ISUER").await;
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
async fn check_config_accepts_a_good_config_and_starts_nothing() {
    let directory = scratch();
    let config = file(&directory, "palisade.toml", "access_ttl = \"5m\"\nissuer = \"x\"\n");
    let data = directory.path().join("data");
    let call = check_config().arg_config(&config).setting("DATA_DIR", &data).setting("REFRESH_TTL", "7d");
    call.run().await.is_done();
    assert!(!data.exists(), "it made a data directory");
}

#[tokio::test]
async fn help_and_version_need_no_settings() {
    for arguments in [&["--help"][..], &["serve", "--help"], &["superuser", "create", "--help"]] {
        let run = Palisade::with(arguments).run().await;
        assert!(run.is_done().stdout.contains("--"), "{run:?}");
    }
    assert!(Palisade::with(["--version"]).run().await.is_done().stdout.starts_with("palisade"));
}

#[tokio::test]
async fn address_in_use_ends_the_start_with_a_message() {
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
async fn default_rates_hold() {
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
async fn failed_start_gives_its_reason_in_the_last_line() {
    let started = Node::builder().setting("ACCESS_TTL", "soon").try_start().await;
    let NotStarted { status, output } = started.expect_err("it must not start");
    assert_eq!(status, 1);
    assert!(output.contains("ACCESS_TTL"), "{output}");
}

/// What `check-config` and `serve` say, which must be the same: status and words.
async fn both_say(prepare: impl Fn(Palisade) -> Palisade) -> Run {
    let scratch = scratch();
    let data = scratch.path().join("data");
    let call = |command| prepare(Palisade::with([command]).setting("DATA_DIR", &data)).run();
    let (checked, served) = tokio::join!(call("check-config"), call("serve"));
    assert_eq!((checked.status, &checked.stderr), (served.status, &served.stderr));
    assert!(!data.exists(), "a data directory was made: {checked:?}");
    checked.in_one_line();
    checked
}

#[tokio::test]
async fn check_config_refuses_what_the_start_refuses() {
    let scratch = scratch();
    let file = file(&scratch, "file", "x");
    let below_file = file.join("data");
    let below_file = below_file.to_str().unwrap();
    for (name, value) in [
        ("LOG", "warning"),
        ("LOG", "verbose"),
        ("LOG", "INFO,debug"),
        ("LOG", "palisade"),
        ("LOG", "palisade=loud"),
        ("LOG", "info,"),
        ("DATA_DIR", "/data\r"),
        ("DATA_DIR", "\"/data\""),
        ("DATA_DIR", "'/data'"),
        ("DATA_DIR", "~/data"),
        ("DATA_DIR", "$HOME/data"),
        ("DATA_DIR", "file:///data"),
        ("DATA_DIR", below_file),
        ("ISSUER", "a\r"),
        ("ISSUER", "\u{1b}[31mred"),
        ("ISSUER", " a"),
        ("AUDIENCE", "a\nb"),
        ("AUDIENCE", "a\u{200b}b"),
        ("LISTEN", "http://0.0.0.0:8080"),
        ("LISTEN", "0.0.0.0"),
        ("LISTEN", "::1:8080"),
        ("LISTEN", "[::1:8080"),
        ("LISTEN", "127.0.0.256:8080"),
        ("LISTEN", "127.0.0.1:+80"),
        ("LISTEN", "a_b..c:80"),
        ("LISTEN", "203.0.113.7:8080"),
        ("LISTEN", "224.0.0.1:8080"),
        ("LISTEN", "239.255.255.255:8080"),
        ("LISTEN", "255.255.255.255:8080"),
        ("LISTEN", "[ff02::1]:8080"),
        ("LISTEN", "[::ffff:224.0.0.1]:8080"),
        ("OPERATOR_LISTEN", "224.0.0.1:8081"),
        ("OPERATOR_LISTEN", "localhost:8080"),
        ("OPERATOR_LISTEN", "LOCALHOST.:8080"),
        ("CLUSTER_LISTEN", "224.0.0.1:7080"),
        ("CLUSTER_LISTEN", "255.255.255.255:7080"),
        ("OPERATOR_LISTEN", "127.0.0.1:8080"),
        ("OPERATOR_LISTEN", "0.0.0.0:8080"),
        ("TRUSTED_PROXIES", ","),
        ("REGISTRATION_RATE", "+1/1m"),
        ("REGISTRATION_RATE", "1/99999d"),
        ("STORE", "cql://db/keyspace?tls=on&tls_ca=/nowhere/at/all.pem"),
        ("CONFIG", "/dev/zero"),
    ] {
        let run = both_say(|call| {
            call.setting("MASTER_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").setting(name, value)
        });
        let run = run.await;
        run.failed_saying(&[if name == "DATA_DIR" && value == below_file { below_file } else { name }]);
        assert!(!run.stderr.trim_end().contains(char::is_control), "{run:?}");
    }
}

#[tokio::test]
async fn values_that_are_not_utf8_are_named() {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = std::ffi::OsStr::from_bytes(b"a\xff");
    let scratch = scratch();
    let path = scratch.path().join("issuer");
    std::fs::write(&path, b"a\xff").unwrap();
    for name in ["ISSUER", "LOG", "MASTER_KEY", "CONFIG", "SUPERUSER_PASSWORD"] {
        both_say(|call| call.setting(name, bytes)).await.failed_saying(&[name, "UTF-8"]);
        let by_file = format!("{name}_FILE");
        both_say(|call| call.setting(&by_file, &path)).await.failed_saying(&[&by_file, "UTF-8"]);
    }
    // A name that is not: nothing of ours, so a warning.
    let mut command = check_config().into_command();
    let name = std::ffi::OsStr::from_bytes(b"PALISADE_ISSUER\xff");
    let output = command.env(name, "x").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("PALISADE_ISSUER"), "{output:?}");
}

/// Every setting, as docs/SETTINGS.md has it.
fn names() -> Vec<&'static str> {
    let rows = include_str!("../../../docs/SETTINGS.md").lines().filter(|line| line.starts_with('|'));
    let is_name = |word: &&str| {
        let plain = word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        plain && word.len() > 2 && !word.ends_with('_')
    };
    let words = rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split('`'));
    let names: Vec<_> = words.filter(is_name).collect();
    assert!(names.len() > 25, "{names:?}");
    names
}

#[tokio::test]
async fn empty_values_are_unset_everywhere() {
    let scratch = scratch();
    let empty = file(&scratch, "empty", "\n");
    let names: Vec<_> = names().into_iter().chain(["CONFIG", "SUPERUSER_PASSWORD"]).collect();
    let variables = |suffix: &str, value: &std::path::Path| {
        names.iter().fold(check_config(), |call, name| call.setting(&format!("{name}{suffix}"), value)).run()
    };
    let run = variables("", "".as_ref()).await;
    assert_eq!(run.is_done().stderr, "", "{run:?}");
    assert_eq!(variables("_FILE", "".as_ref()).await.is_done().stderr, "");
    // A secret's file that is empty is hardly meant: it is said.
    let run = variables("_FILE", &empty).await;
    assert!(run.is_done().stderr.contains("PALISADE_MASTER_KEY_FILE"), "{run:?}");
    // An empty variable beside a file is no second value; an empty flag beats nothing.
    let issuer = file(&scratch, "issuer", "from the file");
    let call =
        Palisade::with(["serve", "--issuer", ""]).setting("ISSUER", "").setting("ISSUER_FILE", &issuer);
    assert_eq!(issuer_of(call).await, "from the file");
    let keys: Vec<_> = names.iter().filter(|name| !["CONFIG", "SUPERUSER_PASSWORD"].contains(name)).collect();
    let toml: String = keys.iter().map(|name| format!("{} = \"\"\n", name.to_lowercase())).collect();
    let config = file(&scratch, "empty.toml", &toml);
    check_config().setting("CONFIG", &config).run().await.is_done();
}

#[tokio::test]
async fn log_filter_never_silences_the_rest() {
    for filter in ["palisade=debug", "hyper=debug", "nonsense=trace", "WARN,node=info"] {
        let node = Node::builder().setting("LOG", filter).start().await;
        let logs = node.logs_with("palisade serves").await;
        assert_eq!(logs.contains("PALISADE_LOG names the target nonsense"), filter.contains("nonsense"));
    }
}

#[tokio::test]
async fn config_file_can_be_named_by_a_file() {
    let scratch = scratch();
    // With a byte order mark, as some editors write it.
    let config = file(&scratch, "palisade.toml", "\u{feff}issuer = \"from the file\"\n");
    let path = file(&scratch, "path", &format!("{}\n", config.display()));
    let call = Palisade::with(["serve"]).setting("CONFIG_FILE", &path);
    assert_eq!(issuer_of(call).await, "from the file");
    both_say(|call| call.setting("CONFIG_FILE", &path).setting("CONFIG", &config))
        .await
        .failed_saying(&["PALISADE_CONFIG_FILE"]);
    let twice = file(&scratch, "twice.toml", "issuer = \"a\"\n\nissuer = \"b\"\n");
    both_say(|call| call.setting("CONFIG", &twice)).await.failed_saying(&[
        "twice.toml",
        "line 3",
        "duplicate",
    ]);
    let wrong = file(&scratch, "wrong.toml", "issuer = 1.5\n");
    both_say(|call| call.setting("CONFIG", &wrong)).await.failed_saying(&["issuer", "string"]);
    both_say(|call| call.setting("CONFIG", scratch.path())).await.failed_saying(&["directory"]);
}

#[tokio::test]
async fn wrong_urls_are_shown_without_their_password() {
    for (name, value, shown) in [
        ("REDIS", "http://x", "\"http://x\""),
        ("REDIS", "http://u:hunter2@x", "\"http://(hidden)@x\""),
        ("STORE", "postgres://x/db", "\"postgres://x/db\""),
        ("STORE", "cql://u:hunter2@db/P", "\"cql://(hidden)@db/P\""),
        ("STORE", "cql://db/P", "\"cql://db/P\""),
    ] {
        let run = both_say(|call| call.setting(name, value)).await;
        run.failed_saying(&[name, shown]);
        assert!(!run.stderr.contains("hunter2") && !run.stderr.contains("is to look"), "{run:?}");
    }
}
