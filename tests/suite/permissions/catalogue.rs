//! The permissions and roles that there are: made, described, listed, deleted.

use serde_json::{Value, json};
use testkit::{Node, fresh};

const BUILT_IN: [&str; 5] =
    ["all_all", "permissions_admin", "users_admin", "permissions_check", "cluster_read"];

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|thing| thing["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn permission_is_created_listed_described_and_deleted() {
    let root = Node::shared().await.root().await;
    let name = fresh("films.read");
    let made = root.post("permissions").json(&json!({"name": name, "description": "May watch"})).send().await;
    let made = made.is(201).json();
    assert_eq!((&made["name"], &made["description"]), (&json!(name), &json!("May watch")));
    assert_eq!(made["uuid"].as_str().unwrap().len(), 36);
    let listed = root.get("permissions").send().await.is(200).json();
    assert!(listed.as_array().unwrap().contains(&made), "the list shows what was made");
    let path = format!("permissions/{name}");
    let changed =
        root.patch(&path).json(&json!({"description": "May watch films"})).send().await.is(200).json();
    assert_eq!(changed["uuid"], made["uuid"]);
    assert_eq!(changed["description"], "May watch films");
    assert!(root.get("permissions").send().await.json().as_array().unwrap().contains(&changed));
    root.delete(&path).send().await.is_done().is_visible_everywhere();
    assert!(!names(&root.get("permissions").send().await.json()).contains(&name.as_str()));
    root.delete(&path).send().await.is_refused(404);
    root.patch(&path).json(&json!({"description": "x"})).send().await.is_refused(404);
}

#[tokio::test]
async fn role_is_created_shown_described_and_deleted() {
    let root = Node::shared().await.root().await;
    let permission = root.makes_permission("films.read").await;
    let name = fresh("viewer");
    let made = root.post("roles").json(&json!({"name": name, "description": "Watches"})).send().await;
    let made = made.is(201).json();
    assert_eq!((&made["name"], &made["description"]), (&json!(name), &json!("Watches")));
    let path = format!("roles/{name}");
    let permissions = root.puts(&permission, &name).await;
    assert_eq!(names_or_texts(&permissions.is(200).is_visible_everywhere().json()), [permission.as_str()]);
    let shown = root.get(&path).send().await.is(200).json();
    assert_eq!(shown["uuid"], made["uuid"]);
    assert_eq!(names_or_texts(&shown["permissions"]), [permission.as_str()]);
    let changed = root.patch(&path).json(&json!({"description": "Looks"})).send().await.is(200).json();
    assert_eq!(changed["description"], "Looks");
    let listed = root.get("roles").send().await.is(200).json();
    assert!(listed.as_array().unwrap().contains(&changed), "what is in the list is what GET shows");
    let left = root.takes_out(&permission, &name).await;
    assert_eq!(left.is(200).is_visible_everywhere().json(), json!([]));
    root.delete(&path).send().await.is_done().is_visible_everywhere();
    for gone in [root.get(&path), root.delete(&path), root.patch(&path).json(&json!({"description": "x"}))] {
        gone.send().await.is_refused(404);
    }
    root.puts(&permission, &name).await.is_refused(404);
}

/// Permissions of a role, whether as objects or as names.
fn names_or_texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("an array");
    list.iter().map(|item| item.as_str().or_else(|| item["name"].as_str()).expect("a name")).collect()
}

#[tokio::test]
async fn description_is_optional_and_removable() {
    let root = Node::shared().await.root().await;
    for noun in ["permissions", "roles"] {
        let name = fresh("plain");
        let made = root.post(noun).json(&json!({"name": name})).send().await.is(201).json();
        assert!(made["description"].is_null());
        let path = format!("{noun}/{name}");
        root.patch(&path).json(&json!({"description": "d"})).send().await.is(200);
        let without = root.patch(&path).json(&json!({"description": null})).send().await.is(200).json();
        assert!(without["description"].is_null());
    }
}

#[tokio::test]
async fn name_is_created_once_and_case_matters() {
    let root = Node::shared().await.root().await;
    for noun in ["permissions", "roles"] {
        let name = fresh("Films");
        root.post(noun).json(&json!({"name": name})).send().await.is(201);
        root.post(noun).json(&json!({"name": name})).send().await.is_refused(409);
        root.post(noun).json(&json!({"name": name.to_lowercase()})).send().await.is(201);
    }
    // A permission and a role may have the same name.
    let name = root.makes_permission("both").await;
    root.post("roles").json(&json!({"name": name})).send().await.is(201);
}

#[tokio::test]
async fn parallel_creations_of_one_name_get_one_201() {
    let root = Node::shared().await.root().await;
    for noun in ["permissions", "roles"] {
        let body = json!({"name": fresh("once")});
        let answers = (0..20).map(|_| root.post(noun).json(&body).send());
        let answers = futures_util::future::join_all(answers).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1, "{noun}");
        answers.iter().filter(|answer| answer.status != 201).for_each(|answer| {
            answer.is_refused(409);
        });
    }
}

#[tokio::test]
async fn names_follow_the_grammar() {
    let root = Node::shared().await.root().await;
    for noun in ["permissions", "roles"] {
        for bad in [
            "",
            " ",
            ".a",
            "_a",
            "-a",
            ":a",
            "a b",
            "a/b",
            "a\\b",
            "ä",
            "a\n",
            "a\u{0}",
            "a'b",
            "a\"b",
            "a%b",
            "a*",
            "../a",
            &"a".repeat(65),
        ] {
            root.post(noun).json(&json!({"name": bad})).send().await.is_about_field("name");
        }
        for bad in [Value::Null, json!(7), json!(["a"]), json!({"a": 1})] {
            root.post(noun).json(&json!({"name": bad})).send().await.is_refused(400);
        }
        root.post(noun).json(&json!({"description": "nameless"})).send().await.is_refused(400);
        let unique = fresh("a").replace('-', "");
        let longest = format!("{unique}{}", "z".repeat(64 - unique.len()));
        for good in [&longest, &format!("9.{unique}:x-Y_z."), &format!("{unique}-")] {
            root.post(noun).json(&json!({"name": good})).send().await.is(201);
            root.delete(&format!("{noun}/{good}")).send().await.is_done();
        }
    }
}

#[tokio::test]
async fn description_length_is_limited() {
    let root = Node::shared().await.root().await;
    for noun in ["permissions", "roles"] {
        let body = json!({"name": fresh("long"), "description": "d".repeat(10_000)});
        root.post(noun).json(&body).send().await.is_about_field("description");
        let body = json!({"name": fresh("long"), "description": "ü".repeat(500)});
        root.post(noun).json(&body).send().await.is(201);
    }
}

#[tokio::test]
async fn built_in_names_exist_and_cannot_be_deleted() {
    let root = Node::shared().await.root().await;
    let listed = root.get("permissions").send().await.is(200).json();
    for name in BUILT_IN {
        assert!(names(&listed).contains(&name), "{name}");
        root.delete(&format!("permissions/{name}")).send().await.is_refused(403);
        root.post("permissions").json(&json!({"name": name})).send().await.is_refused(409);
    }
    root.delete("roles/superuser").send().await.is_refused(403);
    root.takes_out("all_all", "superuser").await.is_refused(403);
    let superuser = root.get("roles/superuser").send().await.is(200).json();
    assert!(names_or_texts(&superuser["permissions"]).contains(&"all_all"));
    assert!(root.may("all_all").await);
}

#[tokio::test]
async fn names_cannot_be_changed() {
    let root = Node::shared().await.root().await;
    let permission = root.makes_permission("fixed").await;
    let role = root.makes_role("fixed", &[]).await;
    for path in [format!("permissions/{permission}"), format!("roles/{role}")] {
        // Refused or ignored; in no case is there another name afterwards.
        let answer =
            root.patch(&path).json(&json!({"name": fresh("renamed"), "description": "d"})).send().await;
        assert!(matches!(answer.status, 200 | 400), "{answer}");
        root.patch(&path).json(&json!({"description": "still here"})).send().await.is(200);
    }
}

#[tokio::test]
async fn repeated_adding_and_removing_change_nothing() {
    let root = Node::shared().await.root().await;
    let permission = root.makes_permission("p").await;
    let other = root.makes_permission("q").await;
    let role = root.makes_role("r", &[&permission]).await;
    let again = root.puts(&permission, &role).await;
    assert_eq!(names_or_texts(&again.is(200).json()), [permission.as_str()]);
    let never = root.takes_out(&other, &role).await;
    assert_eq!(names_or_texts(&never.is(200).json()), [permission.as_str()]);
    root.puts(&fresh("nothing"), &role).await.is_refused(404);
    root.takes_out(&fresh("nothing"), &role).await.is_refused(404);
    root.puts(&permission, &fresh("nothing")).await.is_refused(404);
    root.takes_out(&permission, &fresh("nothing")).await.is_refused(404);
}
