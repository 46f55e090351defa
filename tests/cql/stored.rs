//! Rows in the shared store that no rule of today would accept, or that cannot be read.

use std::sync::Arc;

use serde_json::json;
use testkit::{
    Node, Person,
    servers::Cassandra,
    store::{self, Keyspace},
};

/// The findings of a check of the store: the row's id, the field, and the state, sorted.
async fn findings(node: &Node, arguments: &[&str]) -> Vec<(String, String, String)> {
    let said = serde_json::from_str::<serde_json::Value>(&node.cli(arguments).await.stdout).unwrap();
    let finding = |one: &serde_json::Value| {
        let text = |name: &str| one[name].as_str().unwrap().to_owned();
        (text("id"), text("field"), text("state"))
    };
    let mut found: Vec<_> = said["findings"].as_array().unwrap().iter().map(finding).collect();
    found.sort();
    found
}

/// The findings that the planted rows cause; only the email of `zed` can be mended.
fn expected([odd, zed, damaged]: [&str; 3], state: &str) -> [(String, String, String); 6] {
    let mut expected = [
        ("\"damaged\"", "id", "stays"),
        ("\"no name\"", "name", "stays"),
        (odd, "email", "stays"),
        (odd, "first_name", "stays"),
        (zed, "email", state),
        (damaged, "row", "stays"),
    ]
    .map(|(id, field, state)| (id.to_owned(), field.to_owned(), state.to_owned()));
    expected.sort();
    expected
}

#[tokio::test]
async fn rows_that_break_the_rules_are_served_and_deleted() {
    let keyspace = Arc::new(Keyspace::take().await);
    let address = Cassandra::one().await.address();
    let node = Node::builder().on_keyspace(&keyspace, address).start().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let permission = root.makes_permission("films.read").await;
    let session = store::cassandra().await;
    let ks = keyspace.name();
    let run = async |cql: String| {
        session.query_unpaged(cql.clone(), ()).await.unwrap_or_else(|error| panic!("{cql}: {error}"))
    };
    let hash = run(format!("SELECT password FROM {ks}.users WHERE id = {}", ann.uuid)).await;
    let (hash,): (String,) = hash.into_rows_result().unwrap().single_row().unwrap();
    let millis = u64::from_str_radix(&ann.uuid.replace('-', "")[..12], 16).unwrap();
    let day = millis / 86_400_000;
    let planted = async |n: u8, email: &str, key: &str, name: &str, active: &str| {
        let id = format!("{}{n:012}", &ann.uuid[..24]);
        run(format!(
            "INSERT INTO {ks}.users (id, email, email_confirmed, password, first_name, active, version, revision, \
             created_at) VALUES ({id}, '{email}', false, '{hash}', {name}, {active}, 0, 1, 1700000000000)"
        ))
        .await;
        run(format!("INSERT INTO {ks}.emails (email, user, claim) VALUES ('{key}', {id}, uuid())")).await;
        run(format!("INSERT INTO {ks}.registrations (day, user) VALUES ({day}, {id})")).await;
        id
    };
    let odd = planted(1, "a;b@x.org", "a;b@x.org", "'A\nB'", "true").await;
    let key = "zed@xn--bcher-kva.example";
    let zed = planted(2, key, key, "null", "true").await;
    let damaged = planted(3, "damaged@example.org", "damaged@example.org", "null", "null").await;
    run(format!("INSERT INTO {ks}.catalogue (part, kind, name, id) VALUES (0, 'role', 'no name', uuid())"))
        .await;
    run(format!("INSERT INTO {ks}.catalogue (part, kind, name) VALUES (0, 'role', 'damaged')")).await;
    run(format!("UPDATE {ks}.catalogue SET revision = 1000 WHERE part = 0")).await;

    let user = Person::log_in(&node, "a;b@x.org", &ann.password).await;
    assert_eq!(user.uuid, odd);
    for email in [key, "zed@bücher.example"] {
        assert_eq!(Person::log_in(&node, email, &ann.password).await.uuid, zed, "{email}");
    }
    let body = json!({"email": "Zed@bücher.example", "password": ann.password});
    node.post("users").json(&body).send().await.is_refused(409);
    let mut listed = root.list("users", "users").await;
    listed.retain(|one| [&odd, &zed, &damaged].contains(&&one["uuid"].as_str().unwrap().to_owned()));
    assert_eq!(listed.len(), 2, "all but the one that cannot be read");
    root.gives(&user, &permission).await.is(200);
    root.takes(&user, &permission).await.is(200);

    assert_eq!(
        findings(&node, &["store", "check", "--json"]).await,
        expected([&odd, &zed, &damaged], "mendable")
    );
    assert_eq!(
        findings(&node, &["store", "check", "--repair", "--json"]).await,
        expected([&odd, &zed, &damaged], "mended")
    );
    assert_eq!(Person::log_in(&node, key, &ann.password).await.uuid, zed);

    root.sets_active(&user, false).await.is(200);
    user.is_out().await;
    for id in [&odd, &zed, &damaged] {
        root.delete(&format!("users/{id}")).send().await.is(204);
    }
    root.delete("roles/no%20name").send().await.is(204);
    // Another of the name takes the place of what has no id.
    root.post("roles").json(&json!({"name": "damaged"})).send().await.is(201);
    node.cli(&["store", "check"]).await.is_done();
    assert!(!node.logs().contains("metadata_request"), "the driver has nothing to warn about");
}
