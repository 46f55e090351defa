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
async fn failures_lock_an_account_even_for_the_right_password() {
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
async fn lock_ends_no_session_and_affects_no_other_user() {
    let node = THREE.node().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
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
async fn successful_logins_are_not_limited() {
    let node = THREE.node().await;
    let ann = node.register("ann").await;
    for _ in 0..8 {
        ann.in_another_session().await;
    }
}

#[tokio::test]
async fn admin_sees_and_clears_a_lock() {
    let node = THREE.node().await;
    let root = node.root().await;
    let admin = node.register("admin").await;
    let ann = node.register("ann").await;
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
    // Unlocking a user that is not locked is not an error.
    admin.post(&ann.path("unlock")).send().await.is_done();
}

#[tokio::test]
async fn an_address_is_slowed_by_failures_on_many_accounts() {
    let node = Node::builder().setting("LOGIN_ADDRESS_FAILURES", "5/15m").start().await;
    let ann = node.register("ann").await;
    for _ in 0..5 {
        node.log_in(&format!("{}@example.org", fresh("nobody")), "x").await.is_refused(401);
    }
    let refused = node.log_in(&ann.email, &ann.password).await;
    refused.is_refused(429);
    assert!((1..=180).contains(&retry_after(&refused)), "until there is room for one more: {refused}");
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

/// Behind a proxy, so that the test can say where it is.
static PROXIED: Shared =
    Shared::with(&[("LOGIN_ACCOUNT_FAILURES", "3/15m"), ("TRUSTED_PROXIES", "127.0.0.1")]);

async fn log_in_from(node: &Node, from: &str, email: &str, password: &str) -> testkit::Answer {
    let body = json!({"email": email, "password": password});
    node.post("auth_token").header("x-forwarded-for", from).json(&body).send().await
}

async fn lock_from(node: &Node, from: &str, email: &str) {
    for _ in 0..3 {
        log_in_from(node, from, email, "not the password").await.is_error(401, "Bad email or password");
    }
}

#[tokio::test]
async fn stranger_cannot_lock_the_owner_out_at_a_known_place() {
    let node = Node::builder()
        .setting("LOGIN_ACCOUNT_FAILURES", "3/15m")
        .setting("TRUSTED_PROXIES", "127.0.0.1")
        .start()
        .await;
    let ann = node.register("ann").await;
    for home in ["192.0.2.7", "[2001:db8:1:2::7]:443"] {
        log_in_from(&node, home, &ann.email, &ann.password).await.is(200);
    }
    node.restart().await;
    lock_from(&node, "203.0.113.9", &ann.email).await;
    for stranger in ["203.0.113.9", "198.51.100.1", "2001:db8:1:3::7", "192.0.3.7"] {
        log_in_from(&node, stranger, &ann.email, &ann.password).await.is_refused(429);
    }
    for home in ["192.0.2.7", "192.0.2.201", "2001:db8:1:2:ffff::1"] {
        log_in_from(&node, home, &ann.email, &ann.password).await.is(200);
    }
    // Failures at home are counted apart, and lock as anywhere.
    lock_from(&node, "192.0.2.7", &ann.email).await;
    log_in_from(&node, "192.0.2.8", &ann.email, &ann.password).await.is_refused(429);
    // A new password of an admin lifts both locks.
    let root = node.root().await;
    let body = json!({"new_password": "a password of an admin"});
    root.post(&ann.path("password")).json(&body).send().await.is_done();
    for anywhere in ["192.0.2.7", "203.0.113.9"] {
        log_in_from(&node, anywhere, &ann.email, "a password of an admin").await.is(200);
    }
}

#[tokio::test]
async fn owner_keeps_known_places_after_an_email_change() {
    let node = PROXIED.node().await;
    let ann = node.register("ann").await;
    let email = format!("{}@example.org", fresh("anna"));
    let body = json!({"email": email, "password": ann.password});
    ann.patch("users/me").header("x-forwarded-for", "192.0.2.7").json(&body).send().await.is(200);
    lock_from(&node, "203.0.113.9", &email).await;
    log_in_from(&node, "203.0.113.9", &email, &ann.password).await.is_refused(429);
    log_in_from(&node, "192.0.2.7", &email, &ann.password).await.is(200);
}

#[tokio::test]
async fn known_places_do_not_pass_to_the_next_owner_of_an_email() {
    let node = PROXIED.node().await;
    let mallory = node.register("mallory").await;
    let ann = node.register("ann").await;
    let email = format!("{}@example.org", fresh("victim"));
    let takes = async |person: &Person, email: &str| {
        let body = json!({"email": email, "password": person.password});
        person.patch("users/me").header("x-forwarded-for", "203.0.113.9").json(&body).send().await
    };
    takes(&mallory, &email).await.is(200);
    log_in_from(&node, "203.0.113.9", &email, &mallory.password).await.is(200);
    takes(&mallory, &mallory.email).await.is(200);
    let body = json!({"email": email, "password": ann.password});
    ann.patch("users/me").header("x-forwarded-for", "192.0.2.7").json(&body).send().await.is(200);
    lock_from(&node, "203.0.113.9", &email).await;
    log_in_from(&node, "203.0.113.9", &email, &ann.password).await.is_refused(429);
    log_in_from(&node, "192.0.2.7", &email, &ann.password).await.is(200);
}

#[tokio::test]
async fn client_behind_a_proxy_is_found_in_every_form() {
    let node = Node::builder().setting("TRUSTED_PROXIES", "127.0.0.1").start().await;
    let ann = node.register("ann").await;
    for (forwarded, client) in [
        (&["198.51.100.7:51234"][..], "198.51.100.7"),
        (&["\"[2001:db8::7]\""][..], "2001:db8::7"),
        (&["[2001:db8::7]:443"][..], "2001:db8::7"),
        (&["198.51.100.8,"][..], "198.51.100.8"),
        (&["203.0.113.9, 198.51.100.9"][..], "198.51.100.9"),
        (&["203.0.113.9", " ::ffff:198.51.100.10 "][..], "198.51.100.10"),
        (&["203.0.113.9", "127.0.0.1:80"][..], "203.0.113.9"),
        (&["unknown"][..], "127.0.0.1"),
        (&["198.51.100.7:99999999"][..], "127.0.0.1"),
    ] {
        let body = json!({"email": ann.email, "password": ann.password});
        let request = forwarded.iter().fold(node.post("auth_token").json(&body), |request, line| {
            request.header("x-forwarded-for", line)
        });
        request.send().await.is(200);
        let logins = ann.list("logins", "users/me/logins").await;
        assert_eq!(logins[0]["ip_address"], client, "{forwarded:?}");
    }
    assert_eq!(node.metric("palisade_forwarded_unreadable_total").await, Some(2.0));
    let warning = "X-Forwarded-For of a trusted proxy cannot be read";
    let logs = node.logs_with(warning).await;
    assert_eq!(logs.matches(warning).count(), 1);
    assert!(!logs.contains("PALISADE_TRUSTED_PROXIES is not set"));
}

#[tokio::test]
async fn forwarded_for_without_trusted_proxies_is_warned_of_once() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    assert!(!node.logs().contains("PALISADE_TRUSTED_PROXIES"));
    for from in ["198.51.100.7", "nonsense", "198.51.100.8"] {
        log_in_from(&node, from, &ann.email, &ann.password).await.is(200);
    }
    let warning = "PALISADE_TRUSTED_PROXIES is not set";
    assert_eq!(node.logs_with(warning).await.matches(warning).count(), 1);
    assert_eq!(node.metric("palisade_forwarded_unreadable_total").await, Some(0.0));
    let logins = ann.list("logins", "users/me/logins").await;
    assert!(logins.iter().all(|login| login["ip_address"] == "127.0.0.1"), "{logins:?}");
}

#[tokio::test]
async fn operator_lists_and_clears_limits() {
    let node = Node::builder()
        .setting("LOGIN_ACCOUNT_FAILURES", "3/15m")
        .setting("LOGIN_ADDRESS_FAILURES", "6/15m")
        .setting("TRUSTED_PROXIES", "127.0.0.1")
        .start()
        .await;
    let ann = node.register("ann").await;
    node.cli(&["limits", "list"]).await.is_done();
    let list = async || {
        let list = node.cli(&["limits", "list", "--json"]).await.is_done().json();
        assert_eq!(list["shared"], false);
        list["limits"].as_array().unwrap().clone()
    };
    assert_eq!(list().await.len(), 0);
    lock_from(&node, "2001:db8:1:2::7", &ann.email).await;
    lock_from(&node, "2001:db8:1:2::8", "a password in the wrong field").await;
    log_in_from(&node, "2001:db8:1:2::9", &fresh("x"), "x").await.is_refused(429);
    log_in_from(&node, "198.51.100.1", &ann.email, &ann.password).await.is_refused(429);
    let limits = list().await;
    assert_eq!(limits.len(), 3, "{limits:?}");
    assert!(limits.iter().any(|limit| limit["account"] == ann.email.as_str()), "{limits:?}");
    assert!(limits.iter().any(|limit| limit["address"] == "2001:db8:1:2::/64"), "{limits:?}");
    assert!(!serde_json::to_string(&limits).unwrap().contains("wrong field"), "{limits:?}");
    assert!(limits.iter().all(|limit| limit["seconds"].as_u64().is_some_and(|s| s <= 150)), "{limits:?}");
    let text = node.cli(&["limits", "list"]).await;
    assert!(text.is_done().stdout.contains(&ann.email), "{text:?}");
    let logs = node.logs_with("an address is slowed").await;
    assert_eq!(logs.matches("an account is locked").count(), 2, "{logs}");
    assert_eq!(logs.matches("an address is slowed").count(), 1, "{logs}");
    assert!(logs.contains(&ann.uuid) && !logs.contains(&ann.email) && !logs.contains("wrong field"));
    assert_eq!(node.metric(r#"palisade_limits_reached_total{kind="account"}"#).await, Some(2.0));
    assert_eq!(node.metric(r#"palisade_limits_reached_total{kind="address"}"#).await, Some(1.0));

    node.cli(&["limits", "clear", &ann.email.to_uppercase()]).await.is_done();
    log_in_from(&node, "198.51.100.1", &ann.email, &ann.password).await.is(200);
    log_in_from(&node, "2001:db8:1:2::9", &ann.email, &ann.password).await.is_refused(429);
    let cleared = node.cli(&["limits", "clear", "2001:db8:1:2::77", "--json"]).await.is_done().json();
    assert_eq!(cleared["lifted"].as_array().unwrap().len(), 1, "{cleared}");
    log_in_from(&node, "2001:db8:1:2::9", &ann.email, &ann.password).await.is(200);
    assert_eq!(list().await.len(), 1);
    // What is not limited is no error, and what is no name is one.
    node.cli(&["limits", "clear", "192.0.2.1"]).await.is_done();
    node.cli(&["limits", "clear", "ann"]).await.failed_saying(&["neither an email nor an IP address"]);
    node.terminate().await;
    node.cli(&["limits", "list"]).await.failed_saying(&["no node runs"]);
}
