//! The database is down, in every way that makes a difference: what each call answers meanwhile, and
//! that all is well afterwards without a hand on the node.

use std::{
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use scylla::client::session::Session;
use serde_json::{Value, json};
use testkit::{
    Answer, Client, Node, Palisade, Person, Request, eventually, fresh,
    node::Builder,
    servers::{Action, Cassandra, Proxy},
    store::{self, Keyspace, MASTER_KEY},
    within,
};

/// No answer takes longer, whatever the database does.
const ANSWER: Duration = Duration::from_secs(30);
/// Until the node works with its database again. What is promised and measured is less; a busy
/// machine may need more.
const WELL: Duration = Duration::from_secs(60);
/// Until a node has heard what another took away.
const HEARD: Duration = Duration::from_secs(60);

/// How a database is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Connections end, and there are no new ones.
    Cut,
    /// Connections are there and new ones accepted, and nothing is ever answered.
    Stalled,
    /// All takes three seconds, each way.
    Slow,
    /// Bits of what it answers are wrong.
    Corrupt,
}

const WAYS: [Way; 4] = [Way::Cut, Way::Stalled, Way::Slow, Way::Corrupt];
/// Those in which it says nothing in time. CQL has no checksums: bits that are wrong and make sense
/// are believed, so of what was read nothing can be promised while they are.
const AWAY: [Way; 3] = [Way::Cut, Way::Stalled, Way::Slow];

/// Says in which way the database was down when a test failed.
#[must_use]
struct While(Way);

impl Drop for While {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("failed while the database was {:?}", self.0));
        }
    }
}

/// For who reads the output of a run.
pub fn say(figure: &str) {
    let _ = writeln!(std::io::stderr(), "--- {figure}");
}

/// A node that reaches its keyspace by a proxy.
pub struct Behind {
    pub node: Node,
    pub proxy: Proxy,
    pub keyspace: Arc<Keyspace>,
    /// Somebody who asks what only the database knows.
    watcher: Person,
}

impl Behind {
    pub async fn a_proxy() -> Self {
        Self::with(&[]).await
    }

    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let keyspace = Arc::new(Keyspace::take().await);
        let proxy = Proxy::to(Cassandra::one().await.address()).await;
        let builder = Node::builder().on_keyspace(&keyspace, proxy.address());
        let builder = settings.iter().fold(builder, |builder, (name, value)| builder.setting(name, *value));
        let node = builder.start().await;
        let watcher = node.register("watcher").await;
        Self { node, proxy, keyspace, watcher }
    }

    /// Another node, whose way to the keyspace is whole.
    pub async fn elsewhere(&self) -> Node {
        on(&self.keyspace).await.start().await
    }

    fn hurt(&self, way: Way) -> impl Future<Output = While> {
        hurt(&self.proxy, way)
    }

    /// The node knows that its database is down.
    async fn noticed(&self) {
        eventually(ANSWER, "the node notices", async || (store_of(&self.node).await == "down").then_some(()))
            .await;
    }

    /// Mends the way and waits until what needs the database is answered again.
    pub async fn mended(&self) -> Duration {
        self.proxy.forget();
        self.proxy.mend().await;
        let start = Instant::now();
        eventually(WELL, "the node works with its database again", async || {
            let asked = self.watcher.get("users/me").try_send();
            let answer = tokio::time::timeout(Duration::from_millis(500), asked).await;
            let answers = answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200));
            (answers && store_of(&self.node).await == "up").then_some(())
        })
        .await;
        start.elapsed()
    }

    /// How many rows the database itself has.
    pub async fn rows(&self, table: &str, condition: &str) -> usize {
        rows(&store::cassandra().await, &self.keyspace, table, condition).await
    }
}

async fn hurt(proxy: &Proxy, way: Way) -> While {
    match way {
        Way::Cut => proxy.cut().await,
        Way::Stalled => proxy.stall(),
        Way::Slow => proxy.delay(Duration::from_secs(3)),
        Way::Corrupt => proxy.corrupt(),
    }
    While(way)
}

/// A node to be, whose way to the keyspace is whole.
async fn on(keyspace: &Arc<Keyspace>) -> Builder {
    Node::builder().on_keyspace(keyspace, Cassandra::one().await.address())
}

async fn rows(session: &Session, keyspace: &Keyspace, table: &str, condition: &str) -> usize {
    let select = format!("SELECT * FROM {}.{table} WHERE {condition}", keyspace.name());
    let found = session.query_unpaged(select, ()).await.unwrap().into_rows_result().unwrap();
    found.rows_num()
}

async fn alter(keyspace: &Keyspace, what: &str) {
    let cql = what.replace("KEYSPACE", keyspace.name());
    store::cassandra().await.query_unpaged(cql, ()).await.unwrap();
}

async fn health(node: &Node) -> Value {
    node.get("/health/live").send().await.is(200).json()
}

/// A metric without labels.
async fn gauge(node: &Node, name: &str) -> Option<f64> {
    node.metric(&format!("{name}{{}}")).await
}

async fn store_of(node: &Node) -> String {
    health(node).await["store"].as_str().unwrap().to_owned()
}

/// 503 with `Retry-After`, in time.
async fn is_unavailable(request: Request) -> Answer {
    let start = Instant::now();
    let answer = request.send().await;
    answer.is_refused(503);
    assert!(start.elapsed() < ANSWER, "after {:?}\n{answer}", start.elapsed());
    answer
}

/// 204, in time for a person; durable on this node's disk.
async fn is_out_by_the_journal(request: Request) {
    let start = Instant::now();
    let answer = request.send().await;
    answer.is_done();
    assert!(start.elapsed() < Duration::from_secs(10), "after {:?}\n{answer}", start.elapsed());
    assert_eq!(answer.header("palisade-durability"), Some("journal"), "{answer}");
    assert_eq!(answer.header("palisade-visible"), Some("0/0"), "{answer}");
}

async fn is_revoked(client: &Client, token: &str) {
    client.validate(token).await.is_error(401, "Token has been revoked");
}

/// Another node has heard it.
async fn gets_revoked(client: &Client, token: &str) {
    eventually(HEARD, "the other node refuses it too", async || {
        let answer = client.validate(token).await;
        if answer.status == 200 {
            return None;
        }
        answer.is_error(401, "Token has been revoked");
        Some(())
    })
    .await;
}

// What is answered while it is down.

#[tokio::test]
async fn validation_goes_on_as_ever() {
    let here = Behind::a_proxy().await;
    let (ann, bob) = (here.node.register("ann").await, here.node.register("bob").await);
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
async fn a_permission_check_that_was_made_before_goes_on() {
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
async fn a_permission_check_that_was_not_made_before_cannot_be_answered() {
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
async fn what_may_have_been_taken_is_not_answered_from_memory() {
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

#[tokio::test]
async fn what_needs_the_database_says_that_it_is_away() {
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
        // Who may do it is known, so that only the database is in the way.
        assert!(root.may("all_all").await && !ann.may(&films).await && bob.may(&files).await);
        let _while = here.hurt(way).await;
        let new =
            || json!({"email": format!("{}@example.org", fresh("new")), "password": fresh("a new secret")});
        let log_in = |email: &str, password: &str| {
            here.node.post("auth_token").json(&json!({"email": email, "password": password}))
        };
        let email = format!("{}@example.org", fresh("other"));
        let bobs = |rest: &str| bob.path(rest);
        for noticed in [false, true] {
            if noticed {
                here.noticed().await;
            }
            let asked = [
                log_in(&ann.email, &ann.password),
                log_in(&ann.email, "a wrong password"),
                log_in("nobody@example.org", "a wrong password"),
                here.node.post("users").json(&new()),
                here.node.post("users").json(&json!({"email": ann.email, "password": "a password of hers"})),
                here.node.post("auth_token/token_refresh").bearer(&ann.refresh),
                ann.get("users/me"),
                ann.get("users/me/sessions"),
                ann.get("users/me/logins"),
                ann.patch("users/me").json(&json!({"first_name": "Anna"})),
                ann.patch("users/me").json(&json!({"email": email, "password": ann.password})),
                ann.post("users/me/password")
                    .json(&json!({"old_password": ann.password, "new_password": fresh("another secret")})),
                ann.post("users/me/password").json(
                    &json!({"old_password": "not the old one", "new_password": fresh("another secret")}),
                ),
                root.get("users"),
                root.get(&bobs("")),
                root.patch(&bobs("")).json(&json!({"active": false})),
                root.post(&bobs("password")).json(&json!({"new_password": fresh("given by root")})),
                root.delete(&bobs("")),
            ];
            for answer in join_all(asked.map(is_unavailable)).await {
                assert!(answer.header("retry-after").is_some(), "{answer}");
            }
            let asked = [
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
            ];
            join_all(asked.map(is_unavailable)).await;
        }
        // Nobody was called inactive meanwhile, and nothing was done.
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
async fn sessions_of_which_only_the_database_knows_cannot_be_ended_and_are_not_called_gone() {
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
async fn the_own_session_is_ended_by_its_id_as_by_a_logout() {
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
async fn a_database_that_is_slow_and_answers_is_waited_for() {
    let here = Behind::a_proxy().await;
    let ann = here.node.register("ann").await;
    let other = ann.in_another_session().await;
    here.proxy.delay(Duration::from_millis(200));
    for _ in 0..3 {
        within(Duration::from_secs(5), "a verdict", ann.is_in()).await;
        let again = within(ANSWER, "a log-in", ann.in_another_session()).await;
        again.is_in().await;
        let next = within(ANSWER, "a refresh", again.refreshed()).await;
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

// Logging out while it is down.

#[tokio::test]
async fn a_logout_holds_here_at_once_and_everywhere_when_the_database_is_back() {
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
        eventually(HEARD, "the ledger has it", async || {
            (gauge(&here.node, "palisade_ledger_unwritten").await == Some(0.0)).then_some(())
        })
        .await;
        assert_eq!(health(&here.node).await["journal"], "ok");
        say(&format!("{way:?}: well after {took:?}"));
        for (ended, id) in [&first, &second].into_iter().zip(&ids) {
            gets_revoked(&elsewhere, &ended.access).await;
            elsewhere.refresh(&ended.refresh).await.is_error(401, "Token has been revoked");
            ended.is_out().await;
            // Also when nobody remembers the fact any more.
            let this = format!("user = {} AND id = {id}", ann.uuid);
            eventually(HEARD, "the row is gone", async || {
                (here.rows("sessions", &this).await == 0).then_some(())
            })
            .await;
        }
        ann.is_in().await;
        ann.at(&elsewhere).is_in().await;
    }
}

#[tokio::test]
async fn a_logout_of_all_holds_here_at_once_and_everywhere_when_the_database_is_back() {
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
        // Also when nobody remembers the fact any more: the sessions are gone and the version rose.
        eventually(HEARD, "the sessions are gone", async || {
            (here.rows("sessions_of_user", &format!("user = {}", ann.uuid)).await == 0).then_some(())
        })
        .await;
        let risen = format!("id = {} AND version > 0 ALLOW FILTERING", ann.uuid);
        assert_eq!(here.rows("users", &risen).await, 1, "the stored version has not risen");
        // Who logs in afterwards is in, on either.
        let again = ann.in_another_session().await;
        again.is_in().await;
        again.at(&elsewhere).is_in().await;
    }
}

#[tokio::test]
async fn the_journal_survives_kill_dash_9_while_the_database_is_away() {
    let here = Behind::a_proxy().await;
    let elsewhere = here.elsewhere().await;
    for way in [Way::Cut, Way::Stalled] {
        let (ann, bob, cid) = (
            here.node.register("ann").await,
            here.node.register("bob").await,
            here.node.register("cid").await,
        );
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
        eventually(WELL, "the node comes up by itself", async || {
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
async fn a_full_journal_refuses_to_promise_and_has_room_again_afterwards() {
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
    eventually(HEARD, "the ledger has all, and the sessions are gone", async || {
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

// Refreshing while it is down.

/// Shows the token again and again for longer than the grace. Nobody calls it revoked.
async fn shown_in_vain(client: &Client, token: &str) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        is_unavailable(client.post("auth_token/token_refresh").bearer(token)).await;
    }
}

/// As a client does: shows the token until there is a pair. Nobody calls it revoked.
async fn gets_its_pair(client: &Client, person: &Person) -> Person {
    let answer = eventually(WELL, "there is a pair", async || {
        let answer = client.refresh(&person.refresh).await;
        if answer.status != 200 {
            answer.is_refused(503);
            return None;
        }
        Some(answer)
    });
    let next = person.at(client).with_tokens(answer.await.pair());
    next.is_in().await;
    next
}

/// One session, alive, with one live pair, and no alarm in the history.
pub async fn is_one_live_session(person: &Person) {
    let next = person.refreshed().await;
    next.is_in().await;
    assert_eq!(next.list("sessions", "users/me/sessions").await.len(), 1);
    let history = next.list("logins", "users/me/logins").await;
    assert!(history.iter().all(|login| login["success"] == true), "{history:?}");
}

const SHORT_GRACE: [(&str, &str); 1] = [("REFRESH_GRACE", "1s")];

#[tokio::test]
async fn a_refresh_token_that_was_shown_in_vain_gets_its_pair_however_long_it_took() {
    let here = Behind::with(&SHORT_GRACE).await;
    for way in AWAY {
        let ann = here.node.register("ann").await;
        let _while = here.hurt(way).await;
        shown_in_vain(&here.node, &ann.refresh).await;
        ann.is_in().await;
        here.proxy.mend().await;
        let next = gets_its_pair(&here.node, &ann).await;
        is_one_live_session(&next).await;
        here.mended().await;
    }
}

#[tokio::test]
async fn a_refresh_token_that_was_spent_unheard_gets_its_pair_however_long_it_took() {
    let here = Behind::with(&SHORT_GRACE).await;
    for times in [1, 3] {
        let ann = here.node.register("ann").await;
        here.proxy.on("UPDATE sessions", Action::CutAfter);
        for _ in 0..times {
            shown_in_vain(&here.node, &ann.refresh).await;
        }
        assert_eq!(here.proxy.waiting(), 0, "the database never got it");
        ann.is_in().await;
        here.proxy.mend().await;
        let next = gets_its_pair(&here.node, &ann).await;
        is_one_live_session(&next).await;
        here.mended().await;
    }
}

#[tokio::test]
async fn a_refresh_token_that_was_spent_unheard_gets_its_pair_on_another_node() {
    let here = Behind::with(&SHORT_GRACE).await;
    let setting = |builder: Builder| builder.setting("REFRESH_GRACE", "1s");
    // The database is down for both.
    let other = setting(Node::builder()).on_keyspace(&here.keyspace, here.proxy.address()).start().await;
    let ann = here.node.register("ann").await;
    here.proxy.on("UPDATE sessions", Action::CutAfter);
    shown_in_vain(&here.node, &ann.refresh).await;
    assert_eq!(here.proxy.waiting(), 0, "the database never got it");
    here.mended().await;
    let next = gets_its_pair(&other, &ann).await;
    is_one_live_session(&next).await;
    // The node that spent it agrees.
    next.at(&here.node).is_in().await;
}

#[tokio::test]
async fn a_refresh_token_that_was_spent_unheard_gets_its_pair_on_the_node_that_is_well_first() {
    let here = Behind::with(&SHORT_GRACE).await;
    let setting = |builder: Builder| builder.setting("REFRESH_GRACE", "1s");
    let other = setting(Node::builder()).on_keyspace(&here.keyspace, here.proxy.address()).start().await;
    for _ in 0..4 {
        let ann = here.node.register("ann").await;
        here.proxy.on("UPDATE sessions", Action::CutAfter);
        shown_in_vain(&here.node, &ann.refresh).await;
        assert_eq!(here.proxy.waiting(), 0, "the database never got it");
        here.proxy.mend().await;
        // At once: the node that spent it may not have reached the database yet.
        let next = gets_its_pair(&other, &ann).await;
        is_one_live_session(&next).await;
        here.mended().await;
    }
}

#[tokio::test]
async fn a_refresh_token_that_was_shown_in_vain_gets_its_pair_on_another_node() {
    let here = Behind::with(&SHORT_GRACE).await;
    let other = on(&here.keyspace).await.setting("REFRESH_GRACE", "1s").start().await;
    for way in [Way::Cut, Way::Stalled] {
        let ann = here.node.register("ann").await;
        let _while = here.hurt(way).await;
        // What is stalled may arrive yet, so this client does not wait for the grace to end.
        is_unavailable(here.node.post("auth_token/token_refresh").bearer(&ann.refresh)).await;
        let next = gets_its_pair(&other, &ann).await;
        here.mended().await;
        is_one_live_session(&next).await;
        next.at(&here.node).is_in().await;
    }
}

// What operators see.

#[tokio::test]
async fn the_node_says_that_its_database_is_down_and_stays_ready() {
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
        // Long enough for the driver to be patient.
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
async fn a_node_gets_well_after_corrupted_answers() {
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

#[tokio::test]
async fn a_node_starts_while_its_database_is_down_and_comes_up_by_itself() {
    let before = Behind::a_proxy().await;
    let (ann, bob) = (before.node.register("ann").await, before.node.register("bob").await);
    bob.delete("auth_token").send().await.is_done();
    for way in AWAY {
        let proxy = Proxy::to(Cassandra::one().await.address()).await;
        let _while = hurt(&proxy, way).await;
        let node = Node::builder().on_keyspace(&before.keyspace, proxy.address()).launch().await;
        eventually(WELL, "it lives", async || {
            node.get("/health/live").try_send().await.is_ok_and(|answer| answer.status == 200).then_some(())
        })
        .await;
        assert_eq!(store_of(&node).await, "connecting");
        is_unavailable(node.get("/health/ready")).await;
        assert_eq!(gauge(&node, "palisade_ready").await, Some(0.0));
        assert_eq!(gauge(&node, "palisade_store_up").await, Some(0.0));
        node.get("/openapi.json").send().await.is(200);
        node.get("/apidocs/").send().await.is(200);
        let credentials = json!({"email": ann.email, "password": ann.password});
        let (ann, bob) = (ann.at(&node), bob.at(&node));
        for request in [
            ann.get("auth_token/validation"),
            bob.get("auth_token/validation"),
            ann.get("/auth_request"),
            ann.post("auth_token/validation/batch").json(&json!({"tokens": [ann.access]})),
            ann.get("users/me"),
            ann.get("users/me/combined_permissions/validation?permissions=%22x%22"),
            ann.delete("auth_token"),
            ann.delete("auth_token/all"),
            node.post("auth_token").json(&credentials),
            node.post("users").json(&json!({"email": "x@example.org", "password": fresh("a secret")})),
            node.post("auth_token/token_refresh").bearer(&ann.refresh),
            node.post("auth_token/token_refresh").bearer(&bob.refresh),
            node.get("/.well-known/jwks.json"),
        ] {
            is_unavailable(request).await;
        }
        proxy.mend().await;
        let start = Instant::now();
        eventually(WELL, "it comes up by itself", async || {
            (node.readiness().await.unwrap().status == 200).then_some(())
        })
        .await;
        let up = start.elapsed();
        say(&format!("started while {way:?}, ready {up:?} after it ended"));
        assert!(up < Duration::from_secs(30), "{way:?}: ready only after {up:?}");
        ann.is_in().await;
        is_revoked(&node, &bob.access).await;
        ann.in_another_session().await.is_in().await;
    }
}

#[tokio::test]
async fn a_contact_point_that_is_dead_is_no_matter() {
    let keyspace = Arc::new(Keyspace::take().await);
    let (alive, dead) = (Cassandra::one().await.address(), Proxy::to(Cassandra::one().await.address()).await);
    dead.cut().await;
    let store = format!("cql://nowhere.invalid,{},{alive}/{}", dead.address(), keyspace.name());
    let node = Node::builder().on_keyspace(&keyspace, alive).setting("STORE", store).start().await;
    node.register("ann").await.is_in().await;
}

// Another schema, another key.

/// The node says that it is refused, and decides nothing.
async fn is_refused_by_its_database(node: &Node, token: &str, words: &[&str]) {
    eventually(WELL, "the node says that it is refused", async || {
        let answer = node.get("/health/live").try_send().await.ok()?;
        (answer.json()["store"] == "refused").then_some(())
    })
    .await;
    is_unavailable(node.get("/health/ready")).await;
    is_unavailable(node.get("auth_token/validation").bearer(token)).await;
    let logs = node.logs();
    for word in words {
        assert!(logs.contains(word), "the log does not say {word:?}:\n{logs}");
    }
    assert_eq!(gauge(node, "palisade_store_up").await, Some(0.0));
}

async fn comes_up(node: &Node) {
    eventually(WELL, "it comes up by itself", async || {
        node.readiness().await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn tables_of_another_version_are_refused_with_a_word() {
    let keyspace = Arc::new(Keyspace::take().await);
    // Nobody else may have it, should this test fail in the middle.
    std::mem::forget(keyspace.clone());
    let first = on(&keyspace).await.start().await;
    let ann = first.register("ann").await;
    let changed = "UPDATE KEYSPACE.schema_migrations SET checksum = 'other' WHERE part = 0 AND number = 1";
    let newer = "INSERT INTO KEYSPACE.schema_migrations (part, number, name, checksum, applied_at) \
                 VALUES (0, 99, 'later', 'x', toTimestamp(now()))";
    let session = store::cassandra().await;
    let select =
        format!("SELECT checksum FROM {}.schema_migrations WHERE part = 0 AND number = 1", keyspace.name());
    let found = session.query_unpaged(select, ()).await.unwrap().into_rows_result().unwrap();
    let (checksum,): (String,) = found.single_row().unwrap();
    let back = changed.replace("other", &checksum);
    let gone = "DELETE FROM KEYSPACE.schema_migrations WHERE part = 0 AND number = 99";
    for (damage, repair, words) in
        [(changed, back.as_str(), ["refused", "checksum"]), (newer, gone, ["refused", "newer Palisade"])]
    {
        alter(&keyspace, damage).await;
        let node = on(&keyspace).await.launch().await;
        is_refused_by_its_database(&node, &ann.access, &words).await;
        let status = node.cli(&["schema", "status"]).await;
        status.failed_saying(&words[1..]);
        // Who works with them already goes on.
        ann.is_in().await;
        ann.get("users/me").send().await.is(200);
        alter(&keyspace, repair).await;
        comes_up(&node).await;
        ann.at(&node).is_in().await;
    }
}

#[tokio::test]
async fn who_may_not_migrate_waits_for_the_operator() {
    let keyspace = Arc::new(Keyspace::fresh());
    let builder = on(&keyspace).await.setting("STORE_MIGRATE", "off");
    let node = builder.launch().await;
    is_refused_by_its_database(&node, "a.b.c", &["palisade schema migrate"]).await;
    let status = node.cli(&["schema", "status", "--json"]).await;
    let pending = status.is_done().json().as_array().unwrap().clone();
    assert!(!pending.is_empty() && pending.iter().all(|one| one["state"] == "pending"), "{pending:?}");
    assert!(node.cli(&["schema", "status"]).await.is_done().stdout.contains("palisade schema migrate"));
    node.cli(&["schema", "migrate"]).await.is_done();
    let applied =
        node.cli(&["schema", "status", "--json"]).await.is_done().json().as_array().unwrap().clone();
    assert_eq!(applied.len(), pending.len());
    assert!(
        applied.iter().all(|one| one["state"] == "applied" && one["applied_at"].is_string()),
        "{applied:?}"
    );
    comes_up(&node).await;
    node.register("ann").await.is_in().await;
    // Again is no error.
    node.cli(&["schema", "migrate"]).await.is_done();
}

#[tokio::test]
async fn a_node_with_another_master_key_ends_with_a_word() {
    let first = Node::builder().on_cql().await.start().await;
    let ann = first.register("ann").await;
    let other = MASTER_KEY.replace("cGFs", "cGFt");
    let refused = Node::builder().beside(&first).setting("MASTER_KEY", &other).try_start().await.unwrap_err();
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.output.contains("MASTER_KEY"), "{refused:?}");
    assert!(!refused.output.contains(&other), "{refused:?}");
    ann.is_in().await;
    first.register("bob").await.is_in().await;
}

#[tokio::test]
async fn a_shared_store_without_a_master_key_is_a_wrong_setting() {
    for command in ["serve", "check-config"] {
        let directory = tempfile::TempDir::new().unwrap();
        let call = Palisade::with([command])
            .setting("LISTEN", "127.0.0.1:0")
            .setting("DATA_DIR", directory.path().join("data"))
            .setting("STORE", "cql://127.0.0.1:1/palisade");
        call.run().await.failed_saying(&["MASTER_KEY"]).in_one_line();
        assert!(!directory.path().join("data").exists(), "a data directory was made for nothing");
    }
}

// The password of the database.

const PASSWORD: &str = "hush-Zk7-hush";

#[tokio::test]
async fn the_password_of_the_database_is_nowhere_to_be_seen() {
    let keyspace = Arc::new(Keyspace::take().await);
    let proxy = Proxy::to(Cassandra::one().await.address()).await;
    let store = format!("cql://palisade:{PASSWORD}@{}/{}", proxy.address(), keyspace.name());
    let node = Node::builder()
        .on_keyspace(&keyspace, proxy.address())
        .setting("STORE", &store)
        .setting("LOG", "trace")
        .start()
        .await;
    let ann = node.register("ann").await;
    let mut seen = String::new();
    let mut look = async || {
        for path in ["/health/live", "/health/ready", "/metrics", "users/me", "nothing"] {
            let answer = ann.get(path).send().await;
            seen += &format!("{answer}\n");
        }
        for command in
            [&["check-config"][..], &["schema", "status"], &["keys", "list"], &["check-config", "--json"]]
        {
            let run = node.cli(command).await;
            seen += &format!("{run:?}\n");
        }
    };
    look().await;
    for way in [Way::Cut, Way::Corrupt] {
        let _while = hurt(&proxy, way).await;
        for _ in 0..3 {
            ann.get("users/me").send().await;
        }
        look().await;
        proxy.mend().await;
    }
    for text in [seen, node.logs()] {
        assert!(!text.contains(PASSWORD), "{}", around(&text, PASSWORD));
    }
}

/// Where it is, without all the rest.
fn around<'a>(text: &'a str, what: &str) -> &'a str {
    text.lines().find(|line| line.contains(what)).unwrap_or_default()
}

#[tokio::test]
async fn a_wrong_address_of_the_database_is_named_without_its_password() {
    for wrong in [
        "cql://ann:PASSWORD@db:9042",
        "cql://ann:PASSWORD@db:9042/",
        "cql://ann:PASSWORD@db:9042/Key-Space",
        "cql://ann:PASSWORD@db:9042/a/b",
        "cql://ann:PASSWORD@db:99999/palisade",
        "cql://ann:PASSWORD@db:port/palisade",
        "cql://ann:PASSWORD@/palisade",
        "cql://ann:PASSWORD@db,/palisade",
        "cql://ann:PASSWORD@[::1/palisade",
        "cql://ann:PASSWORD/@db/palisade",
        "cql://ann:PASSWORD?@db/palisade",
        "cql://ann:PASSWORD@half@db/palisade",
        "cql://ann:PASSWORD%zz%ff@db/palisade",
        "cql://:PASSWORD@db/palisade",
        "cql://PASSWORD@db/palisade",
        "cql://ann:PASSWORD@db/palisade?tls=perhaps",
        "cql://ann:PASSWORD@db/palisade?nonsense=1",
        "cql://ann:PASSWORD@db/palisade?password=PASSWORD",
        "cql://ann:PASSWORD@db/palisade?PASSWORD",
        "cql://ann:PASSWORD@db/palisade?replication_factor=0",
        "cql://ann:PASSWORD@db/palisade?replication_factor=PASSWORD",
        "cql://ann:PASSWORD@db/palisade?tls=on&tls_ca=",
        "CQL://ann:PASSWORD@db/palisade",
        " cql://ann:PASSWORD@db/palisade\t\"",
        "cql:/ann:PASSWORD@db/palisade",
        "cqls://ann:PASSWORD@db/palisade",
        "scylla://ann:PASSWORD@db/palisade",
        "postgres://ann:PASSWORD@db/palisade",
        "ann:PASSWORD@db/palisade",
        "PASSWORD",
    ] {
        let url = wrong.replace("PASSWORD", PASSWORD);
        let directory = tempfile::TempDir::new().unwrap();
        let data = directory.path().join("data");
        let secret = directory.path().join("store");
        std::fs::write(&secret, &url).unwrap();
        let config = directory.path().join("palisade.toml");
        std::fs::write(&config, format!("store = {}\n", json!(url))).unwrap();
        let call = |command: &[&str]| {
            Palisade::with(command)
                .setting("LISTEN", "127.0.0.1:0")
                .setting("DATA_DIR", &data)
                .setting("MASTER_KEY", MASTER_KEY)
        };
        for call in [
            call(&["check-config"]).setting("STORE", &url),
            call(&["serve"]).setting("STORE", &url),
            call(&["check-config"]).setting("STORE_FILE", &secret),
            call(&["check-config", "--store", &url]),
            call(&["check-config", "--config"]).args([&config]),
            call(&["schema", "status"]).setting("STORE", &url),
        ] {
            let run = call.run().await;
            assert_eq!(run.status, 1, "{wrong}: {run:?}");
            assert!(run.stderr.to_lowercase().contains("store"), "{wrong}: {run:?}");
            let said = format!("{}{}", run.stdout, run.stderr);
            assert!(!said.contains(PASSWORD) && !said.contains("hush"), "{wrong}: {said}");
        }
        assert!(!data.exists(), "{wrong}: a data directory was made for nothing");
    }
}
