//! The next request on a kept connection sees each revocation, grant and creation.

use serde_json::json;
use testkit::{Node, Person, Raw, fresh};

use super::{ADMIT, ANSWER_TIMEOUT, Answered, Asked, Http2, VALIDATE, ask, check, encoded};

/// Connections on which this person has asked before.
struct Kept {
    raw: Raw,
    http2: Http2,
}

impl Kept {
    async fn of(person: &Person) -> Self {
        let mut kept = Self { raw: Raw::to(person.client()).await, http2: Http2::to(person.client()).await };
        for _ in 0..5 {
            kept.all_say(&Asked::of(VALIDATE).by(&person.access), 200).await;
        }
        kept
    }

    /// Twenty questions at once on the one, and one on the other.
    async fn all_say(&mut self, asked: &Asked, status: u16) -> Answered {
        self.raw.send(asked.bytes().repeat(20)).await.unwrap();
        for _ in 0..20 {
            Answered::of(self.raw.reply(ANSWER_TIMEOUT).await).is(status);
        }
        let answered = self.http2.ask(asked).await;
        answered.is(status);
        answered
    }

    async fn holds(&mut self, asked: &Asked, expected: bool) {
        let answered = self.all_say(asked, 200).await;
        assert_eq!(answered.json(), json!({"valid": expected}));
        assert_eq!(ask(&mut self.raw, asked).await.json(), json!({"valid": expected}));
    }
}

#[tokio::test]
async fn logout_holds_for_the_next_request() {
    let node = Node::shared().await;
    for path in ["auth_token", "auth_token/all"] {
        let ann = node.register("ann").await;
        let mut kept = Kept::of(&ann).await;
        kept.all_say(&Asked::of(ADMIT).by(&ann.access), 204).await;
        ann.at(&node.another_client()).delete(path).send().await.is_done();
        for target in [VALIDATE, ADMIT] {
            let answered = kept.all_say(&Asked::of(target).by(&ann.access), 401).await;
            assert_eq!(answered.msg(), "Token has been revoked");
        }
        kept.all_say(&check("x").by(&ann.access), 401).await;
        // Others on the same connection are good.
        let bob = node.register("bob").await;
        kept.all_say(&Asked::of(VALIDATE).by(&bob.access), 200).await;
    }
}

#[tokio::test]
async fn logout_of_one_session_leaves_the_others() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let other = ann.in_another_session().await;
    let mut kept = Kept::of(&ann).await;
    let mut of_other = Kept::of(&other).await;
    ann.delete("auth_token/others").send().await.is_done();
    of_other.all_say(&Asked::of(VALIDATE).by(&other.access), 401).await;
    kept.all_say(&Asked::of(VALIDATE).by(&ann.access), 200).await;
}

#[tokio::test]
async fn logouts_in_a_row_each_hold_for_the_next_request() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let mut raw = Raw::to(&node).await;
    for _ in 0..20 {
        let session = ann.in_another_session().await;
        let asked = Asked::of(VALIDATE).by(&session.access);
        raw.send(asked.bytes().repeat(3)).await.unwrap();
        for _ in 0..3 {
            Answered::of(raw.reply(ANSWER_TIMEOUT).await).is(200);
        }
        session.delete("auth_token").send().await.is_done();
        raw.send(asked.bytes().repeat(3)).await.unwrap();
        for _ in 0..3 {
            Answered::of(raw.reply(ANSWER_TIMEOUT).await).is(401);
        }
    }
}

#[tokio::test]
async fn user_and_password_changes_hold_for_the_next_request() {
    let node = Node::shared().await;
    let root = node.root().await;
    let [ann, bob, cid] =
        [node.register("ann").await, node.register("bob").await, node.register("cid").await];
    let mut kept = [Kept::of(&ann).await, Kept::of(&bob).await, Kept::of(&cid).await];
    let body = json!({"old_password": ann.password, "new_password": "another secret of ann"});
    let next = ann.post("users/me/password").json(&body).send().await.pair();
    root.sets_active(&bob, false).await.is(200);
    root.delete(&cid.path("")).send().await.is_done();
    for (person, kept) in [&ann, &bob, &cid].into_iter().zip(&mut kept) {
        let answered = kept.all_say(&Asked::of(VALIDATE).by(&person.access), 401).await;
        assert_eq!(answered.msg(), "Token has been revoked");
        kept.all_say(&Asked::of(ADMIT).by(&person.access), 401).await;
        kept.all_say(&check("x").by(&person.access), 401).await;
    }
    kept[0].all_say(&Asked::of(VALIDATE).by(&next.0), 200).await;
}

#[tokio::test]
async fn permission_change_holds_for_the_next_request() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let mut kept = Kept::of(&ann).await;
    // Asked about before there is such a permission, before anybody has it, while she has it, and after.
    let name = fresh("films");
    let asked = check(&name).by(&ann.access);
    let admit =
        Asked::of(&format!("{ADMIT}?permissions={}", encoded(&format!("\"{name}\"")))).by(&ann.access);
    kept.holds(&asked, false).await;
    kept.all_say(&admit, 403).await;
    root.post("permissions").json(&json!({"name": name})).send().await.is(201);
    kept.holds(&asked, false).await;
    for _ in 0..3 {
        root.gives(&ann, &name).await.is(200);
        kept.holds(&asked, true).await;
        kept.all_say(&admit, 204).await;
        root.takes(&ann, &name).await.is(200);
        kept.holds(&asked, false).await;
        kept.all_say(&admit, 403).await;
    }
    // By a role, and by the end of the permission itself.
    let role = root.makes_role("viewer", &[]).await;
    root.gives_role(&ann, &role).await.is(200);
    kept.holds(&asked, false).await;
    root.puts(&name, &role).await.is(200);
    kept.holds(&asked, true).await;
    root.takes_out(&name, &role).await.is(200);
    kept.holds(&asked, false).await;
    root.puts(&name, &role).await.is(200);
    root.takes_role(&ann, &role).await.is(200);
    kept.holds(&asked, false).await;
    root.gives_role(&ann, &role).await.is(200);
    kept.holds(&asked, true).await;
    root.delete(&format!("permissions/{name}")).send().await.is_done();
    kept.holds(&asked, false).await;
    // One of the same name is another one.
    root.post("permissions").json(&json!({"name": name})).send().await.is(201);
    kept.holds(&asked, false).await;
    root.gives(&ann, &name).await.is(200);
    kept.holds(&asked, true).await;
}

#[tokio::test]
async fn query_right_and_queried_user_hold_for_the_next_request() {
    let node = Node::shared().await;
    let root = node.root().await;
    let [service, ann] = [node.register("service").await, node.register("ann").await];
    let mut kept = Kept::of(&service).await;
    let has = root.makes_permission("has").await;
    root.gives(&ann, &has).await.is(200);
    let target =
        format!("/api/v1/users/{}/combined_permissions/validation?permissions=%22{has}%22", ann.uuid);
    let asked = Asked::of(&target).by(&service.access);
    kept.all_say(&asked, 403).await;
    root.gives(&service, "permissions_check").await.is(200);
    kept.holds(&asked, true).await;
    root.takes(&service, "permissions_check").await.is(200);
    kept.all_say(&asked, 403).await;
    root.gives(&service, "permissions_check").await.is(200);
    kept.holds(&asked, true).await;
    root.delete(&ann.path("")).send().await.is_done();
    kept.all_say(&asked, 404).await;
}

#[tokio::test]
async fn hundreds_of_permissions_are_told_apart() {
    let node = Node::start().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    let mut kept = Kept::of(&ann).await;
    // More than the bits of any word; every third is hers, every fifth his.
    let mut names = Vec::new();
    for n in 0..150 {
        names.push(root.makes_permission(&format!("p{n}")).await);
    }
    for (n, name) in names.iter().enumerate() {
        if n % 3 == 0 {
            root.gives(&ann, name).await.is(200);
        }
        if n % 5 == 0 {
            root.gives(&bob, name).await.is(200);
        }
    }
    for _ in 0..2 {
        for (n, name) in names.iter().enumerate() {
            for (person, every) in [(&ann, 3), (&bob, 5)] {
                let answered = ask(&mut kept.raw, &check(name).by(&person.access)).await;
                assert_eq!(answered.json(), json!({"valid": n % every == 0}), "{name} of {}", person.email);
            }
        }
    }
    root.takes(&ann, &names[0]).await.is(200);
    root.gives(&ann, &names[149]).await.is(200);
    kept.holds(&check(&names[0]).by(&ann.access), false).await;
    kept.holds(&check(&names[149]).by(&ann.access), true).await;
    kept.holds(&check(&names[0]).by(&bob.access), true).await;
    // Another life of the node gives other numbers.
    node.restart().await;
    let mut raw = Raw::to(&node).await;
    for (name, expected) in [(&names[0], false), (&names[149], true), (&names[3], true), (&names[4], false)] {
        assert_eq!(ask(&mut raw, &check(name).by(&ann.access)).await.json(), json!({"valid": expected}));
    }
}
