//! The password of the database is nowhere to be seen.

use std::sync::Arc;

use serde_json::json;
use testkit::{
    Node, Palisade,
    servers::{Cassandra, Proxy},
    store::{Keyspace, MASTER_KEY},
};

use crate::behind::{Way, hurt};

const PASSWORD: &str = "hush-Zk7-hush";

#[tokio::test]
async fn database_password_is_never_disclosed() {
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
async fn wrong_database_url_is_reported_without_its_password() {
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
        let directory = testkit::scratch::directory();
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
