//! Every route of the node's own document without credentials and with wrong, expired, revoked
//! and unprivileged ones. A route that is not in the table fails the test: a change that
//! adds a route states here which callers may use it.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use testkit::{Answer, Client, Node, Person, eventually, forge};

/// The callers that a route is open to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// Every caller, without credentials.
    Everybody,
    /// A caller with a refresh token.
    RefreshToken,
    /// Every user.
    Users,
    /// Every user, where the first id is their own; admins, where it is another's.
    Oneself,
    /// Admins of one kind or another.
    Admins,
    /// Gateways: like [`For::Users`], but a bad token is 401 as well.
    Gateways,
    /// It has credentials of its own, which are tested where it is.
    ItsOwn,
}

fn table() -> BTreeMap<&'static str, (For, Value)> {
    let name = || json!({"name": "x"});
    let description = || json!({"description": "x"});
    let rows = [
        ("POST /auth_token", For::Everybody, json!({})),
        ("DELETE /auth_token", For::Users, Value::Null),
        ("DELETE /auth_token/all", For::Users, Value::Null),
        ("DELETE /auth_token/others", For::Users, Value::Null),
        ("POST /auth_token/token_refresh", For::RefreshToken, Value::Null),
        ("GET /auth_token/validation", For::Users, Value::Null),
        ("POST /auth_token/validation/batch", For::Users, json!({"tokens": []})),
        ("POST /users", For::Everybody, json!({})),
        ("GET /users", For::Admins, Value::Null),
        ("GET /users/{}", For::Oneself, Value::Null),
        ("PATCH /users/{}", For::Oneself, json!({"first_name": "x"})),
        ("DELETE /users/{}", For::Oneself, Value::Null),
        ("POST /users/{}/password", For::Oneself, json!({"new_password": "a secret of somebody"})),
        ("GET /users/{}/logins", For::Oneself, Value::Null),
        ("POST /users/{}/unlock", For::Admins, Value::Null),
        ("GET /users/{}/sessions", For::Oneself, Value::Null),
        ("DELETE /users/{}/sessions", For::Oneself, Value::Null),
        ("DELETE /users/{}/sessions/{}", For::Oneself, Value::Null),
        ("GET /users/{}/roles", For::Oneself, Value::Null),
        ("POST /users/{}/roles", For::Admins, name()),
        ("DELETE /users/{}/roles/{}", For::Admins, Value::Null),
        ("GET /users/{}/permissions", For::Oneself, Value::Null),
        ("POST /users/{}/permissions", For::Admins, name()),
        ("DELETE /users/{}/permissions/{}", For::Admins, Value::Null),
        ("GET /users/{}/combined_permissions", For::Oneself, Value::Null),
        ("GET /users/{}/combined_permissions/validation", For::Oneself, Value::Null),
        ("GET /permissions", For::Admins, Value::Null),
        ("POST /permissions", For::Admins, name()),
        ("GET /permissions/{}", For::Admins, Value::Null),
        ("PATCH /permissions/{}", For::Admins, description()),
        ("DELETE /permissions/{}", For::Admins, Value::Null),
        ("GET /roles", For::Admins, Value::Null),
        ("POST /roles", For::Admins, name()),
        ("GET /roles/{}", For::Admins, Value::Null),
        ("PATCH /roles/{}", For::Admins, description()),
        ("DELETE /roles/{}", For::Admins, Value::Null),
        ("GET /roles/{}/permissions", For::Admins, Value::Null),
        ("POST /roles/{}/permissions", For::Admins, name()),
        ("DELETE /roles/{}/permissions/{}", For::Admins, Value::Null),
        ("GET /cluster", For::Admins, Value::Null),
        ("GET /auth_request", For::Gateways, Value::Null),
        ("GET /health/live", For::Everybody, Value::Null),
        ("GET /health/ready", For::Everybody, Value::Null),
        ("GET /metrics", For::Everybody, Value::Null),
        ("GET /openapi.json", For::Everybody, Value::Null),
        ("GET /apidocs", For::Everybody, Value::Null),
        ("GET /apidocs/", For::Everybody, Value::Null),
        ("GET /.well-known/jwks.json", For::Everybody, Value::Null),
        ("GET /.well-known/oauth-authorization-server", For::Everybody, Value::Null),
        ("GET /oauth/login", For::Everybody, Value::Null),
        ("GET /oauth/authorize", For::Everybody, Value::Null),
        ("POST /oauth2/introspect", For::ItsOwn, Value::Null),
        ("POST /oauth2/revoke", For::ItsOwn, Value::Null),
    ];
    rows.into_iter().map(|(route, who, body)| (route, (who, body))).collect()
}

/// A route of the document.
struct Route {
    method: String,
    /// As to be called, with `{…}` for parameters.
    path: String,
    /// As in the table.
    key: String,
}

async fn documented(node: &Node) -> Vec<Route> {
    let document = node.get("/openapi.json").send().await.is(200).json();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in ["get", "put", "post", "delete", "patch", "head", "options", "trace"] {
            if item.get(method).is_none() {
                continue;
            }
            let plain = plain(path);
            let method = method.to_uppercase();
            let key = format!("{method} {}", plain.strip_prefix("/api/v1").unwrap_or(&plain));
            routes.push(Route { method, path: plain, key });
        }
    }
    routes
}

/// Without the names of parameters: `/users/{id}` becomes `/users/{}`.
fn plain(path: &str) -> String {
    let mut parts = path.split('{');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain += "{}";
        plain += part.split_once('}').expect("a closed parameter").1;
    }
    plain
}

impl Route {
    /// The request, about this user and things that do not exist.
    fn ask(&self, client: &Client, user: &str, body: &Value) -> testkit::Request {
        let of_users = self.path.contains("/users/{}");
        let path = if of_users { self.path.replacen("{}", user, 1) } else { self.path.clone() };
        let mut path = path.replace("{}", "nothing");
        if path.ends_with("/validation") && of_users {
            path += "?permissions=%22p%22";
        }
        let request = client.request(&self.method, &path);
        if body.is_null() { request } else { request.json(body) }
    }
}

/// Callers whose credentials are insufficient, one of each kind.
struct Cast {
    node: Node,
    expired: String,
    revoked: Person,
    ann: Person,
    stranger: Person,
}

impl Cast {
    async fn gather() -> Self {
        let node = Node::builder().setting("ACCESS_TTL", "2s").start().await;
        let late = node.register("late").await;
        let expired = async || (late.validate().await.field("msg") == "Token has expired").then_some(());
        eventually(Duration::from_secs(10), "a token expires", async || {
            if late.validate().await.status == 200 { None } else { expired().await }
        })
        .await;
        node.terminate().await;
        let node = node.successor().setting("ACCESS_TTL", "15m").start().await;
        let revoked = node.register("revoked").await;
        revoked.delete("auth_token").send().await.is_done();
        let ann = node.register("ann").await;
        let stranger = node.register("stranger").await;
        Self { expired: late.access.clone(), revoked, ann, stranger, node }
    }
}

fn check(route: &Route, what: &str, answer: &Answer, expected: &[(u16, &str)]) {
    let msg = answer.field("msg");
    let good = expected.iter().any(|(status, words)| answer.status == *status && msg.starts_with(words));
    assert!(good, "{} with {what}: expected one of {expected:?}\n{answer}", route.key);
    answer.is_refused(answer.status);
}

#[tokio::test]
async fn every_documented_route_is_in_the_table() {
    let node = Node::shared().await;
    let table = table();
    let missing: Vec<_> = documented(&node).await.into_iter().map(|route| route.key).collect();
    let missing: Vec<_> = missing.iter().filter(|key| !table.contains_key(key.as_str())).collect();
    assert!(missing.is_empty(), "routes that nobody has said who may call: {missing:?}");
}

#[tokio::test]
async fn document_states_for_every_route_its_permission() {
    let document = Node::shared().await.get("/openapi.json").send().await.is(200).json();
    let table = table();
    for route in documented(&Node::shared().await).await {
        let Some((who, _)) = table.get(route.key.as_str()) else { continue };
        let paths = document["paths"].as_object().expect("paths");
        let mut operations = paths.iter().filter(|(path, _)| plain(path) == route.path);
        let operation = operations.find_map(|(_, item)| item.get(route.method.to_lowercase()));
        let operation = operation.expect("a documented operation");
        let scheme = match who {
            For::Everybody | For::ItsOwn => None,
            For::RefreshToken => Some("refresh"),
            For::Users | For::Oneself | For::Admins | For::Gateways => Some("bearer"),
        };
        let schemes = operation["security"].as_array().map(|schemes| {
            let names = schemes.iter().filter_map(Value::as_object).flat_map(|scheme| scheme.keys());
            names.map(String::as_str).collect::<Vec<_>>()
        });
        assert_eq!(schemes, scheme.map(|scheme| vec![scheme]), "{}", route.key);
        let forbids = operation["responses"].get("403").is_some();
        let may_forbid = matches!(who, For::Oneself | For::Admins | For::Gateways);
        assert_eq!(forbids, may_forbid, "{}: 403 is in the document where it is answered", route.key);
    }
}

#[tokio::test]
async fn every_promised_route_is_documented() {
    // Those that come with later work, and those that a document need not name.
    const MAY_LACK: [&str; 15] = [
        "GET /permissions/{}",
        "GET /roles/{}/permissions",
        "GET /cluster",
        "GET /health/live",
        "GET /health/ready",
        "GET /metrics",
        "GET /openapi.json",
        "GET /apidocs",
        "GET /apidocs/",
        "GET /.well-known/jwks.json",
        "GET /.well-known/oauth-authorization-server",
        "GET /oauth/login",
        "GET /oauth/authorize",
        "POST /oauth2/introspect",
        "POST /oauth2/revoke",
    ];
    let node = Node::shared().await;
    let documented: Vec<_> = documented(&node).await.into_iter().map(|route| route.key).collect();
    for key in table().keys().filter(|key| !MAY_LACK.contains(key)) {
        assert!(documented.iter().any(|documented| documented == key), "not in the document: {key}");
    }
}

#[tokio::test]
async fn every_route_refuses_insufficient_credentials() {
    let cast = Cast::gather().await;
    let table = table();
    let forged = forge::parts(&cast.ann.access).with_claim("uv", json!(9));
    for route in documented(&cast.node).await {
        let Some((who, body)) = table.get(route.key.as_str()) else { continue };
        if matches!(who, For::Everybody | For::ItsOwn) {
            continue;
        }
        let ask = |user: &str| route.ask(&cast.node, user, body);
        let bearer = |token: &str| ask("me").bearer(token).send();
        // What a gateway cannot understand it is told as a 401.
        let lenient = *who == For::Gateways;
        let unreadable =
            |words: &'static str| if lenient { vec![(401, ""), (422, words)] } else { vec![(422, words)] };
        let missing = ask("me").send().await;
        check(&route, "nothing", &missing, &[(401, "Missing Authorization Header")]);
        let basic = ask("me").authorization(b"Basic YTpi").send().await;
        check(&route, "another scheme", &basic, &[(401, "Missing 'Bearer' type")]);
        let empty = ask("me").authorization(b"Bearer").send().await;
        check(&route, "no token", &empty, &unreadable("Bad Authorization header"));
        check(&route, "nonsense", &bearer("nonsense").await, &unreadable("Not enough segments"));
        check(&route, "a forged token", &bearer(&forged).await, &unreadable("Signature verification failed"));
        let twice = ask("me").bearer(&cast.ann.access).bearer(&cast.ann.access).send().await;
        let malformed: &[_] = if lenient { &[(400, ""), (401, "")] } else { &[(400, "")] };
        check(&route, "two tokens", &twice, malformed);
        if *who == For::RefreshToken {
            let only_refresh = [(422, "Only refresh tokens are allowed")];
            check(&route, "an access token", &bearer(&cast.ann.access).await, &only_refresh);
            let revoked = bearer(&cast.revoked.refresh).await;
            check(&route, "a revoked token", &revoked, &[(401, "Token has been revoked")]);
            continue;
        }
        let refresh = bearer(&cast.ann.refresh).await;
        check(&route, "a refresh token", &refresh, &unreadable("Only non-refresh tokens are allowed"));
        check(&route, "an expired token", &bearer(&cast.expired).await, &[(401, "Token has expired")]);
        check(
            &route,
            "a revoked token",
            &bearer(&cast.revoked.access).await,
            &[(401, "Token has been revoked")],
        );
        if matches!(who, For::Oneself | For::Admins) {
            let unprivileged = ask(&cast.stranger.uuid).bearer(&cast.ann.access).send().await;
            check(&route, "a stranger's token", &unprivileged, &[(403, "")]);
        }
    }
    cast.ann.is_in().await;
    cast.stranger.is_in().await;
    cast.ann.refreshed().await.is_in().await;
}
