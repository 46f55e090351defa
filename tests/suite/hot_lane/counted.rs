//! What operators see of it: every answer is counted once and logged once, by whichever way it came.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use testkit::{Node, Raw, eventually, forge, fresh};

use super::{ADMIT, ANSWER_TIMEOUT, Answered, Asked, CHECK, VALIDATE, Way, check};

const ROUTE_OF_CHECK: &str = "/api/v1/users/{id}/combined_permissions/validation";

async fn count(node: &Node, series: &str) -> u64 {
    let text = node.get("/metrics").send().await.is(200).text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().expect("a count"))
}

async fn requests(node: &Node, route: &str, status: u16) -> u64 {
    count(
        node,
        &format!("palisade_http_requests_total{{method=\"GET\",route=\"{route}\",status=\"{status}\"}}"),
    )
    .await
}

/// Two counters of the histogram: all answers, and those within the last bucket.
async fn durations(node: &Node, route: &str) -> (u64, u64) {
    let labels = format!("method=\"GET\",route=\"{route}\"");
    let all = count(node, &format!("palisade_http_request_duration_seconds_count{{{labels}}}")).await;
    let text = node.get("/metrics").send().await.text();
    let bucket = text.lines().find(|line| {
        line.starts_with("palisade_http_request_duration_seconds_bucket")
            && line.contains(&format!("route=\"{route}\""))
            && line.contains("le=\"+Inf\"")
    });
    let value = bucket.and_then(|line| line.rsplit_once(' ')).map_or(0, |(_, value)| value.parse().unwrap());
    (all, value)
}

async fn verdicts(node: &Node) -> BTreeMap<String, u64> {
    let text = node.get("/metrics").send().await.is(200).text();
    let of = |line: &str| {
        let rest = line.strip_prefix("palisade_token_verdicts_total{verdict=\"")?;
        let (verdict, count) = rest.split_once("\"} ")?;
        Some((verdict.to_owned(), count.parse().ok()?))
    };
    text.lines().filter_map(of).collect()
}

#[tokio::test]
async fn every_answer_is_counted_once_on_every_path() {
    let node = Node::start().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let out = node.register("out").await;
    out.delete("auth_token").send().await.is_done();
    let has = root.makes_permission("has").await;
    let forged = forge::parts(&ann.access).with_claim("uv", json!(99));
    let cases = [
        (Asked::of(VALIDATE).by(&ann.access), VALIDATE, 200, "valid"),
        (Asked::of(VALIDATE).by(&out.access), VALIDATE, 401, "token_revoked"),
        (Asked::of(VALIDATE).by(&forged), VALIDATE, 422, "token_signature"),
        (Asked::of(VALIDATE).by(&ann.refresh), VALIDATE, 422, "token_not_access"),
        (Asked::of(VALIDATE), VALIDATE, 401, "authorization_missing"),
        (Asked::of(VALIDATE).by("x").by("y"), VALIDATE, 400, "authorization_repeated"),
        (check(&has).by(&ann.access), ROUTE_OF_CHECK, 200, "valid"),
        (Asked::of(CHECK).by(&ann.access), ROUTE_OF_CHECK, 422, "valid"),
        (Asked::of(&CHECK.replace("me", "nobody")).by(&ann.access), ROUTE_OF_CHECK, 404, "valid"),
        (Asked::of(ADMIT).by(&ann.access), ADMIT, 204, "valid"),
        (Asked::of(&format!("{ADMIT}?permissions=%22{has}%22")).by(&ann.access), ADMIT, 403, "valid"),
        (Asked::of(ADMIT).by(&out.access), ADMIT, 401, "token_revoked"),
    ];
    // `Kept` is left out: it first asks a permission query, which would be counted, too.
    for way in [Way::Fresh, Way::Shared, Way::Routed, Way::Http2, Way::Http2Routed] {
        for (asked, route, status, verdict) in &cases {
            let before =
                (requests(&node, route, *status).await, durations(&node, route).await, verdicts(&node).await);
            for _ in 0..3 {
                way.ask(&node, asked).await.is(*status);
            }
            let after =
                (requests(&node, route, *status).await, durations(&node, route).await, verdicts(&node).await);
            assert_eq!(after.0, before.0 + 3, "requests, {way:?}: {asked:?}");
            assert_eq!(after.1, (before.1.0 + 3, before.1.1 + 3), "durations, {way:?}: {asked:?}");
            for (name, value) in after.2 {
                let expected = before.2.get(&name).unwrap_or(&0) + if name == *verdict { 3 } else { 0 };
                assert_eq!(value, expected, "{name}, {way:?}: {asked:?}");
            }
        }
    }
}

#[tokio::test]
async fn pipelined_answers_are_counted_one_by_one() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let before = (requests(&node, VALIDATE, 200).await, requests(&node, VALIDATE, 401).await);
    let timed = durations(&node, VALIDATE).await;
    let mut raw = Raw::to(&node).await;
    let pair = [Asked::of(VALIDATE).by(&ann.access).bytes(), Asked::of(VALIDATE).bytes()].concat();
    raw.send(pair.repeat(300)).await.unwrap();
    for n in 0..600 {
        Answered::of(raw.reply(ANSWER_TIMEOUT).await).is(if n % 2 == 0 { 200 } else { 401 });
    }
    assert_eq!(requests(&node, VALIDATE, 200).await, before.0 + 300);
    assert_eq!(requests(&node, VALIDATE, 401).await, before.1 + 300);
    assert_eq!(durations(&node, VALIDATE).await, (timed.0 + 600, timed.1 + 600));
}

/// The lines about the answer to the request of this id.
fn lines_about(node: &Node, id: &str) -> Vec<Value> {
    let logs = node.logs();
    let lines = logs.lines().filter(|line| line.contains(&format!("\"{id}\"")) && line.contains("answered"));
    lines.map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// A field, wherever in the line it is.
fn field<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    match line {
        Value::Object(map) => map.get(name).or_else(|| map.values().find_map(|value| field(value, name))),
        Value::Array(list) => list.iter().find_map(|value| field(value, name)),
        _ => None,
    }
}

#[tokio::test]
async fn debug_log_has_a_line_for_each_answer_and_no_token() {
    let node = Node::builder().setting("LOG", "debug").start().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    bob.delete("auth_token").send().await.is_done();
    let forged = forge::parts(&ann.access).with_claim("uv", json!(99));
    for way in Way::ALL {
        for (asked, route, status) in [
            (Asked::of(VALIDATE).by(&ann.access), VALIDATE, 200),
            (Asked::of(VALIDATE).by(&bob.access), VALIDATE, 401),
            (Asked::of(VALIDATE).by(&forged), VALIDATE, 422),
            (Asked::of(VALIDATE).by(&ann.refresh), VALIDATE, 422),
            (Asked::of(VALIDATE).with("Authorization", &ann.access), VALIDATE, 401),
            (Asked::of(&format!("{VALIDATE}?token={}", ann.access)).by(&ann.access), VALIDATE, 200),
            (check("x").by(&ann.access), ROUTE_OF_CHECK, 200),
            (Asked::of(ADMIT).by(&ann.access), ADMIT, 204),
        ] {
            let id = fresh("logged");
            way.ask(&node, &asked.id(&id)).await.is(status);
            let lines = eventually(Duration::from_secs(5), "the line about it", async || {
                Some(lines_about(&node, &id)).filter(|lines| !lines.is_empty())
            })
            .await;
            let [line] = lines.as_slice() else { panic!("{way:?}: {lines:?}") };
            assert_eq!(field(line, "id"), Some(&json!(id)), "{way:?}: {line}");
            assert_eq!(field(line, "method"), Some(&json!("GET")), "{way:?}: {line}");
            assert_eq!(field(line, "route"), Some(&json!(route)), "{way:?}: {line}");
            assert_eq!(field(line, "status"), Some(&json!(status)), "{way:?}: {line}");
            assert!(field(line, "took_us").is_some_and(Value::is_u64), "{way:?}: {line}");
        }
    }
    node.terminate().await;
    let logs = node.logs();
    for token in [&ann.access, &ann.refresh, &bob.access, &forged] {
        assert!(!logs.contains(&token[token.len() - 40..]), "a token is in the log");
    }
}

#[tokio::test]
async fn info_log_has_no_line_for_an_answer() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let quiet = fresh("quiet");
    let loud = fresh("loud");
    for way in Way::ALL {
        for asked in [
            Asked::of(VALIDATE).by(&ann.access),
            Asked::of(VALIDATE),
            check("x").by(&ann.access),
            Asked::of(ADMIT),
        ] {
            way.ask(&node, &asked.id(&quiet)).await;
        }
    }
    let batch = ann.post("auth_token/validation/batch").header("x-request-id", &quiet);
    batch.json(&json!({ "tokens": [ann.access] })).send().await.is(200);
    Way::Fresh.ask(&node, &Asked::of("/api/v1/users/me").id(&loud)).await.is(401);
    let logs = node.logs_with(&loud).await;
    assert!(!logs.contains(&quiet), "{logs}");
    assert!(!logs.contains(&ann.access[ann.access.len() - 40..]));
}
