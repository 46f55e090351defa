//! Redis beside a shared store: what it serves, and that no node trusts its contents.

#![allow(clippy::print_stdout, reason = "how long calls took is shown with --nocapture")]

mod limits;
mod passwords;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::json;
use testkit::{Answer, Node, Person, eventually, fresh, servers::Redis};

/// Longest time until a revocation arrives: nodes read the ledger once a second; the rest is for a busy
/// machine.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time until a node is connected to a Redis that answers again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time of a call, whatever Redis does.
const CALL_TIME_MAX: Duration = Duration::from_secs(1);
/// The same for calls that hash a password: they also wait for each other.
const HASHING_CALL_TIME_MAX: Duration = Duration::from_secs(4);
/// How long after a change nodes ignore entries of Redis, because the clocks of nodes may differ by as
/// much.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

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
    eventually(CONNECT_TIMEOUT, &format!("palisade_cache_up is {expected:?}"), async || {
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

/// Registers a user, checks a permission, and returns the key under which Redis keeps the answer.
async fn kept(redis: &Redis, node: &Node, name: &str, permission: &str) -> (Person, String) {
    let before = grants(redis).await;
    let person = node.register(name).await;
    assert!(!person.may(permission).await);
    let key = eventually(PROPAGATION_TIMEOUT, "Redis keeps the permissions of the user", async || {
        grants(redis).await.into_keys().find(|key| !before.contains_key(key))
    });
    (person, key.await)
}

/// Checks, on a node with an empty cache, a permission that the user was granted a while ago.
async fn is_kept_again(redis: &Redis, person: &Person, key: &str, permission: &str) {
    let before = grants(redis).await.remove(key);
    assert!(person.may(permission).await);
    eventually(PROPAGATION_TIMEOUT, "Redis keeps the new permissions of the user", async || {
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

/// Both nodes work normally whatever Redis does, and every call is fast.
async fn all_is_well(what: &str, nodes: [&Node; 2], root: &Person) {
    let mut clock = Clock::default();
    for (node, other) in [(nodes[0], nodes[1]), (nodes[1], nodes[0])] {
        let root = root.at(node);
        let email = format!("{}@example.org", fresh("ann"));
        let password = fresh("the secret of");
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
        eventually(PROPAGATION_TIMEOUT, "the other node knows what was taken", async || {
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
        eventually(PROPAGATION_TIMEOUT, "the other node hears of the logout", async || {
            (clock.plain(there.validate()).await.status == 401).then_some(())
        })
        .await;
    }
    let Clock { plain, hashing } = clock;
    println!("{what}: no call took longer than {plain:?}, with hashing {hashing:?}");
    assert!(plain < CALL_TIME_MAX, "{what}: a call took {plain:?}");
    assert!(hashing < HASHING_CALL_TIME_MAX, "{what}: a call with hashing took {hashing:?}");
}

#[tokio::test]
async fn redis_outage_affects_only_limits_which_become_local() {
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
async fn garbage_in_redis_is_ignored() {
    let redis = Redis::start().await;
    let (a, b) = two(&redis, &[("LOGIN_ACCOUNT_FAILURES", "5/15m"), ("REGISTRATION_RATE", "100/24h")]).await;
    let root = a.root().await;
    let films = root.makes_permission("films").await;
    let ann = a.register("ann").await;
    let bob = b.register("bob").await;
    for node in [&a, &b] {
        fails(node, &ann.email).await;
    }
    assert!(!bob.may(&films).await);
    eventually(PROPAGATION_TIMEOUT, "Redis keeps failures and a rate", async || {
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

/// Three nodes, and users with their entries in Redis that have sent nothing to the second and the third
/// node. Some of the users were granted `films`, long enough ago for the entry to be kept.
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
    tokio::time::sleep(CLOCK_SKEW_MAX + PROPAGATION_TIMEOUT).await;
    ([a, b, c], root, films, people)
}

#[tokio::test]
async fn permissions_come_from_redis_but_never_from_an_old_entry() {
    let redis = Redis::start().await;
    let ([a, b, c], root, films, people) = three(&redis, &[("ann", true), ("bob", true)]).await;
    let [(ann, of_ann), (bob, of_bob)] = &people[..] else { unreachable!("two") };
    is_kept_again(&redis, &ann.at(&b), of_ann, &films).await;
    is_kept_again(&redis, &bob.at(&b), of_bob, &films).await;
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
        eventually(PROPAGATION_TIMEOUT, "another node knows it", async || {
            bring_back().await;
            (!ann.at(node).may(&films).await).then_some(())
        })
        .await;
        println!("another node denies after {:?}", start.elapsed());
    }
    // Reloads, here and on a node with an empty cache, do not use the restored entries.
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
async fn another_users_entry_under_own_key_grants_nothing() {
    let redis = Redis::start().await;
    let ([_a, b, c], _, films, people) =
        three(&redis, &[("ann", false), ("bob", true), ("cid", false)]).await;
    let [(_, of_ann), (bob, of_bob), (_, of_cid)] = &people[..] else { unreachable!("three") };
    is_kept_again(&redis, &bob.at(&b), of_bob, &films).await;
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
async fn node_starts_without_redis_and_connects_later() {
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
