//! What each call does when something is down: the table of the manual, a test for each cell.
//!
//! A column is a scene that its tests share: nodes to which that has happened. What a test needs was
//! prepared before it happened, and is used by one test only.

use std::sync::{Arc, Mutex};

use serde_json::json;
use testkit::{
    Answer, Client, Cluster, Node, Person, Request, background::SharedBy, eventually, fresh, servers::Redis,
    store,
};

use super::{
    HEARD, NOTICED, becomes, is_in_everywhere, is_out_at_once, is_out_before_long, is_visible_nowhere,
    stale_ms,
};

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

/// Who plays in one test.
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
        let (ann, bob, cid) = (a.register("ann").await, a.register("bob").await, a.register("cid").await);
        let other = ann.in_another_session().await;
        for person in [&ann, &cid] {
            root.gives(person, films).await.is(200);
        }
        for node in nodes {
            eventually(HEARD, "it knows what she may do", async || {
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

    /// The nodes that are asked, and people who ask the first of them. The scene ends with its last holder.
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
async fn decides_as_ever(nodes: &[Node], cast: &Cast) {
    for node in nodes {
        for _ in 0..3 {
            let answer = cast.ann.at(node).validate().await;
            assert_eq!((answer.status, stale_ms(&answer)), (200, None), "{answer}");
            cast.bob.at(node).validate().await.is_error(401, "Token has been revoked");
            node.validate("a.b.c").await.is_refused(422);
        }
    }
}

async fn checks_as_ever(nodes: &[Node], cast: &Cast, films: &str) {
    for node in nodes {
        let (ann, cid) = (cast.ann.at(node), cast.cid.at(node));
        assert!(ann.may(films).await && cid.may(films).await);
        assert!(!ann.may("nothing").await);
        assert_eq!(stale_ms(&check(&ann, films).send().await), None);
    }
}

/// Log-in, registration and changes, of which the other nodes know.
async fn changes_as_ever(nodes: &[Node], cast: &Cast, root: &Person, films: &str) {
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
async fn logs_out_as_ever(nodes: &[Node], cast: &Cast) {
    for (person, node) in [(&cast.other, &nodes[0]), (&cast.cid, &nodes[1])] {
        let answer = person.at(node).delete("auth_token").send().await;
        answer.is_done().is_visible_at(1).is_visible_everywhere();
        is_out_at_once(nodes, person).await;
    }
}

async fn refreshes_as_ever(nodes: &[Node], cast: &Cast) {
    let mut ann = cast.other.clone();
    for node in nodes.iter().chain(nodes) {
        let next = ann.at(node).refreshed().await;
        is_in_everywhere(nodes, &next).await;
        // Whoever asks gets the same one.
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
        let (ann, root) = (cast.ann.at(node), scene.root(node));
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
        // Nobody was called inactive.
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

mod store_down {
    use super::*;

    async fn scene() -> Arc<Scene> {
        static SCENE: SharedBy<Scene> = SharedBy::tests();
        SCENE
            .or(async || {
                let scene = Scene::of(Cluster::builder(2).proxied_together().start().await, None).await;
                scene.cluster.proxy(0).cut().await;
                for node in scene.cluster.nodes() {
                    becomes(node, "palisade_store_up", 0.0).await;
                }
                scene
            })
            .await
    }

    #[tokio::test]
    async fn validation_goes_on_as_ever() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        decides_as_ever(&nodes, &cast).await;
    }

    #[tokio::test]
    async fn a_permission_check_that_was_made_before_goes_on_and_another_is_503() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        for node in &nodes {
            assert!(cast.ann.at(node).may(&scene.films).await);
            assert!(!cast.ann.at(node).may("nothing").await);
            is_unavailable(check(&cast.cid.at(node), &scene.films)).await;
        }
    }

    #[tokio::test]
    async fn a_logout_holds_on_all_nodes_at_once_and_waits_in_the_journal() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        for (person, node) in [(&cast.other, &nodes[0]), (&cast.cid, &nodes[1])] {
            let answer = person.at(node).delete("auth_token").send().await;
            is_durable_in(answer.is_done().is_visible_at(1), "journal");
            for node in &nodes {
                node.validate(&person.access).await.is_error(401, "Token has been revoked");
            }
        }
        let answer = cast.ann.delete("auth_token/all").send().await;
        is_durable_in(answer.is_done().is_visible_at(1), "journal");
        for node in &nodes {
            node.validate(&cast.ann.access).await.is_error(401, "Token has been revoked");
        }
    }

    #[tokio::test]
    async fn log_in_registration_and_changes_are_503() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        cannot_change(&scene, &nodes, &cast).await;
    }

    #[tokio::test]
    async fn a_refresh_is_503_and_spends_nothing() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        cannot_refresh_and_spends_nothing(&scene, &nodes, &cast.other).await;
    }
}

mod redis_down {
    use super::*;

    async fn scene() -> Arc<Scene> {
        static SCENE: SharedBy<Scene> = SharedBy::tests();
        SCENE
            .or(async || {
                let redis = Redis::start().await;
                let builder = Cluster::builder(2).setting("REDIS", redis.url());
                let scene = Scene::of(builder.setting("LOGIN_ACCOUNT_FAILURES", "5/15m").start().await, None);
                let scene = scene.await;
                redis.kill();
                for node in scene.cluster.nodes() {
                    becomes(node, "palisade_cache_up", 0.0).await;
                }
                Scene { _redis: Some(redis), ..scene }
            })
            .await
    }

    #[tokio::test]
    async fn validation_goes_on_as_ever() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        decides_as_ever(&nodes, &cast).await;
    }

    #[tokio::test]
    async fn permission_checks_go_on_as_ever() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        checks_as_ever(&nodes, &cast, &scene.films).await;
    }

    #[tokio::test]
    async fn a_logout_holds_on_all_nodes_at_once() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        logs_out_as_ever(&nodes, &cast).await;
    }

    #[tokio::test]
    async fn log_in_registration_and_changes_go_on_as_ever_with_limits_per_node() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        changes_as_ever(&nodes, &cast, &scene.root(&nodes[0]), &scene.films).await;
        for _ in 0..5 {
            let failed = nodes[0].log_in(&cast.cid.email, "not the password").await;
            failed.is_error(401, "Bad email or password");
        }
        nodes[0].log_in(&cast.cid.email, &cast.cid.password).await.is_refused(429);
        nodes[1].log_in(&cast.cid.email, &cast.cid.password).await.is(200);
    }

    #[tokio::test]
    async fn refreshes_go_on_as_ever() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        refreshes_as_ever(&nodes, &cast).await;
    }
}

mod some_peers_down {
    use super::*;

    /// The last of three nodes was killed.
    async fn scene() -> Arc<Scene> {
        static SCENE: SharedBy<Scene> = SharedBy::tests();
        SCENE
            .or(async || {
                let scene = Scene::of(Cluster::of(3).await, None).await;
                scene.cluster[2].kill_dash_9();
                scene.cluster.is_missed(&scene.cluster[0], "c").await;
                scene.cluster.is_missed(&scene.cluster[1], "c").await;
                Scene { asked: 2, ..scene }
            })
            .await
    }

    #[tokio::test]
    async fn validation_goes_on_as_ever() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        decides_as_ever(&nodes, &cast).await;
    }

    #[tokio::test]
    async fn permission_checks_go_on_as_ever() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        checks_as_ever(&nodes, &cast, &scene.films).await;
    }

    #[tokio::test]
    async fn a_logout_holds_on_all_that_live_at_once() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        logs_out_as_ever(&nodes, &cast).await;
    }

    #[tokio::test]
    async fn log_in_registration_and_changes_go_on_as_ever() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        changes_as_ever(&nodes, &cast, &scene.root(&nodes[0]), &scene.films).await;
    }

    #[tokio::test]
    async fn refreshes_go_on_as_ever() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        refreshes_as_ever(&nodes, &cast).await;
    }
}

mod cut_off_with_the_store_up {
    use super::*;

    /// The first of three nodes does not reach the others, which reach each other. All reach the store.
    async fn scene() -> Arc<Scene> {
        static SCENE: SharedBy<Scene> = SharedBy::tests();
        SCENE
            .or(async || {
                let cluster = Cluster::builder(3).relayed().default_setting("ACK_DEADLINE").start().await;
                let scene = Scene::of(cluster, None).await;
                scene.cluster.relay().isolate(0);
                for name in ["b", "c"] {
                    scene.cluster.is_missed(&scene.cluster[0], name).await;
                }
                scene
            })
            .await
    }

    #[tokio::test]
    async fn validation_goes_on_as_ever_and_hears_by_the_ledger() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        decides_as_ever(&nodes, &cast).await;
        cast.other.at(&nodes[1]).delete("auth_token").send().await.is_done();
        is_out_before_long(&nodes[0], &cast.other, "who is cut off refuses it by the ledger").await;
        decides_as_ever(&nodes, &cast).await;
    }

    #[tokio::test]
    async fn permission_checks_go_on_as_ever_and_hear_by_the_ledger() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        checks_as_ever(&nodes, &cast, &scene.films).await;
        scene.root(&nodes[1]).takes(&cast.ann, &scene.films).await.is(200);
        assert!(!cast.ann.at(&nodes[1]).may(&scene.films).await);
        eventually(HEARD, "who is cut off denies it by the ledger", async || {
            (!cast.ann.at(&nodes[0]).may(&scene.films).await).then_some(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_logout_holds_here_at_once_and_with_the_others_by_the_ledger() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        let answer = cast.other.delete("auth_token").send().await;
        is_visible_nowhere(&answer);
        answer.is_done();
        is_out_at_once(&nodes[..1], &cast.other).await;
        for node in &nodes[1..] {
            is_out_before_long(node, &cast.other, "the others refuse it by the ledger").await;
        }
    }

    #[tokio::test]
    async fn log_in_registration_and_changes_go_on_as_ever() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        // What one makes, the others know: the store is one.
        changes_as_ever(&nodes, &cast, &scene.root(&nodes[0]), &scene.films).await;
    }

    #[tokio::test]
    async fn refreshes_go_on_as_ever() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        refreshes_as_ever(&nodes, &cast).await;
    }
}

mod cut_off_from_peers_and_store {
    use super::*;

    /// The first of three nodes may be stale, the second may not; both reach nobody.
    async fn scene() -> Arc<Scene> {
        static SCENE: SharedBy<Scene> = SharedBy::tests();
        SCENE
            .or(async || {
                let builder = Cluster::builder(3).relayed().proxied().default_setting("ACK_DEADLINE");
                let builder = builder.setting("MAX_STALENESS", "1s");
                let scene =
                    Scene::of(builder.setting_of(1, "STALE_POLICY", "closed").start().await, None).await;
                for n in [0, 1] {
                    scene.cluster.relay().isolate(n);
                    scene.cluster.proxy(n).cut().await;
                }
                let witness = scene.cluster.root();
                for n in [0, 1] {
                    let node = &scene.cluster[n];
                    eventually(NOTICED, "it is too old to decide", async || {
                        let answer = node.validate(&witness.access).await;
                        (answer.status == 503 || stale_ms(&answer).is_some()).then_some(())
                    })
                    .await;
                    becomes(node, "palisade_store_up", 0.0).await;
                }
                Scene { asked: 2, ..scene }
            })
            .await
    }

    #[tokio::test]
    async fn validation_says_how_stale_it_is_or_that_it_cannot_know() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        for _ in 0..5 {
            let answer = nodes[0].validate(&cast.ann.access).await;
            answer.is(200);
            assert!(stale_ms(&answer) >= Some(1_000), "{answer}");
            nodes[1].validate(&cast.ann.access).await.is_error(503, "Revocation state is too old to decide");
            // What was heard to be revoked is.
            nodes[0].validate(&cast.bob.access).await.is_error(401, "Token has been revoked");
            let answer = nodes[1].validate(&cast.bob.access).await;
            assert!(matches!(answer.status, 401 | 503), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_permission_check_does_as_validation_and_one_that_was_not_made_before_is_503() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        let answer = check(&cast.ann, &scene.films).send().await;
        assert_eq!(answer.is(200).json(), json!({"valid": true}));
        assert!(stale_ms(&answer).is_some(), "{answer}");
        let closed = check(&cast.ann.at(&nodes[1]), &scene.films).send().await;
        closed.is_error(503, "Revocation state is too old to decide");
        for node in &nodes {
            is_unavailable(check(&cast.cid.at(node), &scene.films)).await;
        }
    }

    #[tokio::test]
    async fn a_logout_holds_here_at_once_and_waits_in_the_journal() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        // Taking away needs to know nothing: also where nothing may be decided.
        for (person, node) in [(&cast.other, &nodes[0]), (&cast.cid, &nodes[1])] {
            let answer = person.at(node).delete("auth_token").send().await;
            is_visible_nowhere(&answer);
            is_durable_in(answer.is_done(), "journal");
            let refused = node.validate(&person.access).await;
            assert!(matches!(refused.status, 401 | 503), "{refused}");
        }
        nodes[0].validate(&cast.other.access).await.is_error(401, "Token has been revoked");
    }

    #[tokio::test]
    async fn log_in_registration_and_changes_are_503() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        cannot_change(&scene, &nodes, &cast).await;
    }

    #[tokio::test]
    async fn a_refresh_is_503_and_spends_nothing() {
        let scene = scene().await;
        let (nodes, cast) = scene.play();
        cannot_refresh_and_spends_nothing(&scene, &nodes, &cast.other).await;
    }
}
