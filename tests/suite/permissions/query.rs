//! The question that services ask, and the many ways in which it can be none.

use serde_json::{Value, json};
use testkit::{Node, Person};

const CHECK: &str = "users/me/combined_permissions/validation";

/// A new user that has the first of two permissions, and the names of both.
async fn ann_with_one_of_two() -> (Person, String, String) {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let has = root.makes_permission("has").await;
    let lacks = root.makes_permission("lacks").await;
    root.gives(&ann, &has).await.is(200);
    (ann, has, lacks)
}

fn nested(depth: usize) -> String {
    format!("{}\"p\"{}", r#"{"any":["#.repeat(depth), "]}".repeat(depth))
}

fn wide(nodes: usize) -> String {
    format!(r#"{{"all":[{}]}}"#, vec![r#""p""#; nodes - 1].join(","))
}

#[tokio::test]
async fn any_all_names_and_empty_queries_are_evaluated() {
    let (ann, has, lacks) = ann_with_one_of_two().await;
    for (query, expected) in [
        (json!(has), true),
        (json!(lacks), false),
        (json!("nobody_has_ever_heard_of_it"), false),
        (json!(has.to_uppercase()), false),
        (json!({"any": []}), false),
        (json!({"all": []}), true),
        (json!({"any": [has, lacks]}), true),
        (json!({"all": [has, lacks]}), false),
        (json!({"all": [has, has, has]}), true),
        (json!({"any": [lacks, {"all": [has]}]}), true),
        (json!({"any": [lacks, {"all": [has, lacks]}]}), false),
        (json!({"all": [has, {"any": [lacks, {"any": []}]}]}), false),
        (json!({"all": [{"all": []}, {"any": [{"all": []}]}]}), true),
        (json!({"any": [{"any": []}, {"all": [{"any": []}]}]}), false),
    ] {
        assert_eq!(ann.holds(&query).await, expected, "{query}");
    }
    assert_eq!(ann.asks(&json!(has).to_string()).await.is(200).json(), json!({"valid": true}));
}

#[tokio::test]
async fn json_whitespace_and_escapes_are_allowed() {
    let (ann, has, _) = ann_with_one_of_two().await;
    let escaped: String = has.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    for query in [
        format!(" {{ \"any\" : [ \"{has}\" ] }} "),
        format!("\t\n\"{has}\"\r\n"),
        format!("\"{escaped}\""),
        format!("{{\"\\u0061ny\":[\"{has}\"]}}"),
    ] {
        assert_eq!(ann.asks(&query).await.is(200).json(), json!({"valid": true}), "{query}");
    }
}

#[tokio::test]
async fn depth_and_node_limits_are_enforced() {
    let (ann, _, _) = ann_with_one_of_two().await;
    ann.asks(&nested(16)).await.is(200);
    ann.asks(&nested(17)).await.is_refused(422);
    ann.asks(&wide(256)).await.is(200);
    ann.asks(&wide(257)).await.is_refused(422);
    ann.asks(&nested(500)).await.is_refused(422);
}

#[tokio::test]
async fn malformed_query_is_refused_with_its_position() {
    let (ann, _, _) = ann_with_one_of_two().await;
    for bad in [
        "",
        " ",
        "p1",
        "1",
        "-1.5e3",
        "null",
        "true",
        "false",
        "[]",
        "{}",
        r#"["p1"]"#,
        r#""""#,
        r#"" p1""#,
        r#""a b""#,
        r#""a/b""#,
        r#"".a""#,
        "\"ä\"",
        "\"\u{202e}p1\"",
        r#"{"any":"p1"}"#,
        r#"{"any":null}"#,
        r#"{"any":{}}"#,
        r#"{"any":7}"#,
        r#"{"any":[1]}"#,
        r#"{"any":[null]}"#,
        r#"{"any":[true]}"#,
        r#"{"any":[[]]}"#,
        r#"{"any":[{}]}"#,
        r#"{"none":[]}"#,
        r#"{"not":["p1"]}"#,
        r#"{"":[]}"#,
        r#"{"any":[],"all":[]}"#,
        r#"{"any":["p1"],"any":["p2"]}"#,
        r#"{"any":[],"x":1}"#,
        r#"{"Any":[]}"#,
        r#"{"ANY":[]}"#,
        r#"{"any ":[]}"#,
        r#"{"any":[]"#,
        r#"{"any":["p1""#,
        r#""p1"#,
        r#"{"any":[]}x"#,
        r#"{"any":[]}{}"#,
        r#""p1" "p2""#,
        r#""p1","p2""#,
        r#"{"any":["p1",]}"#,
        r#"{"any":[,]}"#,
        "{'any':[]}",
        "{any:[]}",
        "'p1'",
        "\"\\u0000\"",
        "\"p\u{0}\"",
        "\"\\ud800\"",
        "\"p1\"\u{0}",
        "\u{feff}\"p1\"",
        "NaN",
        "\"p1\" // comment",
    ] {
        let answer = ann.asks(bad).await;
        assert_eq!(answer.status, 422, "{bad}\n{answer}");
        let msg = answer.is_refused(422).field("msg");
        assert!(msg.bytes().any(|b| b.is_ascii_digit()), "{bad}: it does not say where: {msg}");
    }
}

#[tokio::test]
async fn query_parameter_is_required_exactly_once() {
    let (ann, has, _) = ann_with_one_of_two().await;
    let good = format!("%22{has}%22");
    for query in [
        String::new(),
        "?".to_owned(),
        "?permissions".to_owned(),
        "?permissions=".to_owned(),
        format!("?permission={good}"),
        format!("?Permissions={good}"),
        format!("?permissions[]={good}"),
        format!("?permissions={good}&permissions={good}"),
        format!("?permissions={good}&permissions="),
        format!("?permissions=&permissions={good}"),
        format!("?permissions={good}&%70ermissions=%22x%22"),
        format!("?permissions={good};permissions=%22x%22"),
    ] {
        let answer = ann.get(&format!("{CHECK}{query}")).send().await;
        assert_eq!(answer.status, 422, "{query}\n{answer}");
        answer.is_refused(422);
    }
    // Other parameters are ignored.
    let answer = ann.get(&format!("{CHECK}?x=1&permissions={good}&y=2")).send().await;
    assert_eq!(answer.is(200).json(), json!({"valid": true}));
}

#[tokio::test]
async fn percent_encoding_is_decoded_once_and_strictly() {
    let (ann, has, _) = ann_with_one_of_two().await;
    let encoded: String = has.bytes().map(|b| format!("%{b:02x}")).collect();
    for query in
        [format!("%22{encoded}%22"), format!("%22{}%22", encoded.to_uppercase()), format!("+%22{has}%22+")]
    {
        // Hexadecimal digits in any case; a plus is a space in a form, and space around is allowed.
        let answer = ann.get(&format!("{CHECK}?permissions={query}")).send().await;
        assert_eq!(answer.is(200).json(), json!({"valid": true}), "{query}");
    }
    for query in [
        format!("%2522{has}%2522"),
        format!("%22{has}%2"),
        format!("%22{has}%"),
        format!("%zz{has}%22"),
        format!("%22{has}%00%22"),
        "%22%ff%fe%22".to_owned(),
        "%22%c0%af%22".to_owned(),
        "%22%ed%a0%80%22".to_owned(),
        format!("%u0022{has}%u0022"),
    ] {
        let answer = ann.get(&format!("{CHECK}?permissions={query}")).send().await;
        assert!(matches!(answer.status, 400 | 422), "{query}\n{answer}");
        answer.is_refused(answer.status);
    }
}

#[tokio::test]
async fn query_of_a_megabyte_is_refused() {
    use testkit::Raw;
    let (ann, _, _) = ann_with_one_of_two().await;
    let request = format!(
        "GET /api/v1/{CHECK}?permissions=%22{}%22 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        "a".repeat(1024 * 1024),
        ann.access
    );
    let reply = Raw::to(ann.client()).await.exchange(request, std::time::Duration::from_secs(20)).await;
    assert!(reply.is_clear_refusal(), "{reply:?}");
    ann.asks("\"p\"").await.is(200);
    // A name that is too long, within what a request line may have.
    ann.asks(&json!("a".repeat(65)).to_string()).await.is_refused(422);
    ann.asks(&json!("a".repeat(4_000)).to_string()).await.is_refused(422);
}

#[tokio::test]
async fn query_needs_a_valid_token() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let path = format!("{CHECK}?permissions=%22p%22");
    node.get(&path).send().await.is_error(401, "Missing Authorization Header");
    node.get(&path).bearer(&ann.refresh).send().await.is_error(422, "Only non-refresh tokens are allowed");
    ann.delete("auth_token").send().await.is_done();
    ann.get(&path).send().await.is_error(401, "Token has been revoked");
    // A revoked token is reported before a malformed query.
    ann.asks("nonsense").await.is_error(401, "Token has been revoked");
}

#[tokio::test]
async fn many_different_queries_get_their_own_answers() {
    let (ann, has, lacks) = ann_with_one_of_two().await;
    for n in 0..300 {
        let noise = format!("n{n}");
        let (query, expected): (Value, bool) = match n % 3 {
            0 => (json!({"any": [noise, has]}), true),
            1 => (json!({"any": [noise, lacks]}), false),
            _ => (json!({"all": [has, noise]}), false),
        };
        assert_eq!(ann.holds(&query).await, expected, "{query}");
    }
}
