//! The gateways of `compose/gateways`, each with its real program, before an application that knows nothing of
//! Palisade: only what Palisade says yes to reaches it.

mod down;
mod tricks;

use serde_json::json;
use testkit::{
    Films, Gateway, Node, Person, Shared, Standin,
    gateway::Kind,
    standin::{Asked, Reply},
};

const GATED: &str = "/gated/films";
/// What the application is asked for then.
const FILMS: &str = "/api/v1/films";

/// A node that has the permission, and the superuser.
async fn node() -> (Node, Person) {
    static NODE: Shared = Shared::with(&[]);
    let node = NODE.node().await;
    let root = node.root().await;
    let made = root.post("permissions").json(&json!({"name": "pro_read"})).send().await;
    assert!(matches!(made.status, 201 | 409), "{made}");
    (node, root)
}

/// A user with the permission.
async fn holder(node: &Node, root: &Person) -> Person {
    let ann = node.register("ann").await;
    root.gives(&ann, "pro_read").await.is(200);
    ann
}

/// An application that remembers what reaches it.
async fn application() -> Standin {
    Standin::start(|_| Reply::text(200, "films")).await
}

/// The one value of a header; several are as bad as none.
fn only<'a>(asked: &'a Asked, name: &str) -> Option<&'a str> {
    let mut values = asked.headers.get_all(name).iter();
    let value = values.next()?.to_str().ok();
    value.filter(|_| values.next().is_none())
}

#[tokio::test]
async fn application_learns_who_the_caller_is() {
    let (node, root) = node().await;
    let ann = holder(&node, &root).await;
    let session = ann.session().await;
    for kind in Kind::ALL {
        let app = application().await;
        let gateway = Gateway::start(kind, node.address(), app.address()).await;
        let claims = [
            ("x-request-id", "mine-1"),
            ("X-Auth-User", &root.uuid),
            ("x-auth-user", &root.uuid),
            ("X-AUTH-SESSION", "1"),
            ("X-Auth-Kind", "service"),
        ];
        let request = gateway.client().get("/gated/films?limit=3").bearer(&ann.access);
        let answer =
            claims.iter().fold(request, |request, (name, value)| request.header(name, value)).send().await;
        assert_eq!(answer.status, 200, "{kind:?} {answer}\n{}", gateway.output());
        assert_eq!(answer.text(), "films");
        let [asked] = &app.asked()[..] else { panic!("{kind:?}: {:?}", app.asked()) };
        assert_eq!(asked.target, "/api/v1/films?limit=3", "{kind:?}");
        assert_eq!(only(asked, "x-auth-user"), Some(&ann.uuid[..]), "{kind:?} {asked:?}");
        assert_eq!(only(asked, "x-auth-session"), Some(&session[..]), "{kind:?} {asked:?}");
        assert_eq!(only(asked, "x-auth-kind"), Some("user"), "{kind:?} {asked:?}");
        assert_eq!(only(asked, "x-request-id"), Some("mine-1"), "{kind:?} {asked:?}");
    }
}

#[tokio::test]
async fn callers_without_the_permission_are_refused() {
    let (node, root) = node().await;
    let bob = node.register("bob").await;
    let ann = holder(&node, &root).await;
    ann.delete("auth_token").send().await.is_done();
    for kind in Kind::ALL {
        let app = application().await;
        let gateway = Gateway::start(kind, node.address(), app.address()).await;
        for (token, status) in
            [(&ann.access[..], 401), ("a.b.c", 401), (&bob.access, 403), (&bob.refresh, 401)]
        {
            let answer = gateway.client().get(GATED).bearer(token).send().await;
            assert_eq!(answer.status, status, "{kind:?} {answer}");
            assert!(!answer.field("code").is_empty(), "Palisade's own answer: {kind:?} {answer}");
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            assert!(challenge.starts_with("Bearer"), "{kind:?} {answer}");
        }
        let both = gateway.client().get(GATED).bearer(&ann.access).bearer(&root.access).send().await;
        assert!((400..=403).contains(&both.status), "{kind:?} {both}");
        let basic = gateway.client().get(GATED).authorization(b"Basic YTpi").send().await;
        assert_eq!(basic.status, 401, "{kind:?} {basic}");
        assert!(app.asked().is_empty(), "{kind:?} {:?}", app.asked());
    }
}

#[tokio::test]
async fn films_behind_a_gateway_show_everything() {
    let (node, root) = node().await;
    let ann = holder(&node, &root).await;
    let films = Films::before(node.address()).await;
    for kind in Kind::ALL {
        let gateway = Gateway::start(kind, node.address(), films.client().address()).await;
        let answer = gateway.client().get(GATED).bearer(&ann.access).send().await;
        assert_eq!(answer.status, 200, "{kind:?} {answer}");
        let rated = answer.json()[0]["rating"].as_f64();
        assert!(rated.is_some_and(|rating| rating > 7.0), "{kind:?} {answer}");
    }
}
