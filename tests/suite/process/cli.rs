//! The command line: while a node runs and while none does, for people and for scripts.

mod quickstart;
mod terminal;

use std::{
    io::{Read as _, Write as _},
    process::Stdio,
    time::Duration,
};

use testkit::{Node, Palisade, eventually, fresh};

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
async fn app_init_creates_built_ins_and_is_idempotent() {
    both_ways(async |node, is_running| {
        for _ in 0..3 {
            node.cli(&["app", "init"]).await.is_done();
        }
        let email = email();
        let password = fresh("an operator's secret");
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
async fn app_init_creates_a_superuser_on_request() {
    both_ways(async |node, is_running| {
        let email = email();
        let password = fresh("an operator's secret");
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
async fn missing_argument_is_named_without_a_terminal() {
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
    let email = email();
    let password = fresh("an operator's secret");
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
async fn bad_email_or_password_is_refused_as_at_registration() {
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
        let good = email();
        let password = fresh("an operator's secret");
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
async fn existing_email_becomes_superuser_only_with_promote() {
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
async fn superuser_delete_refuses_other_users_and_the_last_one() {
    both_ways(async |node, is_running| {
        node.cli(&["app", "init"]).await.is_done();
        let first = email();
        let second = email();
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
async fn superuser_delete_removes_every_grant_of_all_all() {
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
async fn commands_print_json_on_request() {
    let node = Node::start().await;
    let email = email();
    let password = fresh("an operator's secret");
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
async fn command_error_has_no_stack_trace() {
    let node = Node::start().await;
    let run = node.cli(&["superuser", "delete", "--email", "nobody@example.org"]).await;
    run.failed_saying(&[]).in_one_line();
    for noise in ["panicked", "backtrace", "Error {", "src/"] {
        assert!(!run.stderr.contains(noise), "{run:?}");
    }
}

#[tokio::test]
async fn next_request_sees_a_commands_change() {
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
async fn concurrent_commands_and_requests_all_finish() {
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
async fn app_init_promotes_an_existing_email_only_with_promote() {
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
async fn commands_do_not_create_a_missing_store() {
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
async fn password_is_read_from_a_named_file() {
    let node = Node::start().await;
    node.cli(&["app", "init"]).await.is_done();
    let scratch = testkit::scratch::directory();
    let email = email();
    let password = fresh("an operator's secret");
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
    let commands: [&[&str]; 8] = [
        &["keys", "list"],
        &["keys", "list", "--json"],
        &["app", "init"],
        &["check-config"],
        &["openapi"],
        &["settings"],
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
        // `>&-` of a shell. A command that does more than print cannot tell this from output that another
        // program discards.
        if matches!(command, ["openapi" | "settings" | "--help"]) {
            let call = call();
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", "exec \"$0\" \"$@\" >&-"]).arg(call.get_program()).args(call.get_args());
            let output = shell.stdin(Stdio::null()).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command:?}: {stderr}");
            assert!(stderr.contains("output is lost") && stderr.lines().count() == 1, "{stderr}");
        }
        // Output to `/dev/null` is not lost output.
        let done = call().stdout(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "{command:?}: {done:?}");
    }
}

#[tokio::test]
async fn health_command_reports_readiness_of_the_node() {
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
