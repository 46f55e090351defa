//! Which films a caller sees, as a real node decides.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::{Films, Node, Person, Shared, eventually};

use super::{ids, shows_all_films, shows_open_films};

/// How old a verdict may be here, as `films` is started; its default is one second.
const VERDICT_MAX_AGE: Duration = Duration::from_secs(1);
/// What a busy machine may add.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// A node that has the permission, and the superuser.
async fn node() -> (Node, Person) {
    static NODE: Shared = Shared::with(&[]);
    let node = NODE.node().await;
    let root = node.root().await;
    let made = root.post("permissions").json(&json!({"name": "pro_read"})).send().await;
    assert!(matches!(made.status, 201 | 409), "{made}");
    (node, root)
}

#[tokio::test]
async fn holders_of_the_permission_see_all_films() {
    let (node, root) = node().await;
    let films = Films::before(node.address()).await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    root.gives(&ann, "pro_read").await.is(200);
    shows_all_films(&films.shown_to(Some(&ann.access)).await);
    let plain = films.shown_to(Some(&bob.access)).await;
    shows_open_films(&plain);
    assert_eq!(plain.header("x-auth-degraded"), None);
    let anonymous = films.shown_to(None).await;
    shows_open_films(&anonymous);
    assert_eq!(ids(&anonymous), ids(&plain));
    for answer in [plain, anonymous] {
        assert_eq!(answer.header("www-authenticate"), None, "{answer}");
        assert_eq!(answer.header("cache-control"), Some("private, no-store"));
    }
}

#[tokio::test]
async fn limit_keeps_the_best_films() {
    let (node, _) = node().await;
    let films = Films::before(node.address()).await;
    let all = ids(&films.shown_to(None).await);
    let some = films.client().get("films?limit=3").send().await;
    assert_eq!(ids(&some), all[..3]);
    for query in ["limit=0", "limit=201", "limit=x", "limit=1&limit=2"] {
        films.client().get(&format!("films?{query}")).send().await.is_refused(400);
    }
    films.client().get("/other").send().await.is_refused(404);
    films.client().post("films").send().await.is_refused(405);
}

#[tokio::test]
async fn dead_token_is_told_and_counts_as_anonymous() {
    let (node, root) = node().await;
    let films = Films::before(node.address()).await;
    let ann = node.register("ann").await;
    root.gives(&ann, "pro_read").await.is(200);
    ann.delete("auth_token").send().await.is_done();
    for token in [&ann.access, "a.b.c", "x", &ann.refresh] {
        let answer = films.shown_to(Some(token)).await;
        shows_open_films(&answer);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""), "{answer}");
        assert_eq!(answer.header("x-auth-degraded"), None, "{answer}");
    }
    let twice = films.client().get("films").bearer(&ann.access).bearer(&ann.access).send().await;
    shows_open_films(&twice);
    assert_eq!(twice.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
}

#[tokio::test]
async fn logout_is_seen_within_the_age_of_a_verdict() {
    let (node, root) = node().await;
    let films = Films::before(node.address()).await;
    let ann = node.register("ann").await;
    root.gives(&ann, "pro_read").await.is(200);
    shows_all_films(&films.shown_to(Some(&ann.access)).await);
    ann.delete("auth_token").send().await.is_done();
    sees_no_more(&films, &ann).await;
    let bob = node.register("bob").await;
    root.gives(&bob, "pro_read").await.is(200);
    shows_all_films(&films.shown_to(Some(&bob.access)).await);
    root.takes(&bob, "pro_read").await.is(200);
    sees_no_more(&films, &bob).await;
}

async fn sees_no_more(films: &Films, person: &Person) {
    let start = Instant::now();
    eventually(VERDICT_MAX_AGE + CLOCK_SLACK, "fewer films", async || {
        let answer = films.shown_to(Some(&person.access)).await;
        assert_eq!(answer.header("x-auth-degraded"), None, "{answer}");
        super::ratings(&answer).iter().all(|rating| *rating <= 7.0).then_some(())
    })
    .await;
    assert!(start.elapsed() < VERDICT_MAX_AGE + CLOCK_SLACK);
}

#[tokio::test]
async fn paused_node_degrades_films_until_it_resumes() {
    let node = Node::start().await;
    let root = node.root().await;
    root.post("permissions").json(&json!({"name": "pro_read"})).send().await.is(201);
    let ann = node.register("ann").await;
    root.gives(&ann, "pro_read").await.is(200);
    let films = Films::before(node.address()).await;
    shows_all_films(&films.shown_to(Some(&ann.access)).await);
    node.pause();
    super::degraded::degrades(&films, &ann.access).await;
    node.resume();
    super::degraded::recovers(&films, &ann.access).await;
    node.kill_dash_9();
    super::degraded::degrades(&films, &ann.access).await;
}
