//! What must be told nobody: no token, password, key or secret is in any log line, error or metric.

use std::collections::BTreeSet;

use serde_json::json;
use testkit::{Node, Person, fresh};

fn of(person: &Person) -> [String; 3] {
    [person.password.clone(), person.access.clone(), person.refresh.clone()]
}

#[tokio::test]
async fn no_secret_is_in_a_log_line_an_error_or_a_metric() {
    let node =
        Node::builder().setting("LOG", "trace").setting("LOGIN_ACCOUNT_FAILURES", "3/15m").start().await;
    let mut secrets = BTreeSet::new();
    let mut errors = String::new();
    let root = node.root().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    let next = ann.refreshed().await;
    for person in [&root, &ann, &bob, &next] {
        secrets.extend(of(person));
    }

    // Passwords that are refused, wrong, changed, given by an admin, misplaced.
    let marked = |what: &str| fresh(&format!("secret {what}"));
    let [wrong, short_body, new, given, misplaced, bad] =
        ["wrong", "broken", "new", "given", "misplaced", "control\u{1}"].map(marked);
    secrets.extend([&wrong, &short_body, &new, &given, &misplaced].map(Clone::clone));
    secrets.insert(bad.replace('\u{1}', ""));
    let mut note = |answer: testkit::Answer| {
        if answer.status >= 400 {
            errors += &format!("{:?} {}\n", answer.headers, answer.text());
        }
        answer
    };
    for _ in 0..5 {
        note(node.log_in(&bob.email, &wrong).await);
    }
    note(node.log_in(&misplaced, &misplaced).await);
    note(
        node.post("auth_token")
            .body("application/json", format!("{{\"password\":\"{short_body}"))
            .send()
            .await,
    );
    note(node.post("auth_token").body("text/plain", format!("password={short_body}")).send().await);
    note(node.post("users").json(&json!({"email": "x", "password": bad})).send().await);
    note(node.post("users").json(&json!({"email": {"x": wrong}, "password": [wrong]})).send().await);
    note(node.post("users").json(&json!({"password": wrong, wrong.as_str(): 1})).send().await);
    let body = json!({"old_password": wrong, "new_password": new});
    note(ann.post("users/me/password").json(&body).send().await);
    let body = json!({"old_password": ann.password, "new_password": new});
    let pair = note(ann.post("users/me/password").json(&body).send().await).pair();
    secrets.extend([pair.0.clone(), pair.1.clone()]);
    note(root.post(&bob.path("password")).json(&json!({"new_password": given})).send().await);

    // Tokens that are good, dead, forged, in the wrong place, in a batch, in a path.
    let ann = ann.with_tokens(pair).with_password(&new);
    note(node.validate(&bob.access).await);
    note(node.refresh(&bob.refresh).await);
    note(node.refresh(&ann.access).await);
    note(node.get("users/me").bearer(&ann.refresh).send().await);
    note(node.get("users/me").authorization(format!("Token {}", ann.access).as_bytes()).send().await);
    note(node.get(&format!("users/me?access_token={}", ann.access)).send().await);
    note(node.get(&format!("users/{}", ann.refresh)).bearer(&ann.access).send().await);
    note(node.get(&format!("nothing/{}", ann.refresh)).send().await);
    note(
        ann.post("auth_token/validation/batch")
            .json(&json!({"tokens": [bob.access, ann.refresh]}))
            .send()
            .await,
    );
    let forged = testkit::forge::parts(&ann.access).with_claim("uv", json!(99));
    note(node.validate(&forged).await);
    secrets.insert(forged);
    note(ann.delete("auth_token/all").send().await);
    note(node.refresh(&ann.refresh).await);

    // The command line, and a restart, which reads every key.
    let password = marked("of the command line");
    secrets.insert(password.clone());
    let run = node
        .palisade(&["superuser", "create", "--email", &format!("{}@example.org", fresh("cli"))])
        .args(["--first-name", "C", "--last-name", "L"])
        .setting("SUPERUSER_PASSWORD", &password)
        .run()
        .await;
    run.is_done();
    node.cli(&["keys", "rotate"]).await.is_done();
    let metrics = node.get("/metrics").send().await.is(200).text();
    node.terminate().await;

    // What lies in the data directory in the clear, as the key that seals the signing keys does.
    for entry in std::fs::read_dir(node.data_dir()).unwrap().flatten() {
        let small = entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() < 200);
        // What begins with a brace describes the node, and is no secret.
        let text = small.then(|| std::fs::read_to_string(entry.path()).ok()).flatten().unwrap_or_default();
        if text.trim().len() >= 40 && !text.starts_with('{') {
            secrets.insert(text.trim().to_owned());
        }
    }
    // A token is told by its signature already, a refresh token by its end.
    let tails: Vec<_> = secrets
        .iter()
        .filter(|secret| secret.starts_with("prt_") || secret.starts_with("ey"))
        .map(|token| token[token.len() - 40..].to_owned())
        .collect();
    secrets.extend(tails);
    let logs = node.logs();
    assert!(logs.len() > 1_000, "there are logs to look through: {logs}");
    for (place, text) in [
        ("a log line", &logs),
        ("a metric", &metrics),
        ("an error", &errors),
        ("the command line's output", &format!("{run:?}")),
    ] {
        for secret in &secrets {
            assert!(secret.len() >= 8, "too short to look for: {secret:?}");
            let found = text.find(secret.as_str());
            let line = found.map(|at| text[..at].lines().last().unwrap_or_default().to_owned());
            assert!(found.is_none(), "a secret is in {place}: {secret:?} after {line:?}");
        }
        assert!(!text.contains("$argon2"), "a hash is in {place}");
        assert!(!text.contains("PRIVATE KEY"), "a private key is in {place}");
    }
}

#[tokio::test]
async fn no_answer_shows_a_hash_or_a_version_of_software() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    for path in
        ["users/me".to_owned(), "users".to_owned(), ann.path(""), ann.path("sessions"), ann.path("logins")]
    {
        let answer = root.get(&path).send().await;
        let text = answer.is(200).to_string();
        for word in ["argon2", "password", "hash", "secret"] {
            assert!(!text.to_lowercase().contains(word), "{word} in {text}");
        }
        for header in ["server", "x-powered-by"] {
            let value = answer.header(header).unwrap_or_default();
            assert!(!value.bytes().any(|b| b.is_ascii_digit()), "{header}: {value}");
        }
    }
}
