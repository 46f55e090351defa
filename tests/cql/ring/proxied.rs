//! A driver whose way to the whole ring leads through proxies.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    cluster::Node,
};
use testkit::{
    eventually, fresh,
    servers::{Cassandra, Proxy},
    within,
};

/// Longest time until the driver has connected to every node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time until the ring and the driver have noticed that a node is gone.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// A driver, and proxies that all of its connections go through.
async fn proxied(ring: &Cassandra) -> (Vec<Proxy>, Session) {
    let proxies = Proxy::to_all(&ring.addresses()).await;
    let builder = SessionBuilder::new().known_node_addr(proxies[0].address());
    let session = within(CONNECT_TIMEOUT, "a session", builder.build()).await.expect("a session");
    let state = session.get_cluster_state();
    let address = |node: &Arc<Node>| SocketAddr::new(node.address.ip(), node.address.port());
    let mut nodes: Vec<_> = state.get_nodes_info().iter().map(address).collect();
    nodes.sort();
    assert_eq!(nodes, proxies.iter().map(Proxy::address).collect::<Vec<_>>());
    eventually(CONNECT_TIMEOUT, "the driver connects to all nodes", async || {
        proxies.iter().all(|proxy| proxy.connections() > 0).then_some(())
    })
    .await;
    (proxies, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn proxied_ring_loses_nothing_when_a_node_is_killed() {
    let ring = Cassandra::ring().await;
    let (_proxies, session) = proxied(&ring).await;
    let keyspace = fresh("proxy").replace('-', "_");
    let replication = "{'class': 'SimpleStrategy', 'replication_factor': 3}";
    let create = format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}");
    session.query_unpaged(create, &()).await.expect("a keyspace");
    session.use_keyspace(keyspace.clone(), false).await.expect("the keyspace exists");
    session.query_unpaged("CREATE TABLE t (k int PRIMARY KEY, v int)", &()).await.expect("a table");
    let put = session.prepare("INSERT INTO t (k, v) VALUES (?, ?)").await.expect("it is prepared");
    let put_all = async |keys: std::ops::Range<i32>| {
        let done = join_all(keys.map(|k| session.execute_unpaged(&put, (k, k)))).await;
        done.into_iter().filter(Result::is_err).count()
    };
    let value = async |k: i32| {
        let rows = session.query_unpaged("SELECT v FROM t WHERE k = ?", (k,)).await.expect("an answer");
        let rows = rows.into_rows_result().expect("rows");
        rows.maybe_first_row::<(i32,)>().expect("an int").map(|(v,)| v)
    };
    assert_eq!(put_all(0..100).await, 0);
    ring.kill(1).await;
    eventually(FAILOVER_TIMEOUT, "two of three are enough", async || {
        (put_all(100..200).await == 0).then_some(())
    })
    .await;
    for k in 0..200 {
        assert_eq!(value(k).await, Some(k));
    }
    ring.start(1).await;
    session.query_unpaged(format!("DROP KEYSPACE {keyspace}"), &()).await.expect("it is dropped");
}
