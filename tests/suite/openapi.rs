//! The document of the API: what is committed is what the binary says, so it cannot drift.

use testkit::{Node, Palisade, binary};

#[tokio::test]
async fn the_committed_document_is_what_the_binary_says() {
    let run = Palisade::with(["openapi"]).run().await;
    let said = run.is_done().json();
    let path = binary::workspace().join("node/openapi.json");
    let text = std::fs::read_to_string(&path).expect("node/openapi.json is committed");
    let committed: serde_json::Value = serde_json::from_str(&text).expect("node/openapi.json is JSON");
    assert!(committed == said, "node/openapi.json is old: `palisade openapi > node/openapi.json`");
    assert_eq!(text.trim_end(), run.stdout.trim_end(), "the same to the letter");
}

#[tokio::test]
async fn a_running_node_serves_the_same_document() {
    let node = Node::shared().await;
    let said = Palisade::with(["openapi"]).run().await.is_done().json();
    assert_eq!(node.get("/openapi.json").send().await.is(200).json(), said);
}
