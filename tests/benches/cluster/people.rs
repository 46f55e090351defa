//! Users with sessions: real ones by logging in, many more by rows.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::SystemTime,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::{StreamExt as _, stream};
use schema::{SessionId, Timestamp, UserId};
use scylla::{
    statement::batch::{Batch, BatchType},
    value::CqlTimestamp,
};
use serde_json::{Value, json};
use testkit::{Answer, Client, Node, fresh, store};

/// Log-ins at a time: a node has a short queue for hashes.
const AT_ONCE: usize = 6;
/// Rows at a time.
const ROWS_AT_ONCE: usize = 64;
/// Rows of a user's list in one write.
const LISTED: usize = 100;
/// Seconds that rows live.
const ROW_LIFE: i32 = 24 * 3_600;

/// A session from a real log-in.
#[derive(Clone, Debug)]
pub struct Session {
    pub token: String,
    pub user: UserId,
    pub id: SessionId,
}

impl Session {
    fn of(token: String) -> Self {
        let claims = token.split('.').nth(1).expect("claims");
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        let claim = |name: &str| claims[name].as_str().expect("a claim").to_owned();
        Self { token, user: claim("sub").parse().unwrap(), id: claim("sid").parse().unwrap() }
    }
}

/// The time now.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    Timestamp::EPOCH.plus(since)
}

/// Registers so many users, each of whom logs in so often; the nodes take turns.
pub async fn logged_in(nodes: &[&Node], users: usize, sessions: usize) -> Vec<Vec<Session>> {
    let users = stream::iter(0..users).map(|user| {
        let node = nodes[user % nodes.len()].another_client();
        async move { one(&node, sessions).await }
    });
    users.buffer_unordered(AT_ONCE).collect().await
}

async fn one(node: &Client, sessions: usize) -> Vec<Session> {
    let name = fresh("bench");
    let email = format!("{name}@example.org");
    let password = format!("the secret of {name}");
    let body = json!({"email": email, "password": password});
    with_retries(async || node.post("users").json(&body).send().await).await.is(201);
    let mut all = Vec::new();
    for _ in 0..sessions {
        let answer = with_retries(async || node.log_in(&email, &password).await).await;
        all.push(Session::of(answer.pair().0));
    }
    all
}

/// Asks again when the node is busy.
async fn with_retries(ask: impl AsyncFn() -> Answer) -> Answer {
    for _ in 0..200 {
        let answer = ask().await;
        if !matches!(answer.status, 429 | 503) {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    ask().await
}

/// Adds so many sessions of a user, as rows: to log in so often would take hours, and `Sessions::open`
/// counts a user's sessions each time.
pub async fn add_rows(keyspace: &str, user: UserId, count: usize) {
    let session = store::cassandra().await;
    let insert = format!(
        "INSERT INTO {keyspace}.sessions (user, id, user_version, ip_address, created_at, last_used_at, \
         expires_at, live, spent) VALUES (?, ?, ?, ?, ?, ?, ?, ?, []) USING TTL {ROW_LIFE}"
    );
    let list =
        format!("INSERT INTO {keyspace}.sessions_of_user (user, id) VALUES (?, ?) USING TTL {ROW_LIFE}");
    let insert = session.prepare(insert).await.expect("the table of sessions is as it was");
    let list = session.prepare(list).await.expect("the list of sessions is as it was");
    let session = &session;
    let insert = &insert;
    let list = &list;
    let at = now();
    let time = |time: Timestamp| CqlTimestamp(i64::try_from(time.as_millis()).unwrap());
    let begin = time(at);
    let end = time(at.plus(std::time::Duration::from_secs(ROW_LIFE as u64)));
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let id = |n: usize| {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&(n as u64).to_be_bytes());
        random[8..].copy_from_slice(&user.as_bytes()[14..]);
        SessionId::new(at, random).uuid()
    };
    let rows = stream::iter(0..count).map(|n| async move {
        let row = (user.uuid(), id(n), 1_i64, address, begin, begin, end, vec![7_u8; 32]);
        session.execute_unpaged(insert, row).await.expect("a row");
    });
    rows.buffer_unordered(ROWS_AT_ONCE).collect::<Vec<()>>().await;
    for first in (0..count).step_by(LISTED) {
        let ids: Vec<_> = (first..count.min(first + LISTED)).map(|n| (user.uuid(), id(n))).collect();
        let mut batch = Batch::new(BatchType::Unlogged);
        ids.iter().for_each(|_| batch.append_statement(list.clone()));
        session.batch(&batch, ids).await.expect("rows of the list");
    }
}

/// How many sessions are listed for these users.
pub async fn rows_of(keyspace: &str, users: &[UserId]) -> usize {
    let session = store::cassandra().await;
    let mut all = 0;
    for user in users {
        let count = format!("SELECT count(*) FROM {keyspace}.sessions_of_user WHERE user = {}", user.uuid());
        let rows = session.query_unpaged(count, ()).await.expect("a count").into_rows_result().unwrap();
        all += rows.single_row::<(i64,)>().expect("one row").0 as usize;
    }
    all
}
