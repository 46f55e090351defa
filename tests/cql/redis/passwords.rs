//! The password of Redis appears in no log, error or metric.

use testkit::{Node, Palisade, servers::Redis};

use super::is_up;

#[tokio::test]
async fn redis_password_is_never_disclosed() {
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
    // As a Redis user that does not exist.
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
async fn wrong_redis_url_is_reported_without_its_password() {
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
