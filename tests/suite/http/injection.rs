//! Text that would be a command somewhere else is just text here.

use serde_json::json;
use testkit::{Node, fresh};

const COMMANDS: [&str; 14] = [
    "'; DROP TABLE users; --",
    "\" OR \"\"=\"",
    "'; TRUNCATE palisade.users; //",
    "$$; DELETE FROM users;$$",
    "*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$1\r\ny\r\n",
    "x\r\nFLUSHALL\r\n",
    "palisade:*",
    "{{7*7}} ${7*7} #{7*7}",
    "<script>alert(1)</script>",
    "../../../../etc/passwd",
    "%s%s%s%n",
    "${jndi:ldap://127.0.0.1/x}",
    "\u{202e}gro.elpmaxe\u{200b}",
    "a\u{0}b",
];

#[tokio::test]
async fn user_names_come_back_unchanged_or_are_refused() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    for text in COMMANDS {
        for field in ["first_name", "last_name"] {
            let answer = ann.patch("users/me").json(&json!({field: text})).send().await;
            if answer.status != 200 {
                answer.is_about_field(field);
                continue;
            }
            assert_eq!(ann.get("users/me").send().await.field(field), text);
        }
    }
    ann.is_in().await;
}

#[tokio::test]
async fn descriptions_come_back_unchanged_or_are_refused() {
    let node = Node::shared().await;
    let root = node.root().await;
    let permission = root.makes_permission("p").await;
    let role = root.makes_role("r", &[]).await;
    for text in COMMANDS {
        for path in [format!("permissions/{permission}"), format!("roles/{role}")] {
            let answer = root.patch(&path).json(&json!({"description": text})).send().await;
            if answer.status == 200 {
                assert_eq!(answer.field("description"), text);
            } else {
                answer.is_about_field("description");
            }
        }
    }
}

#[tokio::test]
async fn names_and_emails_with_commands_are_refused_or_literal() {
    let node = Node::shared().await;
    let root = node.root().await;
    for text in COMMANDS {
        for noun in ["permissions", "roles"] {
            root.post(noun).json(&json!({"name": text})).send().await.is_about_field("name");
        }
        let email = format!("{text}@example.org");
        let answer =
            node.post("users").json(&json!({"email": email, "password": fresh("a secret")})).send().await;
        if answer.status == 201 {
            assert_eq!(answer.field("email"), email);
        } else {
            // 409: another run of this test took it.
            assert!(answer.status == 409 || answer.is_about_field("email").status == 400);
        }
        node.log_in(text, text).await.is_error(401, "Bad email or password");
    }
}

#[tokio::test]
async fn an_apostrophe_in_an_email_is_just_a_letter() {
    let node = Node::shared().await;
    let root = node.root().await;
    let email = format!("o'neill.{}@example.org", fresh("x"));
    let password = fresh("a secret");
    let user = node.post("users").json(&json!({"email": email, "password": password})).send().await;
    user.is(201);
    node.log_in(&email, &password).await.is(200);
    let found = root.list("users", &format!("users?email={}", email.replace('\'', "%27"))).await;
    assert_eq!(found.len(), 1);
}

#[tokio::test]
async fn paths_with_commands_are_not_found() {
    let node = Node::start().await;
    let root = node.root().await;
    let before = root.get("permissions").send().await.is(200).json();
    for text in COMMANDS {
        let encoded: String = text.bytes().map(|b| format!("%{b:02X}")).collect();
        for path in [
            format!("permissions/{encoded}"),
            format!("roles/{encoded}"),
            format!("users/{encoded}"),
            format!("users/me/roles/{encoded}"),
            format!("users/me/sessions/{encoded}"),
            format!("roles/superuser/permissions/{encoded}"),
        ] {
            let answer = root.delete(&path).send().await;
            assert!(matches!(answer.status, 400 | 404), "{path}\n{answer}");
            answer.is_refused(answer.status);
        }
    }
    assert_eq!(root.get("permissions").send().await.is(200).json(), before);
}
