//! A real Prometheus that scrapes a real node.

use std::{
    process::Command,
    sync::{Arc, atomic::AtomicU16},
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use testkit::{Client, Node, Program, eventually, program::free_port, scratch, watching::queries};

use super::configuration;

/// Longest time until Prometheus has scraped the node, on a busy machine.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(60);

/// The answer to a query, or nothing yet.
async fn asked(prometheus: &Client, query: &str) -> Option<Value> {
    let query = utf8_percent_encode(query, NON_ALPHANUMERIC);
    let answer = prometheus.get(&format!("query?query={query}")).try_send().await.ok()?;
    // 503 while it starts, 400 for a query that it cannot read.
    (answer.status == 200).then(|| answer.json()["data"]["result"].clone())
}

#[tokio::test]
async fn prometheus_can_answer_every_query() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    ann.is_in().await;
    let folder = scratch::directory();
    let port = free_port();
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", configuration(folder.path(), node.address().port()).display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let program = Program::start(&mut command, "apt-get install prometheus");
    let prometheus = Client::new(Arc::new(AtomicU16::new(port)));
    eventually(SCRAPE_TIMEOUT, "a scrape of the node", async || {
        assert!(program.has_ended().is_none(), "{}", program.output());
        let up = asked(&prometheus, "palisade_ready{job=\"palisade\"} == 1").await?;
        up.as_array().is_some_and(|series| !series.is_empty()).then_some(())
    })
    .await;
    for (place, query) in queries() {
        let result = asked(&prometheus, &query).await;
        assert!(result.is_some_and(|result| result.is_array()), "{place}: {query}");
    }
    for quiet in ["PalisadeNotReady", "PalisadeStoreDown", "PalisadeAbsent"] {
        let firing = asked(&prometheus, &format!("ALERTS{{alertname={quiet:?}}}")).await.expect("an answer");
        assert_eq!(firing.as_array().map(Vec::len), Some(0), "{firing}");
    }
}
