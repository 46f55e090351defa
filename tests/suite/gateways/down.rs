//! Palisade that cannot say yes or no, or is not there: never a yes.

use std::time::Duration;

use serde_json::json;
use testkit::{
    Gateway, Standin, eventually,
    gateway::Kind,
    standin::{Asked, Reply},
};

use super::{GATED, application};

/// Longest time until a gateway asks a node again that was away.
const RETURN_MAX: Duration = Duration::from_secs(10);

/// A Palisade that says yes to one token, and as long as it is scripted so.
fn yes(asked: &Asked) -> Reply {
    match (asked.header("authorization"), &asked.target[..]) {
        (_, "/health/ready") => Reply::json(200, &json!({"status": "ok"})),
        (Some("Bearer a.b.c"), "/auth_request?permissions=%22pro_read%22") => Reply::text(204, "")
            .with("x-auth-user", "ann")
            .with("x-auth-session", "")
            .with("x-auth-kind", "service"),
        _ => refusal(401, "authorization_missing"),
    }
}

fn refusal(status: u16, code: &str) -> Reply {
    Reply::json(status, &json!({"msg": "No", "code": code, "request_id": "1"}))
}

/// Its health is good, and it gives this answer to every question.
fn always(reply: Reply) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| if asked.target == "/health/ready" { yes(asked) } else { reply.clone() }
}

async fn passes(gateway: &Gateway, kind: Kind) {
    eventually(RETURN_MAX, &format!("a yes by {kind:?}"), async || {
        let answer = gateway.client().get(GATED).bearer("a.b.c").send().await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn unknown_stays_503_with_retry_after() {
    for kind in Kind::ALL {
        let palisade = Standin::start(yes).await;
        let app = application().await;
        let gateway = Gateway::start(kind, palisade.address(), app.address()).await;
        palisade.answers(always(refusal(503, "store_unavailable").with("retry-after", "1")));
        let answer = gateway.client().get(GATED).bearer("a.b.c").send().await;
        assert_eq!(answer.status, 503, "{kind:?} {answer}");
        assert_eq!(answer.header("retry-after"), Some("1"), "{kind:?} {answer}");
        assert!(!answer.field("code").is_empty(), "{kind:?} {answer}");
        assert!(app.asked().is_empty(), "{kind:?}");
        palisade.answers(yes);
        passes(&gateway, kind).await;
    }
}

#[tokio::test]
async fn nothing_but_a_yes_reaches_the_application() {
    for kind in Kind::ALL {
        let palisade = Standin::start(yes).await;
        let app = application().await;
        let gateway = Gateway::start(kind, palisade.address(), app.address()).await;
        let location = Reply::text(302, "").with("location", "/gated/films");
        let strange = [400, 404, 405, 429, 500, 502, 504].map(|status| Reply::text(status, "<html>"));
        for reply in strange.into_iter().chain([location, Reply::Cut]) {
            palisade.answers(always(reply.clone().with("x-auth-user", "ann")));
            let answer = gateway.client().get(GATED).bearer("a.b.c").send().await;
            assert!(answer.status >= 300, "{kind:?} {reply:?} {answer}");
            assert!(app.asked().is_empty(), "{kind:?} {reply:?}");
        }
    }
}

#[tokio::test]
async fn silent_palisade_is_no_yes_until_it_returns() {
    for kind in Kind::ALL {
        let palisade = Standin::start(yes).await;
        let app = application().await;
        let gateway = Gateway::start(kind, palisade.address(), app.address()).await;
        let is_refused = async |what: &str| {
            for _ in 0..2 {
                let answer = gateway.client().get(GATED).bearer("a.b.c").send().await;
                assert!((502..=504).contains(&answer.status), "{kind:?} {what} {answer}");
            }
            assert!(app.asked().is_empty(), "{kind:?} {what}");
        };
        palisade.answers(|_| Reply::Never);
        is_refused("hangs").await;
        palisade.vanish();
        is_refused("is gone").await;
        palisade.answers(yes);
        palisade.returns().await;
        passes(&gateway, kind).await;
        let asked = app.asked();
        // A service has no session: its empty header replaces the client's, too.
        assert_eq!(asked[0].header("x-auth-user"), Some("ann"), "{kind:?}");
    }
}

#[tokio::test]
async fn empty_session_of_a_service_replaces_the_callers() {
    for kind in Kind::ALL {
        let palisade = Standin::start(yes).await;
        let app = application().await;
        let gateway = Gateway::start(kind, palisade.address(), app.address()).await;
        let request = gateway.client().get(GATED).bearer("a.b.c");
        let answer = request.header("x-auth-session", "of another").send().await;
        assert_eq!(answer.status, 200, "{kind:?} {answer}");
        let asked = app.asked();
        assert!(asked[0].header("x-auth-session").is_none_or(str::is_empty), "{kind:?} {asked:?}");
        assert_eq!(asked[0].header("x-auth-kind"), Some("service"), "{kind:?} {asked:?}");
    }
}
