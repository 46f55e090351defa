//! Forged tokens. All of them get the same answer, which tells an attacker nothing.

use serde_json::{Value, json};
use testkit::{Node, Person, Shared, forge};

static ES256: Shared = Shared::with(&[("SIGNING_ALGORITHM", "ES256")]);
static RS256: Shared = Shared::with(&[("SIGNING_ALGORITHM", "RS256")]);

/// Of base64url (RFC 4648, section 5).
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

async fn of_each_algorithm() -> [(&'static str, Node); 3] {
    [("EdDSA", Node::shared().await), ("ES256", ES256.node().await), ("RS256", RS256.node().await)]
}

/// The token is refused, as a good one beside it is not.
async fn is_refused(ann: &Person, token: &str) {
    let answer = ann.client().validate(token).await;
    answer.is_error(422, "Signature verification failed");
}

async fn jwk_of(node: &Node, kid: &Value) -> Value {
    let jwks = node.get("/.well-known/jwks.json").send().await;
    let jwks: Value = serde_json::from_slice(&jwks.is(200).body).unwrap();
    jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == *kid).unwrap().clone()
}

#[tokio::test]
async fn every_algorithm_issues_valid_tokens() {
    for (name, node) in of_each_algorithm().await {
        let ann = node.register("ann").await;
        ann.is_in().await;
        let parts = forge::parts(&ann.access);
        assert_eq!(parts.header["alg"], name);
        let jwk = jwk_of(&node, &parts.header["kid"]).await;
        assert!(jwk.get("alg").is_none_or(|alg| alg == name), "{jwk}");
        ann.refreshed().await.is_in().await;
    }
}

#[tokio::test]
async fn alg_none_is_refused_in_any_spelling() {
    for (_, node) in of_each_algorithm().await {
        let ann = node.register("ann").await;
        let parts = forge::parts(&ann.access);
        for alg in ["none", "None", "NONE", "nOnE", "none ", " none", "", "null", "non\u{65}"] {
            let mut header = parts.header.clone();
            header["alg"] = json!(alg);
            let header = header.to_string();
            let claims = parts.claims.to_string();
            is_refused(&ann, &forge::token(&header, &claims, b"")).await;
            is_refused(&ann, &forge::token(&header, &claims, &parts.signature)).await;
        }
        for alg in [Value::Null, json!(["EdDSA"]), json!(0), json!({}), json!(false)] {
            is_refused(&ann, &parts.with_header_field("alg", alg)).await;
        }
        is_refused(&ann, &parts.with_header(&json!({}))).await;
    }
}

#[tokio::test]
async fn an_hmac_under_the_public_key_is_refused() {
    for (own, node) in of_each_algorithm().await {
        let ann = node.register("ann").await;
        let parts = forge::parts(&ann.access);
        let jwk = jwk_of(&node, &parts.header["kid"]).await;
        for secret in forge::public_key_as_secrets(&jwk) {
            for alg in ["HS256", "hs256", own] {
                let mut header = parts.header.clone();
                header["alg"] = json!(alg);
                is_refused(&ann, &forge::hs256(&secret, &header.to_string(), &parts.claims.to_string()))
                    .await;
            }
        }
    }
}

#[tokio::test]
async fn an_algorithm_other_than_the_keys_own_is_refused() {
    for (own, node) in of_each_algorithm().await {
        let ann = node.register("ann").await;
        let parts = forge::parts(&ann.access);
        let others = ["EdDSA", "ES256", "RS256", "PS256", "ES384", "RS512", "Ed25519", "ES256K", "eddsa"];
        for alg in others.into_iter().filter(|alg| *alg != own) {
            is_refused(&ann, &parts.with_header_field("alg", json!(alg))).await;
        }
    }
}

#[tokio::test]
async fn a_changed_claim_breaks_the_signature() {
    for (_, node) in of_each_algorithm().await {
        let ann = node.register("ann").await;
        let bob = node.register("bob").await;
        let parts = forge::parts(&ann.access);
        let later = parts.claims["exp"].as_u64().unwrap() + 1;
        for (claim, value) in [
            ("sub", json!(bob.uuid)),
            ("sid", forge::parts(&bob.access).claims["sid"].clone()),
            ("jti", forge::parts(&bob.access).claims["jti"].clone()),
            ("exp", json!(later)),
            ("uv", json!(99)),
            ("type", json!("refresh")),
            ("iss", json!("palisade2")),
            ("aud", json!(["palisade"])),
            ("admin", json!(true)),
        ] {
            is_refused(&ann, &parts.with_claim(claim, value)).await;
        }
        ann.is_in().await;
    }
}

#[tokio::test]
async fn a_signature_of_another_token_is_refused() {
    for (_, node) in of_each_algorithm().await {
        let ann = node.register("ann").await;
        let bob = node.register("bob").await;
        let mine = forge::parts(&ann.access);
        let other = forge::parts(&bob.access);
        is_refused(&ann, &mine.with_signature(&other.signature)).await;
        is_refused(&ann, &other.with_signature(&mine.signature)).await;
    }
}

#[tokio::test]
async fn a_signature_that_is_empty_cut_long_or_changed_is_refused() {
    for (_, node) in of_each_algorithm().await {
        let ann = node.register("ann").await;
        let parts = forge::parts(&ann.access);
        let good = &parts.signature;
        let half = good.len() / 2;
        for bad in [
            &[][..],
            &[0],
            &good[..1],
            &good[..half],
            &good[1..],
            &good[..good.len() - 1],
            &[good, &[0][..]].concat(),
            &[good.as_slice(), good].concat(),
            &vec![0; good.len()],
            &vec![0xff; good.len()],
            &[&good[half..], &good[..half]].concat(),
        ] {
            is_refused(&ann, &parts.with_signature(bad)).await;
        }
        for at in [0, half, good.len() - 1] {
            let mut changed = good.clone();
            changed[at] ^= 1;
            is_refused(&ann, &parts.with_signature(&changed)).await;
        }
        ann.is_in().await;
    }
}

#[tokio::test]
async fn a_signature_has_one_spelling() {
    for (_, node) in of_each_algorithm().await {
        let ann = node.register("ann").await;
        let parts = forge::parts(&ann.access);
        let text = forge::segment(&parts.signature);
        // The last character of 64 or 256 bytes has bits to spare: a lenient decoder ignores them.
        let last = *text.as_bytes().last().unwrap();
        let next = ALPHABET[ALPHABET.iter().position(|c| *c == last).unwrap() + 1] as char;
        let stray = format!("{}{next}", &text[..text.len() - 1]);
        for bad in [
            format!("{text}="),
            format!("{text}=="),
            format!("{text}%3D"),
            format!("{text}A"),
            format!("={text}"),
            stray,
        ] {
            is_refused(&ann, &parts.with_signature_text(&bad)).await;
        }
        let standard = text.replace('-', "+").replace('_', "/");
        if standard != text {
            is_refused(&ann, &parts.with_signature_text(&standard)).await;
        }
    }
}

#[tokio::test]
async fn an_ed25519_signature_with_s_plus_l_is_refused() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let parts = forge::parts(&ann.access);
    is_refused(&ann, &parts.with_signature(&forge::ed25519_s_plus_l(&parts.signature))).await;
    ann.is_in().await;
}

#[tokio::test]
async fn an_ecdsa_signature_of_zeros_or_as_der_is_refused() {
    let node = ES256.node().await;
    let ann = node.register("ann").await;
    let parts = forge::parts(&ann.access);
    assert_eq!(parts.signature.len(), 64, "raw r and s");
    let (r, s) = parts.signature.split_at(32);
    for bad in [
        vec![0; 64],
        forge::ecdsa_der(&parts.signature),
        forge::ecdsa_der(&[0; 64]),
        [r, &[0; 32]].concat(),
        [&[0; 32], s].concat(),
        [s, r].concat(),
    ] {
        is_refused(&ann, &parts.with_signature(&bad)).await;
    }
    ann.is_in().await;
}

#[tokio::test]
async fn a_key_in_the_header_is_never_followed() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let parts = forge::parts(&ann.access);
    let jwk = jwk_of(&node, &parts.header["kid"]).await;
    // A listener that the node must not call: the test would see a connection.
    let trap = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/keys.json", trap.local_addr().unwrap());
    for (field, value) in [
        ("jwk", jwk.clone()),
        ("jku", json!(url)),
        ("x5u", json!(url)),
        ("x5c", json!(["MIIB"])),
        ("x5t", json!("AAAA")),
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("enc", json!("A256GCM")),
    ] {
        is_refused(&ann, &parts.with_header_field(field, value.clone())).await;
        // The same with a signature under the key that the header brings along.
        let header = json!({"alg": "HS256", "kid": parts.header["kid"], field: value});
        is_refused(&ann, &forge::hs256(b"secret", &header.to_string(), &parts.claims.to_string())).await;
    }
    let visitor = tokio::time::timeout(std::time::Duration::from_millis(200), trap.accept()).await;
    assert!(visitor.is_err(), "the node followed an address in a token");
}

#[tokio::test]
async fn a_kid_that_is_unknown_or_strange_is_refused() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let parts = forge::parts(&ann.access);
    let long = "k".repeat(5_000);
    for kid in [
        json!("01890a5d-ac96-774b-bcce-b302099a8057"),
        json!("../../../../etc/passwd"),
        json!("' OR 1=1 --"),
        json!("\"; DROP TABLE keys;"),
        json!("kid\u{0}"),
        json!(""),
        json!("*"),
        json!(long),
        json!(7),
        json!([parts.header["kid"]]),
        Value::Null,
    ] {
        is_refused(&ann, &parts.with_header_field("kid", kid)).await;
    }
    let mut without = parts.header.clone();
    without.as_object_mut().unwrap().remove("kid");
    is_refused(&ann, &parts.with_header(&without)).await;
    ann.is_in().await;
}

#[tokio::test]
async fn a_flood_of_unknown_kids_leaves_good_tokens_good() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let parts = forge::parts(&ann.access);
    let forged = (0..200).map(|n| {
        let kid = format!("01890a5d-ac96-774b-bcce-{n:012x}");
        let token = parts.with_header_field("kid", json!(kid));
        let client = node.clone();
        async move { client.validate(&token).await }
    });
    for answer in futures_util::future::join_all(forged).await {
        answer.is_error(422, "Signature verification failed");
    }
    ann.is_in().await;
}

#[tokio::test]
async fn a_token_of_another_node_with_the_same_issuer_is_refused() {
    let other = ES256.node().await;
    let node = Node::shared().await;
    let third = Node::start().await;
    let ann = node.register("ann").await;
    for stranger in [other.register("bob").await, third.register("cid").await] {
        is_refused(&ann, &stranger.access).await;
        stranger.is_in().await;
        // And under a kid that is known here.
        let parts = forge::parts(&stranger.access);
        let kid = forge::parts(&ann.access).header["kid"].clone();
        is_refused(&ann, &parts.with_header_field("kid", kid)).await;
    }
    // Its refresh token is unknown here, and begins like one of ours.
    let bob = third.register("bob").await;
    node.refresh(&bob.refresh).await.is_error(401, "Token has been revoked");
    bob.refreshed().await.is_in().await;
}

#[tokio::test]
async fn segments_that_are_not_json_are_refused() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let parts = forge::parts(&ann.access);
    let header = parts.header.to_string();
    let claims = parts.claims.to_string();
    let twice = header.replacen('{', "{\"alg\":\"none\",", 1);
    let claims_twice = claims.replacen('{', "{\"uv\":99,", 1);
    for (header, claims) in [
        ("", claims.as_str()),
        (header.as_str(), ""),
        ("{", &claims),
        ("[]", &claims),
        ("null", &claims),
        ("\u{0}", &claims),
        (&header, "{"),
        (&header, "null"),
        (&header, "[]"),
        (&twice, &claims),
        (&header, &claims_twice),
        (&header, &format!("{claims}x")),
        (&format!("{header} {header}"), &claims),
        (&header, &format!("[{claims}]")),
        (&header, &"[".repeat(4_000)),
    ] {
        is_refused(&ann, &forge::token(header, claims, &parts.signature)).await;
    }
    for token in ["..", "a..", ".a.", "..a", "a.b.c", "!.!.!", "e30.e30.e30", "e30.e30."] {
        is_refused(&ann, token).await;
    }
}

#[tokio::test]
async fn valid_token_in_another_encoding_is_refused() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    let [header, claims, signature] = ann.access.split('.').collect::<Vec<_>>().try_into().unwrap();
    let swap = |text: &str| -> String {
        text.chars()
            .map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
            .collect()
    };
    for token in [
        format!("{header}=.{claims}.{signature}"),
        format!("{header}.{claims}=.{signature}"),
        format!("{claims}.{header}.{signature}"),
        format!("{header}.{signature}.{claims}"),
        swap(&ann.access),
        format!("{header}.{claims}%2E.{signature}"),
        // The same header with a space in its JSON.
        forge::parts(&ann.access).with_header(&forge::parts(&ann.access).header).replacen(
            header,
            &forge::segment(format!(" {}", forge::parts(&ann.access).header)),
            1,
        ),
    ] {
        is_refused(&ann, &token).await;
    }
}
