//! What users see and change of themselves.

use serde_json::json;
use testkit::{Node, fresh};

const UNKNOWN_USER: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

#[tokio::test]
async fn user_reads_and_changes_itself_by_me_or_by_id() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let me = ann.get("users/me").send().await.is(200).json();
    assert_eq!(me["uuid"], ann.uuid.as_str());
    assert_eq!(ann.get(&ann.path("")).send().await.is(200).json(), me);
    assert!(me.get("password").is_none());
    assert!(me.get("locked_until").is_none(), "for admins only");
    let body = json!({"first_name": "Anna", "last_name": "Banana"});
    let changed = ann.patch("users/me").json(&body).send().await.is(200).json();
    assert_eq!((&changed["first_name"], &changed["last_name"]), (&json!("Anna"), &json!("Banana")));
    // What is not in the body stays; null takes away.
    let changed = ann.patch(&ann.path("")).json(&json!({"last_name": null})).send().await.is(200).json();
    assert_eq!(changed["first_name"], "Anna");
    assert!(changed["last_name"].is_null());
    assert_eq!(ann.get("users/me").send().await.is(200).json(), changed);
    assert_eq!(ann.patch("users/me").json(&json!({})).send().await.is(200).json(), changed);
    ann.is_in().await;
}

#[tokio::test]
async fn other_users_are_forbidden_whether_or_not_they_exist() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    for user in [bob.uuid.as_str(), UNKNOWN_USER] {
        let path = format!("users/{user}");
        ann.get(&path).send().await.is_refused(403);
        ann.patch(&path).json(&json!({"first_name": "x"})).send().await.is_refused(403);
        ann.delete(&path).send().await.is_refused(403);
        ann.get(&format!("{path}/logins")).send().await.is_refused(403);
        ann.post(&format!("{path}/unlock")).send().await.is_refused(403);
    }
    ann.get("users").send().await.is_refused(403);
    bob.is_in().await;
}

#[tokio::test]
async fn an_email_changes_with_the_password_only() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let email = format!("{}@example.org", fresh("anna"));
    let change = |body: serde_json::Value| ann.patch("users/me").json(&body).send();
    change(json!({"email": email})).await.is_refused(403);
    change(json!({"email": email, "password": "not it, really"})).await.is_refused(403);
    assert_eq!(ann.get("users/me").send().await.field("email"), ann.email);
    let changed = change(json!({"email": email, "password": ann.password})).await.is(200).json();
    assert_eq!(changed["email"], email.as_str());
    assert_eq!(changed["email_confirmed"], false);
    node.log_in(&email, &ann.password).await.is(200);
    node.log_in(&ann.email, &ann.password).await.is_refused(401);
    // The old one is free.
    let body = json!({"email": ann.email, "password": "somebody else's secret"});
    node.post("users").json(&body).send().await.is(201);
}

#[tokio::test]
async fn email_of_another_user_cannot_be_taken() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    for email in [bob.email.clone(), bob.email.to_uppercase()] {
        let body = json!({"email": email, "password": ann.password});
        ann.patch("users/me").json(&body).send().await.is_refused(409);
    }
    let body = json!({"email": "no address", "password": ann.password});
    ann.patch("users/me").json(&body).send().await.is_about_field("email");
    // One's own in other letters is one's own.
    let body = json!({"email": ann.email.to_uppercase(), "password": ann.password});
    assert_eq!(
        ann.patch("users/me").json(&body).send().await.is(200).field("email"),
        ann.email.to_uppercase()
    );
    ann.in_another_session().await.is_in().await;
}

#[tokio::test]
async fn concurrent_changes_to_one_email_succeed_once() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    let email = format!("{}@example.org", fresh("wanted"));
    let body = |password: &str| json!({"email": email, "password": password});
    let (of_ann, of_bob) = tokio::join!(
        ann.patch("users/me").json(&body(&ann.password)).send(),
        bob.patch("users/me").json(&body(&bob.password)).send()
    );
    let mut statuses = [of_ann.status, of_bob.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
}

#[tokio::test]
async fn user_cannot_change_its_own_status_fields() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let before = ann.get("users/me").send().await.json();
    ann.patch("users/me").json(&json!({"active": false})).send().await.is_refused(403);
    for field in [
        json!({"email_confirmed": true}),
        json!({"uuid": UNKNOWN_USER}),
        json!({"version": 7}),
        json!({"created_at": "2000-01-01T00:00:00Z"}),
    ] {
        let answer = ann.patch("users/me").json(&field).send().await;
        assert!(matches!(answer.status, 200 | 400 | 403), "{answer}");
        assert_eq!(ann.get("users/me").send().await.json(), before, "{field}");
    }
}

#[tokio::test]
async fn user_that_deletes_itself_is_gone() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    ann.delete("users/me").send().await.is_done().is_visible_everywhere();
    ann.is_out().await;
    root.get(&ann.path("")).send().await.is_refused(404);
    root.delete(&ann.path("")).send().await.is_refused(404);
    root.patch(&ann.path("")).json(&json!({"first_name": "x"})).send().await.is_refused(404);
    root.get(&ann.path("logins")).send().await.is_refused(404);
    root.get(&ann.path("sessions")).send().await.is_refused(404);
}

#[tokio::test]
async fn ids_that_are_not_uuids_are_not_found() {
    let node = Node::shared().await;
    let root = node.root().await;
    for id in [
        "Me",
        "1",
        "not-a-uuid",
        "01890a5dac96774bbcceb302099a8057",
        "%7B01890a5d-ac96-774b-bcce-b302099a8057%7D",
        "urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057",
        "01890a5d-ac96-774b-bcce-b302099a805g",
        "%27%20OR%20%271%27=%271",
        "%00",
        "%ff",
        "..%2f..%2fetc%2fpasswd",
        "01890a5d-ac96-774b-bcce-b302099a8057%0a",
    ] {
        for rest in ["", "/roles", "/permissions", "/sessions", "/logins", "/combined_permissions"] {
            let answer = root.get(&format!("users/{id}{rest}")).send().await;
            // What is not even UTF-8 may be malformed.
            assert!(answer.status == 404 || (id == "%ff" && answer.status == 400), "{id}{rest}\n{answer}");
            answer.is_refused(answer.status);
        }
    }
}
