//! Refreshing: concurrent calls get one successor, and a reused token revokes its session.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use testkit::{Node, Shared, eventually, forge};

static SHORT_GRACE: Shared = Shared::with(&[("REFRESH_GRACE", "1s")]);

#[tokio::test]
async fn refresh_returns_a_new_pair_and_keeps_old_access_token_valid() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let next = ann.refreshed().await;
    assert_ne!(next.access, ann.access);
    assert_ne!(next.refresh, ann.refresh);
    next.is_in().await;
    ann.is_in().await;
    assert_eq!(next.session().await, ann.session().await);
}

#[tokio::test]
async fn a_session_goes_on_for_many_refreshes() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let mut last = ann.clone();
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        last = last.refreshed().await;
        assert!(seen.insert(last.refresh.clone()), "a refresh token was given twice");
    }
    last.is_in().await;
    assert_eq!(last.session().await, ann.session().await);
}

#[tokio::test]
async fn parallel_refreshes_get_one_successor() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let answers = join_all((0..100).map(|_| node.refresh(&ann.refresh))).await;
    let successors: BTreeSet<_> = answers.iter().map(|answer| answer.pair().1).collect();
    assert_eq!(successors.len(), 1, "{} successors", successors.len());
    for answer in answers {
        node.validate(&answer.pair().0).await.is(200);
    }
    let successor = successors.into_iter().next().unwrap();
    let next = node.refresh(&successor).await.pair();
    node.validate(&next.0).await.is(200);
}

#[tokio::test]
async fn spent_refresh_token_gets_the_same_successor_within_grace() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let next = ann.refreshed().await;
    for _ in 0..5 {
        assert_eq!(ann.refreshed().await.refresh, next.refresh);
    }
    // Also when the successor was spent meanwhile: it is within its own grace then.
    let third = next.refreshed().await;
    let again = ann.refreshed().await;
    assert_eq!(again.refresh, next.refresh);
    assert_eq!(again.refreshed().await.refresh, third.refresh);
}

#[tokio::test]
async fn spent_refresh_token_gets_same_successor_after_kill_dash_9() {
    // A grace that a restart on a slow machine fits in.
    let node = Node::builder().setting("REFRESH_GRACE", "120s").start().await;
    let ann = node.register("ann").await;
    let next = ann.refreshed().await;
    node.kill_dash_9();
    node.restart().await;
    let again = ann.refreshed().await;
    assert_eq!(again.refresh, next.refresh);
    again.is_in().await;
    next.refreshed().await.is_in().await;
}

#[tokio::test]
async fn a_spent_refresh_token_revokes_its_session() {
    let node = SHORT_GRACE.node().await;
    let ann = node.register("ann").await;
    let other = ann.in_another_session().await;
    let next = ann.refreshed().await;
    // Shown again and again it is refused from some moment on; the last good answer had the
    // same successor.
    let refused = eventually(Duration::from_secs(10), "the grace ends", async || {
        let answer = node.refresh(&ann.refresh).await;
        if answer.status == 200 {
            assert_eq!(answer.pair().1, next.refresh);
        }
        (answer.status != 200).then_some(answer)
    })
    .await;
    refused.is_error(401, "Token has been revoked");
    // An actor writes this line, with the id of the request that it works for.
    let id = refused.field("request_id");
    eventually(Duration::from_secs(10), "the log names the request", async || {
        let logs = node.logs();
        logs.lines().find(|line| line.contains("presented again") && line.contains(&id)).map(drop)
    })
    .await;
    ann.is_out().await;
    next.is_out().await;
    other.is_in().await;
    let reuse = eventually(Duration::from_secs(5), "the history says so", async || {
        let history = other.list("logins", "users/me/logins").await;
        history.into_iter().find(|login| login["reason"] == "refresh_reuse")
    })
    .await;
    assert_eq!(reuse["success"], false);
}

#[tokio::test]
async fn spent_refresh_token_is_refused_within_grace_after_logout() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let next = ann.refreshed().await;
    next.delete("auth_token").send().await.is_done().is_visible_everywhere();
    for token in [&ann.refresh, &next.refresh] {
        node.refresh(token).await.is_error(401, "Token has been revoked");
    }
    ann.is_out().await;
}

#[tokio::test]
async fn an_access_token_cannot_refresh() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    node.refresh(&ann.access).await.is_error(422, "Only refresh tokens are allowed");
    ann.refreshed().await.is_in().await;
}

#[tokio::test]
async fn invented_refresh_token_is_treated_as_revoked() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let mut changed = ann.refresh.clone().into_bytes();
    for at in [4, 10, 30, 60] {
        if let Some(byte) = changed.get_mut(at) {
            *byte = if *byte == b'A' { b'B' } else { b'A' };
        }
        let changed = String::from_utf8(changed.clone()).unwrap();
        node.refresh(&changed).await.is_error(401, "Token has been revoked");
    }
    for made_up in [
        "prt_".to_owned(),
        "prt_x".to_owned(),
        format!("prt_{}", "A".repeat(128)),
        format!("{}A", ann.refresh),
        format!("{}=", ann.refresh),
        ann.refresh[..ann.refresh.len() - 1].to_owned(),
        format!("prt_{}", "A".repeat(6_000)),
    ] {
        node.refresh(&made_up).await.is_error(401, "Token has been revoked");
    }
    // None of them has ended the session.
    ann.is_in().await;
    ann.refreshed().await.is_in().await;
}

#[tokio::test]
async fn other_credentials_at_refresh_get_their_refusals() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let refresh = || node.post("auth_token/token_refresh");
    refresh().send().await.is_error(401, "Missing Authorization Header");
    refresh().authorization(b"Basic x").send().await.is_refused(401);
    refresh().authorization(b"Bearer").send().await.is_refused(422);
    refresh().authorization(b"Bearer a b").send().await.is_refused(422);
    node.refresh("x").await.is_error(422, "Not enough segments");
    node.refresh("PRT_x").await.is_error(422, "Not enough segments");
    node.refresh("a.b.c").await.is_error(422, "Signature verification failed");
    let forged = forge::parts(&ann.access).with_claim("type", json!("refresh"));
    node.refresh(&forged).await.is_error(422, "Signature verification failed");
    let twice = refresh().bearer(&ann.refresh).bearer(&ann.refresh).send().await;
    twice.is_refused(400);
    ann.refreshed().await.is_in().await;
}

#[tokio::test]
async fn a_refresh_token_past_its_life_has_expired() {
    static BRIEF: Shared =
        Shared::with(&[("ACCESS_TTL", "1s"), ("REFRESH_TTL", "2s"), ("REFRESH_GRACE", "1s")]);
    let node = BRIEF.node().await;
    let ann = node.register("ann").await;
    // Looking at it would spend it: the access token, which lives shorter, tells when it is late.
    eventually(Duration::from_secs(10), "the access token expires", async || {
        (ann.validate().await.status == 401).then_some(())
    })
    .await;
    // One more second of the same clock: that of a token that begins now.
    let later = ann.in_another_session().await;
    eventually(Duration::from_secs(10), "a later access token expires", async || {
        (later.validate().await.status == 401).then_some(())
    })
    .await;
    let refused = eventually(Duration::from_secs(10), "the refresh token expires", async || {
        let answer = node.refresh(&ann.refresh).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    refused.is_error(401, "Token has expired");
}

#[tokio::test]
async fn a_refresh_extends_the_life_of_the_session() {
    static BRIEF: Shared =
        Shared::with(&[("ACCESS_TTL", "1s"), ("REFRESH_TTL", "3s"), ("REFRESH_GRACE", "1s")]);
    let node = BRIEF.node().await;
    let mut ann = node.register("ann").await;
    let first = ann.clone();
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        ann = ann.refreshed().await;
        eventually(Duration::from_secs(10), "the access token expires", async || {
            (ann.validate().await.status == 401).then_some(())
        })
        .await;
    }
    ann.refreshed().await.is_in().await;
    // The first of them all is past its life, which is known without the session's memory of it.
    node.refresh(&first.refresh).await.is_error(401, "Token has expired");
    ann.refreshed().await.is_in().await;
}

#[tokio::test]
async fn no_refresh_after_the_password_changed() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let other = ann.in_another_session().await;
    let body = json!({"old_password": ann.password, "new_password": "another secret of ann"});
    let pair = ann.post("users/me/password").json(&body).send().await.pair();
    ann.is_out().await;
    other.is_out().await;
    let ann = ann.with_tokens(pair);
    ann.is_in().await;
    ann.refreshed().await.is_in().await;
}

#[tokio::test]
async fn no_refresh_for_a_disabled_or_deleted_user() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    root.sets_active(&ann, false).await.is(200);
    bob.delete("users/me").send().await.is_done();
    for person in [&ann, &bob] {
        node.refresh(&person.refresh).await.is_error(401, "Token has been revoked");
    }
    // Nor after the user is active again: revoked tokens stay revoked.
    root.sets_active(&ann, true).await.is(200);
    ann.is_out().await;
    ann.in_another_session().await.is_in().await;
}

#[tokio::test]
async fn refresh_answer_is_uncacheable() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    node.refresh(&ann.refresh).await.is(200).is_not_stored();
    node.log_in(&ann.email, &ann.password).await.is(200).is_not_stored();
}
