//! Nodes on one store, which hear of each other's revocations from its ledger.

#![allow(clippy::print_stdout, reason = "how long it took is shown with --nocapture")]

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use testkit::{
    Answer, Client, Node, Person, Request, eventually, forge, fresh,
    servers::{Cassandra, Proxy},
    store::{self, Keyspace, MASTER_KEY},
};

/// The ledger is read once a second; the rest is for a busy machine.
const HEARD: Duration = Duration::from_secs(30);
/// From start to readiness.
const START: Duration = Duration::from_secs(60);

async fn two() -> (Node, Node) {
    two_with(&[]).await
}

async fn two_with(settings: &[(&str, &str)]) -> (Node, Node) {
    let builder = || settings.iter().fold(Node::builder(), |node, (name, value)| node.setting(name, *value));
    let a = builder().on_cql().await.start().await;
    let b = builder().beside(&a).start().await;
    (a, b)
}

/// What a node hears of what another did, as soon as it does.
async fn heard<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let found = eventually(HEARD, what, look).await;
    println!("{what}: after {:?}", start.elapsed());
    found
}

/// The node refuses the access token, after it has taken it for good at most for a while.
async fn hears_that_it_is_out(node: &Client, person: &Person, what: &str) {
    let there = person.at(node);
    let refused = heard(what, async || {
        let answer = there.validate().await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    refused.is_error(401, "Token has been revoked");
}

async fn cannot_refresh(node: &Client, person: &Person) {
    node.refresh(&person.refresh).await.is_error(401, "Token has been revoked");
}

/// Again and again, as clients do, while the node sheds what its hashing queue cannot take.
async fn until_not_shed(request: impl Fn() -> Request) -> Answer {
    eventually(Duration::from_secs(60), "room in the hashing queue", async || {
        let answer = request().send().await;
        (answer.status != 503).then_some(answer)
    })
    .await
}

fn kid(token: &str) -> String {
    forge::parts(token).header["kid"].as_str().unwrap().to_owned()
}

// Sessions

#[tokio::test]
async fn a_hundred_parallel_refreshes_over_two_nodes_get_one_successor() {
    let (a, b) = two().await;
    for _ in 0..3 {
        let ann = a.register("ann").await;
        let answers = join_all((0..100).map(|n| [&a, &b][n % 2].refresh(&ann.refresh))).await;
        let successors: BTreeSet<_> = answers.iter().map(|answer| answer.pair().1).collect();
        assert_eq!(successors.len(), 1, "{} successors", successors.len());
        for (answer, node) in answers.iter().zip([&b, &a].into_iter().cycle()) {
            node.validate(&answer.pair().0).await.is(200);
        }
        // The one pair that lives goes on, on either node, and what it was got with is spent.
        let next = ann.with_tokens(answers[0].pair());
        let after = next.at(&b).refreshed().await;
        assert_eq!(next.refreshed().await.refresh, after.refresh);
        after.at(&a).refreshed().await.is_in().await;
        assert_eq!(ann.at(&b).list("sessions", "users/me/sessions").await.len(), 1);
    }
}

#[tokio::test]
async fn a_refresh_token_that_one_node_spent_ends_its_session_when_shown_to_another_after_the_grace() {
    let (a, b) = two_with(&[("REFRESH_GRACE", "1s")]).await;
    let ann = a.register("ann").await;
    let other = ann.in_another_session().await;
    let next = ann.refreshed().await;
    let refused = eventually(Duration::from_secs(10), "the grace ends", async || {
        let answer = b.refresh(&ann.refresh).await;
        if answer.status == 200 {
            assert_eq!(answer.pair().1, next.refresh);
        }
        (answer.status != 200).then_some(answer)
    })
    .await;
    refused.is_error(401, "Token has been revoked");
    for pair in [&ann, &next] {
        pair.at(&b).is_out().await;
        cannot_refresh(&a, pair).await;
        hears_that_it_is_out(&a, pair, "the other node refuses a stolen session").await;
    }
    for node in [&a, &b] {
        other.at(node).is_in().await;
        let history = other.at(node).list("logins", "users/me/logins").await;
        let reuse: Vec<_> = history.iter().filter(|login| login["reason"] == "refresh_reuse").collect();
        assert_eq!(reuse.len(), 1, "{history:?}");
        assert_eq!(reuse[0]["success"], false);
    }
}

#[tokio::test]
async fn a_session_wanders_between_nodes() {
    let (a, b) = two().await;
    let mut ann = a.register("ann").await;
    let id = ann.session().await;
    let mut seen = BTreeSet::new();
    for node in [&a, &b, &b, &a, &b, &a, &a, &b] {
        let at = ann.at(node);
        at.is_in().await;
        ann = at.refreshed().await;
        assert!(seen.insert(ann.refresh.clone()), "a refresh token was given twice");
    }
    assert_eq!(ann.at(&a).session().await, id);
}

#[tokio::test]
async fn a_logout_on_one_node_is_refused_by_the_other() {
    let (a, b) = two().await;
    let ann = a.register("ann").await;
    let (other, bob) = (ann.at(&b).in_another_session().await, b.register("bob").await);
    // The other node knows both the token and the session: it has refreshed it.
    let (before, ann) = (ann.clone(), ann.at(&b).refreshed().await.at(&a));
    ann.at(&b).is_in().await;
    ann.delete("auth_token").send().await.is_done().is_visible_everywhere();
    for token in [&ann, &before] {
        cannot_refresh(&b, token).await;
    }
    hears_that_it_is_out(&b, &ann, "a logout").await;
    hears_that_it_is_out(&b, &before, "a logout").await;
    for node in [&a, &b] {
        other.at(node).is_in().await;
        bob.at(node).is_in().await;
    }
    other.at(&a).refreshed().await.is_in().await;
}

#[tokio::test]
async fn a_logout_of_all_and_of_the_others_is_refused_by_the_other_node() {
    let (a, b) = two().await;
    let ann = a.register("ann").await;
    let others = join_all((0..4).map(async |n| ann.at([&a, &b][n % 2]).in_another_session().await)).await;
    let ann = ann.at(&b).refreshed().await.at(&a);
    ann.delete("auth_token/others").send().await.is_done();
    for other in &others {
        cannot_refresh(&b, other).await;
        hears_that_it_is_out(&b, other, "a logout of the others").await;
    }
    ann.at(&b).is_in().await;
    let more = join_all((0..4).map(async |n| ann.at([&a, &b][n % 2]).in_another_session().await)).await;
    ann.delete("auth_token/all").send().await.is_done();
    for person in more.iter().chain([&ann]) {
        cannot_refresh(&b, person).await;
        hears_that_it_is_out(&b, person, "a logout of all").await;
    }
    // Who logs in afterwards is in, on both, whichever node it was.
    for node in [&b, &a] {
        let again = ann.at(node).in_another_session().await;
        again.at(&a).is_in().await;
        again.at(&b).is_in().await;
    }
}

#[tokio::test]
async fn a_disabled_or_deleted_user_and_a_changed_password_are_refused_by_the_other_node() {
    let (a, b) = two().await;
    let root = a.root().await;
    let people = join_all(["ann", "bob", "cid", "dan", "eve"].map(|name| b.register(name))).await;
    let [ann, bob, cid, dan, eve] = &people[..] else { unreachable!("five") };
    let others = join_all(people.iter().map(Person::in_another_session)).await;

    root.sets_active(&ann.at(&a), false).await.is(200);
    root.delete(&bob.path("")).send().await.is_done();
    cid.at(&a).delete("users/me").send().await.is_done();
    let body = json!({"new_password": fresh("given by root")});
    root.post(&dan.path("password")).json(&body).send().await.is_done();
    let new_password = fresh("a new secret");
    let body = json!({"old_password": eve.password, "new_password": new_password});
    let pair = eve.at(&a).post("users/me/password").json(&body).send().await.pair();
    let eve_now = eve.at(&a).with_tokens(pair).with_password(&new_password);

    for person in people.iter().chain(&others) {
        cannot_refresh(&b, person).await;
        b.log_in(&person.email, &person.password).await.is_error(401, "Bad email or password");
    }
    for person in people.iter().chain(&others) {
        hears_that_it_is_out(&b, person, "a user is disabled, deleted, or has another password").await;
    }
    for node in [&a, &b] {
        eve_now.at(node).is_in().await;
        eve_now.at(node).in_another_session().await.is_in().await;
    }
    eve_now.at(&b).refreshed().await.is_in().await;
    root.at(&b).sets_active(ann, true).await.is(200);
    ann.at(&a).in_another_session().await.is_in().await;
    hears_that_it_is_out(&b, ann, "what was taken away stays away").await;
}

#[tokio::test]
async fn a_session_of_one_node_is_listed_on_the_other_and_ended_there() {
    let (a, b) = two().await;
    let ann = a.register("ann").await;
    let other = ann.at(&b).in_another_session().await;
    let ids = async |person: &Person| -> BTreeSet<String> {
        let sessions = person.list("sessions", "users/me/sessions").await;
        sessions.iter().map(|session| session["uuid"].as_str().unwrap().to_owned()).collect()
    };
    let (own, others) = (ann.session().await, other.session().await);
    assert_eq!(ids(&ann).await, BTreeSet::from([own.clone(), others.clone()]));
    assert_eq!(ids(&other).await, ids(&ann).await);
    other.delete(&format!("users/me/sessions/{own}")).send().await.is_done();
    ann.at(&b).is_out().await;
    cannot_refresh(&a, &ann).await;
    hears_that_it_is_out(&a, &ann, "the end of one's session elsewhere").await;
    other.delete(&format!("users/me/sessions/{own}")).send().await.is_refused(404);
    assert_eq!(ids(&other.at(&a)).await, BTreeSet::from([others]));
    let logins = [ann.in_another_session().await.list("logins", "users/me/logins").await.len(), {
        other.list("logins", "users/me/logins").await.len()
    }];
    assert_eq!(logins, [3, 3], "both nodes wrote one history");
}

// Accounts

#[tokio::test]
async fn fifty_parallel_registrations_of_one_email_over_two_nodes_get_one_201() {
    let (a, b) = two().await;
    for round in 0..3 {
        let name = fresh("crowd");
        let spelled = |n: usize| match n % 3 {
            0 => name.clone(),
            1 => name.to_uppercase(),
            _ => name.replacen('c', "C", 1),
        };
        let attempt = async |n: usize| {
            let body =
                json!({"email": format!("{}@example.org", spelled(n)), "password": "one of the crowd"});
            until_not_shed(|| [&a, &b][n / 3 % 2].post("users").json(&body)).await
        };
        let answers = join_all((0..50).map(attempt)).await;
        let made: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
        assert_eq!(made.len(), 1, "round {round}");
        answers.iter().filter(|answer| answer.status != 201).for_each(|answer| {
            answer.is_refused(409);
        });
        for node in [&a, &b] {
            let pair = node.log_in(&format!("{name}@example.org"), "one of the crowd").await.pair();
            let me = node.get("users/me").bearer(&pair.0).send().await;
            assert_eq!(me.field("uuid"), made[0].field("uuid"));
        }
    }
}

#[tokio::test]
async fn users_of_both_nodes_are_listed_in_the_order_of_their_registration() {
    let (a, b) = two().await;
    let root = a.root().await;
    let mut made = vec![root.uuid.clone()];
    for n in 0..12 {
        made.push([&a, &b][n % 2].register("one").await.uuid);
    }
    for node in [&a, &b] {
        for limit in [200, 5] {
            let (mut listed, mut path) = (Vec::new(), format!("users?limit={limit}"));
            loop {
                let page = root.at(node).get(&path).send().await.is(200).json();
                let users = page["users"].as_array().unwrap();
                listed.extend(users.iter().map(|user| user["uuid"].as_str().unwrap().to_owned()));
                let Some(next) = page["next_page_token"].as_str() else { break };
                path = format!("users?limit={limit}&page_token={next}");
            }
            assert_eq!(listed, made);
        }
    }
}

// Permissions

#[tokio::test]
async fn parallel_makers_of_one_name_over_two_nodes_get_one_201() {
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
async fn what_is_given_and_taken_on_one_node_is_seen_by_the_other_that_had_it_in_memory() {
    let (a, b) = two().await;
    let root = a.root().await;
    let ann = b.register("ann").await;
    let films = root.makes_permission("films").await;
    let viewer = root.makes_role("viewer", &[]).await;
    let becomes = async |may: bool, what: &str| {
        assert_eq!(ann.at(&a).may(&films).await, may, "the node that made the change: {what}");
        heard(what, async || (ann.may(&films).await == may).then_some(())).await;
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
async fn power_that_was_taken_on_one_node_makes_no_change_on_the_other() {
    let (a, b) = two().await;
    let root = a.root().await;
    let (admin, ann) = (b.register("admin").await, b.register("ann").await);
    let films = root.makes_permission("films").await;
    let powers = ["permissions_admin", "users_admin"];
    for power in powers {
        root.gives(&admin, power).await.is(200);
        heard("power is given", async || admin.may(power).await.then_some(())).await;
    }
    admin.gives(&ann, &films).await.is(200);
    admin.get(&ann.path("")).send().await.is(200);
    for power in powers {
        root.takes(&admin, power).await.is(200);
    }
    heard("power over users is taken", async || {
        (admin.sets_active(&ann, true).await.status == 403).then_some(())
    })
    .await;
    admin.takes(&ann, &films).await.is_refused(403);
    assert!(ann.may(&films).await);
}

#[tokio::test]
async fn who_lost_power_on_one_node_cannot_give_it_back_to_itself_on_the_other() {
    let (a, b) = two().await;
    let root = a.root().await;
    for power in ["superuser", "all_all", "permissions_admin"] {
        let ann = b.register("ann").await;
        let path = ann.path(if power == "superuser" { "roles" } else { "permissions" });
        let body = json!({"name": power});
        root.post(&path).json(&body).send().await.is(200);
        heard("power is given", async || (ann.get("permissions").send().await.status == 200).then_some(()))
            .await;
        root.delete(&format!("{path}/{power}")).send().await.is(200);
        // At once: before anybody can have heard of it.
        let again = ann.post(&path).json(&body).send().await;
        assert_eq!(again.status, 403, "gave itself {power} again: {again}");
        heard("power is taken", async || (ann.get("permissions").send().await.status == 403).then_some(()))
            .await;
    }
}

/// How a superuser loses the power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Role,
    Direct,
    Disabled,
    Deleted,
}

impl Way {
    /// Gives somebody power that can be taken in this way.
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

/// Those who still have all power, by what both nodes say once they have heard of everything.
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
        let agreed = heard("both nodes agree about a superuser", async || {
            let (one, other) = tokio::join!(may(nodes[0]), may(nodes[1]));
            (one.is_some() == other.is_some()).then_some(one)
        })
        .await;
        left.extend(agreed);
    }
    left
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_superusers_one_stays_when_both_are_removed_on_two_nodes() {
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
            let (by_x, by_y) = (x.at(&a), y.at(&b));
            for person in [&by_x, &by_y] {
                heard("the new superusers are known", async || person.may("all_all").await.then_some(()))
                    .await;
            }
            let (first, second) = if mutual {
                tokio::join!(other.take(&by_x, &y), one.take(&by_y, &x))
            } else {
                tokio::join!(one.take(&by_x, &x), other.take(&by_y, &y))
            };
            let round = format!("{one:?} and {other:?}, mutual: {mutual}\n{first}\n{second}");
            for refused in [&first, &second].into_iter().filter(|answer| answer.status >= 300) {
                // The one who was faster may have taken the other's power, or tokens.
                assert!(matches!(refused.status, 401 | 403 | 409), "{round}");
            }
            let gone = [&first, &second].iter().filter(|answer| answer.status < 300).count();
            let left = superusers([&a, &b], [&x, &y]).await;
            assert_eq!(left.len(), 2 - gone, "left of two, of whom {gone} were removed: {round}");
            assert!(!left.is_empty(), "nobody is left: {round}");
            both_refused += usize::from(gone == 0);
            root = left[0].at(&a);
            // Who can act acts: the next round begins with one superuser.
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
async fn of_two_ways_of_the_last_superuser_one_stays_when_both_are_taken_on_two_nodes() {
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
            heard("the last superuser has all power", async || {
                root.at(node).may("all_all").await.then_some(())
            })
            .await;
        }
        println!("{taken} of two ways were taken");
    }
}

// Keys

#[tokio::test]
async fn tokens_of_one_node_are_good_on_every_other_at_once_also_on_one_that_starts_later() {
    let (a, b) = two().await;
    let ann = a.register("ann").await;
    ann.at(&b).is_in().await;
    let bob = b.register("bob").await;
    bob.at(&a).is_in().await;
    bob.delete("auth_token").send().await.is_done();
    let c = Node::builder().beside(&a).start().await;
    ann.at(&c).is_in().await;
    ann.at(&c).refreshed().await.at(&b).is_in().await;
    bob.at(&c).is_out().await;
    let cid = c.register("cid").await;
    cid.at(&a).is_in().await;
    cid.at(&b).is_in().await;
    let kids = a.published_kids().await;
    assert_eq!(b.published_kids().await, kids);
    assert_eq!(c.published_kids().await, kids);
}

#[tokio::test]
async fn a_token_of_a_new_key_is_good_on_the_other_node_at_once() {
    let (a, b) = two().await;
    let ann = a.register("ann").await;
    for round in 0..3 {
        a.cli(&["keys", "rotate"]).await.is_done();
        let next = ann.in_another_session().await;
        assert_ne!(kid(&next.access), kid(&ann.access));
        let answer = b.validate(&next.access).await;
        assert_eq!(answer.status, 200, "rotation {round}: {answer}");
        next.at(&b).refreshed().await.at(&a).is_in().await;
        ann.at(&b).is_in().await;
    }
    heard("the other node publishes the same keys", async || {
        (a.published_kids().await == b.published_kids().await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_of_a_new_key_is_never_called_forged_while_others_show_unknown_keys() {
    let (a, b) = two().await;
    let ann = a.register("ann").await;
    let ended = AtomicBool::new(false);
    let nonsense = async {
        while !ended.load(Ordering::SeqCst) {
            let forged = forge::parts(&ann.access).with_header_field("kid", json!(fresh("unknown")));
            b.validate(&forged).await.is_refused(422);
            let id = "01890a5d-ac96-774b-bcce-b302099a8057";
            let forged = forge::parts(&ann.access).with_header_field("kid", json!(id));
            let answer = b.validate(&forged).await;
            assert!(matches!(answer.status, 422 | 503), "{answer}");
        }
    };
    let rotations = async {
        for round in 0..2 {
            a.cli(&["keys", "rotate"]).await.is_done();
            let next = ann.in_another_session().await;
            let answer = b.validate(&next.access).await;
            // It may not be known yet, but then nobody says that it is none.
            assert!(matches!(answer.status, 200 | 503), "rotation {round}: {answer}");
            heard("a token of a new key", async || {
                (b.validate(&next.access).await.status == 200).then_some(())
            })
            .await;
        }
        ended.store(true, Ordering::SeqCst);
    };
    tokio::join!(nonsense, rotations);
}

#[tokio::test]
async fn a_key_that_was_retired_on_one_node_is_refused_by_the_other() {
    let (a, b) = two().await;
    let (ann, bob) = (a.register("ann").await, b.register("bob").await);
    bob.is_in().await;
    ann.at(&b).is_in().await;
    let retired = kid(&ann.access);
    a.cli(&["keys", "retire", &retired]).await.is_done();
    ann.validate().await.is_error(401, "Token has been revoked");
    for person in [&ann, &bob] {
        let refused = heard("a retired key", async || {
            let answer = b.validate(&person.access).await;
            (answer.status != 200).then_some(answer)
        })
        .await;
        refused.is_error(401, "Token has been revoked");
    }
    // The sessions go on, with another key, also where the retirement was only heard of: who knows that
    // a key is refused does not sign with it.
    let next = bob.refreshed().await;
    assert_ne!(kid(&next.access), retired, "signed with a key that this node itself refuses");
    next.is_in().await;
    next.at(&a).is_in().await;
    heard("a retired key is published no more", async || {
        (!b.published_kids().await.contains(&retired)).then_some(())
    })
    .await;
    assert_ne!(kid(&b.register("cid").await.access), retired);
}

// Starts and ends

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_answered_before_kill_dash_9_is_refused_by_the_other() {
    const PEOPLE: usize = 4;
    const SESSIONS: usize = 20;
    let (a, b) = two().await;
    let people = join_all((0..PEOPLE).map(|_| a.register("ann"))).await;
    let mut sessions = Vec::new();
    for person in &people {
        for _ in 0..SESSIONS / 5 {
            sessions.extend(join_all((0..5).map(|_| person.in_another_session())).await);
        }
    }
    for session in &sessions {
        session.at(&b).is_in().await;
    }
    let done = AtomicUsize::new(0);
    let storm = join_all(sessions.chunks(sessions.len() / 8).map(async |share| {
        let client = a.another_client();
        let mut out = Vec::new();
        for session in share {
            match session.at(&client).delete("auth_token").try_send().await {
                Ok(answer) => {
                    answer.is_done();
                    assert_eq!(answer.header("palisade-durability"), Some("store"), "{answer}");
                    done.fetch_add(1, Ordering::SeqCst);
                    out.push(session.clone());
                }
                // It is dead.
                Err(_) => break,
            }
        }
        out
    }));
    let crash = async {
        let enough = async || (done.load(Ordering::SeqCst) >= sessions.len() / 4).then_some(());
        eventually(Duration::from_secs(60), "a quarter is out", enough).await;
        a.kill_dash_9();
    };
    let (out, ()) = tokio::join!(storm, crash);
    let out: Vec<_> = out.into_iter().flatten().collect();
    println!("{} of {} logouts were answered", out.len(), sessions.len());
    assert!(out.len() < sessions.len(), "it was killed too late");
    for session in &out {
        cannot_refresh(&b, session).await;
        hears_that_it_is_out(&b, session, "a logout on a node that died").await;
    }
    a.restart().await;
    for session in &out {
        session.at(&a).is_out().await;
        session.at(&b).is_out().await;
    }
    // What was not answered is one or the other, and the same on both before long.
    for session in sessions.iter().filter(|session| out.iter().all(|out| out.access != session.access)) {
        heard("both nodes agree", async || {
            let (here, there) = tokio::join!(a.validate(&session.access), b.validate(&session.access));
            assert!(matches!(here.status, 200 | 401), "{here}");
            (here.status == there.status).then_some(())
        })
        .await;
    }
}

/// Two nodes behind something that knows which of them runs, and tries the other when one closes
/// the connection, as load balancers do.
struct Balanced<'a> {
    nodes: [&'a Node; 2],
    in_rotation: [AtomicBool; 2],
    next: AtomicUsize,
    tried_again: AtomicUsize,
    answered: AtomicUsize,
}

impl Balanced<'_> {
    async fn ask(&self, request: impl Fn(&Client) -> Request) -> Answer {
        let first = self.next.fetch_add(1, Ordering::SeqCst);
        for n in first..first + 4 {
            let up = self.in_rotation[n % 2].load(Ordering::SeqCst);
            let n = if up { n } else { n + 1 };
            if let Ok(answer) = request(self.nodes[n % 2]).try_send().await {
                self.answered.fetch_add(1, Ordering::SeqCst);
                return answer;
            }
            self.tried_again.fetch_add(1, Ordering::SeqCst);
        }
        panic!("neither node answers");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_a_rolling_restart() {
    let (a, b) = two().await;
    let root = a.root().await;
    let films = root.makes_permission("films").await;
    let people = join_all((0..4).map(|_| a.register("ann"))).await;
    for person in &people {
        root.gives(person, &films).await.is(200);
        let knows = async || person.at(&b).may(&films).await.then_some(());
        heard("a permission is given", knows).await;
    }
    let balanced = Balanced {
        nodes: [&a, &b],
        in_rotation: [AtomicBool::new(true), AtomicBool::new(true)],
        next: AtomicUsize::new(0),
        tried_again: AtomicUsize::new(0),
        answered: AtomicUsize::new(0),
    };
    let ended = AtomicBool::new(false);
    let load = join_all(people.iter().map(async |person| {
        let mut person = person.clone();
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        let check = format!("users/me/combined_permissions/validation?permissions=%22{films}%22");
        while !ended.load(Ordering::SeqCst) {
            for path in ["auth_token/validation", &check, "users/me"] {
                pace.tick().await;
                let answer = balanced.ask(|node| node.get(path).bearer(&person.access)).await;
                answer.is(200);
                assert!(path != check || answer.json()["valid"] == true, "{answer}");
            }
            let refresh = |node: &Client| node.post("auth_token/token_refresh").bearer(&person.refresh);
            person = person.with_tokens(balanced.ask(refresh).await.pair());
        }
        person
    }));
    let restarts = async {
        for _ in 0..2 {
            for (n, node) in balanced.nodes.into_iter().enumerate() {
                node.terminate().await;
                balanced.in_rotation[n].store(false, Ordering::SeqCst);
                node.restart().await;
                balanced.in_rotation[n].store(true, Ordering::SeqCst);
                let before = balanced.answered.load(Ordering::SeqCst);
                eventually(START, "it takes part in the load", async || {
                    (balanced.answered.load(Ordering::SeqCst) > before + 50).then_some(())
                })
                .await;
            }
        }
        ended.store(true, Ordering::SeqCst);
    };
    let (people, ()) = tokio::join!(load, restarts);
    let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
    println!("{} answers, {} tried again", count(&balanced.answered), count(&balanced.tried_again));
    for person in people {
        person.at(&a).is_in().await;
        person.at(&b).refreshed().await.is_in().await;
    }
}

#[tokio::test]
async fn a_newcomer_decides_nothing_before_it_has_read_the_ledger() {
    let keyspace = Keyspace::take().await;
    let on_it = |url: String| Node::builder().setting("STORE", url).setting("MASTER_KEY", MASTER_KEY);
    let a = on_it(keyspace.url().await).start().await;
    let (ann, bob) = (a.register("ann").await, a.register("bob").await);
    bob.delete("auth_token").send().await.is_done();
    let proxies = Proxy::to_all(&Cassandra::one().await.addresses()).await;
    let through_it = format!("cql://{}/{}", proxies[0].address(), keyspace.name());
    // A store that is out of reach at first, then slow.
    proxies[0].stall();
    let c = on_it(through_it).launch().await;
    let (mut undecided, mut is_reached) = (0, false);
    eventually(START, "the newcomer decides", async || {
        let mut statuses = Vec::new();
        for (person, settled) in [(&ann, 200), (&bob, 401)] {
            let Ok(answer) = c.get("auth_token/validation").bearer(&person.access).try_send().await else {
                return None;
            };
            let refresh = c.post("auth_token/token_refresh").bearer("prt_x").try_send().await;
            if let Ok(refresh) = refresh {
                assert!(matches!(refresh.status, 401 | 503), "{refresh}");
            }
            if answer.status == 503 {
                answer.is_refused(503);
                undecided += 1;
            } else {
                assert_eq!(answer.status, settled, "{answer}");
            }
            statuses.push(answer.status);
        }
        let ready = c.readiness().await.ok()?;
        assert!(ready.status == 503 || is_reached, "ready without a store: {ready}");
        if undecided >= 10 && !is_reached {
            proxies[0].delay(Duration::from_millis(50));
            proxies[0].resume();
            is_reached = true;
        }
        (statuses == [200, 401]).then_some(())
    })
    .await;
    println!("{undecided} times it could not know");
    eventually(HEARD, "it is ready", async || {
        c.readiness().await.is_ok_and(|ready| ready.status == 200).then_some(())
    })
    .await;
    bob.at(&c).is_out().await;
    ann.at(&c).refreshed().await.at(&a).is_in().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_nodes_that_start_at_once_make_one_schema_and_one_set_of_keys() {
    let keyspace = fresh("ten").replace('-', "_");
    let url = format!("cql://{}/{keyspace}", Cassandra::one().await.address());
    let node = || Node::builder().setting("STORE", &url).setting("MASTER_KEY", MASTER_KEY);
    let start = Instant::now();
    let nodes = join_all((0..10).map(|_| node().start())).await;
    println!("ten nodes are up after {:?}", start.elapsed());
    let kids = nodes[0].published_kids().await;
    let mut people = Vec::new();
    for node in &nodes {
        assert_eq!(node.published_kids().await, kids);
        people.push(node.register("ann").await);
    }
    let active: BTreeSet<_> = people.iter().map(|person| kid(&person.access)).collect();
    assert_eq!(active.len(), 1, "they sign with one key: {active:?}");
    let keys = nodes[9].keys().await;
    assert_eq!(keys.iter().filter(|key| key["state"] == "active").count(), 1, "{keys:?}");
    for (person, node) in people.iter().zip(nodes.iter().rev()) {
        person.at(node).is_in().await;
        person.at(node).refreshed().await.is_in().await;
    }
    for node in [&nodes[0], &nodes[9]] {
        node.cli(&["schema", "status"]).await.is_done();
    }
    let session = store::cassandra().await;
    session.query_unpaged(format!("DROP KEYSPACE {keyspace}"), ()).await.unwrap();
}
