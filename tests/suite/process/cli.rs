//! The command line: while a node runs and while none does, for people and for scripts.

use testkit::{Node, Palisade, fresh};

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
        // Again: the one that is there is a superuser already, which is all that was asked.
        init().await.is_done();
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
        for bad in ["short", "password", "", &"x".repeat(129)] {
            let run = create(node, &email(), bad).run().await;
            run.failed_saying(&["password"]);
        }
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
