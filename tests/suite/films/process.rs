//! The process: what it passes on and keeps, its health, its end.

use std::{process::Command, time::Duration};

use testkit::{Films, Standin, binary, eventually};

use super::{pro, refusal, shows_all_films};

#[tokio::test]
async fn trace_and_request_id_are_passed_on() {
    let palisade = Standin::start(|_| pro()).await;
    let films = Films::with(palisade.address(), &[("VERDICT_MAX_AGE_MS", "0")]).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer = films
        .client()
        .get("films")
        .bearer("a.b.c")
        .header("x-request-id", "mine-1")
        .header("traceparent", trace)
        .header("tracestate", "a=b")
        .header("x-forwarded-for", "192.0.2.1")
        .header("x-auth-user", "somebody else")
        .send()
        .await;
    shows_all_films(&answer);
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    let asked = palisade.asked().pop().expect("one question");
    assert_eq!(asked.method, "GET");
    let target = "/api/v1/users/me/combined_permissions/validation?permissions=%22pro_read%22";
    assert_eq!(asked.target, target);
    for (name, value) in [
        ("authorization", "Bearer a.b.c"),
        ("x-request-id", "mine-1"),
        ("traceparent", trace),
        ("tracestate", "a=b"),
    ] {
        assert_eq!(asked.header(name), Some(value));
    }
    assert_eq!(asked.header("x-auth-user"), None);
    let forwarded: Vec<_> = asked.headers.get_all("x-forwarded-for").iter().collect();
    assert_eq!(forwarded, ["192.0.2.1", "127.0.0.1"]);
}

#[tokio::test]
async fn request_without_a_sane_id_gets_one() {
    let palisade = Standin::start(|_| pro()).await;
    let films = Films::before(palisade.address()).await;
    let long = "x".repeat(129);
    for id in [None, Some("two words"), Some(&long[..])] {
        let request = films.client().get("films").bearer("a.b.c");
        let request = id.iter().fold(request, |request, id| request.header("x-request-id", id));
        let answer = request.send().await;
        let made = answer.is(200).header("x-request-id").expect("an id");
        assert_eq!(made.len(), 36, "{answer}");
    }
}

#[tokio::test]
async fn verdict_is_asked_for_once_within_its_age() {
    let palisade = Standin::start(|_| pro()).await;
    let films = Films::with(palisade.address(), &[("VERDICT_MAX_AGE_MS", "8000")]).await;
    for _ in 0..20 {
        shows_all_films(&films.shown_to(Some("a.b.c")).await);
    }
    assert_eq!(palisade.asked().len(), 1);
    palisade.answers(|_| refusal(401, "Token has been revoked", "token_revoked"));
    eventually(Duration::from_secs(9), "the end of the verdict's age", async || {
        let answer = films.shown_to(Some("a.b.c")).await;
        answer.header("www-authenticate").is_some().then_some(())
    })
    .await;
}

#[tokio::test]
async fn stale_verdict_is_used_once() {
    let palisade = Standin::start(|_| pro().with("palisade-stale", "31000")).await;
    let films = Films::with(palisade.address(), &[("VERDICT_MAX_AGE_MS", "8000")]).await;
    for _ in 0..3 {
        shows_all_films(&films.shown_to(Some("a.b.c")).await);
    }
    assert_eq!(palisade.asked().len(), 3);
}

#[tokio::test]
async fn health_needs_no_palisade() {
    let palisade = Standin::start(|_| pro()).await;
    palisade.vanish();
    let films = Films::before(palisade.address()).await;
    films.client().get("/health").send().await.is(200);
    let listen = films.client().address().to_string();
    let health = async || {
        let mut command = Command::new(binary::films());
        command.arg("--health").env("LISTEN", &listen);
        tokio::process::Command::from(command).output().await.expect("it runs").status.code()
    };
    assert_eq!(health().await, Some(0));
    films.terminate();
    films.ended().await;
    assert_eq!(health().await, Some(1));
}

#[tokio::test]
async fn requests_under_way_finish_after_sigterm() {
    let palisade = Standin::start(|_| pro().after(Duration::from_millis(100))).await;
    let films = Films::before(palisade.address()).await;
    let answer = films.shown_to(Some("a.b.c"));
    let end = async {
        eventually(Duration::from_secs(10), "the question", async || palisade.asked().first().cloned()).await;
        films.terminate();
        films.ended().await
    };
    let (answer, status) = tokio::join!(answer, end);
    shows_all_films(&answer);
    assert!(status.success(), "{}", films.logs());
}

#[tokio::test]
async fn wrong_settings_end_the_start() {
    for (name, value) in [("LISTEN", "here"), ("PALISADE_URL", "ftp://x"), ("VERDICT_MAX_AGE_MS", "9000")] {
        let mut command = tokio::process::Command::new(binary::films());
        let output = command.env(name, value).output().await.expect("it runs");
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(name));
    }
}
