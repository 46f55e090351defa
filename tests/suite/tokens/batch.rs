//! Many tokens in one question.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Answer, Node, Person, forge};

async fn ask(person: &Person, tokens: &Value) -> Answer {
    person.post("auth_token/validation/batch").json(&json!({"tokens": tokens})).send().await
}

#[tokio::test]
async fn each_token_gets_its_own_verdict_in_order() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    let forged = forge::parts(&ann.access).with_claim("uv", json!(9));
    bob.delete("auth_token").send().await.is_done();
    let tokens = json!([ann.access, bob.access, forged, "x", ann.refresh, "", ann.access, "a b"]);
    let verdicts = ask(&ann, &tokens).await.is(200).json();
    let expected = [
        (200, "Token is valid"),
        (401, "Token has been revoked"),
        (422, "Signature verification failed"),
        (422, "Not enough segments"),
        (422, "Only non-refresh tokens are allowed"),
        (422, "Not enough segments"),
        (200, "Token is valid"),
        (422, "Not enough segments"),
    ];
    let verdicts = verdicts.as_array().unwrap();
    assert_eq!(verdicts.len(), expected.len());
    for (verdict, (status, msg)) in verdicts.iter().zip(expected) {
        assert_eq!((&verdict["status"], &verdict["msg"]), (&json!(status), &json!(msg)), "{verdict}");
        assert_eq!(verdict.get("code").is_some(), status != 200, "{verdict}");
        assert!(verdict.get("request_id").is_none(), "{verdict}");
    }
}

#[tokio::test]
async fn empty_batch_gets_no_verdicts() {
    let ann = Node::shared().await.register("ann").await;
    assert_eq!(ask(&ann, &json!([])).await.is(200).json(), json!([]));
}

#[tokio::test]
async fn batch_of_a_thousand_is_accepted_and_one_more_is_too_large() {
    let ann = Node::shared().await.register("ann").await;
    let verdicts = ask(&ann, &json!(vec![ann.access.as_str(); 1_000])).await.is(200).json();
    assert_eq!(verdicts.as_array().unwrap().len(), 1_000);
    assert!(verdicts.as_array().unwrap().iter().all(|verdict| verdict["status"] == 200));
    ask(&ann, &json!(vec!["x"; 1_001])).await.is_refused(413);
}

#[tokio::test]
async fn a_body_beyond_four_mebibytes_is_too_large() {
    let ann = Node::shared().await.register("ann").await;
    // More than other bodies may have, less than this one may.
    ask(&ann, &json!(vec!["a".repeat(3_000); 1_000])).await.is(200);
    let answer = ann
        .post("auth_token/validation/batch")
        .json(&json!({"tokens": ["a".repeat(4 * 1024 * 1024 + 1)]}))
        .try_send()
        .await;
    // A node that closes the connection in the middle of such a body is within its rights.
    if let Ok(answer) = answer {
        answer.is_refused(413);
    }
    ann.is_in().await;
}

#[tokio::test]
async fn batch_that_is_not_a_list_of_strings_is_refused() {
    let ann = Node::shared().await.register("ann").await;
    for tokens in [Value::Null, json!("x"), json!([1]), json!([null]), json!([["x"]]), json!({"0": "x"})] {
        ask(&ann, &tokens).await.is_refused(400);
    }
    ann.post("auth_token/validation/batch").json(&json!({})).send().await.is_refused(400);
    ann.post("auth_token/validation/batch").json(&json!(["x"])).send().await.is_refused(400);
}

#[tokio::test]
async fn batch_needs_a_valid_token() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    let body = json!({"tokens": [ann.access]});
    let ask = || node.post("auth_token/validation/batch").json(&body);
    ask().send().await.is_error(401, "Missing Authorization Header");
    ask().bearer(&ann.refresh).send().await.is_error(422, "Only non-refresh tokens are allowed");
    bob.delete("auth_token").send().await.is_done();
    ask().bearer(&bob.access).send().await.is_error(401, "Token has been revoked");
}

#[tokio::test]
async fn a_batch_of_unknown_keys_waits_for_the_store_once() {
    const OTHERS: usize = 999;
    let ann = Node::shared().await.register("ann").await;
    let parts = forge::parts(&ann.access);
    let issued = parts.claims["iat"].as_u64().unwrap();
    // Of the future within the skew of clocks, of now, of before: each under a key of its own.
    for ahead in [50_i64, 1, 0, -50] {
        let iat = issued.checked_add_signed(ahead).unwrap();
        let unknown = (0..OTHERS).map(|n| {
            let kid = format!("01890a5d-ac96-774b-bcce-{n:012}");
            parts.under("kid", json!(kid)).with_claim("iat", json!(iat))
        });
        let tokens: Vec<_> = unknown.chain([ann.access.clone()]).collect();
        let start = Instant::now();
        let verdicts = ask(&ann, &json!(tokens)).await.is(200).json();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(10), "iat {ahead} s ahead: {took:?}");
        let statuses: Vec<_> = verdicts.as_array().unwrap().iter().map(|v| v["status"].as_u64()).collect();
        assert_eq!(statuses[OTHERS], Some(200), "the good one");
        assert!(statuses[..OTHERS].iter().all(|status| *status == Some(422)), "iat {ahead} s ahead");
    }
}
