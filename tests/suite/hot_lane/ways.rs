//! The same answer by every way.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use testkit::{Client, Node, Person, Shared, eventually, forge, fresh};

use super::{ADMIT, Answered, Asked, CHECK, VALIDATE, Way, encoded};

/// What the answer is by every way.
async fn alike(node: &Client, asked: &Asked) -> Answered {
    let expected = Way::Routed.ask(node, asked).await.apart_from_its_id();
    for way in Way::ALL {
        let answered = way.ask(node, asked).await.apart_from_its_id();
        assert_eq!(answered, expected, "{way:?}: {asked:?}");
    }
    expected
}

/// By every way, this status; with this sentence, when it is an error.
async fn is(node: &Client, asked: &Asked, status: u16, msg: &str) {
    let answered = alike(node, asked).await;
    assert_eq!(answered.status, status, "{asked:?}: {answered:?}");
    if status >= 400 {
        assert_eq!(answered.msg(), msg, "{asked:?}");
        let challenged = answered.headers.contains_key("www-authenticate");
        assert_eq!(challenged, matches!(status, 401 | 403), "{answered:?}");
    } else {
        assert_eq!(answered.body, msg, "{asked:?}");
    }
}

const MISSING: &str = "Missing Authorization Header";
const OTHER_SCHEME: &str =
    "Missing 'Bearer' type in 'Authorization' header. Expected 'Authorization: Bearer <JWT>'";
const BAD_HEADER: &str = "Bad Authorization header. Expected 'Authorization: Bearer <JWT>'";
const UNKNOWN: &str = "A parameter or header is unknown or repeated; the only one is `permissions`";
const FORBIDDEN: &str = "You are not allowed to do this";

#[tokio::test]
async fn every_token_gets_the_same_answer_on_every_path() {
    let node = Node::shared().await;
    let root = node.root().await;
    let [ann, out, disabled, deleted] = [
        node.register("ann").await,
        node.register("out").await,
        node.register("off").await,
        node.register("gone").await,
    ];
    out.delete("auth_token").send().await.is_done();
    root.sets_active(&disabled, false).await.is(200);
    root.delete(&deleted.path("")).send().await.is_done();
    let forged = forge::parts(&ann.access).with_claim("uv", json!(99));
    let unsigned = forge::parts(&ann.access).with_signature(&[0; 64]);
    let stranger =
        forge::parts(&ann.access).with_header_field("kid", json!("01890a5d-ac96-774b-bcce-b302099a8057"));
    let of = Asked::of;
    for (asked, status, msg) in [
        (of(VALIDATE).by(&ann.access), 200, r#"{"msg":"Token is valid"}"#),
        (
            of(VALIDATE).with("AUTHORIZATION", format!("bEARER   {}", ann.access)),
            200,
            r#"{"msg":"Token is valid"}"#,
        ),
        (of(&format!("{VALIDATE}?a=b&c")).by(&ann.access), 200, r#"{"msg":"Token is valid"}"#),
        (of(VALIDATE).by(&out.access), 401, "Token has been revoked"),
        (of(VALIDATE).by(&disabled.access), 401, "Token has been revoked"),
        (of(VALIDATE).by(&deleted.access), 401, "Token has been revoked"),
        (of(VALIDATE).by(&forged), 422, "Signature verification failed"),
        (of(VALIDATE).by(&unsigned), 422, "Signature verification failed"),
        (of(VALIDATE).by(&stranger), 422, "Signature verification failed"),
        (of(VALIDATE).by(&ann.refresh), 422, "Only non-refresh tokens are allowed"),
        (of(VALIDATE).by("a.b"), 422, "Not enough segments"),
        (of(VALIDATE), 401, MISSING),
        (of(VALIDATE).with("Authorization", ""), 401, MISSING),
        (of(VALIDATE).with("Authorization", "Basic eDp5"), 401, OTHER_SCHEME),
        (of(VALIDATE).with("Authorization", &ann.access), 401, OTHER_SCHEME),
        (of(VALIDATE).with("Authorization", "Bearer"), 422, BAD_HEADER),
        (of(VALIDATE).with("Authorization", format!("Bearer {} x", ann.access)), 422, BAD_HEADER),
        (of(VALIDATE).with("Authorization", b"Bearer \xff\xfe"), 422, "Not enough segments"),
        (of(VALIDATE).by(&ann.access).by(&ann.access), 400, "Only one Authorization header is allowed"),
        (
            of(VALIDATE).by(&ann.access).with("authorization", ""),
            400,
            "Only one Authorization header is allowed",
        ),
        (of(VALIDATE).with("cookie", format!("access_token={}", ann.access)), 401, MISSING),
    ] {
        is(&node, &asked, status, msg).await;
    }
}

#[tokio::test]
async fn token_expires_on_every_path() {
    static BRIEF: Shared = Shared::with(&[("ACCESS_TTL", "2s")]);
    let node = BRIEF.node().await;
    let ann = node.register("ann").await;
    ann.is_in().await;
    eventually(Duration::from_secs(8), "the token expires", async || {
        (ann.validate().await.status != 200).then_some(())
    })
    .await;
    for target in [VALIDATE, CHECK, ADMIT] {
        is(&node, &Asked::of(target).by(&ann.access), 401, "Token has expired").await;
    }
}

#[tokio::test]
async fn every_permission_query_is_answered_alike_on_every_path() {
    let node = Node::shared().await;
    let root = node.root().await;
    let [ann, bob, service, gone] = [
        node.register("ann").await,
        node.register("bob").await,
        node.register("service").await,
        node.register("gone").await,
    ];
    root.gives(&service, "permissions_check").await.is(200);
    root.delete(&gone.path("")).send().await.is_done();
    let has = root.makes_permission("has").await;
    let lacks = root.makes_permission("lacks").await;
    root.gives(&ann, &has).await.is(200);
    let q = |query: &str| format!("permissions={}", encoded(query));
    let name = |name: &str| q(&format!("{name:?}"));
    let yes = r#"{"valid":true}"#;
    let no = r#"{"valid":false}"#;
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    for (asked, status, msg) in [
        (about("me", &name(&has)).by(&ann.access), 200, yes),
        (about("me", &name(&lacks)).by(&ann.access), 200, no),
        (about("me", &name(&fresh("nobodys"))).by(&ann.access), 200, no),
        (about(&ann.uuid, &name(&has)).by(&ann.access), 200, yes),
        (about(&ann.uuid.to_uppercase(), &name(&lacks)).by(&ann.access), 200, no),
        (
            about("me", &q(&format!(r#"{{"all":["{has}",{{"any":["{lacks}","{has}"]}}]}}"#))).by(&ann.access),
            200,
            yes,
        ),
        (about("me", &q(r#"{"all":[]}"#)).by(&ann.access), 200, yes),
        (about("me", &q(r#"{"any":[]}"#)).by(&ann.access), 200, no),
        (about("me", &format!("x=y&{}&z", name(&has))).by(&ann.access), 200, yes),
        (about("me", &format!("permissions=+%22{has}%22+")).by(&ann.access), 200, yes),
        (about(&ann.uuid, &name(&has)).by(&service.access), 200, yes),
        (about(&bob.uuid, &name(&has)).by(&service.access), 200, no),
        (about(&ann.uuid, &name(&has)).by(&bob.access), 403, FORBIDDEN),
        (about(unknown, &name(&has)).by(&bob.access), 403, FORBIDDEN),
        (about(&gone.uuid, &name(&has)).by(&bob.access), 403, FORBIDDEN),
        (about(unknown, &name(&has)).by(&service.access), 404, "Not found"),
        (about(&gone.uuid, &name(&has)).by(&service.access), 404, "Not found"),
        (about("nobody", &name(&has)).by(&service.access), 404, "Not found"),
        (about("1", &name(&has)).by(&ann.access), 404, "Not found"),
        (about("%6De", &name(&has)).by(&ann.access), 200, yes),
        (about("me", &name(&has)), 401, MISSING),
        (about("me", "permissions=nonsense"), 401, MISSING),
        (about("me", &name(&has)).by(&ann.refresh), 422, "Only non-refresh tokens are allowed"),
    ] {
        is(&node, &asked, status, msg).await;
    }
    bad_permission_queries_are_refused_alike(&node, &ann, &has).await;
}

/// The validation of a permission query about a user.
fn about(user: &str, query: &str) -> Asked {
    Asked::of(&format!("/api/v1/users/{user}/combined_permissions/validation?{query}"))
}

/// Malformed queries: 422 from the validation, 403 from the gateway, which admits an empty query.
async fn bad_permission_queries_are_refused_alike(node: &Node, ann: &Person, has: &str) {
    let q = |query: &str| format!("permissions={}", encoded(query));
    let name = q(&format!("{has:?}"));
    for query in [
        String::new(),
        "permissions".into(),
        "permissions=".into(),
        "permissions=nonsense".into(),
        format!("Permissions=%22{has}%22"),
        format!("{}&{}", name, name),
        format!("{}&%70ermissions=%22x%22", name),
        "permissions=%22%ff%fe%22".into(),
        "permissions=%2".into(),
        "permissions=%22a%00%22".into(),
        q(r#"{"any":[],"all":[]}"#),
        q(&format!("{}\"p\"{}", r#"{"any":["#.repeat(17), "]}".repeat(17))),
    ] {
        let answered = alike(node, &about("me", &query).by(&ann.access)).await;
        assert_eq!(answered.status, 422, "{query}: {answered:?}");
        let admitted = alike(node, &Asked::of(&format!("{ADMIT}?{query}")).by(&ann.access)).await;
        assert_eq!(admitted.status, if query.is_empty() { 204 } else { 403 }, "{query}: {admitted:?}");
    }
}

#[tokio::test]
async fn gateway_gets_the_same_answer_on_every_path() {
    let node = Node::shared().await;
    let root = node.root().await;
    let ann = node.register("ann").await;
    let has = root.makes_permission("has").await;
    root.gives(&ann, &has).await.is(200);
    let session = ann.session().await;
    for target in [ADMIT.to_owned(), format!("{ADMIT}?permissions=%22{has}%22"), format!("{ADMIT}?")] {
        let admitted = alike(&node, &Asked::of(&target).by(&ann.access)).await;
        assert_eq!((admitted.status, admitted.body.as_str()), (204, ""), "{admitted:?}");
        let who = (admitted.header("x-auth-user"), admitted.header("x-auth-session"));
        assert_eq!(who, (ann.uuid.as_str(), session.as_str()));
    }
    is(
        &node,
        &Asked::of(&format!("{ADMIT}?permissions=%22{}%22", fresh("x"))).by(&ann.access),
        403,
        FORBIDDEN,
    )
    .await;
    for unknown in [
        Asked::of(&format!("{ADMIT}?x=y")),
        Asked::of(&format!("{ADMIT}?permissions=%22{has}%22&permissions=%22{has}%22")),
        Asked::of(ADMIT).with("x-AUTH-permissions", "\"x\""),
    ] {
        is(&node, &unknown.by(&ann.access), 403, UNKNOWN).await;
    }
    is(&node, &Asked::of(ADMIT), 401, MISSING).await;
    is(&node, &Asked::of(ADMIT).by("a.b.c"), 401, "Signature verification failed").await;
    is(&node, &Asked::of(ADMIT).by(&ann.refresh), 401, "Only non-refresh tokens are allowed").await;
    ann.delete("auth_token").send().await.is_done();
    is(&node, &Asked::of(ADMIT).by(&ann.access), 401, "Token has been revoked").await;
}

/// RFC 9110, section 8.6.
#[tokio::test]
async fn answer_without_a_body_has_no_content_length() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    for way in Way::ALL {
        let admitted = way.ask(&node, &Asked::of(ADMIT).by(&ann.access)).await;
        admitted.is(204);
        assert!(!admitted.headers.contains_key("content-length"), "{way:?}: {admitted:?}");
    }
}

#[tokio::test]
async fn valid_request_id_is_kept_and_a_bad_one_replaced() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let mut made = BTreeSet::new();
    for way in Way::ALL {
        for asked in
            [Asked::of(VALIDATE).by(&ann.access), Asked::of(VALIDATE), Asked::of(ADMIT), Asked::of(CHECK)]
        {
            for sane in ["x", "req-1", "a/b=c:d;e,~!\"\\", &"i".repeat(128)] {
                let answered = way.ask(&node, &asked.clone().id(sane)).await;
                assert_eq!(answered.header("x-request-id"), sane, "{way:?}: {answered:?}");
                if answered.status >= 400 {
                    assert_eq!(answered.json()["request_id"], sane, "{way:?}");
                }
            }
            let insane =
                [&b"a b"[..], b"a\tb", "\u{e4}".as_bytes(), b"\xff", &[b'i'; 129], &[b'i'; 5_000], b""];
            for insane in insane.map(|id| asked.clone().with("x-request-id", id)).iter().chain([&asked]) {
                let answered = way.ask(&node, insane).await;
                let id = answered.header("x-request-id").to_owned();
                let is_hex = id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                assert!(id.len() == 32 && is_hex, "{way:?}: {insane:?} became {id:?}");
                if answered.status >= 400 {
                    assert_eq!(answered.json()["request_id"], id, "{way:?}");
                }
                assert!(made.insert(id), "an id was made twice");
            }
            // The first of two counts.
            let answered = way.ask(&node, &asked.clone().id("one").id("two")).await;
            assert_eq!(answered.header("x-request-id"), "one", "{way:?}");
        }
    }
}

#[tokio::test]
async fn every_answer_has_a_correct_date() {
    let node = Node::shared().await;
    for way in Way::ALL {
        let date = way.ask(&node, &Asked::of(VALIDATE)).await.header("date").to_owned();
        assert!(date.ends_with(" GMT") && date.len() == 29, "{way:?}: {date}");
        let live = Way::Fresh.ask(&node, &Asked::of("/health/live")).await;
        // Only the day is compared.
        assert_eq!(date[..16], live.header("date")[..16], "{way:?}");
    }
}

#[tokio::test]
async fn answers_are_alike_on_every_path_with_cors() {
    static FILMS: Shared = Shared::with(&[("CORS_ORIGINS", "https://films.example.org")]);
    let node = FILMS.node().await;
    let ann = node.register("ann").await;
    for asked in [
        Asked::of(VALIDATE).by(&ann.access),
        Asked::of(VALIDATE),
        Asked::of(ADMIT).by(&ann.access),
        Asked::of(CHECK),
    ] {
        for origin in ["https://films.example.org", "https://evil.example.org"] {
            alike(&node, &asked.clone().with("Origin", origin)).await;
        }
        alike(&node, &asked).await;
    }
}

#[tokio::test]
async fn similar_paths_do_not_take_the_fast_path() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    for (target, status) in [
        (format!("{VALIDATE}/"), 404),
        (format!("/{VALIDATE}"), 404),
        (VALIDATE.to_uppercase(), 404),
        (format!("{ADMIT}/"), 404),
        ("/api/v1/users//combined_permissions/validation".to_owned(), 404),
        ("/api/v1/users/a/b/combined_permissions/validation".to_owned(), 404),
        ("/api/v1/users/combined_permissions/validation".to_owned(), 404),
        ("/api/v1/users/../users/me/combined_permissions/validation".to_owned(), 404),
    ] {
        for way in Way::ALL {
            way.ask(&node, &Asked::of(&target).by(&ann.access)).await.is(status);
        }
    }
}
