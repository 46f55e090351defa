//! What operators see of a cluster.

use testkit::{Cluster, Node, servers::Redis, watching};

use super::{Three, sum};

#[tokio::test]
async fn cluster_status_requires_permission() {
    let three = Three::nodes().await;
    let root = three.root().await;
    for node in three.all() {
        node.get("cluster").send().await.is_error(401, "Missing Authorization Header");
        let ann = node.register("ann").await;
        ann.get("cluster").send().await.is_refused(403);
        root.at(three.all()[1]).gives(&ann, "cluster_read").await.is(200);
        let view = ann.get("cluster").send().await.is(200).json();
        let members = view["members"].as_array().unwrap();
        let uuids: Vec<_> = members.iter().map(|member| member["uuid"].as_str().unwrap()).collect();
        assert!(uuids.iter().all(|uuid| uuid.len() == 36), "{view}");
        assert_eq!(view["node"]["state"], "ready", "{view}");
        assert_eq!(view["stale"], false, "{view}");
        assert_eq!(view["stale_policy"], "open", "{view}");
        assert!(view["freshness_ms"].is_number(), "{view}");
        assert!(view["node"]["protocol_version"].is_number(), "{view}");
        assert!(view["node"]["incarnation"].is_number() || view["node"]["incarnation"].is_string(), "{view}");
        for kind in ["sessions", "tokens", "users", "keys"] {
            assert!(view["denials"][kind].is_number(), "{view}");
        }
        assert!(
            view["logs"].is_array() && view["journal"].is_object() && view["store"].is_object(),
            "{view}"
        );
        for other in testkit::cluster::View(view.clone()).others() {
            assert_eq!(other["state"], "alive", "{view}");
            assert_eq!(other["linked"], true, "{view}");
            assert!(other["address"].is_string(), "{view}");
            assert!(other["lag"].is_number() && other["acknowledged_lag"].is_number(), "{view}");
        }
        root.takes(&ann, "cluster_read").await.is(200);
        ann.at(node).get("cluster").send().await.is_refused(403);
    }
}

#[tokio::test]
async fn every_node_lists_all_other_nodes() {
    let three = Three::nodes().await;
    let names = ["a", "b", "c"];
    for (node, own) in three.nodes.iter().zip(names) {
        let view = three.cluster.view(node).await.unwrap();
        assert_eq!(view.0["node"]["name"], own);
        for name in names.iter().filter(|name| **name != own) {
            let sight = three.cluster.sight(node, name).await;
            assert!(sight.is_some_and(|member| member["state"] == "alive"), "{own} does not see {name}");
        }
        let printed = node.cli(&["cluster", "status"]).await;
        for name in names {
            let cells = |line: &str| line.split_whitespace().any(|cell| cell == name);
            assert!(printed.is_done().stdout.lines().any(cells), "{name} is not in the table: {printed:?}");
        }
        let json = node.cli(&["cluster", "status", "--json"]).await.is_done().json();
        assert_eq!(json["node"]["name"], own, "{json}");
    }
}

#[tokio::test]
async fn cluster_metrics_are_exposed() {
    let three = Three::nodes().await;
    let all = three.all();
    for (n, node) in all.into_iter().enumerate() {
        assert_eq!(sum(node, "palisade_cluster_links", "").await, 2.0);
        assert!(sum(node, "palisade_cluster_members", "alive").await >= 2.0);
        assert_eq!(sum(node, "palisade_cluster_members", "dead").await, 0.0);
        let age = sum(node, "palisade_freshness_age_seconds", "").await;
        assert!(age < 30.0, "{age}");
        let acknowledged = async || sum(node, "palisade_revocation_ack_duration_seconds_count", "").await;
        let before = acknowledged().await;
        let ann = all[(n + 1) % 3].register("ann").await.at(node);
        ann.delete("auth_token").send().await.is_done().is_visible_at(2);
        assert!(acknowledged().await > before, "a revocation was not measured");
    }
}

#[tokio::test]
async fn single_node_reports_no_cluster() {
    let alone = Node::builder().on_cql().await.start().await;
    let root = alone.root().await;
    let view = root.get("cluster").send().await.is(200).json();
    assert_eq!(testkit::cluster::View(view.clone()).others().len(), 0, "{view}");
    root.in_another_session().await.delete("auth_token").send().await.is_done().is_visible_at(0);
    let cluster = Cluster::of(1).await;
    let root = cluster.root().in_another_session().await;
    root.delete("auth_token").send().await.is_done().is_visible_at(0);
}

#[tokio::test]
async fn dashboard_and_rules_ask_for_what_members_say() {
    let redis = Redis::start().await;
    let cluster = Cluster::builder(2).setting("REDIS", redis.url()).start().await;
    let ann = cluster[0].register("ann").await;
    ann.is_in().await;
    ann.delete("auth_token").send().await.is_done();
    watching::check(&cluster[0].get("/metrics").send().await.text(), |_| false);
}
