//! The command line: while a node runs and while none does, for people and for scripts.

use std::{
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use testkit::{Node, Palisade, eventually, fresh, within};

const BUILT_IN: [&str; 5] =
    ["all_all", "permissions_admin", "users_admin", "permissions_check", "cluster_read"];

fn email() -> String {
    format!("{}@example.org", fresh("op"))
}

fn create(node: &Node, email: &str, password: &str) -> Palisade {
    node.palisade(&["superuser", "create", "--email", email, "--first-name", "O", "--last-name", "P"])
        .setting("SUPERUSER_PASSWORD", password)
}

/// Runs the same story with a node that runs and with one that does not.
async fn both_ways(story: impl AsyncFn(&Node, bool)) {
    for running in [true, false] {
        let node = Node::start().await;
        if !running {
            node.terminate().await;
        }
        story(&node, running).await;
    }
}

async fn running(node: &Node, running: bool) {
    if !running {
        node.restart().await;
    }
}

#[tokio::test]
async fn app_init_makes_what_is_built_in_however_often() {
    both_ways(async |node, is_running| {
        for _ in 0..3 {
            node.cli(&["app", "init"]).await.is_done();
        }
        let (email, password) = (email(), fresh("an operator's secret"));
        create(node, &email, &password).run().await.is_done();
        node.cli(&["app", "init"]).await.is_done();
        running(node, is_running).await;
        let root = testkit::Person::log_in(node, &email, &password).await;
        let permissions = root.get("permissions").send().await.is(200).json();
        let names: Vec<_> =
            permissions.as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), BUILT_IN.len(), "{names:?}");
        assert!(BUILT_IN.iter().all(|name| names.contains(name)), "{names:?}");
        root.get("roles/superuser").send().await.is(200);
        assert!(root.may("all_all").await);
    })
    .await;
}

#[tokio::test]
async fn app_init_with_superuser_makes_one_too() {
    both_ways(async |node, is_running| {
        let (email, password) = (email(), fresh("an operator's secret"));
        let init = || {
            node.palisade(&["app", "init", "--with-superuser", "--email", &email])
                .args(["--first-name", "O", "--last-name", "P"])
                .setting("SUPERUSER_PASSWORD", &password)
                .run()
        };
        init().await.is_done();
        // Again: the one that is there is a superuser already, which is all that was asked. Another password
        // is not set, and that is said.
        let again = init().await;
        assert!(again.is_done().stdout.contains("password stays as it was"), "{again:?}");
        let other = node
            .palisade(&["app", "init", "--with-superuser", "--json", "--email", &email])
            .setting("SUPERUSER_PASSWORD", fresh("another secret"));
        let other = other.run().await;
        assert_eq!(other.is_done().json()["superuser"]["created"], false, "{other:?}");
        running(node, is_running).await;
        let root = testkit::Person::log_in(node, &email, &password).await;
        assert!(root.may("all_all").await);
        assert_eq!(root.list("users", "users").await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn superuser_create_before_app_init_says_to_run_it() {
    both_ways(async |node, _| {
        let run = create(node, &email(), &fresh("an operator's secret")).run().await;
        run.failed_saying(&["app init"]).in_one_line();
    })
    .await;
}

#[tokio::test]
async fn what_is_not_given_is_named_without_a_terminal() {
    // A failure or wrong usage: it is both.
    let is_told = |run: &testkit::Run, flag: &str| {
        assert!(matches!(run.status, 1 | 2) && run.stderr.contains(flag), "{run:?}");
        run.in_one_line();
    };
    let node = Node::start().await;
    node.cli(&["app", "init"]).await.is_done();
    let without_email = node.palisade(&["superuser", "create", "--first-name", "O", "--last-name", "P"]);
    let run = without_email.setting("SUPERUSER_PASSWORD", fresh("an operator's secret")).run().await;
    is_told(&run, "--email");
    let run = node
        .cli(&["superuser", "create", "--email", &email(), "--first-name", "O", "--last-name", "P"])
        .await;
    is_told(&run, "--password");
    let run = node.cli(&["superuser", "delete"]).await;
    is_told(&run, "--email");
    let run = node.cli(&["app", "init", "--with-superuser"]).await;
    is_told(&run, "--");
    // With a password as a flag, nothing else is asked.
    let (email, password) = (email(), fresh("an operator's secret"));
    let arguments = [
        "superuser",
        "create",
        "--email",
        &email,
        "--first-name",
        "O",
        "--last-name",
        "P",
        "--password",
        &password,
    ];
    node.cli(&arguments).await.is_done();
    node.log_in(&email, &password).await.is(200);
}

#[tokio::test]
async fn a_bad_email_or_password_is_refused_like_at_registration() {
    both_ways(async |node, _| {
        node.cli(&["app", "init"]).await.is_done();
        let run = create(node, "no address", &fresh("an operator's secret")).run().await;
        run.failed_saying(&["email"]);
        for bad in ["short", "password", &"x".repeat(129)] {
            let run = create(node, &email(), bad).run().await;
            run.failed_saying(&["password"]);
        }
        // An empty one is none.
        create(node, &email(), "").run().await.was_wrong_usage(&["--password"]);
    })
    .await;
}

#[tokio::test]
async fn superuser_create_applies_the_rules_of_registration() {
    both_ways(async |node, is_running| {
        node.cli(&["app", "init"]).await.is_done();
        let (good, password) = (email(), fresh("an operator's secret"));
        let long = "n".repeat(5_000);
        for (email, first, last, said) in [
            (good.as_str(), "A\u{1b}[31mB\nC", "P", "--first-name has no control characters"),
            (&good, "O", &long, "--last-name has at most 100 characters"),
            (&good, "zero\u{200b}width", "P", "--first-name has no invisible characters"),
            ("ann\u{200b}@example.org", "O", "P", "it has invisible characters"),
            ("a\u{37e}b@x.org", "O", "P", "is no email address"),
        ] {
            let person = ["--email", email, "--first-name", first, "--last-name", last];
            for command in [&["superuser", "create"][..], &["app", "init", "--with-superuser"]] {
                let run = node.palisade(command).args(person).setting("SUPERUSER_PASSWORD", &password);
                run.run().await.failed_saying(&[said]).in_one_line();
            }
        }
        running(node, is_running).await;
        node.log_in(&good, &password).await.is_refused(401);
    })
    .await;
}

#[tokio::test]
async fn an_email_that_exists_becomes_superuser_only_with_promote() {
    both_ways(async |node, is_running| {
        running(node, is_running).await;
        let ann = node.register("ann").await;
        if !is_running {
            node.terminate().await;
        }
        node.cli(&["app", "init"]).await.is_done();
        let run = create(node, &ann.email, &fresh("another secret")).run().await;
        run.failed_saying(&["--promote"]).in_one_line();
        running(node, is_running).await;
        assert!(!ann.may("all_all").await);
        if !is_running {
            node.terminate().await;
        }
        let promote = create(node, &ann.email.to_uppercase(), &fresh("another secret")).args(["--promote"]);
        promote.run().await.is_done();
        running(node, is_running).await;
        // The next check sees it, and the password is still the user's own.
        assert!(ann.may("all_all").await);
        ann.in_another_session().await.is_in().await;
    })
    .await;
}

#[tokio::test]
async fn superuser_delete_refuses_who_is_none_and_the_last_one() {
    both_ways(async |node, is_running| {
        node.cli(&["app", "init"]).await.is_done();
        let (first, second) = (email(), email());
        let password = fresh("an operator's secret");
        create(node, &first, &password).run().await.is_done();
        let delete = |email: &str| node.palisade(&["superuser", "delete", "--email", email]);
        delete(&first).run().await.failed_saying(&["--force"]).in_one_line();
        delete("nobody@example.org").run().await.failed_saying(&["nobody@example.org"]).in_one_line();
        create(node, &second, &password).run().await.is_done();
        delete(&second.to_uppercase()).run().await.is_done();
        delete(&second).run().await.failed_saying(&[&second]);
        delete(&first).args(["--force"]).run().await.is_done();
        running(node, is_running).await;
        for email in [&first, &second] {
            let log_in = node.log_in(email, &password).await;
            // Whether the user goes, or only the power, is the command's to say.
            if log_in.status == 200 {
                let person = testkit::Person::log_in(node, email, &password).await;
                assert!(!person.may("all_all").await, "{email}");
            }
        }
        let ann = node.register("ann").await;
        if !is_running {
            node.terminate().await;
        }
        delete(&ann.email).run().await.failed_saying(&[&ann.email]);
    })
    .await;
}

#[tokio::test]
async fn superuser_delete_takes_power_by_whatever_way_it_was_given() {
    let node = Node::start().await;
    let root = node.root().await;
    let rising = node.register("rising").await;
    let boss = root.makes_role("boss", &["all_all"]).await;
    root.gives_role(&rising, &boss).await.is(200);
    root.gives(&rising, "all_all").await.is(200);
    node.cli(&["superuser", "delete", "--email", &rising.email]).await.is_done();
    assert!(!rising.may("all_all").await);
    node.cli(&["superuser", "delete", "--email", &rising.email]).await.failed_saying(&[&rising.email]);
    node.cli(&["superuser", "delete", "--email", &root.email]).await.failed_saying(&["--force"]);
}

#[tokio::test]
async fn scripts_get_json() {
    let node = Node::start().await;
    let (email, password) = (email(), fresh("an operator's secret"));
    assert!(node.cli(&["app", "init", "--json"]).await.is_done().json().is_object());
    let made = create(&node, &email, &password).args(["--json"]).run().await;
    let made = made.is_done().json();
    let text = made.to_string();
    assert!(text.contains(&email), "{text}");
    assert!(!text.contains(&password), "{text}");
    assert!(node.cli(&["keys", "list", "--json"]).await.is_done().json().is_array());
    assert!(!node.cli(&["keys", "rotate", "--json"]).await.is_done().json().is_null());
}

#[tokio::test]
async fn a_person_gets_no_stack_of_errors() {
    let node = Node::start().await;
    let run = node.cli(&["superuser", "delete", "--email", "nobody@example.org"]).await;
    run.failed_saying(&[]).in_one_line();
    for noise in ["panicked", "backtrace", "Error {", "src/"] {
        assert!(!run.stderr.contains(noise), "{run:?}");
    }
}

#[tokio::test]
async fn what_a_command_changed_is_seen_by_the_next_request() {
    let node = Node::start().await;
    let root = node.root().await;
    let other = node.another_superuser().await;
    assert!(other.may("all_all").await);
    node.cli(&["superuser", "delete", "--email", &other.email]).await.is_done();
    let check = other.asks("\"all_all\"").await;
    assert!(check.status == 401 || check.json()["valid"] == false, "{check}");
    assert!(root.may("all_all").await);
}

#[tokio::test]
async fn commands_beside_requests_and_each_other_all_come_to_an_end() {
    let node = Node::start().await;
    node.cli(&["app", "init"]).await.is_done();
    let people: Vec<_> = (0..4).map(|_| (email(), fresh("an operator's secret"))).collect();
    let commands = people.iter().map(|(email, password)| create(&node, email, password).run());
    let (runs, ann) = tokio::join!(futures_util::future::join_all(commands), node.register("ann"));
    runs.iter().for_each(|run| {
        run.is_done();
    });
    ann.is_in().await;
    for (email, password) in &people {
        assert!(testkit::Person::log_in(&node, email, password).await.may("all_all").await);
    }
}

#[tokio::test]
async fn app_init_makes_a_superuser_of_an_email_that_exists_only_with_promote() {
    both_ways(async |node, is_running| {
        running(node, is_running).await;
        let ann = node.register("ann").await;
        if !is_running {
            node.terminate().await;
        }
        let password = fresh("another secret");
        let init = || {
            node.palisade(&["app", "init", "--with-superuser", "--email", &ann.email])
                .args(["--first-name", "O", "--last-name", "P"])
                .setting("SUPERUSER_PASSWORD", &password)
        };
        init().run().await.failed_saying(&[&ann.email, "--promote"]).in_one_line();
        running(node, is_running).await;
        assert!(!ann.may("all_all").await);
        if !is_running {
            node.terminate().await;
        }
        init().args(["--promote"]).run().await.is_done();
        // A superuser already: that is all that is asked.
        init().run().await.is_done();
        init().args(["--promote"]).run().await.is_done();
        running(node, is_running).await;
        assert!(ann.may("all_all").await);
        ann.in_another_session().await.is_in().await;
        node.log_in(&ann.email, &password).await.is_refused(401);
    })
    .await;
}

#[tokio::test]
async fn commands_make_no_store_where_there_is_none() {
    let scratch = testkit::scratch::directory();
    let kid = uuid_like();
    let commands: [&[&str]; 9] = [
        &["keys", "list"],
        &["keys", "rotate"],
        &["keys", "retire", &kid],
        &["superuser", "create", "--email", "a@example.org", "--password", "walls and gates"],
        &["superuser", "create"],
        &["superuser", "delete", "--email", "a@example.org"],
        &["cluster", "status"],
        &["cluster", "leave"],
        &["schema", "status"],
    ];
    let empty = scratch.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for directory in [&empty, &scratch.path().join("absent")] {
        for command in commands {
            let run = Palisade::with(command).setting("DATA_DIR", directory).run().await;
            run.failed_saying(&[]).in_one_line();
            let says = run.stderr.contains("there is no store in") || run.stderr.contains("no node runs on");
            assert!(says || command[0] == "schema", "{run:?}");
        }
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1, "something was made");
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0, "something was made");
    // Nor does one that may make a store, when it is called with something that is wrong.
    let init = ["app", "init", "--with-superuser", "--email", "no address", "--password", "walls and gates"];
    Palisade::with(init).setting("DATA_DIR", &empty).run().await.failed_saying(&["email"]);
    let init = ["app", "init", "--with-superuser", "--email", "a@example.org", "--password", "short"];
    Palisade::with(init).setting("DATA_DIR", &empty).run().await.failed_saying(&["password"]);
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0, "something was made");
    Palisade::with(["app", "init"]).setting("DATA_DIR", &empty).run().await.is_done();
    Palisade::with(["keys", "list"]).setting("DATA_DIR", &empty).run().await.is_done();
}

/// Something that may be a key id.
fn uuid_like() -> String {
    "01890a5d-ac96-774b-bcce-b302099a8057".to_owned()
}

#[tokio::test]
async fn password_comes_from_a_file_that_is_named() {
    let node = Node::start().await;
    node.cli(&["app", "init"]).await.is_done();
    let scratch = testkit::scratch::directory();
    let (email, password) = (email(), fresh("an operator's secret"));
    let path = scratch.path().join("password");
    std::fs::write(&path, format!("{password}\n")).unwrap();
    let create = node.palisade(&["superuser", "create", "--email", &email]);
    create.setting("SUPERUSER_PASSWORD_FILE", &path).run().await.is_done();
    node.log_in(&email, &password).await.is(200);
    let both = self::create(&node, "b@example.org", &password).setting("SUPERUSER_PASSWORD_FILE", &path);
    both.run().await.failed_saying(&["PALISADE_SUPERUSER_PASSWORD_FILE"]).in_one_line();
    let absent = node.palisade(&["superuser", "create", "--email", "b@example.org"]);
    let absent = absent.setting("SUPERUSER_PASSWORD_FILE", "/nowhere/at/all").run().await;
    absent.failed_saying(&["PALISADE_SUPERUSER_PASSWORD_FILE", "/nowhere/at/all"]).in_one_line();
}

#[tokio::test]
async fn lost_output_is_a_failure() {
    let node = Node::start().await;
    node.cli(&["app", "init"]).await.is_done();
    let commands: [&[&str]; 7] = [
        &["keys", "list"],
        &["keys", "list", "--json"],
        &["app", "init"],
        &["check-config"],
        &["openapi"],
        &["health"],
        &["--help"],
    ];
    let listen = node.address().to_string();
    for command in commands {
        let call = || {
            let mut command = node.palisade(command).setting("LISTEN", &listen).into_command();
            command.stderr(Stdio::piped());
            command
        };
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        // The reading end of this pipe is closed before anything is written.
        let (_, broken) = std::io::pipe().unwrap();
        let read_only = std::fs::File::open("/dev/null").unwrap();
        for stdout in [Stdio::from(full), Stdio::from(broken), Stdio::from(read_only)] {
            let output = call().stdout(stdout).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command:?}: {stderr}");
            assert!(
                stderr.contains("output is lost") && stderr.lines().count() == 1,
                "{command:?}: {stderr}"
            );
        }
        // Output that nobody wants is not lost.
        let done = call().stdout(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "{command:?}: {done:?}");
    }
}

#[tokio::test]
async fn health_says_whether_the_node_of_the_settings_is_ready() {
    let node = Node::builder().setting("DRAIN_GRACE", "10m").start().await;
    let port = node.address().port();
    let health = async |arguments: &[&str], listen: &str| {
        let call = Palisade::with(["health"]).args(arguments.iter().copied());
        call.setting("LISTEN", listen.replace("PORT", &port.to_string())).run().await
    };
    assert_eq!(health(&[], "127.0.0.1:PORT").await.is_done().stdout, "ready\n");
    assert_eq!(health(&["--live"], "0.0.0.0:PORT").await.is_done().stdout, "alive\n");
    let json = health(&["--json"], "localhost:PORT").await;
    assert_eq!(json.is_done().json()["status"], "ready", "{json:?}");
    health(&[], "127.0.0.1:0").await.failed_saying(&["PALISADE_LISTEN"]).in_one_line();
    let moved = Palisade::with(["health"]).setting("OPERATOR_LISTEN", node.address().to_string());
    moved.run().await.is_done();
    // Something else that listens there is no node.
    let other = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let other_address = other.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    });
    health(&[], &other_address).await.failed_saying(&["not ready"]).in_one_line();
    answering.join().unwrap();
    node.ask_to_end();
    eventually(Duration::from_secs(10), "it drains", async || {
        (health(&[], "127.0.0.1:PORT").await.status == 1).then_some(())
    })
    .await;
    health(&["--live"], "127.0.0.1:PORT").await.is_done();
    node.terminate().await;
    health(&["--live"], "127.0.0.1:PORT").await.failed_saying(&["running"]).in_one_line();
}

#[tokio::test]
async fn quickstart_makes_a_superuser_whose_password_is_shown_once() {
    let scratch = testkit::scratch::directory();
    let data = scratch.path().join("data");
    let quickstart = || {
        let call = Palisade::with(["quickstart", "--json", "--listen", "127.0.0.1:0"]);
        call.setting("DATA_DIR", &data).setting("DRAIN_GRACE", "0s")
    };
    let first = Quickstart::start(quickstart()).await;
    let text = |name: &str| first.said[name].as_str().unwrap().to_owned();
    let (email, password) = (text("email"), text("password"));
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
async fn quickstart_refuses_what_is_not_for_a_first_node() {
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
    // A password that nobody would see is not set.
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

/// Runs a command at a terminal: types each answer when the question before it is there.
async fn at_a_terminal(call: Palisade, dialogue: &[(&str, &str)]) -> (std::process::ExitStatus, String) {
    let call = call.into_command();
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap());
    let words: Vec<_> = std::iter::once(call.get_program()).chain(call.get_args()).map(quoted).collect();
    // It gives the command a session with a controlling terminal, at which passwords are asked for.
    let mut command = Command::new("script");
    let line = format!("tty && exec {}", words.join(" "));
    command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
    call.get_envs().for_each(|(name, value)| match value {
        Some(value) => drop(command.env(name, value)),
        None => drop(command.env_remove(name)),
    });
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let dialogue: Vec<_> =
        dialogue.iter().map(|(question, answer)| ((*question).to_owned(), (*answer).to_owned())).collect();
    let spoken = tokio::task::spawn_blocking(move || {
        let (mut said, mut seen) = (String::new(), 0);
        let mut questions = dialogue.iter();
        let mut next = questions.next();
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = screen.read(&mut buffer) {
            said += &String::from_utf8_lossy(&buffer[..count]);
            while let Some((question, answer)) = next
                && let Some(at) = said[seen..].find(question.as_str())
            {
                seen += at + question.len();
                let terminal = said.lines().next().unwrap();
                while (question.starts_with("Password") || question.starts_with("The same"))
                    && shows(terminal)
                {
                    std::thread::yield_now();
                }
                writeln!(keyboard, "{answer}").unwrap();
                next = questions.next();
            }
        }
        assert!(next.is_none(), "{next:?} was not asked: {said}");
        said
    });
    let said = within(Duration::from_secs(60), "the end of the dialogue", spoken).await.unwrap();
    (child.wait().unwrap(), said)
}

/// Whether a terminal shows what is typed.
fn shows(terminal: &str) -> bool {
    let settings = Command::new("stty").args(["-F", terminal, "-a"]).output().unwrap();
    assert!(settings.status.success(), "{terminal}: {settings:?}");
    !String::from_utf8_lossy(&settings.stdout).split_whitespace().any(|word| word == "-echo")
}

#[tokio::test]
async fn superuser_create_asks_at_a_terminal() {
    let node = Node::start().await;
    node.cli(&["app", "init"]).await.is_done();
    let password = fresh("an operator's secret");
    for (first, last) in [("Ann", "Archer"), ("", "")] {
        let email = email();
        let dialogue = [
            ("Email: ", email.as_str()),
            ("First name (Enter skips): ", first),
            ("Last name (Enter skips): ", last),
            ("Password: ", &password),
            ("The same again: ", &password),
        ];
        let (status, said) = at_a_terminal(node.palisade(&["superuser", "create"]), &dialogue).await;
        assert!(status.success(), "{said}");
        assert!(!said.contains(&password), "the password was shown: {said}");
        let root = testkit::Person::log_in(&node, &email, &password).await;
        let me = root.get("users/me").send().await.is(200).json();
        let name = |name: &str| if name.is_empty() { serde_json::Value::Null } else { name.into() };
        assert_eq!((&me["first_name"], &me["last_name"]), (&name(first), &name(last)));
    }
    // What a flag gives is not asked, and two passwords that differ are a failure.
    let given = ["superuser", "create", "--email", "z@example.org", "--first-name", "", "--last-name", "Z"];
    let dialogue = [("Password: ", password.as_str()), ("The same again: ", "another one")];
    let (status, said) = at_a_terminal(node.palisade(&given), &dialogue).await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("differ") && !said.contains("First name"), "{said}");
    // Before anything is asked it is said that there is nothing to do it on.
    let nowhere = Palisade::with(["superuser", "create"]).setting("DATA_DIR", Path::new("/nowhere"));
    let (status, said) = at_a_terminal(nowhere, &[]).await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("there is no store in /nowhere") && !said.contains("Email:"), "{said}");
}

#[tokio::test]
async fn texts_of_users_cannot_move_the_terminals_cursor() {
    let node = Node::start().await;
    node.cli(&["app", "init"]).await.is_done();
    let run = node.cli(&["superuser", "delete", "--email", "a\u{1b}[2Jb@example.org"]).await;
    run.failed_saying(&["[2Jb"]).in_one_line();
    assert!(!run.stderr.contains('\u{1b}'), "{run:?}");
}
