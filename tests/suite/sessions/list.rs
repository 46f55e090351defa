//! The list of a user's sessions.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::json;
use testkit::{Node, Person};

#[tokio::test]
async fn session_shows_address_times_and_whether_it_is_current() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let body = json!({"email": ann.email, "password": ann.password, "device": "Ann's phone"});
    let answer = node.post("auth_token").header("user-agent", "films/1.0 (test)").json(&body).send().await;
    let phone = ann.with_tokens(answer.pair());
    let sessions = phone.list("sessions", "users/me/sessions").await;
    assert_eq!(sessions.len(), 2);
    let mine = sessions.iter().find(|session| session["current"] == true).expect("one is this one");
    assert_eq!(sessions.iter().filter(|session| session["current"] == true).count(), 1);
    assert_eq!(mine["device"], "Ann's phone");
    assert_eq!(mine["user_agent"], "films/1.0 (test)");
    assert_eq!(mine["ip_address"], "127.0.0.1");
    for time in ["created_at", "last_used_at"] {
        let time = mine[time].as_str().unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "not RFC 3339 in UTC: {time}");
    }
    let expected = ["created_at", "current", "device", "ip_address", "last_used_at", "user_agent", "uuid"];
    let fields: BTreeSet<_> = mine.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, expected.into());
    let other = sessions.iter().find(|session| session["current"] == false).unwrap();
    assert!(other["device"].is_null());
    // Under one's own id it is the same list.
    assert_eq!(phone.list("sessions", &ann.path("sessions")).await, sessions);
}

#[tokio::test]
async fn refresh_updates_the_time_of_last_use() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let used =
        async |person: &Person| person.list("sessions", "users/me/sessions").await[0]["last_used_at"].clone();
    let before = used(&ann).await;
    let next = ann.refreshed().await;
    assert!(used(&next).await.as_str() > before.as_str());
}

#[tokio::test]
async fn session_list_is_paged() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    join_all((0..6).map(|_| ann.in_another_session())).await;
    let mut seen = Vec::new();
    let mut next = None::<String>;
    loop {
        let token = next.map(|next| format!("&page_token={next}")).unwrap_or_default();
        let page = ann.get(&format!("users/me/sessions?limit=3{token}")).send().await.is(200).json();
        let sessions = page["sessions"].as_array().unwrap();
        assert!(!sessions.is_empty() && sessions.len() <= 3);
        seen.extend(sessions.iter().map(|session| session["uuid"].as_str().unwrap().to_owned()));
        next = page["next_page_token"].as_str().map(Into::into);
        if next.is_none() {
            assert!(page["next_page_token"].is_null());
            break;
        }
    }
    assert_eq!(seen.len(), 7);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 7, "a session was shown twice");
    let whole = ann.list("sessions", "users/me/sessions").await;
    let whole: Vec<_> = whole.iter().map(|session| session["uuid"].as_str().unwrap().to_owned()).collect();
    assert_eq!(whole, seen, "pages are in the order of the list");
}

#[tokio::test]
async fn invalid_page_is_refused() {
    let node = Node::shared().await;
    let root = node.root().await;
    for list in ["users/me/sessions", "users/me/logins", "users"] {
        for wrong in [
            "limit=0",
            "limit=201",
            "limit=abc",
            "limit=-1",
            "limit=",
            "limit=1.5",
            "limit=99999999999999999999",
            "page_token=nonsense",
            "page_token=%00",
            "limit=1&limit=2",
            "limit=1&limit=1",
            "limit=1&%6cimit=1",
            "page_token=&page_token=",
        ] {
            let answer = root.get(&format!("{list}?{wrong}")).send().await;
            assert_eq!(answer.status, 400, "{list}?{wrong}\n{answer}");
            answer.is_refused(400);
        }
        root.get(&format!("{list}?limit=1")).send().await.is(200);
        root.get(&format!("{list}?limit=200")).send().await.is(200);
        // A parameter that is not ours may be there more than once.
        root.get(&format!("{list}?x=1&x=2")).send().await.is(200);
    }
}

#[tokio::test]
async fn device_name_is_kept_unchanged_or_refused() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let log_in = async |device: serde_json::Value| {
        let body = json!({"email": ann.email, "password": ann.password, "device": device});
        node.post("auth_token").json(&body).send().await
    };
    for device in ["ü 🎬", "'; DROP TABLE sessions; --", "<script>", "a\"b\\c"] {
        let session = ann.with_tokens(log_in(json!(device)).await.pair());
        let sessions = session.list("sessions", "users/me/sessions").await;
        assert_eq!(sessions.iter().find(|s| s["current"] == true).unwrap()["device"], device);
    }
    log_in(serde_json::Value::Null).await.is(200);
    log_in(json!("d".repeat(100_000))).await.is_refused(413);
    log_in(json!("d".repeat(10_000))).await.is_about_field("device");
    log_in(json!(7)).await.is_refused(400);
}
