//! `/auth_request`: the question of gateways (nginx, Traefik, Caddy), which understand only
//! 2xx, 401 and 403.

use serde_json::json;
use testkit::{Node, fresh};

#[tokio::test]
async fn a_gateway_learns_who_it_is() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let answer = ann.get("/auth_request").send().await;
    answer.is_done();
    assert_eq!(answer.header("x-auth-user"), Some(ann.uuid.as_str()));
    assert_eq!(answer.header("x-auth-session"), Some(ann.session().await.as_str()));
}

#[tokio::test]
async fn who_is_not_in_is_401_for_whatever_reason() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    node.get("/auth_request").send().await.is_refused(401);
    node.get("/auth_request").authorization(b"Basic x").send().await.is_refused(401);
    ann.delete("auth_token").send().await.is_done();
    let out = ann.get("/auth_request").send().await;
    out.is_error(401, "Token has been revoked");
    assert!(out.header("x-auth-user").is_none());
    // nginx turns any other 4xx of its subrequest into a 500: a bad token must not do that.
    for token in ["x", "a.b.c", "prt_x", &ann.refresh] {
        let answer = node.get("/auth_request").bearer(token).send().await;
        assert!(matches!(answer.status, 401 | 403), "{answer}");
        answer.is_refused(answer.status);
    }
}

#[tokio::test]
async fn who_may_not_is_403() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    let path = format!("/auth_request?permissions=%22{films}%22");
    ann.get(&path).send().await.is_refused(403);
    root.gives(&ann, &films).await.is(200);
    ann.get(&path).send().await.is_done();
    let query =
        format!("/auth_request?permissions=%7B%22all%22%3A%5B%22{films}%22%2C%22{}%22%5D%7D", fresh("x"));
    ann.get(&query).send().await.is_refused(403);
    root.takes(&ann, &films).await.is(200);
    ann.get(&path).send().await.is_refused(403);
    node.get(&path).send().await.is_refused(401);
}

#[tokio::test]
async fn a_question_that_cannot_be_read_lets_nobody_through() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    for query in ["permissions=", "permissions=nonsense", "permissions=%22a%22&permissions=%22b%22"] {
        let answer = ann.get(&format!("/auth_request?{query}")).send().await;
        assert!(answer.status >= 400, "{query}\n{answer}");
        answer.is_refused(answer.status);
    }
}

#[tokio::test]
async fn the_client_cannot_say_who_it_is() {
    let node = Node::shared().await;
    let (ann, bob) = (node.register("ann").await, node.register("bob").await);
    let answer = ann.get("/auth_request").header("x-auth-user", &bob.uuid).send().await;
    assert_eq!(answer.is(204).header("x-auth-user"), Some(ann.uuid.as_str()));
    let body = json!({"tokens": []});
    ann.post("auth_token/validation/batch").header("x-auth-user", &bob.uuid).json(&body).send().await.is(200);
}
