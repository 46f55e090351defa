//! `palisade store copy`: one node with the embedded store becomes a cluster on a shared one.

use std::sync::Arc;

use serde_json::Value;
use testkit::{
    Node,
    servers::Cassandra,
    store::{Keyspace, MASTER_KEY},
};

async fn embedded() -> Node {
    Node::builder().setting("STORE", "redb").setting("MASTER_KEY", MASTER_KEY).start().await
}

#[tokio::test]
async fn users_and_sessions_move_from_one_node_to_a_cluster() {
    let alone = embedded().await;
    let root = alone.root().await;
    let ann = alone.register("ann").await;
    let out = ann.in_another_session().await;
    let films = root.makes_permission("films.read").await;
    let reader = root.makes_role("reader", &[&films]).await;
    root.gives_role(&ann, &reader).await.is(200);
    out.delete("auth_token").send().await.is_done();
    let kids = alone.published_kids().await;

    let keyspace = Arc::new(Keyspace::take().await);
    let address = Cassandra::one().await.address();
    let target = format!("cql://{address}/{}", keyspace.name());
    let copy = ["store", "copy", "--from", "redb", "--to", &target, "--json"];
    alone.cli(&copy).await.failed_saying(&["another process uses it"]);
    assert!(alone.terminate().await.success());
    let copied: Value = alone.cli(&copy).await.is_done().json();
    assert!(copied["users"].as_u64() >= Some(2), "{copied}");
    assert_eq!(copied["roles"].as_u64(), Some(2), "{copied}");
    // Again: nothing changes.
    assert_eq!(alone.cli(&copy).await.is_done().json(), copied);

    let a = Node::builder().on_keyspace(&keyspace, address).start().await;
    let b = Node::builder().on_keyspace(&keyspace, address).start().await;
    for node in [&a, &b] {
        let ann = ann.at(node);
        ann.is_in().await;
        assert!(ann.may(&films).await, "the role has moved");
        ann.in_another_session().await.is_in().await;
        out.at(node).is_out().await;
        let logins = ann.list("logins", "users/me/logins").await;
        assert!(logins.len() >= 2, "{logins:?}");
    }
    ann.at(&a).refreshed().await.at(&b).is_in().await;
    root.at(&b).is_in().await;
    let published = a.published_kids().await;
    assert!(published.is_superset(&kids), "{published:?} has {kids:?}");
}

#[tokio::test]
async fn copy_into_a_store_in_use_is_refused() {
    let alone = embedded().await;
    alone.register("ann").await;
    assert!(alone.terminate().await.success());
    let other = Node::builder().start().await;
    other.register("bob").await;
    let target = other.palisade(&[]).into_command();
    let target = target.get_envs().find(|(name, _)| *name == "PALISADE_STORE").and_then(|(_, value)| value);
    let target = target.unwrap().to_str().unwrap().to_owned();
    let run = alone.cli(&["store", "copy", "--to", &target]).await;
    run.failed_saying(&["signing keys of its own"]);
    for arguments in [
        &["store", "copy"][..],
        &["store", "copy", "--from", "redb", "--to", "redb"],
        &["store", "copy", "--from", &target, "--to", &target],
    ] {
        alone.cli(arguments).await.was_wrong_usage(&["two stores"]);
    }
    alone.cli(&["store", "copy", "--to", "postgres://a/b"]).await.failed_saying(&["--to"]);
}
