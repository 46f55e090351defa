//! How sessions end, what that takes with it, what it leaves, and that it lasts.

use futures_util::future::join_all;
use serde_json::json;
use testkit::{Node, Person, fresh};

#[tokio::test]
async fn logout_ends_its_own_session_only() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let (next, other, bob) =
        (ann.refreshed().await, ann.in_another_session().await, node.register("bob").await);
    next.delete("auth_token").send().await.is_done().is_visible_everywhere();
    ann.is_out().await;
    next.is_out().await;
    other.is_in().await;
    bob.is_in().await;
    other.refreshed().await.is_in().await;
}

#[tokio::test]
async fn logout_of_all_ends_every_session_of_its_user_only() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    let others = join_all((0..5).map(|_| ann.in_another_session())).await;
    ann.delete("auth_token/all").send().await.is_done().is_visible_everywhere();
    ann.is_out().await;
    for other in others {
        other.is_out().await;
    }
    bob.is_in().await;
    // A log-in afterwards gives a valid session.
    let again = ann.in_another_session().await;
    again.is_in().await;
    assert_eq!(again.list("sessions", "users/me/sessions").await.len(), 1);
}

#[tokio::test]
async fn a_logout_of_the_others_leaves_this_session() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let others = join_all((0..5).map(|_| ann.in_another_session())).await;
    let later = others[0].refreshed().await;
    ann.delete("auth_token/others").send().await.is_done().is_visible_everywhere();
    ann.is_in().await;
    for other in others.iter().chain([&later]) {
        other.is_out().await;
    }
    ann.refreshed().await.is_in().await;
    assert_eq!(ann.list("sessions", "users/me/sessions").await.len(), 1);
}

#[tokio::test]
async fn logged_out_session_cannot_log_out_again() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    ann.delete("auth_token").send().await.is_done();
    for path in ["auth_token", "auth_token/all", "auth_token/others"] {
        ann.delete(path).send().await.is_error(401, "Token has been revoked");
        let with_refresh = node.delete(path).bearer(&ann.refresh).send().await;
        with_refresh.is_error(422, "Only non-refresh tokens are allowed");
    }
}

#[tokio::test]
async fn parallel_logouts_of_one_session_all_finish() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let answers = join_all((0..20).map(|_| ann.delete("auth_token").send())).await;
    assert!(answers.iter().any(|answer| answer.status == 204));
    for answer in answers.iter().filter(|answer| answer.status != 204) {
        answer.is_error(401, "Token has been revoked");
    }
    ann.is_out().await;
}

#[tokio::test]
async fn refresh_beside_a_logout_leaves_no_session() {
    let node = Node::shared().await;
    for _ in 0..10 {
        let ann = node.register("ann").await;
        let logout = ann.delete("auth_token");
        let (refreshed, logout) = tokio::join!(node.refresh(&ann.refresh), logout.send());
        logout.is_done();
        if refreshed.status == 200 {
            ann.with_tokens(refreshed.pair()).is_out().await;
        } else {
            refreshed.is_error(401, "Token has been revoked");
        }
        ann.is_out().await;
    }
}

#[tokio::test]
async fn login_beside_a_logout_of_all_is_consistently_in_or_out() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let (log_in, logout) =
        tokio::join!(node.log_in(&ann.email, &ann.password), ann.delete("auth_token/all").send());
    logout.is_done();
    ann.is_out().await;
    let verdict = node.validate(&log_in.pair().0).await;
    assert!(matches!(verdict.status, 200 | 401), "{verdict}");
    // Whatever it is, it stays so.
    assert_eq!(node.validate(&log_in.pair().0).await.status, verdict.status);
    ann.in_another_session().await.is_in().await;
}

#[tokio::test]
async fn a_session_is_ended_by_its_id() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let other = ann.in_another_session().await;
    let id = other.session().await;
    ann.delete(&format!("users/me/sessions/{id}")).send().await.is_done().is_visible_everywhere();
    other.is_out().await;
    ann.is_in().await;
    ann.delete(&format!("users/me/sessions/{id}")).send().await.is_refused(404);
    // One's own id instead of `me`, and one's own session: the same as a logout.
    let id = ann.session().await;
    ann.delete(&ann.path(&format!("sessions/{id}"))).send().await.is_done();
    ann.is_out().await;
}

#[tokio::test]
async fn strangers_session_under_own_id_is_not_found() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    let id = bob.session().await;
    for path in [format!("users/me/sessions/{id}"), ann.path(&format!("sessions/{id}"))] {
        ann.delete(&path).send().await.is_refused(404);
    }
    for nothing in ["01890a5d-ac96-774b-bcce-b302099a8057", "x", "me", "..", "%00"] {
        ann.delete(&format!("users/me/sessions/{nothing}")).send().await.is_refused(404);
    }
    bob.is_in().await;
}

#[tokio::test]
async fn sessions_of_another_user_are_forbidden_even_if_unknown() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    let session = bob.session().await;
    let nobody = "01890a5d-ac96-774b-bcce-b302099a8057";
    let of_bob = ann.get(&bob.path("sessions")).send().await;
    let of_nobody = ann.get(&format!("users/{nobody}/sessions")).send().await;
    of_bob.is_refused(403);
    of_nobody.is_refused(403);
    assert_eq!(of_bob.apart_from_its_id(), of_nobody.apart_from_its_id());
    let of_bob = ann.delete(&bob.path(&format!("sessions/{session}"))).send().await;
    let of_nobody = ann.delete(&format!("users/{nobody}/sessions/{session}")).send().await;
    of_bob.is_refused(403);
    of_nobody.is_refused(403);
    assert_eq!(of_bob.apart_from_its_id(), of_nobody.apart_from_its_id());
    bob.is_in().await;
}

#[tokio::test]
async fn admin_ends_a_users_session() {
    let node = Node::shared().await;
    let root = node.root().await;
    let admin = node.register("admin").await;
    let ann = node.register("ann").await;
    root.gives(&admin, "users_admin").await.is(200);
    let other = ann.in_another_session().await;
    let id = ann.session().await;
    let listed = admin.list("sessions", &ann.path("sessions")).await;
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|session| session["current"] == false), "{listed:?}");
    admin.delete(&ann.path(&format!("sessions/{id}"))).send().await.is_done().is_visible_everywhere();
    ann.is_out().await;
    other.is_in().await;
    admin.delete(&ann.path(&format!("sessions/{id}"))).send().await.is_refused(404);
    // One session of a user under the id of another.
    let of_admin = admin.session().await;
    root.delete(&ann.path(&format!("sessions/{of_admin}"))).send().await.is_refused(404);
    admin.is_in().await;
}

#[tokio::test]
async fn all_sessions_of_a_user_are_ended_together() {
    let node = Node::shared().await;
    let root = node.root().await;
    let (admin, ann, bob) =
        (node.register("admin").await, node.register("ann").await, node.register("bob").await);
    root.gives(&admin, "users_admin").await.is(200);
    let other = ann.in_another_session().await;
    bob.delete(&ann.path("sessions")).send().await.is_refused(403);
    ann.is_in().await;
    admin.delete(&ann.path("sessions")).send().await.is_done().is_visible_everywhere();
    for session in [&ann, &other] {
        session.is_out().await;
    }
    admin.is_in().await;
    // Again, while there is none, and when there is one again.
    admin.delete(&ann.path("sessions")).send().await.is_done();
    let again = Person::log_in(&node, &ann.email, &ann.password).await;
    again.is_in().await;
    assert_eq!(again.list("sessions", "users/me/sessions").await.len(), 1);
    again.delete("users/me/sessions").send().await.is_done();
    again.is_out().await;
    bob.is_in().await;
    root.delete(&format!("users/{}/sessions", again.uuid.replace(|c: char| c.is_ascii_digit(), "0")))
        .send()
        .await
        .is_refused(404);
}

#[tokio::test]
async fn password_change_ends_all_tokens_and_continues_this_session() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let other = ann.in_another_session().await;
    let id = ann.session().await;
    let new_password = fresh("a new secret");
    let body = json!({"old_password": ann.password, "new_password": new_password});
    let answer = ann.post("users/me/password").json(&body).send().await;
    answer.is(200).is_visible_everywhere();
    let now = ann.with_tokens(answer.pair()).with_password(&new_password);
    ann.is_out().await;
    other.is_out().await;
    now.is_in().await;
    assert_eq!(now.session().await, id);
    node.log_in(&ann.email, &ann.password).await.is_error(401, "Bad email or password");
    now.in_another_session().await.is_in().await;
}

#[tokio::test]
async fn password_change_by_an_admin_ends_all_tokens() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let password = fresh("given by an admin");
    let answer = root.post(&ann.path("password")).json(&json!({"new_password": password})).send().await;
    answer.is_done().is_visible_everywhere();
    ann.is_out().await;
    node.log_in(&ann.email, &ann.password).await.is_refused(401);
    ann.with_password(&password).in_another_session().await.is_in().await;
}

#[tokio::test]
async fn disabling_or_deleting_a_user_ends_everything() {
    let node = Node::shared().await;
    let root = node.root().await;
    let (ann, bob, cid) =
        (node.register("ann").await, node.register("bob").await, node.register("cid").await);
    let others = [ann.in_another_session().await, bob.in_another_session().await];
    root.sets_active(&ann, false).await.is(200).is_visible_everywhere();
    root.delete(&bob.path("")).send().await.is_done().is_visible_everywhere();
    cid.delete("users/me").send().await.is_done().is_visible_everywhere();
    for person in [&ann, &bob, &cid].into_iter().chain(&others) {
        person.is_out().await;
        person.client().log_in(&person.email, &person.password).await.is_error(401, "Bad email or password");
    }
}

#[tokio::test]
async fn ended_sessions_stay_ended_after_restart_and_kill_dash_9() {
    let node = Node::start().await;
    let root = node.root().await;
    let [ann, bob, cid, dan, eve] = [
        node.register("ann"),
        node.register("bob"),
        node.register("cid"),
        node.register("dan"),
        node.register("eve"),
    ];
    let (ann, bob, cid, dan, eve) = tokio::join!(ann, bob, cid, dan, eve);
    let other = ann.in_another_session().await;
    ann.delete("auth_token").send().await.is_done();
    bob.delete("auth_token/all").send().await.is_done();
    root.sets_active(&cid, false).await.is(200);
    root.delete(&dan.path("")).send().await.is_done();
    let body = json!({"new_password": fresh("given by root")});
    root.post(&eve.path("password")).json(&body).send().await.is_done();
    for kill in [true, false] {
        if kill {
            node.kill_dash_9();
        }
        node.restart().await;
        for person in [&ann, &bob, &cid, &dan, &eve] {
            person.is_out().await;
        }
        other.is_in().await;
        root.is_in().await;
    }
    other.refreshed().await.is_in().await;
}
