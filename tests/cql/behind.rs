//! A node whose way to its database leads through a proxy that hurts it, and what is asked of it then.

use std::{
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use scylla::client::session::Session;
use serde_json::{Value, json};
use testkit::{
    Answer, Client, Node, Person, Request, eventually, fresh,
    node::Builder,
    servers::{Cassandra, Proxy},
    store::{self, Keyspace},
};

/// Longest time of an answer, whatever the database does.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Until the node works with its database again. What is promised and measured is less; a busy
/// machine may need more.
pub const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time until a node has received another node's revocation.
pub const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(60);

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

pub const WAYS: [Way; 4] = [Way::Cut, Way::Stalled, Way::Slow, Way::Corrupt];
/// Those in which it says nothing in time. CQL has no checksums: bits that are wrong and make sense
/// are believed, so of what was read nothing can be promised while they are.
pub const AWAY: [Way; 3] = [Way::Cut, Way::Stalled, Way::Slow];

/// Says in which way the database was down when a test failed.
#[must_use]
pub struct While(Way);

impl Drop for While {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("failed while the database was {:?}", self.0));
        }
    }
}

/// Prints a figure for the reader of a run's output.
pub fn say(figure: &str) {
    let _ = writeln!(std::io::stderr(), "--- {figure}");
}

/// A node that reaches its keyspace by a proxy.
pub struct Behind {
    pub node: Node,
    pub proxy: Proxy,
    pub keyspace: Arc<Keyspace>,
    /// A user whose requests need the database.
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
        let watcher = new_user(&node).await;
        Self { node, proxy, keyspace, watcher }
    }

    /// Another node, whose way to the keyspace is whole.
    pub async fn elsewhere(&self) -> Node {
        on(&self.keyspace).await.start().await
    }

    pub fn hurt(&self, way: Way) -> impl Future<Output = While> {
        hurt(&self.proxy, way)
    }

    /// The node knows that its database is down.
    pub async fn noticed(&self) {
        eventually(ANSWER_TIMEOUT, "the node notices", async || {
            (store_of(&self.node).await == "down").then_some(())
        })
        .await;
    }

    /// Mends the way and waits until what needs the database is answered again.
    pub async fn mended(&self) -> Duration {
        self.proxy.forget();
        self.proxy.mend().await;
        let start = Instant::now();
        eventually(RECOVERY_TIMEOUT, "the node works with its database again", async || {
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

/// Registers a user and logs in, with retries: a database on a busy machine may stop for seconds, and an
/// unprepared test proves nothing.
pub async fn new_user(node: &Node) -> Person {
    let client = node.retrying();
    let email = format!("{}@example.org", fresh("somebody"));
    let password = format!("the secret of {email}");
    let registered = client.post("users").json(&json!({"email": email, "password": password})).send().await;
    // Not answered, it may have been done.
    assert!(matches!(registered.status, 201 | 409), "{registered}");
    Person::log_in(&client, &email, &password).await
}

pub async fn hurt(proxy: &Proxy, way: Way) -> While {
    match way {
        Way::Cut => proxy.cut().await,
        Way::Stalled => proxy.stall(),
        Way::Slow => proxy.delay(Duration::from_secs(3)),
        Way::Corrupt => proxy.corrupt(),
    }
    While(way)
}

/// A node to be, whose way to the keyspace is whole.
pub async fn on(keyspace: &Arc<Keyspace>) -> Builder {
    Node::builder().on_keyspace(keyspace, Cassandra::one().await.address())
}

pub async fn rows(session: &Session, keyspace: &Keyspace, table: &str, condition: &str) -> usize {
    let select = format!("SELECT * FROM {}.{table} WHERE {condition}", keyspace.name());
    let found = session.query_unpaged(select, ()).await.unwrap().into_rows_result().unwrap();
    found.rows_num()
}

pub async fn alter(keyspace: &Keyspace, what: &str) {
    let cql = what.replace("KEYSPACE", keyspace.name());
    store::cassandra().await.query_unpaged(cql, ()).await.unwrap();
}

pub async fn health(node: &Node) -> Value {
    node.get("/health/live").send().await.is(200).json()
}

/// A metric without labels.
pub async fn gauge(node: &Node, name: &str) -> Option<f64> {
    node.metric(&format!("{name}{{}}")).await
}

pub async fn store_of(node: &Node) -> String {
    health(node).await["store"].as_str().unwrap().to_owned()
}

/// 503 with `Retry-After`, in time.
pub async fn is_unavailable(request: Request) -> Answer {
    let start = Instant::now();
    let answer = request.send().await;
    answer.is_refused(503);
    assert!(start.elapsed() < ANSWER_TIMEOUT, "after {:?}\n{answer}", start.elapsed());
    answer
}

/// 204, in time for a person; durable on this node's disk.
pub async fn is_out_by_the_journal(request: Request) {
    let start = Instant::now();
    let answer = request.send().await;
    answer.is_done();
    assert!(start.elapsed() < Duration::from_secs(10), "after {:?}\n{answer}", start.elapsed());
    assert_eq!(answer.header("palisade-durability"), Some("journal"), "{answer}");
    assert_eq!(answer.header("palisade-visible"), Some("0/0"), "{answer}");
}

pub async fn is_revoked(client: &Client, token: &str) {
    client.validate(token).await.is_error(401, "Token has been revoked");
}

/// Another node has heard it.
pub async fn gets_revoked(client: &Client, token: &str) {
    eventually(PROPAGATION_TIMEOUT, "the other node refuses it too", async || {
        let answer = client.validate(token).await;
        if answer.status == 200 {
            return None;
        }
        answer.is_error(401, "Token has been revoked");
        Some(())
    })
    .await;
}

/// One session, alive, with one live pair, and no alarm in the history.
pub async fn is_one_live_session(person: &Person) {
    let next = person.refreshed().await;
    next.is_in().await;
    assert_eq!(next.list("sessions", "users/me/sessions").await.len(), 1);
    let history = next.list("logins", "users/me/logins").await;
    assert!(history.iter().all(|login| login["success"] == true), "{history:?}");
}
