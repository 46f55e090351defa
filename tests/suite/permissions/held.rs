//! A delayed request: its head arrives while the caller has the right to it, its last byte after that
//! right was revoked.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Node, Person, raw::Raw};

/// A request of which all but the last byte has been sent.
struct Held {
    raw: Raw,
    last: u8,
}

impl Held {
    async fn of(node: &Node, whose: &Person, method: &str, path: &str, body: &Value) -> Self {
        let body = body.to_string();
        let (start, last) = body.split_at(body.len() - 1);
        let mut raw = Raw::to(node).await;
        let head = format!(
            "{method} /api/v1/{path} HTTP/1.1\r\nHost: palisade\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{start}",
            whose.access,
            body.len(),
        );
        raw.send(head.as_bytes()).await.expect("the head is sent");
        // Long enough for the node to have read the head: an answer now would be a wrong one.
        assert_eq!(raw.reply(Duration::from_millis(300)).await.status(), None);
        Self { raw, last: last.as_bytes()[0] }
    }

    async fn released(mut self) -> Option<u16> {
        self.raw.send([self.last]).await.expect("the last byte is sent");
        self.raw.reply(Duration::from_secs(10)).await.status()
    }
}

#[tokio::test]
async fn grant_delayed_past_a_logout_is_refused() {
    let node = Node::shared().await;
    let root = node.another_superuser().await;
    let accomplice = node.register("accomplice").await;
    let held =
        Held::of(&node, &root, "POST", &accomplice.path("permissions"), &json!({"name": "all_all"})).await;
    root.delete("auth_token").send().await.is(204);
    assert_eq!(held.released().await, Some(401));
    assert!(!accomplice.may("all_all").await);
}

#[tokio::test]
async fn password_set_delayed_past_a_promotion_is_refused() {
    let node = Node::shared().await;
    let root = node.another_superuser().await;
    let admin = node.register("admin").await;
    let rising = node.register("rising").await;
    root.gives(&admin, "users_admin").await.is(200);
    let body = json!({"new_password": "the admin's own choice"});
    let held = Held::of(&node, &admin, "POST", &rising.path("password"), &body).await;
    root.gives_role(&rising, "superuser").await.is(200);
    assert_eq!(held.released().await, Some(403));
    node.log_in(&rising.email, "the admin's own choice").await.is_refused(401);
    root.takes_role(&rising, "superuser").await.is(200);
}

#[tokio::test]
async fn change_delayed_past_the_loss_of_its_right_is_refused() {
    let node = Node::shared().await;
    let root = node.root().await;
    let admin = node.register("admin").await;
    let ann = node.register("ann").await;
    root.gives(&admin, "users_admin").await.is(200);
    let held = Held::of(&node, &admin, "PATCH", &ann.path(""), &json!({"first_name": "Mallory"})).await;
    root.takes(&admin, "users_admin").await.is(200);
    assert_eq!(held.released().await, Some(403));
    assert_ne!(ann.get("users/me").send().await.is(200).json()["first_name"], "Mallory");
}
