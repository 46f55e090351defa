//! The document of the API: what is committed is what the binary says, so it cannot drift.

use std::path::Path;

use serde_json::Value;
use testkit::{
    Node, Palisade, Shared, binary, fresh, scratch,
    tools::{self, Tools},
};
use tokio::process::Command;

static BEHIND_A_PREFIX: Shared = Shared::with(&[("PUBLIC_URL", "https://Example.org:443/iam/")]);

#[tokio::test]
async fn committed_document_matches_the_binary() {
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

#[tokio::test]
async fn documented_server_is_the_public_url() {
    let server = async |node: &Node| {
        let document = node.get("/openapi.json").send().await.is(200).json();
        document["servers"].as_array().expect("servers").clone()
    };
    let behind = BEHIND_A_PREFIX.node().await;
    assert_eq!(server(&behind).await, [serde_json::json!({"url": "https://example.org/iam"})]);
    // Relative to the document (RFC 3986, section 5): right under any prefix.
    assert_eq!(server(&Node::shared().await).await, [serde_json::json!({"url": "."})]);
}

/// A directory with the document of a running node in it.
async fn fetched(node: &Node) -> tempfile::TempDir {
    let directory = scratch::directory();
    let document = node.get("/openapi.json").send().await.is(200).text();
    std::fs::write(directory.path().join("openapi.json"), document).expect("it can be written");
    directory
}

fn copied(name: &str, to: &Path) {
    let from = binary::workspace().join("tests/clients").join(name);
    std::fs::copy(from, to.join(name)).expect("it can be copied");
}

/// What a client of this node is called with.
fn arguments(node: &Node, name: &str) -> [String; 3] {
    [
        format!("http://{}", node.address()),
        format!("{}@example.org", fresh(name)),
        fresh("a secret of a generated client"),
    ]
}

#[tokio::test]
async fn document_is_valid_openapi() {
    let node = Node::shared().await;
    let tools = Tools::python().await;
    let directory = fetched(&node).await;
    let said = tools.run("openapi-spec-validator", &["openapi.json"], directory.path()).await;
    assert!(said.contains("OK"), "{said}");
    // It does find what is wrong.
    let mut broken: Value = node.get("/openapi.json").send().await.json();
    broken["paths"]["/metrics"]["get"]["responses"]["200"] = serde_json::json!({});
    std::fs::write(directory.path().join("broken.json"), broken.to_string()).expect("it can be written");
    let program = tools.directory().join("venv/bin/openapi-spec-validator");
    let run = Command::new(program).arg(directory.path().join("broken.json")).output().await;
    assert!(!run.expect("it runs").status.success(), "a broken document is found valid");
}

#[tokio::test]
async fn generated_typescript_client_compiles_and_logs_in() {
    let node = Node::shared().await;
    let tools = Tools::node().await;
    let directory = fetched(&node).await;
    let at = directory.path();
    tools.run("openapi-typescript", &["openapi.json", "--output", "api.d.ts"], at).await;
    for name in ["client.ts", "tsconfig.json", "package.json"] {
        copied(name, at);
    }
    let modules = tools.directory().join("node_modules");
    std::os::unix::fs::symlink(modules, at.join("node_modules")).expect("a link to the modules");
    tools.run("tsc", &["--project", "."], at).await;
    let mut client = Command::new("node");
    let said = tools::run(client.arg("out/client.js").args(arguments(&node, "ts")).current_dir(at)).await;
    assert_eq!(said.trim(), "done");
}

#[tokio::test]
async fn generated_python_client_logs_in_and_out() {
    let node = Node::shared().await;
    let tools = Tools::python().await;
    let directory = fetched(&node).await;
    let at = directory.path();
    std::fs::write(at.join("config.yaml"), "package_name_override: palisade_client\npost_hooks: []\n")
        .expect("it can be written");
    copied("client.py", at);
    let generate = ["generate", "--path", "openapi.json", "--config", "config.yaml", "--meta", "none"];
    let generate = [&generate[..], &["--output-path", "palisade_client", "--fail-on-warning"]].concat();
    tools.run("openapi-python-client", &generate, at).await;
    let arguments = arguments(&node, "py");
    let arguments: Vec<_> = ["client.py"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    let said = tools.run("python", &arguments, at).await;
    assert_eq!(said.trim(), "done");
}
