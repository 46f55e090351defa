//! Limits of guessing and of registering.

use serde_json::{Value, json};
use testkit::{Node, Person, Shared, fresh};

static THREE: Shared = Shared::with(&[("LOGIN_ACCOUNT_FAILURES", "3/15m")]);

/// Fails as often as it takes to lock an email; none of these attempts is told so.
async fn lock(node: &Node, email: &str) {
    for _ in 0..3 {
        node.log_in(email, "not the password").await.is_error(401, "Bad email or password");
    }
}

fn retry_after(answer: &testkit::Answer) -> u64 {
    answer.header("retry-after").unwrap().parse().unwrap()
}

#[tokio::test]
async fn failures_lock_an_account_also_for_the_right_password() {
    let node = THREE.node().await;
    let ann = node.register("ann").await;
    lock(&node, &ann.email).await;
    let wrong = node.log_in(&ann.email, "not the password").await;
    let right = node.log_in(&ann.email, &ann.password).await;
    wrong.is_refused(429);
    right.is_refused(429);
    assert_eq!(wrong.apart_from_its_id(), right.apart_from_its_id());
    assert!((1..=60).contains(&retry_after(&right)), "{right}");
    // Any spelling of the email is the same account.
    node.log_in(&ann.email.to_uppercase(), &ann.password).await.is_refused(429);
}

#[tokio::test]
async fn a_lock_ends_no_session_and_locks_nobody_else() {
    let node = THREE.node().await;
    let (ann, bob) = (node.register("ann").await, node.register("bob").await);
    lock(&node, &ann.email).await;
    ann.is_in().await;
    ann.refreshed().await.is_in().await;
    bob.in_another_session().await.is_in().await;
}

#[tokio::test]
async fn an_unknown_email_locks_like_a_known_one() {
    let node = THREE.node().await;
    let ann = node.register("ann").await;
    let unknown = format!("{}@example.org", fresh("nobody"));
    lock(&node, &unknown).await;
    lock(&node, &ann.email).await;
    let (of_unknown, of_ann) =
        (node.log_in(&unknown, "x").await, node.log_in(&ann.email, "not the password").await);
    of_unknown.is_refused(429);
    of_ann.is_refused(429);
    assert_eq!(of_unknown.apart_from_its_id(), of_ann.apart_from_its_id());
}

#[tokio::test]
async fn a_success_is_not_limited() {
    let node = THREE.node().await;
    let ann = node.register("ann").await;
    for _ in 0..8 {
        ann.in_another_session().await;
    }
}

#[tokio::test]
async fn an_admin_sees_and_opens_a_lock() {
    let node = THREE.node().await;
    let root = node.root().await;
    let (admin, ann) = (node.register("admin").await, node.register("ann").await);
    root.gives(&admin, "users_admin").await.is(200);
    let locked_until =
        async |by: &Person| by.get(&ann.path("")).send().await.is(200).json()["locked_until"].clone();
    assert_eq!(locked_until(&admin).await, Value::Null);
    lock(&node, &ann.email).await;
    assert!(locked_until(&admin).await.as_str().is_some_and(|time| time.ends_with('Z')));
    assert!(ann.get("users/me").send().await.is(200).json().get("locked_until").is_none());
    ann.post("users/me/unlock").send().await.is_refused(403);
    admin.post(&ann.path("unlock")).send().await.is_done();
    assert_eq!(locked_until(&admin).await, Value::Null);
    ann.in_another_session().await.is_in().await;
    // Unlocking who is not locked is no error.
    admin.post(&ann.path("unlock")).send().await.is_done();
}

#[tokio::test]
async fn an_address_is_locked_by_failures_on_many_accounts() {
    let node = Node::builder().setting("LOGIN_ADDRESS_FAILURES", "5/15m").start().await;
    let ann = node.register("ann").await;
    for _ in 0..5 {
        node.log_in(&format!("{}@example.org", fresh("nobody")), "x").await.is_refused(401);
    }
    let refused = node.log_in(&ann.email, &ann.password).await;
    refused.is_refused(429);
    // An untrusted client cannot claim to be elsewhere.
    let body = json!({"email": ann.email, "password": ann.password});
    let elsewhere = node.post("auth_token").header("x-forwarded-for", "203.0.113.7").json(&body).send().await;
    elsewhere.is_refused(429);
    ann.is_in().await;
    ann.refreshed().await.is_in().await;
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_address_has_its_own_limit() {
    let node = Node::builder()
        .setting("LOGIN_ADDRESS_FAILURES", "3/15m")
        .setting("TRUSTED_PROXIES", "127.0.0.1/32")
        .start()
        .await;
    let ann = node.register("ann").await;
    let log_in = async |from: &str, email: &str, password: &str| {
        let body = json!({"email": email, "password": password});
        node.post("auth_token").header("x-forwarded-for", from).json(&body).send().await
    };
    for _ in 0..3 {
        log_in("203.0.113.7", &format!("{}@example.org", fresh("nobody")), "x").await.is_refused(401);
    }
    log_in("203.0.113.7", &ann.email, &ann.password).await.is_refused(429);
    log_in("203.0.113.8", &ann.email, &ann.password).await.is(200);
}

#[tokio::test]
async fn registrations_of_an_address_are_limited() {
    let node = Node::builder().setting("REGISTRATION_RATE", "2/1m").start().await;
    let register = async || {
        let body =
            json!({"email": format!("{}@example.org", fresh("ann")), "password": fresh("a secret of")});
        node.post("users").json(&body).send().await
    };
    register().await.is(201);
    register().await.is(201);
    let refused = register().await;
    refused.is_refused(429);
    assert!((1..=60).contains(&retry_after(&refused)), "{refused}");
}

#[tokio::test]
async fn parallel_guesses_do_not_get_around_the_limit() {
    let node = Node::builder().setting("LOGIN_ACCOUNT_FAILURES", "3/15m").start().await;
    let ann = node.register("ann").await;
    let guesses = (0..30).map(|_| node.log_in(&ann.email, "not the password"));
    let answers = futures_util::future::join_all(guesses).await;
    // Those that were being hashed when the third failed may still be answered 401: as many as
    // the queue of the hashing threads holds, not all of them.
    let tried = answers.iter().filter(|answer| answer.status == 401).count();
    assert!(tried < 30, "all guesses were tried");
    for answer in answers.iter().filter(|answer| answer.status != 401) {
        assert!(matches!(answer.status, 429 | 503), "{answer}");
        answer.is_refused(answer.status);
    }
    let after = node.log_in(&ann.email, &ann.password).await;
    after.is_refused(429);
}
