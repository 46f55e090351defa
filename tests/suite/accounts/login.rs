//! Logging in: the answers do not reveal which accounts exist.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::{Node, fresh};

#[tokio::test]
async fn login_returns_a_pair_of_tokens() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let answer = node.log_in(&ann.email, &ann.password).await;
    let (access, refresh) = answer.pair();
    assert_eq!(answer.json()["expires_in"], 15 * 60);
    node.validate(&access).await.is(200);
    node.refresh(&refresh).await.is(200);
    // In any letter case of the email.
    node.log_in(&ann.email.to_uppercase(), &ann.password).await.is(200);
    node.log_in(&ann.email, &ann.password.to_uppercase()).await.is_refused(401);
}

#[tokio::test]
async fn unknown_wrong_empty_and_disabled_are_answered_alike() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    root.sets_active(&bob, false).await.is(200);
    let unknown = format!("{}@example.org", fresh("nobody"));
    let reference = node.log_in(&ann.email, "not the password").await;
    reference.is_error(401, "Bad email or password");
    let names = |answer: &testkit::Answer| {
        let mut names: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    };
    for (email, password) in [
        (unknown.as_str(), "not the password"),
        (&unknown, ""),
        (&ann.email, ""),
        (&bob.email, bob.password.as_str()),
        (&bob.email, "not the password"),
        ("", "not the password"),
        ("no address", "not the password"),
        ("a\u{0}b@example.org", "not the password"),
    ] {
        let answer = node.log_in(email, password).await;
        answer.is_error(401, "Bad email or password");
        assert_eq!(answer.apart_from_its_id(), reference.apart_from_its_id(), "{email:?}");
        assert_eq!(names(&answer), names(&reference), "{email:?}");
    }
}

#[tokio::test]
async fn unknown_and_wrong_take_the_same_time() {
    const ROUNDS: usize = 11;
    let node = Node::start().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    root.sets_active(&bob, false).await.is(200);
    let unknown = format!("{}@example.org", fresh("nobody"));
    let cases = [(&unknown, "not it"), (&ann.email, "not it"), (&ann.email, ""), (&bob.email, &bob.password)];
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        // In turn, so that a busy moment of the machine hits all of them.
        for ((email, password), times) in cases.iter().zip(&mut times) {
            let start = Instant::now();
            node.log_in(email, password).await.is(401);
            times.push(start.elapsed());
        }
    }
    // The fastest of each kind is the time on an idle processor. An answer without a hash is twenty times
    // faster, so the bound leaves room for a busy machine.
    let least = times.map(|times: Vec<Duration>| times.into_iter().min().unwrap());
    let fastest = least.iter().min().unwrap();
    let slowest = least.iter().max().unwrap();
    assert!(*slowest < *fastest * 4, "unknown, wrong, empty, disabled: {least:?}");
}

#[tokio::test]
async fn login_refuses_a_body_of_another_form() {
    let node = Node::shared().await;
    for body in [
        json!({}),
        json!([]),
        json!({"email": "ann@example.org"}),
        json!({"password": "x"}),
        json!({"email": {"$ne": ""}, "password": {"$ne": ""}}),
        json!({"email": ["ann@example.org"], "password": "x"}),
        json!({"email": null, "password": null}),
    ] {
        node.post("auth_token").json(&body).send().await.is_refused(400);
    }
}

#[tokio::test]
async fn login_ignores_a_token_in_the_header() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    bob.delete("auth_token").send().await.is_done();
    let body = json!({"email": ann.email, "password": ann.password});
    let answer = node.post("auth_token").bearer(&bob.access).json(&body).send().await;
    ann.with_tokens(answer.pair()).is_in().await;
}
