//! Limits in Redis: all nodes count together.

use serde_json::json;
use testkit::{Node, fresh, servers::Redis};

use super::{fails, two};

#[tokio::test]
async fn failed_log_ins_are_counted_by_all_nodes_together() {
    let redis = Redis::start().await;
    let (a, b) = two(&redis, &[("LOGIN_ACCOUNT_FAILURES", "5/15m")]).await;
    let root = a.root().await;
    let ann = a.register("ann").await;
    let unknown = format!("{}@example.org", fresh("nobody"));
    for email in [&ann.email, &unknown] {
        for node in [&a, &b, &a, &b, &b] {
            fails(node, email).await;
        }
        for node in [&a, &b] {
            node.log_in(email, &ann.password).await.is_refused(429);
            node.log_in(&email.to_uppercase(), &ann.password).await.is_refused(429);
        }
    }
    // A lock ends no session, admins see it on every node, and an unlock on one node holds on all.
    ann.at(&b).is_in().await;
    for node in [&a, &b] {
        let user = root.at(node).get(&ann.path("")).send().await.is(200).json();
        assert!(user["locked_until"].is_string(), "{user}");
    }
    root.at(&b).post(&ann.path("unlock")).send().await.is_done();
    for node in [&a, &b] {
        ann.at(node).in_another_session().await.is_in().await;
    }
    // Failures that were forgiven on one node are forgiven on the other: these are the first again.
    for node in [&a, &a, &b, &b] {
        fails(node, &ann.email).await;
    }
    ann.in_another_session().await.is_in().await;
    for node in [&b, &b, &a, &a] {
        fails(node, &ann.email).await;
    }
    ann.at(&b).in_another_session().await.is_in().await;
}

#[tokio::test]
async fn address_and_registration_limits_hold_over_all_nodes() {
    let redis = Redis::start().await;
    let (a, b) = two(&redis, &[("LOGIN_ADDRESS_FAILURES", "6/15m"), ("REGISTRATION_RATE", "5/1m")]).await;
    let ann = a.register("ann").await;
    let register = async |node: &Node| {
        let body =
            json!({"email": format!("{}@example.org", fresh("ann")), "password": fresh("a secret of")});
        node.post("users").json(&body).send().await
    };
    for node in [&b, &a, &b, &b] {
        register(node).await.is(201);
    }
    for node in [&a, &b] {
        register(node).await.is_refused(429);
    }
    for node in [&a, &b, &a, &b, &a, &b] {
        fails(node, &format!("{}@example.org", fresh("nobody"))).await;
    }
    for node in [&a, &b] {
        node.log_in(&ann.email, &ann.password).await.is_refused(429);
    }
    ann.at(&b).refreshed().await.is_in().await;
}

#[tokio::test]
async fn parallel_guesses_over_two_nodes_do_not_get_around_the_limit() {
    let redis = Redis::start().await;
    let (a, b) = two(&redis, &[("LOGIN_ACCOUNT_FAILURES", "5/15m")]).await;
    let ann = a.register("ann").await;
    let guesses = (0..60).map(|n| [&a, &b][n % 2].log_in(&ann.email, "not the password"));
    let answers = futures_util::future::join_all(guesses).await;
    // Those that were being hashed when the fifth failed may still be answered 401: as many as the
    // queues of the hashing threads hold, not all of them.
    let tried = answers.iter().filter(|answer| answer.status == 401).count();
    println!("{tried} of 60 guesses were tried");
    assert!(tried < 60, "all guesses were tried");
    for node in [&a, &b] {
        node.log_in(&ann.email, &ann.password).await.is_refused(429);
    }
}

#[tokio::test]
async fn wiped_redis_keeps_locks_of_the_node_that_counted() {
    let redis = Redis::start().await;
    let (a, b) = two(&redis, &[("LOGIN_ACCOUNT_FAILURES", "5/15m")]).await;
    let ann = a.register("ann").await;
    for _ in 0..5 {
        fails(&a, &ann.email).await;
    }
    b.log_in(&ann.email, &ann.password).await.is_refused(429);
    redis.flush().await;
    a.log_in(&ann.email, &ann.password).await.is_refused(429);
}

#[tokio::test]
async fn limits_of_all_nodes_are_listed_and_cleared_on_any() {
    let redis = Redis::start().await;
    let settings = [
        ("LOGIN_ACCOUNT_FAILURES", "5/15m"),
        ("LOGIN_ADDRESS_FAILURES", "11/15m"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let (a, b) = two(&redis, &settings).await;
    let ann = a.register("ann").await;
    let log_in = async |node: &Node, from: &str, email: &str, password: &str| {
        let body = json!({"email": email, "password": password});
        node.post("auth_token").header("x-forwarded-for", from).json(&body).send().await
    };
    // Ann logged in on the first node: the place is known on the second, too.
    log_in(&a, "192.0.2.7", &ann.email, &ann.password).await.is(200);
    for node in [&a, &a, &b, &a, &a] {
        log_in(node, "203.0.113.9", &ann.email, "not the password").await.is_refused(401);
    }
    for node in [&a, &b] {
        log_in(node, "203.0.113.9", &ann.email, &ann.password).await.is_refused(429);
        log_in(node, "192.0.2.9", &ann.email, &ann.password).await.is(200);
    }
    for n in 0..6 {
        log_in([&a, &b][n % 2], "203.0.113.9", &fresh("x"), "x").await.is_refused(401);
    }
    for node in [&a, &b] {
        log_in(node, "203.0.113.9", &fresh("x"), "x").await.is_refused(429);
        let list = node.cli(&["limits", "list", "--json"]).await.is_done().json();
        assert_eq!(list["shared"], true, "{list}");
        let limits = list["limits"].as_array().unwrap();
        assert!(limits.iter().any(|limit| limit["account"] == ann.email.as_str()), "{list}");
        assert!(limits.iter().any(|limit| limit["address"] == "203.0.113.9"), "{list}");
    }
    for (key, value) in redis.entries().await {
        let value = String::from_utf8_lossy(&value);
        assert!(!key.contains(&ann.email) && !value.contains(&ann.email), "{key}");
    }
    b.cli(&["limits", "clear", &ann.email]).await.is_done();
    b.cli(&["limits", "clear", "203.0.113.9"]).await.is_done();
    for node in [&a, &b] {
        log_in(node, "203.0.113.9", &ann.email, &ann.password).await.is(200);
        let list = node.cli(&["limits", "list", "--json"]).await.is_done().json();
        assert_eq!(list["limits"], json!([]), "{list}");
    }
}
