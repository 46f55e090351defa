//! What admins see and do.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::json;
use testkit::{Node, eventually, fresh};

const UNKNOWN_USER: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

#[tokio::test]
async fn an_admin_sees_changes_disables_and_deletes_users() {
    let node = Node::shared().await;
    let root = node.root().await;
    let admin = node.register("admin").await;
    let ann = node.register("ann").await;
    root.gives(&admin, "users_admin").await.is(200);
    let seen = admin.get(&ann.path("")).send().await.is(200).json();
    assert_eq!(seen["email"], ann.email.as_str());
    assert!(seen.as_object().unwrap().contains_key("locked_until") && seen["locked_until"].is_null());
    let changed = admin.patch(&ann.path("")).json(&json!({"first_name": "Anna"})).send().await.is(200).json();
    assert_eq!(changed["first_name"], "Anna");
    let disabled = admin.sets_active(&ann, false).await;
    assert_eq!(disabled.is(200).is_visible_everywhere().json()["active"], false);
    node.log_in(&ann.email, &ann.password).await.is_error(401, "Bad email or password");
    assert_eq!(admin.sets_active(&ann, true).await.is(200).json()["active"], true);
    ann.in_another_session().await.is_in().await;
    admin.delete(&ann.path("")).send().await.is_done();
    admin.get(&ann.path("")).send().await.is_refused(404);
}

#[tokio::test]
async fn user_list_shows_the_same_fields_as_each_user() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let found = root.list("users", &format!("users?email={}", ann.email)).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0], root.get(&ann.path("")).send().await.is(200).json());
    // In any letter case; a part of the email finds no user.
    let upper = format!("users?email={}", ann.email.to_uppercase());
    assert_eq!(root.list("users", &upper).await, found);
    assert!(root.list("users", &format!("users?email={}", &ann.email[1..])).await.is_empty());
    assert!(root.list("users", &format!("users?email={}@example.org", fresh("nobody"))).await.is_empty());
    assert!(root.list("users", "users?email=%25").await.is_empty());
    for twice in [format!("email={0}&email={0}", ann.email), format!("email={}&email=x", ann.email)] {
        root.get(&format!("users?{twice}")).send().await.is_refused(400);
    }
    assert!(root.list("users", "users?email=%27%20OR%201=1").await.is_empty());
}

#[tokio::test]
async fn user_list_is_paged_and_complete() {
    let node = Node::start().await;
    let root = node.root().await;
    let mut expected: BTreeSet<String> = [root.uuid.clone()].into();
    for _ in 0..6 {
        expected.insert(node.register("user").await.uuid);
    }
    let mut seen = Vec::new();
    let mut next = None::<String>;
    loop {
        let token = next.map(|next| format!("&page_token={next}")).unwrap_or_default();
        let page = root.get(&format!("users?limit=3{token}")).send().await.is(200).json();
        let users = page["users"].as_array().unwrap();
        assert!(users.len() <= 3);
        seen.extend(users.iter().map(|user| user["uuid"].as_str().unwrap().to_owned()));
        // A user registered between two pages does not disturb the listing.
        if expected.len() == 7 {
            expected.insert(node.register("late").await.uuid);
        }
        next = page["next_page_token"].as_str().map(Into::into);
        if next.is_none() {
            break;
        }
    }
    let distinct: BTreeSet<String> = seen.iter().cloned().collect();
    assert_eq!(distinct.len(), seen.len(), "a user was shown twice");
    let early: Vec<_> = expected.iter().take(7).collect();
    assert!(early.iter().all(|uuid| distinct.contains(*uuid)), "a user was left out");
}

#[tokio::test]
async fn admin_sets_a_password_without_the_old_one() {
    let node = Node::shared().await;
    let root = node.root().await;
    let admin = node.register("admin").await;
    let ann = node.register("ann").await;
    root.gives(&admin, "users_admin").await.is(200);
    let path = ann.path("password");
    admin.post(&path).json(&json!({"new_password": "short"})).send().await.is_about_field("new_password");
    let password = fresh("given by an admin");
    admin.post(&path).json(&json!({"new_password": password})).send().await.is_done();
    ann.is_out().await;
    ann.with_password(&password).in_another_session().await.is_in().await;
    // For their own password admins need the old one, like every user.
    let own = admin.post("users/me/password").json(&json!({"new_password": password})).send().await;
    assert!(matches!(own.status, 400 | 403), "{own}");
    admin.is_in().await;
}

#[tokio::test]
async fn admin_changes_an_email_without_the_users_password() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let email = format!("{}@example.org", fresh("anna"));
    // Whose password "the password" is, when an admin changes the email of another, is not said:
    // the admin's own is taken for it, or none is needed.
    let body = json!({"email": email, "password": root.password});
    let answer = root.patch(&ann.path("")).json(&body).send().await;
    assert!(matches!(answer.status, 200 | 403), "{answer}");
    if answer.status == 200 {
        node.log_in(&email, &ann.password).await.is(200);
    }
}

#[tokio::test]
async fn unknown_user_is_not_found_by_admins() {
    let node = Node::shared().await;
    let root = node.root().await;
    let path = format!("users/{UNKNOWN_USER}");
    root.get(&path).send().await.is_refused(404);
    root.patch(&path).json(&json!({"first_name": "x"})).send().await.is_refused(404);
    root.patch(&path).json(&json!({"active": false})).send().await.is_refused(404);
    root.delete(&path).send().await.is_refused(404);
    root.get(&format!("{path}/logins")).send().await.is_refused(404);
    root.get(&format!("{path}/sessions")).send().await.is_refused(404);
    root.post(&format!("{path}/unlock")).send().await.is_refused(404);
    let body = json!({"new_password": fresh("for nobody")});
    root.post(&format!("{path}/password")).json(&body).send().await.is_refused(404);
}

#[tokio::test]
async fn login_during_disabling_leaves_no_session() {
    let node = Node::start().await;
    let root = node.root().await;
    for round in 0..4 {
        let ann = node.register("ann").await;
        let answered = AtomicBool::new(false);
        let logged_in = AtomicUsize::new(0);
        let disable = async {
            // Each round somewhat later, so that it meets the log-ins elsewhere.
            let enough = async || (logged_in.load(Ordering::SeqCst) >= round).then_some(());
            eventually(Duration::from_secs(30), "some log-ins", enough).await;
            let answer = root.sets_active(&ann, false).await;
            answered.store(true, Ordering::SeqCst);
            answer.is(200).is_visible_everywhere();
        };
        let log_in = async || {
            let mut pairs = Vec::new();
            while !answered.load(Ordering::SeqCst) {
                let answer = node.log_in(&ann.email, &ann.password).await;
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
        let ((), pairs) = tokio::join!(disable, join_all((0..4).map(|_| log_in())));
        let during: Vec<_> = pairs.into_iter().flatten().map(|pair| ann.with_tokens(pair)).collect();
        for session in during.iter().chain([&ann]) {
            session.is_out().await;
        }
        // Nor is anybody in again when the user is.
        root.sets_active(&ann, true).await.is(200);
        for session in during.iter().chain([&ann]) {
            session.is_out().await;
        }
        ann.in_another_session().await.is_in().await;
    }
}

#[tokio::test]
async fn update_with_a_taken_email_disables_no_user() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    let before = root.get(&ann.path("")).send().await.is(200).json();
    for email in [bob.email.clone(), bob.email.to_uppercase()] {
        let body =
            json!({"email": email, "password": root.password, "active": false, "first_name": "Changed"});
        root.patch(&ann.path("")).json(&body).send().await.is_refused(409);
        assert_eq!(root.get(&ann.path("")).send().await.is(200).json(), before);
        ann.is_in().await;
    }
    let ann = ann.refreshed().await;
    ann.is_in().await;
    ann.in_another_session().await.is_in().await;
}
