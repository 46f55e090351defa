//! The proxy before an echo server and before Cassandra.

use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    cluster::Node,
    statement::batch::{Batch, BatchType},
    value::CqlValue,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::*;
use crate::{fresh, servers::Cassandra, within};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const SHORT_DELAY: Duration = Duration::from_millis(300);

/// A server that sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

async fn said_back(stream: &mut TcpStream, text: &str) -> io::Result<String> {
    stream.write_all(text.as_bytes()).await?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_closes_and_refuses_connections_until_mended() {
    let proxy = Proxy::to(echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
    assert_eq!(said_back(&mut stream, "hello").await.expect("an answer"), "hello");
    proxy.cut().await;
    assert!(proxy.is_cut());
    within(ANSWER_TIMEOUT, "the end", said_back(&mut stream, "hello")).await.expect_err("it is cut");
    let refused = TcpStream::connect(proxy.address()).await.expect_err("it is cut");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    proxy.mend().await;
    let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
    assert_eq!(said_back(&mut stream, "hello").await.expect("an answer"), "hello");
    assert_eq!(proxy.accepted(), 2);
    let address = proxy.address();
    drop(proxy);
    within(ANSWER_TIMEOUT, "the end", said_back(&mut stream, "hello")).await.expect_err("it has ended");
    let refused = async || TcpStream::connect(address).await.err();
    eventually(ANSWER_TIMEOUT, "the proxy ends", refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_can_be_held_delayed_and_corrupted() {
    let proxy = Proxy::to(echo().await).await;
    proxy.stall();
    let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
    {
        let answer = said_back(&mut stream, "hello");
        tokio::pin!(answer);
        tokio::time::timeout(SHORT_DELAY, &mut answer).await.expect_err("it is stalled");
        proxy.resume();
        assert_eq!(within(ANSWER_TIMEOUT, "an answer", answer).await.expect("an answer"), "hello");
    }
    proxy.delay(SHORT_DELAY);
    let start = Instant::now();
    assert_eq!(said_back(&mut stream, "hello").await.expect("an answer"), "hello");
    assert!(start.elapsed() >= 2 * SHORT_DELAY, "each way");
    proxy.mend().await;
    proxy.corrupt();
    let answer = said_back(&mut stream, "hello").await.expect("an answer");
    assert_ne!(answer, "hello");
}

async fn session(proxy: &Proxy) -> Session {
    let builder = SessionBuilder::new().known_node_addr(proxy.address());
    within(ANSWER_TIMEOUT, "a session", builder.build()).await.expect("a session")
}

/// A table `t` of `k` and `v` in a keyspace that is used from now on.
async fn table(session: &Session) {
    let keyspace = fresh("proxy").replace('-', "_");
    let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
    let make = format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}");
    session.query_unpaged(make, &()).await.expect("a keyspace");
    session.use_keyspace(keyspace, false).await.expect("it is there");
    session.query_unpaged("CREATE TABLE t (k int PRIMARY KEY, v int)", &()).await.expect("a table");
}

async fn drop_keyspace(session: &Session) {
    let keyspace = session.get_keyspace().expect("it is used");
    session.query_unpaged(format!("DROP KEYSPACE {keyspace}"), &()).await.expect("it is gone");
}

async fn value(session: &Session, k: i32) -> Option<i32> {
    let rows = session.query_unpaged("SELECT v FROM t WHERE k = ?", (k,)).await.expect("an answer");
    let rows = rows.into_rows_result().expect("rows");
    rows.maybe_first_row::<(i32,)>().expect("an int").map(|(v,)| v)
}

/// Proxies of all servers, and a driver whose every connection goes through them.
async fn all_of_it(cassandra: &Cassandra) -> (Vec<Proxy>, Session) {
    let proxies = Proxy::to_all(&cassandra.addresses()).await;
    let session = session(&proxies[0]).await;
    let state = session.get_cluster_state();
    let address = |node: &Arc<Node>| SocketAddr::new(node.address.ip(), node.address.port());
    let mut nodes: Vec<_> = state.get_nodes_info().iter().map(address).collect();
    nodes.sort();
    let addresses: Vec<_> = proxies.iter().map(Proxy::address).collect();
    assert_eq!(nodes, addresses);
    eventually(ANSWER_TIMEOUT, "the driver connects to all nodes", async || {
        proxies.iter().all(|proxy| proxy.connections() > 0).then_some(())
    })
    .await;
    (proxies, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_recognizes_statements() {
    let (proxies, session) = all_of_it(&Cassandra::one().await).await;
    let proxy = &proxies[0];
    table(&session).await;
    proxy.clear();
    let insert = session.prepare("INSERT INTO t (k, v) VALUES (?, ?)").await.expect("it is prepared");
    assert!(proxy.statements().is_empty(), "{:?}", proxy.statements());
    session.execute_unpaged(&insert, (1, 10)).await.expect("it is done");
    assert_eq!(value(&session, 1).await, Some(10));
    let mut batch = Batch::new(BatchType::Logged);
    batch.append_statement(insert);
    batch.append_statement("DELETE FROM t WHERE k = 1");
    session.batch(&batch, ((2, CqlValue::Int(20)), ())).await.expect("it is done");
    assert_eq!(
        proxy.statements(),
        [
            "INSERT INTO t (k, v) VALUES (?, ?)",
            "SELECT v FROM t WHERE k = ?",
            "BATCH: INSERT INTO t (k, v) VALUES (?, ?); DELETE FROM t WHERE k = 1",
        ]
    );
    drop_keyspace(&session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_acts_on_statements() {
    let (proxies, session) = all_of_it(&Cassandra::one().await).await;
    let proxy = &proxies[0];
    table(&session).await;
    let put = session.prepare("INSERT INTO t (k, v) VALUES (?, ?)").await.expect("it is prepared");
    let mended = async || {
        assert!(proxy.is_cut());
        assert_eq!(proxy.waiting(), 0);
        proxy.mend().await;
        eventually(Duration::from_secs(60), "the driver connects again", async || {
            session.query_unpaged("SELECT v FROM t WHERE k = 0", &()).await.ok()
        })
        .await;
    };

    proxy.on_nth(2, "INSERT INTO t", Action::CutBefore);
    session.execute_unpaged(&put, (1, 1)).await.expect("it is the first");
    let cut = within(ANSWER_TIMEOUT, "an end", session.execute_unpaged(&put, (2, 2))).await;
    cut.expect_err("the connection is cut");
    mended().await;
    assert_eq!((value(&session, 1).await, value(&session, 2).await), (Some(1), None));

    proxy.on("INSERT INTO t", Action::CutAfter);
    let cut = within(ANSWER_TIMEOUT, "an end", session.execute_unpaged(&put, (3, 3))).await;
    cut.expect_err("the connection is cut");
    mended().await;
    assert_eq!(value(&session, 3).await, Some(3));

    proxy.on("INSERT INTO t", Action::DelayAnswer(SHORT_DELAY * 4));
    let start = Instant::now();
    let late = async {
        session.execute_unpaged(&put, (4, 4)).await.expect("it is late");
        start.elapsed()
    };
    let quick = async {
        eventually(ANSWER_TIMEOUT, "it is executed", async || value(&session, 4).await).await;
        start.elapsed()
    };
    let (late, quick) = tokio::join!(late, quick);
    assert!(late >= SHORT_DELAY * 4 && quick < late, "{late:?} {quick:?}");
    drop_keyspace(&session).await;
}
