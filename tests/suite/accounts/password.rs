//! Passwords: which are taken, that they are the same in every Unicode form, and how they change.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use testkit::{Answer, Node, eventually, fresh};

fn email() -> String {
    format!("{}@example.org", fresh("ann"))
}

async fn register(node: &Node, password: &str) -> (String, Answer) {
    let email = email();
    let answer = node.post("users").json(&json!({"email": email, "password": password})).send().await;
    (email, answer)
}

#[tokio::test]
async fn passwords_of_8_to_128_characters_are_accepted() {
    let node = Node::shared().await;
    for good in [
        "8 charsX",
        &"x7".repeat(64),
        &"🦀".repeat(128),
        "пароль с пробелами",
        "'; DROP TABLE users; --",
        "\"\\/<>&%00",
    ] {
        let (email, answer) = register(&node, good).await;
        assert_eq!(answer.status, 201, "{good:?}\n{answer}");
        node.log_in(&email, good).await.is(200);
        node.log_in(&email, &format!("{good}x")).await.is_refused(401);
    }
}

#[tokio::test]
async fn too_short_too_long_and_control_characters_are_refused() {
    let node = Node::shared().await;
    for bad in [
        "",
        "7 chars",
        "🦀🦀🦀🦀🦀🦀🦀",
        &"x7".repeat(65),
        &"🦀".repeat(129),
        "a password with \u{0} in it",
        "a password with \n in it",
        "a password with \u{7f} in it",
        "a password with \u{1b}[31m in it",
    ] {
        let (_, answer) = register(&node, bad).await;
        answer.is_about_field("password");
    }
}

#[tokio::test]
async fn a_password_of_a_megabyte_is_too_large() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let long = "x".repeat(1024 * 1024);
    let bodies = [
        ("users", json!({"email": email(), "password": long})),
        ("auth_token", json!({"email": ann.email, "password": long})),
    ];
    for (path, body) in bodies {
        // A node that closes the connection in the middle of such a body is within its rights.
        if let Ok(answer) = node.post(path).json(&body).try_send().await {
            answer.is_refused(413);
        }
    }
    ann.is_in().await;
}

#[tokio::test]
async fn common_passwords_are_refused() {
    let node = Node::shared().await;
    for common in ["password", "12345678", "123456789", "qwertyuiop", "iloveyou", "password1", "sunshine"] {
        let (_, answer) = register(&node, common).await;
        answer.is_about_field("password");
    }
}

#[tokio::test]
async fn unicode_forms_of_a_password_are_one_password() {
    let node = Node::shared().await;
    let nfc = "mot de passé ñandú";
    let nfd = "mot de passe\u{301} n\u{303}andu\u{301}";
    assert_ne!(nfc, nfd);
    for (registered, other) in [(nfc, nfd), (nfd, nfc)] {
        let (email, answer) = register(&node, registered).await;
        answer.is(201);
        node.log_in(&email, registered).await.is(200);
        node.log_in(&email, other).await.is(200);
        node.log_in(&email, "mot de passe nandu").await.is_refused(401);
    }
    // RFC 8265, OpaqueString: a non-ASCII space is a space; case and width stay.
    let (email, answer) = register(&node, "a secret\u{a0}with\u{3000}spaces").await;
    answer.is(201);
    node.log_in(&email, "a secret with spaces").await.is(200);
    node.log_in(&email, "A secret with spaces").await.is_refused(401);
    // The length is that after normalisation: 128 letters with 128 accents are 128 characters.
    let (email, answer) = register(&node, &"e\u{301}".repeat(128)).await;
    answer.is(201);
    node.log_in(&email, &"é".repeat(128)).await.is(200);
}

#[tokio::test]
async fn impossible_password_at_login_is_just_wrong() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    for bad in ["", " ", "x", "a\u{0}b", &"x".repeat(129), &"x".repeat(10_000)] {
        node.log_in(&ann.email, bad).await.is_error(401, "Bad email or password");
    }
}

#[tokio::test]
async fn a_password_changes_with_the_old_one_only() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let change = |body: Value| ann.post("users/me/password").json(&body).send();
    change(json!({"old_password": "not it, really", "new_password": fresh("new secret")}))
        .await
        .is_refused(403);
    change(json!({"old_password": "", "new_password": fresh("new secret")})).await.is_refused(403);
    ann.is_in().await;
    let without = change(json!({"new_password": fresh("new secret")})).await;
    assert!(matches!(without.status, 400 | 403), "{without}");
    for bad in ["", "short", "password", "with \u{0} in it", &"x".repeat(129)] {
        let answer = change(json!({"old_password": ann.password, "new_password": bad})).await;
        answer.is_about_field("new_password");
    }
    ann.is_in().await;
    node.log_in(&ann.email, &ann.password).await.is(200);
}

#[tokio::test]
async fn user_cannot_change_another_users_password() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    for body in [
        json!({"new_password": fresh("stolen")}),
        json!({"old_password": bob.password, "new_password": fresh("stolen")}),
    ] {
        ann.post(&bob.path("password")).json(&body).send().await.is_refused(403);
    }
    bob.is_in().await;
    bob.in_another_session().await.is_in().await;
}

#[tokio::test]
async fn new_pair_after_a_change_is_uncacheable_and_stays_valid() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let password = fresh("a new secret");
    let body = json!({"old_password": ann.password, "new_password": password});
    let answer = ann.post(&ann.path("password")).json(&body).send().await;
    let now = ann.with_tokens(answer.pair()).with_password(&password);
    node.kill_dash_9();
    node.restart().await;
    ann.is_out().await;
    now.is_in().await;
    now.refreshed().await.is_in().await;
    now.in_another_session().await.is_in().await;
    node.log_in(&ann.email, &ann.password).await.is_refused(401);
}

#[tokio::test]
async fn login_with_the_old_password_during_a_change_is_revoked() {
    let node = Node::start().await;
    let mut ann = node.register("ann").await;
    for round in 0..4 {
        let old = ann.clone();
        let new = fresh("a new secret");
        let answered = AtomicBool::new(false);
        let logged_in = AtomicUsize::new(0);
        let change = async {
            // Each round somewhat later, so that it meets the log-ins elsewhere.
            let enough = async || (logged_in.load(Ordering::SeqCst) >= round).then_some(());
            eventually(Duration::from_secs(30), "some log-ins", enough).await;
            let body = json!({"old_password": old.password, "new_password": new});
            let answer = old.post("users/me/password").json(&body).send().await;
            answered.store(true, Ordering::SeqCst);
            answer.pair()
        };
        // Four at a time, each again and again until the change is answered: some before it, some in
        // the middle of it, the last ones too late.
        let log_in = async || {
            let mut pairs = Vec::new();
            while !answered.load(Ordering::SeqCst) {
                let answer = node.log_in(&old.email, &old.password).await;
                match answer.status {
                    200 => {
                        pairs.push(answer.pair());
                        logged_in.fetch_add(1, Ordering::SeqCst);
                    }
                    _ => drop(answer.is_error(401, "Bad email or password")),
                }
            }
            pairs
        };
        let log_ins = join_all((0..4).map(|_| log_in()));
        let (pair, pairs) = tokio::join!(change, log_ins);
        for pair in pairs.into_iter().flatten() {
            old.with_tokens(pair).is_out().await;
        }
        old.is_out().await;
        node.log_in(&old.email, &old.password).await.is_error(401, "Bad email or password");
        ann = old.with_tokens(pair).with_password(&new);
        ann.is_in().await;
        assert_eq!(ann.list("sessions", "users/me/sessions").await.len(), 1, "round {round}");
    }
}
