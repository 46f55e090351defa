//! The last active user with `all_all` stays, whatever way one tries.

use serde_json::json;
use testkit::{Node, Person};

/// A node whose only superuser is this one, by the role.
async fn alone() -> (Node, Person) {
    let node = Node::start().await;
    let root = node.root().await;
    (node, root)
}

#[tokio::test]
async fn last_superuser_cannot_be_removed_in_any_way() {
    let (node, root) = alone().await;
    root.takes_role(&root, "superuser").await.is_refused(409);
    root.sets_active(&root, false).await.is_refused(409);
    root.delete("users/me").send().await.is_refused(409);
    root.delete(&root.path("")).send().await.is_refused(409);
    assert!(root.may("all_all").await);
    root.is_in().await;
    // With a disabled second one it is still the last.
    let other = node.another_superuser().await;
    root.sets_active(&other, false).await.is(200);
    root.takes_role(&root, "superuser").await.is_refused(409);
    root.delete("users/me").send().await.is_refused(409);
    root.sets_active(&other, true).await.is(200);
    root.takes_role(&root, "superuser").await.is(200);
    assert!(!root.may("all_all").await);
}

#[tokio::test]
async fn last_superuser_by_a_direct_grant_cannot_be_removed() {
    let (node, root) = alone().await;
    let ann = node.register("ann").await;
    root.gives(&ann, "all_all").await.is(200);
    ann.takes_role(&root, "superuser").await.is(200);
    assert!(!root.may("all_all").await);
    ann.takes(&ann, "all_all").await.is_refused(409);
    ann.delete("users/me").send().await.is_refused(409);
    // Having it twice, one of both can go.
    ann.gives_role(&ann, "superuser").await.is(200);
    ann.takes(&ann, "all_all").await.is(200);
    assert!(ann.may("all_all").await);
    ann.takes_role(&ann, "superuser").await.is_refused(409);
}

#[tokio::test]
async fn last_superuser_by_another_role_cannot_be_removed() {
    let (node, root) = alone().await;
    let ann = node.register("ann").await;
    let owner = root.makes_role("owner", &["all_all"]).await;
    root.gives_role(&ann, &owner).await.is(200);
    ann.takes_role(&root, "superuser").await.is(200);
    ann.takes_role(&ann, &owner).await.is_refused(409);
    ann.takes_out("all_all", &owner).await.is_refused(409);
    ann.delete(&format!("roles/{owner}")).send().await.is_refused(409);
    ann.delete("users/me").send().await.is_refused(409);
    assert!(ann.may("all_all").await);
    ann.gives_role(&root, "superuser").await.is(200);
    ann.delete(&format!("roles/{owner}")).send().await.is_done();
    assert!(!ann.may("all_all").await);
    assert!(root.may("all_all").await);
}

#[tokio::test]
async fn parallel_removals_keep_one_of_two_superusers() {
    for round in 0..4 {
        let (node, root) = alone().await;
        let other = node.another_superuser().await;
        let (first, second) = match round {
            0 => tokio::join!(root.takes_role(&other, "superuser"), other.takes_role(&root, "superuser")),
            1 => tokio::join!(root.takes_role(&root, "superuser"), other.takes_role(&other, "superuser")),
            2 => tokio::join!(root.delete("users/me").send(), other.delete("users/me").send()),
            _ => tokio::join!(root.sets_active(&other, false), other.takes_role(&root, "superuser")),
        };
        assert!(first.status < 300 || second.status < 300, "neither went: {first}\n{second}");
        for refused in [&first, &second].into_iter().filter(|answer| answer.status >= 300) {
            // The faster caller may have revoked the other's privilege or tokens.
            assert!(matches!(refused.status, 401 | 403 | 409), "{refused}");
        }
        let mut left = 0;
        for person in [&root, &other] {
            let log_in = node.log_in(&person.email, &person.password).await;
            if log_in.status == 200 {
                left += i32::from(person.with_tokens(log_in.pair()).may("all_all").await);
            }
        }
        assert_eq!(left, 1, "round {round}");
    }
}

#[tokio::test]
async fn holder_of_all_all_is_changed_only_by_itself_or_all_all() {
    let node = Node::shared().await;
    let root = node.root().await;
    let admin = node.register("admin").await;
    let victim = node.another_superuser().await;
    for power in ["users_admin", "permissions_admin", "permissions_check", "cluster_read"] {
        root.gives(&admin, power).await.is(200);
    }
    let session = victim.session().await;
    let password = json!({"new_password": "taken over by an admin"});
    admin.patch(&victim.path("")).json(&json!({"first_name": "x"})).send().await.is_refused(403);
    let email = json!({"email": "taken@example.org", "password": admin.password});
    admin.patch(&victim.path("")).json(&email).send().await.is_refused(403);
    admin.sets_active(&victim, false).await.is_refused(403);
    admin.sets_active(&victim, true).await.is_refused(403);
    admin.post(&victim.path("password")).json(&password).send().await.is_refused(403);
    admin.delete(&victim.path(&format!("sessions/{session}"))).send().await.is_refused(403);
    admin.post(&victim.path("unlock")).send().await.is_refused(403);
    admin.delete(&victim.path("")).send().await.is_refused(403);
    victim.is_in().await;
    // A users admin may still read.
    admin.get(&victim.path("")).send().await.is(200);
    // By a role it is the same power.
    victim.patch("users/me").json(&json!({"first_name": "Me"})).send().await.is(200);
    root.patch(&victim.path("")).json(&json!({"first_name": "You"})).send().await.is(200);
    root.post(&victim.path("password")).json(&password).send().await.is_done();
    victim.is_out().await;
}

#[tokio::test]
async fn concurrent_removals_keep_one_path_to_all_all() {
    let node = Node::start().await;
    let root = node.root().await;
    for round in 0..10 {
        root.gives(&root, "all_all").await.is(200);
        root.gives_role(&root, "superuser").await.is(200);
        let (direct, role) = tokio::join!(root.takes(&root, "all_all"), root.takes_role(&root, "superuser"));
        let statuses = [direct.status, role.status];
        // The second caller may have lost its right in the meantime, or is told that this is the last grant.
        assert!(statuses.contains(&200) && statuses != [200, 200], "round {round}: {statuses:?}");
        assert!(root.may("all_all").await, "round {round}");
    }
}
