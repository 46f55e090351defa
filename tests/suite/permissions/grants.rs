//! Grants: given, removed, deleted and created again. The next check sees each change.

use futures_util::future::join_all;
use serde_json::{Value, json};
use testkit::{Node, fresh};

const UNKNOWN_USER: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("an array");
    list.iter().map(|item| item.as_str().or_else(|| item["name"].as_str()).expect("a name")).collect()
}

#[tokio::test]
async fn next_check_sees_a_direct_grant_and_its_removal() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    for _ in 0..10 {
        assert!(!ann.may(&films).await);
        let given = root.gives(&ann, &films).await;
        assert_eq!(names(&given.is(200).is_visible_everywhere().json()), [films.as_str()]);
        assert!(ann.may(&films).await);
        let taken = root.takes(&ann, &films).await;
        assert_eq!(taken.is(200).is_visible_everywhere().json(), json!([]));
    }
    assert!(!ann.may(&films).await);
}

#[tokio::test]
async fn next_check_sees_a_role_and_its_removal() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    let viewer = root.makes_role("viewer", &[&films]).await;
    assert!(!ann.may(&films).await);
    let given = root.gives_role(&ann, &viewer).await;
    assert_eq!(names(&given.is(200).is_visible_everywhere().json()), [viewer.as_str()]);
    assert!(ann.may(&films).await);
    let taken = root.takes_role(&ann, &viewer).await;
    assert_eq!(taken.is(200).is_visible_everywhere().json(), json!([]));
    assert!(!ann.may(&films).await);
}

#[tokio::test]
async fn next_check_of_every_holder_sees_a_change_of_a_role() {
    let node = Node::shared().await;
    let root = node.root().await;
    let people = join_all((0..4).map(|_| node.register("fan"))).await;
    let films = root.makes_permission("films").await;
    let viewer = root.makes_role("viewer", &[]).await;
    for person in &people {
        root.gives_role(person, &viewer).await.is(200);
        assert!(!person.may(&films).await);
    }
    root.puts(&films, &viewer).await.is(200).is_visible_everywhere();
    for person in &people {
        assert!(person.may(&films).await);
    }
    root.takes_out(&films, &viewer).await.is(200).is_visible_everywhere();
    for person in &people {
        assert!(!person.may(&films).await);
    }
}

#[tokio::test]
async fn permission_granted_twice_stays_until_both_grants_end() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    let one = root.makes_role("one", &[&films]).await;
    let two = root.makes_role("two", &[&films]).await;
    root.gives_role(&ann, &one).await.is(200);
    root.gives_role(&ann, &two).await.is(200);
    root.gives(&ann, &films).await.is(200);
    root.takes_role(&ann, &one).await.is(200);
    assert!(ann.may(&films).await);
    root.takes(&ann, &films).await.is(200);
    assert!(ann.may(&films).await);
    root.takes_out(&films, &two).await.is(200);
    assert!(!ann.may(&films).await);
}

#[tokio::test]
async fn combined_permissions_are_sorted_and_unique() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let path = "users/me/combined_permissions";
    assert_eq!(ann.get(path).send().await.is(200).json(), json!([]));
    let mut all = vec![
        root.makes_permission("zoo").await,
        root.makes_permission("ape").await,
        root.makes_permission("Ant").await,
    ];
    let role = root.makes_role("keeper", &[&all[0], &all[1]]).await;
    root.gives_role(&ann, &role).await.is(200);
    root.gives(&ann, &all[0]).await.is(200);
    root.gives(&ann, &all[2]).await.is(200);
    all.sort();
    assert_eq!(ann.get(path).send().await.is(200).json(), json!(all));
    assert_eq!(root.get(&ann.path("combined_permissions")).send().await.is(200).json(), json!(all));
    // The lists of what was given tell the ways apart.
    assert_eq!(names(&ann.get("users/me/roles").send().await.is(200).json()), [role.as_str()]);
    let direct = ann.get("users/me/permissions").send().await.is(200).json();
    assert_eq!(names(&direct).len(), 2);
}

#[tokio::test]
async fn repeated_grants_and_removals_change_nothing() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    let other = root.makes_permission("other").await;
    let viewer = root.makes_role("viewer", &[]).await;
    let nobody = root.makes_role("nobody", &[]).await;
    for _ in 0..2 {
        assert_eq!(names(&root.gives(&ann, &films).await.is(200).json()), [films.as_str()]);
        assert_eq!(names(&root.gives_role(&ann, &viewer).await.is(200).json()), [viewer.as_str()]);
        assert_eq!(names(&root.takes(&ann, &other).await.is(200).json()), [films.as_str()]);
        assert_eq!(names(&root.takes_role(&ann, &nobody).await.is(200).json()), [viewer.as_str()]);
    }
}

#[tokio::test]
async fn unknown_names_cannot_be_granted_or_removed() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    let viewer = root.makes_role("viewer", &[]).await;
    root.gives(&ann, &fresh("nothing")).await.is_refused(404);
    root.takes(&ann, &fresh("nothing")).await.is_refused(404);
    root.gives_role(&ann, &fresh("nothing")).await.is_refused(404);
    root.takes_role(&ann, &fresh("nothing")).await.is_refused(404);
    // A role is no permission, and the reverse.
    root.gives(&ann, &viewer).await.is_refused(404);
    root.gives_role(&ann, &films).await.is_refused(404);
    for user in [UNKNOWN_USER, "not-a-uuid"] {
        for (noun, name) in [("permissions", &films), ("roles", &viewer)] {
            let path = format!("users/{user}/{noun}");
            root.get(&path).send().await.is_refused(404);
            root.post(&path).json(&json!({"name": name})).send().await.is_refused(404);
            root.delete(&format!("{path}/{name}")).send().await.is_refused(404);
        }
        root.get(&format!("users/{user}/combined_permissions")).send().await.is_refused(404);
        root.asks_about(user, "\"p\"").await.is_refused(404);
    }
}

#[tokio::test]
async fn deleted_permission_leaves_all_users_and_is_not_restored() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    let films = root.makes_permission("films").await;
    let viewer = root.makes_role("viewer", &[&films]).await;
    root.gives(&ann, &films).await.is(200);
    root.gives_role(&bob, &viewer).await.is(200);
    assert!(ann.may(&films).await && bob.may(&films).await);
    root.delete(&format!("permissions/{films}")).send().await.is_done().is_visible_everywhere();
    for person in [&ann, &bob] {
        assert!(!person.may(&films).await);
        assert_eq!(person.get("users/me/combined_permissions").send().await.json(), json!([]));
    }
    root.post("permissions").json(&json!({"name": films})).send().await.is(201);
    assert!(!ann.may(&films).await && !bob.may(&films).await);
    let role = root.get(&format!("roles/{viewer}")).send().await.is(200).json();
    assert_eq!(role["permissions"], json!([]));
    assert_eq!(ann.get("users/me/permissions").send().await.json(), json!([]));
    root.gives(&ann, &films).await.is(200);
    assert!(ann.may(&films).await && !bob.may(&films).await);
}

#[tokio::test]
async fn deleted_role_leaves_all_users_and_is_not_restored() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    let viewer = root.makes_role("viewer", &[&films]).await;
    root.gives_role(&ann, &viewer).await.is(200);
    assert!(ann.may(&films).await);
    root.delete(&format!("roles/{viewer}")).send().await.is_done().is_visible_everywhere();
    assert!(!ann.may(&films).await);
    root.post("roles").json(&json!({"name": viewer})).send().await.is(201);
    root.puts(&films, &viewer).await.is(200);
    assert!(!ann.may(&films).await);
    assert_eq!(ann.get("users/me/roles").send().await.json(), json!([]));
}

#[tokio::test]
async fn concurrent_checks_never_return_to_an_earlier_state() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    for round in 0..10 {
        root.gives(&ann, &films).await.is(200);
        // Checks that begin before the change may say either; those after it, only no.
        let racing = join_all((0..20).map(|_| ann.may(&films)));
        let (_, taken) = tokio::join!(racing, root.takes(&ann, &films));
        taken.is(200);
        for _ in 0..5 {
            assert!(!ann.may(&films).await, "round {round}: a slow load brought it back");
        }
    }
}

#[tokio::test]
async fn abandoned_check_leaves_the_cache_correct() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    for _ in 0..10 {
        let given_up = ann.at(&node.another_client());
        let check = tokio::spawn(async move { given_up.asks("\"x\"").await.status });
        tokio::task::yield_now().await;
        check.abort();
        root.gives(&ann, &films).await.is(200);
        assert!(ann.may(&films).await);
        root.takes(&ann, &films).await.is(200);
        assert!(!ann.may(&films).await);
    }
}

#[tokio::test]
async fn grants_survive_kill_dash_9() {
    let node = Node::start().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    let books = root.makes_permission("books").await;
    let viewer = root.makes_role("viewer", &[&films]).await;
    root.gives_role(&ann, &viewer).await.is(200);
    root.gives(&ann, &books).await.is(200);
    root.takes(&ann, &books).await.is(200);
    node.kill_dash_9();
    node.restart().await;
    assert!(ann.may(&films).await);
    assert!(!ann.may(&books).await);
}
