//! The database is down, in every way that makes a difference: what each call answers meanwhile, and
//! that all is well afterwards without a hand on the node.

mod coming_up;
mod logout;
mod password;
mod refresh;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use testkit::{Client, Person, Request, eventually, fresh, servers::Action, within};

use crate::behind::{
    ANSWER_TIMEOUT, AWAY, Behind, WAYS, Way, gauge, is_out_by_the_journal, is_revoked, is_unavailable, say,
    store_of,
};

#[tokio::test]
async fn validation_is_unaffected() {
    let here = Behind::a_proxy().await;
    let ann = here.node.register("ann").await;
    let bob = here.node.register("bob").await;
    bob.delete("auth_token").send().await.is_done();
    for way in WAYS {
        let _while = here.hurt(way).await;
        for noticed in [false, true] {
            if noticed && way != Way::Corrupt {
                here.noticed().await;
            }
            within(Duration::from_secs(5), "verdicts", async {
                ann.is_in().await;
                is_revoked(&here.node, &bob.access).await;
                here.node.validate("a.b.c").await.is_refused(422);
                let batch = json!({"tokens": [ann.access, bob.access, "a.b.c"]});
                let verdicts =
                    ann.post("auth_token/validation/batch").json(&batch).send().await.is(200).json();
                let statuses: Vec<_> =
                    verdicts.as_array().unwrap().iter().map(|v| v["status"].clone()).collect();
                assert_eq!(statuses, [200, 401, 422]);
                ann.get("/auth_request").send().await.is_done();
                assert!(!here.node.published_kids().await.is_empty());
            })
            .await;
        }
        here.mended().await;
    }
}

#[tokio::test]
async fn node_that_turns_stale_during_a_request_reports_it() {
    let here = Behind::with(&[("MAX_STALENESS", "2s")]).await;
    let root = here.node.root().await;
    let films = root.makes_permission("films").await;
    let ann = here.node.register("ann").await;
    // So that what she may do has to be loaded.
    root.gives(&ann, &films).await.is(200);
    let _while = here.hurt(Way::Stalled).await;
    // Fresh at the question; the answer has to wait for the database, until it is given up.
    let asked = async |path| ann.get(path).send().await;
    let (check, admission) = tokio::join!(
        asked("users/me/combined_permissions/validation?permissions=%22x%22"),
        asked("/auth_request?permissions=%22x%22"),
    );
    for answer in [check, admission] {
        let stale = answer.is_refused(503).header("palisade-stale").map(|ms| ms.parse::<u64>().unwrap());
        assert!(stale.is_some_and(|ms| ms > 2_000), "{stale:?}");
    }
    here.mended().await;
}

#[tokio::test]
async fn repeated_permission_check_still_succeeds() {
    let here = Behind::a_proxy().await;
    let root = here.node.root().await;
    let ann = here.node.register("ann").await;
    let films = root.makes_permission("films").await;
    root.gives(&ann, &films).await.is(200);
    assert!(ann.may(&films).await);
    for way in WAYS {
        let _while = here.hurt(way).await;
        for noticed in [false, true] {
            if noticed && way != Way::Corrupt {
                here.noticed().await;
            }
            assert!(ann.may(&films).await);
            assert!(!ann.may("nothing").await);
            assert!(ann.holds(&json!({"any": ["nothing", films]})).await);
            let path = format!("/auth_request?permissions=%22{films}%22");
            ann.get(&path).send().await.is_done();
        }
        here.mended().await;
    }
}

#[tokio::test]
async fn new_permission_check_is_unknown() {
    let here = Behind::a_proxy().await;
    let root = here.node.root().await;
    let films = root.makes_permission("films").await;
    for way in AWAY {
        let ann = here.node.register("ann").await;
        root.gives(&ann, &films).await.is(200);
        let _while = here.hurt(way).await;
        for _ in 0..3 {
            let query =
                ann.get(&format!("users/me/combined_permissions/validation?permissions=%22{films}%22"));
            is_unavailable(query).await;
        }
        is_unavailable(ann.get("users/me/combined_permissions")).await;
        // To gateways, too: 403 would be a verdict.
        is_unavailable(ann.get(&format!("/auth_request?permissions=%22{films}%22"))).await;
        here.mended().await;
        assert!(ann.may(&films).await);
    }
}

#[tokio::test]
async fn possibly_revoked_permission_is_not_answered_from_memory() {
    let here = Behind::a_proxy().await;
    let root = here.node.root().await;
    let ann = here.node.register("ann").await;
    let films = root.makes_permission("films").await;
    for action in [Action::CutBefore, Action::CutAfter] {
        root.gives(&ann, &films).await.is(200);
        assert!(ann.may(&films).await);
        here.proxy.on("DELETE FROM grants", action);
        root.takes(&ann, &films).await.is_refused(503);
        let query =
            || ann.get(&format!("users/me/combined_permissions/validation?permissions=%22{films}%22"));
        is_unavailable(query()).await;
        here.noticed().await;
        is_unavailable(query()).await;
        here.mended().await;
        let taken = action == Action::CutAfter;
        assert_eq!(ann.may(&films).await, !taken, "{action:?}");
    }
}

/// Requests about users and sessions that need the database.
fn user_requests(node: &Client, [ann, bob, root]: [&Person; 3]) -> Vec<Request> {
    let new = || json!({"email": format!("{}@example.org", fresh("new")), "password": fresh("a new secret")});
    let log_in = |email: &str, password: &str| {
        node.post("auth_token").json(&json!({"email": email, "password": password}))
    };
    let email = format!("{}@example.org", fresh("other"));
    let bobs = |rest: &str| bob.path(rest);
    vec![
        log_in(&ann.email, &ann.password),
        log_in(&ann.email, "a wrong password"),
        log_in("nobody@example.org", "a wrong password"),
        node.post("users").json(&new()),
        node.post("users").json(&json!({"email": ann.email, "password": "a password of hers"})),
        node.post("auth_token/token_refresh").bearer(&ann.refresh),
        ann.get("users/me"),
        ann.get("users/me/sessions"),
        ann.get("users/me/logins"),
        ann.patch("users/me").json(&json!({"first_name": "Anna"})),
        ann.patch("users/me").json(&json!({"email": email, "password": ann.password})),
        ann.post("users/me/password")
            .json(&json!({"old_password": ann.password, "new_password": fresh("another secret")})),
        ann.post("users/me/password")
            .json(&json!({"old_password": "not the old one", "new_password": fresh("another secret")})),
        root.get("users"),
        root.get(&bobs("")),
        root.patch(&bobs("")).json(&json!({"active": false})),
        root.post(&bobs("password")).json(&json!({"new_password": fresh("given by root")})),
        root.delete(&bobs("")),
    ]
}

/// Requests about permissions and roles that need the database.
fn catalogue_requests(
    [bob, root]: [&Person; 2],
    films: &str,
    files: &str,
    unused: &str,
    role: &str,
) -> Vec<Request> {
    let bobs = |rest: &str| bob.path(rest);
    vec![
        root.get("permissions"),
        root.post("permissions").json(&json!({"name": fresh("p")})),
        root.patch(&format!("permissions/{unused}")).json(&json!({"description": "x"})),
        root.delete(&format!("permissions/{unused}")),
        root.get("roles"),
        root.post("roles").json(&json!({"name": fresh("r")})),
        root.get(&format!("roles/{role}")),
        root.patch(&format!("roles/{role}")).json(&json!({"description": "x"})),
        root.post(&format!("roles/{role}/permissions")).json(&json!({"name": files})),
        root.delete(&format!("roles/{role}/permissions/{films}")),
        root.delete(&format!("roles/{role}")),
        root.get(&bobs("permissions")),
        root.post(&bobs("permissions")).json(&json!({"name": films})),
        root.delete(&bobs(&format!("permissions/{files}"))),
        root.post(&bobs("roles")).json(&json!({"name": role})),
        root.delete(&bobs(&format!("roles/{role}"))),
    ]
}

#[tokio::test]
async fn requests_that_need_the_database_are_503() {
    let here = Behind::a_proxy().await;
    let root = here.node.root().await;
    let [films, files, unused] = [
        root.makes_permission("films").await,
        root.makes_permission("files").await,
        root.makes_permission("unused").await,
    ];
    let role = root.makes_role("staff", &[&films]).await;
    for way in AWAY {
        let ann = here.node.register("ann").await;
        let bob = here.node.register("bob").await;
        root.gives(&bob, &files).await.is(200);
        // The permissions are cached, so that only the database can prevent the change.
        assert!(root.may("all_all").await && !ann.may(&films).await && bob.may(&files).await);
        let _while = here.hurt(way).await;
        for noticed in [false, true] {
            if noticed {
                here.noticed().await;
            }
            let requests = user_requests(&here.node, [&ann, &bob, &root]).into_iter().map(is_unavailable);
            for answer in join_all(requests).await {
                assert!(answer.header("retry-after").is_some(), "{answer}");
            }
            let requests = catalogue_requests([&bob, &root], &films, &files, &unused, &role);
            join_all(requests.into_iter().map(is_unavailable)).await;
        }
        // The node called no user inactive in the meantime, and changed nothing.
        ann.is_in().await;
        bob.is_in().await;
        here.mended().await;
        if way == Way::Cut {
            ann.in_another_session().await.is_in().await;
            ann.refreshed().await.is_in().await;
            bob.in_another_session().await.is_in().await;
            assert!(bob.may(&files).await && !bob.may(&films).await);
            assert_eq!(ann.get("users/me").send().await.is(200).json()["first_name"], "ann");
        }
    }
}

#[tokio::test]
async fn session_known_only_to_database_is_503_and_not_missing() {
    let here = Behind::a_proxy().await;
    for way in AWAY {
        let ann = here.node.register("ann").await;
        let other = ann.in_another_session().await;
        let of_other = other.session().await;
        let _while = here.hurt(way).await;
        for noticed in [false, true] {
            if noticed {
                here.noticed().await;
            }
            is_unavailable(ann.delete("auth_token/others")).await;
            is_unavailable(ann.delete(&format!("users/me/sessions/{of_other}"))).await;
            ann.is_in().await;
            other.is_in().await;
        }
        here.mended().await;
    }
}

#[tokio::test]
async fn own_session_is_ended_by_its_id_as_by_a_logout() {
    let here = Behind::a_proxy().await;
    let ann = here.node.register("ann").await;
    let other = ann.in_another_session().await;
    let own = ann.session().await;
    let _while = here.hurt(Way::Cut).await;
    is_out_by_the_journal(ann.delete(&format!("users/me/sessions/{own}"))).await;
    is_revoked(&here.node, &ann.access).await;
    here.mended().await;
    ann.is_out().await;
    other.is_in().await;
}

#[tokio::test]
async fn slow_database_is_waited_for() {
    let here = Behind::a_proxy().await;
    let ann = here.node.register("ann").await;
    let other = ann.in_another_session().await;
    here.proxy.delay(Duration::from_millis(200));
    for _ in 0..3 {
        within(Duration::from_secs(5), "a verdict", ann.is_in()).await;
        let again = within(ANSWER_TIMEOUT, "a log-in", ann.in_another_session()).await;
        again.is_in().await;
        let next = within(ANSWER_TIMEOUT, "a refresh", again.refreshed()).await;
        let logout = within(Duration::from_secs(5), "a logout", next.delete("auth_token").send()).await;
        logout.is_done();
        is_revoked(&here.node, &next.access).await;
    }
    assert_eq!(store_of(&here.node).await, "up");
    ann.delete("auth_token/others").send().await.is_done();
    is_revoked(&here.node, &other.access).await;
    here.mended().await;
    other.is_out().await;
    ann.is_in().await;
}

#[tokio::test]
async fn node_reports_database_outage_and_stays_ready() {
    let here = Behind::a_proxy().await;
    for way in AWAY {
        assert_eq!(gauge(&here.node, "palisade_store_up").await, Some(1.0));
        let _while = here.hurt(way).await;
        let start = Instant::now();
        here.noticed().await;
        let noticed = start.elapsed();
        let ready = here.node.readiness().await.unwrap().is(200).json();
        assert_eq!((&ready["status"], &ready["store"]), (&json!("ready"), &json!("down")));
        assert_eq!(gauge(&here.node, "palisade_store_up").await, Some(0.0));
        assert_eq!(gauge(&here.node, "palisade_ready").await, Some(1.0));
        // Within the driver's time limit.
        eventually(Duration::from_secs(20), "nobody hears from others for a while", async || {
            (gauge(&here.node, "palisade_ledger_age_seconds").await >= Some(8.0)).then_some(())
        })
        .await;
        let well = here.mended().await;
        assert_eq!(gauge(&here.node, "palisade_store_up").await, Some(1.0));
        say(&format!("{way:?}: noticed after {noticed:?}, well after {well:?}"));
        assert!(well < Duration::from_secs(30), "{way:?}: well only after {well:?}");
    }
    let pid = here.node.pid();
    assert!(here.node.logs().contains("down") || here.node.logs().contains("does not answer"), "{pid}");
}

#[tokio::test]
async fn node_recovers_from_corrupted_database_answers() {
    let here = Behind::a_proxy().await;
    let ann = here.node.register("ann").await;
    let _while = here.hurt(Way::Corrupt).await;
    // Whatever it makes of them, it goes on.
    for _ in 0..20 {
        let answer = ann.get("users/me").send().await;
        assert!(matches!(answer.status, 200 | 404 | 503), "{answer}");
    }
    ann.is_in().await;
    let well = here.mended().await;
    say(&format!("Corrupt: well after {well:?}"));
    ann.is_in().await;
    ann.refreshed().await.is_in().await;
}
