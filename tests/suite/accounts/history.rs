//! The login history, and whose address is in it.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use testkit::{Node, Person, Shared, eventually, fresh};

async fn newest(person: &Person) -> Value {
    person.list("logins", "users/me/logins").await[0].clone()
}

/// A history, once it has so many entries: failures may be written after they were answered, so
/// that their time tells nothing.
async fn of_length(length: usize, by: &Person, path: &str) -> Vec<Value> {
    eventually(Duration::from_secs(5), "the history is written", async || {
        let history = by.list("logins", path).await;
        assert!(history.len() <= length, "{history:?}");
        (history.len() == length).then_some(history)
    })
    .await
}

#[tokio::test]
async fn history_has_successes_and_failures_with_reasons() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    node.log_in(&ann.email, "not the password").await.is_refused(401);
    let body = json!({"email": ann.email, "password": ann.password, "device": "Ann's phone"});
    node.post("auth_token").header("user-agent", "films/2.0").json(&body).send().await.is(200);
    let history = of_length(3, &ann, "users/me/logins").await;
    for login in &history {
        let fields: BTreeSet<_> = login.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            fields,
            ["device", "ip_address", "reason", "success", "time", "user_agent", "uuid"].into()
        );
        assert_eq!(login["ip_address"], "127.0.0.1");
        assert!(login["time"].as_str().unwrap().ends_with('Z'));
    }
    // Newest first.
    assert_eq!((&history[0]["success"], &history[0]["reason"]), (&json!(true), &Value::Null));
    assert_eq!(
        (&history[0]["device"], &history[0]["user_agent"]),
        (&json!("Ann's phone"), &json!("films/2.0"))
    );
    assert_eq!((&history[1]["success"], &history[1]["reason"]), (&json!(false), &json!("bad_password")));
    assert_eq!(history[2]["success"], true);
}

#[tokio::test]
async fn attempts_of_a_disabled_user_are_in_the_history() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    root.sets_active(&ann, false).await.is(200);
    node.log_in(&ann.email, &ann.password).await.is_refused(401);
    let history = of_length(2, &root, &ann.path("logins")).await;
    assert_eq!((&history[0]["success"], &history[0]["reason"]), (&json!(false), &json!("disabled")));
}

#[tokio::test]
async fn the_history_is_paged_newest_first() {
    let node = Node::shared().await;
    let mut ann = node.register("ann").await;
    for _ in 0..4 {
        ann = ann.in_another_session().await;
    }
    let mut seen = Vec::new();
    let mut next = None::<String>;
    loop {
        let token = next.map(|next| format!("&page_token={next}")).unwrap_or_default();
        let page = ann.get(&format!("users/me/logins?limit=2{token}")).send().await.is(200).json();
        let logins = page["logins"].as_array().unwrap();
        assert!(logins.len() <= 2);
        seen.extend(logins.iter().map(|login| login["time"].as_str().unwrap().to_owned()));
        next = page["next_page_token"].as_str().map(Into::into);
        if next.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.windows(2).all(|pair| pair[0] >= pair[1]), "{seen:?}");
}

#[tokio::test]
async fn history_is_readable_by_its_user_and_admins_only() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    bob.get(&ann.path("logins")).send().await.is_refused(403);
    let of_ann = root.list("logins", &ann.path("logins")).await;
    assert_eq!(of_ann, ann.list("logins", "users/me/logins").await);
    assert_eq!(of_ann, ann.list("logins", &ann.path("logins")).await);
}

#[tokio::test]
async fn address_claimed_by_an_untrusted_client_is_ignored() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let body = json!({"email": ann.email, "password": ann.password});
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-real-ip", "203.0.113.7"),
        ("forwarded", "for=203.0.113.7"),
        ("x-forwarded-for", "203.0.113.7, 127.0.0.1"),
        ("cf-connecting-ip", "203.0.113.7"),
    ] {
        let answer = node.post("auth_token").header(name, value).json(&body).send().await;
        let session = ann.with_tokens(answer.pair());
        assert_eq!(newest(&session).await["ip_address"], "127.0.0.1", "{name}: {value}");
    }
}

#[tokio::test]
async fn address_reported_by_a_trusted_proxy_is_used() {
    static BEHIND_A_PROXY: Shared = Shared::with(&[("TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8")]);
    let node = BEHIND_A_PROXY.node().await;
    let ann = node.register("ann").await;
    let body = json!({"email": ann.email, "password": ann.password});
    for (forwarded, expected) in [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8::7", "2001:db8::7"),
        // What the client itself put there is to the left of what the proxies saw.
        ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7, 10.1.2.3", "203.0.113.7"),
        ("nonsense, 203.0.113.7", "203.0.113.7"),
    ] {
        let request = node.post("auth_token").header("x-forwarded-for", forwarded).json(&body);
        let session = ann.with_tokens(request.send().await.pair());
        assert_eq!(newest(&session).await["ip_address"], expected, "{forwarded}");
    }
    // Nothing sensible there: the proxy itself, and in no case an error.
    for nonsense in ["nonsense", "", ",,,", "999.1.1.1", &"1.1.1.1, ".repeat(300)] {
        let request = node.post("auth_token").header("x-forwarded-for", nonsense).json(&body);
        request.send().await.is(200);
    }
}

#[tokio::test]
async fn failure_for_an_unknown_email_is_in_no_history() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let before = ann.list("logins", "users/me/logins").await;
    node.log_in(&format!("{}@example.org", fresh("nobody")), &ann.password).await.is_refused(401);
    node.refresh("prt_made_up").await.is_refused(401);
    assert_eq!(ann.list("logins", "users/me/logins").await, before);
}
