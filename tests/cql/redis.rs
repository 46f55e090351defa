//! Redis beside a shared store: what it is good for, and that nothing is true because it says so.

#![allow(clippy::print_stdout, reason = "how long calls took is shown with --nocapture")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::json;
use testkit::{Answer, Node, Palisade, Person, eventually, fresh, servers::Redis};

/// The ledger is read once a second; the rest is for a busy machine.
const HEARD: Duration = Duration::from_secs(30);
/// Until a node has a connection to a Redis that answers again.
const CONNECTED: Duration = Duration::from_secs(30);
/// No call takes longer because of Redis; those that hash a password wait for each other, too.
const NO_LONGER: Duration = Duration::from_secs(1);
const NO_LONGER_WITH_HASHING: Duration = Duration::from_secs(4);
/// For so long after a change nothing that was loaded is believed to Redis, since the clocks of nodes
/// may differ by as much.
const CLOCKS: Duration = Duration::from_secs(60);

async fn two(redis: &Redis, settings: &[(&str, &str)]) -> (Node, Node) {
    let builder = || {
        let node = Node::builder().setting("REDIS", redis.url());
        settings.iter().fold(node, |node, (name, value)| node.setting(name, *value))
    };
    let a = builder().on_cql().await.start().await;
    let b = builder().beside(&a).start().await;
    is_up(&a, true).await;
    is_up(&b, true).await;
    (a, b)
}

async fn is_up(node: &Node, up: bool) {
    let expected = Some(f64::from(u8::from(up)));
    eventually(CONNECTED, &format!("palisade_cache_up is {expected:?}"), async || {
        (node.metric("palisade_cache_up").await == expected).then_some(())
    })
    .await;
}

/// What users may do, as it lies there.
async fn grants(redis: &Redis) -> BTreeMap<String, Vec<u8>> {
    let mut entries = redis.entries().await;
    entries.retain(|key, _| key.contains(":grants-"));
    entries
}

/// Somebody who registers and asks, and under which key Redis keeps the answer.
async fn kept(redis: &Redis, node: &Node, name: &str, permission: &str) -> (Person, String) {
    let before = grants(redis).await;
    let person = node.register(name).await;
    assert!(!person.may(permission).await);
    let key = eventually(HEARD, "Redis keeps what somebody may do", async || {
        grants(redis).await.into_keys().find(|key| !before.contains_key(key))
    });
    (person, key.await)
}

/// Somebody to whom this was given a while ago asks a node that has nothing in memory.
async fn kept_anew(redis: &Redis, person: &Person, key: &str, permission: &str) {
    let before = grants(redis).await.remove(key);
    assert!(person.may(permission).await);
    eventually(HEARD, "Redis keeps what somebody may do now", async || {
        (grants(redis).await.remove(key) != before).then_some(())
    })
    .await;
}

async fn fails(node: &Node, email: &str) {
    node.log_in(email, "not the password").await.is_error(401, "Bad email or password");
}

/// The slowest calls.
#[derive(Default)]
struct Clock {
    plain: Duration,
    hashing: Duration,
}

impl Clock {
    async fn plain(&mut self, call: impl Future<Output = Answer>) -> Answer {
        let start = Instant::now();
        let answer = call.await;
        self.plain = self.plain.max(start.elapsed());
        answer
    }

    async fn hashing(&mut self, call: impl Future<Output = Answer>) -> Answer {
        let start = Instant::now();
        let answer = call.await;
        self.hashing = self.hashing.max(start.elapsed());
        answer
    }
}

/// Everything works as ever, on both nodes, whatever Redis does; and none of it takes long.
async fn all_is_well(what: &str, nodes: [&Node; 2], root: &Person) {
    let mut clock = Clock::default();
    for (node, other) in [(nodes[0], nodes[1]), (nodes[1], nodes[0])] {
        let root = root.at(node);
        let (email, password) = (format!("{}@example.org", fresh("ann")), fresh("the secret of"));
        let body = json!({"email": email, "password": password});
        let uuid = clock.hashing(node.post("users").json(&body).send()).await.is(201).field("uuid");
        let wrong = clock.hashing(node.log_in(&email, "not the password")).await;
        wrong.is_error(401, "Bad email or password");
        let pair = clock.hashing(node.log_in(&email, &password)).await.pair();
        let ann = Person::known(node, &uuid, &email, &password, pair);

        let name = fresh("films");
        let body = json!({"name": name});
        let query = format!("users/me/combined_permissions/validation?permissions=%22{name}%22");
        clock.plain(root.post("permissions").json(&body).send()).await.is(201);
        for valid in [false, true, false] {
            for _ in 0..3 {
                let answer = clock.plain(ann.get(&query).send()).await;
                assert_eq!(answer.is(200).json(), json!({"valid": valid}), "{what}");
            }
            if valid {
                clock.plain(root.takes(&ann, &name)).await.is(200);
            } else {
                clock.plain(root.gives(&ann, &name)).await.is(200);
            }
        }
        clock.plain(root.takes(&ann, &name)).await.is(200);
        assert!(!ann.may(&name).await, "{what}");
        let there = ann.at(other);
        eventually(HEARD, "the other node knows what was taken", async || {
            let answer = clock.plain(there.get(&query).send()).await;
            (answer.is(200).json()["valid"] == false).then_some(())
        })
        .await;

        let next = ann.with_tokens(clock.plain(node.refresh(&ann.refresh)).await.pair());
        clock.plain(there.validate()).await.is(200);
        clock.plain(next.delete("auth_token").send()).await.is_done();
        for token in [&ann.access, &next.access] {
            clock.plain(node.validate(token)).await.is_error(401, "Token has been revoked");
        }
        clock.plain(other.refresh(&next.refresh)).await.is_error(401, "Token has been revoked");
        eventually(HEARD, "the other node hears of the logout", async || {
            (clock.plain(there.validate()).await.status == 401).then_some(())
        })
        .await;
    }
    let Clock { plain, hashing } = clock;
    println!("{what}: no call took longer than {plain:?}, with hashing {hashing:?}");
    assert!(plain < NO_LONGER, "{what}: a call took {plain:?}");
    assert!(hashing < NO_LONGER_WITH_HASHING, "{what}: a call with hashing took {hashing:?}");
}

#[tokio::test]
async fn failed_log_ins_are_counted_by_all_nodes_together() {
    let redis = Redis::start().await;
    let (a, b) = two(&redis, &[("LOGIN_ACCOUNT_FAILURES", "5/15m")]).await;
    let root = a.root().await;
    let ann = a.register("ann").await;
    let unknown = format!("{}@example.org", fresh("nobody"));
    for email in [&ann.email, &unknown] {
        for node in [&a, &b, &a, &b, &b] {
            fails(node, email).await;
        }
        for node in [&a, &b] {
            node.log_in(email, &ann.password).await.is_refused(429);
            node.log_in(&email.to_uppercase(), &ann.password).await.is_refused(429);
        }
    }
    // A lock ends no session, admins see it on every node, and one who opens it opens it on all.
    ann.at(&b).is_in().await;
    for node in [&a, &b] {
        let user = root.at(node).get(&ann.path("")).send().await.is(200).json();
        assert!(user["locked_until"].is_string(), "{user}");
    }
    root.at(&b).post(&ann.path("unlock")).send().await.is_done();
    for node in [&a, &b] {
        ann.at(node).in_another_session().await.is_in().await;
    }
    // Failures that were forgiven on one node are forgiven on the other: these are the first again.
    for node in [&a, &a, &b, &b] {
        fails(node, &ann.email).await;
    }
    ann.in_another_session().await.is_in().await;
    for node in [&b, &b, &a, &a] {
        fails(node, &ann.email).await;
    }
    ann.at(&b).in_another_session().await.is_in().await;
}

#[tokio::test]
async fn an_address_is_locked_and_registrations_are_limited_over_all_nodes() {
    let redis = Redis::start().await;
    let (a, b) = two(&redis, &[("LOGIN_ADDRESS_FAILURES", "6/15m"), ("REGISTRATION_RATE", "5/1m")]).await;
    let ann = a.register("ann").await;
    let register = async |node: &Node| {
        let body =
            json!({"email": format!("{}@example.org", fresh("ann")), "password": fresh("a secret of")});
        node.post("users").json(&body).send().await
    };
    for node in [&b, &a, &b, &b] {
        register(node).await.is(201);
    }
    for node in [&a, &b] {
        register(node).await.is_refused(429);
    }
    for node in [&a, &b, &a, &b, &a, &b] {
        fails(node, &format!("{}@example.org", fresh("nobody"))).await;
    }
    for node in [&a, &b] {
        node.log_in(&ann.email, &ann.password).await.is_refused(429);
    }
    ann.at(&b).refreshed().await.is_in().await;
}

#[tokio::test]
async fn parallel_guesses_over_two_nodes_do_not_get_around_the_limit() {
    let redis = Redis::start().await;
    let (a, b) = two(&redis, &[("LOGIN_ACCOUNT_FAILURES", "5/15m")]).await;
    let ann = a.register("ann").await;
    let guesses = (0..60).map(|n| [&a, &b][n % 2].log_in(&ann.email, "not the password"));
    let answers = futures_util::future::join_all(guesses).await;
    // Those that were being hashed when the fifth failed may still be answered 401: as many as the
    // queues of the hashing threads hold, not all of them.
    let tried = answers.iter().filter(|answer| answer.status == 401).count();
    println!("{tried} of 60 guesses were tried");
    assert!(tried < 60, "all guesses were tried");
    for node in [&a, &b] {
        node.log_in(&ann.email, &ann.password).await.is_refused(429);
    }
}

#[tokio::test]
async fn whatever_becomes_of_redis_all_goes_on_as_ever_and_limits_are_each_nodes_own() {
    let redis = Redis::start().await;
    let (a, b) = two(&redis, &[("LOGIN_ACCOUNT_FAILURES", "5/15m")]).await;
    let root = a.root().await;
    all_is_well("with Redis", [&a, &b], &root).await;

    let counts_alone = async |what: &str| {
        let ann = a.register("ann").await;
        for _ in 0..5 {
            fails(&a, &ann.email).await;
        }
        a.log_in(&ann.email, &ann.password).await.is_refused(429);
        let there = b.log_in(&ann.email, &ann.password).await;
        assert_eq!(there.status, 200, "each node for itself, {what}: {there}");
        // Others of it did not end the lock here.
        a.log_in(&ann.email, &ann.password).await.is_refused(429);
    };

    redis.kill();
    all_is_well("killed", [&a, &b], &root).await;
    counts_alone("killed").await;
    is_up(&a, false).await;

    redis.restart().await;
    all_is_well("started again", [&a, &b], &root).await;
    is_up(&a, true).await;
    is_up(&b, true).await;

    redis.pause();
    all_is_well("paused", [&a, &b], &root).await;
    counts_alone("paused").await;
    redis.resume();
    all_is_well("resumed", [&a, &b], &root).await;
    is_up(&a, true).await;
    is_up(&b, true).await;

    redis.flush().await;
    all_is_well("wiped", [&a, &b], &root).await;
}

#[tokio::test]
async fn a_wiped_redis_softens_no_lock_of_the_node_that_counted() {
    let redis = Redis::start().await;
    let (a, b) = two(&redis, &[("LOGIN_ACCOUNT_FAILURES", "5/15m")]).await;
    let ann = a.register("ann").await;
    for _ in 0..5 {
        fails(&a, &ann.email).await;
    }
    b.log_in(&ann.email, &ann.password).await.is_refused(429);
    redis.flush().await;
    a.log_in(&ann.email, &ann.password).await.is_refused(429);
}

#[tokio::test]
async fn garbage_in_redis_is_taken_for_nothing() {
    let redis = Redis::start().await;
    let (a, b) = two(&redis, &[("LOGIN_ACCOUNT_FAILURES", "5/15m"), ("REGISTRATION_RATE", "100/24h")]).await;
    let root = a.root().await;
    let films = root.makes_permission("films").await;
    let (ann, bob) = (a.register("ann").await, b.register("bob").await);
    for node in [&a, &b] {
        fails(node, &ann.email).await;
    }
    assert!(!bob.may(&films).await);
    eventually(HEARD, "Redis keeps failures and a rate", async || {
        let entries = redis.entries().await;
        ["failures", "bucket"].iter().all(|kind| entries.keys().any(|key| key.contains(kind))).then_some(())
    })
    .await;
    let honest = redis.entries().await;
    let long = vec![b'x'; 2 * 1024 * 1024];
    for garbage in [&b""[..], b"\0", b"{\"failures\":null}", b"9999999999999", &[0xff; 100], &long] {
        for key in honest.keys() {
            redis.put(key, garbage).await;
        }
        let what = format!("{} bytes of garbage", garbage.len());
        all_is_well(&what, [&a, &b], &root).await;
        ann.in_another_session().await.is_in().await;
        assert!(!bob.at(&a).may(&films).await, "{what}");
    }
    // Values of others, and cut ones.
    let values: Vec<_> = honest.values().collect();
    for (n, key) in honest.keys().enumerate() {
        redis.put(key, values[(n + 1) % values.len()]).await;
    }
    all_is_well("values of others", [&a, &b], &root).await;
    for (key, value) in &honest {
        redis.put(key, &value[..value.len() - 1]).await;
    }
    all_is_well("cut values", [&a, &b], &root).await;
    // Of another type, on which every command fails.
    for key in honest.keys() {
        redis.ask(&[b"DEL", key.as_bytes()]).await;
        redis.ask(&[b"LPUSH", key.as_bytes(), b"x"]).await;
    }
    all_is_well("lists", [&a, &b], &root).await;
    ann.at(&b).in_another_session().await.is_in().await;
    assert!(!bob.may(&films).await);
}

/// Three nodes, and people with what is kept of them, who have never asked the second and the third.
/// To some of them `films` was given, long enough ago to be kept.
async fn three(redis: &Redis, names: &[(&str, bool)]) -> ([Node; 3], Person, String, Vec<(Person, String)>) {
    let (a, b) = two(redis, &[]).await;
    let c = Node::builder().beside(&a).setting("REDIS", redis.url()).start().await;
    is_up(&c, true).await;
    let root = a.root().await;
    let films = root.makes_permission("films").await;
    let mut people = Vec::new();
    for (name, may) in names {
        let (person, key) = kept(redis, &a, name, &films).await;
        if *may {
            root.gives(&person, &films).await.is(200);
        }
        people.push((person, key));
    }
    // There is no condition to await: from then on a load is later than the changes by every clock.
    tokio::time::sleep(CLOCKS + HEARD).await;
    ([a, b, c], root, films, people)
}

#[tokio::test]
async fn what_somebody_may_do_comes_from_redis_and_never_from_an_old_entry() {
    let redis = Redis::start().await;
    let ([a, b, c], root, films, people) = three(&redis, &[("ann", true), ("bob", true)]).await;
    let [(ann, of_ann), (bob, of_bob)] = &people[..] else { unreachable!("two") };
    kept_anew(&redis, &ann.at(&b), of_ann, &films).await;
    kept_anew(&redis, &bob.at(&b), of_bob, &films).await;
    let hits = async || c.metric("palisade_cache_reads_total{result=\"hit\"}").await.unwrap();
    let before = hits().await;
    assert!(ann.at(&c).may(&films).await);
    assert!(hits().await > before, "another node has it from Redis");
    assert!(bob.at(&c).may(&films).await);

    let old = grants(&redis).await;
    let bring_back = async || {
        for (key, value) in &old {
            redis.put(key, value).await;
        }
    };
    root.takes(ann, &films).await.is(200);
    bring_back().await;
    assert!(!ann.may(&films).await, "the node that made the change");
    for node in [&b, &c] {
        let start = Instant::now();
        eventually(HEARD, "another node knows it", async || {
            bring_back().await;
            (!ann.at(node).may(&films).await).then_some(())
        })
        .await;
        println!("another node denies after {:?}", start.elapsed());
    }
    // Whatever is loaded anew, here and on a node that knew nothing: not from what was brought back.
    let d = Node::builder().beside(&a).setting("REDIS", redis.url()).start().await;
    is_up(&d, true).await;
    for _ in 0..3 {
        bring_back().await;
        assert_eq!(redis.entries().await.get(of_ann), old.get(of_ann));
        for node in [&a, &b, &c, &d] {
            assert!(!ann.at(node).may(&films).await);
        }
        // Forgets what all have in memory.
        root.makes_role("any", &[&films]).await;
    }
    // A node that was away when it was taken.
    c.terminate().await;
    root.takes(bob, &films).await.is(200);
    bring_back().await;
    c.restart().await;
    is_up(&c, true).await;
    bring_back().await;
    assert!(!bob.at(&c).may(&films).await);
}

#[tokio::test]
async fn what_another_may_do_under_ones_own_key_grants_nothing() {
    let redis = Redis::start().await;
    let ([_a, b, c], _, films, people) =
        three(&redis, &[("ann", false), ("bob", true), ("cid", false)]).await;
    let [(_, of_ann), (bob, of_bob), (_, of_cid)] = &people[..] else { unreachable!("three") };
    kept_anew(&redis, &bob.at(&b), of_bob, &films).await;
    let entries = grants(&redis).await;
    redis.put(of_ann, &entries[of_bob]).await;
    redis.put(of_bob, &entries[of_ann]).await;
    // Not even with a byte more.
    redis.put(of_cid, &[&entries[of_cid][..], b" "].concat()).await;
    let refused = async || c.metric("palisade_cache_refused_total").await.unwrap();
    let before = refused().await;
    for ((person, _), may) in people.iter().zip([false, true, false]) {
        assert_eq!(person.at(&c).may(&films).await, may, "as it is in the store");
    }
    assert!(refused().await >= before + 3.0, "they were looked at");
}

#[tokio::test]
async fn a_node_comes_up_without_its_redis_and_finds_it_later() {
    let redis = Redis::start().await;
    redis.kill();
    let a = Node::builder().setting("REDIS", redis.url()).on_cql().await.start().await;
    let b = Node::builder().beside(&a).setting("REDIS", redis.url()).start().await;
    let root = a.root().await;
    is_up(&a, false).await;
    all_is_well("never there", [&a, &b], &root).await;
    redis.restart().await;
    is_up(&a, true).await;
    is_up(&b, true).await;
    all_is_well("there at last", [&a, &b], &root).await;
    let series = ["hit", "miss", "bypassed"]
        .map(|result| format!("palisade_cache_reads_total{{result=\"{result}\"}}"));
    for name in series.iter().map(String::as_str).chain([
        "palisade_cache_refused_total",
        "palisade_cache_errors_total",
        "palisade_cache_up",
    ]) {
        assert!(a.metric(name).await.is_some(), "no {name}");
    }
    let without = Node::builder().beside(&a).start().await;
    assert_eq!(without.metric("palisade_cache_up").await, None, "there is none");
}

#[tokio::test]
async fn the_password_of_redis_is_told_nobody() {
    const PASSWORD: &str = "the-secret-of-redis-4711";
    let redis = Redis::start().await;
    let url = |user: &str, password: &str| format!("redis://{user}:{password}@{}", redis.address());
    let says_nothing = |what: &str, text: &str| {
        assert!(!text.contains(PASSWORD), "the password is in {what}:\n{text}");
    };
    let node = |url: String| Node::builder().setting("REDIS", url).setting("LOG", "trace");

    // Not needed, then needed and right.
    let a = node(url("", PASSWORD)).on_cql().await.start().await;
    let wrong = node(url("", &format!("{PASSWORD}-not"))).beside(&a).start().await;
    is_up(&wrong, false).await;
    redis.ask(&[b"CONFIG", b"SET", b"requirepass", PASSWORD.as_bytes()]).await;
    is_up(&a, true).await;
    assert_eq!(wrong.metric("palisade_cache_up").await, Some(0.0));
    // As somebody who is not there.
    let nobody = node(url("nobody", PASSWORD)).beside(&a).start().await;
    for node in [&a, &wrong, &nobody] {
        node.register("ann").await.in_another_session().await.is_in().await;
        says_nothing("metrics", &node.get("/metrics").send().await.text());
        says_nothing("readiness", &node.get("/health/ready").send().await.text());
    }
    redis.kill();
    is_up(&a, false).await;
    for node in [&a, &wrong, &nobody] {
        node.terminate().await;
        // It says that the cache is gone.
        says_nothing("the log", &node.logs_with("cache").await);
    }
}

#[tokio::test]
async fn what_is_no_url_of_a_redis_is_said_in_one_line_without_the_password() {
    const PASSWORD: &str = "the-secret-of-redis-4711";
    for (url, words) in [
        ("rediss://:PASSWORD@localhost:6379", &["PALISADE_REDIS", "redis://"][..]),
        ("http://:PASSWORD@localhost:6379", &["PALISADE_REDIS", "redis://"]),
        ("redis://:PASSWORD@localhost:99999", &["PALISADE_REDIS", "redis://"]),
        ("redis://:PASSWORD@localhost/first", &["PALISADE_REDIS", "redis://"]),
        ("localhost:6379:PASSWORD", &["PALISADE_REDIS", "redis://"]),
        ("unix:///run/redis.sock?pass=PASSWORD", &["PALISADE_REDIS", "redis://"]),
        ("redis://", &["PALISADE_REDIS", "redis://"]),
    ] {
        for command in ["check-config", "serve"] {
            let directory = testkit::scratch::directory();
            let call = Palisade::with([command])
                .setting("DATA_DIR", directory.path().join("data"))
                .setting("REDIS", url.replace("PASSWORD", PASSWORD));
            let call = if command == "serve" { call.setting("LISTEN", "127.0.0.1:0") } else { call };
            let run = call.run().await;
            assert_eq!(run.status, 1, "{command} with {url}: {run:?}");
            run.failed_saying(words).in_one_line();
            assert!(!format!("{run:?}").contains(PASSWORD), "{command} repeats the password: {run:?}");
            assert!(!directory.path().join("data").exists(), "{command} made a data directory for nothing");
        }
    }
}

#[tokio::test]
async fn limits_of_all_nodes_are_listed_and_cleared_on_any() {
    let redis = Redis::start().await;
    let settings = [
        ("LOGIN_ACCOUNT_FAILURES", "5/15m"),
        ("LOGIN_ADDRESS_FAILURES", "11/15m"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let (a, b) = two(&redis, &settings).await;
    let ann = a.register("ann").await;
    let log_in = async |node: &Node, from: &str, email: &str, password: &str| {
        let body = json!({"email": email, "password": password});
        node.post("auth_token").header("x-forwarded-for", from).json(&body).send().await
    };
    // Ann logged in on the first node: the place is known on the second, too.
    log_in(&a, "192.0.2.7", &ann.email, &ann.password).await.is(200);
    for node in [&a, &a, &b, &a, &a] {
        log_in(node, "203.0.113.9", &ann.email, "not the password").await.is_refused(401);
    }
    for node in [&a, &b] {
        log_in(node, "203.0.113.9", &ann.email, &ann.password).await.is_refused(429);
        log_in(node, "192.0.2.9", &ann.email, &ann.password).await.is(200);
    }
    for n in 0..6 {
        log_in([&a, &b][n % 2], "203.0.113.9", &fresh("x"), "x").await.is_refused(401);
    }
    for node in [&a, &b] {
        log_in(node, "203.0.113.9", &fresh("x"), "x").await.is_refused(429);
        let list = node.cli(&["limits", "list", "--json"]).await.is_done().json();
        assert_eq!(list["shared"], true, "{list}");
        let limits = list["limits"].as_array().unwrap();
        assert!(limits.iter().any(|limit| limit["account"] == ann.email.as_str()), "{list}");
        assert!(limits.iter().any(|limit| limit["address"] == "203.0.113.9"), "{list}");
    }
    for (key, value) in redis.entries().await {
        let value = String::from_utf8_lossy(&value);
        assert!(!key.contains(&ann.email) && !value.contains(&ann.email), "{key}");
    }
    b.cli(&["limits", "clear", &ann.email]).await.is_done();
    b.cli(&["limits", "clear", "203.0.113.9"]).await.is_done();
    for node in [&a, &b] {
        log_in(node, "203.0.113.9", &ann.email, &ann.password).await.is(200);
        let list = node.cli(&["limits", "list", "--json"]).await.is_done().json();
        assert_eq!(list["limits"], json!([]), "{list}");
    }
}
