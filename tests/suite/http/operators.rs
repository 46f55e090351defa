//! What operators see: health, metrics, the document and its pages.

use std::time::Duration;

use testkit::{Node, eventually, forge};

#[tokio::test]
async fn running_node_is_live_and_ready() {
    let node = Node::shared().await;
    node.get("/health/live").send().await.is(200);
    node.get("/health/ready").send().await.is(200);
}

#[tokio::test]
async fn metrics_are_in_prometheus_format() {
    let node = Node::shared().await;
    let ann = node.register("ann").await;
    ann.is_in().await;
    node.get("users/me").send().await.is_refused(401);
    let plain = "text/plain; version=0.0.4; charset=utf-8";
    let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    for (accept, kind) in [
        (None, plain),
        (Some("*/*"), plain),
        (Some("text/plain;version=0.0.4"), plain),
        (Some("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.4"), plain),
        (Some("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"), open),
        (Some("application/openmetrics-text"), open),
    ] {
        let request = node.get("/metrics");
        let request = accept.into_iter().fold(request, |request, accept| request.header("accept", accept));
        let answer = request.send().await;
        assert_eq!(answer.is(200).header("content-type"), Some(kind), "{accept:?}");
        assert!(answer.header("vary").unwrap_or_default().contains("accept"), "{answer}");
        is_in_the_form_of_prometheus(&answer.text(), kind == open);
    }
}

fn is_in_the_form_of_prometheus(text: &str, open_metrics: bool) {
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_default();
        assert!(value.parse::<f64>().is_ok(), "no number: {line}");
        assert!(name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'), "no name: {line}");
    }
    assert!(text.contains("# TYPE "), "{text}");
    assert!(text.lines().any(|line| line.starts_with("palisade_")), "nothing of ours: {text}");
    assert_eq!(text.ends_with("# EOF\n"), open_metrics, "only OpenMetrics ends with EOF");
    // A counter's family has the name of its sample in the one format, and no `_total` in the other.
    let counter = if open_metrics { "palisade_http_requests" } else { "palisade_http_requests_total" };
    assert!(text.contains(&format!("# TYPE {counter} counter\n")), "{text}");
    let mut families = std::collections::BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap_or_default();
        assert!(families.insert(name), "{name} is there twice");
        assert!(open_metrics || kind != "counter" || name.ends_with("_total"), "{line}");
    }
    let mut last = "";
    for line in text.lines() {
        // Every family has its help, right before its type.
        if let Some(name) = line.strip_prefix("# TYPE ").and_then(|line| line.split(' ').next()) {
            assert!(last.starts_with(&format!("# HELP {name} ")), "{line} after {last}");
        }
        last = line;
    }
}

#[tokio::test]
async fn metrics_report_process_resources() {
    let node = Node::start().await;
    let text = node.get("/metrics").send().await.is(200).text();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}: {text}")).parse::<f64>().unwrap()
    };
    let resident = node.memory_bytes();
    let said: u64 = value("process_resident_memory_bytes").to_string().parse().unwrap();
    assert!((resident / 2..resident * 2).contains(&said), "{said} of {resident}");
    assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
    assert!(value("process_open_fds") > 3.0 && value("process_max_fds") > value("process_open_fds"));
    assert!(value("process_threads") > 1.0 && value("process_cpu_seconds_total") > 0.0);
    let ann = node.register("ann").await;
    let issued_at = forge::parts(&ann.access).claims["iat"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&(issued_at - value("process_start_time_seconds"))), "{issued_at}: {text}");
}

#[tokio::test]
async fn metric_labels_are_bounded_whatever_clients_send() {
    let node = Node::start().await;
    let lines = async || node.get("/metrics").send().await.is(200).text().lines().count();
    // The routes that exist are counted from their first request on.
    node.get("nothing").send().await.is_refused(404);
    node.get("users/me").send().await.is_refused(401);
    node.request("BREW", "nothing").send().await;
    let before = lines().await;
    for n in 0..100 {
        node.get(&format!("nothing/{n}")).send().await.is_refused(404);
        node.get(&format!("users/{n}")).send().await;
        node.request(&format!("METHOD{n}"), "users").send().await;
        node.get("users/me").header("user-agent", &format!("agent {n}")).send().await;
    }
    let after = lines().await;
    assert!(after <= before + 60, "{before} lines became {after}");
}

#[tokio::test]
async fn document_is_openapi_and_describes_errors() {
    let node = Node::shared().await;
    let document = node.get("/openapi.json").send().await.is(200).json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    assert!(document["components"]["schemas"].as_object().is_some_and(|schemas| !schemas.is_empty()));
    assert!(document["components"]["securitySchemes"].as_object().is_some_and(|schemes| !schemes.is_empty()));
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if let Some(responses) = operation["responses"].as_object() {
                assert!(!responses.is_empty(), "{method} {path} says nothing about its answers");
            }
        }
    }
}

#[tokio::test]
async fn api_pages_are_served_from_the_binary() {
    let node = Node::shared().await;
    let page = node.get("/apidocs/").send().await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap_or_default().starts_with("text/html"));
    let html = page.text();
    let mut assets = Vec::new();
    for attribute in ["src=\"", "href=\""] {
        for rest in html.split(attribute).skip(1) {
            assets.push(rest.split('"').next().unwrap_or_default().to_owned());
        }
    }
    assert!(!assets.is_empty(), "{html}");
    for asset in assets {
        assert!(!asset.starts_with("http") && !asset.starts_with("//"), "from elsewhere: {asset}");
        let path = asset.strip_prefix("./").unwrap_or(&asset);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/apidocs/{path}") };
        let answer = node.get(&path).send().await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.body.is_empty(), "{path}");
    }
    // It shows this node's document.
    let shown = eventually(Duration::from_secs(1), "where the document is named", async || {
        let script = node.get("/apidocs/swagger-initializer.js").send().await.text();
        (script + &html).contains("/openapi.json").then_some(())
    });
    shown.await;
    let bare = node.get("/apidocs").send().await;
    assert!(matches!(bare.status, 200 | 301..=308), "{bare}");
}

#[tokio::test]
async fn path_out_of_the_pages_is_not_found() {
    let node = Node::shared().await;
    for path in [
        "/apidocs/../etc/passwd",
        "/apidocs/..%2f..%2fetc%2fpasswd",
        "/apidocs/%2e%2e/%2e%2e/etc/passwd",
        "/apidocs/nothing.js",
    ] {
        let answer = node.get(path).send().await;
        assert!(matches!(answer.status, 400 | 404), "{path}\n{answer}");
    }
}

#[tokio::test]
async fn operators_can_have_a_separate_listener() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    // Readiness moves with the rest: the testkit's own look at it is not for this node.
    let directory = testkit::scratch::directory();
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let public = free.local_addr().unwrap();
    drop(free);
    let call = testkit::Palisade::with(["serve"])
        .setting("LISTEN", public.to_string())
        .setting("OPERATOR_LISTEN", address.to_string())
        .setting("DATA_DIR", directory.path().join("data"))
        .setting("DRAIN_GRACE", "100ms");
    let mut command = tokio::process::Command::from(call.into_command());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let _child = command.kill_on_drop(true).spawn().unwrap();
    let client = |address: std::net::SocketAddr| {
        testkit::Client::new(std::sync::Arc::new(std::sync::atomic::AtomicU16::new(address.port())))
    };
    let operator = client(address);
    let public = client(public);
    eventually(Duration::from_secs(60), "readiness", async || {
        operator.get("/health/ready").try_send().await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    operator.get("/metrics").send().await.is(200);
    operator.get("/health/live").send().await.is(200);
    public.get("/metrics").send().await.is_refused(404);
    public.get("/health/ready").send().await.is_refused(404);
    public.get("auth_token/validation").send().await.is_refused(401);
    operator.get("auth_token/validation").send().await.is_refused(404);
}
