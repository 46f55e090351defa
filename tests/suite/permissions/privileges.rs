//! Users cannot grant privileges that they lack, and cannot read the data of other users.

use serde_json::json;
use testkit::{Node, Person};

const UNKNOWN_USER: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// A new user to whom the superuser has granted these permissions.
async fn user_with(node: &Node, root: &Person, permissions: &[&str]) -> Person {
    let person = node.register("somebody").await;
    for permission in permissions {
        root.gives(&person, permission).await.is(200);
    }
    person
}

#[tokio::test]
async fn user_without_permissions_reaches_only_its_own_data() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    let films = root.makes_permission("films").await;
    let viewer = root.makes_role("viewer", &[]).await;
    for list in ["permissions", "roles", &format!("roles/{viewer}")] {
        ann.get(list).send().await.is_refused(403);
    }
    for (noun, name) in [("permissions", &films), ("roles", &viewer)] {
        ann.post(noun).json(&json!({"name": "x"})).send().await.is_refused(403);
        ann.patch(&format!("{noun}/{name}")).json(&json!({"description": "x"})).send().await.is_refused(403);
        ann.delete(&format!("{noun}/{name}")).send().await.is_refused(403);
        // Not even whether it exists.
        ann.delete(&format!("{noun}/nothing")).send().await.is_refused(403);
        // To oneself no more than to others.
        for whom in [&ann, &bob] {
            ann.post(&whom.path(noun)).json(&json!({"name": name})).send().await.is_refused(403);
            ann.delete(&whom.path(&format!("{noun}/{name}"))).send().await.is_refused(403);
        }
        ann.get(&bob.path(noun)).send().await.is_refused(403);
        ann.get(&format!("users/me/{noun}")).send().await.is(200);
        ann.get(&ann.path(noun)).send().await.is(200);
    }
    ann.puts(&films, &viewer).await.is_refused(403);
    ann.takes_out(&films, &viewer).await.is_refused(403);
    ann.get("users/me/combined_permissions").send().await.is(200);
}

#[tokio::test]
async fn a_permissions_admin_manages_what_is_not_built_in() {
    let node = Node::shared().await;
    let root = node.root().await;
    let admin = user_with(&node, &root, &["permissions_admin"]).await;
    let ann = node.register("ann").await;
    let films = admin.makes_permission("films").await;
    let viewer = admin.makes_role("viewer", &[&films]).await;
    admin.gives_role(&ann, &viewer).await.is(200);
    admin.gives(&ann, &films).await.is(200);
    // SuperuserSet over things is the admin's, having them is not needed.
    assert!(!admin.may(&films).await);
    admin.get(&ann.path("roles")).send().await.is(200);
    admin.get(&ann.path("permissions")).send().await.is(200);
    admin.takes_role(&ann, &viewer).await.is(200);
    admin.delete(&format!("roles/{viewer}")).send().await.is_done();
    admin.delete(&format!("permissions/{films}")).send().await.is_done();
    // Its own kind of power it may hand on.
    admin.gives(&ann, "permissions_admin").await.is(200);
    admin.takes(&ann, "permissions_admin").await.is(200);
}

#[tokio::test]
async fn user_cannot_change_built_in_privileges_it_lacks() {
    let node = Node::shared().await;
    let root = node.root().await;
    let admin = user_with(&node, &root, &["permissions_admin"]).await;
    let ann = user_with(&node, &root, &["users_admin"]).await;
    let films = root.makes_permission("films").await;
    let role = root.makes_role("carries_power", &["users_admin"]).await;
    let plain = root.makes_role("plain", &[]).await;
    for power in ["all_all", "users_admin", "permissions_check", "cluster_read"] {
        for whom in [&admin, &ann] {
            admin.gives(whom, power).await.is_refused(403);
            admin.takes(whom, power).await.is_refused(403);
        }
        admin.puts(power, &plain).await.is_refused(403);
        admin.takes_out(power, &role).await.is_refused(403);
    }
    // A role that contains such power is as untouchable as the power itself.
    for whom in [&admin, &ann] {
        admin.gives_role(whom, &role).await.is_refused(403);
        admin.takes_role(whom, &role).await.is_refused(403);
    }
    admin.puts(&films, &role).await.is_refused(403);
    admin.delete(&format!("roles/{role}")).send().await.is_refused(403);
    admin.patch(&format!("roles/{role}")).json(&json!({"description": "x"})).send().await.is_refused(403);
    assert!(ann.may("users_admin").await);
    assert!(!admin.may("users_admin").await);
    // With the power itself it goes.
    root.gives(&admin, "users_admin").await.is(200);
    admin.gives_role(&admin, &role).await.is(200);
    admin.takes(&ann, "users_admin").await.is(200);
    assert!(!ann.may("users_admin").await);
}

#[tokio::test]
async fn all_all_and_superuser_are_granted_only_by_all_all() {
    let node = Node::shared().await;
    let root = node.root().await;
    let powers = ["permissions_admin", "users_admin", "permissions_check", "cluster_read"];
    let admin = user_with(&node, &root, &powers).await;
    let ann = node.register("ann").await;
    let other = node.another_superuser().await;
    for whom in [&admin, &ann, &other, &root] {
        admin.gives(whom, "all_all").await.is_refused(403);
        admin.takes(whom, "all_all").await.is_refused(403);
        admin.gives_role(whom, "superuser").await.is_refused(403);
        admin.takes_role(whom, "superuser").await.is_refused(403);
    }
    let plain = admin.makes_role("plain", &[]).await;
    admin.puts("all_all", &plain).await.is_refused(403);
    let films = admin.makes_permission("films").await;
    admin.puts(&films, "superuser").await.is_refused(403);
    admin.takes_out(&films, "superuser").await.is_refused(403);
    let describe = admin.patch("roles/superuser").json(&json!({"description": "x"})).send().await;
    describe.is_refused(403);
    root.gives_role(&ann, "superuser").await.is(200);
    assert!(ann.may("all_all").await);
    ann.takes_role(&other, "superuser").await.is(200);
    assert!(!other.may("all_all").await);
    root.takes_role(&ann, "superuser").await.is(200);
    assert!(!ann.may("all_all").await);
    ann.gives_role(&ann, "superuser").await.is_refused(403);
}

#[tokio::test]
async fn users_admin_cannot_change_permissions() {
    let node = Node::shared().await;
    let root = node.root().await;
    let admin = user_with(&node, &root, &["users_admin"]).await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    admin.gives(&ann, &films).await.is_refused(403);
    admin.gives(&admin, "users_admin").await.is_refused(403);
    admin.get("permissions").send().await.is_refused(403);
    admin.get("roles").send().await.is_refused(403);
    admin.post("permissions").json(&json!({"name": "x"})).send().await.is_refused(403);
}

#[tokio::test]
async fn service_may_query_any_user_and_nothing_else() {
    let node = Node::shared().await;
    let root = node.root().await;
    let service = user_with(&node, &root, &["permissions_check"]).await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    let ask = async || service.asks_about(&ann.uuid, &json!(films).to_string()).await.is(200).json();
    assert_eq!(ask().await, json!({"valid": false}));
    root.gives(&ann, &films).await.is(200);
    assert_eq!(ask().await, json!({"valid": true}));
    let combined = service.get(&ann.path("combined_permissions")).send().await;
    assert_eq!(combined.is(200).json(), json!([films]));
    for path in ["", "roles", "permissions", "sessions", "logins"] {
        service.get(&ann.path(path)).send().await.is_refused(403);
    }
    service.get("permissions").send().await.is_refused(403);
    service.get("users").send().await.is_refused(403);
    service.gives(&ann, &films).await.is_refused(403);
}

#[tokio::test]
async fn admins_may_query_any_user() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    for power in ["users_admin", "permissions_admin", "permissions_check", "all_all"] {
        let asker = user_with(&node, &root, &[power]).await;
        asker.asks_about(&ann.uuid, "\"p\"").await.is(200);
        asker.get(&ann.path("combined_permissions")).send().await.is(200);
    }
    let asker = user_with(&node, &root, &["cluster_read"]).await;
    asker.asks_about(&ann.uuid, "\"p\"").await.is_refused(403);
}

#[tokio::test]
async fn query_about_another_is_forbidden_even_if_it_does_not_exist() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    for rest in [
        "combined_permissions",
        "combined_permissions/validation?permissions=%22p%22",
        "roles",
        "permissions",
        "",
        "logins",
        "sessions",
    ] {
        let of_bob = ann.get(&bob.path(rest)).send().await;
        let of_nobody = ann.get(&bob.path(rest).replace(&bob.uuid, UNKNOWN_USER)).send().await;
        of_bob.is_refused(403);
        of_nobody.is_refused(403);
        assert_eq!(of_bob.apart_from_its_id(), of_nobody.apart_from_its_id(), "{rest}");
    }
    // A malformed query may be refused first, provided that it is refused alike for every user.
    let of_bob = ann.asks_about(&bob.uuid, "nonsense").await;
    let of_nobody = ann.asks_about(UNKNOWN_USER, "nonsense").await;
    assert!(matches!(of_bob.status, 403 | 422), "{of_bob}");
    assert_eq!(of_bob.apart_from_its_id(), of_nobody.apart_from_its_id());
}

#[tokio::test]
async fn revoked_privilege_is_gone_at_the_next_call() {
    let node = Node::shared().await;
    let root = node.root().await;
    let admin = user_with(&node, &root, &["permissions_admin", "users_admin"]).await;
    admin.get("users").send().await.is(200);
    admin.get("permissions").send().await.is(200);
    root.takes(&admin, "users_admin").await.is(200);
    admin.get("users").send().await.is_refused(403);
    admin.get("permissions").send().await.is(200);
    root.takes(&admin, "permissions_admin").await.is(200);
    admin.get("permissions").send().await.is_refused(403);
    admin.is_in().await;
}

#[tokio::test]
async fn all_all_is_not_implied_in_a_query() {
    let node = Node::shared().await;
    let root = node.root().await;
    let films = root.makes_permission("films").await;
    assert!(!root.may(&films).await);
    assert!(root.holds(&json!({"any": [films, "all_all"]})).await);
}
