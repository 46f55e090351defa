//! Sessions over two nodes: refreshes, log-outs, and the list.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use testkit::{Person, eventually, fresh};

use super::{cannot_refresh, learns_that_it_is_out, two, two_with};

#[tokio::test]
async fn parallel_refreshes_over_two_nodes_get_one_successor() {
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
async fn refresh_token_reused_on_other_node_after_grace_ends_session() {
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
        learns_that_it_is_out(&a, pair, "the other node refuses a stolen session").await;
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
async fn session_is_usable_on_both_nodes_in_turn() {
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
    let other = ann.at(&b).in_another_session().await;
    let bob = b.register("bob").await;
    // The other node knows both the token and the session: it has refreshed it.
    let before = ann.clone();
    let ann = ann.at(&b).refreshed().await.at(&a);
    ann.at(&b).is_in().await;
    ann.delete("auth_token").send().await.is_done().is_visible_everywhere();
    for token in [&ann, &before] {
        cannot_refresh(&b, token).await;
    }
    learns_that_it_is_out(&b, &ann, "a logout").await;
    learns_that_it_is_out(&b, &before, "a logout").await;
    for node in [&a, &b] {
        other.at(node).is_in().await;
        bob.at(node).is_in().await;
    }
    other.at(&a).refreshed().await.is_in().await;
}

#[tokio::test]
async fn sessions_ended_together_are_refused_by_the_other_node() {
    let (a, b) = two().await;
    let ann = a.register("ann").await;
    let others = join_all((0..4).map(async |n| ann.at([&a, &b][n % 2]).in_another_session().await)).await;
    let ann = ann.at(&b).refreshed().await.at(&a);
    ann.delete("auth_token/others").send().await.is_done();
    for other in &others {
        cannot_refresh(&b, other).await;
        learns_that_it_is_out(&b, other, "a logout of the others").await;
    }
    ann.at(&b).is_in().await;
    let more = join_all((0..4).map(async |n| ann.at([&a, &b][n % 2]).in_another_session().await)).await;
    ann.delete("auth_token/all").send().await.is_done();
    for person in more.iter().chain([&ann]) {
        cannot_refresh(&b, person).await;
        learns_that_it_is_out(&b, person, "a logout of all").await;
    }
    // A log-in afterwards is valid on both nodes, whichever node it was made on.
    for node in [&b, &a] {
        let again = ann.at(node).in_another_session().await;
        again.at(&a).is_in().await;
        again.at(&b).is_in().await;
    }
}

#[tokio::test]
async fn user_and_password_changes_hold_on_the_other_node() {
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
        learns_that_it_is_out(&b, person, "a user is disabled, deleted, or has another password").await;
    }
    for node in [&a, &b] {
        eve_now.at(node).is_in().await;
        eve_now.at(node).in_another_session().await.is_in().await;
    }
    eve_now.at(&b).refreshed().await.is_in().await;
    root.at(&b).sets_active(ann, true).await.is(200);
    ann.at(&a).in_another_session().await.is_in().await;
    learns_that_it_is_out(&b, ann, "what was taken away stays away").await;
}

#[tokio::test]
async fn session_is_listed_and_ended_on_the_other_node() {
    let (a, b) = two().await;
    let ann = a.register("ann").await;
    let other = ann.at(&b).in_another_session().await;
    let ids = async |person: &Person| -> BTreeSet<String> {
        let sessions = person.list("sessions", "users/me/sessions").await;
        sessions.iter().map(|session| session["uuid"].as_str().unwrap().to_owned()).collect()
    };
    let own = ann.session().await;
    let others = other.session().await;
    assert_eq!(ids(&ann).await, BTreeSet::from([own.clone(), others.clone()]));
    assert_eq!(ids(&other).await, ids(&ann).await);
    other.delete(&format!("users/me/sessions/{own}")).send().await.is_done();
    ann.at(&b).is_out().await;
    cannot_refresh(&a, &ann).await;
    learns_that_it_is_out(&a, &ann, "the end of one's session elsewhere").await;
    other.delete(&format!("users/me/sessions/{own}")).send().await.is_refused(404);
    assert_eq!(ids(&other.at(&a)).await, BTreeSet::from([others]));
    let logins = [ann.in_another_session().await.list("logins", "users/me/logins").await.len(), {
        other.list("logins", "users/me/logins").await.len()
    }];
    assert_eq!(logins, [3, 3], "both nodes wrote one history");
}
