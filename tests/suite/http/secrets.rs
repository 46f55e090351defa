//! Secrets: no token, password, key or secret is in any log line, error or metric.

use std::collections::BTreeSet;

use serde_json::json;
use testkit::{Answer, Node, Person, Run, fresh};

fn of(person: &Person) -> [String; 3] {
    [person.password.clone(), person.access.clone(), person.refresh.clone()]
}

/// The secrets that a test has used, and the refusals that it has received.
#[derive(Default)]
struct Seen {
    secrets: BTreeSet<String>,
    errors: String,
}

impl Seen {
    /// Keeps the answer if it is a refusal.
    fn note(&mut self, answer: Answer) -> Answer {
        if answer.status >= 400 {
            self.errors += &format!("{:?} {}\n", answer.headers, answer.text());
        }
        answer
    }

    /// Adds what lies in the data directory in the clear, such as the key that seals the signing keys.
    fn add_data_directory(&mut self, node: &Node) {
        for entry in std::fs::read_dir(node.data_dir()).unwrap().flatten() {
            let small = entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() < 200);
            // What begins with a brace describes the node, and is no secret.
            let text =
                small.then(|| std::fs::read_to_string(entry.path()).ok()).flatten().unwrap_or_default();
            if text.trim().len() >= 40 && !text.starts_with('{') {
                self.secrets.insert(text.trim().to_owned());
            }
        }
    }

    /// Adds the ends of all tokens: a signature gives an access token away, its end a refresh token.
    fn add_tails(&mut self) {
        let tails: Vec<_> = self
            .secrets
            .iter()
            .filter(|secret| secret.starts_with("prt_") || secret.starts_with("ey"))
            .map(|token| token[token.len() - 40..].to_owned())
            .collect();
        self.secrets.extend(tails);
    }

    fn are_not_in(&self, place: &str, text: &str) {
        for secret in &self.secrets {
            assert!(secret.len() >= 8, "too short to look for: {secret:?}");
            let found = text.find(secret.as_str());
            let line = found.map(|at| text[..at].lines().last().unwrap_or_default().to_owned());
            assert!(found.is_none(), "a secret is in {place}: {secret:?} after {line:?}");
        }
        assert!(!text.contains("$argon2"), "a hash is in {place}");
        assert!(!text.contains("PRIVATE KEY"), "a private key is in {place}");
    }
}

fn marked(what: &str) -> String {
    fresh(&format!("secret {what}"))
}

/// Passwords that are refused, wrong, changed, given by an admin, misplaced. Returns Ann with her new pair.
async fn use_passwords(node: &Node, seen: &mut Seen, [root, ann, bob]: [&Person; 3]) -> Person {
    let [wrong, short_body, new, given, misplaced, bad] =
        ["wrong", "broken", "new", "given", "misplaced", "control\u{1}"].map(marked);
    seen.secrets.extend([&wrong, &short_body, &new, &given, &misplaced].map(Clone::clone));
    seen.secrets.insert(bad.replace('\u{1}', ""));
    for _ in 0..5 {
        seen.note(node.log_in(&bob.email, &wrong).await);
    }
    seen.note(node.log_in(&misplaced, &misplaced).await);
    seen.note(
        node.post("auth_token")
            .body("application/json", format!("{{\"password\":\"{short_body}"))
            .send()
            .await,
    );
    seen.note(node.post("auth_token").body("text/plain", format!("password={short_body}")).send().await);
    seen.note(node.post("users").json(&json!({"email": "x", "password": bad})).send().await);
    seen.note(node.post("users").json(&json!({"email": {"x": wrong}, "password": [wrong]})).send().await);
    seen.note(node.post("users").json(&json!({"password": wrong, wrong.as_str(): 1})).send().await);
    let body = json!({"old_password": wrong, "new_password": new});
    seen.note(ann.post("users/me/password").json(&body).send().await);
    let body = json!({"old_password": ann.password, "new_password": new});
    let pair = seen.note(ann.post("users/me/password").json(&body).send().await).pair();
    seen.secrets.extend([pair.0.clone(), pair.1.clone()]);
    seen.note(root.post(&bob.path("password")).json(&json!({"new_password": given})).send().await);
    ann.with_tokens(pair).with_password(&new)
}

/// Tokens that are good, dead, forged, in the wrong place, in a batch, in a path.
async fn use_tokens(node: &Node, seen: &mut Seen, [ann, bob]: [&Person; 2]) {
    seen.note(node.validate(&bob.access).await);
    seen.note(node.refresh(&bob.refresh).await);
    seen.note(node.refresh(&ann.access).await);
    seen.note(node.get("users/me").bearer(&ann.refresh).send().await);
    seen.note(node.get("users/me").authorization(format!("Token {}", ann.access).as_bytes()).send().await);
    seen.note(node.get(&format!("users/me?access_token={}", ann.access)).send().await);
    seen.note(node.get(&format!("users/{}", ann.refresh)).bearer(&ann.access).send().await);
    seen.note(node.get(&format!("nothing/{}", ann.refresh)).send().await);
    seen.note(
        ann.post("auth_token/validation/batch")
            .json(&json!({"tokens": [bob.access, ann.refresh]}))
            .send()
            .await,
    );
    let forged = testkit::forge::parts(&ann.access).with_claim("uv", json!(99));
    seen.note(node.validate(&forged).await);
    seen.secrets.insert(forged);
    seen.note(ann.delete("auth_token/all").send().await);
    seen.note(node.refresh(&ann.refresh).await);
}

/// A superuser created on the command line.
async fn use_command_line(node: &Node, seen: &mut Seen) -> Run {
    let password = marked("of the command line");
    seen.secrets.insert(password.clone());
    let run = node
        .palisade(&["superuser", "create", "--email", &format!("{}@example.org", fresh("cli"))])
        .args(["--first-name", "C", "--last-name", "L"])
        .setting("SUPERUSER_PASSWORD", &password)
        .run()
        .await;
    run.is_done();
    run
}

#[tokio::test]
async fn no_secret_is_in_a_log_line_an_error_or_a_metric() {
    let node =
        Node::builder().setting("LOG", "trace").setting("LOGIN_ACCOUNT_FAILURES", "3/15m").start().await;
    let mut seen = Seen::default();
    let root = node.root().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    let next = ann.refreshed().await;
    for person in [&root, &ann, &bob, &next] {
        seen.secrets.extend(of(person));
    }
    let ann = use_passwords(&node, &mut seen, [&root, &ann, &bob]).await;
    use_tokens(&node, &mut seen, [&ann, &bob]).await;
    let run = use_command_line(&node, &mut seen).await;
    // A restart reads every key.
    node.cli(&["keys", "rotate"]).await.is_done();
    let metrics = node.get("/metrics").send().await.is(200).text();
    node.terminate().await;
    seen.add_data_directory(&node);
    seen.add_tails();
    let logs = node.logs();
    assert!(logs.len() > 1_000, "there are logs to look through: {logs}");
    seen.are_not_in("a log line", &logs);
    seen.are_not_in("a metric", &metrics);
    seen.are_not_in("an error", &seen.errors);
    seen.are_not_in("the command line's output", &format!("{run:?}"));
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
