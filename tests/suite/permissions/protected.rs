//! A user with built-in permissions is changed only by itself, by a holder of all of them, or by
//! `all_all`: a caller that may set a user's password could log in with it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::{Node, Person};

/// Every route that changes a user other than by grants, with a body that would be taken.
const CHANGES: [(&str, &str); 6] = [
    ("PATCH", ""),
    ("DELETE", ""),
    ("POST", "password"),
    ("POST", "unlock"),
    ("DELETE", "sessions/{sid}"),
    ("DELETE", "sessions"),
];
/// Grants have a rule of their own: a caller cannot give or remove privileges that it lacks.
const GRANTS: [(&str, &str); 4] = [
    ("POST", "roles"),
    ("DELETE", "roles/{name}"),
    ("POST", "permissions"),
    ("DELETE", "permissions/{name}"),
];

fn bodies(method: &str, rest: &str) -> Vec<Value> {
    match (method, rest) {
        ("PATCH", "") => vec![
            json!({"first_name": "x"}),
            json!({"active": true}),
            json!({"active": false}),
            json!({"email": "taken@example.org", "password": "x"}),
        ],
        ("POST", "password") => vec![json!({"new_password": "a password of an admin"})],
        _ => vec![Value::Null],
    }
}

/// What this admin's attempts to change the user are answered: all of them with the same status.
async fn changes(admin: &Person, user: &Person, session: &str) -> BTreeSet<u16> {
    let mut statuses = BTreeSet::new();
    for (method, rest) in CHANGES {
        // The destructive ones are for the end.
        for body in bodies(method, rest) {
            let path = user.path(&rest.replace("{sid}", session));
            let request = admin.request(method, &path);
            let request = if body.is_null() { request } else { request.json(&body) };
            let answer = request.send().await;
            if answer.status >= 400 {
                answer.is_refused(answer.status);
            }
            statuses.insert(answer.status);
        }
    }
    statuses
}

async fn user_with(node: &Node, root: &Person, permissions: &[&str]) -> Person {
    let user = node.register("user").await;
    for permission in permissions {
        root.gives(&user, permission).await.is(200);
    }
    user
}

#[tokio::test]
async fn users_admin_cannot_change_a_user_with_more_privileges() {
    let node = Node::shared().await;
    let root = node.root().await;
    let admin = user_with(&node, &root, &["users_admin"]).await;
    let role = root.makes_role("carries_power", &["permissions_check"]).await;
    for power in ["permissions_admin", "permissions_check", "cluster_read", "all_all"] {
        let user = user_with(&node, &root, &[power]).await;
        let session = user.session().await;
        assert_eq!(changes(&admin, &user, &session).await, BTreeSet::from([403]), "{power}");
        user.is_in().await;
        user.in_another_session().await;
    }
    let by_role = node.register("by_role").await;
    root.gives_role(&by_role, &role).await.is(200);
    let session = by_role.session().await;
    assert_eq!(changes(&admin, &by_role, &session).await, BTreeSet::from([403]), "by a role");
    // Also while the user is disabled, and whatever else the admin holds.
    root.sets_active(&by_role, false).await.is(200);
    root.gives(&admin, "permissions_admin").await.is(200);
    admin.sets_active(&by_role, true).await.is_refused(403);
    // Reading stays allowed, and an unknown user is still not found.
    admin.get(&by_role.path("")).send().await.is(200);
    admin.delete("users/01890a5d-ac96-774b-bcce-b302099a8057").send().await.is_refused(404);
}

#[tokio::test]
async fn equal_privileges_or_all_all_may_change_such_a_user() {
    let node = Node::shared().await;
    let root = node.root().await;
    let admin = user_with(&node, &root, &["users_admin"]).await;
    let holder = user_with(&node, &root, &["users_admin", "permissions_admin"]).await;
    let body = json!({"new_password": "a password of an admin"});
    // One with the same power as the caller, and one with less.
    for permissions in [&["users_admin"][..], &[]] {
        let user = user_with(&node, &root, permissions).await;
        admin.post(&user.path("password")).json(&body).send().await.is_done();
    }
    let user = user_with(&node, &root, &["permissions_admin"]).await;
    admin.post(&user.path("password")).json(&body).send().await.is_refused(403);
    holder.post(&user.path("password")).json(&body).send().await.is_done();
    // Users are not protected from themselves.
    let user = user.with_password("a password of an admin").in_another_session().await;
    user.patch("users/me").json(&json!({"first_name": "x"})).send().await.is(200);
    let superuser = node.another_superuser().await;
    superuser.delete(&holder.path("")).send().await.is_done();
}

#[tokio::test]
async fn privilege_gained_during_a_request_protects_its_user() {
    let node = Node::shared().await;
    let root = node.root().await;
    let admin = user_with(&node, &root, &["users_admin"]).await;
    let user = node.register("user").await;
    // The head of the request is there, and the body only after the user has gained power.
    let body = r#"{"new_password":"a password of an admin"}"#;
    let head = format!(
        "POST /api/v1/{} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n",
        user.path("password"),
        admin.access,
        body.len()
    );
    let mut slow = testkit::Raw::to(&node).await;
    slow.send(head.into_bytes()).await.unwrap();
    root.gives(&user, "permissions_admin").await.is(200);
    slow.send(body).await.unwrap();
    let reply = slow.reply(std::time::Duration::from_secs(30)).await;
    assert_eq!(reply.status(), Some(403), "{reply:?}");
    user.in_another_session().await;
}

#[tokio::test]
async fn every_route_that_changes_a_user_is_in_the_table() {
    let node = Node::shared().await;
    let document = node.get("/openapi.json").send().await.is(200).json();
    for (path, item) in document["paths"].as_object().unwrap() {
        let Some(rest) = path.strip_prefix("/api/v1/users/{id}") else { continue };
        let rest = rest.trim_start_matches('/');
        for method in ["post", "put", "patch", "delete"] {
            if item.get(method).is_some() {
                let route = (method.to_uppercase(), rest.to_owned());
                let known = |table: &[(&str, &str)]| {
                    table.iter().any(|(method, rest)| route == ((*method).to_owned(), (*rest).to_owned()))
                };
                assert!(
                    known(&CHANGES) || known(&GRANTS),
                    "{route:?} changes a user: add it to CHANGES, and take `Changing` in its handler"
                );
            }
        }
    }
}
