//! What it must tell nobody: the tokens and the password of its users, and that of an administrator.

use super::{
    front::{Front, Reply},
    node, small,
};

#[tokio::test]
async fn no_secret_is_in_what_it_says_or_writes() {
    let node = node().await;
    let root = node.root().await;
    // A server that repeats in its refusal what it was shown.
    let front = Front::before(&node, |asked| {
        let is_good = asked.is_validation() && asked.status == 200;
        if is_good && asked.nth % 5 == 0 {
            Reply::Instead(401, format!("no good: {}", asked.token))
        } else {
            Reply::AsItIs
        }
    })
    .await;
    let call = small("mixed", front.address()).args(&["--rate", "150", "--duration", "1s", "--writes", "20"]);
    let call = call.args(&["--admin-email", &root.email, "--after-wrong", "go-on"]);
    let load = call.env("PALISADE_LOADTEST_ADMIN_PASSWORD", &root.password).run().await;
    load.ended(1, &["WRONG ANSWER"]);

    let mut secrets = front.secrets();
    assert!(secrets.contains(&root.password), "the front saw what passed");
    assert!(secrets.iter().filter(|secret| secret.starts_with("eyJ")).count() > 4);
    assert!(secrets.iter().any(|secret| secret.starts_with("prt_")));
    // A token is told by its end already.
    let ends: Vec<_> =
        secrets.iter().filter(|s| s.len() > 60).map(|token| token[token.len() - 40..].to_owned()).collect();
    secrets.extend(ends);
    for (place, text) in [
        ("stdout", &load.run.stdout),
        ("stderr", &load.run.stderr),
        ("the result", &load.file("run.json").unwrap()),
        ("the report", &load.report()),
    ] {
        for secret in &secrets {
            assert!(secret.len() >= 8, "too short to look for: {secret:?}");
            assert!(!text.contains(secret.as_str()), "a secret is in {place}: {secret:?}");
        }
    }
}
