//! Permissions over two nodes: changes reach the other node, and one superuser stays.

use futures_util::future::join_all;
use serde_json::{Value, json};
use testkit::{Answer, Node, Person, fresh};

use super::{propagated, two, until_not_shed};

#[tokio::test]
async fn parallel_creations_of_a_name_over_two_nodes_get_one_201() {
    let (a, b) = two().await;
    let root = a.root().await;
    for noun in ["permissions", "roles"] {
        for _ in 0..3 {
            let body = json!({"name": fresh("made-once")});
            let make = |n: usize| root.at([&a, &b][n % 2]).post(noun).json(&body).send();
            let answers = join_all((0..20).map(make)).await;
            assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1, "{noun}");
            answers.iter().filter(|answer| answer.status != 201).for_each(|answer| {
                answer.is_refused(409);
            });
            let listed = |list: &Value| {
                list.as_array().unwrap().iter().filter(|item| item["name"] == body["name"]).count()
            };
            for node in [&a, &b] {
                assert_eq!(listed(&root.at(node).get(noun).send().await.is(200).json()), 1);
            }
        }
    }
}

#[tokio::test]
async fn permission_change_reaches_the_other_nodes_cache() {
    let (a, b) = two().await;
    let root = a.root().await;
    let ann = b.register("ann").await;
    let films = root.makes_permission("films").await;
    let viewer = root.makes_role("viewer", &[]).await;
    let becomes = async |may: bool, what: &str| {
        assert_eq!(ann.at(&a).may(&films).await, may, "the node that made the change: {what}");
        propagated(what, async || (ann.may(&films).await == may).then_some(())).await;
        // It does not go back.
        for _ in 0..5 {
            assert_eq!(ann.may(&films).await, may, "{what}");
        }
    };
    for _ in 0..2 {
        assert!(!ann.may(&films).await);
        root.gives(&ann, &films).await.is(200).is_visible_everywhere();
        becomes(true, "a permission is given").await;
        root.takes(&ann, &films).await.is(200);
        becomes(false, "a permission is taken").await;
        root.gives_role(&ann, &viewer).await.is(200);
        root.puts(&films, &viewer).await.is(200);
        becomes(true, "a permission is put into a role").await;
        root.takes_out(&films, &viewer).await.is(200);
        becomes(false, "a permission is taken out of a role").await;
        root.puts(&films, &viewer).await.is(200);
        becomes(true, "a permission is put into a role").await;
        root.takes_role(&ann, &viewer).await.is(200);
        becomes(false, "a role is taken").await;
    }
    root.gives_role(&ann, &viewer).await.is(200);
    becomes(true, "a role is given").await;
    root.delete(&format!("roles/{viewer}")).send().await.is_done();
    becomes(false, "a role is deleted").await;
    root.gives(&ann, &films).await.is(200);
    becomes(true, "a permission is given").await;
    root.delete(&format!("permissions/{films}")).send().await.is_done();
    becomes(false, "a permission is deleted").await;
    root.post("permissions").json(&json!({"name": films})).send().await.is(201);
    root.post("roles").json(&json!({"name": viewer})).send().await.is(201);
    root.puts(&films, &viewer).await.is(200);
    for node in [&a, &b] {
        assert!(!ann.at(node).may(&films).await, "a new one of that name starts with nobody");
    }
}

#[tokio::test]
async fn privilege_revoked_on_one_node_is_void_on_the_other() {
    let (a, b) = two().await;
    let root = a.root().await;
    let admin = b.register("admin").await;
    let ann = b.register("ann").await;
    let films = root.makes_permission("films").await;
    let powers = ["permissions_admin", "users_admin"];
    for power in powers {
        root.gives(&admin, power).await.is(200);
        propagated("power is given", async || admin.may(power).await.then_some(())).await;
    }
    admin.gives(&ann, &films).await.is(200);
    admin.get(&ann.path("")).send().await.is(200);
    for power in powers {
        root.takes(&admin, power).await.is(200);
    }
    propagated("power over users is taken", async || {
        (admin.sets_active(&ann, true).await.status == 403).then_some(())
    })
    .await;
    admin.takes(&ann, &films).await.is_refused(403);
    assert!(ann.may(&films).await);
}

#[tokio::test]
async fn user_cannot_restore_lost_privilege_on_the_other_node() {
    let (a, b) = two().await;
    let root = a.root().await;
    for power in ["superuser", "all_all", "permissions_admin"] {
        let ann = b.register("ann").await;
        let path = ann.path(if power == "superuser" { "roles" } else { "permissions" });
        let body = json!({"name": power});
        root.post(&path).json(&body).send().await.is(200);
        propagated("power is given", async || {
            (ann.get("permissions").send().await.status == 200).then_some(())
        })
        .await;
        root.delete(&format!("{path}/{power}")).send().await.is(200);
        // At once: before anybody can have heard of it.
        let again = ann.post(&path).json(&body).send().await;
        assert_eq!(again.status, 403, "gave itself {power} again: {again}");
        propagated("power is taken", async || {
            (ann.get("permissions").send().await.status == 403).then_some(())
        })
        .await;
    }
}

/// The ways in which a superuser loses `all_all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Role,
    Direct,
    Disabled,
    Deleted,
}

impl Way {
    /// Grants a user the privilege that this way removes.
    async fn prepare(self, root: &Person, person: &Person) {
        match self {
            Self::Direct => root.gives(person, "all_all").await.is(200),
            _ => root.gives_role(person, "superuser").await.is(200),
        };
    }

    async fn take(self, by: &Person, from: &Person) -> Answer {
        match self {
            Self::Role => by.takes_role(from, "superuser").await,
            Self::Direct => by.takes(from, "all_all").await,
            Self::Disabled => by.sets_active(from, false).await,
            Self::Deleted => by.delete(&from.path("")).send().await,
        }
    }
}

/// The users that still have `all_all`, once both nodes have received every change and agree.
async fn superusers(nodes: [&Node; 2], people: [&Person; 2]) -> Vec<Person> {
    let mut left = Vec::new();
    for person in people {
        let may = async |node: &Node| {
            let log_in = until_not_shed(|| {
                node.post("auth_token").json(&json!({"email": person.email, "password": person.password}))
            })
            .await;
            if log_in.status != 200 {
                log_in.is_refused(401);
                return None;
            }
            let person = person.at(node).with_tokens(log_in.pair());
            person.may("all_all").await.then_some(person)
        };
        let agreed = propagated("both nodes agree about a superuser", async || {
            let (one, other) = tokio::join!(may(nodes[0]), may(nodes[1]));
            (one.is_some() == other.is_some()).then_some(one)
        })
        .await;
        left.extend(agreed);
    }
    left
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_removals_keep_one_superuser_across_nodes() {
    const WAYS: [Way; 4] = [Way::Role, Way::Direct, Way::Disabled, Way::Deleted];
    let (a, b) = two().await;
    let mut root = a.root().await;
    let mut both_refused = 0;
    let combinations = (0..4).flat_map(|i| (i..4).map(move |j| (WAYS[i], WAYS[j])));
    for (one, other) in combinations {
        // Each removes itself, or each the other.
        for mutual in [false, true] {
            let (x, y) = tokio::join!(a.register("x"), b.register("y"));
            one.prepare(&root, &x).await;
            other.prepare(&root, &y).await;
            // Now these two are the last.
            root.takes_role(&root, "superuser").await.is(200);
            root.takes(&root, "all_all").await;
            // At least one node is sure to have heard of everything when it works for the other.
            let by_x = x.at(&a);
            let by_y = y.at(&b);
            for person in [&by_x, &by_y] {
                propagated("the new superusers are known", async || {
                    person.may("all_all").await.then_some(())
                })
                .await;
            }
            let (first, second) = if mutual {
                tokio::join!(other.take(&by_x, &y), one.take(&by_y, &x))
            } else {
                tokio::join!(one.take(&by_x, &x), other.take(&by_y, &y))
            };
            let round = format!("{one:?} and {other:?}, mutual: {mutual}\n{first}\n{second}");
            for refused in [&first, &second].into_iter().filter(|answer| answer.status >= 300) {
                // The faster caller may have revoked the other's privilege or tokens.
                assert!(matches!(refused.status, 401 | 403 | 409), "{round}");
            }
            let gone = [&first, &second].iter().filter(|answer| answer.status < 300).count();
            let left = superusers([&a, &b], [&x, &y]).await;
            assert_eq!(left.len(), 2 - gone, "left of two, of whom {gone} were removed: {round}");
            assert!(!left.is_empty(), "nobody is left: {round}");
            both_refused += usize::from(gone == 0);
            root = left[0].at(&a);
            // The remaining superuser deletes the other: the next round begins with one.
            if let Some(too_many) = left.get(1) {
                root.delete(&too_many.path("")).send().await.is_done();
            }
            let probe = root.makes_permission("probe").await;
            root.gives(&root, &probe).await.is(200);
            root.delete(&root.path("")).send().await.is_refused(409);
        }
    }
    println!("both were refused in {both_refused} of 20 rounds");
    assert!(both_refused <= 4, "both were refused in {both_refused} rounds of 20");
}

#[tokio::test]
async fn concurrent_removals_keep_last_superuser_across_nodes() {
    let (a, b) = two().await;
    let root = a.root().await;
    let owner = root.makes_role("owner", &["all_all"]).await;
    let ways = [("roles", "superuser"), ("permissions", "all_all"), ("roles", owner.as_str())];
    for round in 0..9 {
        let pair = [ways[round % 3], ways[(round + 1) % 3]];
        for way in ways {
            let path = root.path(way.0);
            if pair.contains(&way) {
                root.post(&path).json(&json!({"name": way.1})).send().await.is(200);
            }
        }
        for way in ways.iter().filter(|way| !pair.contains(way)) {
            root.delete(&root.path(&format!("{}/{}", way.0, way.1))).send().await.is(200);
        }
        let take = |node: &Node, way: (&str, &str)| {
            root.at(node).delete(&root.path(&format!("{}/{}", way.0, way.1))).send()
        };
        let (first, second) = tokio::join!(take(&a, pair[0]), take(&b, pair[1]));
        let taken = [&first, &second].iter().filter(|answer| answer.status == 200).count();
        assert!(taken <= 1, "both ways were taken: {first}\n{second}");
        for refused in [&first, &second].into_iter().filter(|answer| answer.status != 200) {
            refused.is_refused(409);
        }
        for node in [&a, &b] {
            propagated("the last superuser has all power", async || {
                root.at(node).may("all_all").await.then_some(())
            })
            .await;
        }
        println!("{taken} of two ways were taken");
    }
}
