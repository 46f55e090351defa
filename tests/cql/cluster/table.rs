//! What each call does when something is down: the table of the manual, a test for each cell.
//!
//! A column is a scene that its tests share: nodes to which that has happened. What a test needs was
//! prepared before it happened, and is used by one test only.

mod cut_off_from_peers_and_store;
mod cut_off_with_the_store_up;
mod redis_down;
mod some_peers_down;
mod store_down;

use std::sync::Mutex;

use serde_json::json;
use testkit::{Answer, Client, Cluster, Node, Person, Request, eventually, fresh, servers::Redis, store};

use super::{PROPAGATION_TIMEOUT, is_in_everywhere, is_out_at_once, is_out_before_long, stale_ms};

/// Tests of a column.
const ROWS: usize = 5;

struct Scene {
    cluster: Cluster,
    /// How many of the nodes are asked: the first of them.
    asked: usize,
    /// By what the test asks: with connections of its own.
    casts: Mutex<Vec<Cast>>,
    films: String,
    _redis: Option<Redis>,
}

/// The users of one test.
struct Cast {
    /// May see films, of which every node knows.
    ann: Person,
    /// Another session of hers.
    other: Person,
    /// Logged out.
    bob: Person,
    /// May see films, of which no node was asked.
    cid: Person,
}

impl Cast {
    async fn of(nodes: &[Node], root: &Person, films: &str) -> Self {
        let a = &nodes[0];
        let ann = a.register("ann").await;
        let bob = a.register("bob").await;
        let cid = a.register("cid").await;
        let other = ann.in_another_session().await;
        for person in [&ann, &cid] {
            root.gives(person, films).await.is(200);
        }
        for node in nodes {
            eventually(PROPAGATION_TIMEOUT, "it knows what she may do", async || {
                ann.at(node).may(films).await.then_some(())
            })
            .await;
        }
        bob.delete("auth_token").send().await.is_done();
        for node in nodes {
            is_out_before_long(node, &bob, "a logout before the scene").await;
        }
        Self { ann, other, bob, cid }
    }

    fn at(self, node: &Client) -> Self {
        let Self { ann, other, bob, cid } = self;
        Self { ann: ann.at(node), other: other.at(node), bob: bob.at(node), cid: cid.at(node) }
    }
}

impl Scene {
    async fn of(cluster: Cluster, redis: Option<Redis>) -> Self {
        let root = cluster.root();
        let films = root.makes_permission("films").await;
        let mut casts = Vec::new();
        for _ in 0..ROWS {
            casts.push(Cast::of(cluster.nodes(), root, &films).await);
        }
        Self { asked: cluster.nodes().len(), cluster, casts: Mutex::new(casts), films, _redis: redis }
    }

    /// The nodes, and users that send their requests to the first of them. The scene ends with its last
    /// holder.
    fn play(&self) -> (Vec<Node>, Cast) {
        let mut nodes = self.cluster.handles();
        nodes.truncate(self.asked);
        let cast = self.casts.lock().unwrap().pop().expect("there are no more tests than casts");
        let cast = cast.at(&nodes[0]);
        (nodes, cast)
    }

    /// A superuser, whose power every node knows.
    fn root(&self, node: &Client) -> Person {
        self.cluster.root().at(node)
    }
}

fn check(person: &Person, permission: &str) -> Request {
    person.get(&format!("users/me/combined_permissions/validation?permissions=%22{permission}%22"))
}

/// Decided, and not too old to.
async fn decides_normally(nodes: &[Node], cast: &Cast) {
    for node in nodes {
        for _ in 0..3 {
            let answer = cast.ann.at(node).validate().await;
            assert_eq!((answer.status, stale_ms(&answer)), (200, None), "{answer}");
            cast.bob.at(node).validate().await.is_error(401, "Token has been revoked");
            node.validate("a.b.c").await.is_refused(422);
        }
    }
}

async fn checks_normally(nodes: &[Node], cast: &Cast, films: &str) {
    for node in nodes {
        let ann = cast.ann.at(node);
        let cid = cast.cid.at(node);
        assert!(ann.may(films).await && cid.may(films).await);
        assert!(!ann.may("nothing").await);
        assert_eq!(stale_ms(&check(&ann, films).send().await), None);
    }
}

/// Log-in, registration and changes, of which the other nodes know.
async fn changes_normally(nodes: &[Node], cast: &Cast, root: &Person, films: &str) {
    for node in nodes {
        let again = cast.ann.at(node).in_another_session().await;
        is_in_everywhere(nodes, &again).await;
        let dan = node.register("dan").await;
        is_in_everywhere(nodes, &dan).await;
        let root = root.at(node);
        root.gives(&dan, films).await.is(200);
        assert!(dan.may(films).await);
        dan.patch("users/me").json(&json!({"first_name": "Daniel"})).send().await.is(200);
        let pair = dan.post("users/me/password");
        let body = json!({"old_password": dan.password, "new_password": fresh("another secret")});
        let pair = pair.json(&body).send().await.pair();
        is_in_everywhere(nodes, &dan.with_tokens(pair)).await;
        is_out_at_once([node], &dan).await;
    }
}

/// At one and at the other, and both refuse it at once.
async fn logs_out_normally(nodes: &[Node], cast: &Cast) {
    for (person, node) in [(&cast.other, &nodes[0]), (&cast.cid, &nodes[1])] {
        let answer = person.at(node).delete("auth_token").send().await;
        answer.is_done().is_visible_at(1).is_visible_everywhere();
        is_out_at_once(nodes, person).await;
    }
}

async fn refreshes_normally(nodes: &[Node], cast: &Cast) {
    let mut ann = cast.other.clone();
    for node in nodes.iter().chain(nodes) {
        let next = ann.at(node).refreshed().await;
        is_in_everywhere(nodes, &next).await;
        // Every call gets the same successor.
        assert_eq!(ann.at(&nodes[0]).refreshed().await.refresh, next.refresh);
        ann = next;
    }
}

async fn is_unavailable(request: Request) -> Answer {
    let answer = request.send().await;
    answer.is_refused(503);
    answer
}

async fn cannot_change(scene: &Scene, nodes: &[Node], cast: &Cast) {
    for node in nodes {
        let ann = cast.ann.at(node);
        let root = scene.root(node);
        let new =
            json!({"email": format!("{}@example.org", fresh("new")), "password": fresh("a new secret")});
        for request in [
            node.post("auth_token").json(&json!({"email": ann.email, "password": ann.password})),
            node.post("auth_token").json(&json!({"email": ann.email, "password": "a wrong password"})),
            node.post("users").json(&new),
            ann.patch("users/me").json(&json!({"first_name": "Anna"})),
            ann.post("users/me/password")
                .json(&json!({"old_password": ann.password, "new_password": fresh("another secret")})),
            root.post(&ann.path("permissions")).json(&json!({"name": scene.films})),
            root.post("permissions").json(&json!({"name": fresh("p")})),
        ] {
            is_unavailable(request).await;
        }
        // No user was called inactive.
        let answer = ann.validate().await;
        assert!(matches!(answer.status, 200 | 503), "{answer}");
    }
}

/// Refused, and the store's row is as it was: the token is not spent.
async fn cannot_refresh_and_spends_nothing(scene: &Scene, nodes: &[Node], person: &Person) {
    let id = testkit::forge::parts(&person.access).claims["sid"].as_str().unwrap().to_owned();
    let live = async || {
        let keyspace = scene.cluster.keyspace().name();
        let select =
            format!("SELECT JSON live FROM {keyspace}.sessions WHERE user = {} AND id = {id}", person.uuid);
        let session = store::cassandra().await;
        let row = session.query_unpaged(select, ()).await.unwrap().into_rows_result().unwrap();
        row.single_row::<(String,)>().unwrap().0
    };
    let before = live().await;
    for node in nodes.iter().cycle().take(3 * nodes.len()) {
        is_unavailable(node.post("auth_token/token_refresh").bearer(&person.refresh)).await;
    }
    assert_eq!(live().await, before, "the token is spent");
}

fn is_durable_in(answer: &Answer, place: &str) {
    assert_eq!(answer.header("palisade-durability"), Some(place), "{answer}");
}
