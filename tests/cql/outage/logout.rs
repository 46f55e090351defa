//! Logging out while the database is down.

use std::time::Instant;

use futures_util::future::join_all;
use testkit::eventually;

use crate::behind::{
    Behind, PROPAGATION_TIMEOUT, RECOVERY_TIMEOUT, WAYS, Way, gauge, gets_revoked, health,
    is_out_by_the_journal, is_revoked, is_unavailable, say,
};

#[tokio::test]
async fn logout_spreads_when_the_database_recovers() {
    let here = Behind::a_proxy().await;
    let elsewhere = here.elsewhere().await;
    let ann = here.node.register("ann").await;
    for way in WAYS {
        let [first, second] = [ann.in_another_session().await, ann.in_another_session().await];
        let ids = [first.session().await, second.session().await];
        let _while = here.hurt(way).await;
        is_out_by_the_journal(first.delete("auth_token")).await;
        is_revoked(&here.node, &first.access).await;
        if way != Way::Corrupt {
            here.noticed().await;
        }
        is_out_by_the_journal(second.delete("auth_token")).await;
        is_revoked(&here.node, &second.access).await;
        first.delete("auth_token").send().await.is_error(401, "Token has been revoked");
        assert_eq!(health(&here.node).await["journal"], "waiting");
        assert!(gauge(&here.node, "palisade_ledger_unwritten").await >= Some(2.0));
        ann.is_in().await;
        let took = here.mended().await;
        eventually(PROPAGATION_TIMEOUT, "the ledger has it", async || {
            (gauge(&here.node, "palisade_ledger_unwritten").await == Some(0.0)).then_some(())
        })
        .await;
        assert_eq!(health(&here.node).await["journal"], "ok");
        say(&format!("{way:?}: well after {took:?}"));
        for (ended, id) in [&first, &second].into_iter().zip(&ids) {
            gets_revoked(&elsewhere, &ended.access).await;
            elsewhere.refresh(&ended.refresh).await.is_error(401, "Token has been revoked");
            ended.is_out().await;
            // Also when no node keeps the fact any more.
            let this = format!("user = {} AND id = {id}", ann.uuid);
            eventually(PROPAGATION_TIMEOUT, "the row is gone", async || {
                (here.rows("sessions", &this).await == 0).then_some(())
            })
            .await;
        }
        ann.is_in().await;
        ann.at(&elsewhere).is_in().await;
    }
}

#[tokio::test]
async fn logout_of_all_spreads_when_the_database_recovers() {
    let here = Behind::a_proxy().await;
    let elsewhere = here.elsewhere().await;
    for way in WAYS {
        let ann = here.node.register("ann").await;
        let others = join_all((0..3).map(|_| ann.in_another_session())).await;
        let bob = here.node.register("bob").await;
        let _while = here.hurt(way).await;
        is_out_by_the_journal(ann.delete("auth_token/all")).await;
        for person in others.iter().chain([&ann]) {
            is_revoked(&here.node, &person.access).await;
        }
        bob.is_in().await;
        here.mended().await;
        for person in others.iter().chain([&ann]) {
            gets_revoked(&elsewhere, &person.access).await;
            elsewhere.refresh(&person.refresh).await.is_error(401, "Token has been revoked");
            person.is_out().await;
        }
        // Also when no node keeps the fact any more: the sessions are gone and the version rose.
        eventually(PROPAGATION_TIMEOUT, "the sessions are gone", async || {
            (here.rows("sessions_of_user", &format!("user = {}", ann.uuid)).await == 0).then_some(())
        })
        .await;
        let risen = format!("id = {} AND version > 0 ALLOW FILTERING", ann.uuid);
        assert_eq!(here.rows("users", &risen).await, 1, "the stored version has not risen");
        // A log-in afterwards is valid on either node.
        let again = ann.in_another_session().await;
        again.is_in().await;
        again.at(&elsewhere).is_in().await;
    }
}

#[tokio::test]
async fn journal_survives_kill_dash_9_during_database_outage() {
    let here = Behind::a_proxy().await;
    let elsewhere = here.elsewhere().await;
    for way in [Way::Cut, Way::Stalled] {
        let ann = here.node.register("ann").await;
        let bob = here.node.register("bob").await;
        let cid = here.node.register("cid").await;
        let other = ann.in_another_session().await;
        let _while = here.hurt(way).await;
        is_out_by_the_journal(ann.delete("auth_token")).await;
        is_out_by_the_journal(bob.delete("auth_token/all")).await;
        for _ in 0..2 {
            here.node.kill_dash_9();
            here.node.relaunch().await;
            here.node.get("/health/live").send().await.is(200);
            is_unavailable(here.node.get("/health/ready")).await;
            for token in [&ann, &bob, &cid, &other].map(|person| &person.access) {
                is_unavailable(here.node.get("auth_token/validation").bearer(token)).await;
                is_unavailable(here.node.get("/auth_request").bearer(token)).await;
            }
            is_unavailable(cid.delete("auth_token")).await;
            is_unavailable(here.node.post("auth_token/token_refresh").bearer(&cid.refresh)).await;
        }
        here.proxy.mend().await;
        let start = Instant::now();
        eventually(RECOVERY_TIMEOUT, "the node comes up by itself", async || {
            // Whenever it decides, it decides right.
            let [good, ended] =
                [here.node.validate(&cid.access).await, here.node.validate(&ann.access).await];
            if good.status == 503 {
                assert!(matches!(ended.status, 401 | 503), "{ended}");
                good.is_refused(503);
                return None;
            }
            good.is(200);
            is_revoked(&here.node, &ann.access).await;
            Some(())
        })
        .await;
        say(&format!("started while {way:?}, decides {:?} after it ended", start.elapsed()));
        here.node.readiness().await.unwrap().is(200);
        for person in [&ann, &bob] {
            person.is_out().await;
            gets_revoked(&elsewhere, &person.access).await;
            elsewhere.refresh(&person.refresh).await.is_error(401, "Token has been revoked");
        }
        for person in [&other, &cid] {
            person.is_in().await;
            person.at(&elsewhere).is_in().await;
            person.refreshed().await.is_in().await;
        }
    }
}

#[tokio::test]
async fn full_journal_refuses_logouts_until_the_database_recovers() {
    const AT_ONCE: usize = 8;
    let here = Behind::with(&[("JOURNAL_SIZE", "64KiB")]).await;
    let elsewhere = here.elsewhere().await;
    let ann = here.node.register("ann").await;
    let mut sessions = Vec::new();
    while sessions.len() < 400 {
        sessions.extend(join_all((0..AT_ONCE).map(|_| ann.in_another_session())).await);
    }
    here.proxy.cut().await;
    here.noticed().await;
    let mut sessions = sessions.into_iter();
    let mut kept = Vec::new();
    let refused = loop {
        let session = sessions.next().expect("the journal is full before all sessions have ended");
        let answer = session.delete("auth_token").send().await;
        if answer.status != 204 {
            answer.is_refused(503);
            break session;
        }
        assert_eq!(answer.header("palisade-durability"), Some("journal"), "{answer}");
        kept.push(session);
    };
    say(&format!("64KiB hold {} revocations", kept.len()));
    assert!(kept.len() >= 100, "only {} revocations", kept.len());
    assert_eq!(health(&here.node).await["journal"], "full");
    assert_eq!(here.node.readiness().await.unwrap().is(200).json()["journal"], "full");
    assert_eq!(gauge(&here.node, "palisade_journal_full").await, Some(1.0));
    // Another one, and the stronger word. What is not promised is refused here all the same.
    let further = sessions.next().unwrap();
    is_unavailable(further.delete("auth_token")).await;
    for session in kept.iter().chain([&refused, &further]) {
        is_revoked(&here.node, &session.access).await;
    }
    ann.is_in().await;
    here.mended().await;
    let left = sessions.len() + 1;
    eventually(PROPAGATION_TIMEOUT, "the ledger has all, and the sessions are gone", async || {
        let listed = here.rows("sessions_of_user", &format!("user = {}", ann.uuid)).await;
        let unwritten = gauge(&here.node, "palisade_ledger_unwritten").await;
        (listed == left && unwritten == Some(0.0)).then_some(())
    })
    .await;
    let last = sessions.next().unwrap();
    last.delete("auth_token").send().await.is_done().is_visible_everywhere();
    assert_eq!(health(&here.node).await["journal"], "ok");
    assert_eq!(gauge(&here.node, "palisade_journal_full").await, Some(0.0));
    for session in kept.iter().step_by(20).chain([&kept[kept.len() - 1], &last]) {
        gets_revoked(&elsewhere, &session.access).await;
        elsewhere.refresh(&session.refresh).await.is_error(401, "Token has been revoked");
    }
    ann.at(&elsewhere).is_in().await;
    // And it is a journal again.
    let _while = here.hurt(Way::Cut).await;
    is_out_by_the_journal(sessions.next().unwrap().delete("auth_token")).await;
}
