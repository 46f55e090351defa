//! Registration.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};
use testkit::{Answer, Node, fresh};

const PASSWORD: &str = "a password nobody else has";

async fn register(node: &Node, email: &str) -> Answer {
    node.post("users").json(&json!({"email": email, "password": PASSWORD})).send().await
}

#[tokio::test]
async fn registration_returns_the_new_user() {
    let node = Node::shared().await;
    let email = format!("{}@Example.org", fresh("Ann"));
    let body =
        json!({"email": email, "password": PASSWORD, "first_name": "Ann", "last_name": "Müller-Øster"});
    let user = node.post("users").json(&body).send().await.is(201).json();
    let fields: BTreeSet<_> = user.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["active", "created_at", "email", "email_confirmed", "first_name", "last_name", "uuid"];
    assert_eq!(fields, expected.into());
    assert_eq!(user["email"], email, "as it was written");
    assert_eq!((&user["first_name"], &user["last_name"]), (&json!("Ann"), &json!("Müller-Øster")));
    assert_eq!((&user["email_confirmed"], &user["active"]), (&json!(false), &json!(true)));
    assert_eq!(user["uuid"].as_str().unwrap().as_bytes()[14], b'7', "a UUIDv7: {}", user["uuid"]);
    assert!(user["created_at"].as_str().unwrap().ends_with('Z'));
    let (access, _) = node.log_in(&email, PASSWORD).await.pair();
    assert_eq!(node.get("users/me").bearer(&access).send().await.is(200).json(), user);
}

#[tokio::test]
async fn names_can_be_left_out() {
    let node = Node::shared().await;
    let user = register(&node, &format!("{}@example.org", fresh("ann"))).await.is(201).json();
    assert!(user["first_name"].is_null() && user["last_name"].is_null());
}

#[tokio::test]
async fn email_registers_once_in_any_letter_case() {
    let node = Node::shared().await;
    let name = fresh("strasse");
    register(&node, &format!("{name}@example.org")).await.is(201);
    for again in [
        format!("{name}@example.org"),
        format!("{}@example.org", name.to_uppercase()),
        format!("{name}@EXAMPLE.ORG"),
        format!("{}@Example.Org", name.replacen("ss", "ß", 1)),
    ] {
        register(&node, &again).await.is_refused(409);
    }
    let composed = fresh("é");
    register(&node, &format!("{composed}@example.org")).await.is(201);
    register(&node, &format!("{}@example.org", composed.replace('é', "E\u{301}"))).await.is_refused(409);
    // Other addresses are other people.
    register(&node, &format!("{name}@example.com")).await.is(201);
    register(&node, &format!("{name}+films@example.org")).await.is(201);
}

/// The same letters, as wide as those of East Asian scripts.
fn wide(text: &str) -> String {
    let wide =
        |c: char| char::from_u32(u32::from(c) + 0xfee0).filter(|_| c.is_ascii_alphanumeric()).unwrap_or(c);
    text.chars().map(wide).collect()
}

#[tokio::test]
async fn spellings_of_one_address_are_one_account() {
    let node = Node::shared().await;
    let name = fresh("zed");
    let user = register(&node, &format!("{name}@bücher.example")).await.is(201).json();
    for same in [
        format!("{name}@xn--bcher-kva.example"),
        format!("{}@XN--BCHER-KVA.example", name.to_uppercase()),
        format!("{name}@bu\u{308}cher.EXAMPLE"),
        format!("{name}@bücher。example"),
        format!("{name}@{}", wide("bücher.example")),
        format!("{}@bücher.example", wide(&name)),
    ] {
        register(&node, &same).await.is_refused(409);
        let (access, _) = node.log_in(&same, PASSWORD).await.pair();
        assert_eq!(node.get("users/me").bearer(&access).send().await.is(200).json(), user, "{same}");
    }
    let name = fresh("ann");
    let user = register(&node, &format!("{name}@example。org")).await.is(201).json();
    assert_eq!(user["email"], format!("{name}@example.org"));
    register(&node, &format!("{name}@example.org")).await.is_refused(409);
}

#[tokio::test]
async fn addresses_with_invisible_characters_are_refused() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    for text in [
        "ann\u{200b}@example.org",
        "\u{feff}dan@example.org",
        "so\u{ad}ft@example.org",
        "\u{202e}ann@example.org",
        "ann\u{2060}@example.org",
        "ann\u{3164}@example.org",
        "ann\u{fe0f}@example.org",
        "ann@exam\u{200d}ple.org",
        "ann@exam\u{ad}ple.org",
        "ann@example.org\u{200e}",
        "ann\u{1b}[31m@example.org",
        "a\u{37e}b@x.org",
        "a\u{ff1b}b@x.org",
        "ann@xn--a.example",
    ] {
        register(&node, text).await.is_about_field("email");
        let change = json!({"email": text, "password": ann.password});
        ann.patch("users/me").json(&change).send().await.is_about_field("email");
    }
    ann.in_another_session().await.is_in().await;
}

#[tokio::test]
async fn invisible_texts_are_refused_by_every_endpoint() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let root = node.root().await;
    for text in ["A\u{1b}[31mB", "nul\0", "a\u{202e}b", "zero\u{200b}width", "\u{3164}", "\u{2028}"] {
        for field in ["first_name", "last_name"] {
            let body =
                json!({"email": format!("{}@example.org", fresh("x")), "password": PASSWORD, field: text});
            node.post("users").json(&body).send().await.is_about_field(field);
            ann.patch("users/me").json(&json!({field: text})).send().await.is_about_field(field);
        }
        let body = json!({"email": ann.email, "password": ann.password, "device": text});
        node.post("auth_token").json(&body).send().await.is_about_field("device");
        for noun in ["permissions", "roles"] {
            let body = json!({"name": fresh("n"), "description": text});
            root.post(noun).json(&body).send().await.is_about_field("description");
        }
    }
    let body = json!({"first_name": " Zoe\u{308} ", "last_name": "  "});
    let user = ann.patch("users/me").json(&body).send().await.is(200).json();
    assert_eq!((&user["first_name"], &user["last_name"]), (&json!("Zoë"), &Value::Null));
}

#[tokio::test]
async fn parallel_registrations_of_one_email_get_one_201() {
    let node = Node::start().await;
    let name = fresh("crowd");
    // The node sheds what its hashing queue cannot take: those come again, as clients do.
    let attempt = async |n: usize| {
        let name = if n.is_multiple_of(2) { name.clone() } else { name.to_uppercase() };
        loop {
            let answer = register(&node, &format!("{name}@example.org")).await;
            if answer.status != 503 {
                return answer;
            }
            answer.is_refused(503);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let answers = join_all((0..100).map(attempt)).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    answers.iter().filter(|answer| answer.status != 201).for_each(|answer| {
        answer.is_refused(409);
    });
    node.log_in(&format!("{name}@example.org"), PASSWORD).await.is(200);
}

#[tokio::test]
async fn each_wrong_field_is_named() {
    let node = Node::shared().await;
    let email = || format!("{}@example.org", fresh("ann"));
    let with = |field: &str, value: Value| {
        let mut body = json!({"email": email(), "password": PASSWORD});
        body[field] = value;
        node.post("users").json(&body).send()
    };
    for bad in [
        "",
        "ann",
        "@",
        "ann@",
        "@example.org",
        "ann@@example.org",
        "a b@example.org",
        "ann@exa mple.org",
        "ann@example..org",
        "ann@example.org\n",
        "ann\u{0}@example.org",
        "<ann@example.org>",
        "ann@-example.org",
        &format!("{}@example.org", "a".repeat(65)),
        &format!("ann@{}.org", "a".repeat(300)),
    ] {
        with("email", json!(bad)).await.is_about_field("email");
    }
    for bad in ["", "short12", "password", "12345678"] {
        with("password", json!(bad)).await.is_about_field("password");
    }
    for field in ["first_name", "last_name"] {
        with(field, json!("n".repeat(5_000))).await.is_about_field(field);
        with(field, Value::Null).await.is(201);
    }
    // Of two at a time, at least one is named.
    let both = node.post("users").json(&json!({"email": "x", "password": "x"})).send().await;
    let fields = both.is_refused(400).json()["fields"].clone();
    assert!(fields.as_object().is_some_and(|fields| !fields.is_empty()), "{both}");
}

#[tokio::test]
async fn registration_refuses_a_body_of_another_form() {
    let node = Node::shared().await;
    for body in [
        json!({}),
        json!([]),
        json!("x"),
        json!(null),
        json!({"email": "ann@example.org"}),
        json!({"password": PASSWORD}),
        json!({"email": 1, "password": PASSWORD}),
        json!({"email": ["ann@example.org"], "password": PASSWORD}),
        json!({"email": {"$ne": null}, "password": PASSWORD}),
        json!({"email": "ann@example.org", "password": 12_345_678}),
        json!({"email": "ann@example.org", "password": null}),
        json!({"email": "ann@example.org", "password": {"$gt": ""}}),
    ] {
        node.post("users").json(&body).send().await.is_refused(400);
    }
}

#[tokio::test]
async fn registration_grants_no_privileges() {
    let node = Node::shared().await;
    let email = format!("{}@example.org", fresh("mallory"));
    let body = json!({
        "email": email, "password": PASSWORD, "active": false, "email_confirmed": true, "version": 99,
        "uuid": "01890a5d-ac96-774b-bcce-b302099a8057", "roles": ["superuser"], "permissions": ["all_all"],
    });
    // Refused for what is unknown, or taken without it.
    let answer = node.post("users").json(&body).send().await;
    if answer.status == 400 {
        answer.is_refused(400);
        return;
    }
    let user = answer.is(201).json();
    assert_ne!(user["uuid"], "01890a5d-ac96-774b-bcce-b302099a8057");
    assert_eq!((&user["active"], &user["email_confirmed"]), (&json!(true), &json!(false)));
    let (access, _) = node.log_in(&email, PASSWORD).await.pair();
    let combined = node.get("users/me/combined_permissions").bearer(&access).send().await;
    assert_eq!(combined.is(200).json(), json!([]));
}

#[tokio::test]
async fn deleted_users_email_is_free_and_passes_nothing_on() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let films = root.makes_permission("films").await;
    root.gives(&ann, &films).await.is(200);
    ann.delete("users/me").send().await.is_done();
    let again = register(&node, &ann.email).await.is(201).json();
    assert_ne!(again["uuid"], ann.uuid.as_str());
    node.log_in(&ann.email, &ann.password).await.is_error(401, "Bad email or password");
    let now = ann.with_password(PASSWORD).in_another_session().await;
    assert!(!now.may(&films).await);
    assert_eq!(now.list("sessions", "users/me/sessions").await.len(), 1);
    ann.is_out().await;
    root.get(&ann.path("")).send().await.is_refused(404);
}
