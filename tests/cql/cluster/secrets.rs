//! The cluster secret and the master key are replaced node by node, and no request fails for it.

use testkit::{Cluster, Node, Person, cluster::SECRET, eventually};

use super::{DETECTION_TIMEOUT, is_in_everywhere, is_out_at_once};

/// Other 32 bytes in base64.
const NEW_SECRET: &str = "YW5vdGhlciBzZWNyZXQgb2YgdGhlIHRlc3RzIGNsdXM=";
const OLD_KEY: &str = "b2xkIG1hc3RlciBrZXkgb2YgdGhlIHRlc3RzJyBjbHU=";
const NEW_KEY: &str = "bmV3IG1hc3RlciBrZXkgb2YgdGhlIHRlc3RzJyBjbHU=";

/// Nodes of a cluster that are restarted under other settings.
struct Rolling {
    cluster: Cluster,
    nodes: Vec<Node>,
}

impl Rolling {
    fn of(cluster: Cluster) -> Self {
        Self { nodes: cluster.handles(), cluster }
    }

    /// Restarts one node with these settings, and waits until all nodes are linked again.
    async fn restart(&mut self, n: usize, settings: &[(&str, &str)]) {
        assert!(self.nodes[n].terminate().await.success());
        let successor = settings.iter().fold(self.nodes[n].successor(), |node, (name, value)| match *value {
            "" => node.default_setting(name),
            value => node.setting(name, value),
        });
        self.nodes[n] = successor.start().await;
        for node in &self.nodes {
            eventually(DETECTION_TIMEOUT, "every node is linked with all others", async || {
                let view = self.cluster.view(node).await?;
                let linked = view.others().iter().filter(|other| other["linked"] == true).count();
                (linked == self.nodes.len() - 1).then_some(())
            })
            .await;
        }
    }

    /// A session that was begun on one node is ended on another, and all refuse it.
    async fn revocations_reach_all(&self, ann: &Person) {
        let count = self.nodes.len();
        for n in 0..count {
            let session = ann.at(&self.nodes[n]).in_another_session().await;
            is_in_everywhere(&self.nodes, &session).await;
            let next = session.at(&self.nodes[(n + 1) % count]).refreshed().await;
            let logout = next.at(&self.nodes[(n + 2) % count]).delete("auth_token").send().await;
            logout.is_done().is_visible_everywhere();
            is_out_at_once(&self.nodes, &next).await;
        }
    }
}

#[tokio::test]
async fn cluster_secret_is_replaced_without_a_split() {
    let mut rolling = Rolling::of(Cluster::of(3).await);
    let ann = rolling.nodes[0].register("ann").await;
    for step in [
        [("CLUSTER_SECRET", SECRET), ("CLUSTER_SECRET_ACCEPTED", NEW_SECRET)],
        [("CLUSTER_SECRET", NEW_SECRET), ("CLUSTER_SECRET_ACCEPTED", SECRET)],
        [("CLUSTER_SECRET", NEW_SECRET), ("CLUSTER_SECRET_ACCEPTED", "")],
    ] {
        for n in 0..3 {
            rolling.restart(n, &step).await;
            rolling.revocations_reach_all(&ann).await;
        }
    }
    // The old secret opens nothing any more.
    let stranger = rolling.cluster.loner().await.setting("CLUSTER_SECRET", SECRET).start().await;
    let view = rolling.cluster.view(&stranger).await;
    assert!(view.is_none_or(|view| view.others().iter().all(|member| member["linked"] != true)));
}

#[tokio::test]
async fn master_key_is_replaced_and_sessions_live_on() {
    let cluster = Cluster::builder(3).setting("MASTER_KEY", OLD_KEY).start().await;
    let mut rolling = Rolling::of(cluster);
    let ann = rolling.nodes[0].register("ann").await;
    let mut bob = rolling.nodes[1].register("bob").await;
    let kids = rolling.nodes[0].published_kids().await;
    for step in [
        [("MASTER_KEY", OLD_KEY), ("MASTER_KEY_ACCEPTED", NEW_KEY)],
        [("MASTER_KEY", NEW_KEY), ("MASTER_KEY_ACCEPTED", OLD_KEY)],
        [("MASTER_KEY", NEW_KEY), ("MASTER_KEY_ACCEPTED", "")],
    ] {
        for n in 0..3 {
            rolling.restart(n, &step).await;
            rolling.revocations_reach_all(&ann).await;
            // The tokens of a session that began before are good, and so is each successor, on every node.
            for node in &rolling.nodes {
                bob = bob.at(node).refreshed().await;
                is_in_everywhere(&rolling.nodes, &bob).await;
            }
        }
    }
    let published = rolling.nodes[2].published_kids().await;
    assert_eq!(published, kids, "the signing keys are the same, under another master key");
    rolling.nodes[0].cli(&["keys", "rotate"]).await.is_done();

    // With the old key alone a node does not come up.
    assert!(rolling.nodes[2].terminate().await.success());
    let old = rolling.nodes[2].successor().setting("MASTER_KEY", OLD_KEY);
    let refused = old.try_start().await.expect_err("the keys are sealed with another key");
    assert!(format!("{refused:?}").contains("MASTER_KEY"), "{refused:?}");
}
