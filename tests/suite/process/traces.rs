//! Traces by OTLP: which requests are traced, what their spans say, and a collector that does not answer.

use std::time::Duration;

use serde_json::json;
use testkit::{
    Answer, Node, Palisade, Person, Request, eventually,
    servers::{Collector, collector::Trace},
};

const COUNT_TIMEOUT: Duration = Duration::from_secs(30);

/// A `traceparent`, and the id of its trace.
struct Caller {
    header: String,
    trace: String,
}

impl Caller {
    fn new(number: u64, flags: &str) -> Self {
        let trace = format!("{number:032x}");
        Self { header: format!("00-{trace}-00f067aa0ba902b7-{flags}"), trace }
    }

    fn traces(&self, request: Request) -> Request {
        request.header("traceparent", &self.header)
    }
}

async fn traced_node(collector: &Collector, sample: &str) -> Node {
    Node::builder().setting("OTLP_ENDPOINT", collector.url()).setting("OTLP_SAMPLE", sample).start().await
}

fn log_in(person: &Person, password: &str) -> Request {
    person.post("auth_token").json(&json!({ "email": person.email, "password": password }))
}

async fn spans_are_lost(node: &Node, result: &str) {
    let series = format!("palisade_trace_spans_total{{result=\"{result}\"}}");
    eventually(COUNT_TIMEOUT, &series, async || {
        (node.metric(&series).await.is_some_and(|count| count > 0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn login_in_a_callers_trace_shows_its_steps() {
    let collector = Collector::start().await;
    let node = traced_node(&collector, "0").await;
    let ann = node.register("ann").await;
    let caller = Caller::new(1, "01");
    let answer =
        caller.traces(log_in(&ann, &ann.password)).header("x-request-id", "from-a-gateway").send().await;
    answer.is(200);

    let trace: Trace = collector.trace(&caller.trace).await;
    assert_eq!(trace.root.name, "POST /api/v1/auth_token");
    assert_eq!(trace.root.parent, "00f067aa0ba902b7");
    assert_eq!(trace.root.attributes["palisade.request_id"], "from-a-gateway");
    for step in ["limits", "hash", "actor session", "redb change", "redb read"] {
        let _ = trace.has(step);
    }
    let (access, refresh) = answer.pair();
    for secret in [&ann.password, &ann.email, &access, &refresh] {
        assert!(!collector.has_received(secret), "a span shows {secret:?}");
    }
}

#[tokio::test]
async fn refused_and_failed_requests_are_traced_with_their_status() {
    let collector = Collector::start().await;
    let node = traced_node(&collector, "0").await;
    let ann = node.register("ann").await;
    let caller = Caller::new(2, "01");
    caller.traces(log_in(&ann, "another password")).send().await.is_refused(401);
    let trace = collector.trace(&caller.trace).await;
    assert!(!trace.root.is_error, "a refusal is no error of the server");
    assert!(trace.root.attributes["http.response.status_code"].contains("401"), "{trace:?}");
}

#[tokio::test]
async fn validation_is_traced_only_if_its_caller_traces_it() {
    let collector = Collector::start().await;
    // All requests without a traceparent are sampled.
    let node = traced_node(&collector, "1").await;
    let ann = node.register("ann").await;
    let validate = |caller: &Caller| caller.traces(ann.get("auth_token/validation"));
    let unsampled = Caller::new(3, "00");
    let sampled = Caller::new(4, "01");
    ann.is_in().await;
    validate(&unsampled).send().await.is(200);
    validate(&sampled).send().await.is(200);
    let _ = collector.trace(&sampled.trace).await;
    // Sent later than the spans that must not be there.
    node.register("bob").await;
    eventually(COUNT_TIMEOUT, "both registrations are traced", async || {
        let spans = collector.spans();
        (spans.iter().filter(|span| span.name == "POST /api/v1/users").count() == 2).then_some(())
    })
    .await;
    let validations: Vec<_> =
        collector.spans().into_iter().filter(|span| span.name.contains("validation")).collect();
    assert!(validations.iter().all(|span| span.trace == sampled.trace), "{validations:?}");
    assert!(!collector.spans().iter().any(|span| span.trace == unsampled.trace));
}

#[tokio::test]
async fn invalid_traceparent_starts_no_callers_trace() {
    let collector = Collector::start().await;
    let node = traced_node(&collector, "0").await;
    let ann = node.register("ann").await;
    let header = Caller::new(5, "01").header;
    let invalid = [
        String::new(),
        "01".into(),
        header.replace("00-", "ff-"),
        header.replace(&format!("{:032x}", 5), &"0".repeat(32)),
        header.to_uppercase().replace("00F067", "XXF067"),
        format!("{header}-more"),
        "é".repeat(30),
        "0".repeat(4_000),
    ];
    for traceparent in &invalid {
        for request in [ann.get("auth_token/validation"), ann.get("users/me")] {
            let answer: Answer = request.header("traceparent", traceparent).send().await;
            answer.is(200);
        }
    }
    let last = Caller::new(6, "01");
    last.traces(ann.get("users/me")).send().await.is(200);
    let _ = collector.trace(&last.trace).await;
    let others: Vec<_> = collector.spans().into_iter().filter(|span| span.trace != last.trace).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test]
async fn log_lines_show_no_span_of_a_trace() {
    let collector = Collector::start().await;
    let node = traced_node(&collector, "1").await;
    node.register("ann").await;
    let logs = node.logs_with("logged in").await;
    let line = logs.lines().find(|line| line.contains("logged in")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["span"]["name"], "request", "{line}");
    assert_eq!(line["span"]["route"], "/api/v1/auth_token", "{line}");
    assert!(!node.logs().contains("otel."), "{}", node.logs());
}

#[tokio::test]
async fn collector_that_refuses_costs_a_count_and_one_warning() {
    let collector = Collector::start().await;
    let node = traced_node(&collector, "1").await;
    collector.refuses(true);
    node.register("ann").await;
    spans_are_lost(&node, "refused").await;
    node.register("bob").await.is_in().await;
    let warning = "spans cannot be delivered";
    let _ = node.logs_with(warning).await;
    collector.refuses(false);
    let caller = Caller::new(7, "01");
    caller.traces(node.get("/api/v1/users/me")).send().await.is_refused(401);
    let _ = collector.trace(&caller.trace).await;
    let _ = node.logs_with("spans are delivered again").await;
    assert_eq!(node.logs().matches(warning).count(), 1, "{}", node.logs());
}

#[tokio::test]
async fn silent_collector_delays_no_request_and_no_shutdown() {
    // It accepts, and never answers.
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let node = Node::builder().setting("OTLP_ENDPOINT", url).setting("DRAIN_GRACE", "0s").start().await;
    let ann = node.register("ann").await;
    // More spans than the queue and the batch under way hold.
    for number in 0..40 {
        let validations = (0..200).map(|n| {
            let caller = Caller::new(1_000 + number * 200 + n, "01");
            let request = caller.traces(ann.get("auth_token/validation"));
            async move { request.send().await.is(200).status }
        });
        futures_util::future::join_all(validations).await;
    }
    spans_are_lost(&node, "dropped").await;
    ann.is_in().await;
    node.ask_to_end();
    assert!(node.ended(Duration::from_secs(20)).await.success());
}

#[tokio::test]
async fn last_spans_are_sent_at_the_end() {
    let collector = Collector::start().await;
    let node = traced_node(&collector, "0").await;
    let caller = Caller::new(8, "01");
    caller.traces(node.get("/api/v1/users/me")).send().await.is_refused(401);
    assert!(node.terminate().await.success());
    assert!(collector.spans().iter().any(|span| span.trace == caller.trace), "sent before the end");
}

#[tokio::test]
async fn wrong_settings_of_traces_are_refused() {
    for (name, value) in [
        ("OTLP_ENDPOINT", "jaeger:4318"),
        ("OTLP_ENDPOINT", "grpc://jaeger:4317"),
        ("OTLP_ENDPOINT", "http://user:secret@jaeger:4318"),
        ("OTLP_SAMPLE", "1.1"),
        ("OTLP_SAMPLE", "-0.1"),
        ("OTLP_SAMPLE", "NaN"),
        ("OTLP_SAMPLE", "1%"),
    ] {
        let run = Palisade::with(["check-config"]).setting(name, value).run().await;
        run.failed_saying(&[name]);
        assert!(!run.stderr.contains("secret"), "{}", run.stderr);
    }
}
